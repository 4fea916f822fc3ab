//! Further input for a response that runs. Upstream then begins a response by itself, which is admitted
//! as the request that would ask for the same, before the input is sent.

use std::future::ready;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::{MutexGuard, mpsc, oneshot};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::protocol::openai::socket::{Lane, Steer};
use crate::proxy::Rules;
use crate::proxy::bill::Exchange;
use crate::proxy::body;
use crate::proxy::refuse::Refusal;
use crate::proxy::room::Room;
use crate::proxy::socket::UpstreamSocket;
use crate::proxy::socket::lanes::{Afterwards, First, Input, OpenSuccessor, Unsteerable};
use crate::proxy::socket::request::{Admission, answer, broken};
use crate::proxy::socket::responses::Running;
use crate::proxy::socket::wire::Writer;
use crate::upstream::SendError;

/// Why input is not sent, as upstream says it: a code and a message.
struct Reason(String, String);

impl Reason {
    fn new(code: &str, message: &str) -> Self {
        Self(code.to_owned(), message.to_owned())
    }

    fn too_many(message: &str) -> Self {
        Self::new("too_many_pending_steers", message)
    }
}

impl From<Unsteerable> for Reason {
    fn from(why: Unsteerable) -> Self {
        match why {
            Unsteerable::NotActive => {
                Self::new("response_not_active", "No response of this id runs on this connection.")
            }
            Unsteerable::HasInput => Self::too_many(
                "The response has further input already. Send this with the next response.create.",
            ),
            Unsteerable::TooMany => Self::too_many(
                "Too many responses of this connection have further input. Send this with the next response.create.",
            ),
        }
    }
}

/// The response that further input is for, its lane, and the message that it was asked for with.
pub(super) struct Target {
    parent: String,
    lane: Lane,
    asked_with: Bytes,
}

impl Running {
    /// Takes the place for further input of a response that runs, or refuses it as upstream does.
    pub(super) async fn steered(&self, steer: &Steer) -> Option<Target> {
        let Some(parent) = steer.parent.clone() else {
            let rule = "A response.steer has the fields 'type', 'previous_response_id' and 'input' only.";
            self.not_steered(steer, Reason::new("invalid_input", rule), &None).await;
            return None;
        };
        match self.lanes.take_place(&parent) {
            Ok((lane, asked_with)) => Some(Target { parent, lane, asked_with }),
            Err(why) => {
                self.not_steered(steer, why.into(), &None).await;
                None
            }
        }
    }

    /// Serves further input in its place.
    pub(super) async fn serve_steer(&self, steer: Steer, target: Target, (message, room): (Bytes, Room)) {
        let input = Input { steer: Arc::new(steer), room };
        self.unless_left(&target.lane, Box::pin(self.steer(&target, message, input))).await;
    }

    /// Admits and sends input, and hands the response that upstream begins with it to its lane.
    async fn steer(&self, target: &Target, message: Bytes, mut input: Input) {
        let Target { parent, lane, .. } = target;
        let (shard, steer) = (&self.session.shard, Arc::clone(&input.steer));
        let rules = shard.rules.load_full();
        let admitted = self.admit_steer(&rules, target, &message, &mut input).await;
        let mut to_upstream = self.pair.to_upstream.lock().await;
        let opened = admitted.and_then(|(admitted, in_flight, caller)| {
            let Some(open) = self.lanes.open_successor((lane, parent), &admitted.body, input) else {
                in_flight.uncounted();
                return Err(Unsteerable::NotActive.into());
            };
            Ok((open, admitted.exchange, in_flight, caller))
        });
        let (open, mut exchange, in_flight, caller) = match opened {
            Ok(opened) => opened,
            Err(reason) => {
                drop(to_upstream);
                self.lanes.leave_place(lane);
                return self.not_steered(&steer, reason, lane).await;
            }
        };
        let OpenSuccessor { sent: (first, events), parent_over, afterwards } = open;
        // From here on, silence is charged.
        exchange.reservation.mark_sent();
        let sent = self.send_steer(&mut to_upstream, message).await;
        drop(to_upstream);
        let first = match sent {
            Ok(()) => self.first_word(&rules, first, parent_over).await,
            Err(error) => Err(error),
        };
        if first.as_ref().is_ok_and(|first| *first == Some(First::Nothing)) {
            // Upstream has said itself that it begins nothing.
            exchange.reservation.release(Exchange::default().ending());
            return in_flight.uncounted();
        }
        let answer = ready(first.and_then(|first| answer(first, events)));
        let answer = self.exchanged(&rules, answer, exchange, in_flight, caller.key.pass_through).await;
        let answer = answer.unwrap_or_else(|(refusal, in_flight)| shard.refuse(&rules, &refusal, in_flight));
        // Its lane may have been left.
        let _ = afterwards.send(Afterwards::Answer(Box::new(answer))).await;
    }

    /// Waits for the first word about the response that upstream may begin. It comes in time after the
    /// end of the response before.
    async fn first_word(
        &self,
        rules: &Rules,
        first: oneshot::Receiver<First>,
        parent_over: oneshot::Receiver<()>,
    ) -> Result<Option<First>, SendError> {
        let overdue = async {
            // Its sender is dropped.
            let _ = parent_over.await;
            tokio::time::sleep(self.session.shard.upstream(rules).response_timeout()).await;
        };
        let mut first = pin!(first);
        tokio::select! {
            biased;
            first = first.as_mut() => Ok(first.ok()),
            () = overdue => Err(self.unanswered(rules)),
        }
    }

    /// Admits the request for the same as the response that upstream begins with the input.
    async fn admit_steer(
        &self,
        rules: &Rules,
        target: &Target,
        message: &Bytes,
        Input { steer, room }: &mut Input,
    ) -> Result<Admission, Reason> {
        let of = Arc::clone(steer);
        let guard = &self.session.shard.guard;
        let same = guard.parsed(&target.asked_with, move |asked_with| of.continuation(asked_with)).await;
        let same = same.ok_or_else(|| {
            let rule = "A response that belongs to a conversation can't have further input.";
            Reason::new("steering_not_supported", rule)
        })?;
        if !room.grow(message.len().saturating_add(same.len())) {
            return Err(Reason::too_many("The memory for requests is used up. Send the input later."));
        }
        let (refusal, in_flight) = match self.admit(rules, same.clone()).await {
            Ok(admission) if admission.0.body == same => return Ok(admission),
            // Nothing can be written into what upstream begins by itself.
            Ok((_, in_flight, _)) => {
                let rule = "The limits of the key leave less than what the response may cost that would continue this one. Send \
                            the input with the next response.create.";
                (Refusal::FieldNotAllowed(rule.to_owned(), None), in_flight)
            }
            Err(failed) => failed,
        };
        let body = self.session.shard.refuse(rules, &refusal, in_flight).into_body();
        let body = body::read(body, self.session.error_bounds()).await.unwrap_or_default();
        let error: Value = serde_json::from_slice(&body).unwrap_or_default();
        let text = |name: &str| error["error"][name].as_str();
        Err(Reason::new(text("code").unwrap_or("invalid_input"), text("message").unwrap_or_default()))
    }

    async fn send_steer(
        &self,
        to_upstream: &mut MutexGuard<'_, Writer<UpstreamSocket>>,
        message: Bytes,
    ) -> Result<(), SendError> {
        let text = Utf8Bytes::try_from(message).map_err(|_| broken(false, "the request is no text"))?;
        self.write(to_upstream, text).await
    }

    async fn not_steered(&self, steer: &Steer, Reason(code, message): Reason, lane: &Lane) {
        self.pair.tell(steer.failed(&code, &message, lane.as_deref()).into()).await;
    }

    /// Does what comes after a response with further input: passes on what upstream says of the input,
    /// and the response that it begins with it.
    pub(super) async fn serve_afterwards(&self, lane: &Lane, mut afterwards: mpsc::Receiver<Afterwards>) {
        while let Some(next) = afterwards.recv().await {
            match next {
                Afterwards::Event(event) => self.show(event).await,
                Afterwards::LastEvent(event) => return self.show(event).await,
                Afterwards::Answer(answer) => return self.pass_on(lane, *answer).await,
            }
        }
    }
}

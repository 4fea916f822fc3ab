//! Further input for a response that runs. Upstream then begins a response by itself, which is admitted
//! as the request that would ask for the same, before the input is sent.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::protocol::openai::socket::{Lane, Steer};
use crate::proxy::Rules;
use crate::proxy::body;
use crate::proxy::refuse::Refusal;
use crate::proxy::room::Room;
use crate::proxy::socket::lanes::{Afterwards, First, Steered, Unsteerable};
use crate::proxy::socket::request::{Admission, answer, broken};
use crate::proxy::socket::responses::Running;
use crate::upstream::SendError;

/// Why input is not sent, as upstream says it: a code and a message.
struct Reason(String, String);

impl Reason {
    fn new(code: &str, message: &str) -> Self {
        Self(code.to_owned(), message.to_owned())
    }
}

impl From<Unsteerable> for Reason {
    fn from(why: Unsteerable) -> Self {
        match why {
            Unsteerable::NotActive => {
                Self::new("response_not_active", "No response of this id runs on this connection.")
            }
            Unsteerable::TooMany => Self::new(
                "too_many_pending_steers",
                "The response has further input already. Send this with the next response.create.",
            ),
        }
    }
}

/// The place of further input: the response that it is for, that one's lane, and the message that it
/// was asked for with.
pub(super) struct Begun {
    parent: String,
    lane: Lane,
    sent: Bytes,
}

impl Running {
    /// Takes the place for further input of a response that runs, or refuses it as upstream does.
    pub(super) async fn begin_steer(&self, steer: &Steer) -> Option<Begun> {
        let Some(parent) = steer.parent.clone() else {
            let rule = "A response.steer has the fields 'type', 'previous_response_id' and 'input' only.";
            self.not_steered(steer, Reason::new("invalid_input", rule), &None).await;
            return None;
        };
        match self.lanes.begin_steer(&parent) {
            Ok((lane, sent)) => Some(Begun { parent, lane, sent }),
            Err(why) => {
                self.not_steered(steer, why.into(), &None).await;
                None
            }
        }
    }

    /// Serves further input in its place.
    pub(super) async fn serve_steer(&self, steer: Steer, of: Begun, (message, room): (Bytes, Room)) {
        self.unless_left(&of.lane, self.steer(&steer, &of, message)).await;
        drop(room);
    }

    /// Admits and sends input, and hands the response that upstream begins with it to its lane.
    async fn steer(&self, steer: &Steer, Begun { parent, lane, sent }: &Begun, message: Bytes) {
        let shard = &self.session.shard;
        let rules = shard.rules.load_full();
        let admitted = self.admit_steer(&rules, steer, sent).await;
        let steered = admitted.and_then(|(admitted, in_flight, caller)| {
            let Some(steered) = self.lanes.steer(lane, parent, &admitted.body) else {
                in_flight.uncounted();
                return Err(Unsteerable::NotActive.into());
            };
            Ok((steered, admitted, in_flight, caller))
        });
        let (Steered { sent, parent_over, afterwards }, admitted, in_flight, caller) = match steered {
            Ok(steered) => steered,
            Err(reason) => {
                self.lanes.leave_steer(lane);
                return self.not_steered(steer, reason, lane).await;
            }
        };
        let is_settled = AtomicBool::new(false);
        let sending = async {
            self.send_steer(message).await?;
            let (first, events) = sent;
            let mut first = pin!(first);
            let owed = async {
                // Its sender is dropped.
                let _ = parent_over.await;
                tokio::time::sleep(shard.upstream(&rules).response_timeout()).await;
            };
            let first = tokio::select! {
                biased;
                first = first.as_mut() => first,
                () = owed => {
                    if !self.lanes.is_pending(lane) {
                        return Err(self.unanswered(&rules));
                    }
                    first.await
                }
            };
            is_settled.store(first == Ok(First::Nothing), Ordering::Relaxed);
            answer(first.ok(), events)
        };
        let pass_through = caller.key.pass_through;
        let answer = self.exchanged(&rules, sending, admitted.exchange, in_flight, pass_through).await;
        let answer = answer.unwrap_or_else(|(refusal, in_flight)| shard.refuse(&rules, &refusal, in_flight));
        // Upstream has said itself that it begins nothing.
        if !is_settled.load(Ordering::Relaxed) {
            // Its lane may have been left.
            let _ = afterwards.send(Afterwards::Answer(Box::new(answer))).await;
        }
    }

    /// Admits the request for the same as the response that upstream begins with the input.
    async fn admit_steer(&self, rules: &Rules, steer: &Steer, sent: &Bytes) -> Result<Admission, Reason> {
        let of = steer.clone();
        let message = self.session.shard.guard.parsed(sent, move |sent| of.continuation(sent)).await;
        let message = message.ok_or_else(|| {
            let rule = "A response that belongs to a conversation can't have further input.";
            Reason::new("steering_not_supported", rule)
        })?;
        let (refusal, in_flight) = match self.admit(rules, message.clone()).await {
            Ok(admission) if admission.0.body == message => return Ok(admission),
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

    async fn send_steer(&self, message: Bytes) -> Result<(), SendError> {
        let text = Utf8Bytes::try_from(message).map_err(|_| broken(false, "the request is no text"))?;
        self.write(&mut *self.pair.to_upstream.lock().await, text).await
    }

    async fn not_steered(&self, steer: &Steer, Reason(code, message): Reason, lane: &Lane) {
        self.pair.tell(steer.failed(&code, &message, lane.as_deref()).into()).await;
    }

    /// What a lane does after a response with further input: it passes on what upstream says of the
    /// input, and the response that is begun with it.
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

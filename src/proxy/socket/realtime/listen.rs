//! What a client sends in a session: held or refused, then passed on.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::SplitStream;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::pricing::bound::AUDIO_MS_PER_TOKEN;
use crate::protocol::openai::endpoint::Endpoint;
use crate::protocol::openai::realtime::{ClientEvent, Content, Create, Named, Update, client_event};
use crate::proxy::Failed;
use crate::proxy::prepare::refuse_invalid;
use crate::proxy::refuse::Refusal;
use crate::proxy::socket::ClientSocket;
use crate::proxy::socket::pair::{FromClient, Traffic};
use crate::proxy::socket::realtime::Running;
use crate::proxy::socket::realtime::context::{Context, IMAGES_MAX};
use crate::proxy::socket::realtime::next::Bounding;
use crate::proxy::socket::realtime::state::{AskedResponse, PendingUpdate, Reading, UpstreamEnd};
use crate::proxy::socket::session::{Session, not_binary};
use crate::proxy::socket::turn::{Amount, Asked, Held, Turn};
use crate::proxy::socket::wire::{Unread, pass, send};

/// What is passed on of a message.
struct Passed {
    message: Bytes,
    held: Held,
}

impl Running {
    pub(super) async fn read_client(
        &self,
        from_client: &mut SplitStream<ClientSocket>,
    ) -> Option<CloseFrame> {
        loop {
            match self.pair.next(from_client, &self.session.budget).await {
                FromClient::Text(text, _room) => {
                    let came = self.now();
                    if let Some(passed) = self.receive(text).await
                        && self.pass(passed, came).await.is_err()
                    {
                        self.state().upstream_ended(UpstreamEnd::Failed);
                        self.pair.fail(CloseCode::Error, "upstream does not read");
                    }
                }
                FromClient::Binary => {
                    self.session.refuse_message(&self.pair, not_binary(), None).await;
                }
                FromClient::Closed(close) => return close,
            }
        }
    }

    /// Passes a message on that came at a running time. One for which something was held is a request's, whose
    /// time is that of its admission.
    async fn pass(&self, Passed { message, held }: Passed, came: Duration) -> Result<(), Unread> {
        let text = Utf8Bytes::try_from(message).map_err(|_| Unread)?;
        match held {
            Held::Before => pass(&self.pair.to_upstream, text, came).await,
            Held::Now => send(&self.pair.to_upstream, text).await,
        }
    }

    /// Takes a message; returns what is passed on of it.
    async fn receive(&self, text: Utf8Bytes) -> Option<Passed> {
        let body = Bytes::from(text);
        let read = |body: &Bytes| client_event(std::str::from_utf8(body).unwrap_or_default());
        let event = match self.session.shard.guard.parsed(&body, read).await {
            Ok(event) => event,
            Err(invalid) => {
                self.session.refuse_message(&self.pair, refuse_invalid(invalid), None).await;
                return None;
            }
        };
        if self.state().is_closed() {
            return None;
        }
        match event {
            ClientEvent::Append(bytes) => {
                {
                    let mut state = self.state();
                    let format = state.settings().sound;
                    state.context.append(bytes, format, self.now());
                }
                self.pass_if_held(body).await
            }
            ClientEvent::Commit(commit) => self.cut(commit, Context::commit).await,
            ClientEvent::Clear(clear) => self.cut(clear, Context::clear).await,
            ClientEvent::Item(content) => self.add(&content, body).await,
            ClientEvent::Update(update) => self.update(*update).await,
            ClientEvent::Create(create) => self.create(*create).await,
            ClientEvent::Cancel | ClientEvent::Other => Some(Passed { message: body, held: Held::Before }),
        }
    }

    /// Holds what upstream may begin behind a message, or ends the session.
    async fn pass_if_held(&self, message: Bytes) -> Option<Passed> {
        let waits = self.waits();
        let held = match self.may_use_what_is_held().await {
            Ok(()) => self.hold_next(Bounding::Own).await,
            Err(failed) => Err(failed),
        };
        match held {
            Ok(held) => Some(Passed { message, held: held.max(waits) }),
            Err(failed) => {
                self.end_for(failed).await;
                None
            }
        }
    }

    /// A message that may begin something waits while something is being held.
    fn waits(&self) -> Held {
        if self.next.try_lock().is_ok() { Held::Before } else { Held::Now }
    }

    /// Ends the session, since what upstream may begin next can't be held. What runs is cancelled, so
    /// that its usage is known.
    pub(super) async fn end_for(&self, failed: Failed) {
        self.session.refuse(&self.pair, failed, None).await;
        Traffic::close(self).await;
        self.ending.cancel();
    }

    /// Passes a message on that says where sound ends.
    async fn cut(
        &self,
        message: Named,
        noted: impl FnOnce(&mut Context, &str, bool) -> bool,
    ) -> Option<Passed> {
        let given = message.event_id.clone();
        let event_id = self.named(given.as_ref()).await?;
        if noted(&mut self.state().context, &event_id, given.is_some()) {
            return self.pass_if_held(message.sent_as(&event_id)).await;
        }
        self.session.refuse_message(&self.pair, Refusal::Overloaded, given.as_deref()).await;
        None
    }

    async fn add(&self, content: &Content, message: Bytes) -> Option<Passed> {
        let has_room = {
            let mut state = self.state();
            let has_room = state.context.image_count() + content.images.len() <= IMAGES_MAX;
            if has_room {
                let format = state.settings().sound;
                state.context.add(content, format);
            }
            has_room
        };
        if has_room {
            return self.pass_if_held(message).await;
        }
        let message = format!("A session has at most {IMAGES_MAX} images.");
        self.session.refuse_message(&self.pair, Refusal::Invalid(message, None), None).await;
        None
    }

    /// A client's name for a message, or one that the guard gives it; `None` if it is in use.
    async fn named(&self, given: Option<&String>) -> Option<String> {
        let Some(id) = given else { return Some(self.session.new_id()) };
        if !self.state().is_in_use(id) {
            return Some(id.clone());
        }
        let message = "The 'event_id' is that of a message that upstream has not answered yet.";
        self.session
            .refuse_message(&self.pair, Refusal::Invalid(message.to_owned(), Some("event_id")), Some(id))
            .await;
        None
    }

    /// Why an update is of another session.
    fn refusal_of(&self, update: &Update) -> Option<Refusal> {
        let model = self.state().last_settings().model.clone();
        let kind = if model.is_some() { "realtime" } else { "transcription" };
        if update.kind().is_some_and(|other| other != kind) {
            let message = "The type of a session can't be changed. Open another session.";
            return Some(Refusal::Invalid(message.to_owned(), Some("type")));
        }
        if update.model().is_some() && update.model() != model.as_deref() {
            let message = "The model of a session can't be changed. Open another session for another model.";
            return Some(Refusal::Invalid(message.to_owned(), Some("model")));
        }
        None
    }

    async fn update(&self, update: Update) -> Option<Passed> {
        let given = update.event_id.clone();
        let event_id = self.named(given.as_ref()).await?;
        if let Some(refusal) = self.refusal_of(&update) {
            self.session.refuse_message(&self.pair, refusal, given.as_deref()).await;
            return None;
        }
        let is_taken = {
            let mut state = self.state();
            let settings = update.applied_to(state.last_settings());
            let (wanted_before, is_named) = (state.wanted, given.is_some());
            state.wanted = update.output_max.unwrap_or(wanted_before);
            let event_id = event_id.clone();
            state.update(PendingUpdate { event_id, is_named, is_own: false, settings, wanted_before })
        };
        let waits = self.waits();
        let held = if is_taken {
            self.hold_next(Bounding::Caller).await
        } else {
            Err(self.session.refused(Refusal::Overloaded).await)
        };
        let held = match held {
            Ok(held) => held.max(waits),
            Err(failed) => {
                self.state().erred(&event_id);
                self.session.refuse(&self.pair, failed, given.as_deref()).await;
                // What was held before may have been given up to make room.
                if let Err(failed) = self.hold_next(Bounding::Own).await {
                    self.end_for(failed).await;
                }
                return None;
            }
        };
        let bound = self.state().bound_of(&event_id);
        Some(Passed { message: update.sent_as(&event_id, bound), held })
    }

    async fn create(&self, create: Create) -> Option<Passed> {
        let given = create.event_id.clone();
        let event_id = self.named(given.as_ref()).await?;
        if let Some(refusal) = self.refusal_of_create(&create) {
            self.session.refuse_message(&self.pair, refusal, given.as_deref()).await;
            return None;
        }
        let of = match (create.joins, create.has_input) {
            (false, _) => Reading::Beside,
            (true, true) => Reading::Input,
            (true, false) => Reading::Conversation,
        };
        let mut turn = match self.hold_asked(&create).await {
            Ok(turn) => turn,
            Err(failed) => {
                self.session.refuse(&self.pair, failed, given.as_deref()).await;
                return None;
            }
        };
        let message = create.sent_as(&event_id, turn.output_max);
        turn.begin();
        self.state().ask(AskedResponse { event_id, is_named: given.is_some(), turn, of });
        Some(Passed { message, held: Held::Now })
    }

    fn refusal_of_create(&self, create: &Create) -> Option<Refusal> {
        let state = self.state();
        if state.last_settings().model.is_none() {
            return Some(Refusal::Invalid(
                "This session only transcribes; it makes no responses.".to_owned(),
                None,
            ));
        }
        let images = state.context.image_count() + create.content.images.len();
        (images > IMAGES_MAX || !state.has_room()).then_some(Refusal::Overloaded)
    }

    /// Holds what a response may cost that is asked for, beside what is held for one that upstream may
    /// begin by itself.
    async fn hold_asked(&self, create: &Create) -> Result<Turn, Failed> {
        let (settings, read, images, wanted) = {
            let state = self.state();
            let settings = state.settings();
            let sound = settings.sound.millis(create.content.sound_bytes).div_ceil(AUDIO_MS_PER_TOKEN);
            let of_message = Amount { text: create.content.text_bytes, sound };
            let read = state.read(&settings, self.now()).plus(of_message);
            let images = [state.context.images(), create.content.images.clone()].concat();
            (settings, read, images, create.output_max.unwrap_or(state.wanted))
        };
        let speaks = create.speaks.unwrap_or(settings.speaks);
        let asked = Asked { settings: &settings, read, images: &images, wanted, speaks };
        self.session.hold_response(asked).await
    }

    /// Whether a message may still begin what was held for an earlier one: since then the key may have
    /// been revoked, or stopped.
    async fn may_use_what_is_held(&self) -> Result<(), Failed> {
        if self.next.lock().await.is_empty() {
            return Ok(());
        }
        let Session { shard, operation, head, .. } = &self.session;
        let rules = shard.rules.load_full();
        let failed = |refusal| (refusal, self.session.in_flight(&rules, operation));
        let caller = shard.caller(&rules, &head.headers).await.map_err(failed)?;
        let stopped = shard.refuse_stopped(&Endpoint::Metered(operation), &caller).await;
        stopped.map_err(|refusal| {
            let (refusal, mut in_flight) = failed(refusal);
            in_flight.called_by(&caller, &head.headers);
            (refusal, in_flight)
        })
    }
}

//! What a client sends in a session: held or refused, then passed on.

use bytes::Bytes;
use futures_util::stream::SplitStream;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::protocol::openai::realtime::{ClientEvent, Content, Create, Update, client_event};
use crate::proxy::Failed;
use crate::proxy::prepare::refuse_invalid;
use crate::proxy::refuse::Refusal;
use crate::proxy::socket::ClientSocket;
use crate::proxy::socket::pair::FromClient;
use crate::proxy::socket::realtime::Running;
use crate::proxy::socket::realtime::context::IMAGES_MAX;
use crate::proxy::socket::realtime::state::{AskedResponse, PendingUpdate, Reading};
use crate::proxy::socket::session::not_binary;
use crate::proxy::socket::turn::{Amount, Asked};
use crate::proxy::socket::wire::Unread;

impl Running {
    pub(super) async fn read_client(
        &self,
        from_client: &mut SplitStream<ClientSocket>,
    ) -> Option<CloseFrame> {
        loop {
            match self.pair.next(from_client, &self.session.budget).await {
                FromClient::Text(text) => {
                    let _room = self.session.budget.take();
                    if self.receive(text).await.is_err() {
                        self.pair.fail(CloseCode::Error, "upstream does not read");
                    }
                }
                FromClient::Binary => {
                    drop(self.session.budget.take());
                    self.session.refuse_message(&self.pair, not_binary(), None).await;
                }
                FromClient::Closed(close) => return close,
            }
        }
    }

    async fn receive(&self, text: Utf8Bytes) -> Result<(), Unread> {
        let body = Bytes::from(text);
        let read = |body: &Bytes| client_event(std::str::from_utf8(body).unwrap_or_default());
        let event = match self.session.shard.guard.parsed(&body, read).await {
            Ok(event) => event,
            Err(invalid) => {
                self.session.refuse_message(&self.pair, refuse_invalid(invalid), None).await;
                return Ok(());
            }
        };
        if self.state().is_closed() {
            return Ok(());
        }
        match event {
            ClientEvent::Append(bytes) => {
                let format = self.state().settings().sound;
                self.state().context.append(bytes, format);
                self.pass_if_held(body).await
            }
            ClientEvent::Commit => self.mark(body, |state| state.context.commit()).await,
            ClientEvent::Clear => self.mark(body, |state| state.context.clear()).await,
            ClientEvent::Item(content) => self.add(&content, body).await,
            ClientEvent::Update(update) => self.update(*update).await,
            ClientEvent::Create(create) => self.create(*create).await,
            ClientEvent::Cancel | ClientEvent::Other => self.to_upstream(body).await,
        }
    }

    /// Passes a message on behind which upstream may begin something, or ends the session.
    async fn pass_if_held(&self, message: Bytes) -> Result<(), Unread> {
        match self.hold_next().await {
            Ok(()) => self.to_upstream(message).await,
            Err(failed) => {
                self.end_for(failed).await;
                Ok(())
            }
        }
    }

    /// Ends the session, since what upstream may begin next can't be held.
    pub(super) async fn end_for(&self, failed: Failed) {
        self.session.refuse(&self.pair, failed, None).await;
        self.pair.fail(CloseCode::Policy, "the next response can't be held; see the error event");
    }

    /// Passes a message on that upstream answers later.
    async fn mark(
        &self,
        message: Bytes,
        noted: impl FnOnce(&mut super::state::State) -> bool,
    ) -> Result<(), Unread> {
        if noted(&mut self.state()) {
            return self.pass_if_held(message).await;
        }
        self.session.refuse_message(&self.pair, Refusal::Overloaded, None).await;
        Ok(())
    }

    async fn add(&self, content: &Content, message: Bytes) -> Result<(), Unread> {
        let has_room = {
            let mut state = self.state();
            let has_room = state.context.images.len() + content.images.len() <= IMAGES_MAX;
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
        Ok(())
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

    async fn update(&self, update: Update) -> Result<(), Unread> {
        let given = update.event_id.clone();
        let Some(event_id) = self.named(given.as_ref()).await else { return Ok(()) };
        let last = self.state().last_settings().clone();
        if update.model().is_some_and(|model| last.model.as_deref() != Some(model)) {
            let message = "The model of a session can't be changed. Open another session for another model.";
            self.session
                .refuse_message(
                    &self.pair,
                    Refusal::Invalid(message.to_owned(), Some("model")),
                    given.as_deref(),
                )
                .await;
            return Ok(());
        }
        let before = self.state().wanted;
        let settings = update.applied_to(&last);
        let is_taken = {
            let mut state = self.state();
            state.wanted = update.output_max.unwrap_or(before);
            let is_named = given.is_some();
            state.update(PendingUpdate { event_id: event_id.clone(), is_named, is_own: false, settings })
        };
        let held = if is_taken { self.hold_next().await } else { Err(self.overloaded()) };
        if let Err(failed) = held {
            {
                let mut state = self.state();
                state.take_update(&event_id);
                state.wanted = before;
            }
            self.session.refuse(&self.pair, failed, given.as_deref()).await;
            return Ok(());
        }
        let bound = {
            let state = self.state();
            let bound = state.bound.filter(|_| state.last_settings().answers_by_itself);
            bound.map(|bound| state.wanted.map_or(bound, |wanted| wanted.min(bound)))
        };
        self.to_upstream(update.sent_as(&event_id, bound)).await
    }

    async fn create(&self, create: Create) -> Result<(), Unread> {
        let given = create.event_id.clone();
        let Some(event_id) = self.named(given.as_ref()).await else { return Ok(()) };
        let (settings, read, images, wanted) = {
            let state = self.state();
            let settings = state.settings();
            let sound = settings.sound.millis(create.content.sound_bytes).div_ceil(100);
            let of_message = Amount { text: create.content.text_bytes, sound };
            let read = state.context.read(&settings).plus(of_message);
            let images = [state.context.images.as_slice(), &create.content.images].concat();
            (settings, read, images, create.output_max.unwrap_or(state.wanted))
        };
        if settings.model.is_none() || images.len() > IMAGES_MAX || !self.state().has_room() {
            let refusal = if settings.model.is_none() {
                Refusal::Invalid("This session only transcribes; it makes no responses.".to_owned(), None)
            } else {
                Refusal::Overloaded
            };
            self.session.refuse_message(&self.pair, refusal, given.as_deref()).await;
            return Ok(());
        }
        let speaks = create.speaks.unwrap_or(settings.speaks);
        let asked = Asked { settings: &settings, read, images: &images, wanted, speaks };
        let mut turn = match self.session.hold_response(asked).await {
            Ok(turn) => turn,
            Err(failed) => {
                self.session.refuse(&self.pair, failed, given.as_deref()).await;
                return Ok(());
            }
        };
        let of = match (create.joins, create.has_input) {
            (false, _) => Reading::Beside,
            (true, true) => Reading::Input,
            (true, false) => Reading::Conversation,
        };
        let message = create.sent_as(&event_id, turn.output_max);
        turn.begin();
        self.state().ask(AskedResponse { event_id, is_named: given.is_some(), turn, of });
        self.to_upstream(message).await
    }

    fn overloaded(&self) -> Failed {
        let rules = self.session.shard.rules.load();
        (Refusal::Overloaded, self.session.in_flight(&rules, self.session.operation))
    }
}

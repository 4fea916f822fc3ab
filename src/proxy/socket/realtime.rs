//! Realtime sessions: each response and each transcription is held before upstream can begin it.
//!
//! Upstream begins responses by itself when it finds that a speaker has finished, and each reads the
//! whole conversation. So before anything is passed on that may lead to one, the most that it may
//! cost is held, with some sound to come; a session whose next response can't be held is ended. What
//! a client asks for itself is held, or refused, by itself. Output is bounded by what the guard writes
//! into the session and into each request for a response.

mod context;
mod listen;
mod next;
mod relay;
mod state;

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::SplitStream;
use serde_json::json;
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_util::sync::CancellationToken;

use crate::protocol::openai::operation::Operation;
use crate::protocol::openai::realtime::{BoundSession, Named, Settings};
use crate::proxy::query;
use crate::proxy::refuse::Refusal;
use crate::proxy::socket::UpstreamSocket;
use crate::proxy::socket::pair::{Pair, Traffic};
use crate::proxy::socket::realtime::next::Next;
use crate::proxy::socket::realtime::state::{PendingUpdate, State};
use crate::proxy::socket::session::Session;
use crate::proxy::socket::wire::{Unread, send};
use crate::sync::unpoisoned;

use super::ClientSocket;

/// How often it is asked whether anything is open, besides when something has ended.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long what is open may take to end once its client is gone, or no more is begun.
const ENDING_MAX: Duration = Duration::from_secs(10);

/// A realtime session.
pub(super) struct Running {
    session: Session,
    pair: Pair,
    /// The operation of what is written down.
    transcription: &'static Operation,
    state: Mutex<State>,
    /// What is held for what upstream may begin by itself.
    next: tokio::sync::Mutex<Next>,
    /// Notified when an event was read behind which something may have to be held.
    led_on: Notify,
    /// Notified when a response or a transcription has ended.
    ended: Notify,
    /// The session ends once nothing is open.
    ending: CancellationToken,
}

/// What a session is opened for, by the head of its request: a client secret decides it, else the
/// query does.
pub(super) fn opened_for(
    head: &mut http::request::Parts,
    bound: Option<&BoundSession>,
) -> Result<Settings, Refusal> {
    let betas = head.headers.get_all("openai-beta").iter().filter_map(|value| value.to_str().ok());
    if betas.flat_map(|value| value.split(',')).any(|beta| beta.trim() == "realtime=v1") {
        let message =
            "The first version of the Realtime API is not served. Send no header 'OpenAI-Beta: realtime=v1'.";
        return Err(Refusal::Invalid(message.to_owned(), None));
    }
    let wrong = |message: &str| Err(Refusal::Invalid(message.to_owned(), Some("model")));
    let pairs: Vec<_> = query::pairs(head.uri.query().unwrap_or_default()).collect();
    let mut models = pairs.iter().filter(|(name, _)| name == "model").map(|(_, model)| &**model);
    let transcribes = pairs.iter().any(|(name, value)| name == "intent" && value == "transcription");
    let model = match (bound, models.next(), models.next()) {
        (Some(bound), None, None) => bound.model().map(str::to_owned),
        (Some(bound), Some(model), None) if bound.model() == Some(model) => Some(model.to_owned()),
        (Some(_), _, _) => return wrong("A client secret opens sessions of the model that it was made for."),
        (None, Some(model), None) if !model.is_empty() && !transcribes => Some(model.to_owned()),
        (None, None, None) if transcribes => None,
        (None, _, _) => {
            return wrong(
                "A realtime session names its model once: open it with ?model=…, or with ?intent=transcription for \
                 transcriptions alone.",
            );
        }
    };
    // Upstream is asked for what was understood, in one spelling.
    let asked = model
        .as_deref()
        .map_or("intent=transcription".to_owned(), |model| format!("model={}", query::encoded(model)));
    let uri = format!("{}?{asked}", head.uri.path()).parse();
    head.uri = uri.map_err(|_| Refusal::Invalid("The model is no name.".to_owned(), Some("model")))?;
    Ok(Settings::of(model))
}

impl Running {
    pub(super) fn new(
        session: Session,
        transcription: &'static Operation,
        settings: Settings,
        pair: Pair,
    ) -> Self {
        let (state, next) = (Mutex::new(State::new(settings)), tokio::sync::Mutex::default());
        Self {
            session,
            pair,
            transcription,
            state,
            next,
            led_on: Notify::new(),
            ended: Notify::new(),
            ending: CancellationToken::new(),
        }
    }

    /// Gives the session the settings that its secret is bound to, before the client can send
    /// anything.
    pub(super) async fn bind(&self, session: &BoundSession) {
        let (event_id, update) = (self.session.new_id(), session.update());
        {
            let mut state = self.state();
            let settings = update.applied_to(state.last_settings());
            let wanted_before = std::mem::replace(&mut state.wanted, settings.output_max);
            let event_id = event_id.clone();
            state.update(PendingUpdate { event_id, is_named: false, is_own: false, settings, wanted_before });
        }
        let message = update.sent_as(&event_id, None);
        let _ = self.to_upstream(message).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        unpoisoned(self.state.lock())
    }

    fn now(&self) -> Duration {
        self.session.now()
    }

    /// Waits until nothing is open, or what is has had its time to end.
    async fn quiet(&self) {
        let nothing_open = async {
            while self.state().has_open(self.now()) {
                // An answer that is due may not come.
                let _ = tokio::time::timeout(LOOK_EVERY, self.ended.notified()).await;
            }
        };
        let _ = tokio::time::timeout(ENDING_MAX, nothing_open).await;
    }

    async fn cancel(&self, response: &str) {
        let cancel = json!({ "type": "response.cancel", "response_id": response });
        // A socket that can't be written is ended by its reader.
        let _ = self.to_upstream(cancel.to_string().into()).await;
    }

    async fn to_upstream(&self, message: Bytes) -> Result<(), Unread> {
        let text = Utf8Bytes::try_from(message).map_err(|_| Unread)?;
        send(&self.pair.to_upstream, text).await
    }
}

impl Traffic for Running {
    fn pair(&self) -> &Pair {
        &self.pair
    }

    async fn listen(&self, from_client: &mut SplitStream<ClientSocket>) -> Option<CloseFrame> {
        self.read_client(from_client).await
    }

    async fn relay(&self, from_upstream: SplitStream<UpstreamSocket>) -> Option<CloseFrame> {
        self.read_upstream(from_upstream).await
    }

    /// Responses that run are cancelled, so that their usage is known soon; sound that waits for an
    /// answer is dropped.
    async fn close(&self) {
        let (open, clear) = {
            let mut state = self.state();
            let (settings, now) = (state.settings(), self.now());
            let waits = settings.answers_by_itself && state.context.pending_ms(&settings, now) > 0;
            let event_id = self.session.new_id();
            let clear = (waits && !state.is_closed() && state.context.clear(&event_id, false))
                .then(|| Named::own_clear().sent_as(&event_id));
            (state.close(), clear)
        };
        if let Some(clear) = clear
            && self.to_upstream(clear).await.is_err()
        {
            return;
        }
        for id in open {
            self.cancel(&id).await;
        }
    }

    fn cut(&self) {
        let is_client = self.pair.gone.is_cancelled();
        let mut state = self.state();
        if let Ok(mut next) = self.next.try_lock() {
            next.end(&state, self.now());
        }
        state.lose_all(is_client);
        drop(state);
        self.ended.notify_waiters();
    }

    async fn all_ended(&self) {
        self.quiet().await;
        self.cut();
    }
}

//! Realtime sessions: each response and each transcription is held before upstream can begin it.
//!
//! Upstream begins responses by itself when it hears that a speaker has finished, and each reads the
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
use percent_encoding::percent_decode_str;
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::protocol::openai::operation::Operation;
use crate::protocol::openai::realtime::{BoundSession, Settings};
use crate::proxy::query::encoded;
use crate::proxy::refuse::Refusal;
use crate::proxy::socket::UpstreamSocket;
use crate::proxy::socket::pair::{Pair, Traffic};
use crate::proxy::socket::realtime::next::Next;
use crate::proxy::socket::realtime::state::{PendingUpdate, State};
use crate::proxy::socket::session::Session;
use crate::proxy::socket::wire::{Unread, send};
use crate::sync::unpoisoned;

use super::ClientSocket;

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
    /// Notified when a response or a transcription has ended.
    ended: Notify,
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
    let pairs = head.uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let values: Vec<_> =
        pairs.map(|(name, value)| (name, percent_decode_str(value).decode_utf8_lossy())).collect();
    let mut models = values.iter().filter(|(name, _)| *name == "model").map(|(_, model)| &**model);
    if let Some(bound) = bound {
        if models.any(|model| bound.model() != Some(model)) {
            return wrong("A client secret opens sessions of the model that it was made for.");
        }
        let uri = format!("{}?{}", head.uri.path(), bound.query(encoded));
        head.uri =
            uri.parse().map_err(|_| Refusal::Invalid("The model is no name.".to_owned(), Some("model")))?;
        return Ok(Settings::of(bound.model().map(str::to_owned)));
    }
    let transcribes = values.iter().any(|(name, value)| *name == "intent" && value == "transcription");
    match (models.next(), models.next()) {
        (Some(model), None) if !model.is_empty() => Ok(Settings::of(Some(model.to_owned()))),
        (None, None) if transcribes => Ok(Settings::of(None)),
        _ => wrong(
            "A realtime session names its model once: open it with ?model=…, or with ?intent=transcription for \
             transcriptions alone.",
        ),
    }
}

impl Running {
    pub(super) fn new(
        session: Session,
        transcription: &'static Operation,
        settings: Settings,
        pair: Pair,
    ) -> Self {
        let (state, next) = (Mutex::new(State::new(settings)), tokio::sync::Mutex::default());
        Self { session, pair, transcription, state, next, ended: Notify::new() }
    }

    /// Gives the session the settings that its secret is bound to, before the client can send
    /// anything.
    pub(super) async fn bind(&self, session: &BoundSession) {
        let (event_id, update) = (self.session.new_id(), session.update());
        {
            let mut state = self.state();
            let settings = update.applied_to(state.last_settings());
            state.wanted = settings.output_max;
            let event_id = event_id.clone();
            state.update(PendingUpdate { event_id, is_named: false, is_own: false, settings });
        }
        let message = update.sent_as(&event_id, None);
        let _ = self.to_upstream(message).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        unpoisoned(self.state.lock())
    }

    async fn to_client(&self, text: Utf8Bytes) {
        if send(&self.pair.to_client, text).await.is_err() {
            self.pair.gone.cancel();
        }
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

    /// Responses that run are cancelled, so that their usage is known soon.
    async fn close(&self) {
        let open = self.state().close();
        for id in open {
            let cancel = serde_json::json!({ "type": "response.cancel", "response_id": id });
            if self.to_upstream(cancel.to_string().into()).await.is_err() {
                return;
            }
        }
    }

    fn cut(&self) {
        let is_client = self.pair.gone.is_cancelled();
        let mut state = self.state();
        state.lose_all(is_client);
        if let Ok(mut next) = self.next.try_lock() {
            next.end(&state);
        }
        drop(state);
        self.ended.notify_waiters();
    }

    async fn all_ended(&self) {
        let nothing_open = async {
            loop {
                let ended = self.ended.notified();
                if !self.state().has_open() {
                    return;
                }
                ended.await;
            }
        };
        let _ = tokio::time::timeout(ENDING_MAX, nothing_open).await;
        self.cut();
    }
}

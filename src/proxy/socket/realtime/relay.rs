//! What upstream sends in a session: billed where it ends something, and passed on.

use futures_util::StreamExt as _;
use futures_util::stream::SplitStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::protocol::openai::realtime::{Begun, ServerEvent, server_event, without_event_id};
use crate::proxy::socket::UpstreamSocket;
use crate::proxy::socket::realtime::Running;
use crate::proxy::socket::realtime::state::{Erred, OpenResponse, Reading, admits};
use crate::proxy::socket::wire::frame;

/// What upstream has begun has no hold.
struct Unheld;

impl Running {
    pub(super) async fn read_upstream(
        &self,
        mut from_upstream: SplitStream<UpstreamSocket>,
    ) -> Option<CloseFrame> {
        loop {
            let message = match from_upstream.next().await {
                Some(Ok(message)) => message,
                Some(Err(error)) => {
                    tracing::warn!(event = "upstream_socket_failed", %error, "a socket to upstream failed");
                    return Some(frame(CloseCode::Error, "the socket to upstream failed"));
                }
                None => return None,
            };
            match message {
                Message::Text(text) => {
                    if self.take(text).await.is_err() {
                        tracing::error!(
                            event = "unasked_response",
                            "an event of upstream is about no response that was asked for, so its socket is closed"
                        );
                        return Some(frame(CloseCode::Policy, "a response that was not held"));
                    }
                }
                // Its reason may name the account.
                Message::Close(of) => return of.map(|of| frame(of.code, "the upstream API has closed it")),
                Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    async fn take(&self, text: Utf8Bytes) -> Result<(), Unheld> {
        match server_event(&text) {
            ServerEvent::Created(session) => self.state().created(&session),
            ServerEvent::Updated(session) => {
                let is_own = self.state().updated(&session);
                if !is_own {
                    self.to_client(text).await;
                }
                return self.go_on().await;
            }
            ServerEvent::Begun(begun) => self.begin(begun).await?,
            ServerEvent::Goes(id) => self.state().goes_on(&id),
            ServerEvent::Ended { id, response } => {
                self.end(&id, &response)?;
                self.to_client(text).await;
                return self.go_on().await;
            }
            ServerEvent::SpeechBegan(at_ms) => self.state().context.speech_began(at_ms),
            ServerEvent::SpeechEnded(at_ms) => self.state().context.speech_ended(at_ms),
            ServerEvent::Committed(item) => {
                self.write_down(item).await?;
                self.to_client(text).await;
                return self.go_on().await;
            }
            ServerEvent::Cleared => self.state().context.cleared(),
            ServerEvent::Transcribed(item, usage) => {
                let turn = self.state().written(&item);
                if let Some(turn) = turn {
                    turn.end(format!(r#"{{"text":"","usage":{usage}}}"#).as_bytes(), self.is_left());
                    self.ended.notify_waiters();
                }
            }
            ServerEvent::Untranscribed(item) => {
                let turn = self.state().written(&item);
                if let Some(turn) = turn {
                    turn.refused();
                    self.ended.notify_waiters();
                }
            }
            ServerEvent::Error(event_id) => {
                if let Some(text) = self.shown_error(event_id.as_deref(), text) {
                    self.to_client(text).await;
                }
                return Ok(());
            }
            ServerEvent::Other => {}
        }
        self.to_client(text).await;
        Ok(())
    }

    fn is_left(&self) -> bool {
        self.pair.gone.is_cancelled()
    }

    /// Finds the hold of a response that has begun.
    async fn begin(&self, begun: Begun) -> Result<(), Unheld> {
        let asked = self.state().find_asked(&begun);
        let (turn, of) = if let Some(found) = asked {
            found
        } else {
            let mut turn = self.next.lock().await.response.take().ok_or(Unheld)?;
            turn.begin();
            (turn, Reading::Conversation)
        };
        let is_held = admits(&turn, begun.output_max) && (begun.joins || of == Reading::Beside);
        let is_new = self.state().begin(begun.id, turn, of);
        if is_held && is_new { Ok(()) } else { Err(Unheld) }
    }

    /// Ends the hold of a response by its answer.
    fn end(&self, id: &str, response: &str) -> Result<(), Unheld> {
        let mut state = self.state();
        let OpenResponse { turn, of } = state.end(id).ok_or(Unheld)?;
        let output_max = turn.output_tokens();
        let usage = turn.end(response.as_bytes(), self.is_left());
        match of {
            Reading::Conversation => state.context.ended(usage.as_ref(), output_max),
            Reading::Input => state.context.written(usage.as_ref(), output_max),
            Reading::Beside => {}
        }
        drop(state);
        self.ended.notify_waiters();
        Ok(())
    }

    /// What was said is an item now: upstream writes it down, where the session asks for that, and
    /// may answer it.
    async fn write_down(&self, item: String) -> Result<(), Unheld> {
        let mut next = self.next.lock().await;
        let mut state = self.state();
        let settings = state.settings();
        state.context.committed();
        state.is_answer_due = settings.answers_by_itself;
        if settings.transcription.is_some() {
            let mut turn = next.transcription.take().ok_or(Unheld)?;
            turn.begin();
            state.write_down(item, turn);
        }
        Ok(())
    }

    /// Holds what may come next; a session in which that can't be held is ended.
    async fn go_on(&self) -> Result<(), Unheld> {
        if self.is_left() {
            return Ok(());
        }
        if let Err(failed) = self.hold_next().await {
            self.end_for(failed).await;
        }
        Ok(())
    }

    /// An error as the client may see it; `None` if it is about a message of the guard's own.
    fn shown_error(&self, event_id: Option<&str>, text: Utf8Bytes) -> Option<Utf8Bytes> {
        let erred = event_id.map_or(Erred::Unknown, |id| self.state().erred(id));
        self.ended.notify_waiters();
        let text = match erred {
            Erred::Own => {
                tracing::warn!(
                    event = "session_not_bounded",
                    "upstream has refused an output bound that the guard has written into a session"
                );
                return None;
            }
            Erred::Client { is_named: false } => without_event_id(&text).into(),
            Erred::Client { is_named: true } | Erred::Unknown => text,
        };
        self.session.masked(text)
    }
}

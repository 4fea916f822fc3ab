//! What upstream sends in a session: billed where it ends something, and passed on.

use std::convert::Infallible;
use std::pin::pin;

use futures_util::stream::SplitStream;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::protocol::openai::realtime::{Begun, ServerEvent, server_event, without_event_id};
use crate::proxy::socket::UpstreamSocket;
use crate::proxy::socket::pair::{FromUpstream, next_event, unasked};
use crate::proxy::socket::realtime::Running;
use crate::proxy::socket::realtime::next::Bounding;
use crate::proxy::socket::realtime::state::{Erred, Reading, UpstreamEnd, admits};
use crate::proxy::socket::wire::frame;

/// Why a session is ended.
const NOT_HELD: &str = "what comes next can't be held; see the error event";

/// What upstream has begun has no hold.
struct Unheld;

impl Running {
    /// Reads what upstream sends, and holds what may come next meanwhile: it may be the next event that
    /// makes room for that.
    pub(super) async fn read_upstream(
        &self,
        from_upstream: SplitStream<UpstreamSocket>,
    ) -> Option<CloseFrame> {
        tokio::select! {
            biased;
            never = self.go_on() => match never {},
            close = self.read_events(from_upstream) => close,
        }
    }

    async fn read_events(&self, mut from_upstream: SplitStream<UpstreamSocket>) -> Option<CloseFrame> {
        let mut over = pin!(async {
            self.ending.cancelled().await;
            self.quiet().await;
        });
        loop {
            let message = tokio::select! {
                biased;
                () = over.as_mut() => return Some(frame(CloseCode::Policy, NOT_HELD)),
                message = next_event(&mut from_upstream) => message,
            };
            match message {
                FromUpstream::Event(text) => {
                    if self.take(text).await.is_err() {
                        return Some(unasked("a response that was not held"));
                    }
                }
                FromUpstream::Closed(close) => {
                    self.state().upstream_ended(UpstreamEnd::Closed);
                    return close;
                }
                FromUpstream::Failed(close) => {
                    self.state().upstream_ended(UpstreamEnd::Failed);
                    return Some(close);
                }
            }
        }
    }

    /// Follows an event, passes it on as the client may see it, and has what may come next held.
    async fn take(&self, text: Utf8Bytes) -> Result<(), Unheld> {
        let came = self.now();
        let event = server_event(&text);
        let leads_on = matches!(
            event,
            ServerEvent::Updated(_)
                | ServerEvent::Ended { .. }
                | ServerEvent::SpeechBegan(_)
                | ServerEvent::Committed(_)
        );
        let has_error =
            matches!(event, ServerEvent::Untranscribed(_) | ServerEvent::Ended { has_failed: true, .. });
        let shown = if let ServerEvent::Error(event_id) = &event {
            self.shown_error(event_id.as_deref(), text)
        } else if has_error {
            self.session.masked(text)
        } else {
            Some(text)
        };
        let is_clients = self.follow(event).await?;
        if let Some(text) = shown.filter(|_| is_clients) {
            self.pair.pass_to_client(text, came).await;
        }
        if leads_on {
            self.led_on.notify_one();
            // The hold is begun before the next event is read, which may need it.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Books what an event ends; returns whether the event is for the client.
    async fn follow(&self, event: ServerEvent) -> Result<bool, Unheld> {
        match event {
            ServerEvent::Created(session) => self.state().created(&session),
            ServerEvent::Updated(session) => return Ok(!self.state().updated(&session)),
            ServerEvent::Begun(begun) => self.begin(begun).await?,
            ServerEvent::Goes(id) => self.state().goes_on(&id),
            ServerEvent::Ended { id, response, has_failed: _ } => {
                let has_begun = self.state().end(&id, response.as_bytes(), self.is_left());
                self.ended.notify_waiters();
                return if has_begun { Ok(true) } else { Err(Unheld) };
            }
            ServerEvent::SpeechBegan(at_ms) => self.state().context.speech_began(at_ms),
            ServerEvent::SpeechEnded(at_ms) => self.state().context.speech_ended(at_ms),
            ServerEvent::Committed(item) => self.write_down(item).await?,
            ServerEvent::Cleared => {
                self.state().context.cleared();
                self.ended.notify_waiters();
                // In a session that ends, it is the guard that has dropped the sound.
                return Ok(!self.state().is_closed());
            }
            ServerEvent::Transcribed(item, usage) => {
                let turn = self.state().written(&item).ok_or(Unheld)?;
                turn.end(format!(r#"{{"text":"","usage":{usage}}}"#).as_bytes(), self.is_left());
                self.ended.notify_waiters();
            }
            ServerEvent::Untranscribed(item) => {
                let turn = self.state().written(&item);
                if let Some(turn) = turn {
                    turn.refused();
                    self.ended.notify_waiters();
                }
            }
            ServerEvent::Unreadable => return Err(Unheld),
            ServerEvent::Error(_) | ServerEvent::Other => {}
        }
        Ok(true)
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
            self.state().answered();
            (turn, Reading::Conversation)
        };
        let is_held = admits(&turn, begun.output_max) && (begun.joins || of == Reading::Beside);
        let is_new = self.state().begin(begun.id.clone(), turn, of);
        if self.state().is_closed() {
            self.cancel(&begun.id).await;
        }
        if is_held && is_new { Ok(()) } else { Err(Unheld) }
    }

    /// What was said is an item now: upstream writes it down, where the session asks for that, and
    /// may answer it.
    async fn write_down(&self, item: String) -> Result<(), Unheld> {
        let mut next = self.next.lock().await;
        let mut state = self.state();
        let may_be_answered = state.context.committed();
        if may_be_answered && state.settings().answers_by_itself {
            state.expect_answer(self.now());
        }
        if let Some(model) = state.transcription_model() {
            let place = next.transcriptions.iter().position(|turn| turn.model == model).ok_or(Unheld)?;
            let mut turn = next.transcriptions.remove(place);
            turn.begin();
            state.write_down(item, turn);
        }
        Ok(())
    }

    /// Holds what may come next whenever an event has led on; a session in which that can't be held is
    /// ended.
    async fn go_on(&self) -> Infallible {
        loop {
            self.led_on.notified().await;
            if self.state().is_closed() {
                continue;
            }
            if let Err(failed) = self.hold_next(Bounding::Own).await {
                self.end_for(failed).await;
            }
        }
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

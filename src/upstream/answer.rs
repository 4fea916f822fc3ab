//! The body of an answer, wherever it comes from.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::upstream::outgoing::Passing;
use crate::upstream::pool::Received;

/// The body of an answer.
#[derive(Debug)]
pub enum AnswerBody {
    /// That of an HTTP exchange on a connection of the pool.
    Received(Received),
    /// The events of one response on a socket that several share.
    Events(Passing),
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Received(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Events(events) => Pin::new(events).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Received(body) => body.is_end_stream(),
            Self::Events(events) => events.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Received(body) => body.size_hint(),
            Self::Events(events) => events.size_hint(),
        }
    }
}

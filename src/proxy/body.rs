//! Bodies: reading one whole within bounds, and the types of what is sent.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use crate::proxy::tap::Tap;

/// What is read away of a body that is refused.
const DISCARDED_BYTES_MAX: usize = 16 << 20;
const DISCARD_TIME_MAX: Duration = Duration::from_secs(2);

/// Why a body could not be read whole.
#[derive(Debug)]
pub enum ReadError {
    /// It has more bytes than allowed.
    TooLarge,
    /// Nothing came for too long.
    TooSlow,
    /// The sender broke off.
    Broken(hyper::Error),
}

/// Reads a body whole. `idle` bounds the wait for each part of it.
///
/// A body that comes in one frame, as small ones do, is not copied.
pub async fn read(mut body: Incoming, bytes_max: usize, idle: Duration) -> Result<Bytes, ReadError> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > bytes_max {
        discard(body).await;
        return Err(ReadError::TooLarge);
    }
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    loop {
        let frame = tokio::time::timeout(idle, body.frame()).await.map_err(|_| ReadError::TooSlow)?;
        let Some(frame) = frame else { break };
        let Ok(part) = frame.map_err(ReadError::Broken)?.into_data() else { continue };
        if first.len() + all.len() + part.len() > bytes_max {
            discard(body).await;
            return Err(ReadError::TooLarge);
        }
        if first.is_empty() && all.is_empty() {
            first = part;
        } else {
            if all.is_empty() {
                all.reserve(announced.max(first.len() + part.len()));
                all.extend_from_slice(&std::mem::take(&mut first));
            }
            all.extend_from_slice(&part);
        }
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

/// Reads away what a refused client is still sending, within bounds: closed
/// in its face, the connection would be reset and the refusal lost.
pub async fn discard(mut body: Incoming) {
    let reading = async {
        let mut read = 0;
        while let Some(Ok(frame)) = body.frame().await {
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > DISCARDED_BYTES_MAX {
                return;
            }
        }
    };
    // A client that is slower than this loses its refusal.
    let _ = tokio::time::timeout(DISCARD_TIME_MAX, reading).await;
}

/// The body of an answer.
#[derive(Debug)]
pub enum Answer {
    /// Known whole.
    Whole(Option<Bytes>),
    /// Passed on as it comes, unseen: what isn't metered.
    Plain(Incoming),
    /// Passed on as it comes, and observed.
    Tapped(Box<Tap>),
}

/// Why an answer's body broke off.
pub type AnswerError = Box<dyn std::error::Error + Send + Sync>;

impl Answer {
    /// A whole body.
    pub fn whole(bytes: Bytes) -> Self {
        Self::Whole(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Plain(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Tapped(tap) => tap.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Plain(body) => body.is_end_stream(),
            Self::Tapped(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                let length = bytes.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
            }
            Self::Plain(body) => body.size_hint(),
            Self::Tapped(_) => SizeHint::default(),
        }
    }
}

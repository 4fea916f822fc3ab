//! The body of an answer, in the forms that it may have on its way to the client.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::proxy::background::BackgroundStream;
use crate::proxy::body::AnswerError;
use crate::proxy::mask::Masker;
use crate::proxy::tap::{SoundTap, Tap};
use crate::upstream::AnswerBody;

/// The size of the parts in which a large answer is passed on, which bounds the
/// bytes that HTTP/2 buffers.
const SLICE_BYTES: usize = 64 << 10;

/// The body of an answer.
#[derive(Debug)]
pub enum Answer {
    /// Known whole.
    Whole(Option<Bytes>),
    /// Passed on frame by frame, unseen: what isn't metered.
    Plain(AnswerBody),
    /// Passed on frame by frame, and observed.
    Tapped(Box<Tap>),
    /// Raw sound, passed on frame by frame and measured.
    Sound(Box<SoundTap>),
    /// An event stream of a background response.
    Background(Box<BackgroundStream>),
    /// An event stream whose errors may name the operator's account.
    Concealed(Box<Concealed>),
}

/// An answer that is streamed, with what it says of the account masked.
#[derive(Debug)]
pub struct Concealed {
    inner: Box<Answer>,
    masker: Masker,
}

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
            Self::Whole(bytes) => Poll::Ready(slice(bytes).map(|slice| Ok(Frame::data(slice)))),
            Self::Plain(body) => Pin::new(body).poll_frame(cx),
            Self::Tapped(tap) => tap.poll_frame(cx),
            Self::Sound(tap) => tap.poll_frame(cx),
            Self::Background(stream) => stream.poll_frame(cx),
            Self::Concealed(events) => events.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Plain(body) => body.is_end_stream(),
            Self::Tapped(_) | Self::Background(_) | Self::Sound(_) | Self::Concealed(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                let length = bytes.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
            }
            Self::Plain(body) => body.size_hint(),
            Self::Sound(tap) => tap.size_hint(),
            Self::Tapped(_) | Self::Background(_) | Self::Concealed(_) => SizeHint::default(),
        }
    }
}

fn slice(bytes: &mut Option<Bytes>) -> Option<Bytes> {
    match bytes {
        Some(bytes) if bytes.len() > SLICE_BYTES => Some(bytes.split_to(SLICE_BYTES)),
        _ => bytes.take(),
    }
}

impl Concealed {
    /// An answer whose parts go through a masker.
    pub(super) fn new(inner: Answer, masker: Masker) -> Self {
        Self { inner: Box::new(inner), masker }
    }

    /// The next frame for the client.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        loop {
            let polled = std::task::ready!(Pin::new(&mut *self.inner).poll_frame(cx));
            let part = match polled.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(part))) => part,
                Some(Ok(Err(_))) => continue,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    let rest = self.masker.finish();
                    return Poll::Ready((!rest.is_empty()).then(|| Ok(Frame::data(rest.into()))));
                }
            };
            let out = self.masker.feed(part);
            if !out.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(out))));
            }
        }
    }
}

//! The memory and the pace of what a client sends on a socket, as those of a body.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::proxy::room::{Pool, Room, STEP_BYTES};
use crate::sync::unpoisoned;

/// The head of a client's control frame, mask included (RFC 6455, section 5.2).
const CONTROL_HEAD_BYTES: usize = 6;

/// What was read of a message so far, and its part of the memory that all bodies share.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    key: Arc<str>,
    unread: Arc<Mutex<Unread>>,
}

#[derive(Debug)]
struct Unread {
    bytes: usize,
    room: Room,
}

impl Budget {
    /// That of a key.
    pub(super) fn of(key: Arc<str>) -> Self {
        let room = Room::of(Pool::Requests, Arc::clone(&key));
        Self { key, unread: Arc::new(Mutex::new(Unread { bytes: 0, room })) }
    }

    /// A message is whole: returns its room, to be kept as long as the message is.
    pub(super) fn take(&self) -> Room {
        let mut unread = unpoisoned(self.unread.lock());
        unread.bytes = 0;
        std::mem::replace(&mut unread.room, Room::of(Pool::Requests, Arc::clone(&self.key)))
    }

    /// Leaves the bytes of a control frame out, which belongs to no message.
    pub(super) fn leave_out(&self, payload_bytes: usize) {
        let mut unread = unpoisoned(self.unread.lock());
        unread.bytes = unread.bytes.saturating_sub(payload_bytes + CONTROL_HEAD_BYTES);
    }

    /// Takes room for bytes that have come; returns how many steps of a message there are, or `None`
    /// if there is no room.
    fn grow(&self, bytes: usize) -> Option<usize> {
        let mut unread = unpoisoned(self.unread.lock());
        unread.bytes = unread.bytes.saturating_add(bytes);
        let all = unread.bytes;
        unread.room.grow(all).then_some(all / STEP_BYTES)
    }
}

/// A socket of a client that is read within a budget. A message of more than a step must bring
/// another step, or its end, within a time limit.
#[derive(Debug)]
pub(super) struct Budgeted<I> {
    inner: I,
    budget: Budget,
    idle: Duration,
    steps: usize,
    time: Option<Pin<Box<Sleep>>>,
}

impl<I> Budgeted<I> {
    pub(super) fn new(inner: I, budget: Budget, idle: Duration) -> Self {
        Self { inner, budget, idle, steps: 0, time: None }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Budgeted<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        let bytes = buf.filled().len() - before;
        let Some(steps) = self.budget.grow(bytes) else {
            return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
        };
        if steps != self.steps {
            self.steps = steps;
            self.time = (steps > 0).then(|| Box::pin(sleep(self.idle)));
        }
        if read.is_pending()
            && let Some(time) = &mut self.time
        {
            ready!(time.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Budgeted<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_message_of_more_than_a_step_goes_on_or_its_socket_ends() {
        let (ours, mut theirs) = duplex(1 << 20);
        let budget = Budget::of("of-sockets".into());
        let mut ours = Budgeted::new(ours, budget.clone(), Duration::from_secs(60));
        let mut bytes = vec![0; 2 * STEP_BYTES];
        theirs.write_all(&bytes[..10]).await.unwrap();
        ours.read_exact(&mut bytes[..10]).await.unwrap();
        let silent = tokio::time::timeout(Duration::from_secs(3_600), ours.read_u8()).await;
        assert!(silent.is_err(), "a small part may wait");
        theirs.write_all(&bytes[..STEP_BYTES]).await.unwrap();
        ours.read_exact(&mut bytes[..STEP_BYTES]).await.unwrap();
        let stalled = tokio::time::timeout(Duration::from_secs(61), ours.read_u8()).await;
        assert_eq!(stalled.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn messages_take_room_until_they_are_dropped() {
        let (ours, mut theirs) = duplex(1 << 20);
        let budget = Budget::of("of-messages".into());
        let mut ours = Budgeted::new(ours, budget.clone(), Duration::from_secs(60));
        let mut bytes = vec![0; STEP_BYTES];
        theirs.write_all(&bytes).await.unwrap();
        ours.read_exact(&mut bytes).await.unwrap();
        let message = budget.take();
        assert!(message.is_taken() && !budget.take().is_taken());
        let mut others = Room::of(Pool::Requests, "of-messages".into());
        assert!(!others.grow(512 << 20), "the message has a part of what the key may have");
        drop(message);
        assert!(others.grow(512 << 20));
        theirs.write_all(&bytes).await.unwrap();
        let refused = ours.read_exact(&mut bytes).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::OutOfMemory);
    }
}

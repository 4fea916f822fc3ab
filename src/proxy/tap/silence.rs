//! Notices that a stream has been silent for too long.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;

use crate::clock::Clock;

/// A watch over a stream. Its timer is moved only when it goes off, not with every frame.
#[derive(Debug)]
pub(in crate::proxy) struct Silence {
    most: Duration,
    timer: Pin<Box<Sleep>>,
    last_frame: Duration,
}

impl Silence {
    /// A watch that begins now, for a silence of that length.
    pub(in crate::proxy) fn of(most: Duration, clock: &Clock) -> Self {
        Self { most, timer: Box::pin(tokio::time::sleep(most)), last_frame: clock.running() }
    }

    /// Ends it: a frame has come.
    pub(in crate::proxy) fn end(&mut self, clock: &Clock) {
        self.last_frame = clock.running();
    }

    /// Ready once it has lasted for too long.
    pub(in crate::proxy) fn poll(&mut self, clock: &Clock, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            std::task::ready!(self.timer.as_mut().poll(cx));
            let silent = clock.running().saturating_sub(self.last_frame);
            if silent >= self.most {
                return Poll::Ready(());
            }
            self.timer.set(tokio::time::sleep(self.most.saturating_sub(silent)));
        }
    }
}

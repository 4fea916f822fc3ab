//! Exchanges that outlive their clients.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio_util::task::TaskTracker;

/// An exchange that outlives its client: if dropped before its end, it continues in
/// a task of its own, so that the exact usage is still learned.
pub(super) struct DetachOnDrop<F: Future + Send + 'static> {
    exchange: Option<Pin<Box<F>>>,
    gone: Arc<AtomicBool>,
    drain: Option<Duration>,
    tracker: TaskTracker,
}

impl<F: Future + Send + 'static> DetachOnDrop<F> {
    /// Runs `exchange`; `gone` is set when its client goes away. Without a
    /// `drain` time it ends with its client.
    pub(super) fn new(
        exchange: Pin<Box<F>>,
        gone: Arc<AtomicBool>,
        drain: Option<Duration>,
        tracker: TaskTracker,
    ) -> Self {
        Self { exchange: Some(exchange), gone, drain, tracker }
    }
}

impl<F: Future + Send + 'static> Future for DetachOnDrop<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Some(exchange) = self.exchange.as_mut() else { return Poll::Pending };
        let output = std::task::ready!(exchange.as_mut().poll(cx));
        self.exchange = None;
        Poll::Ready(output)
    }
}

impl<F: Future + Send + 'static> Drop for DetachOnDrop<F> {
    fn drop(&mut self) {
        let Some(exchange) = self.exchange.take() else { return };
        self.gone.store(true, Ordering::Relaxed);
        if let (Some(most), Ok(runtime)) = (self.drain, tokio::runtime::Handle::try_current()) {
            // An exchange that exceeds the bound is settled by dropping its reservation.
            let rest = async move {
                let _ = tokio::time::timeout(most, exchange).await;
            };
            self.tracker.spawn_on(rest, &runtime);
        }
    }
}

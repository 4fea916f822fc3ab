//! Connections without a request: how long each may stay open.
//!
//! A connection is busy while a request is being served. Otherwise it waits for a
//! request, or reads the head of one, and each has a time limit of its own. There is
//! one timer for a connection: it is moved only to an earlier time, or when it has
//! fired too early, so a request on a busy connection costs no timer.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::time::sleep;

/// The time limits of a client's connection.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For the head of a request from its first byte on, for TLS, and for a new
    /// connection's first request.
    pub header: Duration,
    /// For a connection between two requests.
    pub idle: Duration,
}

/// The version of HTTP that a client uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detected {
    Http1,
    Http2,
}

/// What a connection without a request was doing when its time was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expired {
    /// It waited for a request.
    Waiting,
    /// It had a part of a request's head.
    Reading,
}

/// The requests of one connection, counted.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    begun: AtomicU64,
    ended: AtomicU64,
    /// Whether bytes have come while no request was open.
    has_read: AtomicBool,
}

impl Traffic {
    /// Begins a request; it lasts as long as the returned value.
    pub(super) fn begin(self: &Arc<Self>) -> Open {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.has_read.store(false, Ordering::Relaxed);
        Open(Arc::clone(self))
    }

    /// Bytes have come.
    pub(super) fn note_read(&self) {
        if self.ended.load(Ordering::Relaxed) == self.begun.load(Ordering::Relaxed) {
            self.has_read.store(true, Ordering::Relaxed);
        }
    }

    /// Waits until the connection has been without a request for too long.
    ///
    /// It is polled whenever the connection has been, in the same task, so it sees
    /// every state that lasts.
    pub(super) async fn expired(&self, timeouts: Timeouts, speaks: Detected) -> Expired {
        let mut timer = pin!(sleep(timeouts.header));
        let mut due = timer.deadline();
        let mut last = None;
        poll_fn(|cx| {
            let begun = self.begun.load(Ordering::Relaxed);
            if self.ended.load(Ordering::Relaxed) != begun {
                last = None;
                return Poll::Pending;
            }
            // HTTP/2 has frames that belong to no request.
            let is_reading = speaks == Detected::Http1 && self.has_read.load(Ordering::Relaxed);
            let doing = if is_reading { Expired::Reading } else { Expired::Waiting };
            if last != Some((doing, begun)) {
                last = Some((doing, begun));
                let first_or_reading = begun == 0 || is_reading;
                due = sleep(if first_or_reading { timeouts.header } else { timeouts.idle }).deadline();
                if timer.deadline() > due || timer.is_elapsed() {
                    timer.as_mut().reset(due);
                }
            }
            loop {
                ready!(timer.as_mut().poll(cx));
                if timer.deadline() >= due {
                    return Poll::Ready(doing);
                }
                timer.as_mut().reset(due);
            }
        })
        .await
    }
}

/// A request that has not ended.
#[derive(Debug)]
pub(super) struct Open(Arc<Traffic>);

/// Keeps a connection open that has a stream without an end, such as a `WebSocket` over HTTP/2.
#[derive(Clone, Debug)]
pub struct InUse {
    _open: Arc<Open>,
}

impl InUse {
    pub(super) fn new(open: Open) -> Self {
        Self { _open: Arc::new(open) }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUTS: Timeouts = Timeouts { header: Duration::from_secs(10), idle: Duration::from_secs(75) };

    /// Runs the events of a connection beside its timer. Returns what expired, and
    /// after how many seconds.
    async fn expires(traffic: &Arc<Traffic>, story: impl Future<Output = ()>) -> (Expired, u64) {
        let began = sleep(Duration::ZERO).deadline();
        let story = async {
            story.await;
            std::future::pending::<()>().await;
        };
        let expired = tokio::select! {
            biased;
            () = story => unreachable!("the story never ends"),
            expired = traffic.expired(TIMEOUTS, Detected::Http1) => expired,
        };
        (expired, sleep(Duration::ZERO).deadline().duration_since(began).as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn each_state_of_a_connection_has_its_time_limit() {
        let seconds = |count| sleep(Duration::from_secs(count));
        let traffic = Arc::<Traffic>::default();
        assert_eq!(expires(&traffic, async {}).await, (Expired::Waiting, 10), "before the first request");

        let traffic = Arc::<Traffic>::default();
        let served = async {
            let open = traffic.begin();
            seconds(200).await;
            drop(open);
        };
        assert_eq!(expires(&traffic, served).await, (Expired::Waiting, 275), "a long request is no idleness");

        let traffic = Arc::<Traffic>::default();
        let often = async {
            for _ in 0..5 {
                drop(traffic.begin());
                seconds(60).await;
            }
        };
        assert_eq!(expires(&traffic, often).await, (Expired::Waiting, 4 * 60 + 75));

        let traffic = Arc::<Traffic>::default();
        let slow_head = async {
            drop(traffic.begin());
            for _ in 0..20 {
                seconds(4).await;
                traffic.note_read();
            }
        };
        assert_eq!(
            expires(&traffic, slow_head).await,
            (Expired::Reading, 14),
            "10 seconds from its first byte"
        );
    }
}

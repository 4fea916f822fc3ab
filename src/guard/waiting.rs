//! How a request waits for room, and how it is woken.
//!
//! The ledger keeps the queues. A request that is denied for now joins the one at
//! the meter in its way, under the lock that endings take, too; so a call that
//! comes between two attempts is kept by its bell. A dropped [`Wait`] leaves its
//! queue immediately, and the next request is called.

use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::Duration;

use tokio::sync::Notify;

use crate::guard::{Denied, Guard, Reservation, ReserveRequest};
use crate::ledger::denial::{Blocked, Denial};
use crate::ledger::waiting::{Place, Turn};

/// How long a request that may not wait for others does wait for endings of its own guard.
const ENDINGS_MAX: Duration = Duration::from_secs(2);

/// Keeps one call until it is received.
#[derive(Debug, Default)]
struct Bell(Notify);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}

/// A request's wait for room, from its first denial to its last attempt.
#[derive(Debug)]
pub struct Wait {
    guard: Arc<Guard>,
    key: Arc<str>,
    longest: Duration,
    bell: Arc<Bell>,
    /// Its place in the order of arrival.
    ticket: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    /// In no queue yet.
    Fresh,
    /// In a queue, until an instant of the guard's running time.
    Queued { place: Place, until: Duration },
    /// It has waited as long as it may.
    Over,
}

impl Guard {
    /// Begins a wait for room, at most `longest` in all, behind all requests that
    /// arrived before.
    pub fn wait(self: &Arc<Self>, key: &Arc<str>, longest: Duration) -> Wait {
        Wait {
            guard: Arc::clone(self),
            key: Arc::clone(key),
            longest,
            bell: Arc::default(),
            ticket: self.core.ledger().queues().ticket(),
            state: State::Fresh,
        }
    }

    /// Reserves as [`Guard::reserve`] does, waiting in turn for up to `longest` where
    /// other requests' holds stand in the way.
    pub async fn reserve_within(
        self: &Arc<Self>,
        request: ReserveRequest,
        longest: Duration,
    ) -> Result<Reservation, Denied> {
        let mut wait: Option<Wait> = None;
        loop {
            let turn = wait.as_ref().map_or(Turn::Newcomer, Wait::turn);
            let denial = match self.reserve_in_turn(request.clone(), turn).await {
                Err(Denied::ByLimit(denial)) => denial,
                ended => return ended,
            };
            let wait = wait.get_or_insert_with(|| self.wait(&request.attribution.key, longest));
            wait.after(denial).await.map_err(Denied::ByLimit)?;
        }
    }

    /// How many requests wait for room.
    pub fn waiting(&self) -> usize {
        self.core.ledger().queues().len()
    }
}

impl Wait {
    /// The turn of the next attempt.
    pub fn turn(&self) -> Turn {
        match self.state {
            State::Fresh | State::Queued { .. } => Turn::Ticket(self.ticket),
            State::Over => Turn::Last,
        }
    }

    /// After an attempt was denied: returns when the next one is worth making, or
    /// the denial, if none is.
    pub async fn after(&mut self, denial: Denial) -> Result<(), Denial> {
        let Some(place) = denial.place() else { return Err(denial) };
        match &mut self.state {
            State::Fresh if self.longest.is_zero() => {
                self.state = State::Over;
                if self.endings_written().await { Ok(()) } else { Err(denial) }
            }
            State::Fresh => self.join(place).ok_or(denial),
            State::Queued { place: known, .. } if *known != place => {
                self.guard.core.ledger().queues().move_to(self.ticket, place.clone());
                *known = place;
                Ok(())
            }
            State::Queued { until, .. } => {
                let until = *until;
                let left = until.saturating_sub(self.guard.clock().running());
                let longest = self.until_window_ends(&denial).map_or(left, |rest| rest.min(left));
                let _ = tokio::time::timeout(longest, self.bell.0.notified()).await;
                if self.guard.clock().running() >= until {
                    self.guard.core.ledger().queues().leave(self.ticket);
                    self.state = State::Over;
                }
                Ok(())
            }
            State::Over => Err(denial),
        }
    }

    /// Waits until all is written that this guard has queued. `false` on the embedded engine, where
    /// each ending counts at once, and if it can't be written or takes long.
    async fn endings_written(&self) -> bool {
        let core = &self.guard.core;
        core.is_shared()
            && tokio::time::timeout(ENDINGS_MAX, core.flush()).await.is_ok_and(|flushed| flushed.is_ok())
    }

    /// Joins a queue, unless too many wait there. The next attempt is made at once:
    /// what has ended since the last one has called no request.
    fn join(&mut self, place: Place) -> Option<()> {
        let waker = Waker::from(Arc::clone(&self.bell));
        let is_in = self.guard.core.ledger().queues().join(self.ticket, place.clone(), &self.key, waker);
        let until = self.guard.clock().running().saturating_add(self.longest);
        is_in.then(|| self.state = State::Queued { place, until })
    }

    /// A window that begins has room, and nothing ends with that.
    fn until_window_ends(&self, denial: &Denial) -> Option<Duration> {
        let Denial::Held(blocked) = denial else { return None };
        let Blocked { span, .. } = &**blocked;
        let rest_ms = span.end_s.saturating_mul(1_000).saturating_sub(self.guard.clock().now_ms());
        Some(Duration::from_millis(u64::try_from(rest_ms).unwrap_or(0).max(1)))
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if matches!(self.state, State::Queued { .. }) {
            self.guard.core.ledger().queues().leave(self.ticket);
        }
    }
}

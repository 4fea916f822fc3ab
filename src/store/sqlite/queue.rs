//! The queue of writes that wait for the database.
//!
//! Holds overtake all else: a request waits for each of them, and whether one is
//! written before or after other records makes no difference. The rest keeps the
//! ledger's order, and no ending is written before its hold.

use std::time::Duration;

use crate::store::sqlite::pending::{PendingWrite, Record};
use crate::sync::{Condvar, Mutex, MutexGuard, unpoisoned};

/// Records in one group, which bounds how long holds wait for it: about 1 ms.
const GROUP_MAX: usize = 128;

/// How soon the background writer is woken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wake {
    /// Not at all.
    #[default]
    None,
    /// After a while, so that what is queued meanwhile shares the transaction.
    Soon,
    /// At once.
    Now,
}

/// The pending writes, and the condition that wakes the background writer. Its bound is
/// that of the slots: each record owns one or precedes an ending that does.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    wakeup: Condvar,
}

#[derive(Default)]
struct State {
    holds: Vec<PendingWrite>,
    rest: Vec<Record>,
    wake: Wake,
    closed: bool,
}

impl Queue {
    pub(super) fn push_hold(&self, waiting: PendingWrite, wake: Wake) {
        let mut state = self.state();
        state.holds.push(waiting);
        self.notify(state, wake);
    }

    pub(super) fn push(&self, record: Record, wake: Wake) {
        let mut state = self.state();
        state.rest.push(record);
        self.notify(state, wake);
    }

    /// Wakes the thread for what is queued already.
    pub(super) fn wake(&self, wake: Wake) {
        self.notify(self.state(), wake);
    }

    /// Lets the thread end once everything is written.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        self.notify(state, Wake::Now);
    }

    fn notify(&self, mut state: MutexGuard<'_, State>, wake: Wake) {
        if wake > state.wake {
            state.wake = wake;
            drop(state);
            self.wakeup.notify_one();
        }
    }

    /// Waits until the thread is woken; returns whether the queue is closed.
    pub(super) fn wait(&self, linger: Duration) -> bool {
        let idle = |state: &mut State| state.wake == Wake::None;
        let mut state = unpoisoned(self.wakeup.wait_while(self.state(), idle));
        if state.wake == Wake::Soon {
            let unhurried = |state: &mut State| state.wake == Wake::Soon;
            let waited = self.wakeup.wait_timeout_while(state, linger, unhurried);
            state = unpoisoned(waited).0;
        }
        state.wake = Wake::None;
        state.closed
    }

    /// Takes all pending holds, and the next records.
    pub(super) fn take(&self) -> (Vec<PendingWrite>, Vec<Record>) {
        let mut state = self.state();
        let end = state.rest.len().min(GROUP_MAX);
        (std::mem::take(&mut state.holds), state.rest.drain(..end).collect())
    }

    /// Takes all pending holds.
    pub(super) fn take_holds(&self) -> Vec<PendingWrite> {
        std::mem::take(&mut self.state().holds)
    }

    /// Whether a request waits for a hold.
    pub(super) fn is_urgent(&self) -> bool {
        !self.state().holds.is_empty()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        unpoisoned(self.state.lock())
    }
}

//! Facts on their way into the database.
//!
//! Holds overtake everything: somebody waits for them, and whether one is
//! written before or after other facts changes nothing. The rest keeps the
//! ledger's order, and no ending gets ahead of its hold.

use std::time::Duration;

use crate::store::facts::{Record, Waiting};
use crate::sync::{Condvar, Mutex, MutexGuard, unpoisoned};

/// Records in one group, which bounds how long holds wait for it: about 1 ms.
const GROUP_MAX: usize = 128;

/// How urgently the writer's thread is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Call {
    /// Not at all.
    #[default]
    None,
    /// In a while, so that what comes meanwhile shares the transaction.
    Soon,
    /// At once.
    Now,
}

/// What is to be written, and the bell of the writer's thread. Its bound is
/// that of the slots: each record owns one or precedes an ending that does.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Default)]
struct State {
    holds: Vec<Waiting>,
    rest: Vec<Record>,
    call: Call,
    closed: bool,
}

impl Queue {
    pub(super) fn push_hold(&self, waiting: Waiting, call: Call) {
        let mut state = self.state();
        state.holds.push(waiting);
        self.ring(state, call);
    }

    pub(super) fn push(&self, record: Record, call: Call) {
        let mut state = self.state();
        state.rest.push(record);
        self.ring(state, call);
    }

    /// Calls the thread for what is queued already.
    pub(super) fn call(&self, call: Call) {
        self.ring(self.state(), call);
    }

    /// Lets the thread end once everything is written.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        self.ring(state, Call::Now);
    }

    fn ring(&self, mut state: MutexGuard<'_, State>, call: Call) {
        if call > state.call {
            state.call = call;
            drop(state);
            self.bell.notify_one();
        }
    }

    /// Waits until the thread is called; returns whether the queue is closed.
    pub(super) fn wait(&self, linger: Duration) -> bool {
        let idle = |state: &mut State| state.call == Call::None;
        let mut state = unpoisoned(self.bell.wait_while(self.state(), idle));
        if state.call == Call::Soon {
            let unhurried = |state: &mut State| state.call == Call::Soon;
            let waited = self.bell.wait_timeout_while(state, linger, unhurried);
            state = unpoisoned(waited).0;
        }
        state.call = Call::None;
        state.closed
    }

    /// Takes all holds that wait, and the next records.
    pub(super) fn take(&self) -> (Vec<Waiting>, Vec<Record>) {
        let mut state = self.state();
        let end = state.rest.len().min(GROUP_MAX);
        (std::mem::take(&mut state.holds), state.rest.drain(..end).collect())
    }

    /// Takes all holds that wait.
    pub(super) fn take_holds(&self) -> Vec<Waiting> {
        std::mem::take(&mut self.state().holds)
    }

    /// Whether somebody waits for a hold.
    pub(super) fn is_urgent(&self) -> bool {
        !self.state().holds.is_empty()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        unpoisoned(self.state.lock())
    }
}

//! Facts on their way into the database, in the ledger's order.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::store::desk::Record;

/// The longest group, which bounds how long one transaction can take.
const GROUP_MAX: usize = 4_096;

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

/// Records in order, and the bell of the writer's thread. Its bound is that of
/// the slots: each record either owns one or precedes an ending that does.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Default)]
struct State {
    records: Vec<Record>,
    call: Call,
    closed: bool,
}

impl Queue {
    pub(super) fn push(&self, record: Record, call: Call) {
        let mut state = self.state();
        state.records.push(record);
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
        let mut state = self.bell.wait_while(self.state(), idle).unwrap_or_else(PoisonError::into_inner);
        if state.call == Call::Soon {
            let unhurried = |state: &mut State| state.call == Call::Soon;
            let waited = self.bell.wait_timeout_while(state, linger, unhurried);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.call = Call::None;
        state.closed
    }

    /// Takes the next group, jobs included.
    pub(super) fn take(&self) -> Vec<Record> {
        let mut state = self.state();
        let end = state.records.len().min(GROUP_MAX);
        state.records.drain(..end).collect()
    }

    /// Takes the facts that somebody waits for and all before them; a job may
    /// take long, so what comes after it waits with it.
    pub(super) fn take_urgent(&self) -> Vec<Record> {
        let mut state = self.state();
        let end = state.urgent().min(GROUP_MAX);
        state.records.drain(..end).collect()
    }

    /// Whether somebody waits for a hold that could be written now.
    pub(super) fn is_urgent(&self) -> bool {
        self.state().urgent() > 0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// How many records to write so that no hold before the next job waits.
    fn urgent(&self) -> usize {
        let is_job = |record: &Record| matches!(record, Record::Job(..));
        let facts = self.records.iter().position(is_job).unwrap_or(self.records.len());
        let is_hold = |record: &Record| matches!(record, Record::Hold(..));
        self.records[..facts].iter().rposition(is_hold).map_or(0, |last| last + 1)
    }
}

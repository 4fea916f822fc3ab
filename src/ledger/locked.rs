//! The ledger behind its lock.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard};
use std::task::Waker;

use crate::ledger::Ledger;
use crate::sync::unpoisoned;

/// A ledger that several threads use.
///
/// Its lock is a std lock: it is held for a few map operations and never across an await,
/// so a thread never parks with it.
#[derive(Debug)]
pub struct LockedLedger(Mutex<Ledger>);

/// The ledger, locked. Requests that were called meanwhile are woken after it is
/// unlocked, so that they don't block on the lock.
pub struct Locked<'a> {
    ledger: MutexGuard<'a, Ledger>,
    // Dropped after the lock.
    called: Called,
}

/// Woken when this is dropped.
struct Called(Vec<Waker>);

impl LockedLedger {
    /// A ledger behind its lock.
    pub fn new(ledger: Ledger) -> Self {
        Self(Mutex::new(ledger))
    }

    /// Locks it.
    pub fn lock(&self) -> Locked<'_> {
        Locked { ledger: unpoisoned(self.0.lock()), called: Called(Vec::new()) }
    }
}

impl Deref for Locked<'_> {
    type Target = Ledger;

    fn deref(&self) -> &Ledger {
        &self.ledger
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Ledger {
        &mut self.ledger
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.called.0 = self.ledger.queues().take_called();
    }
}

impl Drop for Called {
    fn drop(&mut self) {
        self.0.drain(..).for_each(Waker::wake);
    }
}

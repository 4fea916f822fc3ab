//! Who writes at the desk, and who takes over.
//!
//! Whoever waits for a hold tries the desk. If it is free he writes what waits;
//! if not, its present owner looks once more before he leaves. So nobody is
//! forgotten and nobody blocks. What nobody waits for is the thread's.
//!
//! The locks are those of `crate::sync`, so that a test can run this very code
//! through every order of its steps.

use std::time::Duration;

use crate::store::desk::Desk;
use crate::store::queue::{Call, Queue};
use crate::sync::{AtomicBool, Mutex, MutexGuard, Ordering, TryLockError, sleep, unpoisoned};

/// How long endings wait for company. Those that a crash catches waiting are
/// charged at their holds.
const LINGER: Duration = Duration::from_millis(20);
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// The queue, the desk, and how it was when it was left.
pub(super) struct Handover {
    pub(super) queue: Queue,
    desk: Mutex<Desk>,
    healthy: AtomicBool,
}

impl Handover {
    pub(super) fn new(desk: Desk) -> Self {
        Self { queue: Queue::default(), desk: Mutex::new(desk), healthy: AtomicBool::new(true) }
    }

    /// What the writer's thread does, until the queue is closed.
    pub(super) fn run(&self) {
        loop {
            let closed = self.queue.wait(LINGER);
            while !self.write_all() || self.queue.is_urgent() {
                if !self.is_healthy() {
                    sleep(RETRY_AFTER);
                }
            }
            if closed {
                return;
            }
        }
    }

    /// Writes what is queued; returns whether nothing was left to do.
    pub(super) fn write_all(&self) -> bool {
        let mut desk = self.desk();
        // Taken under the lock, so that groups stay in order.
        let (holds, records) = self.queue.take();
        let nothing = holds.is_empty() && records.is_empty() && desk.is_clear();
        if nothing && !desk.is_healthy() {
            desk.probe();
        } else {
            desk.write(holds, records);
        }
        let healthy = desk.is_healthy();
        self.healthy.store(healthy, Ordering::Relaxed);
        nothing && healthy
    }

    /// Writes the holds that somebody waits for, unless somebody else is at it
    /// or the database can't be written: then he, or the thread, will do it.
    pub(super) fn write_holds(&self) {
        while self.queue.is_urgent() {
            let mut desk = match self.desk.try_lock() {
                Ok(desk) => desk,
                Err(TryLockError::Poisoned(desk)) => unpoisoned(Err(desk)),
                Err(TryLockError::WouldBlock) => return,
            };
            if desk.is_healthy() {
                desk.write(self.queue.take_holds(), Vec::new());
            }
            if !desk.is_healthy() {
                self.healthy.store(false, Ordering::Relaxed);
                return self.queue.call(Call::Now);
            }
            // Who queued while the desk was taken relies on its last owner.
        }
    }

    pub(super) fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    /// Does work at the desk while nothing is being written.
    pub(super) fn undisturbed<T>(&self, work: impl FnOnce(&mut Desk) -> T) -> T {
        let mut desk = self.desk();
        let done = work(&mut desk);
        // Whoever queued while the desk was taken is served by the thread.
        self.queue.call(Call::Now);
        done
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        unpoisoned(self.desk.lock())
    }
}

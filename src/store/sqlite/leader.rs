//! Group commit: which task writes a group, and which one follows.
//!
//! A task that waits for a hold tries to lock the commit connection. If it gets the lock,
//! it is the leader and commits all pending holds; if not, the present leader looks at the
//! queue once more before it unlocks. So no hold is left behind and no task blocks. Writes
//! that no request waits for belong to the background writer.
//!
//! The locks are those of `crate::sync`, so that a test can run this very code
//! through every order of its steps.

use std::time::Duration;

use crate::store::sqlite::commit_connection::CommitConnection;
use crate::store::sqlite::queue::{Queue, Wake};
use crate::sync::{AtomicBool, Mutex, MutexGuard, Ordering, TryLockError, sleep, unpoisoned};

/// How long an ending waits for others to share its transaction. After a crash within
/// this time its hold is charged instead.
const LINGER: Duration = Duration::from_millis(20);
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// The queue, the commit connection, and whether its last commit succeeded.
pub(super) struct GroupCommit {
    pub(super) queue: Queue,
    connection: Mutex<CommitConnection>,
    healthy: AtomicBool,
}

impl GroupCommit {
    pub(super) fn new(connection: CommitConnection) -> Self {
        Self { queue: Queue::default(), connection: Mutex::new(connection), healthy: AtomicBool::new(true) }
    }

    /// What the background writer does, until the queue is closed.
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
        let mut connection = self.connection();
        // Taken under the lock, so that groups stay in order.
        let (holds, records) = self.queue.take();
        let nothing = holds.is_empty() && records.is_empty() && connection.is_clear();
        if nothing && !connection.is_healthy() {
            connection.probe();
        } else {
            connection.write(holds, records);
        }
        let healthy = connection.is_healthy();
        self.healthy.store(healthy, Ordering::Relaxed);
        nothing && healthy
    }

    /// Commits the pending holds, unless another task is the leader or the database can't
    /// be written: then that task, or the background writer, will do it.
    pub(super) fn write_holds(&self) {
        while self.queue.is_urgent() {
            let mut connection = match self.connection.try_lock() {
                Ok(connection) => connection,
                Err(TryLockError::Poisoned(connection)) => unpoisoned(Err(connection)),
                Err(TryLockError::WouldBlock) => return,
            };
            if connection.is_healthy() {
                connection.write(self.queue.take_holds(), Vec::new());
            }
            if !connection.is_healthy() {
                self.healthy.store(false, Ordering::Relaxed);
                return self.queue.wake(Wake::Now);
            }
            // Holds that were queued while the connection was locked rely on its last leader.
        }
    }

    pub(super) fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    /// Runs work on the connection while nothing is being written.
    pub(super) fn undisturbed<T>(&self, work: impl FnOnce(&mut CommitConnection) -> T) -> T {
        let mut connection = self.connection();
        let done = work(&mut connection);
        // The background writer serves what was queued while the connection was locked.
        self.queue.wake(Wake::Now);
        done
    }

    fn connection(&self) -> MutexGuard<'_, CommitConnection> {
        unpoisoned(self.connection.lock())
    }
}

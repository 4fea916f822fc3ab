//! What `crate::sync` is to the library, with every wait in shuttle's hands.

use std::sync::LockResult;
use std::time::Duration;

pub(crate) use shuttle::sync::atomic::{AtomicBool, Ordering};
pub(crate) use shuttle::sync::{Mutex, MutexGuard};
pub(crate) use std::sync::TryLockError;

/// A panic is the test's own end.
pub(crate) fn unpoisoned<G>(locked: LockResult<G>) -> G {
    locked.unwrap()
}

/// Sleeping is letting others go on.
pub(crate) fn sleep(_: Duration) {
    shuttle::thread::yield_now();
}

/// Shuttle's never times out; this one always may.
#[derive(Default)]
pub(crate) struct Condvar(shuttle::sync::Condvar);

impl Condvar {
    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn wait_while<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        mut is_idle: impl FnMut(&mut T) -> bool,
    ) -> LockResult<MutexGuard<'a, T>> {
        while is_idle(&mut guard) {
            guard = self.0.wait(guard)?;
        }
        Ok(guard)
    }

    /// The time is over as soon as it has begun.
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "the standard library's form")]
    pub(crate) fn wait_timeout_while<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        _: Duration,
        _: impl FnMut(&mut T) -> bool,
    ) -> LockResult<(MutexGuard<'a, T>, bool)> {
        Ok((guard, true))
    }
}

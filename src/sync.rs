//! The locks that threads share: the standard library's, under one name.
//!
//! `tests/order` puts others in their place, which try every order of steps.

use std::io::Write as _;
use std::sync::PoisonError;

pub(crate) use std::sync::atomic::{AtomicBool, Ordering};
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, TryLockError};
pub(crate) use std::thread::sleep;

/// The guard of a lock, of whatever kind; a poisoned lock ends the process.
///
/// A panic under a lock may have left half a change behind, and no other thread can
/// tell. All admitted requests are in the database, so the process ends as with
/// `kill -9`, and the next start continues from there.
pub(crate) fn unpoisoned<G>(locked: Result<G, PoisonError<G>>) -> G {
    locked.unwrap_or_else(|_| {
        // The log has locks of its own.
        let why =
            "error: a thread panicked while it changed shared state; the process ends, start it again\n";
        let _ = std::io::stderr().write_all(why.as_bytes());
        std::process::abort()
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;
    use std::sync::{Arc, RwLock};

    use super::*;

    const POISONS: &str = "SPENDGUARD_TEST_POISONS";
    const ABORTED: i32 = 6;

    fn poison(lock: &Arc<RwLock<u32>>) {
        let lock = Arc::clone(lock);
        let panicked = std::thread::scope(|scope| {
            scope
                .spawn(move || {
                    let _held = lock.write();
                    panic!("in the middle of a change");
                })
                .join()
        });
        assert!(panicked.is_err());
    }

    #[test]
    fn a_poisoned_lock_ends_the_process() {
        if std::env::var_os(POISONS).is_some() {
            let lock = Arc::new(RwLock::new(0));
            assert_eq!(*unpoisoned(lock.read()), 0);
            poison(&lock);
            drop(unpoisoned(lock.read()));
            return;
        }
        // This very test in a process of its own, which must not come to its end.
        let test = "sync::tests::a_poisoned_lock_ends_the_process";
        let ended = Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture"])
            .env(POISONS, "1")
            .output()
            .unwrap();
        assert_eq!(ended.status.signal(), Some(ABORTED), "{ended:?}");
        assert!(String::from_utf8_lossy(&ended.stderr).contains("start it again"), "{ended:?}");
    }
}

//! Runs work that grows with a request's body outside of the threads that serve requests.
//!
//! Each core serves its requests on one thread, so that a body of many megabytes
//! that is parsed, unpacked or counted there would delay every other request on
//! it. One piece of short work and one of long work run at a time, first come first
//! served: the other cores stay free for requests, and an ordinary image does not
//! wait behind the largest bodies.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::guard::Guard;

/// Work on a body up to this size is short: some milliseconds.
const SHORT_BYTES_MAX: usize = 1 << 20;
/// Bodies up to this size are parsed on the thread that serves their request: it
/// takes less than a millisecond.
const PARSED_HERE_BYTES_MAX: usize = 128 << 10;

/// The queues for short and long work. They are bounded by the memory that bodies
/// share.
#[derive(Debug)]
pub(super) struct Turns {
    short: Arc<Semaphore>,
    long: Arc<Semaphore>,
}

impl Default for Turns {
    fn default() -> Self {
        let one = || Arc::new(Semaphore::new(1));
        Self { short: one(), long: one() }
    }
}

impl Guard {
    /// Runs work on a body of that size on another thread, when its turn has come.
    ///
    /// A panic of the work is resumed in the caller.
    pub async fn offload<T, F>(&self, bytes: usize, work: F) -> T
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let turns = if bytes <= SHORT_BYTES_MAX { &self.offload.short } else { &self.offload.long };
        let turn = Arc::clone(turns).acquire_owned().await.expect("it is never closed");
        let done = self.core.blocking(move || {
            // Kept until the work has ended, even if the client disconnects.
            let _turn = turn;
            work()
        });
        done.await.expect("the work did not panic")
    }

    /// Parses a body, on another thread if it is large.
    pub async fn parsed<T, F>(&self, body: &Bytes, parse: F) -> T
    where
        T: Send + 'static,
        F: FnOnce(&Bytes) -> T + Send + 'static,
    {
        if body.len() <= PARSED_HERE_BYTES_MAX {
            return parse(body);
        }
        let body = body.clone();
        self.offload(body.len(), move || parse(&body)).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    const LONG_BYTES: usize = SHORT_BYTES_MAX + 1;

    fn open(folder: &std::path::Path) -> Arc<Guard> {
        let (guard, writer) = crate::guard::opened(folder);
        writer.start().unwrap();
        guard
    }

    #[tokio::test]
    async fn short_work_does_not_wait_for_long_work_and_the_thread_stays_free() {
        let folder = tempfile::tempdir().unwrap();
        let guard = open(folder.path());
        let (finish, finished) = mpsc::sync_channel::<()>(1);
        let long = guard.offload(LONG_BYTES, move || finished.recv().unwrap());
        let short = async {
            assert_eq!(guard.offload(SHORT_BYTES_MAX, || 7).await, 7);
            finish.send(()).unwrap();
        };
        tokio::join!(long, short);
    }

    #[tokio::test]
    async fn pieces_of_long_work_run_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let guard = open(folder.path());
        let running = Arc::new(AtomicUsize::new(0));
        let piece = || {
            let running = Arc::clone(&running);
            guard.offload(LONG_BYTES, move || {
                let others = running.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(std::time::Duration::from_millis(20));
                running.fetch_sub(1, Ordering::SeqCst);
                others
            })
        };
        let others = tokio::join!(piece(), piece(), piece());
        assert_eq!(others, (0, 0, 0));
    }
}

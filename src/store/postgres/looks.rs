//! Looks at the database that those who want one at the same time share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::sleep;

/// Looks that are one at a time, and begin with a least time between them. Each caller gets the
/// result of a look that began after it had asked, so it sees what was committed before; in return
/// it may wait for the end of the look that runs and for that time. However many ask, the database
/// is asked at most once in each interval.
#[derive(Debug)]
pub(super) struct Looks<T> {
    interval: Duration,
    /// Times the intervals.
    runtime: Handle,
    /// The number of the last look that has begun.
    begun: AtomicU64,
    /// The number of the last look that has ended, and what it found.
    last: Mutex<Option<(u64, T)>>,
    /// Taken for an interval by each look.
    may_begin: Arc<Semaphore>,
}

impl<T: Clone> Looks<T> {
    /// Looks that begin with at least this time between them.
    pub(super) fn new(interval: Duration, runtime: Handle) -> Self {
        let may_begin = Arc::new(Semaphore::new(1));
        Self { interval, runtime, begun: AtomicU64::new(0), last: Mutex::new(None), may_begin }
    }

    /// What a look has found that began after this was called; `look` makes it, unless another
    /// caller has by then.
    pub(super) async fn look<F: Future<Output = T>>(&self, look: impl FnOnce() -> F) -> T {
        let before = self.begun.load(Ordering::SeqCst);
        let mut last = self.last.lock().await;
        if let Some((_, found)) = last.as_ref().filter(|(number, _)| *number > before) {
            return found.clone();
        }
        self.begin(&mut last, look).await
    }

    /// What the last look has found if it began less than an interval ago; else what a new one
    /// finds, as by [`Looks::look`].
    pub(super) async fn recent<F: Future<Output = T>>(&self, look: impl FnOnce() -> F) -> T {
        let mut last = self.last.lock().await;
        if let Some((_, found)) = last.as_ref().filter(|_| self.may_begin.available_permits() == 0) {
            return found.clone();
        }
        self.begin(&mut last, look).await
    }

    async fn begin<F: Future<Output = T>>(&self, last: &mut Option<(u64, T)>, look: impl FnOnce() -> F) -> T {
        let permit = Arc::clone(&self.may_begin).acquire_owned().await;
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        // Also if the caller leaves in the middle of its look, and the next one begins another.
        let interval = self.interval;
        self.runtime.spawn(async move {
            sleep(interval).await;
            drop(permit);
        });
        let found = look().await;
        *last = Some((number, found.clone()));
        found
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const INTERVAL: Duration = Duration::from_millis(100);
    const TAKES: Duration = Duration::from_millis(10);

    /// What is committed, and how often it was looked at.
    #[derive(Default)]
    struct World {
        committed: Cell<u32>,
        looks: Cell<u32>,
    }

    async fn seen(looks: &Looks<u32>, world: &World) -> u32 {
        looks
            .look(|| async {
                world.looks.set(world.looks.get() + 1);
                let found = world.committed.get();
                tokio::time::sleep(TAKES).await;
                found
            })
            .await
    }

    #[tokio::test(start_paused = true)]
    async fn each_caller_sees_what_was_committed_before_it_asked_and_few_look() {
        let (looks, world) = (Looks::new(INTERVAL, Handle::current()), World::default());
        let callers = (0..1_000).map(async |number: u32| {
            tokio::time::sleep(Duration::from_millis(u64::from(number))).await;
            world.committed.set(number);
            let seen = tokio::time::timeout(INTERVAL + 2 * TAKES, seen(&looks, &world)).await;
            assert!(seen.as_ref().is_ok_and(|seen| *seen >= number), "{number}: {seen:?}");
        });
        futures_util::future::join_all(callers).await;
        assert!((10..=13).contains(&world.looks.get()), "{} looks in a second", world.looks.get());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_found_lately_is_good_for_an_interval() {
        let (looks, looked) = (Looks::new(INTERVAL, Handle::current()), Cell::new(0));
        for (after, expected) in [(Duration::ZERO, 0), (INTERVAL / 2, 0), (INTERVAL, 1)] {
            sleep(after).await;
            assert_eq!(looks.recent(async || looked.replace(looked.get() + 1)).await, expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_leaves_in_the_middle_of_a_look_leaves_it_to_the_next() {
        let (looks, world) = (Looks::new(INTERVAL, Handle::current()), World::default());
        let first = tokio::time::timeout(TAKES / 2, seen(&looks, &world));
        let second = tokio::time::timeout(INTERVAL / 2, seen(&looks, &world));
        let (first, second) = tokio::join!(first, second);
        assert!(
            first.is_err() && second.is_err() && world.looks.get() == 1,
            "no sooner than after an interval"
        );
        assert_eq!((seen(&looks, &world).await, world.looks.get()), (0, 2));
    }
}

//! The connections that questions and upkeep of tables share, a bounded number.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::sync::unpoisoned;

/// How long the work takes that a connection is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Work {
    /// A few small statements: what a request or a page waits for.
    Short,
    /// It may take seconds. Where there are two connections or more, such work leaves one to what
    /// is short.
    Long,
}

/// Connections that are made when they are wanted, and kept.
///
/// Who has one must not wait for another of them: with all of them at such holders, none would
/// ever be given back.
#[derive(Debug)]
pub(super) struct Pool<C> {
    max: usize,
    state: Mutex<State<C>>,
    /// Notified of each connection that is given back.
    given_back: Condvar,
}

#[derive(Debug)]
struct State<C> {
    kept: Vec<C>,
    /// Connections in use.
    taken: usize,
    /// Those of them that work may take long on.
    long: usize,
}

/// A place for one connection, given back when dropped.
#[derive(Debug)]
pub(super) struct Place<C> {
    pool: Arc<Pool<C>>,
    work: Work,
    /// What is kept once the place is given back.
    pub(super) connection: Option<C>,
}

impl<C> Pool<C> {
    /// A pool of at most so many connections; one at least.
    pub(super) fn new(max: usize) -> Arc<Self> {
        let state = State { kept: Vec::new(), taken: 0, long: 0 };
        Arc::new(Self { max: max.max(1), state: Mutex::new(state), given_back: Condvar::new() })
    }

    /// Waits for a place, at most for so long; `None` if none came free. It has a connection if one
    /// was kept. It blocks.
    pub(super) fn place(self: &Arc<Self>, work: Work, wait_max: Duration) -> Option<Place<C>> {
        let long_max = (self.max - 1).max(1);
        let is_full =
            |state: &mut State<C>| state.taken >= self.max || (work == Work::Long && state.long >= long_max);
        let waited = self.given_back.wait_timeout_while(unpoisoned(self.state.lock()), wait_max, is_full);
        let (mut state, waited) = unpoisoned(waited);
        if waited.timed_out() {
            return None;
        }
        state.taken += 1;
        state.long += usize::from(work == Work::Long);
        Some(Place { pool: Arc::clone(self), work, connection: state.kept.pop() })
    }
}

impl<C> Drop for Place<C> {
    fn drop(&mut self) {
        let mut state = unpoisoned(self.pool.state.lock());
        state.kept.extend(self.connection.take());
        state.taken -= 1;
        state.long -= usize::from(self.work == Work::Long);
        drop(state);
        // All: the first may wait for a place that only short work may take.
        self.pool.given_back.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    #[test]
    fn no_more_are_taken_than_there_are_and_long_work_leaves_one() {
        let pool = Pool::<u8>::new(3);
        let long: Vec<_> = (0..2).map(|_| pool.place(Work::Long, SOON).unwrap()).collect();
        assert!(pool.place(Work::Long, SOON).is_none());
        let short = pool.place(Work::Short, SOON).unwrap();
        assert!(pool.place(Work::Short, SOON).is_none());
        drop(long);
        let others: Vec<_> = (0..2).map(|_| pool.place(Work::Short, SOON).unwrap()).collect();
        assert!(pool.place(Work::Short, SOON).is_none());
        drop((short, others));
        let only = Pool::<u8>::new(1);
        drop(only.place(Work::Long, SOON).unwrap());
        assert!(only.place(Work::Short, SOON).is_some());
    }

    #[test]
    fn who_waits_gets_what_another_gives_back_with_its_connection() {
        let pool = Pool::new(1);
        let mut place = pool.place(Work::Long, SOON).unwrap();
        place.connection = Some(7);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| pool.place(Work::Long, SOON * 500).unwrap().connection.take());
            std::thread::sleep(SOON);
            drop(place);
            assert_eq!(waiting.join().unwrap(), Some(7));
        });
    }
}

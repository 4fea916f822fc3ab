//! The jobs that run, which of them a reservation has claimed, and when each is to be polled.
//!
//! The embedded engine has all jobs in memory, by their objects and by the time at which they
//! are due, so that no number of them makes a look take longer. Where guards share a database,
//! its rows say which jobs run, and only claims are here.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::ledger::entry::OpenJob;
use crate::store::jobs::JobSum;
use crate::sync::unpoisoned;

/// The age at which a job is polled first.
const FIRST_POLL_AFTER: Duration = Duration::from_secs(1);
/// How long a job that was polled is left alone if nothing else is said of it, as the claims of
/// guards that share a database last.
const ASKED_MAX: Duration = Duration::from_secs(180);

/// A job's identity: its kind, and its object at upstream.
pub(super) type JobKey = Arc<(String, String)>;

/// The jobs that run and those that are claimed.
#[derive(Debug, Default)]
pub(super) struct Jobs(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Those that a reservation has: while the row is being written, and from the time that
    /// the hold is resumed until its ending is queued.
    claimed: HashSet<JobKey>,
    /// All others, which are rows of the database, too.
    open: HashMap<JobKey, Waiting>,
    /// How many of those that are open each key has.
    of_keys: HashMap<Arc<str>, usize>,
    /// Work that one caller does at a time, which may take minutes.
    exclusive: HashSet<JobKey>,
    /// How many callers do work that several may do at a time.
    under_way: HashMap<JobKey, usize>,
    /// Those that are to be polled, by the running time at which they are due.
    due: BTreeSet<(Duration, JobKey)>,
}

/// A job that nothing is done about now.
#[derive(Debug)]
struct Waiting {
    open: Arc<OpenJob>,
    /// When it is due; `None` while it is being polled.
    due: Option<Duration>,
    /// How often it was polled.
    polls: u32,
}

impl Jobs {
    /// The jobs of the last run, all due at a running time.
    pub(super) fn of(jobs: Vec<OpenJob>, now: Duration) -> Self {
        let mut state = State::default();
        for open in jobs {
            state.add(key(&open.job.kind, &open.job.object), Arc::new(open), now);
        }
        Self(Mutex::new(state))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        unpoisoned(self.0.lock())
    }

    /// Claims a job for a reservation, unless one of that kind and object runs already.
    pub(super) fn claim(self: &Arc<Self>, key: JobKey) -> Option<JobClaim> {
        let mut state = self.state();
        if state.open.contains_key(&key) || !state.claimed.insert(Arc::clone(&key)) {
            return None;
        }
        drop(state);
        Some(JobClaim { jobs: Arc::clone(self), key: Some(key) })
    }

    /// Hands over a job of the embedded engine, with the claim to it.
    pub(super) fn take(self: &Arc<Self>, key: &JobKey) -> Option<(Arc<OpenJob>, JobClaim)> {
        let mut state = self.state();
        let open = state.remove(key)?;
        state.claimed.insert(Arc::clone(key));
        drop(state);
        Some((open, JobClaim { jobs: Arc::clone(self), key: Some(Arc::clone(key)) }))
    }

    /// A job of the embedded engine, if it runs.
    pub(super) fn find(&self, key: &JobKey) -> Option<Arc<OpenJob>> {
        self.state().open.get(key).map(|waiting| Arc::clone(&waiting.open))
    }

    /// Whether a reservation has a job.
    pub(super) fn is_claimed(&self, key: &JobKey) -> bool {
        self.state().claimed.contains(key)
    }

    /// The first of those that are due by a running time, each with how often it was polled
    /// before. They are due again as [`Jobs::put_off`] says, or some minutes later without it.
    pub(super) fn due(&self, now: Duration, count_max: usize) -> Vec<(Arc<OpenJob>, u32)> {
        let mut state = self.state();
        let mut found = Vec::new();
        while found.len() < count_max && state.due.first().is_some_and(|(due, _)| *due <= now) {
            let Some((_, key)) = state.due.pop_first() else { break };
            let again = now.saturating_add(ASKED_MAX);
            let Some(waiting) = state.open.get_mut(&key) else { continue };
            waiting.due = Some(again);
            found.push((Arc::clone(&waiting.open), waiting.polls));
            waiting.polls = waiting.polls.saturating_add(1);
            state.due.insert((again, key));
        }
        found
    }

    /// Has a job polled again at a running time, unless it has ended or has another hold since, or
    /// was hastened after the poll that this follows from, which was the job's number `polls`.
    /// `None` hastens it.
    pub(super) fn put_off(&self, key: &JobKey, hold: u64, polls: Option<u32>, until: Duration) {
        let mut state = self.state();
        let waiting = state.open.get_mut(key).filter(|waiting| waiting.open.hold.id == hold);
        let Some(waiting) = waiting else { return };
        match polls {
            Some(polls) if waiting.polls != polls.saturating_add(1) => return,
            Some(_) => {}
            // What was asked before counts no more.
            None => waiting.polls = waiting.polls.saturating_add(1),
        }
        if let Some(due) = waiting.due.replace(until) {
            state.due.remove(&(due, Arc::clone(key)));
        }
        state.due.insert((until, Arc::clone(key)));
    }

    /// Takes some work for one caller, unless another one has it.
    pub(super) fn exclusive(self: &Arc<Self>, key: JobKey) -> Option<Exclusive> {
        let is_first = self.state().exclusive.insert(Arc::clone(&key));
        is_first.then(|| Exclusive { jobs: Arc::clone(self), key })
    }

    /// Notes work on an object that several callers may do at a time.
    pub(super) fn begin(self: &Arc<Self>, key: JobKey) -> UnderWay {
        *self.state().under_way.entry(Arc::clone(&key)).or_default() += 1;
        UnderWay { jobs: Arc::clone(self), key }
    }

    /// Whether a caller does some work on an object.
    pub(super) fn is_under_way(&self, key: &JobKey) -> bool {
        self.state().under_way.contains_key(key)
    }

    /// How many jobs of the embedded engine run, and how many of those are for a key.
    pub(super) fn count(&self, key: &str) -> (usize, usize) {
        let state = self.state();
        (state.open.len(), state.of_keys.get(key).copied().unwrap_or(0))
    }

    /// Those of each kind.
    pub(super) fn sums(&self) -> BTreeMap<String, JobSum> {
        let mut sums = BTreeMap::<String, JobSum>::new();
        for (key, waiting) in &self.state().open {
            let held = waiting.open.hold.bound.cost;
            if let Some(sum) = sums.get_mut(&key.0) {
                *sum = JobSum { count: sum.count + 1, held: sum.held + held };
            } else {
                sums.insert(key.0.clone(), JobSum { count: 1, held });
            }
        }
        sums
    }
}

impl State {
    fn add(&mut self, key: JobKey, open: Arc<OpenJob>, due: Duration) {
        *self.of_keys.entry(Arc::clone(&open.hold.attribution.key)).or_default() += 1;
        self.due.insert((due, Arc::clone(&key)));
        self.open.insert(key, Waiting { open, due: Some(due), polls: 0 });
    }

    fn remove(&mut self, key: &JobKey) -> Option<Arc<OpenJob>> {
        let Waiting { open, due, .. } = self.open.remove(key)?;
        if let Some(due) = due {
            self.due.remove(&(due, Arc::clone(key)));
        }
        let of_key = &open.hold.attribution.key;
        if let Some(count) = self.of_keys.get_mut(of_key) {
            *count -= 1;
            if *count == 0 {
                self.of_keys.remove(of_key);
            }
        }
        Some(open)
    }
}

/// Work that no other caller does until this is dropped.
#[derive(Debug)]
pub struct Exclusive {
    jobs: Arc<Jobs>,
    key: JobKey,
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        self.jobs.state().exclusive.remove(&self.key);
    }
}

/// Work of which others can see that it is done, until this is dropped.
#[derive(Debug)]
pub struct UnderWay {
    jobs: Arc<Jobs>,
    key: JobKey,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = self.jobs.state();
        if let Some(count) = state.under_way.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                state.under_way.remove(&self.key);
            }
        }
    }
}

/// The identity of a job.
pub(super) fn key(kind: &str, object: &str) -> JobKey {
    Arc::new((kind.to_owned(), object.to_owned()))
}

/// A reservation's claim to a job. It is released when it is dropped, which must be after the
/// ending of the hold is queued: a row for the same object is then written behind it.
#[derive(Debug)]
pub(super) struct JobClaim {
    jobs: Arc<Jobs>,
    /// `None` once the job is left to the embedded engine's memory.
    key: Option<JobKey>,
}

impl JobClaim {
    /// Leaves the job, whose row is written, to the embedded engine's memory.
    pub(super) fn leave(mut self, open: OpenJob, now: Duration) {
        if let Some(key) = self.key.take() {
            let mut state = self.jobs.state();
            state.claimed.remove(&key);
            state.add(key, Arc::new(open), now.saturating_add(FIRST_POLL_AFTER));
        }
    }
}

impl Drop for JobClaim {
    fn drop(&mut self) {
        if let Some(key) = &self.key {
            let was_claimed = self.jobs.state().claimed.remove(key);
            debug_assert!(was_claimed, "only a claimed job is released");
        }
    }
}

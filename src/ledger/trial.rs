//! A trial of limits: what they would have rejected of the past.
//!
//! A ledger that has these limits alone takes the requests of the past in the order in which they
//! came, each with the hold that it had. What it admits is held until the request has really ended,
//! and then counts what it cost; what it rejects counts on no limit, as nothing of it would have been
//! spent. So the past decides by the code that decides requests.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

use crate::domain::{Limit, Money};
use crate::ledger::denial::{Blocked, Denial};
use crate::ledger::entry::{Attribution, Entry};
use crate::ledger::meter::Meter;
use crate::ledger::{Circumstances, Ledger, NotAdmitted, Past, ReserveRequest};

/// Subjects of one limit whose rejections are counted apart; those of others count for the limit.
const SUBJECTS_MAX: usize = 100_000;

/// What a trial has found.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The requests that were tried.
    pub requests: u64,
    /// Those that would have been rejected.
    pub rejected: Rejected,
    /// Those of them whose model has no price, and to which a cap in dollars would have applied.
    pub unpriced: u64,
    /// What each limit would have rejected, in their order.
    pub limits: Vec<OutcomeOfLimit>,
}

/// Requests that would have been rejected.
#[derive(Clone, Debug, Default)]
pub struct Rejected {
    /// How many.
    pub count: u64,
    /// What they have cost.
    pub cost: Money,
    /// When the first and the last of them came, in Unix milliseconds.
    pub span_ms: Option<(i64, i64)>,
}

/// What one limit would have rejected; in shadow mode, what it would have reported.
#[derive(Debug)]
pub struct OutcomeOfLimit {
    /// The limit.
    pub limit: Arc<Limit>,
    /// Of all its subjects.
    pub rejected: Rejected,
    /// By the labels of subjects.
    pub subjects: HashMap<String, OutcomeOfSubject>,
}

/// What a limit would have rejected of one subject.
#[derive(Clone, Debug, Default)]
pub struct OutcomeOfSubject {
    /// The requests.
    pub rejected: Rejected,
    /// The most that the meter would have come to with one of them, in the limit's unit.
    pub peak: i64,
}

/// The end of a request that was admitted in the trial, or a correction of one.
#[derive(Debug)]
struct Due(Entry);

impl Due {
    /// When it is due; of one instant, in the order of ids.
    fn key(&self) -> (i64, u64) {
        (self.0.created_ms, self.0.id)
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// A trial that runs. In memory are the meters of its limits, and what is open at the instant that
/// it has come to.
#[derive(Debug)]
pub struct Trial {
    ledger: Ledger,
    due: BinaryHeap<Reverse<Due>>,
    /// The instant that was come to, and the requests of it that are not admitted: a correction has
    /// the instant of its request, and comes after it.
    at_ms: i64,
    left_out: HashSet<u64>,
    places: HashMap<Arc<str>, usize>,
    outcome: Outcome,
}

impl Rejected {
    fn add(&mut self, entry: &Entry) {
        self.count += 1;
        self.cost = self.cost + entry.cost;
        let first_ms = self.span_ms.map_or(entry.admitted_ms, |(first, _)| first);
        self.span_ms = Some((first_ms, entry.admitted_ms));
    }
}

impl Trial {
    /// A trial of limits that come into force at a time, in Unix milliseconds, with what each of
    /// them has settled before in the window that runs then.
    pub fn new(limits: &[Arc<Limit>], pasts: Vec<Past>, at_ms: i64) -> Self {
        let mut ledger = Ledger::new(1);
        let known: HashMap<&str, Past> = limits.iter().map(|limit| &*limit.name).zip(pasts).collect();
        let staged = ledger.stage(limits, at_ms);
        let history = |of: &crate::ledger::Backfill| {
            of.history(known.get(&*of.limit.name).cloned().unwrap_or_default())
        };
        let seeds = staged.iter().map(history).collect();
        drop(ledger.install(limits, seeds));
        let outcome_of = |limit: &Arc<Limit>| OutcomeOfLimit {
            limit: Arc::clone(limit),
            rejected: Rejected::default(),
            subjects: HashMap::new(),
        };
        let places = limits.iter().enumerate().map(|(place, limit)| (Arc::clone(&limit.name), place));
        Self {
            ledger,
            due: BinaryHeap::new(),
            at_ms,
            left_out: HashSet::new(),
            places: places.collect(),
            outcome: Outcome { limits: limits.iter().map(outcome_of).collect(), ..Outcome::default() },
        }
    }

    /// Takes the next entries of requests and of their corrections, in the order in which the
    /// requests came.
    pub fn take(&mut self, entries: impl IntoIterator<Item = Entry>) {
        for entry in entries {
            if entry.admitted_ms != self.at_ms {
                self.at_ms = entry.admitted_ms;
                self.left_out.clear();
            }
            match entry.corrects {
                None => self.request(entry),
                Some(of) if self.left_out.contains(&of) => {}
                Some(_) => self.due.push(Reverse(Due(entry))),
            }
        }
    }

    /// What was found.
    pub fn finish(self) -> Outcome {
        self.outcome
    }

    /// Applies what has ended by an instant.
    fn end_by(&mut self, at_ms: i64) {
        while self.due.peek().is_some_and(|Reverse(due)| due.0.created_ms <= at_ms) {
            if let Some(Reverse(Due(entry))) = self.due.pop() {
                self.ledger.apply(&entry);
            }
        }
    }

    fn request(&mut self, entry: Entry) {
        self.outcome.requests += 1;
        self.end_by(entry.admitted_ms);
        let of = &entry.attribution;
        let request = ReserveRequest {
            // One without a price is held at nothing.
            is_priced: of.priced_as.is_some() || of.model.is_empty() || entry.held.cost > Money::ZERO,
            ..ReserveRequest::new(Arc::clone(of), entry.held)
        };
        let circumstances = Circumstances { at_ms: entry.admitted_ms, ..Circumstances::default() };
        match self.ledger.admit(request, &circumstances) {
            Ok((hold, admission)) => {
                for limit in admission.would_reject {
                    self.note_shadow(&limit, &entry);
                }
                self.due.push(Reverse(Due(Entry { id: hold.id, ..entry })));
            }
            Err(reason) => {
                self.left_out.insert(entry.id);
                self.outcome.rejected.add(&entry);
                match reason {
                    NotAdmitted::Unpriced(_) => self.outcome.unpriced += 1,
                    NotAdmitted::ByLimit(denial) => self.note(&denial, &entry),
                }
            }
        }
    }

    fn note(&mut self, denial: &Denial, entry: &Entry) {
        let Some(limit) = denial.limit() else { return };
        let blocked = match denial {
            Denial::Exhausted(blocked) | Denial::Held(blocked) | Denial::TooLarge(blocked) => {
                Some(&**blocked)
            }
            Denial::OverClientCap { .. }
            | Denial::NoCredit(_)
            | Denial::CreditHeld(_)
            | Denial::TooManyMeters(_) => None,
        };
        let whose = blocked.map(|Blocked { subject, settled, held, needed, .. }| {
            (subject.label().to_owned(), settled.saturating_add(*held).saturating_add(*needed))
        });
        self.add(&limit.name, whose, entry);
    }

    /// Notes that a limit in shadow mode would have rejected a request, which is held by now.
    fn note_shadow(&mut self, limit: &Arc<Limit>, entry: &Entry) {
        let of: &Attribution = &entry.attribution;
        let full = self.ledger.matching(of, entry.admitted_ms).find_map(|(known, reading)| {
            let Meter { settled, held } = reading.meter;
            let reached = settled.saturating_add(held);
            let is_full =
                Arc::ptr_eq(known, limit) && limit.hard.is_some_and(|hard| hard == 0 || reached > hard);
            is_full.then(|| (reading.subject.label().to_owned(), reached))
        });
        self.add(&limit.name, full, entry);
    }

    fn add(&mut self, limit: &str, whose: Option<(String, i64)>, entry: &Entry) {
        let Some(of) = self.places.get(limit).map(|place| &mut self.outcome.limits[*place]) else { return };
        of.rejected.add(entry);
        let Some((subject, reached)) = whose else { return };
        if of.subjects.len() < SUBJECTS_MAX || of.subjects.contains_key(&subject) {
            let known = of.subjects.entry(subject).or_default();
            known.rejected.add(entry);
            known.peak = known.peak.max(reached);
        }
    }
}

#[cfg(test)]
mod tests;

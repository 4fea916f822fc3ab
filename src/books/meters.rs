//! Meters as operators see them. There may be one for every end user, so they are
//! read in slices, between which requests can take the lock, and only those that
//! are shown are copied.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use crate::books::Books;
use crate::domain::{Limit, Span};
use crate::ledger::meter::{Meter, Reading, Subject};
use crate::ledger::walk::InForce;

/// Some meters of one limit.
#[derive(Clone, Debug, Default)]
pub struct Meters {
    /// The requested meters.
    pub readings: Vec<Reading>,
    /// The number of meters in the current window.
    pub total: usize,
}

/// The first of some meters, in the order of a rank.
struct First<R> {
    count_max: usize,
    found: HashMap<Subject, (R, Reading)>,
    /// The rank of the last of them, once there are enough.
    last: Option<R>,
    total: usize,
}

impl<R: Ord + Clone> First<R> {
    fn new(count_max: usize) -> Self {
        Self { count_max, found: HashMap::new(), last: None, total: 0 }
    }

    fn offer(&mut self, rank: R, subject: &Subject, span: Span, meter: Meter) {
        if self.last.as_ref().is_some_and(|last| rank > *last) {
            return;
        }
        let reading = Reading { subject: subject.clone(), span, meter };
        self.found.insert(subject.clone(), (rank, reading));
        // Rarely, so that the cost of a meter does not depend on their number.
        if self.found.len() >= 2 * self.count_max.max(64) {
            let kept = self.sorted();
            self.last = kept.last().map(|(rank, _)| rank.clone());
            self.found = kept.into_iter().map(|of| (of.1.subject.clone(), of)).collect();
        }
    }

    fn sorted(&mut self) -> Vec<(R, Reading)> {
        let mut all: Vec<(R, Reading)> = self.found.drain().map(|(_, of)| of).collect();
        all.sort_unstable_by(|(a, one), (b, other)| a.cmp(b).then_with(|| one.subject.cmp(&other.subject)));
        all.truncate(self.count_max);
        all
    }

    fn meters(mut self) -> Meters {
        let readings = self.sorted().into_iter().map(|(_, reading)| reading).collect();
        Meters { readings, total: self.total }
    }
}

impl Books {
    /// Every limit in force except rates, with all its current meters. Only for
    /// ledgers with few meters.
    pub fn limits(&self) -> Vec<(Arc<Limit>, Vec<Reading>)> {
        let all = |of: InForce| {
            let readings = self.meters_after(&of, None, usize::MAX / 2).readings;
            (of.limit, readings)
        };
        self.core.in_force().into_iter().map(all).collect()
    }

    /// Hands out all current meters of a limit. A meter may be returned twice if
    /// others are removed meanwhile.
    pub fn each_meter(&self, of: &InForce, mut each: impl FnMut(&Subject, Span, Meter)) {
        let (mut walk, at_ms) = (of.walk(), self.core.clock().now_ms());
        // The lock is released between two slices, so that a waiting request gets it.
        while self.core.ledger().walk(&mut walk, at_ms, &mut each) {
            std::thread::yield_now();
        }
    }

    /// The fullest meters of a limit, the fullest first.
    pub fn fullest(&self, of: &InForce, count_max: usize) -> Meters {
        let mut first = First::new(count_max);
        self.each_meter(of, |subject, span, meter| {
            first.total += 1;
            let rank = Reverse(meter.settled.saturating_add(meter.held));
            first.offer(rank, subject, span, meter);
        });
        first.meters()
    }

    /// The meters of a limit by subject, those after `after`.
    pub fn meters_after(&self, of: &InForce, after: Option<&str>, count_max: usize) -> Meters {
        let mut first = First::new(count_max);
        self.each_meter(of, |subject, span, meter| {
            first.total += 1;
            if after.is_none_or(|after| subject.label() > after) {
                first.offer(subject.clone(), subject, span, meter);
            }
        });
        first.meters()
    }
}

//! Walking over a limit's meters in slices, so that requests can take the lock
//! between them: there may be a meter for every end user.

use std::collections::HashMap;
use std::sync::Arc;

use crate::domain::limit::Per;
use crate::domain::{Limit, Span};
use crate::ledger::Ledger;
use crate::ledger::calendar::Windows;
use crate::ledger::entry::Crossing;
use crate::ledger::meter::{Meter, Metered, Meters, Reading, Subject};
use crate::ledger::meter_hold::behind;

/// Meters of one slice: some twenty microseconds.
const SLICE: usize = 1_024;
/// The most thresholds that one slice is searched for.
const CROSSINGS_MAX: usize = 128;

/// A limit in force, found again without searching for its name.
#[derive(Clone, Debug)]
pub struct InForce {
    /// The limit.
    pub limit: Arc<Limit>,
    slot: u32,
}

/// The position of a walk over a limit's meters, from the last place to the first.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    slot: u32,
    end: usize,
}

impl InForce {
    /// A walk over its meters.
    pub fn walk(&self) -> Walk {
        Walk { slot: self.slot, end: usize::MAX }
    }
}

/// A limit with its meters as they were at one instant.
#[derive(Debug)]
pub struct Copied {
    /// The limit.
    pub limit: Arc<Limit>,
    meters: Meters,
}

impl Copied {
    /// Its meters of the window at that time, by subject.
    pub fn readings(&self, at_ms: i64) -> Vec<Reading> {
        let span = Windows::of(&self.limit).span(at_ms.div_euclid(1_000));
        let current = self.meters.iter().filter(|((_, start_s), _)| *start_s == span.start_s);
        let mut readings: Vec<Reading> = current
            .map(|((subject, _), meter)| Reading { subject: subject.clone(), span, meter: *meter })
            .collect();
        readings.sort_unstable_by(|a, b| a.subject.cmp(&b.subject));
        readings
    }
}

/// Meters of limits in force, made of rows where no request waits.
#[derive(Debug)]
pub struct LoadedMeters(Vec<(InForce, Meters)>);

impl LoadedMeters {
    /// The meters of these limits among rows, each by its limit, its subject's label and the start
    /// of its window.
    pub fn of(limits: Vec<InForce>, rows: impl IntoIterator<Item = (String, String, i64, Meter)>) -> Self {
        let mut loaded: Vec<_> = limits.into_iter().map(|of| (of, Meters::default())).collect();
        let names = loaded.iter().enumerate().map(|(place, (of, _))| (Arc::clone(&of.limit.name), place));
        let places: HashMap<Arc<str>, usize> = names.collect();
        for (limit, label, start_s, meter) in rows {
            let Some(place) = places.get(&*limit) else { continue };
            let (of, meters) = &mut loaded[*place];
            *meters.made((Subject::labelled(&of.limit, label), start_s)) = meter;
        }
        Self(loaded)
    }

    /// Each limit with its meters.
    pub fn copied(self) -> Vec<Copied> {
        self.0.into_iter().map(|(of, meters)| Copied { limit: of.limit, meters }).collect()
    }
}

impl Ledger {
    /// Replaces the meters in memory of a shared ledger by those of all guards, to be shown. What
    /// they replace is left to be dropped where no request waits.
    pub fn swap_meters(&mut self, loaded: &mut LoadedMeters) {
        for (of, meters) in &mut loaded.0 {
            if let Some(place) = self.by_slot.get(&of.slot) {
                std::mem::swap(&mut self.limits[*place].meters, meters);
            }
        }
    }

    /// All limits in force with their meters. The meters of one instant can't be
    /// copied in slices, so they are copied raw, which takes a tenth of the time of
    /// reading them.
    pub fn copied(&self) -> Vec<Copied> {
        let limits = self.limits.iter().filter(|metered| metered.in_force);
        let copy = |Metered { limit, meters, .. }: &Metered| Copied {
            limit: Arc::clone(limit),
            meters: meters.clone(),
        };
        limits.map(copy).collect()
    }

    /// The limits in force.
    pub fn in_force(&self) -> Vec<InForce> {
        let limits = self.limits.iter().filter(|metered| metered.in_force);
        limits.map(|Metered { limit, slot, .. }| InForce { limit: Arc::clone(limit), slot: *slot }).collect()
    }

    /// Visits the next slice of meters of the current window; `false` if it was the
    /// last. A meter may be visited twice if others are removed meanwhile.
    pub fn walk(&self, walk: &mut Walk, at_ms: i64, mut each: impl FnMut(&Subject, Span, Meter)) -> bool {
        let Some(place) = self.by_slot.get(&walk.slot) else { return false };
        let (metered, at_s) = (&self.limits[*place], at_ms.div_euclid(1_000));
        if metered.limit.per == Per::Organization {
            // It is there even before anything is spent.
            let Reading { subject, span, meter } = metered.reading(Subject::Organization, at_s);
            each(&subject, span, meter);
            return false;
        }
        let (span, end) = (metered.span(at_s), walk.end.min(metered.meters.len()));
        walk.end = end.saturating_sub(SLICE);
        let slice = (walk.end..end).filter_map(|place| metered.meters.at(place));
        for ((subject, _), meter) in slice.filter(|((_, start_s), _)| *start_s == span.start_s) {
            each(subject, span, *meter);
        }
        walk.end > 0
    }

    /// Every limit in force with its current meters, by subject: for ledgers that are
    /// small, or that no request waits for.
    pub fn limits(&self, at_ms: i64) -> impl Iterator<Item = (Arc<Limit>, Vec<Reading>)> {
        self.in_force().into_iter().map(move |of| {
            let (mut walk, mut readings) = (of.walk(), Vec::new());
            while self.walk(&mut walk, at_ms, |subject, span, meter| {
                readings.push(Reading { subject: subject.clone(), span, meter });
            }) {}
            readings.sort_unstable_by(|a, b| a.subject.cmp(&b.subject));
            (of.limit, readings)
        })
    }

    /// The thresholds that the next slice of meters has already passed, in the window
    /// that runs or in one yet to come; and whether there are more slices.
    pub fn behind(&mut self, walk: &mut Walk, at_ms: i64) -> (Vec<Crossing>, bool) {
        let Some(metered) = self.by_slot.get(&walk.slot).map(|place| &self.limits[*place]) else {
            return (Vec::new(), false);
        };
        let mut end = walk.end.min(metered.meters.len());
        if metered.thresholds.is_empty() {
            end = 0;
        }
        let start_s = metered.span(at_ms.div_euclid(1_000)).start_s;
        let (first, mut found) = (end.saturating_sub(SLICE), Vec::new());
        while end > first && found.len() < CROSSINGS_MAX {
            end -= 1;
            let current = |((_, start), _): &(&(Subject, i64), &Meter)| *start >= start_s;
            if let Some((of, meter)) = metered.meters.at(end).filter(current) {
                found.extend(behind(metered, of, meter.settled, at_ms));
            }
        }
        walk.end = end;
        (self.numbered(found), end > 0)
    }
}

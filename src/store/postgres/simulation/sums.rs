//! The sums of entries and open holds, which every meter and the credit must be.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::domain::{Limit, Window};
use crate::ledger::calendar::Windows;
use crate::ledger::entry::{Attribution, Entry, Hold, Kind, reserved};
use crate::ledger::meter::{Meter, subjects};
use crate::store::postgres::simulation::rows::Place;
use crate::store::postgres::simulation::tables::{Rules, Tables};

/// The sums of entries and open holds.
#[derive(Debug, Default)]
pub(super) struct Sums {
    pub(super) limits: Vec<(Arc<Limit>, Windows)>,
    pub(super) meters: BTreeMap<Place, (Meter, i64)>,
    pub(super) credit: Meter,
    opened_by: Option<u64>,
    /// Cost, by key: what upstream's truth must not pass.
    pub(super) of_keys: BTreeMap<Arc<str>, Meter>,
}

impl Sums {
    /// The sums of all that is stored.
    pub(super) fn of(tables: &Tables) -> Self {
        Self::by(&tables.rules, tables)
    }

    /// The same for other rules than those in force.
    pub(super) fn by(rules: &Rules, tables: &Tables) -> Self {
        let mut sums = Self { opened_by: opened_by(rules), ..Self::default() };
        sums.limits = counted(rules).map(|limit| (Arc::clone(limit), Windows::of(limit))).collect();
        tables.open().for_each(|hold| sums.hold(hold, 1));
        tables.entries.values().for_each(|entry| sums.entry(entry));
        sums
    }

    fn each(&mut self, of: &Attribution, at_ms: i64, mut add: impl FnMut(&Limit, &mut Meter)) {
        for (limit, windows) in &self.limits {
            let span = windows.span(at_ms.div_euclid(1_000));
            for subject in subjects(limit, of) {
                let place = Place { limit: Arc::clone(&limit.name), subject, start_s: span.start_s };
                add(limit, &mut self.meters.entry(place).or_insert((Meter::default(), span.end_s)).0);
            }
        }
    }

    pub(super) fn hold(&mut self, hold: &Hold, sign: i64) {
        let cost = hold.bound.cost.nano() * sign;
        self.each(&hold.attribution, hold.admitted_ms, |limit, meter| {
            meter.held += reserved(&hold.bound, limit.unit) * sign;
        });
        self.of_keys.entry(Arc::clone(&hold.attribution.key)).or_default().held += cost;
        if self.opened_by.is_some_and(|id| hold.id > id) {
            self.credit.held += cost;
        }
    }

    pub(super) fn entry(&mut self, entry: &Entry) {
        if matches!(entry.kind, Kind::Threshold | Kind::Grant) {
            return;
        }
        self.each(&entry.attribution, entry.admitted_ms, |limit, meter| {
            meter.settled += entry.amount(limit.unit);
        });
        let cost = entry.cost.nano();
        self.of_keys.entry(Arc::clone(&entry.attribution.key)).or_default().settled += cost;
        let of = entry.corrects.unwrap_or(entry.id);
        if self.opened_by.is_some_and(|id| of > id) {
            self.credit.settled += cost;
        }
    }

    /// What a limit's meters are made of when it comes into force.
    pub(super) fn of_limit(&self, limit: &str) -> impl Iterator<Item = (&Place, Meter, i64)> {
        let own = self.meters.iter().filter(move |(place, _)| *place.limit == *limit);
        own.map(|(place, (meter, end_s))| (place, *meter, *end_s))
    }
}

/// The grant after which holds count on prepaid credit.
pub(super) fn opened_by(rules: &Rules) -> Option<u64> {
    rules.grants.first().map(|grant| grant.id)
}

/// The limits that have meters.
fn counted(rules: &Rules) -> impl Iterator<Item = &Arc<Limit>> {
    rules.limits.values().filter(|limit| !limit.is_rate() && limit.window != Window::Request)
}

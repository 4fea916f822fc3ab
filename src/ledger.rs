//! The ledger's decisions: what may be reserved, and what each fact changes.
//!
//! Deciding borrows the ledger and returns a fact or a denial; `apply` is the
//! only way that a fact changes it, live and in recovery alike, so that replay
//! equals live by construction. No I/O, no clock: time is an argument.

pub mod account;
mod activation;
mod admission;
pub mod calendar;
pub mod credit;
pub mod denial;
pub mod entry;
pub mod forecast;
mod headroom;
pub mod limit_index;
pub mod locked;
pub mod meter;
mod meter_hold;
mod meters;
pub mod shared;
pub mod trial;
pub mod waiting;
pub mod walk;

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::quality::RandomState;

use crate::domain::limit::Unit;
use crate::domain::{Limit, Money};
use crate::ledger::account::{Account, Terms};
pub use crate::ledger::activation::{Backfill, History, Past, Retired};
pub use crate::ledger::admission::{Admission, Circumstances, Ended, NotAdmitted, ReserveRequest};
use crate::ledger::entry::{Amounts, Attribution, Crossing, Entry, Hold, Kind, reserved};
pub use crate::ledger::headroom::Headroom;
use crate::ledger::limit_index::LimitIndex;
use crate::ledger::meter::{Metered, Reading, Subject};
use crate::ledger::meter_hold::{MeterHold, end_on, hold_on, settle_on};
use crate::ledger::shared::Ids;
use crate::ledger::waiting::{Place, Queues, place};

/// How many meters of past windows each hold checks for removal.
const PRUNED: usize = 32;
/// Meters looked at for one that there is no room for: some hundred microseconds.
const CROWDED_PRUNED: usize = 4_096;

/// Limits with their meters, prepaid credit, and the holds that are open.
#[derive(Debug, Default)]
pub struct Ledger {
    limits: Vec<Metered>,
    /// By places in `limits`, as is the next; rebuilt with every change of it.
    index: LimitIndex,
    by_slot: HashMap<u32, usize, RandomState>,
    holds: HashMap<u64, OpenHold, RandomState>,
    /// Holds of this guard that another has charged in full; their real end is not known yet.
    charged: HashMap<u64, Arc<Hold>, RandomState>,
    ids: Ids,
    next_slot: u32,
    in_doubt: Money,
    released: Amounts,
    /// Prepaid credit, once there was a grant.
    account: Option<Account>,
    terms: Terms,
    queues: Queues,
    /// The version of the limits and of the credit in memory, where guards share them.
    rules_version: i64,
    /// The latest instant that a request was admitted at, in Unix milliseconds.
    latest_ms: i64,
}

#[derive(Clone, Debug)]
struct OpenHold {
    hold: Arc<Hold>,
    meter_holds: Vec<MeterHold>,
}

impl Ledger {
    /// A ledger without limits, whose first fact gets the id `next_id`.
    pub fn new(next_id: u64) -> Self {
        Self { ids: Ids::Counted(next_id), ..Self::default() }
    }

    /// The id for the next hold or correction; each is given once.
    pub fn take_id(&mut self) -> u64 {
        self.ids.take()
    }

    /// The id that the next fact will get; `None` where the database gives them out.
    pub fn next_id(&self) -> Option<u64> {
        match self.ids {
            Ids::Counted(next) => Some(next),
            Ids::Given(_) => None,
        }
    }

    /// The limits in force that may apply to a request of this attribution.
    fn reached<'a>(&'a self, of: &Attribution) -> impl Iterator<Item = &'a Metered> + use<'a> {
        let places = self.index.places(of);
        let limits = (0..places.len()).map(move |at| &self.limits[places[at]]);
        limits.filter(|limit| limit.in_force)
    }

    /// The limits in force that a request of this attribution counts on.
    pub fn matching<'a>(
        &'a self,
        of: &'a Attribution,
        at_ms: i64,
    ) -> impl Iterator<Item = (&'a Arc<Limit>, Reading)> + 'a {
        let at_s = at_ms.div_euclid(1_000);
        self.reached(of).flat_map(move |limit| {
            limit.subjects(of).map(move |subject| (&limit.limit, limit.reading(subject, at_s)))
        })
    }

    /// The open holds.
    pub fn holds(&self) -> impl Iterator<Item = &Arc<Hold>> {
        self.holds.values().map(|open| &open.hold)
    }

    /// The open holds on one limit's current meters, with the amount on each.
    pub fn holds_on(&self, limit: &str, at_ms: i64) -> Vec<(Arc<Hold>, Subject, i64)> {
        let Some(metered) = self.limits.iter().find(|m| m.in_force && *m.limit.name == *limit) else {
            return Vec::new();
        };
        let start_s = metered.span(at_ms.div_euclid(1_000)).start_s;
        let on_it =
            |meter_hold: &&MeterHold| meter_hold.slot == metered.slot && meter_hold.start_s == start_s;
        let of = |open: &OpenHold| {
            let meter_hold = open.meter_holds.iter().find(on_it)?;
            Some((Arc::clone(&open.hold), meter_hold.subject.clone(), meter_hold.amount))
        };
        self.holds.values().filter_map(of).collect()
    }

    /// How many holds are open.
    pub fn open(&self) -> usize {
        self.holds.len()
    }

    /// Forgets meters of past windows, of limits that a request counts on and that
    /// have as many as they may.
    pub fn make_room(&mut self, of: &Attribution, at_ms: i64) {
        if self.is_shared() {
            return;
        }
        for place in self.index.places(of).iter() {
            self.limits[*place].prune(at_ms.div_euclid(1_000), CROWDED_PRUNED);
        }
    }

    /// All room that facts have ever released, whatever it was released on.
    pub fn released(&self) -> Amounts {
        self.released
    }

    /// Money held for requests whose end is not known yet.
    pub fn in_doubt(&self) -> Money {
        self.in_doubt
    }

    /// Applies a hold: its amounts are held on every matching meter.
    pub fn apply_hold(&mut self, hold: &Arc<Hold>) {
        let places = self.index.places(&hold.attribution);
        let mut meter_holds = Vec::with_capacity(places.len());
        let is_shared = self.is_shared();
        for place in places.iter() {
            let metered = &mut self.limits[*place];
            // Where rows are shared, what was loaded of them has to stay until it is written back.
            if !is_shared {
                metered.prune(hold.admitted_ms.div_euclid(1_000), PRUNED);
            }
            hold_on(metered, hold, &mut meter_holds);
        }
        self.in_doubt = self.in_doubt + hold.bound.cost;
        self.latest_ms = self.latest_ms.max(hold.admitted_ms);
        if let Some(account) = &mut self.account {
            account.hold(hold);
        }
        self.holds.insert(hold.id, OpenHold { hold: Arc::clone(hold), meter_holds });
    }

    /// Applies an entry. An ending replaces its hold; a correction is added to
    /// the window of what it corrects. Returns the soft thresholds crossed.
    pub fn apply(&mut self, entry: &Entry) -> Vec<Crossing> {
        let mut crossings = Vec::new();
        match entry.kind {
            Kind::Settle | Kind::Release if entry.corrects.is_none() => {
                let Some(open) = self.holds.remove(&entry.id) else { return crossings };
                self.in_doubt = self.in_doubt - open.hold.bound.cost;
                for unit in Unit::ALL {
                    self.free(unit, reserved(&open.hold.bound, unit).saturating_sub(entry.amount(unit)));
                }
                for meter_hold in &open.meter_holds {
                    self.end_meter_hold(meter_hold, &open.hold, entry, &mut crossings);
                }
                if let Some(account) = &mut self.account {
                    account.end(&open.hold, entry.cost);
                    self.queues.call(&Place::Credit);
                }
            }
            Kind::Settle | Kind::Release | Kind::Adjust => {
                for unit in Unit::ALL {
                    self.free(unit, entry.amount(unit).saturating_neg());
                }
                let at_s = entry.admitted_ms.div_euclid(1_000);
                for place in self.index.places(&entry.attribution).iter() {
                    let limit = &mut self.limits[*place];
                    for subject in limit.subjects(&entry.attribution) {
                        let start_s = limit.span(at_s).start_s;
                        let now_s = entry.created_ms.div_euclid(1_000);
                        if !limit.in_force || limit.span(now_s).start_s == start_s {
                            limit.meters.made((subject.clone(), start_s));
                        }
                        let amount = entry.amount(limit.limit.unit);
                        settle_on(limit, &subject, start_s, amount, entry.created_ms, &mut crossings);
                    }
                }
                if let Some(account) = &mut self.account {
                    account.adjust(entry);
                }
                self.queues.call_all();
            }
            Kind::Threshold | Kind::Grant => {}
        }
        if let Some(account) = &mut self.account {
            crossings.extend(account.low(self.terms, entry.created_ms));
        }
        self.numbered(crossings)
    }

    fn free(&mut self, unit: Unit, amount: i64) {
        let released = &mut self.released[unit.index()];
        *released = released.wrapping_add(amount.max(0));
    }

    fn numbered(&mut self, mut crossings: Vec<Crossing>) -> Vec<Crossing> {
        // Ids that were given out are those of holds.
        if !self.is_shared() {
            for crossing in &mut crossings {
                crossing.id = self.take_id();
            }
        }
        crossings
    }

    fn end_meter_hold(
        &mut self,
        meter_hold: &MeterHold,
        hold: &Hold,
        entry: &Entry,
        crossings: &mut Vec<Crossing>,
    ) {
        // The limit may have been removed since; then no request counts on it.
        let Some(place_of) = self.by_slot.get(&meter_hold.slot) else { return };
        let limit = &mut self.limits[*place_of];
        // A request that was held for a picture and made none does not count on its model.
        let counts = Arc::ptr_eq(&hold.attribution, &entry.attribution)
            || limit.subjects(&entry.attribution).any(|subject| subject == meter_hold.subject);
        let amount = if counts { entry.amount(limit.limit.unit) } else { 0 };
        end_on(limit, meter_hold, amount, entry.created_ms, crossings);
        if !self.queues.is_empty() {
            self.queues.call(&place(&self.limits[*place_of], &meter_hold.subject));
        }
    }
}

#[cfg(test)]
mod tests;

//! Activation of a set of limits: staged, so that it counts new requests; then its
//! past is added; then it decides.
//!
//! There may be as many meters as there are end users, and as many limits as there
//! are keys. Work that takes time for each of them is done outside the ledger's
//! lock: meters are made from the past before, and dropped afterwards.

use std::collections::HashMap;
use std::sync::Arc;

use crate::domain::{Limit, Window};
use crate::ledger::Ledger;
use crate::ledger::limit_index::LimitIndex;
use crate::ledger::meter::{Meter, Metered, Meters, Subject};
use crate::ledger::meter_hold::hold_on;

/// A limit whose past has to be read from the database before it decides.
#[derive(Clone, Debug)]
pub struct Backfill {
    /// Its place among the limits, whatever becomes of them meanwhile.
    slot: u32,
    /// The limit.
    pub limit: Arc<Limit>,
    /// Where the first window starts that counts, in Unix seconds.
    pub since_s: i64,
}

/// The past of a limit: its settled sums by subject and window start. If the clock
/// was set back between two runs, some windows are in the future.
pub type Past = HashMap<(Subject, i64), i64>;

/// A staged limit's meters as its past makes them.
#[derive(Debug)]
pub struct History {
    slot: u32,
    meters: Meters,
}

impl Backfill {
    /// Makes meters of what the database knows of this limit.
    pub fn history(&self, past: Past) -> History {
        let meter = |(place, settled)| (place, Meter { settled, held: 0 });
        History { slot: self.slot, meters: past.into_iter().map(meter).collect() }
    }
}

/// The replaced limits, to be dropped where no request waits.
#[derive(Debug)]
pub struct Retired {
    _limits: Vec<Metered>,
}

/// The places of limits by their names; a staged one has the name of another.
fn by_name(limits: &[Metered]) -> HashMap<Arc<str>, Vec<usize>> {
    let mut places: HashMap<Arc<str>, Vec<usize>> = HashMap::new();
    for (place, metered) in limits.iter().enumerate() {
        places.entry(Arc::clone(&metered.limit.name)).or_default().push(place);
    }
    places
}

impl Ledger {
    /// Stages a new set of limits. They count from now on; the past of the returned
    /// ones has to be added by [`Ledger::install`] before the set decides.
    ///
    /// A limit that counts as before keeps its meters: changing a cap never
    /// changes usage.
    pub fn stage(&mut self, limits: &[Arc<Limit>], at_ms: i64) -> Vec<Backfill> {
        self.limits.retain(|metered| metered.in_force);
        let known = by_name(&self.limits);
        let mut backfills = Vec::new();
        for limit in limits {
            let mut of_name = known.get(&limit.name).into_iter().flatten();
            let is_known = of_name.any(|place| self.limits[*place].limit.counts_like(limit));
            if is_known || limit.window == Window::Request {
                continue;
            }
            let mut metered = self.metered(limit);
            for open in self.holds.values_mut() {
                hold_on(&mut metered, &open.hold, &mut open.meter_holds);
            }
            let since_s = metered.span(at_ms.div_euclid(1_000)).start_s;
            backfills.push(Backfill { slot: metered.slot, limit: Arc::clone(limit), since_s });
            self.limits.push(metered);
        }
        self.reindex();
        backfills
    }

    /// Puts a staged set in force, with what it has settled in the past.
    pub fn install(&mut self, limits: &[Arc<Limit>], seeds: Vec<History>) -> Retired {
        for History { slot, meters } in seeds {
            let Some(place) = self.by_slot.get(&slot) else { continue };
            let metered = &mut self.limits[*place];
            // The counts since it was staged are few compared with its past.
            for (of, Meter { settled, held }) in std::mem::replace(&mut metered.meters, meters).into_all() {
                let meter = metered.meters.made(of);
                meter.settled = meter.settled.saturating_add(settled);
                meter.held = meter.held.saturating_add(held);
            }
        }
        let known = by_name(&self.limits);
        let mut old: Vec<Option<Metered>> = std::mem::take(&mut self.limits).into_iter().map(Some).collect();
        for limit in limits {
            let counts_like = |place: &&usize| {
                old[**place].as_ref().is_some_and(|metered| metered.limit.counts_like(limit))
            };
            let place = known.get(&limit.name).and_then(|places| places.iter().find(counts_like).copied());
            let mut metered =
                place.and_then(|place| old[place].take()).unwrap_or_else(|| self.metered(limit));
            metered.limit = Arc::clone(limit);
            metered.thresholds = limit.thresholds();
            metered.in_force = true;
            self.limits.push(metered);
        }
        self.reindex();
        self.queues.call_all();
        Retired { _limits: old.into_iter().flatten().collect() }
    }

    fn reindex(&mut self) {
        self.index = LimitIndex::of(self.limits.iter().map(|metered| &*metered.limit));
        self.by_slot = self.limits.iter().enumerate().map(|(place, metered)| (metered.slot, place)).collect();
    }

    fn metered(&mut self, limit: &Arc<Limit>) -> Metered {
        self.next_slot += 1;
        Metered::new(self.next_slot, Arc::clone(limit))
    }
}

//! How a set of limits comes into force: staged, so that it counts what comes;
//! then told what was before; then it decides.

use std::collections::HashMap;
use std::sync::Arc;

use crate::domain::{Limit, Window};
use crate::ledger::Ledger;
use crate::ledger::entry::Crossing;
use crate::ledger::line::{behind, hold_on};
use crate::ledger::meter::{Metered, Subject};
use crate::ledger::reach::Reach;

/// A limit whose past has to be read from the database before it decides.
#[derive(Clone, Debug)]
pub struct Seeding {
    /// Its place among the limits, whatever becomes of them meanwhile.
    slot: u32,
    /// The limit.
    pub limit: Arc<Limit>,
    /// Where the first window starts that counts, in Unix seconds.
    pub since_s: i64,
}

/// What a limit has settled in the past, by subject and the window's start. If
/// the clock was set back between two runs, there are windows yet to come.
pub type Past = HashMap<(Subject, i64), i64>;

impl Ledger {
    /// Stages a new set of limits. What they hold from now on is counted at
    /// once; what the database knows of the returned ones has to be added by
    /// [`Ledger::install`] before the set decides.
    ///
    /// A limit that counts as before keeps its meters: changing a cap never
    /// changes usage.
    pub fn stage(&mut self, wanted: &[Arc<Limit>], at_ms: i64) -> Vec<Seeding> {
        self.limits.retain(|metered| metered.in_force);
        let mut seedings = Vec::new();
        for limit in wanted {
            let known = self.limits.iter().any(|m| m.limit.name == limit.name && m.limit.counts_like(limit));
            if known || limit.window == Window::Request {
                continue;
            }
            let mut metered = self.metered(limit);
            for open in self.holds.values_mut() {
                open.lines.extend(hold_on(&mut metered, &open.hold));
            }
            let since_s = metered.span(at_ms.div_euclid(1_000)).start_s;
            seedings.push(Seeding { slot: metered.slot, limit: Arc::clone(limit), since_s });
            self.limits.push(metered);
        }
        self.index();
        seedings
    }

    /// Puts a staged set in force, with what it has settled in the past.
    /// Returns the soft thresholds that are already behind.
    pub fn install(
        &mut self,
        wanted: &[Arc<Limit>],
        past: Vec<(Seeding, Past)>,
        at_ms: i64,
    ) -> Vec<Crossing> {
        for (seeding, sums) in past {
            let Some(place) = self.by_slot.get(&seeding.slot) else { continue };
            let metered = &mut self.limits[*place];
            for (place, amount) in sums {
                let meter = metered.meters.entry(place).or_default();
                meter.settled = meter.settled.saturating_add(amount);
            }
        }
        let mut old = std::mem::take(&mut self.limits);
        for limit in wanted {
            let same = |m: &Metered| m.limit.name == limit.name && m.limit.counts_like(limit);
            let mut metered = match old.iter().position(same) {
                Some(at) => old.swap_remove(at),
                None => self.metered(limit),
            };
            metered.limit = Arc::clone(limit);
            metered.thresholds = limit.thresholds();
            metered.in_force = true;
            self.limits.push(metered);
        }
        self.index();
        self.queues.call_all();
        let behind = self.limits.iter().flat_map(|metered| behind(metered, at_ms)).collect();
        self.numbered(behind)
    }

    fn index(&mut self) {
        self.reach = Reach::of(self.limits.iter().map(|metered| &*metered.limit));
        self.by_slot = self.limits.iter().enumerate().map(|(place, metered)| (metered.slot, place)).collect();
    }

    fn metered(&mut self, limit: &Arc<Limit>) -> Metered {
        self.next_slot += 1;
        Metered::new(self.next_slot, Arc::clone(limit))
    }
}

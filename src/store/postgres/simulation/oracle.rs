//! What must hold of the committed rows, whatever happened before.

mod objects;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::domain::limit::Unit;
use crate::ledger::entry::{Attribution, Crossing, Hold, OpenJob};
use crate::ledger::meter::{Meter, Subject, subjects};
use crate::store::postgres::simulation::log::Log;
use crate::store::postgres::simulation::plan::METER_AGE_S;
use crate::store::postgres::simulation::rows::Place;
use crate::store::postgres::simulation::sums::{Sums, opened_by};
use crate::store::postgres::simulation::tables::{Mark, Rules, Tables, Written, mark};

pub(super) use self::objects::{Object, Period, STORE, number_of, object_id, passed, span_text};

/// How soon a guard admits nothing more: its other lanes may have groups open.
const STOPS_WITHIN_MS: i64 = 6_000;

/// The note of corrections that operators make.
pub(super) const BY_OPERATOR: &str = "by an operator";

/// A request, as its client and upstream know it.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) guard: usize,
    /// The version of the rules by which its key was found.
    pub(super) rules_version: i64,
    pub(super) key: usize,
    pub(super) hold: Option<u64>,
    /// What upstream has charged.
    pub(super) truth: i64,
    /// Whether upstream has charged all.
    pub(super) is_done: bool,
    /// How its guard ended it: tokens, and whether it is a settled request.
    pub(super) ended: Option<(i64, bool)>,
    /// Its guard was killed before the request had ended.
    pub(super) is_orphan: bool,
    /// It was refused.
    pub(super) is_refused: bool,
    /// The object whose period its hold is for.
    pub(super) object: Option<u64>,
    /// Its hold is charged in full since it is that of no job.
    pub(super) is_unfollowed: bool,
}

impl Asked {
    /// A request of a guard for a key.
    pub(super) fn new(guard: usize, key: usize) -> Self {
        Self {
            guard,
            rules_version: 0,
            key,
            hold: None,
            truth: 0,
            is_done: false,
            ended: None,
            is_orphan: false,
            is_refused: false,
            object: None,
            is_unfollowed: false,
        }
    }
}

/// Compares what is committed with what it must be.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    pub(super) asked: BTreeMap<u64, Asked>,
    pub(super) objects: BTreeMap<u64, Object>,
    /// Holds whose ending the database refuses.
    pub(super) unwritable: BTreeSet<u64>,
    /// The database went back: what it says has holes.
    pub(super) went_back: bool,
    sums: Sums,
    ids: BTreeSet<u64>,
    truth: BTreeMap<Arc<str>, i64>,
    /// The last group of each lane, by epoch, that its guard knows to be committed.
    known: BTreeMap<(i64, i64), i64>,
    /// When guards, by epoch, were shown that the database has gone back, in Unix milliseconds.
    noticed: BTreeMap<i64, i64>,
    /// What guards have raised without an entry, by their names.
    raised: Vec<(usize, Mark)>,
    /// Requests that have passed the rate of a key.
    passed: BTreeMap<Arc<str>, i64>,
    /// Groups looked at.
    pub(super) groups: u64,
    /// Requests admitted.
    pub(super) admitted: u64,
}

impl Oracle {
    /// Sums up again all that is stored, after a change of the rules.
    pub(super) fn sum_up(&mut self, tables: &Tables) {
        self.sums = Sums::of(tables);
    }

    /// A guard knows that a group of its lane is committed.
    pub(super) fn learn(&mut self, epoch: i64, lane: i64, group: i64) {
        let known = self.known.entry((epoch, lane)).or_default();
        *known = group.max(*known);
    }

    /// A request has passed the rate of its key: at most as many a minute, and as many at once.
    pub(super) fn pass(&mut self, key: &Arc<str>, elapsed_ms: i64, tables: &Tables, log: &Log) {
        let Some(rate) = tables.rules.limits.get("pace").and_then(|limit| limit.hard) else { return };
        let passed = self.passed.entry(Arc::clone(key)).or_default();
        *passed += 1;
        let most = rate + rate * elapsed_ms / 60_000 + 1;
        log.check(*passed <= most || self.went_back, || {
            format!("{passed} requests of {key} have passed a rate of {rate} after {elapsed_ms} ms")
        });
    }

    /// A group of a lane is open: its guard is shown whether its last group is known.
    pub(super) fn show(&mut self, epoch: i64, lane: i64, group: i64, now_ms: i64) {
        if self.known.get(&(epoch, lane)).is_some_and(|known| *known > group) {
            self.noticed.entry(epoch).or_insert(now_ms);
        }
    }

    /// A guard raises what no entry has caused.
    pub(super) fn raise(&mut self, guard: usize, crossing: &Crossing) {
        self.raised.push((guard, mark(crossing)));
    }

    /// A guard is killed: what it has not written is lost.
    pub(super) fn lose(&mut self, guard: usize) {
        self.raised.retain(|(by, _)| *by != guard);
        for asked in self.asked.values_mut().filter(|asked| asked.guard == guard) {
            asked.is_orphan = true;
        }
    }

    /// In the end, all that was raised is written.
    pub(super) fn check_raised(&self, tables: &Tables, log: &Log) {
        for (guard, mark) in &self.raised {
            log.check(tables.marks.contains(mark), || {
                format!("guard {guard} has raised {mark:?}, which is lost")
            });
        }
    }

    /// Upstream charges a part of a request.
    pub(super) fn charge(&mut self, name: u64, key: &Arc<str>, nano: i64, log: &Log) {
        if let Some(asked) = self.asked.get_mut(&name) {
            asked.truth += nano;
        }
        let truth = self.truth.entry(Arc::clone(key)).or_default();
        *truth += nano;
        self.check_truth(log);
    }

    fn check_truth(&self, log: &Log) {
        if self.went_back {
            return;
        }
        for (key, truth) in &self.truth {
            let Meter { settled, held } = self.sums.of_keys.get(key).copied().unwrap_or_default();
            log.check(*truth <= settled + held, || {
                format!("{key}: upstream has charged {truth}, settled are {settled}, held {held}")
            });
        }
    }

    /// Looks at a group that is about to be written.
    pub(super) fn before(
        &mut self,
        lane: (usize, i64),
        written: &Written,
        tables: &Tables,
        now_ms: i64,
        log: &Log,
    ) {
        let (row, epoch) = (&tables.lanes[&lane], tables.nodes[lane.0].epoch);
        let known = self.known.get(&(epoch, lane.1)).copied().unwrap_or_default();
        let noticed_ms = self.noticed.get(&epoch).copied().unwrap_or(i64::MAX);
        log.check(written.holds.is_empty() || now_ms.saturating_sub(STOPS_WITHIN_MS) < noticed_ms, || {
            format!("lane {lane:?} admits, though its guard has seen that the database has gone back")
        });
        log.check(written.holds.is_empty() || known <= row.group, || {
            format!(
                "lane {lane:?} knows group {known} and admits, though the database has gone back to {}",
                row.group
            )
        });
        if self.went_back {
            return;
        }
        self.accrue(now_ms);
        log.check(written.group > row.group, || {
            format!("lane {lane:?}: group {} is written after {}", written.group, row.group)
        });
        for hold in &written.holds {
            self.before_hold(hold, tables, log);
        }
        let holds = |id: &u64| tables.is_open(*id) || written.holds.iter().any(|hold| hold.id == *id);
        let mut ended = BTreeSet::new();
        for entry in &written.entries {
            let id = entry.id;
            if entry.corrects.is_some() {
                log.check(self.ids.insert(id) && id > 0, || format!("id {id} is used twice"));
                let corrected = entry.corrects.unwrap_or_default();
                log.check(tables.entries.contains_key(&corrected), || {
                    format!("{id} corrects {corrected}, which was never written")
                });
            } else {
                log.check(!tables.entries.contains_key(&id), || format!("hold {id} ends twice"));
                log.check(ended.insert(id) && holds(&id), || {
                    format!("an ending of {id}, which is no open hold")
                });
            }
        }
        for id in &ended {
            log.check(written.ended.contains(id), || format!("hold {id} ends and stays"));
        }
        for OpenJob { hold, job } in &written.jobs {
            log.check(holds(&hold.id) && !written.ended.contains(&hold.id), || {
                format!("{} gets the hold {}, which has ended", job.object, hold.id)
            });
        }
    }

    fn before_hold(&mut self, hold: &Hold, tables: &Tables, log: &Log) {
        let id = hold.id;
        log.check(self.ids.insert(id) && id > 0, || format!("id {id} is used twice"));
        self.admitted += 1;
        if let Some(opened_by) = opened_by(&tables.rules) {
            log.check(id > opened_by, || {
                format!("hold {id} is not counted on the grant {opened_by} before it")
            });
        }
        let name = name_of(&hold.attribution);
        let Some(asked) = self.asked.get_mut(&name) else {
            log.check(false, || format!("hold {id} is of no request"));
            return;
        };
        log.check(asked.hold.is_none(), || {
            format!("request {name} gets two holds: {:?} and {id}", asked.hold)
        });
        log.check(!asked.is_refused, || format!("request {name} was refused and gets hold {id}"));
        asked.hold = Some(id);
        let Rules { version, revoked, .. } = &tables.rules;
        log.check(asked.rules_version >= *version && !revoked.contains(&asked.key), || {
            format!("request {name} is admitted by rules {}, in force are {version}", asked.rules_version)
        });
    }

    /// Looks at what is committed now, after a group.
    pub(super) fn after(&mut self, written: &Written, tables: &Tables, now_s: i64, log: &Log) {
        self.groups += 1;
        if self.went_back {
            return;
        }
        written.holds.iter().for_each(|hold| self.sums.hold(hold, 1));
        self.follow(written, log);
        for entry in &written.entries {
            if entry.corrects.is_none() {
                // Its hold has the same bound and attribution.
                let hold = Hold {
                    id: entry.id,
                    admitted_ms: entry.admitted_ms,
                    attribution: Arc::clone(&entry.attribution),
                    bound: entry.held,
                    tier: entry.tier,
                    price_version: Arc::clone(&entry.price_version),
                    stream: entry.stream,
                };
                self.sums.hold(&hold, -1);
            }
            self.sums.entry(entry);
        }
        self.check_truth(log);
        self.check_sums(tables, now_s, log);
        self.check_caps(written, tables, log);
    }

    /// Every meter and the credit are the sums of entries and open holds, and each threshold
    /// that was passed has its crossing.
    pub(super) fn check_sums(&self, tables: &Tables, now_s: i64, log: &Log) {
        for (place, (sum, end_s)) in &self.sums.meters {
            let row = tables.meters.get(place).map(|row| row.meter);
            let is_removed = end_s + METER_AGE_S <= now_s && sum.held == 0;
            log.check(is_removed || row.unwrap_or_default() == *sum, || {
                format!("{place:?} is {row:?}, its entries and holds come to {sum:?}")
            });
            let Some(limit) = tables.rules.limits.get(&place.limit) else { continue };
            for threshold in limit.thresholds().into_iter().filter(|threshold| *threshold <= sum.settled) {
                let subject = place.subject.label().to_owned();
                let mark = ("soft", Arc::clone(&place.limit), subject, threshold, place.start_s);
                log.check(is_removed || tables.marks.contains(&mark), || {
                    format!("{place:?} has passed {threshold} at {}, and no crossing is written", sum.settled)
                });
            }
        }
        let Some(segments) = &tables.credit else { return };
        let settled: i64 = segments.iter().map(|segment| segment.settled).sum();
        let held: i64 = segments.iter().map(|segment| segment.held).sum();
        let row = Meter { settled, held };
        log.check(row == self.sums.credit, || {
            format!("credit is {row:?}, its entries and holds come to {:?}", self.sums.credit)
        });
    }

    /// What was admitted is within every cap and the credit.
    fn check_caps(&self, written: &Written, tables: &Tables, log: &Log) {
        let corrected: i64 = written
            .entries
            .iter()
            .filter(|entry| entry.note.as_deref() == Some(BY_OPERATOR))
            .map(|entry| entry.cost.nano())
            .sum();
        for hold in &written.holds {
            for (limit, windows) in &self.sums.limits {
                let Some(hard) = tables.rules.limits.get(&limit.name).and_then(|limit| limit.hard) else {
                    continue;
                };
                let start_s = windows.span(hold.admitted_ms.div_euclid(1_000)).start_s;
                for subject in subjects(limit, &hold.attribution) {
                    let place = Place { limit: Arc::clone(&limit.name), subject, start_s };
                    let Some((Meter { settled, held }, _)) = self.sums.meters.get(&place) else { continue };
                    log.check(settled + held - corrected <= hard, || {
                        format!("hold {} is past {place:?}: {settled} + {held} > {hard}", hold.id)
                    });
                }
            }
        }
        if let Some(segments) = tables.credit.as_ref().filter(|_| !written.holds.is_empty()) {
            let granted: i64 = segments.iter().map(|segment| segment.granted).sum();
            let Meter { settled, held } = self.sums.credit;
            log.check(settled + held - corrected <= granted, || {
                format!("holds are past the credit: {settled} + {held} > {granted}")
            });
        }
    }

    /// What is left for a request of a key, in nano-dollars, on all limits and the credit;
    /// `None` if it may not ask at all.
    pub(super) fn room(&self, of: &Attribution, at_ms: i64, tables: &Tables) -> Option<i64> {
        let mut room = i64::MAX;
        for (limit, windows) in &self.sums.limits {
            let hard = tables.rules.limits.get(&limit.name)?.hard?;
            let start_s = windows.span(at_ms.div_euclid(1_000)).start_s;
            for subject in subjects(limit, of) {
                let place = Place { limit: Arc::clone(&limit.name), subject, start_s };
                let meter = self.sums.meters.get(&place).map(|(meter, _)| *meter).unwrap_or_default();
                let left = hard - meter.settled - meter.held;
                if limit.unit == Unit::Usd {
                    room = room.min(left);
                } else if left < 1 {
                    return None;
                }
            }
        }
        if let Some(segments) = &tables.credit {
            let granted: i64 = segments.iter().map(|segment| segment.granted).sum();
            room = room.min(granted - self.sums.credit.settled - self.sums.credit.held);
        }
        Some(room)
    }

    /// What is left of one limit for the whole organization.
    pub(super) fn settled(&self, limit: &str) -> i64 {
        let own = self.sums.meters.iter().filter(|(place, _)| *place.limit == *limit);
        own.filter(|(place, _)| place.subject == Subject::Organization)
            .map(|(_, (meter, _))| meter.settled + meter.held)
            .max()
            .unwrap_or_default()
    }
}

/// The number of the request that a record is of.
pub(super) fn name_of(of: &Attribution) -> u64 {
    of.tags.get("name").and_then(|name| name.parse().ok()).unwrap_or_default()
}

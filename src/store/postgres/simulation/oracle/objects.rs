//! Objects that upstream bills by time: what it has charged for each, and what is booked.

use std::collections::BTreeSet;

use crate::ledger::entry::Entry;
use crate::store::postgres::simulation::log::Log;
use crate::store::postgres::simulation::oracle::{Oracle, name_of};
use crate::store::postgres::simulation::tables::{Tables, Written};

/// The kind of their jobs.
pub(in crate::store::postgres::simulation) const STORE: &str = "store";

/// An object, as upstream knows it, and what the committed rows say of it.
#[derive(Clone, Debug)]
pub(in crate::store::postgres::simulation) struct Object {
    /// The key that pays for it.
    pub(in crate::store::postgres::simulation) key: usize,
    /// Nano-dollars for each second.
    pub(in crate::store::postgres::simulation) rate: i64,
    /// Whether upstream has made it.
    pub(in crate::store::postgres::simulation) is_made: bool,
    /// From when on upstream bills it; an object from before is billed from its first job on.
    began_ms: Option<i64>,
    over_ms: Option<i64>,
    /// When the period of its first job began.
    followed_ms: Option<i64>,
    /// The holds of jobs that began when it was over.
    late: BTreeSet<u64>,
    /// What upstream has charged for its time, and for its files.
    accrued: i64,
    files: i64,
    settled: i64,
    held: i64,
}

/// What decides the cost of a period, as the row of a job keeps it.
#[derive(Clone, Copy, Debug)]
pub(in crate::store::postgres::simulation) struct Period {
    pub(in crate::store::postgres::simulation) from_ms: i64,
    /// What the files cost that its hold was made for.
    pub(in crate::store::postgres::simulation) files: i64,
}

impl Period {
    pub(in crate::store::postgres::simulation) fn text(self) -> String {
        format!("{} {}", self.from_ms, self.files)
    }

    pub(in crate::store::postgres::simulation) fn read(terms: &str) -> Self {
        let (from_ms, files) = two(terms).unwrap();
        Self { from_ms, files }
    }
}

/// The note of the entry of a period.
pub(in crate::store::postgres::simulation) fn span_text(from_ms: i64, until_ms: i64) -> String {
    format!("{from_ms} {until_ms}")
}

fn two(text: &str) -> Option<(i64, i64)> {
    let (first, second) = text.split_once(' ')?;
    first.parse().ok().zip(second.parse().ok())
}

/// What upstream charges for a time.
pub(in crate::store::postgres::simulation) fn passed(rate: i64, from_ms: i64, until_ms: i64) -> i64 {
    rate * (until_ms.div_euclid(1_000) - from_ms.div_euclid(1_000))
}

pub(in crate::store::postgres::simulation) fn object_id(number: u64) -> String {
    format!("store_{number}")
}

pub(in crate::store::postgres::simulation) fn number_of(object: &str) -> u64 {
    object.trim_start_matches("store_").parse().unwrap()
}

impl Object {
    fn new(key: usize, rate: i64, is_made: bool) -> Self {
        Self {
            key,
            rate,
            is_made,
            began_ms: None,
            over_ms: None,
            followed_ms: None,
            late: BTreeSet::new(),
            accrued: 0,
            files: 0,
            settled: 0,
            held: 0,
        }
    }

    /// When it was deleted.
    pub(in crate::store::postgres::simulation) fn over_ms(&self) -> Option<i64> {
        self.over_ms
    }

    /// Whether it is there, and not deleted.
    pub(in crate::store::postgres::simulation) fn lives(&self) -> bool {
        self.is_made && self.over_ms.is_none()
    }
}

impl Oracle {
    /// An object that a key is about to make, or that was made without a guard.
    pub(in crate::store::postgres::simulation) fn add_object(
        &mut self,
        key: usize,
        rate: i64,
        is_made: bool,
    ) -> u64 {
        let number = u64::try_from(self.objects.len()).unwrap() + 1;
        self.objects.insert(number, Object::new(key, rate, is_made));
        number
    }

    /// Upstream makes an object, and bills it from now on.
    pub(in crate::store::postgres::simulation) fn make_object(
        &mut self,
        number: u64,
        now_ms: i64,
        is_calm: bool,
    ) {
        if let Some(object) = self.objects.get_mut(&number) {
            (object.is_made, object.began_ms) = (true, Some(now_ms));
            object.over_ms = is_calm.then_some(now_ms);
        }
    }

    /// Upstream takes files for an object; `false` if that is not there any more.
    pub(in crate::store::postgres::simulation) fn add_files(
        &mut self,
        number: u64,
        (name, cost): (u64, i64),
        log: &Log,
    ) -> bool {
        let Some(object) = self.objects.get_mut(&number).filter(|object| object.lives()) else {
            return false;
        };
        object.files += cost;
        let key = format!("key_{}", object.key).into();
        self.charge(name, &key, cost, log);
        true
    }

    /// Upstream deletes an object.
    pub(in crate::store::postgres::simulation) fn end_object(&mut self, number: u64, now_ms: i64) {
        if let Some(object) = self.objects.get_mut(&number) {
            object.over_ms.get_or_insert(now_ms);
        }
    }

    /// Upstream deletes all objects.
    pub(in crate::store::postgres::simulation) fn end_objects(&mut self, now_ms: i64) {
        for object in self.objects.values_mut() {
            object.over_ms.get_or_insert(now_ms);
        }
    }

    /// Upstream charges all objects for the time until now.
    pub(super) fn accrue(&mut self, now_ms: i64) {
        for object in self.objects.values_mut() {
            let Some(began_ms) = object.began_ms else { continue };
            let until_ms = object.over_ms.map_or(now_ms, |over_ms| over_ms.min(now_ms)).max(began_ms);
            let accrued = passed(object.rate, began_ms, until_ms);
            let key = format!("key_{}", object.key).into();
            *self.truth.entry(key).or_default() += accrued - object.accrued;
            object.accrued = accrued;
        }
    }

    /// Follows the jobs, holds and entries of objects through a group that is committed.
    pub(super) fn follow(&mut self, written: &Written, log: &Log) {
        for hold in &written.holds {
            if let Some(object) = self.object_of(name_of(&hold.attribution)) {
                object.held += hold.bound.cost.nano();
            }
        }
        for entry in &written.entries {
            if let Some(object) = self.object_of(name_of(&entry.attribution)) {
                object.settled += entry.cost.nano();
                object.held -= if entry.corrects.is_none() { entry.held.cost.nano() } else { 0 };
            }
        }
        for open in written.jobs.iter().filter(|open| open.job.kind == STORE) {
            if let Some(object) = self.objects.get_mut(&number_of(&open.job.object)) {
                let object_id = Some(&open.job.object);
                let is_renewed = written.entries.iter().any(|entry| entry.object_id.as_ref() == object_id);
                if object.over_ms.is_some() && !is_renewed {
                    object.late.insert(open.hold.id);
                    continue;
                }
                let from_ms = Period::read(&open.job.terms).from_ms;
                object.followed_ms.get_or_insert(from_ms);
                object.began_ms.get_or_insert(from_ms);
            }
        }
        for (number, object) in &self.objects {
            let Object { accrued, files, settled, held, .. } = object;
            log.check(accrued + files <= settled + held, || {
                format!("object {number}: upstream has charged {accrued} + {files}, settled are {settled}, held {held}")
            });
        }
    }

    fn object_of(&mut self, name: u64) -> Option<&mut Object> {
        let number = self.asked.get(&name)?.object?;
        self.objects.get_mut(&number)
    }

    /// In the end each period of an object is booked once, and what else was held for it is
    /// released, or charged for a reason.
    pub(in crate::store::postgres::simulation) fn check_objects(&self, tables: &Tables, log: &Log) {
        for (number, object) in &self.objects {
            let (mut periods, mut is_whole) = (Vec::new(), true);
            for (name, asked) in self.asked.iter().filter(|(_, asked)| asked.object == Some(*number)) {
                let Some(hold) = asked.hold else { continue };
                let entries = tables.entries.values().filter(|of| of.id == hold || of.corrects == Some(hold));
                let booked: i64 = entries.map(|entry| entry.cost.nano()).sum();
                is_whole &= !asked.is_unfollowed;
                if let Some((from_ms, until_ms)) = tables.entries.get(&hold).and_then(span) {
                    let cost = asked.truth + passed(object.rate, from_ms, until_ms);
                    log.check(booked == cost, || {
                        format!("hold {hold} is for a period of object {number} that cost {cost}, booked are {booked}")
                    });
                    // One that began late was held while others paid for the same time.
                    if !object.late.contains(&hold) {
                        periods.push((from_ms, until_ms));
                    }
                } else {
                    let is_nothing = booked == 0 && asked.truth == 0;
                    log.check(is_nothing || asked.is_orphan || asked.is_unfollowed, || {
                        format!("request {name} (hold {hold}) is for no period of object {number}, booked are {booked}")
                    });
                }
            }
            check_periods(*number, object, periods, is_whole, log);
        }
    }
}

/// The periods of an object follow one another, unless it was not followed for a while.
fn check_periods(number: u64, object: &Object, mut periods: Vec<(i64, i64)>, is_whole: bool, log: &Log) {
    let over_ms = object.over_ms.unwrap_or(i64::MAX);
    periods.sort_unstable();
    for pair in periods.windows(2) {
        let (until_ms, from_ms) = (pair[0].1, pair[1].0);
        log.check(until_ms == from_ms || (!is_whole && until_ms < from_ms), || {
            format!("object {number}: a period until {until_ms} is followed by one from {from_ms}")
        });
    }
    let ends = periods.first().zip(periods.last()).map(|(first, last)| (Some(first.0), last.1));
    let is_whole = !is_whole || ends.is_none_or(|ends| ends == (object.followed_ms, over_ms));
    log.check(is_whole, || format!("object {number} lived until {over_ms}, its periods are {periods:?}"));
    let Object { accrued, files, settled, held, .. } = object;
    log.check(*held == 0 && accrued + files <= *settled, || {
        format!("object {number} cost {accrued} + {files}, booked are {settled}, held {held}")
    });
}

/// The period that an entry is of.
fn span(entry: &Entry) -> Option<(i64, i64)> {
    two(entry.note.as_deref()?)
}

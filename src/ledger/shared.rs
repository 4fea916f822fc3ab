//! A ledger whose counters are rows of a database that several guards share.
//!
//! For each group of requests and endings the engine locks the rows that the group counts
//! on, loads them here, decides, and writes them back. Between two groups the meters here
//! are those of the last one that touched them: good enough to show, never to admit by.
//!
//! Clients name end users and models. So the rows of limits that count each of these apart are
//! counted from time to time; where there are as many as there may be, none is made for a request.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::Arc;

use crate::domain::limit::Per;
use crate::domain::{Limit, Window};
use crate::ledger::account::{Account, Segment};
use crate::ledger::entry::{Attribution, Hold};
use crate::ledger::meter::{METERS_MAX, Meter, Metered, Subject};
use crate::ledger::meter_hold::meter_holds_of;
use crate::ledger::meters::Rows;
use crate::ledger::{Ledger, Retired};

/// The most meters of one limit that are remembered between two groups: those that a look at the
/// whole has found, and some that groups add to them.
const REMEMBERED_MAX: usize = METERS_MAX + METERS_MAX / 8;

/// The place of a meter. Rows are locked in the order of these, by every guard.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MeterKey {
    /// The limit's name.
    pub limit: Arc<str>,
    /// The meter's subject.
    pub subject: Subject,
    /// Where its window starts, in Unix seconds.
    pub start_s: i64,
    /// Where its window ends, in Unix seconds.
    pub end_s: i64,
    slot: u32,
}

/// How many rows there are of a limit's meters in one window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowCount {
    /// The limit's name.
    pub limit: String,
    /// Where the window starts, in Unix seconds.
    pub start_s: i64,
    /// Of a limit per tag, the key whose values they are; of another it has no meaning.
    pub key: Option<String>,
    /// The rows.
    pub rows: usize,
}

/// A limit whose rows are to be counted: as long as it counts what it does now.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Counted {
    /// The limit's name.
    pub limit: Arc<str>,
    /// Whether it counts the values of a tag, of which each key has a most.
    pub by_tag: bool,
    slot: u32,
}

/// The source of the ids of holds and entries.
#[derive(Debug)]
pub(super) enum Ids {
    /// This ledger counts: the next one.
    Counted(u64),
    /// The database gave them out, to be used in their order.
    Given(VecDeque<u64>),
}

impl Default for Ids {
    fn default() -> Self {
        Self::Counted(0)
    }
}

impl Ids {
    /// The next id. Where they are given out and there is none, 0: the id of what gets its
    /// own when it is written.
    pub(super) fn take(&mut self) -> u64 {
        match self {
            Self::Counted(next) => {
                *next += 1;
                *next - 1
            }
            Self::Given(ids) => ids.pop_front().unwrap_or(0),
        }
    }
}

fn key(metered: &Metered, subject: Subject, at_s: i64) -> MeterKey {
    let span = metered.span(at_s);
    let (limit, slot) = (Arc::clone(&metered.limit.name), metered.slot);
    MeterKey { limit, subject, start_s: span.start_s, end_s: span.end_s, slot }
}

impl Ledger {
    /// A ledger without limits, on counters that are shared.
    pub fn shared() -> Self {
        Self { ids: Ids::Given(VecDeque::new()), ..Self::default() }
    }

    /// Whether its counters are rows that it shares with others.
    pub(super) fn is_shared(&self) -> bool {
        matches!(self.ids, Ids::Given(_))
    }

    /// Puts the rules of one version in force: limits whose meters are rows, and credit.
    pub fn put_in_force(
        &mut self,
        limits: &[Arc<Limit>],
        account: Option<Account>,
        rules_version: i64,
        at_ms: i64,
    ) -> Retired {
        self.stage(limits, at_ms);
        self.account = account;
        self.rules_version = rules_version;
        self.install(limits, Vec::new())
    }

    /// The version of the rules in force here.
    pub fn rules_version(&self) -> i64 {
        self.rules_version
    }

    /// Adds ids that the database has given out.
    pub fn give_ids(&mut self, given: impl IntoIterator<Item = u64>) {
        if let Ids::Given(ids) = &mut self.ids {
            ids.extend(given);
        }
    }

    /// Takes back the ids that were not used.
    pub fn take_back_ids(&mut self) -> Vec<u64> {
        match &mut self.ids {
            Ids::Given(ids) => ids.drain(..).collect(),
            Ids::Counted(_) => Vec::new(),
        }
    }

    /// Adds the places of the meters that something admitted at a time counts on, in Unix
    /// milliseconds.
    pub fn meters_of(&self, of: &Attribution, at_ms: i64, found: &mut BTreeSet<MeterKey>) {
        let at_s = at_ms.div_euclid(1_000);
        for place in self.index.places(of).iter() {
            let metered = &self.limits[*place];
            if metered.limit.window != Window::Request {
                found.extend(metered.subjects(of).map(|subject| key(metered, subject, at_s)));
            }
        }
    }

    /// Adds the places of the meters that an open hold counts on; `false` if it is not known.
    pub fn meters_of_hold(&self, id: u64, found: &mut BTreeSet<MeterKey>) -> bool {
        let Some(open) = self.holds.get(&id) else { return false };
        for meter_hold in &open.meter_holds {
            // The limit may have been removed since.
            let Some(place) = self.by_slot.get(&meter_hold.slot) else { continue };
            found.insert(key(&self.limits[*place], meter_hold.subject.clone(), meter_hold.start_s));
        }
        true
    }

    /// Whether a meter was loaded before, so that its row exists.
    pub fn has_meter(&self, key: &MeterKey) -> bool {
        self.metered_of(key).is_some_and(|metered| metered.meters.has(&place_of(key)))
    }

    /// Whether there are as many meters of its limit and window as there may be, by the rows that
    /// were counted last and those that this guard has made since.
    pub fn is_full(&self, key: &MeterKey) -> bool {
        self.metered_of(key).is_some_and(|metered| metered.rows.is_full_for(&key.subject, key.start_s))
    }

    /// The limits whose rows are to be counted.
    pub fn counted_limits(&self) -> Vec<Counted> {
        let counted = |of: &Metered| {
            let by_tag = matches!(of.limit.per, Per::Tag(_));
            Counted { limit: Arc::clone(&of.limit.name), by_tag, slot: of.slot }
        };
        self.limits.iter().filter(|of| is_counted(of)).map(counted).collect()
    }

    /// Replaces the counts of a limit's rows by new ones, unless another has its name by now.
    pub fn note_counted(&mut self, of: &Counted, counts: &[RowCount]) {
        let Some(place) = self.by_slot.get(&of.slot) else { return };
        let mut rows = Rows::default();
        for count in counts {
            rows.add(count.start_s, count.key.as_deref(), count.rows);
        }
        self.limits[*place].rows = rows;
    }

    /// Adds rows that were made to the counts.
    pub fn note_made(&mut self, made: &[RowCount]) {
        for RowCount { limit, start_s, key, rows } in made {
            let mut limits = self.limits.iter_mut();
            if let Some(metered) = limits.find(|of| *of.limit.name == **limit).filter(|of| is_counted(of)) {
                let key = key.as_deref().filter(|_| matches!(metered.limit.per, Per::Tag(_)));
                metered.rows.add(*start_s, key, *rows);
            }
        }
    }

    /// Forgets meters of limits that have many, before a group's are loaded. They are copies of
    /// rows, which are there whenever they are needed again.
    pub fn forget_many_meters(&mut self) {
        let many = self.limits.iter_mut().filter(|metered| metered.meters.len() > REMEMBERED_MAX);
        many.for_each(|metered| metered.meters.clear());
    }

    /// Loads a meter from its row.
    pub fn load_meter(&mut self, key: &MeterKey, meter: Meter) {
        let Some(place) = self.by_slot.get(&key.slot) else { return };
        *self.limits[*place].meters.made(place_of(key)) = meter;
    }

    /// Forgets a meter, whose row is gone.
    pub fn forget_meter(&mut self, key: &MeterKey) {
        if let Some(place) = self.by_slot.get(&key.slot) {
            self.limits[*place].meters.remove(&place_of(key));
        }
    }

    /// A meter, to be written to its row; `None` if its limit is gone.
    pub fn meter(&self, key: &MeterKey) -> Option<Meter> {
        let metered = self.metered_of(key)?;
        Some(metered.meters.get(&place_of(key)).copied().unwrap_or_default())
    }

    fn metered_of(&self, key: &MeterKey) -> Option<&Metered> {
        self.by_slot.get(&key.slot).map(|place| &self.limits[*place])
    }

    /// Loads the segments of prepaid credit from their row.
    pub fn load_credit(&mut self, segments: &[Segment]) {
        if let Some(account) = &mut self.account {
            account.restore_segments(segments);
        }
    }

    /// The segments of prepaid credit, to be written to their row.
    pub fn credit_segments(&self) -> Option<Vec<Segment>> {
        self.account.as_ref().map(|account| account.segments().to_vec())
    }

    /// Forgets which alerts about credit were raised; each is written once all the same.
    pub fn forget_credit_marks(&mut self) {
        self.account.iter_mut().for_each(Account::forget_marks);
    }

    /// Gives up all open holds but these: others have charged them in full. Returns how many.
    pub fn give_up_holds(&mut self, kept: &HashSet<u64>) -> usize {
        let lost: Vec<u64> = self.holds.keys().copied().filter(|id| !kept.contains(id)).collect();
        for id in &lost {
            if let Some(open) = self.holds.remove(id) {
                self.in_doubt = self.in_doubt - open.hold.bound.cost;
                self.note_charged(&open.hold);
            }
        }
        lost.len()
    }

    /// Another guard has charged a hold in full; its real end is not known yet.
    pub fn note_charged(&mut self, hold: &Arc<Hold>) {
        self.charged.insert(hold.id, Arc::clone(hold));
    }

    /// The hold of that id that another guard has charged in full.
    pub fn charged(&self, id: u64) -> Option<&Arc<Hold>> {
        self.charged.get(&id)
    }

    /// Forgets a charged hold, whose real end is written.
    pub fn forget_charged(&mut self, id: u64) {
        self.charged.remove(&id);
    }

    /// An open hold.
    pub fn hold(&self, id: u64) -> Option<&Arc<Hold>> {
        self.holds.get(&id).map(|open| &open.hold)
    }

    /// Takes over an open hold that the rows of its meters count already, by the limits that are
    /// in force now: one whose ending was not written, or one of another guard.
    pub fn put_back(&mut self, hold: &Arc<Hold>) {
        let places = self.index.places(&hold.attribution);
        let meter_holds =
            places.iter().flat_map(|place| meter_holds_of(&self.limits[*place], hold)).collect();
        let open = super::OpenHold { hold: Arc::clone(hold), meter_holds };
        if self.holds.insert(hold.id, open).is_none() {
            self.in_doubt = self.in_doubt + hold.bound.cost;
        }
    }

    /// Forgets a hold that was not written. Its meters are loaded again before they count.
    pub fn forget_hold(&mut self, id: u64) {
        self.charged.remove(&id);
        if let Some(open) = self.holds.remove(&id) {
            self.in_doubt = self.in_doubt - open.hold.bound.cost;
            self.queues.call_all();
        }
    }
}

/// Whether clients name the subjects of a limit: end users, models, values of tags, and keys that
/// no guard has issued. There are no more projects than operators make.
fn is_counted(metered: &Metered) -> bool {
    let Limit { per, only, window, .. } = &*metered.limit;
    let is_open = match per {
        Per::Organization | Per::Project => false,
        Per::Key => only.keys.is_empty(),
        Per::User | Per::Model | Per::Tag(_) => true,
    };
    is_open && *window != Window::Request
}

fn place_of(key: &MeterKey) -> (Subject, i64) {
    (key.subject.clone(), key.start_s)
}

impl Account {
    /// Replaces the segments by those of the account's row.
    pub fn restore_segments(&mut self, segments: &[Segment]) {
        if !segments.is_empty() {
            self.segments = segments.to_vec();
        }
    }
}

//! What the ledger has for each job: its entries as the database has them, and its holds.
//!
//! An ending leaves memory before it is written: until then its hold counts on, as it would for the next guard.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use rusqlite::Connection;
use rusqlite::hooks::Action;
use spendguard::guard::Guard;

use crate::account::{Account, Bill, locked};
use crate::world::AUDIT;

/// How long a hold of a vector store is for, in seconds.
const STORED_S: i64 = 86_400;
/// A session of a container, in seconds.
const SESSION_S: i64 = 1_200;

/// The ids of entries that were written since they were read last.
pub(crate) type Written = Arc<Mutex<Vec<i64>>>;

/// A hold that is open, or has ended by an entry that is not written yet.
#[derive(Debug)]
struct Held {
    name: String,
    nano: i64,
    admitted_s: i64,
    is_open: bool,
}

/// The ledger by the names of jobs.
#[derive(Debug, Default)]
pub(crate) struct Covered {
    /// In nano-dollars.
    settled: BTreeMap<String, i64>,
    entries: BTreeSet<i64>,
    holds: BTreeMap<u64, Held>,
    /// Jobs that ended after more than a session of a container.
    long: BTreeSet<String>,
}

/// What is not covered, as the guard documents.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Excused {
    /// In picodollars.
    pub(crate) pico: u128,
    /// Whether something may have been booked past the caps.
    pub(crate) is_overbooked: bool,
}

/// What is covered of a job.
#[derive(Clone, Copy, Debug, Default)]
struct Cover {
    nano: i64,
    /// Until when storage is held, in Unix seconds, if there is a hold: one of nothing is for no time.
    until_s: Option<i64>,
}

/// Notes from now on which entries are written.
pub(crate) fn note_written(db: &mut Connection) -> Written {
    let written = Written::default();
    let noted = Arc::clone(&written);
    let hook = move |action: Action, _: &str, table: &str, row: i64| {
        if action == Action::SQLITE_INSERT && table == "entry" {
            locked(&noted).push(row);
        }
    };
    db.update_hook(Some(hook)).unwrap();
    written
}

/// The id, the tags and the cost of an entry.
type Row = (i64, String, i64);

fn rows(db: &Connection, of: &str) -> rusqlite::Result<Vec<Row>> {
    let mut query = db.prepare(&format!("SELECT id, tags, cost_nano FROM {of}"))?;
    let found = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    found.collect()
}

impl Covered {
    /// Begins with what a guard finds.
    pub(crate) fn rise(&mut self, db: &Connection) {
        *self = Self::default();
        for of in ["entry", "archive"] {
            self.add(rows(db, of).unwrap());
        }
    }

    /// Reads entries that were written; those that were rolled back are not there. An error where the disk fails now.
    pub(crate) fn read(&mut self, db: &Connection, written: &[i64]) -> rusqlite::Result<()> {
        let ids: Vec<String> = written.iter().map(i64::to_string).collect();
        self.add(rows(db, &format!("entry WHERE id IN ({})", ids.join(",")))?);
        Ok(())
    }

    fn add(&mut self, entries: Vec<Row>) {
        for (id, tags, nano) in entries {
            if self.entries.insert(id)
                && let Some(name) = name_in(&tags)
            {
                *self.settled.entry(name).or_default() += nano;
            }
        }
    }

    /// Looks at the holds.
    pub(crate) fn look(&mut self, guard: &Guard) {
        self.holds.values_mut().for_each(|held| held.is_open = false);
        for (hold, _, nano) in guard.holds_on(AUDIT) {
            let Some(name) = hold.attribution.tags.get("name").cloned() else { continue };
            let admitted_s = hold.admitted_ms.div_euclid(1_000);
            self.holds.insert(hold.id, Held { name, nano, admitted_s, is_open: true });
        }
        let Self { holds, entries, long, .. } = self;
        let is_long = |held: &&Held| !held.is_open && guard.clock().now_s() - held.admitted_s > SESSION_S;
        long.extend(holds.values().filter(is_long).map(|held| held.name.clone()));
        holds.retain(|id, held| held.is_open || !entries.contains(&i64::try_from(*id).unwrap()));
    }

    /// What is covered of each job that has a hold or an entry.
    fn by_name(&self) -> BTreeMap<&str, Cover> {
        let mut covers = BTreeMap::<&str, Cover>::new();
        for (name, nano) in &self.settled {
            covers.entry(name).or_default().nano += nano;
        }
        for held in self.holds.values() {
            let cover = covers.entry(&held.name).or_default();
            cover.nano += held.nano;
            let lasts_s = if held.nano > 0 { STORED_S } else { 0 };
            let until_s = held.admitted_s + lasts_s;
            cover.until_s = Some(cover.until_s.map_or(until_s, |first_s| first_s.min(until_s)));
        }
        covers
    }

    /// Compares what upstream bills for each job with what is covered, and shows each job that is not. Excused are
    /// files of a vector store from the end of its hold on, since no limit had room for them, and a container beyond its
    /// hold while upstream does not delete it.
    pub(crate) fn compare(&self, account: &Account, mut uncovered: impl FnMut(String)) -> Excused {
        let (covers, mut excused) = (self.by_name(), Excused::default());
        account.each_job(|name, bill| {
            let cover = covers.get(name).copied().unwrap_or_default();
            let (billed, covered) = (bill.pico(), u128::try_from(cover.nano).unwrap() * 1_000);
            let due = match bill {
                Bill::Store(bill) => bill.pico_until(cover.until_s.unwrap_or(i64::MAX)),
                Bill::Container(_) if account.is_late() => billed.min(covered),
                Bill::Plain(_)
                | Bill::Drawn(_)
                | Bill::Background(_)
                | Bill::Container(_)
                | Bill::Batch(_)
                | Bill::Session(_) => billed,
            };
            excused.pico += billed - due;
            excused.is_overbooked |= bill.has_sessions() && self.long.contains(name);
            if covered < due {
                uncovered(format!("{name} is billed {due} picodollars, covered are {cover:?}: {bill:?}"));
            }
        });
        excused.is_overbooked |= excused.pico > 0;
        excused
    }
}

/// The name in the tags of an entry.
fn name_in(tags: &str) -> Option<String> {
    let tags: serde_json::Value = serde_json::from_str(tags).ok()?;
    tags["name"].as_str().map(str::to_owned)
}

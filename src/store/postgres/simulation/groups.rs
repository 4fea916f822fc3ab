//! Groups of the lanes, on the database's side: opened with their rows locked, and written.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::time::sleep;

use crate::ledger::entry::{Crossing, Entry, Kind};
use crate::ledger::meter::Meter;
use crate::ledger::shared::RowCount;
use crate::store::postgres::session::{Need, Rows, Wants};
use crate::store::postgres::simulation::database::{Database, Ended};
use crate::store::postgres::simulation::rows::{Place, Row};
use crate::store::postgres::simulation::tables::{MeterRow, State as NodeState, Written};
use crate::throttle::Bucket;

/// What came of opening a group.
#[derive(Debug)]
pub(super) enum Opened {
    Rows(Box<Rows>),
    /// Its lane is closed, or has no row.
    Closed,
}

/// What came of writing a group.
#[derive(Debug)]
pub(super) enum Committed {
    /// The crossings that are new.
    New(Vec<Crossing>),
    /// The database refuses a record.
    Refused,
}

fn made_row(place: &Place) -> RowCount {
    let key = place.subject.key_of_tag().map(str::to_owned);
    RowCount { limit: place.limit.to_string(), start_s: place.start_s, key, rows: 1 }
}

impl Database {
    /// Opens a group on a lane: locks what it wants, in the order of locks.
    pub(super) async fn open(
        self: Arc<Self>,
        id: u64,
        epoch: i64,
        lane: i64,
        wants: Wants,
    ) -> Result<Opened, Ended> {
        self.begin(id)?;
        self.part(id, self.opened(id, epoch, lane, &wants)).await
    }

    async fn opened(&self, id: u64, epoch: i64, lane: i64, wants: &Wants) -> Result<Opened, Ended> {
        let Some(node) = self.state().tables.node(epoch) else {
            self.roll_back(id);
            return Ok(Opened::Closed);
        };
        self.lock(id, Row::Lane(node, lane)).await?;
        let row = self.state().tables.lanes.get(&(node, lane)).cloned();
        let Some(row) = row.filter(|_| self.state().tables.node(epoch) == Some(node)) else {
            self.roll_back(id);
            return Ok(Opened::Closed);
        };
        if !row.is_alive {
            self.roll_back(id);
            return Ok(Opened::Closed);
        }
        self.insert_meters(id, wants).await?;
        let mut rows = Rows { group: row.group, rules_version: row.rules_version, ..Rows::default() };
        for (key, _) in &wants.meters {
            let place = Place::from(key);
            let known = self.meter(id, &place);
            if known.is_some() {
                self.lock(id, Row::Meter(place.clone())).await?;
            }
            // It may have been removed while the lock was waited for.
            let known = known.and_then(|_| self.meter(id, &place));
            rows.meters.push(known.map(|row| row.meter));
        }
        if wants.credit {
            self.lock(id, Row::Credit).await?;
            rows.credit = self.state().tables.credit.clone();
        }
        self.lock_rates(id, wants, &mut rows).await?;
        self.lock_holds(id, wants, &mut rows).await?;
        self.lock_corrected(id, wants, &mut rows).await?;
        if self.has_error() {
            return Err(Ended::RolledBack("an error at random"));
        }
        sleep(self.delay(self.plan.slow_ms / 4)).await;
        let mut state = self.state();
        let backend = state.backends.get_mut(&id).ok_or(Ended::Lost)?;
        backend.lane = Some((node, lane));
        rows.made = backend.inserted.keys().map(made_row).collect();
        rows.ids = (0..wants.ids).map(|_| state.tables.id()).collect();
        rows.now_ms = self.now_ms();
        Ok(Opened::Rows(Box::new(rows)))
    }

    async fn lock_holds(&self, id: u64, wants: &Wants, rows: &mut Rows) -> Result<(), Ended> {
        let orphans: BTreeSet<u64> = wants.orphans.iter().copied().collect();
        let holds = wants.holds.iter().chain(&orphans).copied().collect::<BTreeSet<u64>>();
        for hold in &holds {
            self.lock(id, Row::Hold(*hold)).await?;
            let state = self.state();
            if state.tables.holds.contains_key(hold) && wants.holds.contains(hold) {
                rows.holds.push(*hold);
            }
            if !orphans.contains(hold) {
                continue;
            }
            let node = state.tables.holds.get(hold).map(|row| row.node);
            if node.is_some_and(|node| state.tables.nodes[node].state != NodeState::Alive) {
                rows.orphans.push(*hold);
            }
        }
        for hold in wants.jobs.iter().copied().collect::<BTreeSet<u64>>() {
            self.lock(id, Row::Job(hold)).await?;
            if self.state().tables.jobs.contains_key(&hold) {
                rows.jobs.push(hold);
            }
        }
        Ok(())
    }

    async fn lock_corrected(&self, id: u64, wants: &Wants, rows: &mut Rows) -> Result<(), Ended> {
        for of in &wants.corrected {
            self.lock(id, Row::Entry(*of)).await?;
            let state = self.state();
            let counts = |entry: &&Entry| {
                entry.id == *of || (entry.corrects == Some(*of) && entry.kind == Kind::Adjust)
            };
            if state.tables.entries.contains_key(of) {
                let booked = state.tables.entries.values().filter(counts).map(|entry| entry.cost).sum();
                rows.booked.insert(*of, booked);
            }
        }
        Ok(())
    }

    /// A meter's row, as a connection sees it.
    fn meter(&self, id: u64, place: &Place) -> Option<MeterRow> {
        let state = self.state();
        let inserted = state.backends.get(&id).and_then(|of| of.inserted.get(place));
        let own = inserted.map(|end_s| MeterRow { end_s: *end_s, meter: Meter::default() });
        state.tables.meters.get(place).copied().or(own)
    }

    async fn insert_meters(&self, id: u64, wants: &Wants) -> Result<(), Ended> {
        for (key, need) in &wants.meters {
            let place = Place::from(key);
            let is_there = || self.state().tables.meters.contains_key(&place);
            if *need != Need::New || is_there() {
                continue;
            }
            self.lock(id, Row::NewMeter(place.clone())).await?;
            if !is_there() {
                let mut state = self.state();
                let backend = state.backends.get_mut(&id).ok_or(Ended::Lost)?;
                backend.inserted.insert(place.clone(), key.end_s);
            }
        }
        Ok(())
    }

    async fn lock_rates(&self, id: u64, wants: &Wants, rows: &mut Rows) -> Result<(), Ended> {
        for key in &wants.rates {
            if !self.state().tables.rates.contains_key(key) {
                self.lock(id, Row::NewRate(key.clone())).await?;
            }
        }
        for key in &wants.rates {
            self.lock(id, Row::Rate(key.clone())).await?;
            let bucket = self.state().tables.rates.get(key).cloned();
            rows.rates.insert(key.clone(), bucket.unwrap_or_else(Bucket::default));
        }
        Ok(())
    }

    /// Writes the open group of a connection and commits it.
    pub(super) async fn write(self: Arc<Self>, id: u64, written: Written) -> Result<Committed, Ended> {
        let work = async {
            sleep(self.delay(self.plan.slow_ms / 4)).await;
            if self.has_error() {
                return Err(Ended::RolledBack("an error at random"));
            }
            if !written.crossings.is_empty() {
                sleep(self.delay(self.plan.slow_ms)).await;
            }
            for hold in &written.ended {
                self.wait_for(id, &Row::Hold(*hold)).await?;
            }
            let objects = written.jobs.iter().map(|open| (&open.job.kind, &open.job.object));
            for (kind, object) in objects.collect::<BTreeSet<_>>() {
                self.lock(id, Row::NewJob(kind.clone(), object.clone())).await?;
            }
            if written.is_refused() || self.state().tables.has_second_job(&written) {
                self.roll_back(id);
                return Ok(Committed::Refused);
            }
            self.committed(id, &written)
        };
        self.part(id, work).await
    }

    /// The one instant at which a group is committed.
    fn committed(&self, id: u64, written: &Written) -> Result<Committed, Ended> {
        let (log, now_ms) = (&self.log, self.now_ms());
        let mut state = self.state();
        let backend = state.backends.get_mut(&id).filter(|of| of.is_open).ok_or(Ended::Lost)?;
        let inserted = std::mem::take(&mut backend.inserted);
        let lane = backend.lane.ok_or(Ended::RolledBack("there is no open group"))?;
        let state = &mut *state;
        let locked = |row: Row| state.locks.has(id, &row);
        log.check(locked(Row::Lane(lane.0, lane.1)), || format!("lane {lane:?} is not locked"));
        for (key, _) in &written.meters {
            log.check(locked(Row::Meter(Place::from(key))), || format!("{key:?} is not locked"));
        }
        log.check(written.credit.is_none() || locked(Row::Credit), || "the credit is not locked".to_owned());
        for key in written.rates.keys() {
            log.check(locked(Row::Rate(key.clone())), || format!("{key:?} is not locked"));
        }
        log.note(&format!("lane {lane:?} commits {}", written.shown()));
        state.oracle.before(lane, written, &state.tables, now_ms, log);
        let new_rows =
            inserted.into_iter().map(|(place, end_s)| (place, MeterRow { end_s, meter: Meter::default() }));
        state.tables.meters.extend(new_rows);
        let new = state.tables.write(lane, written);
        state.oracle.after(written, &state.tables, now_ms.div_euclid(1_000), log);
        if let Some(backend) = state.backends.get_mut(&id) {
            (backend.is_open, backend.lane) = (false, None);
        }
        state.locks.release(id);
        Ok(Committed::New(new))
    }

    /// The last group of a lane, once no transaction of it is open; `None` if it has no row.
    pub(super) async fn last_group(
        self: Arc<Self>,
        id: u64,
        epoch: i64,
        lane: i64,
    ) -> Result<Option<i64>, Ended> {
        self.begin(id)?;
        let work = async {
            let Some(node) = self.state().tables.node(epoch) else { return Ok(None) };
            self.lock(id, Row::Lane(node, lane)).await?;
            let state = self.state();
            let is_same = state.tables.node(epoch) == Some(node);
            Ok(state.tables.lanes.get(&(node, lane)).filter(|_| is_same).map(|row| row.group))
        };
        let group = self.part(id, work).await;
        self.roll_back(id);
        group
    }
}

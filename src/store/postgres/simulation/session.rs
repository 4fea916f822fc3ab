//! A lane's session with the simulated database.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use tokio::time::sleep;

use crate::ledger::entry::Crossing;
use crate::store::DatabaseError;
use crate::store::postgres::session::{Failure, Rows, Session, Wants, Writes};
use crate::store::postgres::simulation::connection::{Connection, Link};
use crate::store::postgres::simulation::database::{Database, Ended};
use crate::store::postgres::simulation::groups::{Committed, Opened};
use crate::store::postgres::simulation::members::Rejoined;
use crate::store::postgres::simulation::rules::RulesRead;
use crate::store::postgres::simulation::tables::Written;
use crate::sync::unpoisoned;

/// The rules that the next refresh reads: reading takes a while.
pub(super) type Pinned = Arc<Mutex<Option<RulesRead>>>;

/// A lane's connection, and the row that stands for it.
pub(super) struct SimulatedSession {
    pub(super) database: Arc<Database>,
    pub(super) link: Arc<Link>,
    pub(super) connection: Connection,
    pub(super) pinned: Pinned,
    pub(super) name: usize,
    pub(super) epoch: i64,
    pub(super) lane: i64,
}

fn error(what: &'static str) -> DatabaseError {
    what.into()
}

fn lost() -> DatabaseError {
    error("the connection is gone")
}

impl SimulatedSession {
    fn learn(&self, group: i64) {
        self.database.state().oracle.learn(self.epoch, self.lane, group);
    }
}

impl Session for SimulatedSession {
    async fn open(&mut self, wants: &Wants) -> Result<Rows, Failure> {
        let log = &self.database.log;
        let is_in_order = wants.meters.is_sorted_by(|(a, _), (b, _)| a < b) && wants.rates.is_sorted();
        log.check(is_in_order, || format!("rows are wanted out of order: {wants:?}"));
        let database = Arc::clone(&self.database);
        let opening = database.open(self.connection.id, self.epoch, self.lane, wants.clone());
        match self.connection.call(opening).await {
            Ok(Opened::Rows(rows)) => {
                let now_ms = self.database.now_ms();
                self.database.state().oracle.show(self.epoch, self.lane, rows.group, now_ms);
                Ok(*rows)
            }
            Ok(Opened::Closed) => Err(Failure::GivenUp),
            Err(Ended::RolledBack(why)) => Err(Failure::RolledBack(error(why))),
            Err(Ended::Lost) => Err(Failure::Disconnected(lost())),
        }
    }

    async fn commit(&mut self, writes: &Writes<'_>) -> Result<Vec<Crossing>, Failure> {
        let database = Arc::clone(&self.database);
        let group = writes.group;
        let failure =
            match self.connection.call(database.write(self.connection.id, Written::of(writes))).await {
                Ok(Committed::New(new)) => {
                    self.learn(group);
                    return Ok(new);
                }
                Ok(Committed::Refused) => Failure::Refused(error("a value has no place")),
                Err(Ended::RolledBack(why)) => Failure::RolledBack(error(why)),
                Err(Ended::Lost) => Failure::Unknown(lost()),
            };
        Err(failure)
    }

    async fn roll_back(&mut self) -> Result<(), Failure> {
        let (database, id) = (Arc::clone(&self.database), self.connection.id);
        let rolling_back = async move {
            database.roll_back(id);
            Ok(())
        };
        self.connection.call(rolling_back).await.map_err(|_| Failure::Disconnected(lost()))
    }

    fn epoch(&self) -> i64 {
        self.epoch
    }

    fn set_epoch(&mut self, epoch: i64) {
        self.epoch = epoch;
    }

    async fn rejoin(&mut self, epoch: i64) -> Result<HashSet<u64>, Failure> {
        let failed = |ended: Ended| match ended {
            Ended::Lost => Failure::RolledBack(lost()),
            Ended::RolledBack(why) => Failure::RolledBack(error(why)),
        };
        let mut own = Connection::open(&self.database, &self.link).await.map_err(failed)?;
        let database = Arc::clone(&self.database);
        match own.call(database.rejoin(own.id, self.name, self.epoch, epoch)).await.map_err(failed)? {
            Rejoined::With(kept) => Ok(kept),
            Rejoined::Taken => Err(Failure::RolledBack(error("the name is another's"))),
            Rejoined::Unknown => Err(Failure::GoneBack),
        }
    }

    async fn reconnect(&mut self) -> Result<i64, Failure> {
        let lost = |_| Failure::Disconnected(lost());
        self.connection = Connection::open(&self.database, &self.link).await.map_err(lost)?;
        let database = Arc::clone(&self.database);
        let reading = database.last_group(self.connection.id, self.epoch, self.lane);
        let group = self.connection.call(reading).await.map_err(lost)?.ok_or(Failure::GoneBack)?;
        self.learn(group);
        Ok(group)
    }

    async fn aside<T: Send + 'static>(&mut self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        // What is read may be outdated again by the time that it is put in force.
        let read = self.database.read_rules();
        sleep(self.database.delay(self.database.plan.slow_ms)).await;
        *unpoisoned(self.pinned.lock()) = Some(read);
        let done = work();
        *unpoisoned(self.pinned.lock()) = None;
        Some(done)
    }
}

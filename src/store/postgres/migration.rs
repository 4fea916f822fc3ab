//! The ledger of a schema that is copied to or from the other engine, while no guard runs on it.

use std::sync::Arc;

use tokio_postgres::error::SqlState;

use crate::ledger::entry::Hold;
use crate::store::StoreError;
use crate::store::postgres::clock::NOW_MS;
use crate::store::postgres::database::{Config, Database};
use crate::store::postgres::locks::lock_rules;
use crate::store::postgres::months;
use crate::store::postgres::schema::{self, VERSION};
use crate::store::postgres::whole::segments_text;
use crate::store::sql::batch::Kept;
use crate::store::sql::codec::{HoldRow, int};
use crate::store::sql::columns::json_text;
use crate::store::sql::migration::HALF_COPIED;
use crate::store::sql::months::Month;
use crate::store::sql::postgres::Connection;
use crate::store::sql::rollup::Ids;
use crate::store::sql::{self, Db, Error, credit, params, verify};

/// The guard that holds of requests belong to which were open in SQLite.
const FORMER_NODE: &str = "sqlite";
/// Its epoch. A new schema has no other.
const FORMER_EPOCH: i64 = 1;

const ALIVE: &str = "SELECT name FROM node WHERE state = 'alive' ORDER BY epoch LIMIT 1";

/// A ledger that is read. No guard can join it as long as this lives.
pub(in crate::store) struct Source {
    /// Its open transaction has the rules locked.
    connection: Connection,
    /// Its runtime drives the connection.
    _database: Arc<Database>,
}

/// A ledger that is filled.
pub(in crate::store) struct Target {
    connection: Connection,
    _database: Arc<Database>,
}

impl Source {
    /// Connects to a ledger that no guard runs on.
    pub(in crate::store) fn open(config: Config) -> Result<Self, StoreError> {
        let database = Arc::new(Database::new(config)?);
        let mut connection = database.connection()?;
        let schema = &database.config.schema;
        schema::found(Db::Postgres(&connection), schema)?.current_or_error(schema)?;
        let in_use = |by: String| StoreError::InUse { ledger: format!("the schema {schema}"), by };
        // A copy takes as long as it takes.
        connection.may_take_any_time().and_then(|()| connection.begin())?;
        let db = Db::Postgres(&connection);
        let none_alive = || match db.optional(ALIVE, &[], |row| row.get::<String>(0))? {
            Some(name) => Err(in_use(format!("a guard named {name:?}"))),
            None => Ok(()),
        };
        none_alive()?;
        let locked = db.row("SELECT version FROM rules WHERE id = 1 FOR UPDATE NOWAIT", &[], |_| Ok(()));
        match locked {
            Err(Error::Postgres(error)) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                return Err(in_use("a guard or another copy".to_owned()));
            }
            locked => locked?,
        }
        // One may have joined before the lock.
        none_alive()?;
        Ok(Self { connection, _database: database })
    }

    pub(in crate::store) fn db(&self) -> Db<'_> {
        Db::Postgres(&self.connection)
    }
}

impl Target {
    /// Connects, and makes the tables unless they are there. Returns whether they are half a copy
    /// already.
    pub(in crate::store) fn open(config: Config) -> Result<(Self, bool), StoreError> {
        let database = Arc::new(Database::new(config)?);
        let mut connection = database.connection()?;
        let is_begun =
            match schema::prepare(&connection, &database.config.schema, database.config.node_timeout) {
                Err(StoreError::HalfCopied { .. }) => true,
                prepared => prepared.map(|()| false)?,
            };
        connection.may_take_any_time()?;
        Ok((Self { connection, _database: database }, is_begun))
    }

    pub(in crate::store) fn db(&self) -> Db<'_> {
        Db::Postgres(&self.connection)
    }

    /// Lets no guard join before the end of the open transaction.
    pub(in crate::store) fn lock(&self) -> sql::Result<()> {
        lock_rules(self.db()).map(drop)
    }

    /// Says that it is half a copy, in the open transaction.
    pub(in crate::store) fn say_half(&self) -> sql::Result<()> {
        self.say_version(HALF_COPIED)
    }

    /// Makes the partitions of these months of entries, in the open transaction.
    pub(in crate::store) fn make_months(&self, months: &[Month]) -> sql::Result<()> {
        months::make(&self.connection, months)
    }

    /// Says that it is whole, in the open transaction.
    pub(in crate::store) fn say_whole(&self) -> sql::Result<()> {
        self.say_version(VERSION)
    }

    fn say_version(&self, version: i64) -> sql::Result<()> {
        self.db().execute("UPDATE schema_version SET version = ?1 WHERE id = 1", params![version]).map(drop)
    }

    /// Counts what was copied, so that questions are planned by it.
    pub(in crate::store) fn analyze(&self, tables: &[&str]) -> sql::Result<()> {
        Ok(self.connection.batch(&format!("ANALYZE {}", tables.join(", ")))?)
    }

    /// Writes open holds of requests as those of a guard that was given up: the first guard that
    /// starts charges them.
    pub(in crate::store) fn write_holds(&self, holds: &[Hold]) -> sql::Result<()> {
        if holds.is_empty() {
            return Ok(());
        }
        let node = format!(
            "INSERT INTO node (epoch, name, version, since_ms, seen_ms, state) \
             VALUES (?1, ?2, ?3, {NOW_MS}, {NOW_MS}, 'given_up')"
        );
        self.db().execute(&node, params![FORMER_EPOCH, FORMER_NODE, env!("CARGO_PKG_VERSION")])?;
        let row = |hold: &Hold| {
            let numbers = [int(hold.id), FORMER_EPOCH, hold.bound.cost.nano()].map(Kept::Int);
            Ok(numbers.into_iter().chain([Kept::Text(json_text(&HoldRow::of(hold))?)]).collect())
        };
        let rows = holds.iter().map(row).collect::<sql::Result<Vec<_>>>()?;
        self.db().insert_rows("hold", &["id", "epoch", "cost_nano", "holds"].map(str::to_owned), &rows)
    }

    /// Writes prepaid credit as it follows from grants, entries and open holds. The meters of
    /// limits are made by the first guard that starts, which knows the limits of its file.
    pub(in crate::store) fn write_credit(&self) -> sql::Result<()> {
        let Some(mut account) = credit::account(self.db())? else { return Ok(()) };
        verify::open_holds(self.db(), &Ids)?.iter().for_each(|hold| account.hold(hold));
        let segments = segments_text(account.segments())?;
        self.db().execute("INSERT INTO credit (id, segments) VALUES (1, ?1)", params![segments]).map(drop)
    }

    /// Has new ids follow those that were copied; `identities` are columns that number rows, each
    /// with its table.
    pub(in crate::store) fn continue_ids(&self, identities: &[(&str, &str)]) -> sql::Result<()> {
        let db = self.db();
        let last = "SELECT GREATEST((SELECT COALESCE(MAX(id), 0) FROM entry), (SELECT COALESCE(MAX(id), 0) FROM hold), \
                    (SELECT COALESCE(MAX(hold_id), 0) FROM job), (SELECT COALESCE(MAX(last_id), 0) FROM pruned))";
        let last: i64 = db.row(last, &[], |row| row.get(0))?;
        if last > 0 {
            db.row("SELECT setval('entry_id', ?1)", params![last], |_| Ok(()))?;
        }
        for (table, column) in identities {
            let next = format!(
                "SELECT setval(pg_get_serial_sequence('{table}', '{column}'), MAX({column})) FROM {table} \
                 HAVING MAX({column}) IS NOT NULL"
            );
            db.optional(&next, &[], |_| Ok(()))?;
        }
        Ok(())
    }
}

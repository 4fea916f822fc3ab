//! The two ledgers of a copy, each of either engine.

use std::time::Duration;

use crate::ledger::entry::Hold;
use crate::store::migrate::Place;
use crate::store::migrate::catalog::{Table, first_occupied};
use crate::store::sql::migration::{self, Progress};
use crate::store::sql::months::Month;
use crate::store::sql::{Db, Result};
use crate::store::{PostgresConfig, StoreError, postgres, sqlite};

/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long a lock of a guard that starts meanwhile is waited for.
const STATEMENT_MAX: Duration = Duration::from_secs(10);

/// What is copied.
pub(super) enum Source {
    Sqlite(sqlite::Source),
    Postgres(postgres::Source),
}

/// What it is copied into.
pub(super) struct Target {
    engine: TargetEngine,
    /// Whether it is half a copy already.
    pub(super) is_begun: bool,
    /// The folder or the schema.
    pub(super) shown: String,
    /// How it is removed.
    pub(super) undo: String,
}

enum TargetEngine {
    Sqlite(sqlite::Target),
    Postgres(postgres::Target),
}

impl Source {
    /// Opens a ledger that no guard runs on, and lets none start on it.
    pub(super) fn open(place: &Place) -> std::result::Result<Self, StoreError> {
        match place {
            Place::Folder(folder) => sqlite::Source::open(folder).map(Self::Sqlite),
            Place::Database { url, schema } => {
                postgres::Source::open(config(url.clone(), schema)).map(Self::Postgres)
            }
        }
    }

    pub(super) fn db(&self) -> Db<'_> {
        match self {
            Self::Sqlite(source) => source.db(),
            Self::Postgres(source) => source.db(),
        }
    }

    /// What its engine finds damaged in its files.
    pub(super) fn damage(&self) -> Result<Vec<String>> {
        match self {
            Self::Sqlite(source) => source.damage(),
            Self::Postgres(_) => Ok(Vec::new()),
        }
    }
}

impl Target {
    /// Opens or makes it.
    pub(super) fn open(place: &Place) -> std::result::Result<Self, StoreError> {
        match place {
            Place::Folder(folder) => {
                let (target, is_begun) = sqlite::Target::open(folder)?;
                let shown = folder.display().to_string();
                let undo = format!("remove {shown}");
                Ok(Self { engine: TargetEngine::Sqlite(target), is_begun, shown, undo })
            }
            Place::Database { url, schema } => {
                let (target, is_begun) = postgres::Target::open(config(url.clone(), schema))?;
                let shown = format!("the schema {schema}");
                let undo = format!("drop it (DROP SCHEMA {schema} CASCADE)");
                Ok(Self { engine: TargetEngine::Postgres(target), is_begun, shown, undo })
            }
        }
    }

    pub(super) fn db(&self) -> Db<'_> {
        match &self.engine {
            TargetEngine::Sqlite(target) => target.db(),
            TargetEngine::Postgres(target) => target.db(),
        }
    }

    /// What its engine finds damaged in its files.
    pub(super) fn damage(&self) -> Result<Vec<String>> {
        match &self.engine {
            TargetEngine::Sqlite(target) => target.damage(),
            TargetEngine::Postgres(_) => Ok(Vec::new()),
        }
    }

    /// Begins a copy: from here on no guard starts on it. Returns the first of these tables that
    /// has a row; nothing is changed then. `months` are those that the copy will have entries of.
    pub(super) fn begin(
        &self,
        empty: &[&str],
        tables: &[Progress],
        months: &[Month],
    ) -> Result<Option<String>> {
        self.db().transaction(|| {
            if let TargetEngine::Postgres(target) = &self.engine {
                target.lock()?;
            }
            let occupied = first_occupied(self.db(), empty.iter().copied())?;
            if occupied.is_some() {
                return Ok(occupied);
            }
            match &self.engine {
                TargetEngine::Sqlite(target) => target.say_half()?,
                TargetEngine::Postgres(target) => {
                    target.say_half()?;
                    target.make_months(months)?;
                }
            }
            migration::begin(self.db(), tables)?;
            Ok(None)
        })
    }

    /// Makes questions about what was copied fast.
    pub(super) fn settle(&self, tables: &[Table]) -> Result<()> {
        match &self.engine {
            TargetEngine::Sqlite(_) => Ok(()),
            TargetEngine::Postgres(target) => {
                let names: Vec<&str> = tables.iter().map(|table| &*table.name).collect();
                target.analyze(&names)
            }
        }
    }

    /// Writes open holds and what follows from all that was copied, and says that the copy is
    /// whole. Returns the first of its engine's own tables that has a row, since a guard has
    /// written it; nothing is changed then.
    pub(super) fn finish(
        &self,
        holds: &[Hold],
        own: &[&str],
        identities: &[(&str, &str)],
    ) -> Result<Option<String>> {
        self.db().transaction(|| {
            if let TargetEngine::Postgres(target) = &self.engine {
                target.lock()?;
            }
            let occupied = first_occupied(self.db(), own.iter().copied())?;
            if occupied.is_some() {
                return Ok(occupied);
            }
            match &self.engine {
                TargetEngine::Sqlite(target) => {
                    target.write_holds(holds)?;
                    target.say_whole()?;
                }
                TargetEngine::Postgres(target) => {
                    target.write_holds(holds)?;
                    target.write_credit()?;
                    target.continue_ids(identities)?;
                    target.say_whole()?;
                }
            }
            migration::end(self.db())?;
            Ok(None)
        })
    }
}

fn config(url: crate::domain::Secret, schema: &str) -> PostgresConfig {
    PostgresConfig {
        url,
        schema: schema.to_owned(),
        connections_max: 1,
        connect_timeout: CONNECT_MAX,
        statement_timeout: STATEMENT_MAX,
        // It does not join as a guard.
        node: String::new(),
        node_timeout: Duration::ZERO,
    }
}

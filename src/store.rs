//! The durable state, behind ports that name no database.
//!
//! [`Journal`] writes what admission decides, [`Records`] what operators change, and
//! [`Reports`] answers questions about the past. They take and return plain structs. One of
//! two engines is behind them: `sqlite`, embedded, for one guard, and `postgres` for several
//! that share a database. The statements that both run are in `sql`.

pub mod jobs;
mod journal;
pub mod migrate;
pub mod objects;
pub mod outbox;
mod ports;
mod postgres;
pub mod records;
pub mod reports;
mod slots;
mod snapshot;
mod sql;
mod sqlite;

use std::io;
use std::path::PathBuf;

use crate::ledger::entry::Crossing;

pub use journal::{Journal, WriteAck};
pub use ports::{Records, Reports, RulesChange};
pub use postgres::{
    AdmittedHold, CONNECTIONS_MIN, Config as PostgresConfig, Lanes, Node, NotReserved, Pasts, RulesFollower,
    RulesReader, SharedEngine, SharedMeters, SharedStore, StoredRules,
};
pub use slots::Slot;
pub use snapshot::{Snapshot, SnapshotNeed};
pub use sqlite::{BackgroundWriter, Journal as EmbeddedJournal, Queued, Store, WriteAck as EmbeddedAck};

/// The ports of an open database.
#[derive(Debug)]
pub struct Engine {
    /// Holds and endings.
    pub journal: Journal,
    /// What operators change.
    pub records: Records,
    /// Questions about the past.
    pub reports: Reports,
}

/// Is notified of what is written.
pub trait Observer: Send + Sync + 'static {
    /// A group is about to be written.
    fn committing(&self);
    /// It is in the database.
    fn committed(&self);
    /// It is not; holds in it were refused, the rest is kept. Called once, until
    /// the database can be written again.
    fn failed(&self, error: &(dyn std::error::Error + 'static));
    /// The database can be written again.
    fn recovered(&self);
    /// A crossing was written for the first time.
    fn crossed(&self, crossing: &Crossing);
    /// The time of a database that several guards share, in Unix milliseconds.
    fn at_ms(&self, now_ms: i64);
}

/// What the database said when it failed.
pub type DatabaseError = Box<dyn std::error::Error + Send + Sync>;

/// What a commit survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The death of the process (kill -9).
    #[default]
    Process,
    /// The loss of power, at the price of an fdatasync for every group.
    Power,
}

/// Why the database can't be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder can't be made or used.
    #[error("can't use the data folder {}: {source}; {}", path.display(), remedy(source))]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another guard has it.
    #[error("another spendguard is using {}; two guards on one database can't keep a limit", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The database is of another version.
    #[error(
        "the database has version {found}, this spendguard reads version {expected}; use the matching release"
    )]
    Version {
        /// The version found.
        found: i64,
        /// The version wanted.
        expected: i64,
    },
    /// What the database says can't be right.
    #[error(
        "the ledger {} is damaged: {what}. Nothing was changed. Put back a backup of its folder, or salvage what can be \
         read, in a new file: (sqlite3 {} .dump | sed 's/^ROLLBACK.*/COMMIT;/'; echo 'PRAGMA user_version = {};') | \
         sqlite3 salvaged.db", path.display(), path.display(), sqlite::VERSION
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// There was a database, and it is gone.
    #[error(
        "the ledger {} is missing, though {} says that there was one. Put it back; to begin an empty ledger on purpose, \
         move {} away", path.display(), trace.display(), trace.display()
    )]
    Missing {
        /// The database.
        path: PathBuf,
        /// What it left behind.
        trace: PathBuf,
    },
    /// The last run died, and the log that has its last facts is gone.
    #[error(
        "{} is missing, though the last run ended without closing the ledger: its last facts were in there. Put it back. If \
         they are not needed, since another program has merged it or this is a restored backup, remove {}",
        wal.display(), lock.display()
    )]
    LogMissing {
        /// The write-ahead log.
        wal: PathBuf,
        /// What says that it is needed.
        lock: PathBuf,
    },
    /// The system does not let the guard write it.
    #[error("the ledger {} can't be written: {source}; is its disk full, or is it read-only?", path.display())]
    Unwritable {
        /// The database.
        path: PathBuf,
        /// What the database said.
        source: DatabaseError,
    },
    /// A value in the database can't be read.
    #[error("the database failed: {0}")]
    Unreadable(DatabaseError),
    /// The database failed.
    #[error("the database failed: {0}")]
    Failed(DatabaseError),
    /// The address of a database can't be used.
    #[error("storage.url can't be used: {why}")]
    Address {
        /// Why.
        why: String,
    },
    /// A database can't be reached.
    #[error("the database {to} can't be reached: {why}; {remedy}")]
    Connect {
        /// Host and database.
        to: String,
        /// Why.
        why: String,
        /// What to do.
        remedy: &'static str,
    },
    /// All connections that this guard may have are in use.
    #[error(
        "no connection to the database came free within {waited:?}: ask again once what is running has ended, or raise \
         storage.connections_max, now {connections_max}"
    )]
    NoConnection {
        /// How many it may have.
        connections_max: usize,
        /// How long it waited.
        waited: std::time::Duration,
    },
    /// A schema has tables of another program.
    #[error(
        "the schema {schema} has {tables} tables that are not spendguard's; name another in storage.schema, or create an empty one"
    )]
    Foreign {
        /// The schema.
        schema: String,
        /// How many tables it has.
        tables: usize,
    },
    /// A guard of an older version works on the database.
    #[error(
        "a guard named {node:?} of an older version works on the ledger, and does not read and write it as guards of this \
         version do; stop all guards of older versions first. One that was killed counts as stopped after cluster.node_timeout"
    )]
    OlderGuard {
        /// Its name.
        node: String,
    },
    /// Views of another program keep a table from being replaced.
    #[error(
        "the tables can't be brought up to date while views, or other objects that are not spendguard's, depend on them: \
         drop them, start this spendguard once more, and create them again. Nothing was changed. They are:\n{what}"
    )]
    Depended {
        /// Which they are, one a line.
        what: String,
    },
    /// Another guard of the same database has this one's name.
    #[error(
        "a guard named {name:?} is running on this database; give each its own cluster.node, or none, and it gets one of its own"
    )]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The admin key of a change is no more.
    #[error("the admin key of this change was deleted")]
    ActorGone,
    /// A copy from the other engine was interrupted.
    #[error(
        "the ledger in {ledger} is half a copy: `spendguard storage migrate` did not end. Run the same command again, \
         which goes on with it, or {undo} to begin from the start"
    )]
    HalfCopied {
        /// The folder or the schema.
        ledger: String,
        /// How it is removed.
        undo: String,
    },
    /// There is no ledger to be copied.
    #[error("there is no ledger in {ledger}")]
    NoLedger {
        /// The folder or the schema.
        ledger: String,
    },
    /// A ledger to be copied lacks what a start of a guard brings.
    #[error(
        "the ledger in {ledger} {what}; start this spendguard on it once, which brings it up to date, and stop it"
    )]
    NotUpToDate {
        /// The folder.
        ledger: String,
        /// What it lacks.
        what: String,
    },
    /// A ledger that is copied is in use.
    #[error(
        "{by} works on the ledger in {ledger}; stop it first. After a guard that was killed, start another one, which \
         gives it up after cluster.node_timeout and charges what it held, and stop that"
    )]
    InUse {
        /// The schema.
        ledger: String,
        /// Which guard, or another program.
        by: String,
    },
    /// The writer is gone or can't write.
    #[error("the ledger can't be written")]
    Unavailable,
    /// As many requests are open as may be (`guard.open_requests_max`).
    #[error("too many requests are open")]
    Full,
}

fn remedy(source: &io::Error) -> &'static str {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let is = |kind| source.kind() == kind;
    if is(StorageFull) || is(QuotaExceeded) {
        "free some space on its disk"
    } else if is(ReadOnlyFilesystem) {
        "it is mounted read-only"
    } else {
        "check storage.path and its owner"
    }
}

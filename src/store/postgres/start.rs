//! Joins a database as one of its guards, and starts what admits and writes there.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::ledger::account::Account;
use crate::ledger::locked::LockedLedger;
use crate::store::postgres::activation;
use crate::store::postgres::clock::now_ms;
use crate::store::postgres::database::{Config, Database};
use crate::store::postgres::lane::Lane;
use crate::store::postgres::lanes::Lanes;
use crate::store::postgres::locks::{rules_version, working};
use crate::store::postgres::nodes::{self, Joined};
use crate::store::postgres::reader::Reader;
use crate::store::postgres::schema::{self, Found};
use crate::store::postgres::shared::Shared;
use crate::store::postgres::tables::TableUpkeep;
use crate::store::postgres::transaction::PgSession;
use crate::store::postgres::upkeep::Upkeep;
use crate::store::postgres::whole;
use crate::store::postgres::writer::Writer;
use crate::store::records::{KeyRow, Names, Stored};
use crate::store::sql::postgres::Connection;
use crate::store::sql::{self, Db, jobs, keys, load, params, usage};
use crate::store::{Observer, StoreError};
use crate::sync::unpoisoned;

/// How long lanes may take to write the last groups when a guard leaves.
const LANES_END_MAX: Duration = Duration::from_millis(500);
/// The pause between two looks at a guard of the same name.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A database that this guard has joined.
#[derive(Debug)]
pub struct SharedStore {
    database: Arc<Database>,
    epoch: i64,
    rules: Arc<RulesReader>,
}

/// What was started.
pub(in crate::store) struct Started {
    pub(in crate::store) lanes: Lanes,
    pub(in crate::store) writer: Writer,
    /// One of as many as are wanted.
    pub(in crate::store) readers: Reader,
    pub(in crate::store) running: SharedEngine,
}

/// What stops the guard's part in a database once it is dropped.
#[derive(Debug)]
pub struct SharedEngine {
    database: Arc<Database>,
    lanes: Vec<tokio::task::JoinHandle<()>>,
    upkeep: Vec<Beside>,
}

/// A thread beside the lanes. It stops once it is dropped.
#[derive(Debug)]
struct Beside {
    _stop: SyncSender<()>,
    thread: JoinHandle<()>,
}

/// The rules of one version, as they are stored.
#[derive(Debug)]
pub struct StoredRules {
    /// The version.
    pub version: i64,
    /// The database's time, in Unix milliseconds.
    pub now_ms: i64,
    /// Projects, limits, admin keys and all else but keys.
    pub stored: Stored,
    /// The limits in force, with ids in place of names: name, and rule as JSON.
    pub active: Vec<(String, String)>,
    /// Prepaid credit, if any was granted.
    pub account: Option<Account>,
}

/// Reads the rules.
#[derive(Debug)]
pub struct RulesReader {
    database: Arc<Database>,
    connection: Mutex<Option<Connection>>,
}

impl SharedStore {
    /// Connects, makes or checks the tables, and joins as a guard.
    pub fn open(config: Config) -> Result<Self, StoreError> {
        let database = Arc::new(Database::new(config)?);
        let connection = database.connection()?;
        schema::prepare(&connection, &database.config.schema, database.config.node_timeout)?;
        warn_of_settings(&connection)?;
        let epoch = nodes::new_epoch()?;
        join(&database, &connection, epoch)?;
        if !jobs::ids(Db::Postgres(&connection))?.is_empty() {
            database.note_jobs();
        }
        let rules = RulesReader { database: Arc::clone(&database), connection: Mutex::new(Some(connection)) };
        Ok(Self { database, epoch, rules: Arc::new(rules) })
    }

    /// What reads the rules, now and after each change.
    pub fn rules(&self) -> &Arc<RulesReader> {
        &self.rules
    }

    /// Hands out the ids of keys with Unix milliseconds at which they were used; a key may
    /// be handed out more than once.
    pub fn each_use(&self, each: impl FnMut(&str, i64)) -> Result<(), StoreError> {
        self.rules.query(|db| usage::each_use(db, each))
    }

    /// Starts the lanes and the upkeep, on a ledger with rules of a version.
    pub(in crate::store) fn begin<O: Observer>(
        self,
        requests_max: usize,
        observer: O,
        names: Arc<dyn Names>,
        ledger: Arc<LockedLedger>,
        rules_version: i64,
    ) -> Result<Started, StoreError> {
        let Self { database, epoch, .. } = self;
        let shared = Arc::new(Shared::new(ledger, Box::new(observer), rules_version, epoch));
        let mut lanes = Vec::new();
        for lane in nodes::LANES {
            let (of, lane_of) = (Arc::clone(&database), Arc::clone(&shared));
            let connecting = database.runtime().spawn(async move { of.client().await });
            let client = pollster::block_on(connecting).map_err(|_| StoreError::Unavailable)?;
            let client = client?;
            let session = PgSession::new(Arc::clone(&database), client, epoch, lane);
            lanes.push(database.runtime().spawn(Lane::new(session, lane_of).run()));
        }
        let writer = Writer::new(Arc::clone(&database), Arc::clone(&shared));
        let readers = Reader::new(Arc::clone(&database));
        let upkeep = Upkeep {
            database: Arc::clone(&database),
            shared: Arc::clone(&shared),
            names: Arc::clone(&names),
        };
        let tables = TableUpkeep { database: Arc::clone(&database), shared: Arc::clone(&shared) };
        let upkeep = vec![
            Beside::start("ledger-upkeep", move |stop| upkeep.run(stop))?,
            Beside::start("ledger-tables", move |stop| tables.run(stop))?,
        ];
        let running = SharedEngine { database: Arc::clone(&database), lanes, upkeep };
        Ok(Started { lanes: Lanes::new(shared, requests_max, database, names), writer, readers, running })
    }
}

impl Beside {
    fn start(name: &str, run: impl FnOnce(&Receiver<()>) + Send + 'static) -> Result<Self, StoreError> {
        let (stop, stopped) = sync_channel(0);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || run(&stopped));
        Ok(Self { _stop: stop, thread: thread.map_err(|_| StoreError::Unavailable)? })
    }
}

impl SharedEngine {
    /// Whether a part of it has ended by itself.
    pub fn has_ended(&self) -> bool {
        self.upkeep.iter().any(|beside| beside.thread.is_finished())
            || self.lanes.iter().any(tokio::task::JoinHandle::is_finished)
    }

    /// Leaves the database, once everything is written or can't be in time.
    pub fn leave(mut self) {
        let lanes = std::mem::take(&mut self.lanes);
        let ended = self.database.runtime().spawn(async move {
            let _ = tokio::time::timeout(LANES_END_MAX, futures_util::future::join_all(lanes)).await;
        });
        let _ = pollster::block_on(ended);
        let threads: Vec<_> = self.upkeep.drain(..).map(|beside| beside.thread).collect();
        for thread in threads {
            let _ = thread.join();
        }
    }
}

impl RulesReader {
    fn query<T>(&self, work: impl FnOnce(Db<'_>) -> sql::Result<T>) -> Result<T, StoreError> {
        let mut connection = unpoisoned(self.connection.lock());
        Ok(work(Db::Postgres(working(&self.database, &mut connection)?))?)
    }

    /// Reads the rules of one version, and hands out the keys that were changed since
    /// another. It blocks.
    pub fn read(&self, since: i64, mut each_key: impl FnMut(KeyRow)) -> Result<StoredRules, StoreError> {
        self.query(|db| {
            db.snapshot(|| {
                let (version, now_ms) = (rules_version(db)?, now_ms(db)?);
                let mut stored = load::stored(db)?;
                stored.file_limits = activation::of_file(db)?;
                let active = activation::active(db)?;
                keys::each_key_since(db, since, &mut each_key)?;
                let account = whole::account(db)?;
                Ok(StoredRules { version, now_ms, stored, active, account })
            })
        })
    }
}

/// Joins under the configured name, once no guard of that name is alive.
fn join(database: &Database, connection: &Connection, epoch: i64) -> Result<(), StoreError> {
    let Config { node, node_timeout, .. } = &database.config;
    let mut first_seen_ms = None;
    loop {
        let seen_ms = match nodes::join(connection, node, epoch, *node_timeout)? {
            Joined::Alive => return Ok(()),
            Joined::Taken(seen_ms) => seen_ms,
            Joined::Version(version) => {
                return Found::Version(version).current_or_error(&database.config.schema);
            }
        };
        if first_seen_ms.is_some_and(|first| first != seen_ms) {
            return Err(StoreError::NameTaken { name: node.clone() });
        }
        if first_seen_ms.replace(seen_ms).is_none() {
            tracing::warn!(
                event = "node_name_taken",
                node,
                "a guard of this name has not said that it ended; it is given up once it has been silent for \
                 cluster.node_timeout, and this one starts then"
            );
        }
        std::thread::sleep(LOOK_AGAIN_AFTER);
    }
}

/// Settings under which the database may lose what it has acknowledged.
fn warn_of_settings(connection: &Connection) -> Result<(), StoreError> {
    let db = Db::Postgres(connection);
    for (name, safe) in [("synchronous_commit", "off"), ("fsync", "off"), ("full_page_writes", "off")] {
        let value: String = db
            .row("SELECT current_setting(?1)", params![name], |row| row.get(0))
            .map_err(StoreError::from)?;
        if value == safe {
            tracing::warn!(
                event = "database_may_lose_commits",
                setting = name,
                value,
                "the database may lose what it has acknowledged: after a crash it may know less than was spent"
            );
        }
    }
    Ok(())
}

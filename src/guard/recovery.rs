//! Opening a guard: what the last run left open is charged before anything
//! new is admitted.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::domain::{Class, Money};
use crate::guard::Guard;
use crate::guard::accounts::Accounts;
use crate::guard::admin_keys::AdminKeys;
use crate::guard::limits::{Book, stored};
use crate::guard::marks::Seen;
use crate::guard::models::rule_of;
use crate::guard::names::Names;
use crate::guard::objects::Objects;
use crate::guard::observe::WriterLog;
use crate::guard::organization::Organization;
use crate::guard::refused::Remembered;
use crate::guard::self_service::Open;
use crate::guard::stored_key::key_of;
use crate::guard::wrong_keys::Pace;
use crate::keys::{Project, Ring};
use crate::ledger::Ledger;
use crate::ledger::entry::{Basis, Entry, Hold, Kind};
use crate::metrics::Metrics;
use crate::store::settings;
use crate::store::{Clerk, Store, StoreError, Writer, credit, organization, reader};
use crate::throttle::Throttle;

/// Why a guard could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A limit in the database can't be read.
    #[error("a stored limit can't be read: {0}")]
    Limit(String),
}

/// What a guard needs to know of its configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Requests that may be open at once.
    pub open_requests_max: usize,
    /// The time zone of limits that name none.
    pub zone: Arc<str>,
}

impl Guard {
    /// Opens a guard on a store: reads keys and projects, charges the holds
    /// that were open when the last run died. The clerk is to be started.
    ///
    /// The limits of the API are not in force before
    /// [`Guard::install_file_limits`] has been called once.
    pub fn open(
        store: Store,
        config: &Config,
        clock: Arc<Clock>,
        metrics: Arc<Metrics>,
    ) -> Result<(Arc<Self>, Clerk), OpenError> {
        let ring = Arc::new(Ring::default());
        let (reader, long_reader, key_reader) = (store.reader()?, store.reader()?, store.reader()?);
        let objects = Objects::new(store.reader()?);
        fill(&ring, &reader)?;
        let api = stored(reader.query(settings::limit_rules)?, &config.zone).map_err(OpenError::Limit)?;
        let names = Names::read(&reader)?.map_err(|error| OpenError::Limit(format!("names: {error}")))?;
        let alerts = reader.query(organization::alerts)?;
        let admin_keys = AdminKeys::of(reader.query(organization::admin_keys)?);
        let accounts = Accounts::of(reader.query(organization::accounts)?);
        let organization = Organization::read(&reader)?;
        let next_id = charge_unfinished(&store, &ring, clock.now_ms())?;
        let mut ledger = Ledger::new(next_id);
        let (account, latest_ms) = reader.query(|db| Ok((credit::account(db)?, credit::latest_ms(db)?)))?;
        ledger.restore(account, latest_ms);
        let marks = Arc::new(Notify::new());
        let log = WriterLog::new(Arc::clone(&clock), Arc::clone(&metrics), Arc::clone(&marks));
        let (writer, clerk) = Writer::new(store, config.open_requests_max, log)?;
        let guard = Self {
            ledger: Mutex::new(ledger),
            throttle: ArcSwap::from_pointee(Throttle::default()),
            writer,
            reader,
            long_reader,
            key_reader,
            self_service: Open::default(),
            wrong_keys: Pace::default(),
            ring,
            clock,
            metrics,
            book: tokio::sync::Mutex::new(Book {
                file: Vec::new(),
                api,
                alerts,
                zone: Arc::clone(&config.zone),
                names,
            }),
            written_names: ArcSwap::default(),
            ring_changes: tokio::sync::Mutex::new(()),
            seen: Seen::default(),
            marks,
            admin_keys,
            accounts,
            grants: tokio::sync::Mutex::default(),
            verifying: Arc::default(),
            pruning: tokio::sync::Mutex::default(),
            corrections: tokio::sync::Mutex::default(),
            aside: super::aside::Turns::default(),
            organization,
            refused: Remembered::default(),
            objects,
        };
        Ok((Arc::new(guard), clerk))
    }
}

fn fill(ring: &Ring, reader: &crate::store::Reader) -> Result<(), StoreError> {
    for project in reader.query(settings::projects)? {
        ring.put_project(Project {
            id: project.id.into(),
            name: project.name.into(),
            created_s: project.created_s,
            archived_s: project.archived_s,
            from_file: false,
        });
    }
    for row in reader.query(organization::model_rules)? {
        let project = row.project.clone();
        ring.put_model_rule(&project, Some(&rule_of(row)));
    }
    reader.query(|db| settings::each_key(db, |row| drop(ring.put(key_of(row, 0)))))?;
    reader.query(|db| {
        reader::each_use(db, |key, used_ms| {
            if let Some(key) = ring.by_id(key) {
                key.last_used_ms.fetch_max(used_ms, Ordering::Relaxed);
            }
        })
    })
}

/// Settles the holds that were open at a crash in full; returns the next id.
fn charge_unfinished(store: &Store, ring: &Ring, now_ms: i64) -> Result<u64, StoreError> {
    let (holds, next_id) = store.unfinished(ring)?;
    let total: Money = holds.iter().map(|hold| hold.bound.cost).sum();
    let entries: Vec<Entry> = holds.iter().map(|hold| assumed(hold, now_ms)).collect();
    store.end_unfinished(&entries)?;
    if !entries.is_empty() {
        tracing::warn!(
            holds = entries.len(),
            usd = %total,
            "requests were open when the last run ended; their holds are charged in full"
        );
    }
    Ok(next_id)
}

fn assumed(hold: &Hold, now_ms: i64) -> Entry {
    let bound = hold.bound;
    Entry {
        id: hold.id,
        kind: Kind::Settle,
        created_ms: now_ms,
        admitted_ms: hold.admitted_ms,
        attribution: Arc::clone(&hold.attribution),
        held: bound,
        cost: bound.cost,
        tool_fees: Money::ZERO,
        quantities: [(Class::Input, bound.input_tokens), (Class::Output, bound.output_tokens)].into(),
        basis: Some(Basis::Assumed),
        served_model: None,
        tier: hold.tier,
        price_version: Arc::clone(&hold.price_version),
        status: 0,
        upstream_request_id: None,
        object_id: None,
        duration_ms: 0,
        ttft_ms: None,
        stream: hold.stream,
        disconnected: false,
        corrects: None,
        note: Some("the guard ended before the request did".to_owned()),
    }
}

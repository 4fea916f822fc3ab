//! Opens a ledger: charges the holds that the last run left open, then makes the parts
//! that work on it.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Weak};

use crate::books::Books;
use crate::clock::Clock;
use crate::directory::{self, Directory};
use crate::guard::audit::AuditedRecords;
use crate::guard::recovery;
use crate::guard::{Core, Guard, News, WriteLog};
use crate::keys::Ring;
use crate::ledger::Ledger;
use crate::ledger::entry::OpenJob;
use crate::ledger::locked::LockedLedger;
use crate::metrics::Metrics;
use crate::rulebook::{Rulebook, Rules, limits};
use crate::stops::Stops;
use crate::store::records::{Names, Stored};
use crate::store::{
    BackgroundWriter, Engine, Records, Reports, RulesFollower, RulesReader, SharedEngine, SharedStore, Store,
    StoreError, StoredRules,
};

/// Why a ledger could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A limit in the database can't be read.
    #[error("a stored limit can't be read: {0}")]
    Limit(String),
}

/// The settings that opening needs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Requests that may be open at once.
    pub open_requests_max: usize,
    /// The time zone of limits that name none.
    pub zone: Arc<str>,
}

/// The parts that work on an open ledger.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Admission.
    pub guard: Arc<Guard>,
    /// Keys, projects, admin keys, the organization.
    pub directory: Arc<Directory>,
    /// Limits and credit.
    pub rulebook: Arc<Rulebook>,
    /// Questions about the past.
    pub books: Arc<Books>,
    /// Kill switches and fuses.
    pub stops: Arc<Stops>,
    /// Writes that belong to no other part.
    pub records: Records,
    /// Questions about the past.
    pub reports: Reports,
}

/// What the parts are made of.
struct Parts {
    ring: Arc<Ring>,
    clock: Arc<Clock>,
    metrics: Arc<Metrics>,
    news: Arc<News>,
    ledger: Arc<LockedLedger>,
    rules: Rules,
    stored: Stored,
    jobs: Vec<OpenJob>,
}

/// Opens the ledger of a store: reads keys and projects, and charges the holds that were
/// open when the last run died. The background writer is to be started.
///
/// The limits of the API are not in force before [`Rulebook::install_file_limits`] has been
/// called once.
pub fn open(
    store: Store,
    config: &Config,
    clock: Arc<Clock>,
    metrics: Arc<Metrics>,
) -> Result<(Opened, BackgroundWriter), OpenError> {
    let ring = Arc::new(Ring::default());
    let mut stored = store.load()?;
    directory::fill(&ring, &mut stored);
    store.each_key(|row| directory::put_key(&ring, row))?;
    store.each_use(|key, used_ms| directory::note_use(&ring, key, used_ms))?;
    // Before anything is written: a rule that can't be read stops the start.
    let rules = Rules::of(&mut stored, &config.zone).map_err(OpenError::Limit)?;
    let (jobs, next_id) = recovery::charge_unfinished(&store, &*ring, clock.now_ms())?;
    let mut ledger = Ledger::new(next_id);
    // Read after that, since the charged holds count against prepaid credit too.
    let (account, latest_ms) = store.account()?;
    ledger.restore(account, latest_ms);
    for open in &jobs {
        ledger.apply_hold(&open.hold);
    }
    let news = Arc::new(News::default());
    let log = WriteLog::new(Arc::clone(&clock), Arc::clone(&metrics), Arc::clone(&news));
    let names: Arc<dyn Names> = Arc::<Ring>::clone(&ring);
    let (engine, writer) = store.start(config.open_requests_max, log, names)?;
    let ledger = Arc::new(LockedLedger::new(ledger));
    let parts = Parts { ring, clock, metrics, news, ledger, rules, stored, jobs };
    Ok((parts.opened(engine), writer))
}

/// Opens the ledger of a database that several guards share. What other guards change is
/// followed from then on.
pub fn open_shared(
    store: SharedStore,
    config: &Config,
    clock: Arc<Clock>,
    metrics: Arc<Metrics>,
) -> Result<(Opened, SharedEngine), OpenError> {
    let ring = Arc::new(Ring::default());
    let reader = Arc::clone(store.rules());
    let StoredRules { version, now_ms, mut stored, active, account } =
        reader.read(i64::MIN, |row| directory::put_key(&ring, row))?;
    clock.follow(now_ms);
    directory::fill(&ring, &mut stored);
    store.each_use(|key, used_ms| directory::note_use(&ring, key, used_ms))?;
    let active = limits::active(active, &stored.file_limits, &config.zone).map_err(OpenError::Limit)?;
    let rules = Rules::of(&mut stored, &config.zone).map_err(OpenError::Limit)?;
    let ledger = Arc::new(LockedLedger::new(Ledger::shared()));
    let news = Arc::new(News::default());
    let log = WriteLog::new(Arc::clone(&clock), Arc::clone(&metrics), Arc::clone(&news));
    let names: Arc<dyn Names> = Arc::<Ring>::clone(&ring);
    let (engine, running) =
        store.start(config.open_requests_max, log, names, Arc::clone(&ledger), version)?;
    let parts = Parts { ring, clock, metrics, news, ledger, rules, stored, jobs: Vec::new() };
    let opened = parts.opened(engine);
    opened.rulebook.put_in_force(&active, account, version);
    let follower = Follower {
        reader,
        ring: Arc::clone(opened.guard.ring()),
        directory: Arc::downgrade(&opened.directory),
        rulebook: Arc::downgrade(&opened.rulebook),
        zone: Arc::clone(&config.zone),
        version: AtomicI64::new(version),
    };
    opened.guard.core().follow(Arc::new(follower));
    Ok((opened, running))
}

impl Parts {
    fn opened(self, engine: Engine) -> Opened {
        let Self { ring, clock, metrics, news, ledger, rules, mut stored, jobs } = self;
        let Engine { journal, records, reports } = engine;
        // Each part has turns of its own: revoking a key does not wait for the past of a limit.
        let audited = || AuditedRecords::new(records.clone(), Arc::clone(&clock));
        let core = Arc::new(Core::new(ledger, journal, Arc::clone(&clock), metrics, news));
        let rulebook = Rulebook::new(rules, Arc::clone(&core), Arc::clone(&ring), audited());
        let rulebook = Arc::new(rulebook);
        let directory = Directory::new(
            &mut stored,
            Arc::clone(&ring),
            Arc::clone(&clock),
            audited(),
            reports.clone(),
            Arc::clone(&rulebook),
        );
        let books = Books::new(
            Arc::clone(&core),
            Arc::clone(&ring),
            Arc::clone(&rulebook),
            records.clone(),
            reports.clone(),
        );
        let stops = Stops::new(Arc::clone(&core), Arc::clone(&ring), audited(), reports.clone());
        let guard = Arc::new(Guard::new(core, ring, reports.clone(), jobs));
        let (directory, books, stops) = (Arc::new(directory), Arc::new(books), Arc::new(stops));
        Opened { guard, directory, rulebook, books, stops, records, reports }
    }
}

/// Puts in force what other guards have changed.
struct Follower {
    reader: Arc<RulesReader>,
    ring: Arc<Ring>,
    // The parts own the core, which owns this.
    directory: Weak<Directory>,
    rulebook: Weak<Rulebook>,
    zone: Arc<str>,
    /// The version up to which keys were read.
    version: AtomicI64,
}

impl RulesFollower for Follower {
    fn refresh(&self) -> Result<i64, StoreError> {
        let parts = self.directory.upgrade().zip(self.rulebook.upgrade());
        let (directory, rulebook) = parts.ok_or(StoreError::Unavailable)?;
        let since = self.version.load(Ordering::Relaxed);
        let StoredRules { version, mut stored, active, account, .. } =
            self.reader.read(since, |row| directory::put_key(&self.ring, row))?;
        directory::fill(&self.ring, &mut stored);
        directory.reload(&mut stored);
        let unreadable = |why: String| StoreError::Failed(why.into());
        let active = limits::active(active, &stored.file_limits, &self.zone).map_err(unreadable)?;
        rulebook.reload(&mut stored, &active, account, version).map_err(unreadable)?;
        self.version.store(version, Ordering::Relaxed);
        Ok(version)
    }
}

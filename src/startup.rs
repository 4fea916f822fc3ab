//! Opens a ledger: charges the holds that the last run left open, then makes the parts
//! that work on it.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::books::Books;
use crate::clock::Clock;
use crate::directory::{self, Directory};
use crate::guard::audit::AuditedRecords;
use crate::guard::{Core, Guard, WriteLog, recovery};
use crate::keys::Ring;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::rulebook::{Rulebook, Rules};
use crate::store::records::Names;
use crate::store::{BackgroundWriter, Engine, Records, Reports, Store, StoreError};

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
    /// Writes that belong to no other part.
    pub records: Records,
    /// Questions about the past.
    pub reports: Reports,
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
    directory::fill(&ring, &store, &mut stored)?;
    // Before anything is written: a rule that can't be read stops the start.
    let rules = Rules::of(&mut stored, &config.zone).map_err(OpenError::Limit)?;
    let (jobs, next_id) = recovery::charge_unfinished(&store, &*ring, clock.now_ms())?;
    let mut ledger = Ledger::new(next_id);
    // Read after that, since the charged holds count against prepaid credit too.
    let (account, latest_ms) = store.account()?;
    ledger.restore(account, latest_ms);
    for (hold, _) in &jobs {
        ledger.apply_hold(hold);
    }
    let crossed = Arc::new(Notify::new());
    let log = WriteLog::new(Arc::clone(&clock), Arc::clone(&metrics), Arc::clone(&crossed));
    let names: Arc<dyn Names> = Arc::<Ring>::clone(&ring);
    let (Engine { journal, records, reports }, writer) = store.start(config.open_requests_max, log, names)?;
    let audited = AuditedRecords::new(records.clone(), Arc::clone(&clock));
    let core = Arc::new(Core::new(ledger, journal, Arc::clone(&clock), metrics, crossed));
    let rulebook = Rulebook::new(rules, Arc::clone(&core), Arc::clone(&ring), audited.clone());
    let rulebook = Arc::new(rulebook);
    let directory = Directory::new(
        &mut stored,
        Arc::clone(&ring),
        clock,
        audited,
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
    let guard = Arc::new(Guard::new(core, ring, reports.clone(), jobs));
    let (directory, books) = (Arc::new(directory), Arc::new(books));
    Ok((Opened { guard, directory, rulebook, books, records, reports }, writer))
}

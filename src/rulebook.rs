//! The rulebook: the limits in force, and how a change of them takes effect.
//!
//! Limits of the configuration file and of the API, spend alerts, prepaid credit and its
//! terms, and the names in limits.

mod activation;
pub mod credit;
pub mod limits;
pub mod names;
pub mod rule;
pub mod spend_alerts;

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::domain::Limit;
use crate::guard::Core;
use crate::guard::audit::AuditedRecords;
use crate::keys::Ring;
use crate::ledger::account::Account;
use crate::store::records::Stored;
use crate::throttle::Throttle;

use self::limits::Book;
use self::names::{Named, Names};

/// The limits in force, and the methods that change them.
#[derive(Debug)]
pub struct Rulebook {
    core: Arc<Core>,
    ring: Arc<Ring>,
    records: AuditedRecords,
    /// The rules as they were written. A change works on a copy.
    book: tokio::sync::Mutex<Book>,
    /// The names in limits, which are looked up when a key or project gets such a name.
    written_names: ArcSwap<HashSet<(Named, String)>>,
}

/// The stored rules of limits, and those that other guards have put in force.
#[derive(Debug)]
pub struct Rules(Book);

impl Rules {
    /// Reads the stored rules; `zone` is the time zone of limits that name none.
    ///
    /// A rule or a name that can't be read is an error: a limit must not disappear silently.
    pub fn of(stored: &mut Stored, zone: &Arc<str>) -> Result<Self, String> {
        let api = limits::stored(std::mem::take(&mut stored.limits), zone)?;
        let names = Names::of(&stored.settings).map_err(|error| format!("names: {error}"))?;
        let alerts = std::mem::take(&mut stored.alerts);
        let file = limits::stored_of_file(std::mem::take(&mut stored.file_limits), zone)?;
        Ok(Self(Book { file, api, alerts, zone: Arc::clone(zone), names }))
    }
}

impl Rulebook {
    /// The rulebook with these rules. No limit is in force before
    /// [`Rulebook::install_file_limits`] has been called once.
    pub fn new(rules: Rules, core: Arc<Core>, ring: Arc<Ring>, records: AuditedRecords) -> Self {
        let Rules(book) = rules;
        let written = names::written(&limits::in_force(&book), &ring);
        let (book, written_names) = (tokio::sync::Mutex::new(book), ArcSwap::from_pointee(written));
        Self { core, ring, records, book, written_names }
    }

    /// Replaces the rules in memory by those that another guard has put in force. It blocks:
    /// not for a thread that requests run on.
    pub fn reload(
        &self,
        stored: &mut Stored,
        active: &[Arc<Limit>],
        account: Option<Account>,
        version: i64,
    ) -> Result<(), String> {
        let mut book = self.book.blocking_lock();
        let Rules(new) = Rules::of(stored, &book.zone)?;
        self.note_written_names(&limits::in_force(&new));
        *book = new;
        drop(book);
        self.put_in_force(active, account, version);
        Ok(())
    }

    fn note_written_names(&self, limits: &[Arc<Limit>]) {
        self.written_names.store(Arc::new(names::written(limits, &self.ring)));
    }

    /// Puts the rules of one version in force, whose meters are in a shared database.
    pub fn put_in_force(&self, active: &[Arc<Limit>], account: Option<Account>, version: i64) {
        let (rates, metered): (Vec<_>, Vec<_>) = active.iter().cloned().partition(|limit| limit.is_rate());
        self.core.rates().rcu(|before| Throttle::new(&rates, before));
        self.core.put_in_force(&metered, account, version);
    }

    /// The version of the rules in memory.
    pub fn rules_version(&self) -> i64 {
        self.core.rules_version()
    }

    /// The time zones whose days limits ask for, and the organization's.
    pub async fn zones(&self) -> Vec<Arc<str>> {
        let book = self.book.lock().await;
        let limits = book.file.iter().chain(&book.api).map(|limit| Arc::clone(&limit.zone));
        limits.chain([Arc::clone(&book.zone)]).collect()
    }
}

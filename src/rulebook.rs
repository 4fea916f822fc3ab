//! The rulebook: which limits are in force, and how a change of them comes into force.
//!
//! Limits of the configuration file and of the API, spend alerts, prepaid credit and its
//! terms, and the names that limits write.

pub mod credit;
pub mod limits;
pub mod names;
pub mod rule;
pub mod spend_alerts;

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::guard::Core;
use crate::guard::audit::AuditedRecords;
use crate::keys::Ring;
use crate::store::records::Stored;

use self::limits::Book;
use self::names::{Named, Names};

/// The limits in force, with what changes them.
#[derive(Debug)]
pub struct Rulebook {
    core: Arc<Core>,
    ring: Arc<Ring>,
    records: AuditedRecords,
    /// The rules as they were written; the lock makes changes one at a time.
    book: tokio::sync::Mutex<Book>,
    /// Names of keys and projects that limits write, to be looked up when they are given.
    written_names: ArcSwap<HashSet<(Named, String)>>,
    /// Makes grants of prepaid credit one at a time.
    grants: tokio::sync::Mutex<()>,
}

/// The rules of limits as they are stored, read.
#[derive(Debug)]
pub struct Rules(Book);

impl Rules {
    /// The rules of what is stored; `zone` is the time zone of limits that name none.
    ///
    /// A rule or a name that can't be read is an error: a limit must not vanish in silence.
    pub fn of(stored: &mut Stored, zone: &Arc<str>) -> Result<Self, String> {
        let api = limits::stored(std::mem::take(&mut stored.limits), zone)?;
        let names = Names::of(&stored.settings).map_err(|error| format!("names: {error}"))?;
        let alerts = std::mem::take(&mut stored.alerts);
        Ok(Self(Book { file: Vec::new(), api, alerts, zone: Arc::clone(zone), names }))
    }
}

impl Rulebook {
    /// The rulebook with these rules. No limit is in force before
    /// [`Rulebook::install_file_limits`] has been called once.
    pub fn new(rules: Rules, core: Arc<Core>, ring: Arc<Ring>, records: AuditedRecords) -> Self {
        Self {
            core,
            ring,
            records,
            book: tokio::sync::Mutex::new(rules.0),
            written_names: ArcSwap::default(),
            grants: tokio::sync::Mutex::default(),
        }
    }

    /// The time zones whose days limits ask for, and the organization's.
    pub async fn zones(&self) -> Vec<Arc<str>> {
        let book = self.book.lock().await;
        let limits = book.file.iter().chain(&book.api).map(|limit| Arc::clone(&limit.zone));
        limits.chain([Arc::clone(&book.zone)]).collect()
    }
}

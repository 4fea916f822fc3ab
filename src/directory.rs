//! The directory: who may spend, and who may change settings.
//!
//! Keys, projects, service accounts, admin keys, the models that a project may use, and
//! the organization. Each change is written with its row of the audit log, committed, then it is
//! in force, then it is answered. On a shared ledger memory is what was read of the database: a
//! change is in force once it is read again.

mod accounts;
pub mod admin_keys;
pub mod keyring;
mod models;
pub mod organization;
mod stored_key;

use std::sync::Arc;

use crate::clock::Clock;
use crate::guard::audit::AuditedRecords;
use crate::keys::Ring;
use crate::rulebook::Rulebook;
use crate::store::records::{AuditFilter, AuditRow, KeyRow, Stored};
use crate::store::{Reports, StoreError};

use self::accounts::Accounts;
use self::admin_keys::AdminKeys;
use self::models::rule_of;
use self::organization::Organization;
use self::stored_key::{key_of, project_of};

/// Keys, projects and the organization, and the methods that change them.
#[derive(Debug)]
pub struct Directory {
    ring: Arc<Ring>,
    clock: Arc<Clock>,
    records: AuditedRecords,
    reports: Reports,
    /// Limits that write the name of a key or a project look it up when one is made.
    rulebook: Arc<Rulebook>,
    accounts: Accounts,
    admin_keys: AdminKeys,
    organization: Organization,
}

impl Directory {
    /// The directory of a store, with a ring that [`fill`] has filled.
    pub fn new(
        stored: &mut Stored,
        ring: Arc<Ring>,
        clock: Arc<Clock>,
        records: AuditedRecords,
        reports: Reports,
        rulebook: Arc<Rulebook>,
    ) -> Self {
        Self {
            ring,
            clock,
            records,
            reports,
            rulebook,
            accounts: Accounts::of(std::mem::take(&mut stored.accounts)),
            admin_keys: AdminKeys::of(std::mem::take(&mut stored.admin_keys)),
            organization: Organization::of(&stored.settings),
        }
    }

    /// Replaces what is in memory by what is stored: another guard has changed it.
    pub fn reload(&self, stored: &mut Stored) {
        self.accounts.replace(std::mem::take(&mut stored.accounts));
        self.admin_keys.replace(std::mem::take(&mut stored.admin_keys));
        self.organization.replace(&stored.settings);
    }

    /// The key ring, to be read.
    pub fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    /// The version of the rules in memory: keys, projects, limits.
    pub fn rules_version(&self) -> i64 {
        self.rulebook.rules_version()
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<Clock> {
        &self.clock
    }

    /// The rows of the audit log that fit a filter, newest first.
    pub async fn audit_log(&self, filter: AuditFilter) -> Result<Vec<AuditRow>, StoreError> {
        self.reports.audit_log(filter).await
    }
}

/// Puts all stored projects, their rules on models and all stops into a ring, in place of those that it has.
pub fn fill(ring: &Ring, stored: &mut Stored) {
    ring.set_projects(std::mem::take(&mut stored.projects).into_iter().map(project_of));
    ring.stops().set(std::mem::take(&mut stored.stops));
    let rules = std::mem::take(&mut stored.model_rules);
    ring.set_model_rules(rules.into_iter().map(|row| (row.project.clone(), rule_of(row))));
}

/// Puts a stored key into a ring.
pub fn put_key(ring: &Ring, row: KeyRow) {
    ring.put(&Arc::new(key_of(row, 0)));
}

/// Notes that a key was used at an instant, in Unix milliseconds.
pub fn note_use(ring: &Ring, key: &str, used_ms: i64) {
    if let Some(key) = ring.by_id(key) {
        key.note_use(used_ms);
    }
}

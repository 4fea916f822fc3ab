//! The database as it was at one place in the journal's queue.

use std::collections::HashMap;
use std::sync::Arc;

use crate::domain::{Limit, Span};
use crate::ledger::Past;
use crate::ledger::account::Account;
use crate::ledger::entry::Hold;
use crate::ledger::meter::Subject;
use crate::store::StoreError;
use crate::store::records::Names;
use crate::store::reports::Report;
use crate::store::sql::{self, Db, Owned, credit, crossings, entries, history, pruned, verify};

/// Reads what was written at one instant, whatever is written since. Each call may take
/// long: not for a thread that requests run on.
#[derive(Debug)]
pub struct Snapshot {
    connection: Owned,
    /// What the engine finds damaged in its files.
    damage: fn(&Owned) -> sql::Result<Vec<String>>,
}

/// Whether a snapshot is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotNeed {
    /// It is taken.
    Taken,
    /// There is nothing to read from it.
    None,
}

impl Snapshot {
    /// A snapshot on a connection whose reading has begun.
    pub(in crate::store) fn of(connection: Owned, damage: fn(&Owned) -> sql::Result<Vec<String>>) -> Self {
        Self { connection, damage }
    }

    fn db(&self) -> Db<'_> {
        self.connection.db()
    }

    /// What each of the limits has settled in its windows from a time on, in Unix seconds,
    /// where one of them starts; in their order.
    pub fn history(&self, limits: &[(Arc<Limit>, i64)], names: &dyn Names) -> Result<Vec<Past>, StoreError> {
        let of: Vec<(&Limit, i64)> = limits.iter().map(|(limit, since_s)| (&**limit, *since_s)).collect();
        Ok(history::settled(self.db(), &of, names)?)
    }

    /// Compares all that the database says twice.
    pub fn verify(&self) -> Result<Report, StoreError> {
        Ok(verify::verify(self.db(), (self.damage)(&self.connection)?)?)
    }

    /// The holds without an ending.
    pub fn open_holds(&self, names: &dyn Names) -> Result<Vec<Hold>, StoreError> {
        Ok(verify::open_holds(self.db(), names)?)
    }

    /// The kind of an entry, if there is one of that id.
    pub fn entry_kind(&self, id: u64) -> Result<Option<String>, StoreError> {
        Ok(entries::kind(self.db(), id)?)
    }

    /// What each subject of a limit has settled in one window, by its entries.
    pub fn settled_by_entries(
        &self,
        limit: &Limit,
        span: Span,
        names: &dyn Names,
    ) -> Result<HashMap<Subject, i64>, StoreError> {
        Ok(entries::settled_by_entries(self.db(), limit, span, names)?)
    }

    /// The time since which no entry was pruned, in Unix seconds.
    pub fn whole_since_s(&self) -> Result<i64, StoreError> {
        Ok(pruned::whole_since_s(self.db())?)
    }

    /// Whether a meter's soft threshold is recorded as crossed in the window that starts
    /// at a time, in Unix seconds.
    pub fn has_crossing(
        &self,
        limit: &str,
        subject: &str,
        threshold: i64,
        start_s: i64,
    ) -> Result<bool, StoreError> {
        Ok(crossings::is_crossed(self.db(), limit, subject, threshold, start_s)?)
    }

    /// The account of prepaid credit with all that is settled on it, if any was granted.
    pub fn account(&self) -> Result<Option<Account>, StoreError> {
        Ok(credit::account(self.db())?)
    }
}

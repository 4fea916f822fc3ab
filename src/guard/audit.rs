//! The audit log: each change is written together with its row.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::clock::Clock;
use crate::domain::Limit;
use crate::ledger::entry::{Entry, entry_id};
use crate::store::records::{ActiveLimit, AuditRow, KeyRow, ProjectRow, RecordChange};
use crate::store::{Pasts, Records, RulesChange, StoreError};

/// The author of a change.
#[derive(Clone, Debug)]
pub struct Actor {
    /// Id of the token, by which the audit log finds its changes.
    pub id: String,
    /// Its name, for people.
    pub name: String,
    /// Whether it may still act.
    pub standing: Standing,
}

/// Whether a token may act. All copies end together.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    is_over: Arc<AtomicBool>,
}

impl Standing {
    /// The token was deleted.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::Release);
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }
}

impl Actor {
    /// The owner of the configured admin token.
    pub fn configured() -> Self {
        Self::lasting("configured", "the configured admin token")
    }

    /// The program itself, where no operator asked for a change.
    pub fn guard() -> Self {
        Self::lasting("guard", "the guard itself")
    }

    /// A fuse of the configuration.
    pub fn fuse(name: &str) -> Self {
        Self::lasting(&format!("fuse:{name}"), &format!("the fuse {name:?}"))
    }

    fn lasting(id: &str, name: &str) -> Self {
        Self { id: id.to_owned(), name: name.to_owned(), standing: Standing::default() }
    }
}

/// A change in the audit log. Never contains a secret.
#[derive(Clone, Debug)]
pub struct Change {
    /// What happened, such as `project.created`.
    pub event: &'static str,
    /// Id of the changed object.
    pub resource: String,
    /// The project it is about.
    pub project: Option<String>,
    /// The state before; `None` if the object was created.
    pub before: Option<Value>,
    /// The state after; `None` if the object was removed.
    pub after: Option<Value>,
}

impl Change {
    /// A change of a key; the event follows from the states before and after.
    pub fn of_key(before: Option<&KeyRow>, after: &KeyRow) -> Self {
        let event = match before {
            None => "api_key.created",
            Some(_) if after.revoked_s.is_some() => "api_key.deleted",
            Some(_) => "api_key.updated",
        };
        let said = |row: &KeyRow| {
            json!({
                "name": row.name, "project_id": row.project, "redacted_value": row.redacted, "models": row.models,
                "expires_at": row.expires_s, "revoked_at": row.revoked_s,
                "old_secret_until": row.old.map(|(_, until_s)| until_s),
            })
        };
        Self {
            event,
            resource: after.id.clone(),
            project: Some(after.project.clone()),
            before: before.map(said),
            after: Some(said(after)),
        }
    }

    /// Entries were pruned.
    pub fn of_pruning(before_s: i64, entries: u64) -> Self {
        Self {
            event: "storage.pruned",
            resource: "ledger".to_owned(),
            project: None,
            before: None,
            after: Some(json!({ "before": before_s, "entries": entries })),
        }
    }

    /// A change of a project.
    pub fn of_project(before: Option<&ProjectRow>, after: &ProjectRow) -> Self {
        let event = match before {
            None => "project.created",
            Some(before) if before.archived_s != after.archived_s => "project.archived",
            Some(_) => "project.updated",
        };
        let said = |row: &ProjectRow| json!({ "name": row.name, "archived_at": row.archived_s });
        Self {
            event,
            resource: after.id.clone(),
            project: Some(after.id.clone()),
            before: before.map(said),
            after: Some(said(after)),
        }
    }

    /// A correction of an entry.
    pub fn of_correction(entry: &Entry) -> Self {
        let said =
            json!({ "entry": entry_id(entry.id), "amount_usd": entry.cost.to_string(), "note": entry.note });
        Self {
            event: "ledger.adjusted",
            resource: entry.corrects.map(entry_id).unwrap_or_default(),
            project: Some(entry.attribution.project.to_string()),
            before: None,
            after: Some(said),
        }
    }

    /// Its row of the audit log.
    pub fn row(self, by: &Actor, at_ms: i64) -> AuditRow {
        AuditRow {
            id: 0,
            at_ms,
            actor: by.id.clone(),
            actor_name: by.name.clone(),
            event: self.event.to_owned(),
            project: self.project,
            resource: self.resource,
            before: self.before.map(|before| before.to_string()),
            after: self.after.map(|after| after.to_string()),
        }
    }
}

/// Writes the changes of operators, each with its row of the audit log.
#[derive(Debug)]
pub struct AuditedRecords {
    records: Records,
    clock: Arc<Clock>,
    /// Makes changes one at a time.
    turns: Arc<tokio::sync::Mutex<()>>,
}

/// The turn of one change: no other is made through these records at the same time and, on
/// an engine that is shared, none by whatever guard; what is in memory is of the latest
/// rules.
#[derive(Debug)]
pub struct ChangeTurn {
    change: RulesChange,
    // Dropped after the change.
    _alone: tokio::sync::OwnedMutexGuard<()>,
}

impl ChangeTurn {
    /// Puts what was written in force in memory, on the embedded engine: there each write is
    /// committed when it returns. On a shared one nothing is in force before
    /// [`AuditedRecords::finish`] has committed it, and memory holds what was read of the database.
    pub fn put_in_memory(&self, put: impl FnOnce()) {
        self.change.put_in_memory(put);
    }
}

impl AuditedRecords {
    /// Writes through a store's records, by a clock.
    pub fn new(records: Records, clock: Arc<Clock>) -> Self {
        Self { records, clock, turns: Arc::default() }
    }

    /// Waits for the turn of a change by an operator, which [`AuditedRecords::finish`] ends.
    /// Dropped before, it leaves nothing behind in a database that is shared; the embedded one
    /// keeps what was written. An error if the operator's admin key was deleted meanwhile, on
    /// whatever guard.
    pub async fn turn(&self, by: &Actor) -> Result<ChangeTurn, StoreError> {
        let alone = Arc::clone(&self.turns).lock_owned().await;
        let turn = ChangeTurn { change: self.records.begin().await?, _alone: alone };
        if by.standing.is_over() { Err(StoreError::ActorGone) } else { Ok(turn) }
    }

    /// Ends a turn: its changes are in the database, and bind every guard. After an error, a shared
    /// database has all of them or none.
    pub async fn finish(&self, turn: ChangeTurn) -> Result<(), StoreError> {
        turn.change.finish().await
    }

    /// Writes changes with their rows of the audit log: all, or nothing. A change
    /// without an effect gets no row.
    pub async fn write(
        &self,
        turn: &mut ChangeTurn,
        by: &Actor,
        changes: Vec<Change>,
        records: Vec<RecordChange>,
    ) -> Result<(), StoreError> {
        let at_ms = self.clock.now_ms();
        let changed = changes.into_iter().filter(|change| change.before != change.after);
        let rows: Vec<AuditRow> = changed.map(|change| change.row(by, at_ms)).collect();
        turn.change.write(&self.records, records, rows).await
    }

    /// Writes changes that no operator has made.
    pub async fn write_unaudited(
        &self,
        turn: &mut ChangeTurn,
        records: Vec<RecordChange>,
    ) -> Result<(), StoreError> {
        turn.change.write(&self.records, records, Vec::new()).await
    }

    /// Writes what is of no rule, such as when an admin key was used.
    pub async fn note(&self, records: Vec<RecordChange>) -> Result<(), StoreError> {
        self.records.write(records, Vec::new()).await
    }

    /// Those of the limits whose past has to be added up before this turn can put them in force:
    /// by [`AuditedRecords::learn`], without a turn. `pasts` is what was added up so far. To be asked
    /// before anything is written.
    pub async fn lacking(
        &self,
        turn: &mut ChangeTurn,
        limits: impl FnOnce() -> Vec<ActiveLimit>,
        pasts: Pasts,
    ) -> Result<Vec<Arc<Limit>>, StoreError> {
        turn.change.lacking(limits, pasts).await
    }

    /// Adds up what limits have settled, while requests and others' turns go on.
    pub async fn learn(&self, limits: Vec<Arc<Limit>>) -> Result<Pasts, StoreError> {
        self.records.learn(limits).await
    }

    /// Puts limits in force on the meters of a shared engine; the embedded one has its own in
    /// memory. `of_file` are those of the configuration file, as they are written there: name,
    /// and rule as JSON.
    pub async fn activate(
        &self,
        turn: &mut ChangeTurn,
        of_file: Vec<(String, String)>,
        limits: Vec<ActiveLimit>,
    ) -> Result<(), StoreError> {
        turn.change.activate(of_file, limits).await
    }

    /// The id of a record that is made in this turn; `None` where the ledger gives it.
    pub async fn new_id(&self, turn: &mut ChangeTurn) -> Result<Option<u64>, StoreError> {
        turn.change.new_id().await
    }
}

//! Who changed what: each change is written together with its line of the trail.

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::guard::Guard;
use crate::ledger::entry::{Entry, entry_id};
use crate::store::StoreError;
use crate::store::settings::{KeyRow, ProjectRow};
use crate::store::trail::{self, AuditRow, TrailFilter};

/// Who changes something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// Id of the token, by which the trail finds its changes.
    pub id: String,
    /// Its name, for people.
    pub name: String,
}

impl Actor {
    /// Who holds the configured admin token.
    pub fn configured() -> Self {
        Self { id: "configured".to_owned(), name: "the configured admin token".to_owned() }
    }

    /// The program itself, where nobody asked for a change.
    pub fn guard() -> Self {
        Self { id: "guard".to_owned(), name: "the guard itself".to_owned() }
    }
}

/// What the trail says of one change. Never a secret.
#[derive(Clone, Debug)]
pub struct Change {
    /// What happened, such as `project.created`.
    pub event: &'static str,
    /// Id of what was changed.
    pub resource: String,
    /// The project it is about.
    pub project: Option<String>,
    /// What was, unless it was made.
    pub before: Option<Value>,
    /// What is, unless it is gone.
    pub after: Option<Value>,
}

impl Change {
    /// A change of a key, told apart by what was and what is.
    pub(super) fn of_key(before: Option<&KeyRow>, after: &KeyRow) -> Self {
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
    pub(super) fn of_pruning(before_s: i64, entries: u64) -> Self {
        Self {
            event: "storage.pruned",
            resource: "ledger".to_owned(),
            project: None,
            before: None,
            after: Some(json!({ "before": before_s, "entries": entries })),
        }
    }

    /// A change of a project.
    pub(super) fn of_project(before: Option<&ProjectRow>, after: &ProjectRow) -> Self {
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
    pub(super) fn of_correction(entry: &Entry) -> Self {
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

    pub(super) fn row(self, by: &Actor, at_ms: i64) -> AuditRow {
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

impl Guard {
    /// Writes changes with their lines of the trail: all, or nothing. What is
    /// as it was gets no line.
    pub(super) async fn write<F>(&self, by: &Actor, changes: Vec<Change>, work: F) -> Result<(), StoreError>
    where
        F: FnOnce(&Connection) -> rusqlite::Result<()> + Send + 'static,
    {
        let at_ms = self.clock.now_ms();
        let changed = changes.into_iter().filter(|change| change.before != change.after);
        let rows: Vec<AuditRow> = changed.map(|change| change.row(by, at_ms)).collect();
        self.writer
            .run(move |db| {
                let tx = db.transaction()?;
                work(&tx)?;
                for row in &rows {
                    trail::insert(&tx, row)?;
                }
                tx.commit()
            })
            .await
    }

    /// The lines of the trail that fit a filter, newest first.
    pub async fn trail(&self, filter: TrailFilter) -> Result<Vec<AuditRow>, StoreError> {
        self.read(move |db| trail::rows(db, &filter)).await
    }
}

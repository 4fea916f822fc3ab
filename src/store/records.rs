//! What operators change, as plain structs: keys, projects, limits, settings, the audit log.
//!
//! A change is written together with its row of the audit log: both, or neither.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::{Limit, Stop};
use crate::ledger::account::Grant;
use crate::ledger::entry::Crossing;

/// One change of what is stored.
#[derive(Clone, Debug)]
pub enum RecordChange {
    /// A key is new or changed.
    PutKey(KeyRow),
    /// A project is new or changed.
    PutProject(ProjectRow),
    /// An admin key is new.
    InsertAdminKey(AdminKeyRow),
    /// An admin key is gone, by its id.
    RemoveAdminKey(String),
    /// An admin key was used: its id, and when in Unix seconds.
    UseAdminKey(String, i64),
    /// A service account is new or changed.
    PutAccount(AccountRow),
    /// A service account is gone, by its id.
    RemoveAccount(String),
    /// A project's rule on models is new or changed.
    PutModelRule(ModelRuleRow),
    /// A project has no rule on models any more, by its id.
    RemoveModelRule(String),
    /// A limit is new or changed: its name, and its rule as JSON.
    PutLimit(String, String),
    /// A limit is gone, by its name.
    RemoveLimit(String),
    /// A spend alert is new or changed.
    PutAlert(AlertRow),
    /// A spend alert is gone, by its id.
    RemoveAlert(String),
    /// A setting is new or changed: its name and value.
    PutSetting(String, String),
    /// A stop is new or changed.
    PutStop(Arc<Stop>),
    /// A stop is lifted, by its id.
    RemoveStop(u64),
    /// A change that operators are alerted of.
    InsertCrossing(Crossing),
    /// Credit was granted; no request had been admitted after this instant, in Unix
    /// milliseconds.
    InsertGrant(Arc<Grant>, i64),
}

/// What is read once, when a guard starts. Of keys there may be a million: those are
/// handed out one by one ([`crate::store::Store::each_key`]).
#[derive(Debug)]
pub struct Stored {
    /// Every project.
    pub projects: Vec<ProjectRow>,
    /// Every project's rule on models.
    pub model_rules: Vec<ModelRuleRow>,
    /// Every limit made through the API: its name, and its rule as JSON.
    pub limits: Vec<(String, String)>,
    /// The file's limits that a guard of a shared database has put in force: name, and rule
    /// as JSON. The embedded engine reads its own file alone.
    pub file_limits: Vec<(String, String)>,
    /// Every spend alert, in the order of their making.
    pub alerts: Vec<AlertRow>,
    /// Every admin key, in the order of their making.
    pub admin_keys: Vec<AdminKeyRow>,
    /// Every service account, in the order of their making.
    pub accounts: Vec<AccountRow>,
    /// Every stop, also those of fuses that are over.
    pub stops: Vec<Stop>,
    /// Every setting, by name.
    pub settings: BTreeMap<String, String>,
}

/// A limit that is put in force on a shared database.
#[derive(Clone, Debug)]
pub struct ActiveLimit {
    /// The limit, with ids in place of names.
    pub limit: Arc<Limit>,
    /// Its rule as JSON, by which other guards read it.
    pub rule: String,
    /// Whether it counts what it did before, so that its meters stay.
    pub counts_as_before: bool,
}

/// The present names of projects and keys, which stored rows refer to by id.
pub trait Names: Send + Sync {
    /// The name of a project; its id if it has none.
    fn project(&self, id: &str) -> Arc<str>;
    /// The name of a key; its id if it has none.
    fn key(&self, id: &str) -> Arc<str>;
}

/// A key as it is stored: never its secret, only the SHA-256 of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow {
    /// `key_` and base62 characters.
    pub id: String,
    /// SHA-256 of the secret.
    pub hash: [u8; 32],
    /// For people.
    pub name: String,
    /// Id of its project.
    pub project: String,
    /// What lists may show of the secret.
    pub redacted: String,
    /// Model patterns that it may use; empty for all.
    pub models: Vec<String>,
    /// Whether it is a client's own OpenAI key.
    pub pass_through: bool,
    /// When it was made, in Unix seconds.
    pub created_s: i64,
    /// When it ends, in Unix seconds.
    pub expires_s: Option<i64>,
    /// When it was revoked, in Unix seconds.
    pub revoked_s: Option<i64>,
    /// The hash before the last rotation, and until when it is honoured.
    pub old: Option<([u8; 32], i64)>,
}

impl KeyRow {
    /// The same, revoked at a time unless it was before.
    #[must_use]
    pub fn revoked(&self, at_s: i64) -> Self {
        Self { revoked_s: self.revoked_s.or(Some(at_s)), old: None, ..self.clone() }
    }
}

/// A project as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectRow {
    /// Its id.
    pub id: String,
    /// For people.
    pub name: String,
    /// When it was made, in Unix seconds.
    pub created_s: i64,
    /// When it was archived, in Unix seconds.
    pub archived_s: Option<i64>,
}

/// An admin key as it is stored: never its secret, only the SHA-256 of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminKeyRow {
    /// `admin_key_` and base62 characters.
    pub id: String,
    /// SHA-256 of the secret.
    pub hash: [u8; 32],
    /// For people.
    pub name: String,
    /// What lists may show of the secret.
    pub redacted: String,
    /// `full` or `read_only`.
    pub role: String,
    /// When it was made, in Unix seconds.
    pub created_s: i64,
    /// When it ends, in Unix seconds.
    pub expires_s: Option<i64>,
    /// When it was used last, in Unix seconds, to a quarter of an hour.
    pub used_s: Option<i64>,
}

/// A service account as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountRow {
    /// `svc_acct_` and base62 characters.
    pub id: String,
    /// Id of its project.
    pub project: String,
    /// For people.
    pub name: String,
    /// Ids of the keys that it owns.
    pub keys: Vec<String>,
    /// When it was made, in Unix seconds.
    pub created_s: i64,
}

/// Where a spend alert goes, as it was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Channel {
    /// `email`.
    #[schema(pattern = "^email$")]
    #[serde(rename = "type")]
    pub kind: String,
    /// Addresses.
    #[schema(min_items = 1, max_items = 100)]
    pub recipients: Vec<String>,
    /// What the subject begins with.
    #[schema(max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    #[serde(default)]
    pub subject_prefix: Option<String>,
}

/// A spend alert as it is stored. Its threshold is that of the limit of its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertRow {
    /// `alert_` and base62 characters.
    pub id: String,
    /// The project whose spending it watches; the organization's if absent.
    pub project: Option<String>,
    /// Where it goes.
    pub channel: Channel,
}

/// Which models a project may use, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelRuleRow {
    /// Id of the project.
    pub project: String,
    /// `allow_list` or `deny_list`.
    pub mode: String,
    /// The models' names.
    pub models: Vec<String>,
}

/// One change. What was and what is are JSON texts without any secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// Ascending in the order of changes; 0 for a row that is not written yet.
    pub id: i64,
    /// When, in Unix milliseconds.
    pub at_ms: i64,
    /// Id of the token that made it.
    pub actor: String,
    /// That token's name when it made it.
    pub actor_name: String,
    /// What happened, such as `project.created`.
    pub event: String,
    /// The project it is about.
    pub project: Option<String>,
    /// Id of what was changed.
    pub resource: String,
    /// What was, unless it was made.
    pub before: Option<String>,
    /// What is, unless it is gone.
    pub after: Option<String>,
}

/// Selects rows of the audit log; an empty list selects all.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// Of these kinds.
    pub events: Vec<String>,
    /// Made by one of these tokens.
    pub actors: Vec<String>,
    /// About one of these projects.
    pub projects: Vec<String>,
    /// Of one of these things.
    pub resources: Vec<String>,
    /// At or after, in Unix seconds.
    pub since_s: Option<i64>,
    /// Before, in Unix seconds.
    pub until_s: Option<i64>,
    /// Older than this row.
    pub below: Option<i64>,
    /// Newer than this row; then the oldest of those are meant.
    pub above: Option<i64>,
    /// At most so many.
    pub count_max: usize,
}

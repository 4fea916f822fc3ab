//! The limits in force, as they were written, and their changes by operators.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::domain::Limit;
use crate::domain::limit::Source;
use crate::guard::audit::{Actor, Change};
use crate::keys::Ring;
use crate::rulebook::Rulebook;
use crate::rulebook::names::{self, NameError, Named, Names};
use crate::rulebook::rule::{LimitRule, RuleError};
use crate::store::records::{AlertRow, RecordChange};
use crate::store::{Journal, StoreError};

/// How often names that limits lack are looked for, if the rules have changed.
const NAMES_LOOK_EVERY: Duration = Duration::from_secs(5);

/// How often the pause after a failed look-up is doubled: up to five minutes.
const NAMES_DOUBLED_MAX: u32 = 6;

/// The rules as they were written, by their source.
#[derive(Clone, Debug, Default)]
pub(super) struct Book {
    pub(super) file: Vec<Arc<Limit>>,
    pub(super) api: Vec<Arc<Limit>>,
    /// Spend alerts, each with a limit of the API, in the order of their creation.
    pub(super) alerts: Vec<AlertRow>,
    pub(super) zone: Arc<str>,
    /// The ids behind the names in limits.
    pub(super) names: Names,
}

/// A change of a book, before it is written.
pub(super) struct Planned<T> {
    /// What is returned once it is in force.
    pub(super) made: T,
    /// Its rows of the audit log.
    pub(super) changes: Vec<Change>,
    /// What is to be written.
    pub(super) records: Vec<RecordChange>,
}

impl Planned<()> {
    /// A change of nothing that is written.
    fn unwritten() -> Self {
        Self { made: (), changes: Vec::new(), records: Vec::new() }
    }
}

/// Why a limit was not changed.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// The rule is not valid.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// It names a key or a project that is not there, or more than one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The configuration file owns a limit of that name.
    #[error("limit {0:?} is managed by the configuration file; change it there")]
    ManagedByFile(String),
    /// A spend alert has a limit of that name.
    #[error("limit {0:?} is a spend alert; change it at /v1/organization/spend_alerts or its project's")]
    ManagedAsAlert(String),
    /// There is no such spend alert.
    #[error("there is no spend alert {0:?}")]
    NoSuchAlert(String),
    /// The maximum number of spend alerts is reached.
    #[error("there may be no more than {0} spend alerts of an organization or a project")]
    TooManyAlerts(usize),
    /// The system gave no random numbers.
    #[error("the system gave no random numbers: {0}")]
    Random(#[from] getrandom::Error),
    /// There is no limit of that name.
    #[error("there is no limit {0:?}")]
    NoSuchLimit(String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Book {
    /// Whether the API may make, change or remove a limit of that name.
    pub(super) fn free(&self, name: &str) -> Result<(), LimitError> {
        if self.file.iter().any(|limit| *limit.name == *name) {
            return Err(LimitError::ManagedByFile(name.to_owned()));
        }
        if self.alerts.iter().any(|alert| alert.id == name) {
            return Err(LimitError::ManagedAsAlert(name.to_owned()));
        }
        Ok(())
    }

    /// Whether each name in the file's limits belongs to at most one key.
    fn check_names(&self, limits: &[Arc<Limit>], ring: &Ring) -> Result<(), LimitError> {
        let found = names::look_up(limits, &self.names, ring);
        found.ambiguous(&self.names).map_or(Ok(()), |problem| Err(problem.clone().into()))
    }

    /// A limit of the API, with ids instead of names.
    fn checked(&self, name: &str, rule: &LimitRule, ring: &Ring) -> Result<Arc<Limit>, LimitError> {
        self.free(name)?;
        let limit = Arc::new(rule.limit(name, &self.zone)?);
        let mut found = names::look_up(&[limit], &Names::default(), ring);
        match (found.problems.pop(), found.limits.pop()) {
            (None, Some(limit)) => Ok(limit),
            (Some(problem), _) => Err(problem.into()),
            (None, None) => Err(LimitError::NoSuchLimit(name.to_owned())),
        }
    }

    /// A limit that was made through the API.
    pub(super) fn made(&self, name: &str) -> Option<&Arc<Limit>> {
        self.api.iter().find(|limit| *limit.name == *name)
    }

    /// Makes or changes limits of the API. Returns what is to be written of them.
    pub(super) fn put(&mut self, limits: &[Arc<Limit>]) -> Vec<RecordChange> {
        self.api.retain(|known| !limits.iter().any(|limit| limit.name == known.name));
        self.api.extend(limits.iter().cloned());
        let put =
            |limit: &Arc<Limit>| RecordChange::PutLimit(limit.name.to_string(), LimitRule::of(limit).json());
        limits.iter().map(put).collect()
    }

    /// Removes a limit of the API. Returns what is to be written of it.
    pub(super) fn remove(&mut self, name: &str) -> Result<RecordChange, LimitError> {
        let place = self.api.iter().position(|limit| *limit.name == *name);
        self.api.remove(place.ok_or_else(|| LimitError::NoSuchLimit(name.to_owned()))?);
        Ok(RecordChange::RemoveLimit(name.to_owned()))
    }

    fn change(&self, name: &str, after: Option<&Arc<Limit>>) -> Change {
        let said = |limit: &Arc<Limit>| serde_json::to_value(LimitRule::of(limit)).ok();
        let (before, after) = (self.made(name).and_then(said), after.and_then(said));
        let event = match (&before, &after) {
            (None, _) => "limit.created",
            (Some(_), Some(_)) => "limit.updated",
            (Some(_), None) => "limit.deleted",
        };
        Change { event, resource: name.to_owned(), project: None, before, after }
    }
}

impl Rulebook {
    /// Whether the configuration file's limits can be put in force: no name in them
    /// belongs to two keys.
    pub async fn check_file_limits(&self, limits: &[Arc<Limit>]) -> Result<(), LimitError> {
        self.book.lock().await.check_names(limits, &self.ring)
    }

    /// Puts the configuration file's limits in force beside those of the API, all at once.
    /// `zone` is the one of limits that name none. A name without a key takes effect once
    /// such a key is created; a name that two keys have is an error, and nothing changes.
    pub async fn install_file_limits(
        &self,
        limits: Vec<Arc<Limit>>,
        zone: Arc<str>,
    ) -> Result<(), LimitError> {
        let plan = |book: &mut Book| {
            book.check_names(&limits, &self.ring)?;
            let clash = book.api.iter().find(|api| limits.iter().any(|file| file.name == api.name));
            if let Some(limit) = clash {
                tracing::warn!(
                    event = "limit_name_conflict", limit = %limit.name,
                    "the file and the API both have a limit of this name; the file's is in force"
                );
            }
            book.file.clone_from(&limits);
            book.zone = Arc::clone(&zone);
            Ok(Planned::unwritten())
        };
        self.change_limits(&Actor::guard(), plan).await?;
        // Each guard has its own: no database keeps it.
        self.book.lock().await.zone = Arc::clone(&zone);
        Ok(())
    }

    /// Makes or changes a limit through the API. It is in force when this
    /// returns.
    pub async fn put_limit(
        &self,
        name: &str,
        rule: &LimitRule,
        by: &Actor,
    ) -> Result<Arc<Limit>, LimitError> {
        let plan = |book: &mut Book| {
            let limit = book.checked(name, rule, &self.ring)?;
            let changes = vec![book.change(name, Some(&limit))];
            Ok(Planned { records: book.put(&[Arc::clone(&limit)]), made: limit, changes })
        };
        self.change_limits(by, plan).await
    }

    /// Limits as they would be in force, with ids instead of names: to be tried, and not written.
    pub fn limits_to_try(
        &self,
        rules: &[(String, LimitRule)],
        zone: &str,
    ) -> Result<Vec<Arc<Limit>>, LimitError> {
        let limits = rules.iter().map(|(name, rule)| rule.limit(name, zone).map(Arc::new));
        let limits = limits.collect::<Result<Vec<_>, _>>()?;
        let mut found = names::look_up(&limits, &Names::default(), &self.ring);
        found.problems.pop().map_or(Ok(found.limits), |problem| Err(problem.into()))
    }

    /// Removes a limit that was made through the API.
    pub async fn remove_limit(&self, name: &str, by: &Actor) -> Result<(), LimitError> {
        let plan = |book: &mut Book| {
            book.free(name)?;
            let changes = vec![book.change(name, None)];
            Ok(Planned { made: (), changes, records: vec![book.remove(name)?] })
        };
        self.change_limits(by, plan).await
    }

    /// Creates or changes several limits together: all of them, or none.
    pub async fn put_limits(
        &self,
        rules: &[(String, LimitRule)],
        change: Change,
        by: &Actor,
    ) -> Result<(), LimitError> {
        let plan = |book: &mut Book| {
            let checked = rules.iter().map(|(name, rule)| book.checked(name, rule, &self.ring));
            let limits = checked.collect::<Result<Vec<_>, _>>()?;
            Ok(Planned { made: (), changes: vec![change.clone()], records: book.put(&limits) })
        };
        self.change_limits(by, plan).await
    }

    /// Whether a limit writes a name.
    pub(super) fn is_written(&self, kind: Named, name: &str) -> bool {
        self.written_names.load().contains(&(kind, name.to_owned()))
    }

    /// Called once a key or project has got a name, or lost its standing: if a limit has that name,
    /// it is looked up.
    pub async fn look_up_name(&self, kind: Named, name: &str) {
        if self.is_written(kind, name) {
            self.look_up_names().await;
        }
    }

    /// Looks up the names in limits again; whether what they name has its place in them now.
    async fn look_up_names(&self) -> bool {
        let plan = |_: &mut Book| Ok(Planned::unwritten());
        let changed = self.change_limits(&Actor::guard(), plan).await;
        if let Err(error) = &changed {
            tracing::error!(
                event = "limit_activation_failed", %error,
                "limits can't be put in force for a key or a project that they name"
            );
        }
        changed.is_ok()
    }

    /// Looks from time to time, until it is stopped, whether there is something that a limit names
    /// and lacks: the database may have failed, or a guard died, before the limit was in force for
    /// it. On the embedded engine, the next start looks.
    pub async fn watch_names(&self, mut stop: watch::Receiver<bool>) {
        let Journal::Shared(_) = self.core.journal() else { return };
        let mut looks = NameLooks::default();
        while !*stop.borrow() {
            if looks.is_due(self.rules_version()) {
                looks.note(!self.is_any_name_lacking().await || self.look_up_names().await);
            }
            let _ = tokio::time::timeout(NAMES_LOOK_EVERY, stop.changed()).await;
        }
    }

    async fn is_any_name_lacking(&self) -> bool {
        let book = self.book.lock().await;
        names::is_any_lacking(&in_force(&book), &book.names, &self.ring)
    }
}

/// When names that limits lack are looked for: once at each version of the rules, and again after a
/// failure, which costs all guards much, with a growing pause.
#[derive(Debug, Default)]
struct NameLooks {
    version: Option<i64>,
    is_done: bool,
    failures: u32,
    /// Looks that are left out until the next one.
    left_out: u32,
}

impl NameLooks {
    /// Whether they are looked for in this look.
    fn is_due(&mut self, version: i64) -> bool {
        if self.version != Some(version) {
            *self = Self { version: Some(version), ..Self::default() };
        }
        let is_due = !self.is_done && self.left_out == 0;
        self.left_out = self.left_out.saturating_sub(1);
        is_due
    }

    /// Notes what has become of a look.
    fn note(&mut self, is_done: bool) {
        self.is_done = is_done;
        self.left_out = (1 << self.failures) - 1;
        self.failures = (self.failures + 1).min(NAMES_DOUBLED_MAX);
    }
}

/// The limits of a book; of two with the same name, the file's.
pub(super) fn in_force(book: &Book) -> Vec<Arc<Limit>> {
    let api = book.api.iter().filter(|api| !book.file.iter().any(|file| file.name == api.name));
    book.file.iter().chain(api).cloned().collect()
}

/// The limits that the database keeps, as they were made through the API.
///
/// A rule that an older release wrote and this one can't read stops the start: a
/// limit must not disappear silently.
pub(super) fn stored(rules: Vec<(String, String)>, zone: &str) -> Result<Vec<Arc<Limit>>, String> {
    let limit = |(name, text): (String, String)| {
        let rule: LimitRule =
            serde_json::from_str(&text).map_err(|error| format!("limit {name:?}: {error}"))?;
        let limit = rule.limit(&name, zone).map_err(|error| format!("limit {name:?}: {error}"))?;
        debug_assert_eq!(limit.source, Source::Api);
        Ok(Arc::new(limit))
    };
    rules.into_iter().map(limit).collect()
}

/// The file's limits that a guard has put in force, as they were written.
pub(super) fn stored_of_file(rules: Vec<(String, String)>, zone: &str) -> Result<Vec<Arc<Limit>>, String> {
    let of_file = |limit: Arc<Limit>| Arc::new(Limit { source: Source::File, ..Limit::clone(&limit) });
    Ok(stored(rules, zone)?.into_iter().map(of_file).collect())
}

/// The limits that are in force on a shared database: name, and rule as JSON. `of_file` are
/// those of the configuration file.
pub fn active(
    rules: Vec<(String, String)>,
    of_file: &[(String, String)],
    zone: &str,
) -> Result<Vec<Arc<Limit>>, String> {
    let (of_file, of_api): (Vec<_>, Vec<_>) =
        rules.into_iter().partition(|(name, _)| of_file.iter().any(|(of_file, _)| of_file == name));
    let mut limits = stored_of_file(of_file, zone)?;
    limits.extend(stored(of_api, zone)?);
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_can_not_be_looked_up_are_so_again_after_a_growing_pause_and_at_once_at_a_new_version() {
        let mut looks = NameLooks::default();
        let mut failed_at = Vec::new();
        for look in 0..300 {
            if looks.is_due(7) {
                looks.note(false);
                failed_at.push(look);
            }
        }
        assert_eq!(failed_at, [0, 1, 3, 7, 15, 31, 63, 127, 191, 255]);
        assert!(looks.is_due(8));
        looks.note(true);
        assert!((0..300).all(|_| !looks.is_due(8)));
        assert!(looks.is_due(9));
    }
}

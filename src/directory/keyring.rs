//! Changes of keys and projects: committed first, then put in force, then answered.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::directory::Directory;
use crate::directory::stored_key::{key_of, project_of};
use crate::domain::Secret;
use crate::guard::audit::{Actor, Change, ChangeTurn};
use crate::keys::{self, DEFAULT_PROJECT, Key, KeyHash, Project};
use crate::rulebook::names::{Named, Unspent};
use crate::store::StoreError;
use crate::store::records::{KeyRow, ProjectRow, RecordChange};

/// Why a key or project was not changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is no such key.
    #[error("there is no key {0:?}")]
    NoSuchKey(String),
    /// There is no such project, or it is archived.
    #[error("there is no active project {0:?}")]
    NoSuchProject(String),
    /// There is no such service account.
    #[error("there is no service account {0:?}")]
    NoSuchAccount(String),
    /// The maximum number of these is reached.
    #[error("there may be no more {0} than {1}")]
    TooMany(&'static str, usize),
    /// The secret is in use by another key.
    #[error("another key has this secret")]
    SecretTaken,
    /// The secret can't be sent in a header, or is too short to be one.
    #[error("a secret needs 8 to 512 printable ASCII characters, and no space at its ends")]
    BadSecret,
    /// The name is empty or too long.
    #[error("a name needs 1 to 256 characters, not all of them spaces, and no control characters")]
    BadName,
    /// There are too many patterns of models, or one is none.
    #[error("give up to 1000 patterns of models, each of 1 to 200 characters and without spaces")]
    BadModels,
    /// A project of this id exists, or the configuration file owns it.
    #[error("project {0:?} exists already or is managed by the configuration file")]
    ProjectTaken(String),
    /// The key is a client's own and can't be rotated or edited here.
    #[error("key {0:?} is a pass-through key; only its owner can change it")]
    PassThrough(String),
    /// The grace of an earlier rotation is not over.
    #[error(
        "an earlier secret of key {id:?} is good until {}, and a key has one such secret: rotate again then, or without \
         a grace, which ends it at once", crate::ledger::calendar::utc(*until_s)
    )]
    InGrace {
        /// The key.
        id: String,
        /// When it is over, in Unix seconds.
        until_s: i64,
    },
    /// The system gave no random numbers.
    #[error("the system gave no random numbers: {0}")]
    Random(#[from] getrandom::Error),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A key to be made.
#[derive(Clone, Debug, Default)]
pub struct NewKey {
    /// The name shown to people.
    pub name: String,
    /// Its project; the default one if absent.
    pub project: Option<String>,
    /// Seconds until it expires.
    pub expires_in_s: Option<i64>,
    /// Model patterns that it may use; empty for all.
    pub models: Vec<String>,
    /// A chosen secret; a random one if absent.
    pub secret: Option<Secret>,
}

/// A change of a key; `None` leaves a field as it is.
#[derive(Clone, Debug, Default)]
pub struct KeyChange {
    /// A new name.
    pub name: Option<String>,
    /// A new project.
    pub project: Option<String>,
    /// New model patterns.
    pub models: Option<Vec<String>>,
    /// A new time to live in seconds, or `Some(None)` for no end.
    pub expires_in_s: Option<Option<i64>>,
}

impl Directory {
    /// Makes a key. The secret is returned once and kept nowhere.
    pub async fn create_key(&self, new: NewKey, by: &Actor) -> Result<(Arc<Key>, Secret), KeyError> {
        let turn = self.records.turn(by).await?;
        let (row, secret) = self.new_row(new)?;
        Ok((self.put_key(turn, None, row, by).await?, secret))
    }

    /// A key that no client has yet, and its secret.
    pub(super) fn new_row(&self, new: NewKey) -> Result<(KeyRow, Secret), KeyError> {
        let name = checked_name(new.name)?;
        let project = self.active_project(new.project)?;
        let secret = match new.secret {
            Some(secret) => checked_secret(secret)?,
            None => keys::new_secret()?,
        };
        let hash = KeyHash::of(secret.expose().as_bytes());
        if self.ring.find(&hash).is_some() {
            return Err(KeyError::SecretTaken);
        }
        let created_s = self.clock.now_s();
        let row = KeyRow {
            id: keys::new_id("key_")?,
            hash: hash.0,
            name,
            project,
            redacted: secret.redacted(),
            models: checked_models(new.models)?,
            pass_through: false,
            created_s,
            expires_s: new.expires_in_s.map(|seconds| created_s.saturating_add(seconds)),
            revoked_s: None,
            old: None,
        };
        Ok((row, secret))
    }

    /// Changes a key. It is in force when this returns.
    pub async fn change_key(&self, id: &str, change: KeyChange, by: &Actor) -> Result<Arc<Key>, KeyError> {
        let turn = self.records.turn(by).await?;
        let before = self.row(id)?;
        let mut row = before.clone();
        if let Some(name) = change.name {
            row.name = checked_name(name)?;
        }
        if let Some(project) = change.project {
            row.project = self.active_project(Some(project))?;
        }
        if let Some(models) = change.models {
            row.models = checked_models(models)?;
        }
        if let Some(expires_in_s) = change.expires_in_s {
            row.expires_s = expires_in_s.map(|seconds| self.clock.now_s().saturating_add(seconds));
        }
        self.put_key(turn, Some(&before), row, by).await
    }

    /// Gives a key a new secret; the old one is honoured for a grace. Without a grace no older secret is
    /// good any more; while an earlier grace lasts there is no second one.
    pub async fn rotate_key(
        &self,
        id: &str,
        grace_s: i64,
        by: &Actor,
    ) -> Result<(Arc<Key>, Secret), KeyError> {
        let turn = self.records.turn(by).await?;
        let before = self.row(id)?;
        let mut row = before.clone();
        if row.pass_through {
            return Err(KeyError::PassThrough(id.to_owned()));
        }
        let now_s = self.clock.now_s();
        if let Some((_, until_s)) = row.old.filter(|(_, until_s)| grace_s > 0 && *until_s > now_s) {
            return Err(KeyError::InGrace { id: id.to_owned(), until_s });
        }
        let secret = keys::new_secret()?;
        let until_s = now_s.saturating_add(grace_s.max(0));
        row.old = (grace_s > 0).then_some((row.hash, until_s));
        row.hash = KeyHash::of(secret.expose().as_bytes()).0;
        row.redacted = secret.redacted();
        Ok((self.put_key(turn, Some(&before), row, by).await?, secret))
    }

    /// Revokes a key. No request that comes after this returns is admitted.
    pub async fn revoke_key(&self, id: &str, by: &Actor) -> Result<Arc<Key>, KeyError> {
        let turn = self.records.turn(by).await?;
        let before = self.row(id)?;
        let row = before.revoked(self.clock.now_s());
        self.put_key(turn, Some(&before), row, by).await
    }

    /// Remembers a client's own key that upstream has accepted, so that lists
    /// and ledger can name it. Does nothing if it is known.
    pub async fn remember_pass_through(&self, hash: KeyHash, redacted: String) -> Result<(), KeyError> {
        let mut turn = self.records.turn(&Actor::guard()).await?;
        if self.ring.find(&hash).is_some() {
            return Ok(());
        }
        let row = KeyRow {
            id: hash.pass_through_id(),
            hash: hash.0,
            name: redacted.clone(),
            project: DEFAULT_PROJECT.to_owned(),
            redacted,
            models: Vec::new(),
            pass_through: true,
            created_s: self.clock.now_s(),
            expires_s: None,
            revoked_s: None,
            old: None,
        };
        // Caused by a client, not by an operator, so it gets no row in the audit log.
        self.records.write_unaudited(&mut turn, vec![RecordChange::PutKey(row.clone())]).await?;
        let key = self.install_key(&turn, row);
        // Its requests before this one were counted for its id.
        Ok(self.finish_named(turn, Named::Key, &key.name, None).await?)
    }

    /// Makes a project.
    pub async fn create_project(
        &self,
        id: Option<String>,
        name: String,
        by: &Actor,
    ) -> Result<Project, KeyError> {
        let mut turn = self.records.turn(by).await?;
        let name = checked_name(name)?;
        // A project with a chosen id may have been in a configuration file.
        let is_unspent = id.is_none();
        let id = match id {
            Some(id) => checked_name(id)?,
            None => keys::new_id("proj_")?,
        };
        if self.ring.project(&id).is_some() {
            return Err(KeyError::ProjectTaken(id));
        }
        let row = ProjectRow { id, name, created_s: self.clock.now_s(), archived_s: None };
        let project = self.put_project(&mut turn, None, row, by).await?;
        let unspent = is_unspent.then_some(&*project.id);
        self.finish_named(turn, Named::Project, &project.name, unspent).await?;
        Ok(project)
    }

    /// Renames a project.
    pub async fn rename_project(&self, id: &str, name: String, by: &Actor) -> Result<Project, KeyError> {
        let mut turn = self.records.turn(by).await?;
        let before = self.project_row(id)?;
        let row = ProjectRow { name: checked_name(name)?, ..before.clone() };
        let project = self.put_project(&mut turn, Some(&before), row, by).await?;
        self.finish_named(turn, Named::Project, &project.name, None).await?;
        Ok(project)
    }

    /// Archives a project; its keys are refused from now on.
    pub async fn archive_project(&self, id: &str, by: &Actor) -> Result<Project, KeyError> {
        let mut turn = self.records.turn(by).await?;
        let before = self.project_row(id)?;
        let archived_s = before.archived_s.or(Some(self.clock.now_s()));
        let row = ProjectRow { archived_s, ..before.clone() };
        let project = self.put_project(&mut turn, Some(&before), row, by).await?;
        self.finish_named(turn, Named::Project, &project.name, None).await?;
        Ok(project)
    }

    /// A project that may be changed.
    fn project_row(&self, id: &str) -> Result<ProjectRow, KeyError> {
        let project = self.ring.project(id).ok_or_else(|| KeyError::NoSuchProject(id.to_owned()))?;
        if project.from_file {
            return Err(KeyError::ProjectTaken(id.to_owned()));
        }
        let Project { name, created_s, archived_s, .. } = project;
        Ok(ProjectRow { id: id.to_owned(), name: name.to_string(), created_s, archived_s })
    }

    /// Puts the configuration file's projects in place, the default one too.
    pub fn install_file_projects(&self, projects: impl Iterator<Item = (String, String)>) {
        let default = (DEFAULT_PROJECT.to_owned(), "Default".to_owned());
        for (id, name) in std::iter::once(default).chain(projects) {
            let known = self.ring.project(&id);
            let created_s = known.map_or_else(|| self.clock.now_s(), |project| project.created_s);
            let (id, name) = (id.into(), name.into());
            self.ring.put_project(Project { id, name, created_s, archived_s: None, from_file: true });
        }
    }

    pub(super) fn row(&self, id: &str) -> Result<KeyRow, KeyError> {
        let key = self.ring.by_id(id).ok_or_else(|| KeyError::NoSuchKey(id.to_owned()))?;
        Ok(KeyRow {
            id: key.id.to_string(),
            hash: key.hash.0,
            name: key.name.to_string(),
            project: key.project.to_string(),
            redacted: key.redacted.to_string(),
            models: key.models.iter().map(ToString::to_string).collect(),
            pass_through: key.pass_through,
            created_s: key.created_s,
            expires_s: key.expires_s,
            revoked_s: key.revoked_s,
            old: key.old.map(|(hash, until_s)| (hash.0, until_s)),
        })
    }

    async fn put_key(
        &self,
        mut turn: ChangeTurn,
        before: Option<&KeyRow>,
        row: KeyRow,
        by: &Actor,
    ) -> Result<Arc<Key>, KeyError> {
        let (changes, stored) = (vec![Change::of_key(before, &row)], row.clone());
        self.records.write(&mut turn, by, changes, vec![RecordChange::PutKey(stored)]).await?;
        let key = self.install_key(&turn, row);
        let unspent = before.is_none().then_some(&*key.id);
        self.finish_named(turn, Named::Key, &key.name, unspent).await?;
        Ok(key)
    }

    /// Finishes a turn in which a key or a project got a name, or lost its standing, and puts the
    /// limits that name it in force for it: with the turn if its id, `unspent`, is new, else
    /// afterwards, when what was spent by it is known.
    pub(super) async fn finish_named(
        &self,
        mut turn: ChangeTurn,
        kind: Named,
        name: &str,
        unspent: Option<&str>,
    ) -> Result<(), StoreError> {
        let is_done = match unspent {
            Some(id) => self.rulebook.put_in_force_for(&mut turn, Unspent { kind, id, name }).await?,
            None => false,
        };
        self.records.finish(turn).await?;
        if !is_done {
            self.rulebook.look_up_name(kind, name).await;
        }
        Ok(())
    }

    /// Puts a key that was written in force with its turn.
    pub(super) fn install_key(&self, turn: &ChangeTurn, row: KeyRow) -> Arc<Key> {
        let used_ms = self.ring.by_id(&row.id).map_or(0, |key| key.last_used_ms.load(Ordering::Relaxed));
        let key = Arc::new(key_of(row, used_ms));
        turn.put_in_memory(|| self.ring.put(&key));
        key
    }

    /// Writes a project, which is in force once the turn is finished.
    async fn put_project(
        &self,
        turn: &mut ChangeTurn,
        before: Option<&ProjectRow>,
        row: ProjectRow,
        by: &Actor,
    ) -> Result<Project, KeyError> {
        let (changes, stored) = (vec![Change::of_project(before, &row)], row.clone());
        self.records.write(turn, by, changes, vec![RecordChange::PutProject(stored)]).await?;
        let project = project_of(row);
        turn.put_in_memory(|| self.ring.put_project(project.clone()));
        Ok(project)
    }

    /// The id of an active project, by id or name.
    pub(super) fn active_project(&self, name_or_id: Option<String>) -> Result<String, KeyError> {
        let name_or_id = name_or_id.unwrap_or_else(|| DEFAULT_PROJECT.to_owned());
        let named = || self.ring.projects().into_iter().find(|project| *project.name == *name_or_id);
        let found = self.ring.project(&name_or_id).or_else(named);
        let active = found.filter(|project| project.archived_s.is_none());
        active.map(|project| project.id.to_string()).ok_or(KeyError::NoSuchProject(name_or_id))
    }
}

pub(super) fn checked_name(name: String) -> Result<String, KeyError> {
    let fits = name.chars().count() <= 256 && !name.chars().any(char::is_control);
    if fits && !name.trim().is_empty() { Ok(name) } else { Err(KeyError::BadName) }
}

fn checked_models(models: Vec<String>) -> Result<Vec<String>, KeyError> {
    let is_blank = |c: char| c.is_control() || c.is_whitespace();
    let is_pattern = |text: &String| (1..=200).contains(&text.chars().count()) && !text.contains(is_blank);
    let fits = models.len() <= 1_000 && models.iter().all(is_pattern);
    if fits { Ok(models) } else { Err(KeyError::BadModels) }
}

fn checked_secret(secret: Secret) -> Result<Secret, KeyError> {
    let text = secret.expose();
    // Spaces at the ends are lost where a header is read.
    let is_printable =
        text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) && text.trim().len() == text.len();
    let fits = (8..=512).contains(&text.len()) && is_printable;
    if fits { Ok(secret) } else { Err(KeyError::BadSecret) }
}

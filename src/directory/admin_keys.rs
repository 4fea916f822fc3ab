//! Admin keys: tokens that operators make for each other, beside the configured
//! one.
//!
//! There are few of them, so a list is searched. Only the hash of a secret is kept,
//! here and in the database.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, RwLock};

use dashmap::DashSet;
use foldhash::quality::RandomState;
use serde_json::json;

use crate::directory::Directory;
use crate::directory::keyring::{KeyError, checked_name};
use crate::domain::Secret;
use crate::guard::audit::{Actor, Change, Standing};
use crate::keys::{self, KeyHash};
use crate::store::records::{AdminKeyRow, RecordChange};
use crate::sync::unpoisoned;

/// The most admin keys.
const KEYS_MAX: usize = 1_000;
/// The least time between two recorded uses of a key.
const NOTED_AFTER_S: i64 = 900;

/// What an admin key may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    #[default]
    Full,
    /// Read, and change nothing.
    ReadOnly,
}

impl Role {
    /// The name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::ReadOnly => "read_only",
        }
    }

    /// The value of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Full, Self::ReadOnly].into_iter().find(|role| role.name() == name)
    }
}

/// An admin key as the admin listener sees it.
#[derive(Debug)]
pub struct AdminKey {
    /// `admin_key_` and base62 characters.
    pub id: String,
    /// The name shown to people.
    pub name: String,
    /// The secret as lists show it, masked.
    pub redacted: String,
    /// What it may do.
    pub role: Role,
    /// When it was made, in Unix seconds.
    pub created_s: i64,
    /// When it ends, in Unix seconds.
    pub expires_s: Option<i64>,
    hash: KeyHash,
    used_s: AtomicI64,
    noted_s: AtomicI64,
    standing: Standing,
}

impl AdminKey {
    /// When it was last used, in Unix seconds.
    pub fn used_s(&self) -> Option<i64> {
        Some(self.used_s.load(Ordering::Relaxed)).filter(|used_s| *used_s > 0)
    }

    /// Its owner, as the author of changes.
    pub fn actor(&self) -> Actor {
        Actor { id: self.id.clone(), name: self.name.clone(), standing: self.standing.clone() }
    }

    fn of(row: AdminKeyRow) -> Arc<Self> {
        Self::known(row, Standing::default())
    }

    /// A role that can't be read may change nothing.
    fn known(row: AdminKeyRow, standing: Standing) -> Arc<Self> {
        let used_s = row.used_s.unwrap_or(0);
        Arc::new(Self {
            id: row.id,
            name: row.name,
            redacted: row.redacted,
            role: Role::named(&row.role).unwrap_or(Role::ReadOnly),
            created_s: row.created_s,
            expires_s: row.expires_s,
            hash: KeyHash(row.hash),
            used_s: AtomicI64::new(used_s),
            noted_s: AtomicI64::new(used_s),
            standing,
        })
    }

    fn change(&self, made: bool) -> Change {
        let said = json!({
            "name": self.name, "role": self.role.name(), "redacted_value": self.redacted, "expires_at": self.expires_s,
        });
        let event = if made { "tenant.admin_api_key.created" } else { "tenant.admin_api_key.deleted" };
        let (before, after) = if made { (None, Some(said)) } else { (Some(said), None) };
        Change { event, resource: self.id.clone(), project: None, before, after }
    }
}

/// The admin keys, and the hashes of all admin tokens.
#[derive(Debug, Default)]
pub(super) struct AdminKeys {
    /// All admin keys, in the order of their creation.
    keys: RwLock<Vec<Arc<AdminKey>>>,
    /// The hashes of admin keys and of the configured token. The proxy checks each
    /// pass-through key against them.
    hashes: DashSet<KeyHash, RandomState>,
}

impl AdminKeys {
    pub(super) fn of(rows: Vec<AdminKeyRow>) -> Self {
        let keys: Vec<_> = rows.into_iter().map(AdminKey::of).collect();
        Self { hashes: keys.iter().map(|key| key.hash).collect(), keys: RwLock::new(keys) }
    }

    fn all(&self) -> Vec<Arc<AdminKey>> {
        unpoisoned(self.keys.read()).clone()
    }

    fn insert(&self, key: Arc<AdminKey>) {
        self.hashes.insert(key.hash);
        let mut keys = unpoisoned(self.keys.write());
        keys.retain(|known| known.id != key.id);
        keys.push(key);
    }

    fn remove(&self, key: &AdminKey) {
        unpoisoned(self.keys.write()).retain(|known| known.id != key.id);
        self.hashes.remove(&key.hash);
        key.standing.end();
    }

    /// Replaces all admin keys.
    pub(super) fn replace(&self, rows: Vec<AdminKeyRow>) {
        let known = self.all();
        let standing = |id: &str| {
            known.iter().find(|key| key.id == id).map(|key| key.standing.clone()).unwrap_or_default()
        };
        let new = rows.into_iter().map(|row| {
            let standing = standing(&row.id);
            AdminKey::known(row, standing)
        });
        let new: Vec<_> = new.collect();
        for key in &new {
            self.hashes.insert(key.hash);
            if let Some(known) = known.iter().find(|known| known.id == key.id) {
                key.used_s.fetch_max(known.used_s.load(Ordering::Relaxed), Ordering::Relaxed);
                key.noted_s.fetch_max(known.noted_s.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
        let before = std::mem::replace(&mut *unpoisoned(self.keys.write()), new.clone());
        for gone in before.iter().filter(|key| new.iter().all(|known| known.hash != key.hash)) {
            self.hashes.remove(&gone.hash);
            gone.standing.end();
        }
    }
}

impl Directory {
    /// Every admin key, in the order of their creation.
    pub fn admin_keys(&self) -> Vec<Arc<AdminKey>> {
        self.admin_keys.all()
    }

    /// The admin key with that hash, unless it has expired.
    pub fn admin_key_of(&self, hash: &KeyHash) -> Option<Arc<AdminKey>> {
        let now_s = self.clock.now_s();
        let valid = |key: &&Arc<AdminKey>| key.expires_s.is_none_or(|end_s| now_s < end_s);
        let keys = unpoisoned(self.admin_keys.keys.read());
        keys.iter().find(|key| key.hash.is(hash)).filter(valid).cloned()
    }

    /// Keeps the hash of the configured admin token.
    pub fn know_admin_token(&self, hash: KeyHash) {
        self.admin_keys.hashes.insert(hash);
    }

    /// Whether it is the hash of the configured admin token, or of an admin key,
    /// expired ones included: the proxy must neither accept nor forward it.
    pub fn is_of_admin(&self, hash: &KeyHash) -> bool {
        self.admin_keys.hashes.contains(hash)
    }

    /// Records the use of an admin key; in the database to a quarter of an hour.
    pub async fn note_admin_key_use(&self, key: &AdminKey) {
        let now_s = self.clock.now_s();
        key.used_s.fetch_max(now_s, Ordering::Relaxed);
        if now_s.saturating_sub(key.noted_s.load(Ordering::Relaxed)) < NOTED_AFTER_S {
            return;
        }
        key.noted_s.fetch_max(now_s, Ordering::Relaxed);
        let id = key.id.clone();
        if let Err(error) = self.records.note(vec![RecordChange::UseAdminKey(id, now_s)]).await {
            tracing::warn!(
                event = "admin_key_use_not_written", %error,
                "the last use of an admin key could not be written"
            );
        }
    }

    /// Creates an admin key. Its secret is returned only here.
    pub async fn create_admin_key(
        &self,
        name: String,
        role: Role,
        expires_in_s: Option<i64>,
        by: &Actor,
    ) -> Result<(Arc<AdminKey>, Secret), KeyError> {
        let mut turn = self.records.turn(by).await?;
        if self.admin_keys.all().len() >= KEYS_MAX {
            return Err(KeyError::TooMany("admin keys", KEYS_MAX));
        }
        let secret = keys::new_admin_secret()?;
        let created_s = self.clock.now_s();
        let row = AdminKeyRow {
            id: keys::new_id("admin_key_")?,
            hash: KeyHash::of(secret.expose().as_bytes()).0,
            name: checked_name(name)?,
            redacted: secret.redacted(),
            role: role.name().to_owned(),
            created_s,
            expires_s: expires_in_s.map(|seconds| created_s.saturating_add(seconds)),
            used_s: None,
        };
        let key = AdminKey::of(row.clone());
        self.records
            .write(&mut turn, by, vec![key.change(true)], vec![RecordChange::InsertAdminKey(row)])
            .await?;
        turn.put_in_memory(|| self.admin_keys.insert(Arc::clone(&key)));
        self.records.finish(turn).await?;
        Ok((key, secret))
    }

    /// Removes an admin key. It is refused from the moment this returns.
    pub async fn delete_admin_key(&self, id: &str, by: &Actor) -> Result<(), KeyError> {
        let mut turn = self.records.turn(by).await?;
        let key = self.admin_keys.all().into_iter().find(|key| key.id == id);
        let key = key.ok_or_else(|| KeyError::NoSuchKey(id.to_owned()))?;
        let removed = RecordChange::RemoveAdminKey(id.to_owned());
        self.records.write(&mut turn, by, vec![key.change(false)], vec![removed]).await?;
        turn.put_in_memory(|| self.admin_keys.remove(&key));
        Ok(self.records.finish(turn).await?)
    }
}

//! The key ring: who may call, read by every request and written seldom.
//!
//! A lookup hashes the secret and asks one concurrent map, whatever the number of
//! keys. A change replaces the whole record, so that a request sees a key either
//! before or after the change, and every request that arrives after the change was
//! answered sees the new state.

mod stops;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, RwLock};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use foldhash::quality::RandomState;
use sha2::{Digest as _, Sha256};

use crate::domain::{Pattern, Secret, id, model};
use crate::sync::unpoisoned;

pub use self::stops::Stops;

/// The project of keys that name none.
pub const DEFAULT_PROJECT: &str = "default";
/// What a virtual key starts with.
pub const PREFIX: &str = "sk-guard-";
/// What an admin key starts with.
const ADMIN_PREFIX: &str = "sk-admin-";
const RANDOM_CHARS: usize = 40;
const CHECKSUM_CHARS: usize = 6;

/// SHA-256 of a secret; nothing else of it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyHash(pub [u8; 32]);

impl KeyHash {
    /// The hash of a secret's bytes.
    pub fn of(secret: &[u8]) -> Self {
        Self(Sha256::digest(secret).into())
    }

    /// Whether it is the same hash. Compares in constant time.
    pub fn is(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0).fold(0, |unlike, (a, b)| unlike | (a ^ b)) == 0
    }

    /// The id of a pass-through key, always the same for the same key.
    pub fn pass_through_id(&self) -> String {
        format!("key_{}", id::base62(self.0, 20))
    }
}

/// A key as requests see it.
#[derive(Debug)]
pub struct Key {
    /// `key_` and base62 characters.
    pub id: Arc<str>,
    /// The name shown to people.
    pub name: Arc<str>,
    /// Id of its project.
    pub project: Arc<str>,
    /// The secret as lists show it, masked.
    pub redacted: Arc<str>,
    /// The models it may use; empty for all.
    pub models: Vec<Pattern>,
    /// Whether it is a client's own OpenAI key, which is forwarded unchanged.
    pub pass_through: bool,
    /// When it was made, in Unix seconds.
    pub created_s: i64,
    /// When it ends, in Unix seconds.
    pub expires_s: Option<i64>,
    /// When it was revoked, in Unix seconds.
    pub revoked_s: Option<i64>,
    /// Hash of the secret.
    pub hash: KeyHash,
    /// The hash before the last rotation, and until when it is honoured.
    pub old: Option<(KeyHash, i64)>,
    /// When it was last used, in Unix milliseconds; 0 for never.
    pub last_used_ms: AtomicI64,
}

impl Key {
    /// Whether it may be used, with the hash that was presented.
    pub fn is_valid(&self, presented: &KeyHash, at_s: i64) -> bool {
        let current = *presented == self.hash
            || self.old.is_some_and(|(hash, until_s)| hash == *presented && at_s < until_s);
        current && self.revoked_s.is_none() && self.expires_s.is_none_or(|end_s| at_s < end_s)
    }

    /// Notes that it is used at a time in Unix milliseconds. Read first, as `Clock::now_ms` does.
    pub fn note_use(&self, at_ms: i64) {
        if self.last_used_ms.load(Ordering::Relaxed) < at_ms {
            self.last_used_ms.fetch_max(at_ms, Ordering::Relaxed);
        }
    }

    /// Whether it may use a model.
    pub fn allows(&self, requested: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|rule| model::permits(rule.as_str(), requested))
    }
}

/// A project as requests see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    /// Its id.
    pub id: Arc<str>,
    /// The name shown to people.
    pub name: Arc<str>,
    /// When it was made, in Unix seconds.
    pub created_s: i64,
    /// When it was archived, in Unix seconds; its keys are refused from then on.
    pub archived_s: Option<i64>,
    /// Whether the configuration file made it.
    pub from_file: bool,
}

/// Which models a project may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelRule {
    /// Whether it may use all but those listed, instead of only those.
    pub denies: bool,
    /// The models.
    pub models: Vec<String>,
}

impl ModelRule {
    /// The name in the API of a rule that denies, or of one that allows.
    pub const fn mode(denies: bool) -> &'static str {
        if denies { "deny_list" } else { "allow_list" }
    }

    /// A model is denied if the name asked for may be one that is listed, or the name it is
    /// priced as is listed; it is allowed if the name asked for certainly is one.
    fn allows(&self, requested: &str, priced_as: Option<&str>) -> bool {
        if self.denies {
            let is_listed = |id: &str| self.models.iter().any(|rule| model::permits(rule, id));
            self.denied(requested).is_none() && !priced_as.is_some_and(is_listed)
        } else {
            self.models.iter().any(|rule| model::permits(rule, requested))
        }
    }

    /// The first of those denied that a model may be.
    fn denied(&self, requested: &str) -> Option<&String> {
        self.models.iter().filter(|_| self.denies).find(|rule| model::reaches(rule, requested))
    }
}

/// All keys by hash and by id, and all projects.
#[derive(Debug, Default)]
pub struct Ring {
    by_hash: DashMap<KeyHash, Arc<Key>, RandomState>,
    by_id: DashMap<Arc<str>, Arc<Key>, RandomState>,
    projects: RwLock<HashMap<Arc<str>, Project>>,
    /// Read by every request; few projects have such a rule.
    model_rules: ArcSwap<HashMap<Arc<str>, ModelRule>>,
    stops: Stops,
}

impl Ring {
    /// The key of a hash, valid or not.
    pub fn find(&self, hash: &KeyHash) -> Option<Arc<Key>> {
        self.by_hash.get(hash).map(|key| Arc::clone(&key))
    }

    /// Who may not spend.
    pub fn stops(&self) -> &Stops {
        &self.stops
    }

    /// The key of an id.
    pub fn by_id(&self, id: &str) -> Option<Arc<Key>> {
        self.by_id.get(id).map(|key| Arc::clone(&key))
    }

    /// Puts a key in place of the one with its id, if there is one.
    pub fn put(&self, key: &Arc<Key>) {
        if let Some(before) = self.by_id.insert(Arc::clone(&key.id), Arc::clone(key)) {
            key.note_use(before.last_used_ms.load(Ordering::Relaxed));
            // The new record is inserted before the old one is removed, so that the
            // secret is known at every moment.
            self.index(key);
            let old = before.old.map(|(old, _)| old);
            for gone in [Some(before.hash), old].into_iter().flatten() {
                self.by_hash.remove_if(&gone, |_, known| !Arc::ptr_eq(known, key));
            }
        } else {
            self.index(key);
        }
    }

    fn index(&self, key: &Arc<Key>) {
        if let Some((old, _)) = key.old {
            self.by_hash.insert(old, Arc::clone(key));
        }
        self.by_hash.insert(key.hash, Arc::clone(key));
    }

    /// Every key, in the order of their creation.
    pub fn keys(&self) -> Vec<Arc<Key>> {
        let mut keys: Vec<_> = self.by_id.iter().map(|key| Arc::clone(key.value())).collect();
        keys.sort_unstable_by(|a, b| (a.created_s, &a.id).cmp(&(b.created_s, &b.id)));
        keys
    }

    /// The ids of the keys that have one of these names and are not revoked, ascending.
    pub fn ids_of_active(&self, names: &HashSet<&str>) -> HashMap<String, Vec<String>> {
        let mut found: HashMap<String, Vec<String>> = HashMap::new();
        for key in self.by_id.iter().filter(|key| key.revoked_s.is_none() && names.contains(&*key.name)) {
            found.entry(key.name.to_string()).or_default().push(key.id.to_string());
        }
        for ids in found.values_mut() {
            ids.sort_unstable();
        }
        found
    }

    /// Whether any key fits.
    pub fn any(&self, fits: impl Fn(&Key) -> bool) -> bool {
        self.by_id.iter().any(|key| fits(key.value()))
    }

    /// The project of an id.
    pub fn project(&self, id: &str) -> Option<Project> {
        unpoisoned(self.projects.read()).get(id).cloned()
    }

    /// Puts a project in place of the one with its id.
    pub fn put_project(&self, project: Project) {
        let mut projects = unpoisoned(self.projects.write());
        projects.insert(Arc::clone(&project.id), project);
    }

    /// Replaces all projects but those of the configuration file, which are in force in place of
    /// stored ones.
    pub fn set_projects(&self, stored: impl Iterator<Item = Project>) {
        let mut projects = unpoisoned(self.projects.write());
        projects.retain(|_, known| known.from_file);
        for project in stored {
            projects.entry(Arc::clone(&project.id)).or_insert(project);
        }
    }

    /// Every project, in the order of their creation.
    pub fn projects(&self) -> Vec<Project> {
        let projects = unpoisoned(self.projects.read());
        let mut projects: Vec<_> = projects.values().cloned().collect();
        projects.sort_unstable_by(|a, b| (a.created_s, &a.id).cmp(&(b.created_s, &b.id)));
        projects
    }

    /// The rule of a project on models.
    pub fn model_rule(&self, project: &str) -> Option<ModelRule> {
        self.model_rules.load().get(project).cloned()
    }

    /// Puts a project's rule on models in place of the one it has.
    pub fn put_model_rule(&self, project: &str, rule: Option<&ModelRule>) {
        self.model_rules.rcu(|before| {
            let mut rules = HashMap::clone(before);
            match rule {
                Some(rule) => drop(rules.insert(project.into(), rule.clone())),
                None => drop(rules.remove(project)),
            }
            rules
        });
    }

    /// Replaces all rules on models, each with the id of its project.
    pub fn set_model_rules(&self, rules: impl Iterator<Item = (String, ModelRule)>) {
        self.model_rules.store(Arc::new(rules.map(|(project, rule)| (project.into(), rule)).collect()));
    }

    /// Whether a project may use a model, by the name asked for and the one it is
    /// priced as.
    pub fn allows(&self, project: &str, requested: &str, priced_as: Option<&str>) -> bool {
        self.model_rules.load().get(project).is_none_or(|rule| rule.allows(requested, priced_as))
    }

    /// The denied model of a project that a model may be; the model's name may be a pattern.
    pub fn denied(&self, project: &str, requested: &str) -> Option<String> {
        self.model_rules.load().get(project)?.denied(requested).cloned()
    }

    /// The name of a project; its id if it has none.
    pub fn project_name(&self, id: &str) -> Arc<str> {
        let projects = unpoisoned(self.projects.read());
        projects.get(id).map_or_else(|| id.into(), |project| Arc::clone(&project.name))
    }

    /// The name of a key; its id if it has none.
    pub fn key_name(&self, id: &str) -> Arc<str> {
        self.by_id.get(id).map_or_else(|| id.into(), |key| Arc::clone(&key.name))
    }
}

/// A new secret: the prefix, 40 random base62 characters, and the CRC-32 of those
/// in six more, so that a mistyped key can be distinguished from an unknown one.
pub fn new_secret() -> Result<Secret, getrandom::Error> {
    let body = random_chars(RANDOM_CHARS)?;
    let checksum = checksum(&body);
    Ok(Secret::new(format!("{PREFIX}{body}{checksum}")))
}

/// A new secret of an admin key.
pub fn new_admin_secret() -> Result<Secret, getrandom::Error> {
    Ok(Secret::new(format!("{ADMIN_PREFIX}{}", random_chars(RANDOM_CHARS)?)))
}

/// Whether a secret has the form of an admin key.
pub fn is_admin_secret(secret: &str) -> bool {
    let is_random =
        |rest: &str| rest.len() == RANDOM_CHARS && rest.bytes().all(|byte| byte.is_ascii_alphanumeric());
    secret.strip_prefix(ADMIN_PREFIX).is_some_and(is_random)
}

/// A new id with a prefix such as `key_`.
pub fn new_id(prefix: &str) -> Result<String, getrandom::Error> {
    Ok(format!("{prefix}{}", random_chars(20)?))
}

/// Whether a secret has the guard's form but a wrong checksum.
pub fn is_mistyped(secret: &str) -> bool {
    let Some(rest) = secret.strip_prefix(PREFIX) else { return false };
    let shaped =
        rest.len() == RANDOM_CHARS + CHECKSUM_CHARS && rest.bytes().all(|b| b.is_ascii_alphanumeric());
    shaped && checksum(&rest[..RANDOM_CHARS]) != rest[RANDOM_CHARS..]
}

fn checksum(body: &str) -> String {
    id::base62_number(u64::from(crc32fast::hash(body.as_bytes())), CHECKSUM_CHARS)
}

fn random_chars(count: usize) -> Result<String, getrandom::Error> {
    let mut chars = String::new();
    while chars.len() < count {
        let mut random = [0; 64];
        getrandom::fill(&mut random)?;
        chars.push_str(&id::base62(random, count - chars.len()));
    }
    Ok(chars)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_secret_has_its_form_and_checksum() {
        let secret = new_secret().unwrap();
        assert_eq!(secret.expose().len(), PREFIX.len() + 46);
        assert!(!is_mistyped(secret.expose()));
        let mut wrong = secret.expose().to_owned();
        let last = if wrong.pop() == Some('x') { 'y' } else { 'x' };
        wrong.push(last);
        assert!(is_mistyped(&wrong));
        assert!(!is_mistyped("sk-guard-chosen-by-hand"), "an imported secret may have any form");
    }

    #[test]
    fn an_admin_key_has_its_form() {
        let secret = new_admin_secret().unwrap();
        assert!(is_admin_secret(secret.expose()));
        assert!(!is_admin_secret(&secret.expose()[1..]) && !is_admin_secret("sk-admin-guessed"));
    }

    #[test]
    fn a_replaced_key_is_no_longer_found_by_its_old_hash() {
        let ring = Ring::default();
        let key = |secret: &str, old| {
            Arc::new(Key {
                id: "key_1".into(),
                name: "n".into(),
                project: "default".into(),
                redacted: "…".into(),
                models: Vec::new(),
                pass_through: false,
                created_s: 0,
                expires_s: None,
                revoked_s: None,
                hash: KeyHash::of(secret.as_bytes()),
                old,
                last_used_ms: AtomicI64::new(0),
            })
        };
        ring.put(&key("a", None));
        let a = KeyHash::of(b"a");
        ring.put(&key("b", Some((a, 100))));
        assert!(ring.find(&a).unwrap().is_valid(&a, 99), "within the grace of a rotation");
        assert!(!ring.find(&a).unwrap().is_valid(&a, 100));
        ring.put(&key("c", None));
        assert!(ring.find(&a).is_none());
        assert!(ring.find(&KeyHash::of(b"b")).is_none());
    }
}

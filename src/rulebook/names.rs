//! The names of keys and projects in limits, and their ids.
//!
//! A limit counts for an id, so that a renamed key keeps its limits. A name is looked up
//! once: when the limit takes effect, or later, when a key of that name is created. The id
//! is stored across restarts. A name is looked up again only if every key it stood for has
//! been revoked.
//!
//! On a shared engine a new key comes into being together with its place in the limits that name
//! it, in one transaction. What has a past, such as a renamed key, gets its place in a second one;
//! each guard looks from time to time whether that was left undone.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::domain::Limit;
use crate::domain::limit::Only;
use crate::guard::audit::ChangeTurn;
use crate::keys::Ring;
use crate::rulebook::Rulebook;
use crate::store::StoreError;
use crate::store::records::RecordChange;

/// The name of the setting.
const SETTING: &str = "limits.names";

/// The kind of object that a limit names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Named {
    /// A key.
    Key,
    /// A project.
    Project,
}

/// Why a name in a limit has no id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing has that name.
    #[error("only: there is no {kind} {name:?}: make it first, or write the id of one")]
    Unknown {
        /// The kind of object.
        kind: Named,
        /// The name.
        name: String,
    },
    /// More than one has that name.
    #[error("only: limit {limit:?} names {kind} {name:?}, but {} have that name: write the id of one of {}", .ids.len(), .ids.join(", "))]
    Ambiguous {
        /// The limit.
        limit: Arc<str>,
        /// The kind of object.
        kind: Named,
        /// The name.
        name: String,
        /// The ids of those that have it.
        ids: Vec<String>,
    },
}

/// The ids of each name in a limit, by kind, limit and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Names(BTreeMap<Named, BTreeMap<String, BTreeMap<String, Vec<String>>>>);

/// Limits whose names have been looked up.
#[derive(Debug, Default)]
pub(super) struct LookedUp {
    /// With ids where they write names; a name that nothing has yet stays as it is written.
    pub(super) limits: Vec<Arc<Limit>>,
    pub(super) names: Names,
    /// Names without an object, and names with more than one.
    pub(super) problems: Vec<NameError>,
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Key => "key",
            Self::Project => "project",
        })
    }
}

impl Names {
    /// The stored names. An error if they can't be read, since limits would apply to nothing.
    pub(super) fn of(settings: &BTreeMap<String, String>) -> Result<Self, serde_json::Error> {
        settings.get(SETTING).map_or_else(|| Ok(Self::default()), |text| serde_json::from_str(text))
    }

    fn known(&self, kind: Named, limit: &str, name: &str) -> &[String] {
        self.0.get(&kind).and_then(|of| of.get(limit)?.get(name)).map_or(&[], Vec::as_slice)
    }

    fn remember(&mut self, kind: Named, limit: &str, name: &str, ids: &[String]) {
        let of = self.0.entry(kind).or_default().entry(limit.to_owned()).or_default();
        of.insert(name.to_owned(), ids.to_vec());
    }
}

/// A key or a project that is being made, whose id nothing was ever spent by.
#[derive(Clone, Copy, Debug)]
pub struct Unspent<'a> {
    /// What it is.
    pub kind: Named,
    /// Its id.
    pub id: &'a str,
    /// Its name.
    pub name: &'a str,
}

impl Unspent<'_> {
    /// Whether a limit counts for this beside what it counted for before, and for nothing else
    /// more or less: then its meters are as they were.
    fn is_added(&self, before: &Only, after: &Only) -> bool {
        let (mut before, mut after) = (before.clone(), after.clone());
        let of = |only: &mut Only, but: &str| {
            let named = match self.kind {
                Named::Key => &mut only.keys,
                Named::Project => &mut only.projects,
            };
            named.retain(|written| written != but);
        };
        of(&mut before, self.name);
        of(&mut after, self.id);
        before == after
    }
}

/// Looks names up.
struct Lookup<'a> {
    ring: &'a Ring,
    keys: HashMap<String, Vec<String>>,
    /// What is not in the ring yet.
    made: Option<Unspent<'a>>,
}

impl<'a> Lookup<'a> {
    /// Finds all keys of the names that have to be looked up in one pass: there may be a
    /// million.
    fn of(ring: &'a Ring, limits: &[Arc<Limit>], known: &Names, made: Option<Unspent<'a>>) -> Self {
        let empty = Self { ring, keys: HashMap::new(), made };
        let mut names = HashSet::new();
        for limit in limits {
            let needs_lookup = |written: &&String| {
                let known = known.known(Named::Key, &limit.name, written);
                !empty.is_id(Named::Key, written) && !known.iter().any(|id| empty.is_active(Named::Key, id))
            };
            names.extend(limit.only.keys.iter().filter(needs_lookup).map(String::as_str));
        }
        let keys = if names.is_empty() { HashMap::new() } else { ring.ids_of_active(&names) };
        Self { ring, keys, made }
    }

    fn is_id(&self, kind: Named, written: &str) -> bool {
        is_id(self.ring, kind, written)
    }

    fn is_active(&self, kind: Named, id: &str) -> bool {
        match kind {
            Named::Key => self.ring.by_id(id).is_some_and(|key| key.revoked_s.is_none()),
            Named::Project => self.ring.project(id).is_some_and(|project| project.archived_s.is_none()),
        }
    }

    /// Whether something was active once, and is not any more.
    fn is_over(&self, kind: Named, id: &str) -> bool {
        match kind {
            Named::Key => self.ring.by_id(id).is_some_and(|key| key.revoked_s.is_some()),
            Named::Project => self.ring.project(id).is_some_and(|project| project.archived_s.is_some()),
        }
    }

    /// The ids of all that have a name and are active.
    fn named(&self, kind: Named, name: &str) -> Vec<String> {
        let mut ids: Vec<String> = match kind {
            Named::Key => self.keys.get(name).cloned().unwrap_or_default(),
            Named::Project => {
                let all = self.ring.projects().into_iter();
                let named = all.filter(|project| *project.name == *name && project.archived_s.is_none());
                named.map(|project| project.id.to_string()).collect()
            }
        };
        let made = self.made.filter(|made| made.kind == kind && made.name == name);
        ids.extend(made.map(|made| made.id.to_owned()));
        ids
    }
}

fn is_id(ring: &Ring, kind: Named, written: &str) -> bool {
    match kind {
        Named::Key => ring.by_id(written).is_some(),
        Named::Project => ring.project(written).is_some(),
    }
}

/// Every name that limits write, whether something has it or not.
pub(super) fn written(limits: &[Arc<Limit>], ring: &Ring) -> HashSet<(Named, String)> {
    let keys = limits.iter().flat_map(|limit| &limit.only.keys).map(|name| (Named::Key, name));
    let projects = limits.iter().flat_map(|limit| &limit.only.projects).map(|name| (Named::Project, name));
    let names = keys.chain(projects).filter(|(kind, name)| !is_id(ring, *kind, name));
    names.map(|(kind, name)| (kind, name.clone())).collect()
}

/// Whether there is something by now that a limit names and lacks: it has none of that name, or
/// only what is over. Each guard has projects of its own file: what it does not know may be in
/// force on another.
pub(super) fn is_any_lacking(limits: &[Arc<Limit>], known: &Names, ring: &Ring) -> bool {
    let lookup = Lookup::of(ring, limits, known, None);
    let is_lacking = |limit: &Limit, kind: Named, written: &String| {
        let mut ids = known.known(kind, &limit.name, written).iter();
        !lookup.is_id(kind, written)
            && ids.all(|id| lookup.is_over(kind, id))
            && !lookup.named(kind, written).is_empty()
    };
    limits.iter().any(|limit| {
        limit.only.keys.iter().any(|written| is_lacking(limit, Named::Key, written))
            || limit.only.projects.iter().any(|written| is_lacking(limit, Named::Project, written))
    })
}

/// Looks up the names that limits write, where they are not known.
pub(super) fn look_up(limits: &[Arc<Limit>], known: &Names, ring: &Ring) -> LookedUp {
    look_up_with(limits, known, ring, None)
}

/// The same, with something that is being made.
pub(super) fn look_up_with(
    limits: &[Arc<Limit>],
    known: &Names,
    ring: &Ring,
    made: Option<Unspent<'_>>,
) -> LookedUp {
    let lookup = Lookup::of(ring, limits, known, made);
    let mut found = LookedUp::default();
    for limit in limits {
        let mut only = limit.only.clone();
        for (kind, names) in [(Named::Key, &mut only.keys), (Named::Project, &mut only.projects)] {
            *names = std::mem::take(names)
                .into_iter()
                .flat_map(|name| found.look_up(kind, &limit.name, name, known, &lookup))
                .collect();
        }
        let is_same = only == limit.only;
        found.limits.push(if is_same {
            Arc::clone(limit)
        } else {
            Arc::new(Limit { only, ..Limit::clone(limit) })
        });
    }
    found
}

impl LookedUp {
    /// Whether these limits count for something that is being made beside what they counted for
    /// without it, and for nothing else more or less.
    pub(super) fn only_adds(&self, made: Unspent<'_>, without: &Self) -> bool {
        let mut pairs = self.limits.iter().zip(&without.limits);
        pairs.all(|(after, before)| after.only == before.only || made.is_added(&before.only, &after.only))
    }

    /// The ids of a written name, or the written text itself.
    fn look_up(
        &mut self,
        kind: Named,
        limit: &Arc<str>,
        written: String,
        known: &Names,
        lookup: &Lookup<'_>,
    ) -> Vec<String> {
        if lookup.is_id(kind, &written) {
            return vec![written];
        }
        let before = known.known(kind, limit, &written);
        let ids = if before.iter().any(|id| lookup.is_active(kind, id)) {
            before.to_vec()
        } else {
            lookup.named(kind, &written)
        };
        if ids.is_empty() {
            self.problems.push(NameError::Unknown { kind, name: written.clone() });
            // A limit still counts for a revoked key.
            self.names.remember(kind, limit, &written, before);
            return if before.is_empty() { vec![written] } else { before.to_vec() };
        }
        if ids.len() > 1 {
            let (limit, ids) = (Arc::clone(limit), ids.clone());
            self.problems.push(NameError::Ambiguous { limit, kind, name: written.clone(), ids });
        }
        self.names.remember(kind, limit, &written, &ids);
        ids
    }

    /// The first problem that prevents limits from taking effect: a new name that two keys
    /// have.
    pub(super) fn ambiguous(&self, known: &Names) -> Option<&NameError> {
        self.problems.iter().find(|problem| match problem {
            NameError::Unknown { .. } => false,
            NameError::Ambiguous { limit, kind, name, .. } => known.known(*kind, limit, name).is_empty(),
        })
    }
}

impl Rulebook {
    /// Stores the ids of names.
    pub(super) async fn remember_names(
        &self,
        turn: &mut ChangeTurn,
        names: &Names,
    ) -> Result<(), StoreError> {
        let text = serde_json::to_string(names).expect("strings always serialise");
        let stored = RecordChange::PutSetting(SETTING.to_owned(), text);
        self.records.write_unaudited(turn, vec![stored]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Project;
    use crate::rulebook::rule::LimitRule;

    fn ring(projects: &[(&str, &str, Option<i64>)]) -> Ring {
        let ring = Ring::default();
        for (id, name, archived_s) in projects {
            let (id, name) = ((*id).into(), (*name).into());
            ring.put_project(Project { id, name, created_s: 0, archived_s: *archived_s, from_file: true });
        }
        ring
    }

    fn limits(names: &[&str]) -> Vec<Arc<Limit>> {
        let text = serde_json::json!({ "only": { "project": names }, "window": "day", "hard": "1" });
        let rule: LimitRule = serde_json::from_value(text).unwrap();
        vec![Arc::new(rule.limit("limit", "UTC").unwrap())]
    }

    fn known(ids: &[&str]) -> Names {
        let mut names = Names::default();
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        names.remember(Named::Project, "limit", "P", &ids);
        names
    }

    #[test]
    fn a_name_lacks_what_has_it_unless_it_stands_for_what_is_not_known_to_be_over() {
        let all = [("old", "P", Some(1)), ("new", "P", None)];
        let is_lacking = |known: &Names, ring: &Ring| is_any_lacking(&limits(&["P", "Q"]), known, ring);
        assert!(is_lacking(&Names::default(), &ring(&all)));
        assert!(is_lacking(&known(&["old"]), &ring(&all)), "an archived one was replaced");
        assert!(!is_lacking(&known(&["new"]), &ring(&all)));
        assert!(!is_lacking(&known(&["old"]), &ring(&all[..1])), "there is no other");
        // Else two guards whose files give one name to two projects would take it from each other for ever.
        assert!(!is_lacking(&known(&["of-another-guards-file"]), &ring(&all)));
        assert!(!is_lacking(&Names::default(), &ring(&[])));
    }

    #[test]
    fn what_is_made_is_only_added_unless_it_replaces_what_a_limit_counts() {
        let made = Unspent { kind: Named::Project, id: "made", name: "P" };
        let only_adds = |known: &Names, ring: &Ring| {
            let limits = limits(&["P", "other"]);
            let without = look_up(&limits, known, ring);
            let with = look_up_with(&limits, known, ring, Some(made));
            let is_counted = with.limits[0].only.projects.contains(&"made".to_owned());
            (is_counted, with.only_adds(made, &without))
        };
        let other = ("other", "O", None);
        assert_eq!(only_adds(&Names::default(), &ring(&[other])), (true, true));
        assert_eq!(only_adds(&known(&["old"]), &ring(&[other, ("old", "P", Some(1))])), (true, false));
        assert_eq!(only_adds(&known(&["same"]), &ring(&[other, ("same", "P", None)])), (false, true));
    }
}

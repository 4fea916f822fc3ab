//! Objects at upstream that a body names by their ids.
//!
//! An id is read wherever a field takes one, so that its owner can be checked
//! and what it brings into the context can be bounded. A value that is not a
//! string is left to upstream, which refuses it.

use std::borrow::Cow;

use serde::Deserialize;

use crate::domain::{ObjectKind, ObjectReference};
use crate::protocol::openai::json::{Object, Raw};

/// The most objects that one body may name; more than any client sends.
const REFERENCES_MAX: usize = 4_096;
/// The longest id, in bytes, as for ids in a path.
pub(super) const ID_BYTES_MAX: usize = 256;

/// The objects found so far, or the first reason why the body is refused.
#[derive(Debug, Default)]
pub(super) struct References {
    found: Vec<ObjectReference>,
    problem: Option<String>,
}

impl References {
    /// Adds the id that `raw` holds, if it is a string.
    pub(super) fn add(&mut self, kind: ObjectKind, raw: Raw<'_>) {
        if let Some(id) = raw.string() {
            self.add_id(kind, id);
        }
    }

    /// Adds an id.
    pub(super) fn add_id(&mut self, kind: ObjectKind, id: Cow<'_, str>) {
        if id.len() > ID_BYTES_MAX {
            self.problem.get_or_insert_with(|| format!("an id is longer than {ID_BYTES_MAX} bytes"));
        } else if self.found.len() == REFERENCES_MAX {
            self.problem.get_or_insert_with(|| format!("it names more than {REFERENCES_MAX} objects"));
        } else {
            self.found.push(ObjectReference { kind, id: id.into_owned() });
        }
    }

    /// Adds every string of the list that `raw` holds, if it is a list.
    pub(super) fn add_list(&mut self, kind: ObjectKind, raw: Raw<'_>) {
        for id in elements(raw) {
            self.add(kind, id);
        }
    }

    /// Adds the `id` or `skill_id` of the object that `raw` holds, if it is one.
    pub(super) fn add_member(&mut self, kind: ObjectKind, raw: Raw<'_>) {
        let Some(text) = raw.value().filter(|text| text.starts_with('{')) else { return };
        match serde_json::from_str::<Object<Named<'_>>>(text) {
            Ok(Object(Named { id, skill_id })) => {
                self.add(kind, id);
                self.add(kind, skill_id);
            }
            // A member that stands twice could be read in two ways.
            Err(error) => self.problem = self.problem.take().or(Some(error.to_string())),
        }
    }

    /// Adds the id of each object of the list that `raw` holds.
    pub(super) fn add_members(&mut self, kind: ObjectKind, raw: Raw<'_>) {
        for object in elements(raw) {
            self.add_member(kind, object);
        }
    }

    /// Whether nothing is named.
    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty() && self.problem.is_none()
    }

    /// Adds what another part of the same body names.
    pub(super) fn merge(&mut self, other: Self) {
        self.found.extend(other.found);
        self.problem = self.problem.take().or(other.problem);
    }
}

/// An object that stands for another by its id.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Named<'a> {
    #[serde(borrow)]
    id: Raw<'a>,
    #[serde(borrow)]
    skill_id: Raw<'a>,
}

/// All references of a body, or why it is refused.
pub(super) fn all(parts: [References; 3]) -> Result<Vec<ObjectReference>, String> {
    let mut sum = References::default();
    for part in parts {
        sum.merge(part);
    }
    match sum.problem {
        None if sum.found.len() > REFERENCES_MAX => {
            Err(format!("it names more than {REFERENCES_MAX} objects"))
        }
        None => Ok(sum.found),
        Some(problem) => Err(problem),
    }
}

fn elements(raw: Raw<'_>) -> Vec<Raw<'_>> {
    let text = raw.value().filter(|text| text.starts_with('['));
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

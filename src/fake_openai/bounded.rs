//! What the fake keeps by id: of each kind a bounded number and size, the oldest forgotten first.

use std::collections::BTreeMap;
use std::sync::Mutex;

use http::Uri;
use serde_json::{Value, json};

use crate::fake_openai::query;
use crate::sync::unpoisoned;

/// The most of one kind.
const KEPT_MAX: usize = 20_000;
/// The most bytes of one kind: one of OpenAI's largest files.
const BYTES_MAX: usize = 512 << 20;

/// What has a size.
pub(super) trait Measured {
    /// Bytes of its content.
    fn bytes(&self) -> usize;
}

/// Values by id; ids ascend.
#[derive(Debug)]
pub(super) struct Bounded<T>(Mutex<BTreeMap<String, T>>);

impl<T> Default for Bounded<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Measured> Bounded<T> {
    /// Keeps a value, and forgets the oldest ones for which there is no more room.
    pub(super) fn keep(&self, id: String, value: T) {
        let mut values = unpoisoned(self.0.lock());
        values.insert(id, value);
        let mut bytes: usize = values.values().map(T::bytes).sum();
        while values.len() > KEPT_MAX || (bytes > BYTES_MAX && values.len() > 1) {
            bytes -= values.pop_first().map_or(0, |(_, value)| value.bytes());
        }
    }

    /// What a function makes of a value, which it may change.
    pub(super) fn with<R>(&self, id: &str, make: impl FnOnce(&mut T) -> R) -> Option<R> {
        unpoisoned(self.0.lock()).get_mut(id).map(make)
    }

    /// Takes a value out.
    pub(super) fn remove(&self, id: &str) -> Option<T> {
        unpoisoned(self.0.lock()).remove(id)
    }

    /// Forgets the values that a condition is not true of.
    pub(super) fn retain(&self, is_kept: impl Fn(&T) -> bool) {
        unpoisoned(self.0.lock()).retain(|_, value| is_kept(value));
    }

    /// What a function makes of each value, oldest first.
    pub(super) fn map<R>(&self, make: impl FnMut(&T) -> Option<R>) -> Vec<R> {
        unpoisoned(self.0.lock()).values().filter_map(make).collect()
    }
}

/// The page of a list that a query asks for, of objects from the oldest to the newest.
pub(super) fn page(uri: &Uri, mut objects: Vec<Value>, limit: usize) -> Value {
    if query(uri, "order") != Some("asc") {
        objects.reverse();
    }
    let after = query(uri, "after");
    let begin = after
        .and_then(|after| objects.iter().position(|object| object["id"] == after))
        .map_or(0, |at| at + 1);
    let limit = query(uri, "limit").and_then(|limit| limit.parse().ok()).unwrap_or(limit);
    let rest = objects.get(begin..).unwrap_or_default();
    let data = &rest[..limit.min(rest.len())];
    let id = |object: Option<&Value>| object.map_or(Value::Null, |object| object["id"].clone());
    json!({
        "object": "list", "data": data, "first_id": id(data.first()), "last_id": id(data.last()),
        "has_more": data.len() < rest.len(),
    })
}

//! The fields of a body by which clients group their requests.
//!
//! They have purposes of their own, and none is refused for its form: whatever stands in one is
//! turned into a value of a tag.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::Body;
use crate::domain::demand::Labels;
use crate::domain::tag;
use crate::protocol::label;
use crate::protocol::openai::json::{Loose, Raw};

/// The most pairs of `metadata`, as upstream has it.
const METADATA_MAX: usize = 16;

/// Those of a body.
pub(super) fn of(body: &Body<'_>) -> Labels {
    let metadata = body.metadata.value().map(serde_json::from_str::<Loose<Metadata>>);
    Labels {
        prompt_cache_key: value(body.prompt_cache_key),
        ..named(body.safety_identifier, body.user, metadata.and_then(Result::ok).unwrap_or_default().0.0)
    }
}

/// Those of a body that has an end user at the most.
pub(super) fn of_user(safety_identifier: Raw<'_>, user: Raw<'_>) -> Labels {
    named(safety_identifier, user, BTreeMap::new())
}

fn named(safety_identifier: Raw<'_>, user: Raw<'_>, metadata: BTreeMap<String, String>) -> Labels {
    Labels {
        prompt_cache_key: None,
        safety_identifier: value(safety_identifier),
        user: value(user),
        metadata,
    }
}

/// A string's value; that of anything else as it is written.
fn value(raw: Raw<'_>) -> Option<String> {
    let text = raw.string().or_else(|| raw.value().map(Cow::Borrowed))?;
    label::value(text.as_bytes())
}

/// The pairs of `metadata` that tags can be taken from: of one name, the last.
#[derive(Default)]
struct Metadata(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MetadataVisitor).map(Self)
    }
}

struct MetadataVisitor;

impl<'de> Visitor<'de> for MetadataVisitor {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("texts by their names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = BTreeMap::new();
        while let Some((name, raw)) = map.next_entry::<Cow<'de, str>, Raw<'de>>()? {
            let has_room = pairs.len() < METADATA_MAX || pairs.contains_key(&*name);
            if !has_room || name.len() > tag::BYTES_MAX {
                continue;
            }
            match value(raw) {
                Some(value) => drop(pairs.insert(name.into_owned(), value)),
                None => drop(pairs.remove(&*name)),
            }
        }
        Ok(pairs)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn labels(body: &str) -> Labels {
        of(&super::super::fields(body).unwrap())
    }

    #[test]
    fn each_field_is_read_in_whatever_form_it_has() {
        let body = r#"{"prompt_cache_key":"c\u0061che","safety_identifier":"ann","user":"bo",
            "metadata":{"run_id":"r-\u00e9","turn":7,"empty":"","none":null,"a":"1","a":"2"}}"#;
        let read = labels(body);
        assert_eq!(read.prompt_cache_key.as_deref(), Some("cache"));
        assert_eq!((read.safety_identifier.as_deref(), read.user.as_deref()), (Some("ann"), Some("bo")));
        let expected = [("a", "2"), ("run_id", "r-é"), ("turn", "7")];
        assert_eq!(read.metadata, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    }

    #[test]
    fn nothing_is_refused_for_its_form() {
        for metadata in ["null", "7", "\"text\"", "[1]", "{}", "{\"a\":{\"b\":[1]}}"] {
            let read = labels(&format!(r#"{{"prompt_cache_key":"","metadata":{metadata}}}"#));
            assert_eq!((read.prompt_cache_key, read.user), (None, None), "{metadata}");
        }
        let long = "x".repeat(100_000);
        let read =
            labels(&json!({ "prompt_cache_key": long, "metadata": { "a": "b\n", long: "c" } }).to_string());
        let hash = |value: Option<String>| value.is_some_and(|value| value.starts_with("sha256:"));
        assert!(hash(read.prompt_cache_key) && hash(read.metadata.get("a").cloned()));
        assert_eq!(read.metadata.len(), 1);
    }

    #[test]
    fn metadata_has_as_many_pairs_as_upstream_takes() {
        let pairs: BTreeMap<String, String> = (10..40).map(|n| (format!("n{n}"), "v".to_owned())).collect();
        let read = labels(&json!({ "metadata": pairs }).to_string());
        assert_eq!(read.metadata.keys().map(String::as_str).next_back(), Some("n25"));
        assert_eq!(read.metadata.len(), METADATA_MAX);
    }
}

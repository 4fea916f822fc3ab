//! The objects that the body of a free request names.
//!
//! These bodies have many shapes and are rare, so all of them are searched for the
//! fields that take ids, whatever surrounds them. A field that stands twice gives
//! both its ids: one of them is what upstream reads.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::references::{self, References};
use super::{Invalid, ObjectReference};
use crate::domain::ObjectKind;
use crate::protocol::openai::json::{self, Raw};

/// Finds every object that a body names. A body that isn't JSON is an error.
///
/// ```
/// use spendguard::protocol::openai::request;
/// let found = request::object_ids(br#"{"items":[{"type":"item_reference","id":"msg_1"}]}"#).expect("it is JSON");
/// assert_eq!(found[0].id, "msg_1");
/// ```
pub fn object_ids(body: &[u8]) -> Result<Vec<ObjectReference>, Invalid> {
    let text = super::text(body)?;
    let mut found = References::default();
    let mut reader = serde_json::Deserializer::from_str(text);
    let walk = Walk { found: &mut found, at: At::Any };
    walk.deserialize(&mut reader)
        .and_then(|()| reader.end())
        .map_err(|error| Invalid::body(&error.to_string()))?;
    references::all([found, References::default(), References::default()])
        .map_err(|problem| Invalid::body(&problem))
}

/// The kind of the objects whose ids a field of a form takes, if it takes any.
pub(super) fn id_field(name: &str) -> Option<ObjectKind> {
    match At::Any.below(name) {
        At::Id(kind) => Some(kind),
        At::Any | At::Conversation | At::Item | At::Foreign => None,
    }
}

/// The meaning of a value, by its field.
#[derive(Clone, Copy)]
enum At {
    /// Nothing in particular.
    Any,
    /// An id, or a list of them.
    Id(ObjectKind),
    /// An id, or an object with an `id`.
    Conversation,
    /// An item, or a list of them.
    Item,
    /// A value in which upstream reads no ids.
    Foreign,
}

impl At {
    fn below(self, field: &str) -> Self {
        match field {
            _ if matches!(self, Self::Foreign) => Self::Foreign,
            "id" if matches!(self, Self::Conversation) => Self::Id(ObjectKind::Conversation),
            "previous_response_id" => Self::Id(ObjectKind::Response),
            "conversation" => Self::Conversation,
            "file_id" | "file_ids" | "input_file_id" | "training_file" | "validation_file" => {
                Self::Id(ObjectKind::File)
            }
            "vector_store_id" | "vector_store_ids" => Self::Id(ObjectKind::VectorStore),
            "skill_id" => Self::Id(ObjectKind::Skill),
            "container_id" => Self::Id(ObjectKind::Container),
            "input" | "items" => Self::Item,
            // The first two repeat earlier citations and results, which upstream does not read again.
            "annotations" | "results" | "metadata" | "attributes" | "arguments" | "parameters" | "schema" => {
                Self::Foreign
            }
            _ => Self::Any,
        }
    }
}

struct Walk<'f> {
    found: &'f mut References,
    at: At,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if matches!(self.at, At::Foreign) {
            return deserializer.deserialize_ignored_any(IgnoredAny).map(drop);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    json::scalars_default!();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        match self.at {
            At::Id(kind) => self.found.add_id(kind, Cow::Borrowed(text)),
            At::Conversation => self.found.add_id(ObjectKind::Conversation, Cow::Borrowed(text)),
            At::Any | At::Item | At::Foreign => {}
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Self { found, at } = self;
        while seq.next_element_seed(Walk { found: &mut *found, at })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { found, at } = self;
        let mut item = Item::default();
        while let Some(field) = map.next_key::<Cow<'de, str>>()? {
            if !(matches!(at, At::Item) && item.takes(&field, &mut map)?) {
                map.next_value_seed(Walk { found: &mut *found, at: at.below(&field) })?;
            }
        }
        if item.is_reference() {
            item.ids.into_iter().for_each(|id| found.add(ObjectKind::Item, id));
        }
        Ok(())
    }
}

/// The members of an item that say whether it stands for a stored one.
#[derive(Default)]
struct Item<'a> {
    kind: Option<Raw<'a>>,
    has_role: bool,
    has_content: bool,
    has_result: bool,
    has_call: bool,
    ids: Vec<Raw<'a>>,
}

impl<'de> Item<'de> {
    fn takes<A: MapAccess<'de>>(&mut self, field: &str, map: &mut A) -> Result<bool, A::Error> {
        match field {
            "type" => self.kind = Some(map.next_value()?),
            "id" => self.ids.push(map.next_value()?),
            "role" => self.has_role = map.next_value::<Raw<'de>>()?.value().is_some(),
            "encrypted_content" => self.has_content = map.next_value::<Raw<'de>>()?.has_content(),
            "action" | "queries" | "code" => {
                self.has_call |= map.next_value::<Raw<'de>>()?.value().is_some();
            }
            "result" => self.has_result = map.next_value::<Raw<'de>>()?.value().is_some(),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn is_reference(&self) -> bool {
        match self.kind.and_then(Raw::string).as_deref() {
            Some("item_reference") => true,
            Some("reasoning" | "compaction") => !self.has_content,
            Some("image_generation_call") => !self.has_result,
            Some("web_search_call" | "file_search_call" | "code_interpreter_call") => !self.has_call,
            Some(_) => false,
            None => !self.has_role,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(body: &str) -> Vec<(ObjectKind, String)> {
        let mut found: Vec<_> =
            object_ids(body.as_bytes()).unwrap().into_iter().map(|of| (of.kind, of.id)).collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn every_field_that_takes_an_id_is_found_and_nothing_else() {
        let of = |kind, id: &str| (kind, id.to_owned());
        let body = r#"{"previous_response_id":"resp_1","conversation":{"id":"conv_1"},"file_ids":["file-1","file-\u0032"],
            "items":[{"type":"item_reference","id":"msg_1"},{"id":"rs_1"},{"type":"reasoning","id":"rs_2","summary":[]},
                {"type":"reasoning","id":"rs_3","encrypted_content":"x"},
                {"type":"image_generation_call","id":"ig_1"},{"type":"image_generation_call","id":"ig_2","result":"x"},
                {"type":"file_search_call","id":"fs_1"},{"type":"file_search_call","id":"fs_2","queries":["x"]},
                {"type":"reasoning","id":"rs_4","encrypted_content":""},
                {"type":"code_interpreter_call","id":"ci_1","code":"x","container_id":"cntr_1","outputs":[]},
                {"type":"shell_call","environment":{"type":"container_reference","container_id":"cntr_2"}},
                {"type":"message","id":"msg_2","role":"user","content":[{"type":"input_file","file_id":"file-3"},
                    {"type":"output_text","text":"","annotations":[{"type":"file_citation","file_id":"file-cited"}]}]}],
            "tools":[{"type":"file_search","vector_store_ids":["vs_1"]},{"type":"function","parameters":{"file_id":"a"}}],
            "metadata":{"file_id":"mine","conversation":"mine"},"files":[{"file_id":"file-4","attributes":{"file_id":"b"}}],
            "n":5,"x":null,"y":true,"z":1.5,"file_id":null}"#;
        let mut expected = [
            of(ObjectKind::Response, "resp_1"),
            of(ObjectKind::Conversation, "conv_1"),
            of(ObjectKind::File, "file-1"),
            of(ObjectKind::File, "file-2"),
            of(ObjectKind::File, "file-3"),
            of(ObjectKind::File, "file-4"),
            of(ObjectKind::VectorStore, "vs_1"),
            of(ObjectKind::Item, "msg_1"),
            of(ObjectKind::Item, "rs_1"),
            of(ObjectKind::Item, "rs_2"),
            of(ObjectKind::Item, "ig_1"),
            of(ObjectKind::Item, "fs_1"),
            of(ObjectKind::Item, "rs_4"),
            of(ObjectKind::Container, "cntr_1"),
            of(ObjectKind::Container, "cntr_2"),
        ];
        expected.sort_unstable();
        assert_eq!(found(body), expected);
        assert_eq!(found(r#"{"conversation":"conv_1"}"#), [of(ObjectKind::Conversation, "conv_1")]);
    }

    #[test]
    fn both_ids_of_a_field_that_stands_twice_are_found() {
        assert_eq!(found(r#"{"file_id":"file-1","file_id":"file-2"}"#).len(), 2);
        assert_eq!(found(r#"{"items":[{"type":"item_reference","id":"a","id":"b"}]}"#).len(), 2);
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        for body in ["", "{", "{} {}", &"[".repeat(500), "{\"file_id\":\"\u{0}\"}"] {
            assert!(object_ids(body.as_bytes()).is_err(), "{body}");
        }
        assert!(object_ids(format!(r#"{{"file_id":"{}"}}"#, "x".repeat(10_000)).as_bytes()).is_err());
    }
}

//! Where a path stands among the objects that have owners.

use super::{matches, suffix};
use crate::domain::ObjectKind;

/// Where the objects of each kind are.
const COLLECTIONS: [(&str, ObjectKind); 12] = [
    ("/responses", ObjectKind::Response),
    ("/chat/completions", ObjectKind::ChatCompletion),
    ("/conversations", ObjectKind::Conversation),
    ("/files", ObjectKind::File),
    ("/vector_stores", ObjectKind::VectorStore),
    ("/containers", ObjectKind::Container),
    ("/batches", ObjectKind::Batch),
    ("/skills", ObjectKind::Skill),
    ("/uploads", ObjectKind::Upload),
    ("/evals", ObjectKind::Eval),
    ("/fine_tuning/jobs", ObjectKind::FineTuningJob),
    ("/videos", ObjectKind::Video),
];
/// Path segments in the place of an id that are not ids.
const ACTIONS: [&str; 2] = ["/responses/input_tokens", "/responses/compact"];

/// Where a path stands among the objects that have owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// What kind of objects the path is about.
    pub kind: ObjectKind,
    /// The object; `None` for all of them.
    pub id: Option<&'a str>,
    /// The part of the object, such as `/content`; empty for the object itself.
    pub below: &'a str,
}

/// The objects that a path is about, if they have owners.
pub fn place(path: &str) -> Option<Place<'_>> {
    let path = suffix(path);
    if ACTIONS.contains(&path) {
        return None;
    }
    COLLECTIONS.iter().find_map(|(collection, kind)| {
        let rest = path.strip_prefix(collection)?;
        if rest.is_empty() {
            return Some(Place { kind: *kind, id: None, below: "" });
        }
        let rest = rest.strip_prefix('/')?;
        let end = rest.find('/').unwrap_or(rest.len());
        Some(Place { kind: *kind, id: Some(&rest[..end]), below: &rest[end..] })
    })
}

/// Whether a path shows a file's content, or items of a client and a model, and no text
/// of upstream's own.
pub fn shows_content(path: &str) -> bool {
    place(path).is_some_and(|Place { kind, below, .. }| {
        let in_conversation = kind == ObjectKind::Conversation && below.starts_with("/items");
        let of_response = kind == ObjectKind::Response && below == "/input_items";
        in_conversation || of_response || below.ends_with("/content")
    })
}

/// Whether a path is a pattern's; `{}` in it stands for an id. Either may be
/// written without `/v1`.
pub fn is_of(pattern: &str, path: &str) -> bool {
    matches(suffix(pattern), suffix(path))
}

#[cfg(test)]
mod tests {
    use super::super::{FREE_DELETE, FREE_GET, FREE_POST};
    use super::*;

    #[test]
    fn a_path_says_which_object_it_is_about() {
        let of = |path| place(path).map(|place| (place.kind, place.id, place.below));
        let file = ObjectKind::File;
        assert_eq!(of("/v1/files"), Some((file, None, "")));
        assert_eq!(of("/files/file-1"), Some((file, Some("file-1"), "")));
        assert_eq!(of("/v1/files/file-1/content"), Some((file, Some("file-1"), "/content")));
        let completion = (ObjectKind::ChatCompletion, Some("chatcmpl-1"), "/messages");
        assert_eq!(of("/v1/chat/completions/chatcmpl-1/messages"), Some(completion));
        for path in
            ["/v1/models", "/v1/filesystem", "/v1/responses/input_tokens", "/v1/responses/compact", "/"]
        {
            assert_eq!(of(path), None, "{path}");
        }
        // Every path with an id that is forwarded is about an object, but for models.
        for path in FREE_GET.iter().chain(&FREE_POST).chain(&FREE_DELETE).filter(|path| path.contains("{}")) {
            assert!(of(path).is_some() || path.starts_with("/v1/models/"), "{path}");
        }
    }

    #[test]
    fn files_and_items_are_content() {
        for path in ["/v1/files/f/content", "/skills/s/versions/1/content", "/v1/conversations/c/items/i"] {
            assert!(shows_content(path), "{path}");
        }
        assert!(shows_content("/responses/r/input_items") && shows_content("/v1/conversations/c/items"));
        for path in
            ["/v1/responses/r", "/v1/batches", "/v1/files/content", "/v1/fine_tuning/jobs", "/content"]
        {
            assert!(!shows_content(path), "{path}");
        }
    }

    #[test]
    fn braces_stand_for_one_id() {
        assert!(is_of("/v1/files", "/files") && is_of("/v1/evals/{}/runs", "/evals/e_1/runs"));
        assert!(
            !is_of("/v1/evals/{}/runs", "/v1/evals/a/b/runs")
                && !is_of("/v1/evals/{}/runs", "/v1/evals//runs")
        );
    }
}

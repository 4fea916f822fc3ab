//! The refusal for a missing object, in OpenAI's words for each kind.

use http::StatusCode;

use super::{Answer, client};
use crate::domain::{ObjectKind, ObjectReference};

/// Where a request names an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// In its path.
    InPath,
    /// In its body.
    InBody,
    /// In this line of the file of a batch.
    InLine(u64),
}

/// The most characters of an id that an answer repeats.
const SHOWN_CHARS_MAX: usize = 100;

/// The answer is the same for an object of another project and for one that never
/// was.
pub(super) fn answer(of: &ObjectReference, named: Named) -> Answer {
    let id: String = of.id.chars().filter(|c| !c.is_control()).take(SHOWN_CHARS_MAX).collect();
    let message = match (of.kind, named) {
        (ObjectKind::Response, Named::InBody | Named::InLine(_)) => {
            format!("Previous response with id '{id}' not found.")
        }
        (ObjectKind::Response, Named::InPath) => format!("Response with id '{id}' not found."),
        (ObjectKind::Conversation, _) => format!("Conversation with id '{id}' not found."),
        (ObjectKind::ChatCompletion, _) => format!("Chat completion with id '{id}' not found."),
        (ObjectKind::File, _) => format!("No such File object: {id}"),
        (ObjectKind::VectorStore, _) => format!("No vector store found with id '{id}'."),
        (ObjectKind::Container, _) => format!("Container with id '{id}' not found."),
        (ObjectKind::Batch, _) => format!("No batch found with id '{id}'."),
        (ObjectKind::Skill, _) => format!("Skill with id '{id}' not found."),
        (ObjectKind::Upload, _) => format!("No upload found with id '{id}'."),
        (ObjectKind::Eval, _) => format!("Eval with id '{id}' not found."),
        (ObjectKind::FineTuningJob, _) => format!("Could not find fine tune: {id}"),
        (ObjectKind::Video, _) => format!("Video with id '{id}' not found."),
        (ObjectKind::Item, _) => format!("Item with id '{id}' not found."),
    };
    let message = match named {
        Named::InLine(line) => format!("{message} Line {line} of the file names it."),
        Named::InPath | Named::InBody => message,
    };
    let (param, code) = match (of.kind, named) {
        (_, Named::InLine(_)) => (Some("input_file_id"), None),
        (ObjectKind::Response, Named::InBody) => {
            (Some("previous_response_id"), Some("previous_response_not_found"))
        }
        (ObjectKind::Item, _) => (Some("input"), None),
        (ObjectKind::File, Named::InPath) => (Some("id"), None),
        _ => (None, None),
    };
    client(StatusCode::NOT_FOUND, code, param, message)
}

/// The answer for the file of a batch that this project has not uploaded here.
pub(super) fn batch_file(id: &str) -> Answer {
    let message = format!(
        "No such File object: {id}. A batch is made of a file that this project has uploaded through spendguard, which \
         then knows what its lines cost: upload it here, or have the operator set guard.fetch_batch_files = true."
    );
    client(StatusCode::NOT_FOUND, None, Some("input_file_id"), message)
}

/// The answer for a model that a path names.
pub(super) fn model(name: &str) -> Answer {
    let message = format!("The model '{name}' does not exist");
    client(StatusCode::NOT_FOUND, Some("model_not_found"), Some("model"), message)
}

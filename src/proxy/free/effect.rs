//! The effects of free requests on objects.

use http::Method;

use crate::domain::{ObjectKind, ObjectReference};

/// The effect of a request on the index of objects.
#[derive(Debug, Default)]
pub(super) enum Effect {
    /// Nothing.
    #[default]
    None,
    /// The answer names an object that was made.
    Makes(ObjectKind),
    /// The answer names the file that an upload in parts has become.
    CompletesUpload,
    /// The object is gone once upstream says so.
    Removes(ObjectReference),
    /// The answer lists objects of all projects.
    Lists(ObjectKind),
    /// The same with HEAD: the answer has the length of such a list.
    AsksForList,
    /// The answer lists models.
    ListsModels,
    /// The answer is a response of the caller's, which may be the job of this id.
    ShowsResponse(String),
    /// The answer is a batch of the caller's, which may be the job of this id.
    ShowsBatch(String),
    /// The answer is a container of the caller's.
    ShowsContainer(String),
    /// Something of a vector store is deleted.
    ShrinksStore(String),
    /// The answer lists items of an object of the caller's.
    ShowsItems,
}

/// The effect of a request on an object, or on what is below it.
pub(super) fn effect_on(method: &Method, below: &str, of: &ObjectReference) -> Effect {
    let is_whole = below.is_empty();
    match (method, of.kind) {
        (&Method::DELETE, _) if is_whole => Effect::Removes(of.clone()),
        (&Method::GET, ObjectKind::Container) if is_whole => Effect::ShowsContainer(of.id.clone()),
        (&Method::DELETE, ObjectKind::VectorStore) => Effect::ShrinksStore(of.id.clone()),
        (&Method::GET, ObjectKind::Batch) if is_whole => Effect::ShowsBatch(of.id.clone()),
        (&Method::POST, ObjectKind::Batch) if below == "/cancel" => Effect::ShowsBatch(of.id.clone()),
        (&Method::POST, ObjectKind::Upload) if below == "/complete" => Effect::CompletesUpload,
        (&Method::POST, ObjectKind::Video) if below == "/remix" => Effect::Makes(ObjectKind::Video),
        (&(Method::GET | Method::POST), ObjectKind::Conversation) if below == "/items" => Effect::ShowsItems,
        (&Method::GET, ObjectKind::Response) if below == "/input_items" => Effect::ShowsItems,
        (&Method::GET, ObjectKind::Response) if is_whole => Effect::ShowsResponse(of.id.clone()),
        (&Method::POST, ObjectKind::Response) if below == "/cancel" => Effect::ShowsResponse(of.id.clone()),
        _ => Effect::None,
    }
}

//! Objects that upstream keeps and names by an id.
//!
//! A response, a conversation, a file: each belongs to the project whose key
//! made it, and a request may refer to it instead of sending its content.

/// The kinds of objects that have owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// A response of `POST /responses` (`resp_…`).
    Response,
    /// A conversation (`conv_…`).
    Conversation,
    /// A stored chat completion (`chatcmpl-…`).
    ChatCompletion,
    /// A file (`file-…`).
    File,
    /// A vector store (`vs_…`).
    VectorStore,
    /// A container (`cntr_…`).
    Container,
    /// A batch (`batch_…`).
    Batch,
    /// A skill (`skill_…`).
    Skill,
    /// One item of a stored response or conversation (`msg_…`, `rs_…`, …).
    Item,
}

/// An object that a request body names instead of sending its content.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectReference {
    /// What kind of object the field takes.
    pub kind: ObjectKind,
    /// The id as the client wrote it, unescaped; at most 256 bytes.
    pub id: String,
}

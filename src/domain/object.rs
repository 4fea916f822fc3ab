//! Objects that upstream keeps and names by an id.
//!
//! A response, a conversation, a file: each belongs to the project whose key
//! made it, and a request may refer to it instead of sending its content.

use std::sync::Arc;

use crate::domain::kept::KeptContext;
use crate::domain::usage::ContainerMemory;

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
    /// An upload in parts (`upload_…`).
    Upload,
    /// An evaluation (`eval_…`).
    Eval,
    /// A fine-tuning job (`ftjob-…`).
    FineTuningJob,
    /// A video (`video_…`).
    Video,
    /// One item of a stored response or conversation (`msg_…`, `rs_…`, …).
    Item,
}

impl ObjectKind {
    /// Every kind.
    pub const ALL: [Self; 13] = [
        Self::Response,
        Self::Conversation,
        Self::ChatCompletion,
        Self::File,
        Self::VectorStore,
        Self::Container,
        Self::Batch,
        Self::Skill,
        Self::Upload,
        Self::Eval,
        Self::FineTuningJob,
        Self::Video,
        Self::Item,
    ];

    /// Whether an object of this kind is upstream's own, by its id. OpenAI's skills begin
    /// with `openai-`; one that was uploaded begins with `skill_`.
    pub fn is_upstreams_own(self, id: &str) -> bool {
        self == Self::Skill && id.starts_with("openai-")
    }

    /// Whether the content of an object of this kind is read as a part of the context.
    /// Files are parts of their own; tools return what they find in the others.
    pub const fn is_context(self) -> bool {
        matches!(self, Self::Response | Self::Conversation | Self::Item)
    }

    /// The name in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Response => "response",
            Self::Conversation => "conversation",
            Self::ChatCompletion => "chat.completion",
            Self::File => "file",
            Self::VectorStore => "vector_store",
            Self::Container => "container",
            Self::Batch => "batch",
            Self::Skill => "skill",
            Self::Upload => "upload",
            Self::Eval => "eval",
            Self::FineTuningJob => "fine_tuning.job",
            Self::Video => "video",
            Self::Item => "item",
        }
    }
}

/// The longest id that is remembered or looked up, in bytes. Upstream's have
/// about 60; gateways that put more into an id stay below 400.
pub const OBJECT_ID_BYTES_MAX: usize = 512;

/// The guard's knowledge of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownObject {
    /// Id of the project whose key made it.
    pub project: Arc<str>,
    /// Id of that key.
    pub key: Arc<str>,
    /// What it adds to the context of a request that refers to it.
    pub context: KeptContext,
    /// The memory of a container; `None` for other kinds, and if it is not known.
    pub container_memory: Option<ContainerMemory>,
    /// Whether a job charges the time of a container; otherwise its uses do.
    pub has_job: bool,
    /// How long a container lives after its last use, in seconds; 0 for other kinds.
    pub idle_s: i64,
    /// When it was made, in Unix seconds.
    pub created_s: i64,
    /// When it was last used, in Unix seconds; containers only.
    pub used_s: i64,
    /// How many turns have ever begun or ended on it, of all guards that share its ledger;
    /// conversations only.
    pub changes: u64,
}

impl KnownObject {
    /// The most memory that a container has.
    pub fn memory_max(&self) -> ContainerMemory {
        self.container_memory.unwrap_or(ContainerMemory::G64)
    }
}

/// An object that a request body names instead of sending its content.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectReference {
    /// What kind of object the field takes.
    pub kind: ObjectKind,
    /// The id as the client wrote it, unescaped; at most 256 bytes.
    pub id: String,
}

impl ObjectReference {
    /// Whether it is upstream's own, which belongs to no project and is there for all.
    pub fn is_upstreams_own(&self) -> bool {
        self.kind.is_upstreams_own(&self.id)
    }
}

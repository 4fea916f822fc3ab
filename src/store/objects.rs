//! The objects that upstream keeps, as plain structs: which project each belongs to.
//!
//! Nothing of an object's content is stored.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::domain::object::KnownObject;
use crate::domain::{KeptContext, ObjectKind, ObjectReference};

/// A day, in seconds.
const DAY_S: i64 = 24 * 60 * 60;
/// How long upstream keeps a stored response: 30 days (OpenAI's documentation
/// of conversation state), and one more for clocks that differ.
pub const RESPONSE_LIFE_S: i64 = 31 * DAY_S;
/// How long a container is remembered after it can be used no more: clients repeat
/// items that name it for as long as they go on from them.
pub const CONTAINER_GRACE_S: i64 = RESPONSE_LIFE_S;

/// An object's key in memory; the low bits are an item's in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ObjectKey(pub(super) u128);

impl ObjectKey {
    /// The key of an object. No client can choose an id that has the key of another.
    pub fn of(kind: ObjectKind, id: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(kind.name());
        hash.update([0]);
        hash.update(id);
        let digest: [u8; 32] = hash.finalize().into();
        Self(digest.iter().take(16).fold(0, |key, byte| (key << 8) | u128::from(*byte)))
    }
}

/// What is known of an item.
#[derive(Clone, Debug)]
pub struct KnownItem {
    /// Id of the project that it came back to.
    pub project: Arc<str>,
    /// What it adds to the context of a request that refers to it.
    pub context: KeptContext,
}

/// An object or an item as it is stored.
#[derive(Clone, Debug)]
pub enum StoredObject {
    /// An object.
    Object(KnownObject),
    /// An item of an answer's output.
    Item(KnownItem),
}

impl StoredObject {
    /// Id of its project.
    pub fn project(&self) -> &Arc<str> {
        match self {
            Self::Object(known) => &known.project,
            Self::Item(item) => &item.project,
        }
    }
}

/// What is to be written of objects.
#[derive(Clone, Debug)]
pub enum ObjectChange {
    /// An object was made, or more is known of it. Its owner stays the first one.
    Put {
        /// The object.
        of: ObjectReference,
        /// What is known of it.
        known: KnownObject,
        /// When upstream forgets it, in Unix seconds; `None` for never.
        expires_s: Option<i64>,
    },
    /// An item came back to a key of a project.
    Item {
        /// Its key.
        key: ObjectKey,
        /// The project.
        project: Arc<str>,
        /// What it adds to the context of a request that refers to it.
        context: KeptContext,
        /// When its answer was made, in Unix seconds; `None` if it stays.
        made_s: Option<i64>,
    },
    /// A file was scanned whose lines can make a batch.
    BatchInput {
        /// The file.
        of: ObjectReference,
        /// What its lines cost, in a text that only its reader knows.
        scanned: Arc<str>,
    },
    /// An object was deleted.
    Remove(ObjectReference),
    /// A turn on a conversation that guards share has ended.
    EndTurn {
        /// The conversation.
        of: ObjectReference,
        /// The turn's number.
        turn: u64,
        /// What the conversation holds then; `None` if another turn was open when this one began.
        alone: Option<SizeAt>,
    },
}

/// A turn that has begun on a conversation that guards share.
#[derive(Clone, Debug)]
pub struct BegunTurn {
    /// Its number.
    pub number: u64,
    /// What the conversation held before it; `None` if another turn was open.
    pub alone: Option<SizeAt>,
}

/// What a conversation holds, unless another turn has begun or ended on it since.
#[derive(Clone, Debug)]
pub struct SizeAt {
    /// How often turns had begun or ended on it by then.
    pub changes: u64,
    /// What it holds.
    pub context: KeptContext,
}

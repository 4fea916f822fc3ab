//! OpenAI's wire formats.
//!
//! Row 1: pure functions and sans-I/O state over bytes. `endpoint` sorts paths,
//! `request` reads a body into a demand and splices it, `usage` reads the usage in an
//! answer, `sse` observes streams, `account` finds the parts of an answer that name
//! upstream's account, `refusal` writes error bodies, `batch` reads
//! batches and their files, `hosted` containers and vector stores, `socket` and `realtime` the messages on a
//! `WebSocket`.

pub mod account;
pub mod batch;
pub mod endpoint;
pub mod hosted;
mod json;
pub mod operation;
pub mod realtime;
pub mod refusal;
pub mod request;
mod response;
pub mod socket;
pub mod sse;
pub mod usage;

pub use endpoint::{Endpoint, SelfService};
pub use operation::{
    CHAT, COMPACT, COMPLETIONS, DECISIONS, EMBEDDINGS, IMAGE_EDITS, IMAGES, OPERATIONS, Operation, RESPONSES,
    SPEECH, TRANSCRIPTIONS, TRANSLATIONS,
};
pub use request::{Edit, Invalid, InvalidKind, Request};
pub use response::ResponseState;
pub use sse::{Hide, Tap};
pub use usage::Answer;

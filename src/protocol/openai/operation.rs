//! The metered operations: one file for each, and one row of the table.
//!
//! The differences between operations are stated here. All other modules ask an
//! [`Operation`] for its properties, and never for which one it is. A new operation is a
//! file beside these and a row in [`OPERATIONS`].

mod audio;
mod chat;
mod compact;
mod completions;
mod decisions;
mod embeddings;
mod images;
mod realtime;
mod responses;

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};

use crate::domain::ObjectKind;
use crate::protocol::openai::refusal::{self, ErrorBody};
use crate::protocol::openai::request::{Invalid, Request};
use crate::protocol::openai::sse::{EventForm, Hide, Tap};
use crate::protocol::openai::usage::{self, Answer, AnswerForm};

pub use self::audio::SPEECH;
pub use self::audio::TRANSCRIPTIONS;
pub use self::audio::TRANSLATIONS;
pub use self::chat::CHAT;
pub use self::compact::COMPACT;
pub use self::completions::COMPLETIONS;
pub use self::decisions::DECISIONS;
pub use self::embeddings::EMBEDDINGS;
pub use self::images::IMAGE_EDITS;
pub use self::images::IMAGES;
pub use self::realtime::{REALTIME, REALTIME_TRANSCRIPTION, REALTIME_TRANSLATION};
pub use self::responses::{RESPONSES, RESPONSES_SOCKET};

/// Every metered operation.
pub static OPERATIONS: [&Operation; 11] = [
    &CHAT,
    &COMPLETIONS,
    &RESPONSES,
    &COMPACT,
    &EMBEDDINGS,
    &DECISIONS,
    &IMAGES,
    &IMAGE_EDITS,
    &SPEECH,
    &TRANSCRIPTIONS,
    &TRANSLATIONS,
];

/// Every metered operation that a client asks for with messages on a `WebSocket`, which a `GET` of
/// its path opens. Ledger entries and metrics have it under the name of the path.
pub static SOCKETS: [(&Operation, SocketForm); 3] = [
    (&RESPONSES_SOCKET, SocketForm::Responses),
    (&REALTIME, SocketForm::Realtime(&REALTIME_TRANSCRIPTION)),
    (&REALTIME_TRANSLATION, SocketForm::Translation(&REALTIME_TRANSCRIPTION)),
];

/// How the messages on a `WebSocket` ask for what is metered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SocketForm {
    /// Each request is a message with the fields of a body.
    Responses,
    /// Requests are made of a session, and upstream may begin them by itself. What is said is written
    /// down by the operation.
    Realtime(&'static Operation),
    /// All sound that is sent is translated, and written down by the operation.
    Translation(&'static Operation),
}

/// The operation of a name, as ledger entries have it.
pub fn named(path: &str) -> Option<&'static Operation> {
    let sessions = [&REALTIME, &REALTIME_TRANSCRIPTION, &REALTIME_TRANSLATION];
    OPERATIONS.into_iter().chain(sessions).find(|operation| operation.path == path)
}

/// A metered operation: its path, how its body and answers are read, and how its cost
/// can be bounded. No two of a table have the same path.
pub struct Operation {
    /// Its path, with `/v1`: its name in ledger entries, metrics and logs. Its method is
    /// `POST`.
    pub path: &'static str,
    /// Its name in OpenTelemetry's conventions for generative AI. Those have one name for all
    /// that continues a conversation.
    pub gen_ai_name: &'static str,
    /// How OpenAI's usage API reports it.
    pub usage_report: UsageReport,
    /// The kind of object that upstream can keep an answer as; `None` if it keeps none.
    pub kept_as: Option<ObjectKind>,
    /// The field that bounds the output, where it has one.
    pub output_field: Option<&'static str>,
    /// Whether it has `n`, the number of choices.
    pub has_choices: bool,
    /// Whether it has `max_tool_calls`.
    pub has_tool_calls_max: bool,
    /// Whether the models that always search the web do so here.
    pub searches: bool,
    /// Whether a line of a batch may call it (OpenAI's documentation of the Batch API).
    pub in_batches: bool,
    /// The content of its answers.
    pub answers: AnswerForm,
    /// How upstream is asked to count its input.
    pub count: InputCount,
    /// The form of its event streams; `Chunks` where it has none.
    events: EventForm,
    read: Reader,
}

/// How the bodies of an operation are read, each from its bytes, and a form by its boundary.
#[derive(Clone, Copy)]
pub(super) enum Reader {
    /// JSON.
    Json(JsonReader),
    /// JSON or a form.
    Either(JsonReader, FormReader),
    /// A form.
    Form(FormReader),
}

type JsonReader = fn(&[u8]) -> Result<Request, Invalid>;
type FormReader = fn(&[u8], &str) -> Result<Request, Invalid>;

/// A kind of usage in OpenAI's usage API, which has a path for each. What makes text is
/// reported as completions, whatever its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageReport {
    /// `/organization/usage/completions`.
    Completions,
    /// `/organization/usage/embeddings`.
    Embeddings,
    /// `/organization/usage/decisions`.
    Decisions,
    /// `/organization/usage/images`, with their source as it is named there.
    Images(&'static str),
    /// `/organization/usage/audio_speeches`.
    AudioSpeeches,
    /// `/organization/usage/audio_transcriptions`.
    AudioTranscriptions,
}

/// How `POST /responses/input_tokens` is asked to count the input of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputCount {
    /// The body as it is.
    Body,
    /// The messages of a chat, made into a body that can be counted.
    Messages,
    /// All strings of the body, as one input: for bodies that are neither a chat nor
    /// something that `/responses` takes.
    Strings,
    /// Not at all.
    None,
}

impl Operation {
    /// Reads a body in JSON.
    ///
    /// ```
    /// let body = br#"{"model":"gpt-5","messages":[],"max_completion_tokens":9}"#;
    /// let read = spendguard::protocol::openai::CHAT.read(body).expect("it is well formed");
    /// assert_eq!(read.demand.output_max, Some(9));
    /// ```
    pub fn read(&self, body: &[u8]) -> Result<Request, Invalid> {
        match self.read {
            Reader::Json(read) | Reader::Either(read, _) => read(body),
            Reader::Form(_) => Err(Invalid::no_form()),
        }
    }

    /// Reads a form with this boundary; `None` if the operation takes none.
    pub fn read_form(&self, body: &[u8], boundary: &str) -> Option<Result<Request, Invalid>> {
        match self.read {
            Reader::Json(_) => None,
            Reader::Either(_, read) | Reader::Form(read) => Some(read(body, boundary)),
        }
    }

    /// Whether a body may be a form.
    pub const fn takes_forms(&self) -> bool {
        match self.read {
            Reader::Json(_) => false,
            Reader::Either(..) | Reader::Form(_) => true,
        }
    }

    /// Reads a whole JSON answer. A body that isn't JSON gives no usage, and does
    /// not count as complete.
    ///
    /// Web searches of chat completions are not in the usage; a caller that offered them
    /// adds one.
    ///
    /// ```
    /// let body = br#"{"usage":{"prompt_tokens":19,"completion_tokens":10}}"#;
    /// let used = spendguard::protocol::openai::CHAT.answer(body).usage.expect("it is there");
    /// assert_eq!((used.input_tokens_total(), used.output_tokens_total()), (19, 10));
    /// ```
    pub fn answer(&self, body: &[u8]) -> Answer {
        usage::of_json(self.answers, body)
    }

    /// What the model has written in a whole answer, without the form around it where that is
    /// known.
    pub fn output_text<'a>(&self, body: &'a [u8]) -> Cow<'a, str> {
        usage::output_text(self.answers, body)
    }

    /// Watches an event stream. Events of more than `event_bytes_max` pass unread.
    pub fn tap(&self, hide: Hide, event_bytes_max: usize) -> Tap {
        Tap::new(self.events, self.answers, hide, event_bytes_max)
    }

    /// The last event of a stream that is cut.
    pub fn cut_event(&self, error: &ErrorBody<'_>) -> String {
        match self.events {
            EventForm::Typed | EventForm::Media => refusal::stream_cut_responses(error, LAST_SEQUENCE_NUMBER),
            EventForm::Chunks => refusal::stream_cut_chat(error),
        }
    }
}

/// Above that of any event before: the largest number that all JSON readers agree on.
const LAST_SEQUENCE_NUMBER: u64 = u64::MAX >> 11;

impl fmt::Debug for Operation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.path)
    }
}

impl PartialEq for Operation {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Eq for Operation {}

impl Hash for Operation {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.path.hash(state);
    }
}

//! Responses, transcriptions and translations of sessions on a `WebSocket` of `/realtime`.
//!
//! They have no body: their demand is what the session has come to.

use crate::protocol::openai::operation::{InputCount, Operation, Reader, UsageReport};
use crate::protocol::openai::request::{Invalid, InvalidKind, Request};
use crate::protocol::openai::sse::EventForm;
use crate::protocol::openai::usage::AnswerForm;

/// Responses of a session.
pub static REALTIME: Operation = Operation {
    path: "/v1/realtime",
    gen_ai_name: "chat",
    usage_report: UsageReport::Completions,
    kept_as: None,
    output_field: Some("max_output_tokens"),
    has_choices: false,
    has_tool_calls_max: false,
    searches: false,
    in_batches: false,
    answers: AnswerForm::Text,
    count: InputCount::None,
    events: EventForm::Typed,
    read: Reader::Json(no_body),
};

/// What is said in a session, written down beside its conversation. The path is its name, no path
/// that is served.
pub static REALTIME_TRANSCRIPTION: Operation = Operation {
    path: "/v1/realtime/transcriptions",
    gen_ai_name: "generate_content",
    usage_report: UsageReport::AudioTranscriptions,
    output_field: None,
    answers: AnswerForm::Transcript,
    events: EventForm::Media,
    ..REALTIME
};

/// Sound that is translated while it is sent.
pub static REALTIME_TRANSLATION: Operation = Operation {
    // Unlike that of transcriptions, it is served.
    path: "/v1/realtime/translations",
    ..REALTIME_TRANSCRIPTION
};

fn no_body(_: &[u8]) -> Result<Request, Invalid> {
    let message = "A realtime session is a WebSocket. Open one with GET /v1/realtime?model=….".to_owned();
    Err(Invalid { message, param: None, kind: InvalidKind::Malformed })
}

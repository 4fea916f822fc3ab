//! `POST /responses/compact`.

use crate::domain::ObjectKind;
use crate::protocol::openai::operation::{InputCount, Operation, Reader, UsageReport, responses};
use crate::protocol::openai::request::{self, BodyRules, Outputs};
use crate::protocol::openai::sse::EventForm;
use crate::protocol::openai::usage::AnswerForm;

/// Compaction of a context. It has no field that bounds its output; what a client writes
/// into another is not its bound.
pub static COMPACT: Operation = Operation {
    path: "/v1/responses/compact",
    gen_ai_name: "chat",
    usage_report: UsageReport::Completions,
    kept_as: Some(ObjectKind::Response),
    output_field: None,
    has_choices: false,
    has_tool_calls_max: false,
    searches: false,
    in_batches: false,
    answers: AnswerForm::Text,
    count: InputCount::Body,
    events: EventForm::Typed,
    read: Reader::Json(|body| request::read(&RULES, body)),
};

const RULES: BodyRules = BodyRules {
    outputs: |_| Ok(Outputs::without_field(None)),
    choices: |_| Ok(1),
    content: responses::input,
    is_stored: |_| true,
    also: |_, _| {},
    has_echo: false,
    reads_kept_context: true,
    has_stream_options: false,
    has_background: false,
};

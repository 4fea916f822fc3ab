//! `POST /responses/compact`.

use crate::domain::ObjectKind;
use crate::openai::operation::{InputCount, Operation, Report, responses};
use crate::openai::request::{self, Form, Outputs};
use crate::openai::sse::EventForm;
use crate::openai::usage::{self, AnswerForm};

/// Compaction of a context. It has no field that bounds its output; what a client writes
/// into another is not its bound.
pub static COMPACT: Operation = Operation {
    path: "/v1/responses/compact",
    report: Report::Completions,
    kept_as: ObjectKind::Response,
    output_field: None,
    has_choices: false,
    has_tool_calls_max: false,
    searches: false,
    answers_text: true,
    count: InputCount::Body,
    events: EventForm::Typed,
    read: |body| request::read(&FORM, body),
    answer: |body| usage::of_json(AnswerForm::Text, body),
};

const FORM: Form = Form {
    outputs: |_| Ok(Outputs::without_field(None)),
    choices: |_| Ok(1),
    content: responses::input,
    is_stored: |_| true,
    also: |_, _| {},
    has_echo: false,
    reads_kept_context: true,
    has_stream_options: false,
};

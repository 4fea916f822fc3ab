//! `POST /embeddings`.

use crate::domain::ObjectKind;
use crate::openai::operation::{InputCount, Operation, Report};
use crate::openai::request::{self, Form, Found, Outputs};
use crate::openai::sse::EventForm;
use crate::openai::usage::{self, AnswerForm};

/// Embeddings, which have no output that costs.
pub static EMBEDDINGS: Operation = Operation {
    path: "/v1/embeddings",
    report: Report::Embeddings,
    kept_as: ObjectKind::Response,
    output_field: None,
    has_choices: false,
    has_tool_calls_max: false,
    searches: false,
    answers_text: false,
    count: InputCount::Strings,
    events: EventForm::Chunks,
    read: |body| request::read(&FORM, body),
    answer: |body| usage::of_json(AnswerForm::Vectors, body),
};

const FORM: Form = Form {
    outputs: |_| Ok(Outputs::without_field(Some(0))),
    choices: |_| Ok(1),
    content: |_| Found::default(),
    is_stored: |_| false,
    also: |_, _| {},
    has_echo: false,
    reads_kept_context: false,
    has_stream_options: false,
};

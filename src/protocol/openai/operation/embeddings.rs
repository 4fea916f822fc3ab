//! `POST /embeddings`.

use crate::protocol::openai::operation::{InputCount, Operation, Reader, UsageReport};
use crate::protocol::openai::request::{self, BodyRules, Found, Outputs};
use crate::protocol::openai::sse::EventForm;
use crate::protocol::openai::usage::AnswerForm;

/// Embeddings, which have no output that costs.
pub static EMBEDDINGS: Operation = Operation {
    path: "/v1/embeddings",
    gen_ai_name: "embeddings",
    usage_report: UsageReport::Embeddings,
    kept_as: None,
    output_field: None,
    has_choices: false,
    has_tool_calls_max: false,
    searches: false,
    in_batches: true,
    answers: AnswerForm::Vectors,
    count: InputCount::Strings,
    events: EventForm::Chunks,
    read: Reader::Json(|body| request::read(&RULES, body)),
};

const RULES: BodyRules = BodyRules {
    outputs: |_| Ok(Outputs::without_field(Some(0))),
    choices: |_| Ok(1),
    content: |_| Found::default(),
    is_stored: |_| false,
    also: |_, _| {},
    has_echo: false,
    reads_kept_context: false,
    has_stream_options: false,
    has_background: false,
};

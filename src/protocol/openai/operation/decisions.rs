//! `POST /decisions`.

use crate::domain::demand::Tier;
use crate::protocol::openai::operation::{InputCount, Operation, Reader, UsageReport};
use crate::protocol::openai::request::{self, BodyRules, Outputs};
use crate::protocol::openai::sse::EventForm;
use crate::protocol::openai::usage::AnswerForm;

/// Answers to a list of questions about an input. They are billed at a tier of their own, which
/// a request does not name.
pub static DECISIONS: Operation = Operation {
    path: "/v1/decisions",
    gen_ai_name: "generate_content",
    usage_report: UsageReport::Decisions,
    kept_as: None,
    output_field: None,
    has_choices: false,
    has_tool_calls_max: false,
    searches: false,
    in_batches: false,
    answers: AnswerForm::Text,
    count: InputCount::None,
    events: EventForm::Typed,
    read: Reader::Json(|body| request::read(&RULES, body)),
};

const RULES: BodyRules = BodyRules {
    outputs: |_| Ok(Outputs::without_field(None)),
    choices: |_| Ok(1),
    content: |body| {
        // The questions are read once, and the input once for all of them.
        let mut content = std::mem::take(&mut body.input);
        content.merge(std::mem::take(&mut body.questions));
        content.into_inner()
    },
    is_stored: |_| false,
    also: |_, demand| {
        // A dearer tier that a request names may be served.
        demand.tier = demand.tier.filter(|tier| *tier > Tier::Scale).or(Some(Tier::Decisions));
    },
    has_echo: false,
    reads_kept_context: false,
    has_stream_options: false,
    has_background: false,
};

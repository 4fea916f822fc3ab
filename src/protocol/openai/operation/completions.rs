//! `POST /completions`, the legacy text completions.

use crate::protocol::openai::operation::{InputCount, Operation, Reader, UsageReport};
use crate::protocol::openai::request::{self, Body, BodyRules, Found, Invalid, Outputs};
use crate::protocol::openai::sse::EventForm;
use crate::protocol::openai::usage::AnswerForm;

/// Legacy completions.
pub static COMPLETIONS: Operation = Operation {
    path: "/v1/completions",
    gen_ai_name: "text_completion",
    usage_report: UsageReport::Completions,
    kept_as: None,
    output_field: Some(OUTPUT),
    has_choices: true,
    has_tool_calls_max: false,
    searches: false,
    in_batches: true,
    answers: AnswerForm::Text,
    count: InputCount::Strings,
    events: EventForm::Chunks,
    read: Reader::Json(|body| request::read(&RULES, body)),
};

const OUTPUT: &str = "max_tokens";
/// The output bound that upstream uses for a request without one.
const OUTPUT_DEFAULT: u64 = 16;
const RULES: BodyRules = BodyRules {
    outputs: |body| Ok(Outputs::field(OUTPUT, body.max_tokens)?.or(OUTPUT_DEFAULT)),
    choices,
    content: |_| Found::default(),
    is_stored: |_| false,
    also: |_, _| {},
    has_echo: true,
    reads_kept_context: false,
    has_stream_options: true,
    has_background: false,
};

fn choices(body: &Body<'_>) -> Result<u64, Invalid> {
    let shown = request::choices(body.n, "n", 1)?;
    // Of `best_of` OpenAI's specification allows none; one is made at least.
    let each = shown.max(request::choices(body.best_of, "best_of", 0)?);
    Ok(each.saturating_mul(body.prompt.prompts.max(1)))
}

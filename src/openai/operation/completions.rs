//! `POST /completions`, the legacy text completions.

use crate::domain::ObjectKind;
use crate::openai::operation::{InputCount, Operation, Report};
use crate::openai::request::{self, Body, Form, Found, Invalid, Outputs};
use crate::openai::sse::EventForm;
use crate::openai::usage::{self, AnswerForm};

/// Legacy completions.
pub static COMPLETIONS: Operation = Operation {
    path: "/v1/completions",
    report: Report::Completions,
    kept_as: ObjectKind::Response,
    output_field: Some(OUTPUT),
    has_choices: true,
    has_tool_calls_max: false,
    searches: false,
    answers_text: true,
    count: InputCount::Strings,
    events: EventForm::Chunks,
    read: |body| request::read(&FORM, body),
    answer: |body| usage::of_json(AnswerForm::Text, body),
};

const OUTPUT: &str = "max_tokens";
/// What upstream gives a request that names no bound.
const OUTPUT_DEFAULT: u64 = 16;
const FORM: Form = Form {
    outputs: |body| Ok(Outputs::field(OUTPUT, body.max_tokens)?.or(OUTPUT_DEFAULT)),
    choices,
    content: |_| Found::default(),
    is_stored: |_| false,
    also: |_, _| {},
    has_echo: true,
    reads_kept_context: false,
    has_stream_options: true,
};

fn choices(body: &Body<'_>) -> Result<u64, Invalid> {
    // Of `best_of` OpenAI's specification allows none; one is made at least.
    let best_of = request::choices(body.best_of, "best_of", 0)?;
    let each = request::choices(body.n, "n", 1)?.max(best_of);
    Ok(each.saturating_mul(body.prompt.prompts.max(1)))
}

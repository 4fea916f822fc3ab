//! `POST /chat/completions`.

use crate::domain::demand::WebSearch;
use crate::domain::{Demand, ObjectKind};
use crate::protocol::openai::json::Raw;
use crate::protocol::openai::operation::{InputCount, Operation, Reader, UsageReport};
use crate::protocol::openai::request::{self, Body, BodyRules, Invalid, Outputs};
use crate::protocol::openai::sse::EventForm;
use crate::protocol::openai::usage::AnswerForm;

/// Chat completions.
pub static CHAT: Operation = Operation {
    path: "/v1/chat/completions",
    gen_ai_name: "chat",
    usage_report: UsageReport::Completions,
    kept_as: Some(ObjectKind::ChatCompletion),
    output_field: Some(OUTPUT),
    has_choices: true,
    has_tool_calls_max: false,
    searches: true,
    in_batches: true,
    answers: AnswerForm::Text,
    count: InputCount::Messages,
    events: EventForm::Chunks,
    read: Reader::Json(|body| request::read(&RULES, body)),
};

const OUTPUT: &str = "max_completion_tokens";
const RULES: BodyRules = BodyRules {
    outputs,
    choices: |body| request::choices(body.n, "n", 1),
    content: |body| std::mem::take(&mut body.messages).into_inner(),
    is_stored,
    also,
    has_echo: false,
    reads_kept_context: false,
    has_stream_options: true,
    has_background: false,
};

fn outputs<'a>(body: &Body<'a>) -> Result<Outputs<'a>, Invalid> {
    let newer = (OUTPUT, body.max_completion_tokens);
    let older = ("max_tokens", body.max_tokens);
    if newer.1.value().is_some() && older.1.value().is_some() {
        let rule = "give either max_tokens or max_completion_tokens, not both";
        return Err(Invalid::field("max_tokens", rule));
    }
    let chosen = [newer, older].into_iter().find(|(_, raw)| raw.value().is_some());
    let written = [newer, older].into_iter().find(|(_, raw)| raw.text().is_some());
    let (name, raw) = chosen.or(written).unwrap_or(newer);
    Outputs::field(name, raw)
}

/// A value that can't be read may ask for it.
fn is_stored(store: Raw<'_>) -> bool {
    store.value().is_some_and(|store| store != "false")
}

fn also(body: &Body<'_>, demand: &mut Demand) {
    // It is text, or a list of parts of text.
    let prediction = body.prediction.value();
    demand.prediction_bytes = prediction.map_or(0, |text| u64::try_from(text.len()).unwrap_or(u64::MAX));
    if body.web_search_options.value().is_some() {
        demand.tools.web_search = Some(WebSearch::Chat);
    }
}

//! `POST /responses`, and the same by messages on a `WebSocket`.

use crate::domain::ObjectKind;
use crate::protocol::openai::operation::{InputCount, Operation, Reader, UsageReport};
use crate::protocol::openai::request::{
    self, Body, BodyRules, Found, Invalid, InvalidKind, Outputs, Request,
};
use crate::protocol::openai::sse::EventForm;
use crate::protocol::openai::usage::AnswerForm;

/// Responses.
pub static RESPONSES: Operation = Operation {
    path: "/v1/responses",
    gen_ai_name: "chat",
    usage_report: UsageReport::Completions,
    kept_as: Some(ObjectKind::Response),
    output_field: Some(OUTPUT),
    has_choices: false,
    has_tool_calls_max: true,
    searches: false,
    in_batches: true,
    answers: AnswerForm::Text,
    count: InputCount::Body,
    events: EventForm::Typed,
    read: Reader::Json(|body| request::read(&RULES, body)),
};

/// Responses that are asked for on a `WebSocket`.
pub static RESPONSES_SOCKET: Operation = Operation {
    path: RESPONSES.path,
    in_batches: false,
    // Its message is no body of that request.
    count: InputCount::None,
    read: Reader::Json(on_socket),
    ..RESPONSES
};

const OUTPUT: &str = "max_output_tokens";
const RULES: BodyRules = BodyRules {
    outputs: |body| Outputs::field(OUTPUT, body.max_output_tokens),
    choices: |_| Ok(1),
    content: input,
    // Unless it says otherwise; a value that can't be read may not.
    is_stored: |store| store.flag() != Some(false),
    also: |_, _| {},
    has_echo: false,
    reads_kept_context: true,
    has_stream_options: false,
    has_background: true,
};

/// A response on a socket is continued there though it is not stored.
const SOCKET_RULES: BodyRules = BodyRules { is_stored: |_| true, ..RULES };

/// A request on a socket: its answer is a stream, and its socket is open until it ends.
fn on_socket(body: &[u8]) -> Result<Request, Invalid> {
    let mut request = request::read(&SOCKET_RULES, body)?;
    if request.demand.background {
        let message =
            "'background' can't be used on a WebSocket. Send such a request with POST /v1/responses.";
        return Err(Invalid {
            message: message.to_owned(),
            param: Some("background"),
            kind: InvalidKind::Malformed,
        });
    }
    request.demand.stream = true;
    Ok(request)
}

/// The input, and what is put into a stored prompt.
pub(super) fn input<'a>(body: &mut Body<'a>) -> Found<'a> {
    let mut content = std::mem::take(&mut body.input);
    content.merge(std::mem::take(&mut body.prompt.variables));
    content.into_inner()
}

//! `POST /images/generations` and `POST /images/edits`.

use crate::protocol::openai::operation::{InputCount, Operation, Reader, UsageReport};
use crate::protocol::openai::request::images;
use crate::protocol::openai::sse::EventForm;
use crate::protocol::openai::usage::AnswerForm;

/// Images made from a text.
pub static IMAGES: Operation = MADE;

const MADE: Operation = Operation {
    path: "/v1/images/generations",
    gen_ai_name: "generate_content",
    usage_report: UsageReport::Images("image.generation"),
    kept_as: None,
    output_field: None,
    has_choices: true,
    has_tool_calls_max: false,
    searches: false,
    in_batches: true,
    answers: AnswerForm::Images,
    count: InputCount::None,
    events: EventForm::Media,
    read: Reader::Json(images::read),
};

/// Images made from others.
pub static IMAGE_EDITS: Operation = Operation {
    path: "/v1/images/edits",
    usage_report: UsageReport::Images("image.edit"),
    read: Reader::Either(images::read, images::read_form),
    ..MADE
};

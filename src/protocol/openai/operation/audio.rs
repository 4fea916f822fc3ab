//! `POST /audio/speech`, `/audio/transcriptions` and `/audio/translations`.

use crate::protocol::openai::operation::{InputCount, Operation, Reader, UsageReport};
use crate::protocol::openai::request::{speech, transcripts};
use crate::protocol::openai::sse::EventForm;
use crate::protocol::openai::usage::AnswerForm;

/// A text that is spoken.
pub static SPEECH: Operation = Operation {
    path: "/v1/audio/speech",
    gen_ai_name: "generate_content",
    usage_report: UsageReport::AudioSpeeches,
    kept_as: None,
    output_field: None,
    has_choices: false,
    has_tool_calls_max: false,
    searches: false,
    in_batches: false,
    answers: AnswerForm::Speech,
    count: InputCount::None,
    events: EventForm::Media,
    read: Reader::Json(speech::read),
};

/// A recording that is written down.
pub static TRANSCRIPTIONS: Operation = Operation {
    path: "/v1/audio/transcriptions",
    gen_ai_name: "generate_content",
    usage_report: UsageReport::AudioTranscriptions,
    kept_as: None,
    output_field: None,
    has_choices: false,
    has_tool_calls_max: false,
    searches: false,
    in_batches: false,
    answers: AnswerForm::Transcript,
    count: InputCount::None,
    events: EventForm::Media,
    read: Reader::Form(transcripts::read_form),
};

/// A recording that is written down in English.
pub static TRANSLATIONS: Operation = Operation {
    path: "/v1/audio/translations",
    gen_ai_name: "generate_content",
    usage_report: UsageReport::AudioTranscriptions,
    kept_as: None,
    output_field: None,
    has_choices: false,
    has_tool_calls_max: false,
    searches: false,
    in_batches: false,
    answers: AnswerForm::Transcript,
    count: InputCount::None,
    events: EventForm::Media,
    read: Reader::Form(transcripts::read_form),
};

//! What upstream did with a request, and what it charges for that.

mod charge;
mod draw;

use crate::prices::{Memory, Tier};
use crate::tools::ImageTool;

/// How an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As it should.
    Completed,
    /// At its output bound.
    Incomplete,
    /// With an error after some output: what was made is billed.
    Failed,
    /// With an error as the first thing within a 200: nothing was made.
    FailedAtOnce,
    /// OpenAI refuses, in its own envelope: nothing is billed.
    Rejected,
    /// The work is done and billed, and a gateway answers in OpenAI's place.
    Gateway,
    /// The work is done and billed, and the connection is lost before the answer.
    Lost,
    /// The connection is lost in the middle of the answer.
    Cut,
}

/// A hosted call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the tools")]
pub enum Call {
    Search,
    /// A page that was opened: no fee.
    Page,
    File,
    /// Code, in the container of that index.
    Code(usize),
    Picture,
    Mcp,
}

/// Tokens that a turn, or all of them, read and wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// All input; the next four are parts of it, disjoint.
    pub input: u64,
    /// Read from the cache.
    pub cached: u64,
    /// Written to the cache.
    pub write: u64,
    /// Audio.
    pub audio_in: u64,
    /// All output; the next three are parts of it.
    pub output: u64,
    /// Thought, and not shown.
    pub reasoning: u64,
    /// Spoken.
    pub audio_out: u64,
    /// Predicted and rejected.
    pub rejected: u64,
}

/// Tokens of pictures that were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the token classes")]
pub struct Drawn {
    pub text_in: u64,
    pub image_in: u64,
    pub image_out: u64,
}

/// A pass that compacted the context, and its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// Turn after which it came.
    pub turn: usize,
    /// What it read.
    pub read: u64,
    /// What it wrote.
    pub wrote: u64,
}

/// A container that was used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Which of the request's containers it is.
    pub index: usize,
    /// Its id.
    pub id: String,
    /// Its memory.
    pub memory: Memory,
    /// Minutes that are billed: from 5 to 20; none where another tool has the same
    /// container, which is billed once.
    pub minutes: u64,
}

/// Where and how the answer says what it cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Form of the usage.
    pub usage: UsageForm,
    /// Place of the usage in a chat stream.
    pub place: UsagePlace,
    /// Whether only an early chunk of a chat stream names the tier.
    pub tier_early: bool,
    /// How hosted calls are reported.
    pub calls: CallsForm,
    /// Whether each chunk has `"error": null`.
    pub error_null: bool,
    /// Whether lines end in CRLF, with comments between the events.
    pub crlf: bool,
    /// Whether cache writes are split by their time to live.
    pub write_details: bool,
}

/// Form of a usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UsageForm {
    /// With all details.
    #[default]
    Full,
    /// Details that are nothing are null.
    Nulls,
    /// Without details.
    Bare,
    /// Thought is in the total only.
    InTotal,
    /// None at all.
    Absent,
}

/// Place of the usage in a chat stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UsagePlace {
    /// In a chunk of its own at the end.
    #[default]
    Last,
    /// In the last chunk with choices.
    WithChoices,
    /// In each chunk; the last counts.
    Each,
}

/// How hosted calls are reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CallsForm {
    /// As items of the output, and in `tool_usage`.
    #[default]
    Both,
    /// As items only.
    Items,
    /// As items that say nothing of what was done.
    BareItems,
    /// As items while they happen; the last event's output is empty.
    Stream,
}

/// What upstream did with one request.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Tier at which it was served.
    pub tier: Tier,
    /// Model as the answer names it.
    pub model: String,
    /// Tokens of all turns.
    pub used: Used,
    /// Tokens of the prompt of each turn.
    pub prompts: Vec<u64>,
    /// Passes that compacted the context; their tokens are parts of those of all turns.
    pub passes: Vec<Pass>,
    /// Tokens of the largest prompt.
    pub largest: u64,
    /// Words that the answer shows, each a token, in all choices together.
    pub words: u64,
    /// Function that the answer calls in place of a text: its words are the arguments.
    pub function: Option<String>,
    /// Hosted calls.
    pub calls: Vec<Call>,
    /// Fee of each search, in picodollars.
    pub search_pico: u128,
    /// Fee of the one search of a chat completion, in picodollars.
    pub chat_search_pico: u128,
    /// Pictures that were made, and by what.
    pub drawn: Option<(ImageTool, Drawn)>,
    /// Containers that were used.
    pub containers: Vec<Session>,
    /// Whether cache writes are kept for twelve hours.
    pub ttl_12h: bool,
    /// How it ended.
    pub end: End,
    /// Share of the answer after which a cut comes, in hundredths.
    pub cut_percent: u64,
    /// How it is reported.
    pub report: Report,
}

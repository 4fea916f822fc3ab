//! Where a stream is cut because its hold ends there, and the message to its client.

use crate::pricing::count::{self, Encoding};
use crate::pricing::turns::{Added, Turns};
use crate::protocol::openai::operation::Operation;
use crate::protocol::openai::refusal::ErrorBody;
use crate::protocol::openai::sse::Brought;

/// Where a stream is cut, because its hold ends there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cuts {
    /// Output tokens; only for models without a bound of their own.
    pub output_tokens: Option<u64>,
    /// Calls of hosted tools.
    pub hosted_calls: Option<u64>,
    /// The context that the turns between those calls read.
    pub turns: Option<Turns>,
}

/// The tokens of results of hosted tools; counts at most `most` of each.
pub(super) fn counted(brought: Vec<Brought>, encoding: Encoding, most: u64) -> Vec<Added> {
    let tokens = |text: &str| count::text_within(encoding, text, most).unwrap_or(u64::MAX);
    let added = |brought| match brought {
        Brought::ByCall(shown) => Added::Call(shown.as_deref().map(tokens)),
        Brought::ByOutput(text) => Added::Output(tokens(&text)),
        Brought::ByList(text) => Added::List(tokens(&text)),
    };
    brought.into_iter().map(added).collect()
}

/// Why a stream is cut.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cut {
    Tokens,
    HostedCalls,
    Context,
}

impl Cut {
    const fn message(self) -> &'static str {
        match self {
            Self::Tokens => {
                "spendguard ended this answer: its output reached what was reserved. Set max_output_tokens or \
                 max_completion_tokens."
            }
            Self::HostedCalls => {
                "spendguard ended this answer: it made more hosted tool calls than were reserved for. Ask for more \
                 with max_tool_calls."
            }
            Self::Context => {
                "spendguard ended this answer: hosted tools brought more into the context than was reserved for. Ask \
                 for fewer tool calls, or have the operator raise guard.tool_context_max."
            }
        }
    }

    /// The last event of such a stream.
    pub(super) fn event(self, operation: &Operation) -> String {
        let error = ErrorBody {
            message: self.message(),
            kind: "insufficient_quota",
            param: None,
            code: Some("insufficient_quota"),
        };
        operation.cut_event(&error)
    }
}

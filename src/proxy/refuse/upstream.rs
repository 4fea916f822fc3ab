//! Refusals because there is no answer of upstream's that can be passed on.

use http::StatusCode;

use super::{Answer, server};
use crate::upstream::{SendError, SendErrorKind};

const UNREADABLE: &str =
    "The upstream API's answer could not be read, so spendguard can't tell whose objects it names.";

/// Whether upstream may bill a request that got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Billed {
    /// It was not sent, or costs nothing.
    No,
    /// It was sent, and its answer is lost.
    Perhaps,
}

/// Why there is no answer to pass on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// Upstream can't be reached, or disconnected.
    Unreachable(Billed),
    /// It did not answer in time.
    TimedOut(Billed),
    /// Its answer can't be read, though the ids in it have to be checked.
    Unreadable,
}

impl NoAnswer {
    /// The failure of a request that could not be sent, or got no answer.
    pub fn of(error: &SendError, billed: Billed) -> Self {
        match error.kind {
            SendErrorKind::TimedOut => Self::TimedOut(billed),
            SendErrorKind::Unreachable | SendErrorKind::Broken => Self::Unreachable(billed),
        }
    }

    /// The label of the metric, one of a fixed set.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Unreachable(_) | Self::Unreadable => "upstream_unreachable",
            Self::TimedOut(_) => "upstream_timeout",
        }
    }

    pub(super) fn answer(self) -> Answer {
        let (status, message, billed) = match self {
            Self::Unreachable(billed) => {
                (StatusCode::BAD_GATEWAY, "The upstream API could not be reached or broke off.", billed)
            }
            Self::TimedOut(billed) => {
                (StatusCode::GATEWAY_TIMEOUT, "The upstream API did not answer in time.", billed)
            }
            Self::Unreadable => (StatusCode::BAD_GATEWAY, UNREADABLE, Billed::No),
        };
        let mut answer = server(status, self.reason(), message);
        if billed == Billed::Perhaps {
            answer.message.push_str(" The request may have been billed.");
        }
        answer
    }
}

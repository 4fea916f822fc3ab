//! The facts of an exchange other than its usage.

use std::time::Duration;

use http::HeaderMap;

use crate::guard::Ending;

/// The facts of an exchange other than its usage.
#[derive(Clone, Debug, Default)]
pub struct Exchange {
    /// Upstream's status; 0 if there was no answer.
    pub status: u16,
    /// Upstream's request id.
    pub request_id: Option<String>,
    /// From admission to the first byte of the answer.
    pub ttft: Option<Duration>,
    /// Whether the client went away before the end.
    pub disconnected: bool,
}

impl Exchange {
    /// Reads a response's head.
    pub fn of(status: u16, headers: &HeaderMap) -> Self {
        let id = headers.get("x-request-id").and_then(|value| value.to_str().ok());
        Self { status, request_id: id.map(|id| id.chars().take(128).collect()), ..Self::default() }
    }

    /// An ending that costs nothing.
    pub fn ending(self) -> Ending {
        Ending {
            status: self.status,
            upstream_request_id: self.request_id,
            ttft: self.ttft,
            disconnected: self.disconnected,
            ..Ending::default()
        }
    }
}

//! The state that a whole response object is in.

use serde::Deserialize;

use super::json::{Object, Raw};

/// Whether a response has ended. One that is made in the background is read while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseState {
    /// It goes on.
    Running,
    /// Nothing of it changes any more.
    Ended,
    /// The object doesn't say so, or in a word that is not known.
    Unknown,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Members<'a> {
    #[serde(borrow)]
    status: Raw<'a>,
}

impl ResponseState {
    /// The state by the `status` of a response object.
    ///
    /// ```
    /// use spendguard::protocol::openai::ResponseState;
    /// assert_eq!(ResponseState::of(br#"{"status":"queued"}"#), ResponseState::Running);
    /// assert_eq!(ResponseState::of(br#"{"status":"incomplete"}"#), ResponseState::Ended);
    /// assert_eq!(ResponseState::of(b"<html>"), ResponseState::Unknown);
    /// ```
    pub fn of(body: &[u8]) -> Self {
        let read = std::str::from_utf8(body).ok().and_then(|text| serde_json::from_str(text).ok());
        let Some(Object(Members { status })) = read else { return Self::Unknown };
        match status.string().as_deref() {
            Some("queued" | "in_progress") => Self::Running,
            Some("completed" | "incomplete" | "failed" | "cancelled") => Self::Ended,
            Some(_) | None => Self::Unknown,
        }
    }
}

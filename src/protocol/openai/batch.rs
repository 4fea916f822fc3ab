//! Batches: the request that makes one, its object, the lines of its input and of its output.

use std::borrow::Cow;

use serde::Deserialize;

use super::json::{Object, Raw};
use super::operation::{OPERATIONS, Operation};
use super::request::{self, Invalid, InvalidKind, Request};

/// The most lines of a batch (OpenAI's documentation of the Batch API).
pub const LINES_MAX: u64 = 50_000;
/// What a batch may call that costs nothing.
pub const MODERATIONS: &str = "/v1/moderations";

/// A line of the file that a batch is made of.
#[derive(Debug)]
pub enum InputLine<'a> {
    /// A request that costs something: the operation that it is of, and its body.
    Metered(&'static Operation, Box<Request>, &'a str),
    /// One that costs nothing.
    Free,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct InputMembers<'a> {
    #[serde(borrow)]
    method: Raw<'a>,
    #[serde(borrow)]
    url: Raw<'a>,
    #[serde(borrow)]
    body: Raw<'a>,
}

impl<'a> InputLine<'a> {
    /// Reads a line. Its body is read as that of the request that it stands for.
    ///
    /// ```
    /// use spendguard::protocol::openai::batch::InputLine;
    /// let line = br#"{"custom_id":"1","method":"POST","url":"/v1/chat/completions",
    ///     "body":{"model":"gpt-5-mini","messages":[]}}"#;
    /// assert!(matches!(InputLine::read(line), Ok(InputLine::Metered(..))));
    /// ```
    pub fn read(line: &'a [u8]) -> Result<Self, Invalid> {
        let of_kind = |kind| move |message: String| Invalid { message, param: None, kind };
        let (wrong, not_allowed) = (of_kind(InvalidKind::Malformed), of_kind(InvalidKind::NotAllowed));
        let text = std::str::from_utf8(line).map_err(|_| wrong("it is not UTF-8".to_owned()))?;
        let Object(InputMembers { method, url, body }) = serde_json::from_str(text)
            .map_err(|_| wrong("it is not a JSON object that has each field once".to_owned()))?;
        if method.string().as_deref() != Some("POST") {
            return Err(wrong("its method must be POST".to_owned()));
        }
        let url = url.string().unwrap_or_default();
        if url == MODERATIONS {
            return Ok(Self::Free);
        }
        let Some(operation) = batched(&url) else {
            let shown: String = url.chars().filter(|c| !c.is_control()).take(64).collect();
            return Err(not_allowed(format!("its url, '{shown}', is none that a batch may call")));
        };
        let Some(body) = body.value() else { return Err(wrong("it has no body".to_owned())) };
        let request = operation.read(body.as_bytes())?;
        if request.demand.background {
            return Err(not_allowed("a line of a batch can't ask for a background response".to_owned()));
        }
        Ok(Self::Metered(operation, Box::new(request), body))
    }
}

/// The operation of a path that a batch may call.
fn batched(path: &str) -> Option<&'static Operation> {
    OPERATIONS.into_iter().find(|operation| operation.in_batches && operation.path == path)
}

/// The body of `POST /batches`, as far as it decides what is spent.
#[derive(Debug)]
pub struct NewBatch {
    /// The id of the file with its lines.
    pub input_file_id: String,
    /// The path that its lines call; empty if it names none.
    pub endpoint: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct NewMembers<'a> {
    #[serde(borrow)]
    input_file_id: Raw<'a>,
    #[serde(borrow)]
    endpoint: Raw<'a>,
}

impl NewBatch {
    /// Reads the body.
    pub fn read(body: &[u8]) -> Result<Self, Invalid> {
        let NewMembers { input_file_id, endpoint } = request::fields(request::text(body)?)?;
        let id = input_file_id.string().filter(|id| !id.is_empty()).ok_or_else(|| {
            Invalid::field("input_file_id", "it must be the id of a file of the purpose \"batch\"")
        })?;
        let endpoint = endpoint.string().unwrap_or_default().into_owned();
        Ok(Self { input_file_id: id.into_owned(), endpoint })
    }
}

/// Whether a batch has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchState {
    /// It goes on.
    Running,
    /// It has ended, and what was completed by then is in its output.
    Ended,
    /// It was refused before any of its lines ran.
    Refused,
    /// Its object says nothing that is known.
    Unknown,
}

/// The object of a batch.
#[derive(Debug)]
pub struct Batch {
    /// Its id.
    pub id: String,
    /// Whether it has ended.
    pub state: BatchState,
    /// The file of the answers.
    pub output_file_id: Option<String>,
    /// The file of the lines that failed.
    pub error_file_id: Option<String>,
    /// Lines that were completed; `None` if it doesn't say.
    pub completed: Option<u64>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct BatchMembers<'a> {
    #[serde(borrow)]
    id: Raw<'a>,
    #[serde(borrow)]
    status: Raw<'a>,
    #[serde(borrow)]
    output_file_id: Raw<'a>,
    #[serde(borrow)]
    error_file_id: Raw<'a>,
    #[serde(borrow)]
    request_counts: Raw<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Counts {
    completed: Option<u64>,
}

impl Batch {
    /// Reads the object; `None` if it is none.
    ///
    /// ```
    /// use spendguard::protocol::openai::batch::{Batch, BatchState};
    /// let batch = Batch::read(br#"{"id":"batch_1","status":"expired","request_counts":{"completed":3}}"#);
    /// let batch = batch.expect("it has an id");
    /// assert_eq!((batch.state, batch.completed), (BatchState::Ended, Some(3)));
    /// ```
    pub fn read(body: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(body).ok()?;
        let Object(members) = serde_json::from_str::<Object<BatchMembers<'_>>>(text).ok()?;
        let owned = |raw: Raw<'_>| raw.string().filter(|id| !id.is_empty()).map(Cow::into_owned);
        let counts = members.request_counts.value().and_then(|text| serde_json::from_str(text).ok());
        let Counts { completed } = counts.unwrap_or_default();
        let output_file_id = owned(members.output_file_id);
        let state = match members.status.string().as_deref() {
            Some("validating" | "in_progress" | "finalizing" | "cancelling") => BatchState::Running,
            Some("failed") if output_file_id.is_none() && completed.unwrap_or(0) == 0 => BatchState::Refused,
            Some("completed" | "failed" | "expired" | "cancelled") => BatchState::Ended,
            Some(_) | None => BatchState::Unknown,
        };
        let error_file_id = owned(members.error_file_id);
        Some(Self { id: owned(members.id)?, state, output_file_id, error_file_id, completed })
    }
}

/// A line can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;

/// A line of the file of answers.
#[derive(Debug)]
pub struct OutputLine<'a> {
    /// The status of the answer.
    pub status: u16,
    /// Its body.
    pub body: &'a str,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct OutputMembers<'a> {
    #[serde(borrow)]
    response: Raw<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ResponseMembers<'a> {
    status_code: Option<u16>,
    #[serde(borrow)]
    body: Raw<'a>,
}

impl<'a> OutputLine<'a> {
    /// Reads a line; `Ok(None)` if it has no answer, and an error if it can't be read.
    pub fn read(line: &'a [u8]) -> Result<Option<Self>, Unreadable> {
        let text = std::str::from_utf8(line).map_err(|_| Unreadable)?;
        let Object(OutputMembers { response }) = serde_json::from_str(text).map_err(|_| Unreadable)?;
        let Some(response) = response.value() else { return Ok(None) };
        let read = serde_json::from_str(response).map_err(|_| Unreadable)?;
        let Object(ResponseMembers { status_code, body }) = read;
        let (status, body) = status_code.zip(body.value()).ok_or(Unreadable)?;
        Ok(Some(Self { status, body }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(line: &str) -> String {
        InputLine::read(line.as_bytes()).unwrap_err().message
    }

    #[test]
    fn a_line_is_read_as_the_request_that_it_stands_for() {
        let line = r#"{"custom_id":"a","method":"POST","url":"/v1/responses",
            "body":{"model":"gpt-5-mini","input":"hi","max_output_tokens":9}}"#;
        let InputLine::Metered(operation, request, _) = InputLine::read(line.as_bytes()).unwrap() else {
            panic!("it costs something")
        };
        assert_eq!((operation.path, request.demand.output_max), ("/v1/responses", Some(9)));
        let free = r#"{"custom_id":"a","method":"POST","url":"/v1/moderations","body":{"input":"x"}}"#;
        assert!(matches!(InputLine::read(free.as_bytes()), Ok(InputLine::Free)));
    }

    #[test]
    fn a_line_that_can_not_be_priced_is_refused_with_the_reason() {
        for (line, reason) in [
            ("{", "JSON"),
            ("[]", "JSON"),
            (
                r#"{"url":"/v1/responses","url":"/v1/embeddings","method":"POST","body":{}}"#,
                "each field once",
            ),
            (r#"{"method":"GET","url":"/v1/responses","body":{}}"#, "method"),
            (r#"{"method":"POST","url":"/v1/audio/speech","body":{}}"#, "'/v1/audio/speech'"),
            (r#"{"method":"POST","url":"/v1/videos","body":{}}"#, "'/v1/videos'"),
            (r#"{"method":"POST","body":{}}"#, "''"),
            (r#"{"method":"POST","url":"/v1/responses"}"#, "no body"),
            (r#"{"method":"POST","url":"/v1/chat/completions","body":{"messages":[]}}"#, "model"),
        ] {
            let message = refused(line);
            assert!(message.contains(reason), "{line}: {message}");
        }
    }

    #[test]
    fn the_states_of_a_batch_are_known_by_its_status() {
        let state = |status: &str, output: &str| {
            let body = format!(r#"{{"id":"batch_1","status":"{status}","output_file_id":{output}}}"#);
            Batch::read(body.as_bytes()).unwrap().state
        };
        for status in ["validating", "in_progress", "finalizing", "cancelling"] {
            assert_eq!(state(status, "null"), BatchState::Running);
        }
        for status in ["completed", "expired", "cancelled"] {
            assert_eq!(state(status, "null"), BatchState::Ended);
        }
        assert_eq!(state("failed", "null"), BatchState::Refused);
        assert_eq!(state("failed", "\"file-1\""), BatchState::Ended);
        let midway = br#"{"id":"batch_1","status":"failed","request_counts":{"completed":5}}"#;
        assert_eq!(Batch::read(midway).unwrap().state, BatchState::Ended);
        assert_eq!(state("paused", "null"), BatchState::Unknown);
        assert!(Batch::read(b"<html>").is_none() && Batch::read(br#"{"object":"batch"}"#).is_none());
    }

    #[test]
    fn a_line_of_the_output_has_a_status_and_a_body() {
        let line = br#"{"id":"batch_req_1","custom_id":"a","response":{"status_code":200,"request_id":"r","body":{"id":"x"}},"error":null}"#;
        let read = OutputLine::read(line).unwrap().unwrap();
        assert_eq!((read.status, read.body), (200, r#"{"id":"x"}"#));
        let failed = br#"{"custom_id":"a","response":null,"error":{"code":"batch_expired"}}"#;
        assert!(OutputLine::read(failed).unwrap().is_none());
        for broken in
            [&b"{"[..], b"\xff", br#"{"response":{"body":{}}}"#, br#"{"response":{},"response":{}}"#]
        {
            assert_eq!(OutputLine::read(broken).map(|line| line.is_some()), Err(Unreadable));
        }
    }
}

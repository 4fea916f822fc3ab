//! What upstream's errors say of its account, and who may see it.
//!
//! OpenAI's error texts name the organization, the project and the key that pay. With
//! the guard's own key these are the operator's. They are masked in error answers, and
//! in the error events of a stream; nothing else of a stream is touched.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body::{Body as _, Frame};
use memchr::memmem;

use crate::proxy::body::{self, Answer, AnswerError, Bounds};
use crate::proxy::refuse::{Edge, Refusal};

/// The largest error that is read whole; one that is larger is no error of OpenAI's,
/// and its body is left out.
const ERROR_BYTES_MAX: usize = 1 << 20;
/// How the names of accounts and keys begin.
const BEGINNINGS: [&[u8]; 4] = [b"org-", b"proj_", b"sk-", b"sess-"];
/// What stands after the beginning of a masked name.
const MASK: &[u8] = b"***";
/// The longest name that is waited for when it is cut in two by the end of a part.
const NAME_BYTES_MAX: usize = 512;
/// The word that everything with an error has in it.
const ERROR: &[u8] = b"error";
/// What stands before and after it in an event with an error, or a whole answer with one.
const AROUND: [(&[u8], &[u8]); 4] =
    [(b"\"", b"\":{"), (b"\"", b"\": {"), (b"\"type\":\"", b"\""), (b"\"type\": \"", b"\"")];
/// What stands before it in a line of an event that is an error.
const LINES: [&[u8]; 2] = [b"event: ", b"event:"];
/// What events end in.
const ENDS: [&[u8]; 3] = [b"\n\n", b"\r\n\r\n", b"\r\r"];
/// The longest of these with the word, but for a byte: `"type": "error"`.
const SEEN_BYTES_MAX: usize = 14;

/// An answer that succeeded, as its client may see it.
pub fn answer(answer: Response<Answer>, upstream_key: &str) -> Response<Answer> {
    let (mut head, body) = answer.into_parts();
    let body = if is_event_stream(&head.headers) {
        Answer::Concealed(Box::new(Concealed::of(body)))
    } else if let Answer::Whole(Some(bytes)) = &body
        && mark_at(bytes).is_some()
    {
        Answer::whole(masked(bytes, upstream_key).into())
    } else {
        body
    };
    set_length(&mut head.headers, &body);
    Response::from_parts(head, body)
}

/// An error of upstream, as its client may see it.
///
/// A refused key is the operator's matter: `Err` says so, and the log has upstream's
/// words, masked.
pub async fn error(
    answer: Response<Answer>,
    upstream_key: &str,
    idle: Duration,
) -> Result<Response<Answer>, Refusal> {
    let (mut head, body) = answer.into_parts();
    let error = match body {
        Answer::Plain(body) => {
            body::read(body, Bounds::answer(ERROR_BYTES_MAX, idle)).await.unwrap_or_default()
        }
        Answer::Whole(bytes) => bytes.unwrap_or_default(),
        Answer::Tapped(_) | Answer::Concealed(_) => Bytes::new(),
    };
    // What is compressed can't be looked through.
    let is_hidden = head.headers.remove(header::CONTENT_ENCODING).is_some();
    let text = if is_hidden { Vec::new() } else { masked(&error, upstream_key) };
    if head.status == StatusCode::UNAUTHORIZED {
        tracing::error!(
            answer = %String::from_utf8_lossy(&text[..text.len().min(500)]),
            "upstream does not accept upstream.api_key: see whether it is still valid"
        );
        return Err(Refusal::Edge(Edge::UpstreamKeyRefused));
    }
    let body = Answer::whole(text.into());
    set_length(&mut head.headers, &body);
    Ok(Response::from_parts(head, body))
}

/// Makes the announced length that of a body that is known whole.
fn set_length(headers: &mut HeaderMap, body: &Answer) {
    if let Answer::Whole(bytes) = body
        && headers.contains_key(header::CONTENT_LENGTH)
    {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.as_ref().map_or(0, Bytes::len)));
    }
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.is_some_and(|kind| kind.len() >= 17 && kind[..17].eq_ignore_ascii_case(b"text/event-stream"))
}

/// A text in which names of accounts and keys are masked.
fn masked(text: &[u8], upstream_key: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    let key = upstream_key.as_bytes();
    while let Some(at) = memmem::find(rest, key).filter(|_| !key.is_empty()) {
        mask_names(&rest[..at], &mut out);
        out.extend_from_slice(MASK);
        rest = &rest[at + key.len()..];
    }
    mask_names(rest, &mut out);
    out
}

fn mask_names(text: &[u8], out: &mut Vec<u8>) {
    let mut at = 0;
    while at < text.len() {
        let is_start = at == 0 || !is_of_name(text[at - 1]);
        let beginning = BEGINNINGS.iter().find(|beginning| is_start && text[at..].starts_with(beginning));
        let Some(beginning) = beginning else {
            out.push(text[at]);
            at += 1;
            continue;
        };
        let rest = &text[at + beginning.len()..];
        let name = rest.iter().take_while(|byte| is_of_name(**byte)).count();
        out.extend_from_slice(beginning);
        if name > 0 {
            out.extend_from_slice(MASK);
        }
        at += beginning.len() + name;
    }
}

/// Keys in errors are starred by OpenAI itself, their ends left to be seen.
fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_*.".contains(&byte)
}

/// An event stream whose error events are masked.
#[derive(Debug)]
pub struct Concealed {
    inner: Box<Answer>,
    events: Events,
}

/// Where in a stream of events it is.
#[derive(Debug, Default)]
struct Events {
    /// The end of what has passed, so that a mark or an end cut in two is found.
    seen: Vec<u8>,
    /// Within an event that has an error in it.
    is_error: bool,
    /// The start of a name whose end has not come.
    kept: Vec<u8>,
}

impl Concealed {
    fn of(inner: Answer) -> Self {
        Self { inner: Box::new(inner), events: Events::default() }
    }

    /// The next frame for the client.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        loop {
            let polled = std::task::ready!(Pin::new(&mut *self.inner).poll_frame(cx));
            let part = match polled.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(part))) => part,
                Some(Ok(Err(_))) => continue,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    let rest = self.events.finish();
                    return Poll::Ready((!rest.is_empty()).then(|| Ok(Frame::data(rest.into()))));
                }
            };
            let out = self.events.feed(part);
            if !out.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(out))));
            }
        }
    }
}

impl Events {
    fn feed(&mut self, part: Bytes) -> Bytes {
        if !self.is_error && self.error_at(&part).is_none() {
            self.remember(&part);
            return part;
        }
        let (mut out, mut rest) = (Vec::with_capacity(part.len()), &part[..]);
        loop {
            if self.is_error {
                let mut text = std::mem::take(&mut self.kept);
                if let Some(end) = self.end_of_event(rest) {
                    text.extend_from_slice(&rest[..end]);
                    mask_names(&text, &mut out);
                    self.is_error = false;
                    self.seen.clear();
                    rest = &rest[end..];
                    continue;
                }
                text.extend_from_slice(rest);
                self.kept = text.split_off(text.len() - unfinished(&text));
                mask_names(&text, &mut out);
                break;
            }
            let Some(at) = self.error_at(rest) else {
                out.extend_from_slice(rest);
                break;
            };
            let start = start_of_event(&rest[..at]);
            out.extend_from_slice(&rest[..start]);
            rest = &rest[start..];
            self.is_error = true;
        }
        self.remember(rest);
        out.into()
    }

    fn finish(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        mask_names(&std::mem::take(&mut self.kept), &mut out);
        out
    }

    /// Where a part says that there is an error in its event.
    fn error_at(&self, part: &[u8]) -> Option<usize> {
        let start = &part[..part.len().min(SEEN_BYTES_MAX)];
        if !self.seen.is_empty()
            && mark_at(&[&self.seen, start].concat()).is_some_and(|at| at < self.seen.len())
        {
            return Some(0);
        }
        mark_at(part)
    }

    fn end_of_event(&self, part: &[u8]) -> Option<usize> {
        let joined = [&self.seen, part].concat();
        let ends = ENDS.iter().filter_map(|end| {
            let found = memmem::find_iter(&joined, end).map(|at| at + end.len());
            found.into_iter().find(|at| *at > self.seen.len())
        });
        ends.min().map(|at| at - self.seen.len())
    }

    fn remember(&mut self, part: &[u8]) {
        self.seen.extend_from_slice(&part[part.len().saturating_sub(SEEN_BYTES_MAX)..]);
        let beyond = self.seen.len().saturating_sub(SEEN_BYTES_MAX);
        self.seen.drain(..beyond);
    }
}

/// Where a text has what only an event with an error has.
fn mark_at(text: &[u8]) -> Option<usize> {
    memmem::find_iter(text, ERROR).find_map(|at| {
        let (before, after) = (&text[..at], &text[at + ERROR.len()..]);
        let around = AROUND.iter().find(|(left, right)| before.ends_with(left) && after.starts_with(right));
        // Within the texts of a model, ends of lines are escaped.
        let is_line = |line: &[u8]| line.last().is_none_or(|last| matches!(last, b'\n' | b'\r'));
        let starts = LINES.iter().find(|start| before.strip_suffix(**start).is_some_and(is_line));
        around.map(|(left, _)| at - left.len()).or(starts.map(|start| at - start.len()))
    })
}

/// Where the last event begins.
fn start_of_event(text: &[u8]) -> usize {
    ENDS.iter().filter_map(|end| memmem::rfind(text, end).map(|at| at + end.len())).max().unwrap_or(0)
}

/// How many bytes at the end may be the start of a name that goes on.
fn unfinished(text: &[u8]) -> usize {
    let name = text.iter().rev().take_while(|byte| is_of_name(**byte)).count();
    if name <= NAME_BYTES_MAX { name } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(text: &str) -> String {
        String::from_utf8(masked(text.as_bytes(), "upstream-secret")).unwrap()
    }

    #[test]
    fn accounts_and_keys_in_errors_are_masked_and_nothing_else() {
        for (text, shown) in [
            (
                "Rate limit reached for gpt-4o in organization org-AbC123 on",
                "Rate limit reached for gpt-4o in organization org-*** on",
            ),
            ("Project `proj_X1` does not", "Project `proj_***` does not"),
            ("provided: sk-ab***********wxyz. You", "provided: sk-*** You"),
            ("sk-proj-a_b-c\"}", "sk-***\"}"),
            ("key upstream-secret was", "key *** was"),
            ("a task-list, desk-top, org- and sk-", "a task-list, desk-top, org- and sk-"),
        ] {
            assert_eq!(mask(text), shown);
        }
    }

    fn through(text: &str, step: usize) -> String {
        let mut events = Events::default();
        let mut out = Vec::new();
        for part in text.as_bytes().chunks(step) {
            out.extend_from_slice(&events.feed(Bytes::copy_from_slice(part)));
        }
        out.extend_from_slice(&events.finish());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn in_a_stream_only_error_events_are_masked_however_they_are_cut() {
        let usual =
            "data: {\"choices\":[{\"delta\":{\"content\":\"org-chart sk-learn\"}}],\"error\":null}\n\n";
        for (error, shown) in [
            (
                "data: {\"error\":{\"message\":\"in organization org-secret1\"}}\n\n",
                "data: {\"error\":{\"message\":\"in organization org-***\"}}\n\n",
            ),
            (
                "event: error\ndata: {\"message\":\"proj_secret2\",\"type\":\"error\"}\n\n",
                "event: error\ndata: {\"message\":\"proj_***\",\"type\":\"error\"}\n\n",
            ),
            (
                "data: {\"type\":\"response.failed\",\"response\":{\"error\": {\"message\":\"sk-secret3\"",
                "data: {\"type\":\"response.failed\",\"response\":{\"error\": {\"message\":\"sk-***\"",
            ),
        ] {
            let text = format!("{usual}{error}");
            for step in 1..=text.len() {
                assert_eq!(through(&text, step), format!("{usual}{shown}"), "{step}");
            }
            if error.ends_with("\n\n") {
                for step in 1..=text.len() + usual.len() {
                    assert_eq!(
                        through(&format!("{error}{usual}"), step),
                        format!("{shown}{usual}"),
                        "{step}"
                    );
                }
            }
        }
    }
}

//! Masks the operator's account in upstream's answers.
//!
//! OpenAI's error texts name the organization, the project and the key that pay, and some
//! objects have a field for the organization. With the guard's own key these are the
//! operator's. They are masked in error answers, and where [`account`] finds them in
//! others; nothing else of an answer is touched.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body::Body as _;

use crate::protocol::openai::account;
use crate::proxy::answer::{Answer, Concealed};
use crate::proxy::body::{self, Bounds};
use crate::proxy::headers;
use crate::proxy::mask::{Masker, masked, masked_within};
use crate::proxy::refuse::{Billed, Edge, NoAnswer, Refusal};

/// The largest error that is read whole; one that is larger is no error of OpenAI's,
/// and its body is left out.
const ERROR_BYTES_MAX: usize = 1 << 20;

/// An answer that succeeded, whole or a stream that is observed, as its client may see it.
pub fn answer(answer: Response<Answer>, upstream_key: &str) -> Response<Answer> {
    let (mut head, body) = answer.into_parts();
    let body = match body {
        Answer::Whole(Some(bytes)) => Answer::whole(masked_within(bytes, upstream_key)),
        events @ (Answer::Tapped(_) | Answer::Background(_)) => {
            let masker = Masker::new(account::Texts::of_events(), upstream_key);
            Answer::Concealed(Box::new(Concealed::new(events, masker)))
        }
        body @ (Answer::Whole(None) | Answer::Plain(_) | Answer::Sound(_) | Answer::Concealed(_)) => body,
    };
    set_length(&mut head.headers, &body);
    Response::from_parts(head, body)
}

/// An answer that succeeded and is streamed, as its client may see it. A small one
/// is read whole, so that its length is still announced.
pub async fn plain(
    answer: Response<Answer>,
    upstream_key: &str,
    idle: Duration,
) -> Result<Response<Answer>, Refusal> {
    let (mut head, body) = answer.into_parts();
    let body = match body {
        // A compressed answer can't be searched. It was requested uncompressed.
        Answer::Plain(body) if !body.is_end_stream() && !headers::is_encoded(&head.headers) => body,
        body @ (Answer::Plain(_)
        | Answer::Whole(_)
        | Answer::Tapped(_)
        | Answer::Sound(_)
        | Answer::Background(_)
        | Answer::Concealed(_)) => {
            return Ok(Response::from_parts(head, body));
        }
    };
    let mut masker = Masker::new(account::Texts::of_any(), upstream_key);
    let length = body.size_hint().exact().and_then(|length| usize::try_from(length).ok());
    let body = if length.is_some_and(|length| length <= ERROR_BYTES_MAX) {
        let bytes = body::read(body, Bounds::answer(ERROR_BYTES_MAX, idle)).await.map_err(|error| {
            tracing::warn!(event = "unmetered_answer_failed", ?error, "an answer was cut off");
            Refusal::Upstream(NoAnswer::Unreachable(Billed::No))
        })?;
        let (masked, rest) = (masker.feed(bytes), masker.finish());
        Answer::whole(if rest.is_empty() { masked } else { [&masked[..], &rest].concat().into() })
    } else {
        head.headers.remove(header::CONTENT_LENGTH);
        Answer::Concealed(Box::new(Concealed::new(Answer::Plain(body), masker)))
    };
    set_length(&mut head.headers, &body);
    Ok(Response::from_parts(head, body))
}

/// An error of upstream, as its client may see it.
///
/// If upstream refuses the guard's key, the result is `Err`, and upstream's text is
/// logged, masked.
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
        Answer::Tapped(_) | Answer::Background(_) | Answer::Sound(_) | Answer::Concealed(_) => Bytes::new(),
    };
    // A compressed answer can't be searched.
    let is_hidden = head.headers.remove(header::CONTENT_ENCODING).is_some();
    let text = if is_hidden { Vec::new() } else { masked(&error, upstream_key) };
    if head.status == StatusCode::UNAUTHORIZED {
        tracing::error!(
            event = "upstream_key_refused",
            answer = %String::from_utf8_lossy(&text[..text.len().min(500)]),
            "upstream refuses upstream.api_key: check that the key is still valid"
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

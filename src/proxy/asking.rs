//! The guard's own questions to upstream about an object that a job is for.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use serde_json::Value;

use crate::protocol::openai::usage;
use crate::proxy::body::{self, ANSWER_BYTES_MAX, Bounds};
use crate::proxy::headers;
use crate::upstream::{AnswerBody, Upstream};

/// How long an answer to a question may take.
const ASK_MAX: Duration = Duration::from_secs(30);
/// The longest pause between two questions about a job. OpenAI keeps a background response for
/// some ten minutes after its end, so its end is seen in that time.
pub const PAUSE_MAX: Duration = Duration::from_secs(60);

/// What upstream says of a job's object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It has ended, and its job is settled.
    Ended,
    /// It goes on, or its state is not known.
    Running,
    /// There is none of that id.
    Gone,
    /// There was no answer that says anything of it.
    Failed,
}

/// Asks for an object, for a key that its answer takes memory of. Anything but the object is an
/// error that says why.
pub(super) async fn whole(
    upstream: &Upstream,
    authorization: &HeaderValue,
    path: &str,
    key: &Arc<str>,
) -> Result<Bytes, Asked> {
    read(Method::GET, upstream, authorization, path, key).await
}

/// Deletes an object. Anything but an answer that may say that it is deleted is an error that says why.
pub(super) async fn deleted(
    upstream: &Upstream,
    authorization: &HeaderValue,
    path: &str,
    key: &Arc<str>,
) -> Result<(), Asked> {
    let said = read(Method::DELETE, upstream, authorization, path, key).await?;
    if says_deleted(&said) { Ok(()) } else { Err(Asked::Failed) }
}

/// Whether an answer with success to a deletion is one: nothing, or an object that does not deny it.
/// Something in between may answer with a page.
pub(super) fn says_deleted(said: &[u8]) -> bool {
    let denies = |said: &Value| !said.is_object() || said["deleted"] == false;
    said.is_empty() || serde_json::from_slice::<Value>(said).is_ok_and(|said| !denies(&said))
}

/// Asks for an object whose answer is read by the caller.
pub(super) async fn found(
    upstream: &Upstream,
    authorization: &HeaderValue,
    path: &str,
    key: &Arc<str>,
) -> Result<Response<AnswerBody>, Asked> {
    send(Method::GET, upstream, authorization, path, key).await
}

/// The pause after a job was asked for, by how often it was before: a second, doubled each time.
pub fn pause_after(polls: u32) -> Duration {
    Duration::from_secs(1 << polls.min(6)).min(PAUSE_MAX)
}

async fn read(
    method: Method,
    upstream: &Upstream,
    authorization: &HeaderValue,
    path: &str,
    key: &Arc<str>,
) -> Result<Bytes, Asked> {
    let asking = async {
        let body = send(method, upstream, authorization, path, key).await?.into_body();
        let bounds = Bounds::paid_answer(ANSWER_BYTES_MAX, ASK_MAX, Arc::clone(key));
        body::read(body, bounds).await.map_err(|_| Asked::Failed)
    };
    tokio::time::timeout(ASK_MAX, asking).await.unwrap_or(Err(Asked::Failed))
}

async fn send(
    method: Method,
    upstream: &Upstream,
    authorization: &HeaderValue,
    path: &str,
    key: &Arc<str>,
) -> Result<Response<AnswerBody>, Asked> {
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, authorization.clone());
    headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let answer = upstream.send(method, path, headers, Bytes::new()).await.map_err(|_| Asked::Failed)?;
    if answer.status() == StatusCode::NOT_FOUND {
        let bounds = Bounds::paid_answer(ANSWER_BYTES_MAX, ASK_MAX, Arc::clone(key));
        let said = body::read(answer.into_body(), bounds).await.map_err(|_| Asked::Failed)?;
        // Another form is that of something in between.
        return Err(if usage::is_error_envelope(&said) { Asked::Gone } else { Asked::Failed });
    }
    if !answer.status().is_success() || headers::is_encoded(answer.headers()) {
        return Err(Asked::Failed);
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_no_answer_to_a_deletion() {
        for (said, expected) in [
            ("", true),
            (r#"{"id":"cntr_1","object":"container.deleted","deleted":true}"#, true),
            ("{}", true),
            (r#"{"id":"cntr_1","deleted":false}"#, false),
            ("<html>busy</html>", false),
            ("null", false),
        ] {
            assert_eq!(says_deleted(said.as_bytes()), expected, "{said}");
        }
    }

    #[test]
    fn a_job_is_asked_for_after_pauses_that_double_from_a_second_to_a_minute() {
        let pauses: Vec<u64> = (0..9).map(|polls| pause_after(polls).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(pause_after(u32::MAX), PAUSE_MAX);
    }
}

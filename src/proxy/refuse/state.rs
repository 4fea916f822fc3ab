//! Refusals because of the state that the guard or a conversation is in.

use http::{HeaderMap, StatusCode};

use super::denied::grouped;
use super::{Answer, Refusal, client, retry, server};
use crate::guard::jobs::{JOBS_OF_KEY_MAX, TooManyJobs};

impl From<TooManyJobs> for Refusal {
    fn from(refused: TooManyJobs) -> Self {
        match refused {
            TooManyJobs::OfKey => Self::TooManyJobs,
            TooManyJobs::InAll => Self::Overloaded,
        }
    }
}

pub(super) fn conversation_changed() -> Answer {
    let message =
        "Another process is currently operating on this conversation. Please retry in a few seconds.";
    let mut answer = client(StatusCode::CONFLICT, Some("conversation_locked"), None, message.to_owned());
    retry(&mut answer.headers, true, Some(1));
    answer
}

pub(super) fn unwritable() -> Answer {
    let message = "The spend ledger can't be written right now, so no request is let through.";
    unavailable("ledger_unavailable", message)
}

pub(super) fn unavailable(code: &'static str, message: &str) -> Answer {
    let mut answer = server(StatusCode::SERVICE_UNAVAILABLE, code, message);
    retry(&mut answer.headers, true, Some(1));
    answer
}

pub(super) fn too_slow() -> Answer {
    let message = "The request body did not arrive in time.".to_owned();
    client(StatusCode::REQUEST_TIMEOUT, None, None, message)
}

pub(super) fn busy() -> Answer {
    let message = "Too many questions of this kind are being answered. Please try again in 1s.".to_owned();
    let mut answer = too_many(message);
    retry(&mut answer.headers, true, Some(1));
    answer
}

/// Its jobs end in hours or not at all, so that a retry is of no use.
pub(super) fn too_many_jobs() -> Answer {
    let message = format!(
        "This key has {} background responses, batches, containers and vector stores that have not ended, which is \
         the most that a key may have. Delete some, or wait until some have ended.",
        grouped(JOBS_OF_KEY_MAX)
    );
    let mut answer = too_many(message);
    retry(&mut answer.headers, false, None);
    answer
}

fn too_many(message: String) -> Answer {
    let (status, headers) = (StatusCode::TOO_MANY_REQUESTS, HeaderMap::new());
    Answer { status, message, kind: "requests", param: None, code: Some("rate_limit_exceeded"), headers }
}

//! Checks the framing of a request, and reads its body.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Version, header};
use http_body::Body as _;
use hyper::body::Incoming;

use crate::guard::Guard;
use crate::proxy::auth::Caller;
use crate::proxy::body::{self, Bounds, ReadError};
use crate::proxy::cors::Preflight;
use crate::proxy::refuse::{Edge, Refusal};
use crate::proxy::unpack::{self, Coding, Unpacked};
use crate::proxy::{Rules, route};

/// Whether another server might see another end of a request's body: then nothing may
/// follow on its connection. hyper ends those that have a length beside chunks.
pub fn is_framed_oddly(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    codings.next().is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
        || codings.next().is_some()
}

/// Refuses a request that upstream might read differently.
pub fn well_formed(head: &http::request::Parts) -> Result<(), Refusal> {
    let wrong = |message: &str| Err(Refusal::Invalid(message.to_owned(), None));
    let h1 = head.version <= Version::HTTP_11;
    if h1 && head.uri.authority().is_some() {
        return wrong("The request target must be a path, not a whole URL.");
    }
    if is_framed_oddly(&head.headers) {
        return wrong("Transfer-Encoding must be chunked, and nothing else.");
    }
    Coding::of(&head.headers)?;
    if Preflight::of(&head.method, &head.headers).is_some() {
        return Err(Refusal::Edge(Edge::OriginNotAllowed));
    }
    if head.headers.get_all(header::AUTHORIZATION).iter().count() > 1 {
        return wrong("More than one Authorization header was sent.");
    }
    Ok(())
}

/// Reads a body within its bounds, unpacked.
pub async fn read(
    guard: &Guard,
    incoming: Incoming,
    head: &http::request::Parts,
    rules: &Rules,
    caller: &Caller,
) -> Result<Bytes, Refusal> {
    let no_body = || Refusal::Invalid(format!("A {} request has no body here.", head.method), None);
    let is_bodyless = route::is_bodyless(&head.method);
    if is_bodyless && incoming.size_hint().lower() > 0 {
        body::discard_unless_awaited(&head.headers, incoming).await;
        return Err(no_body());
    }
    let max = rules.request_body_bytes_max;
    let key = allowance(caller);
    let read = body::read(incoming, Bounds::request(max, rules.request_idle, Arc::clone(&key))).await;
    let body = read.map_err(|error| unread(&error, Refusal::TooLarge(max)))?;
    if is_bodyless && !body.is_empty() {
        return Err(no_body());
    }
    let Some(coding) = Coding::of(&head.headers)?.filter(|_| !body.is_empty()) else { return Ok(body) };
    unpack::unpacked(guard, body, coding, max, key).await.map_err(|error| match error {
        Unpacked::TooLarge => Refusal::TooLarge(max),
        Unpacked::NoRoom => Refusal::NoRoom,
        Unpacked::TooDense => {
            let message =
                "The request body is too many times larger than its compressed form. Send it as it is.";
            Refusal::Invalid(message.to_owned(), None)
        }
        Unpacked::Broken => {
            let message = "The request body is not what its Content-Encoding says, or its end is missing.";
            Refusal::Invalid(message.to_owned(), None)
        }
    })
}

/// The key whose allowance of memory a body takes. A client can make up any number of keys: all
/// unknown ones share one allowance.
pub fn allowance(caller: &Caller) -> Arc<str> {
    caller.unseen.as_ref().map_or_else(|| Arc::clone(&caller.key.id), |_| "".into())
}

/// Why a body could not be read, and the refusal of one that is too large.
pub fn unread(error: &ReadError, too_large: Refusal) -> Refusal {
    match error {
        ReadError::TooLarge => too_large,
        ReadError::NoRoom => Refusal::NoRoom,
        ReadError::TooSlow => Refusal::TooSlow,
        ReadError::Broken(_) => Refusal::Invalid("The request body broke off.".to_owned(), None),
    }
}

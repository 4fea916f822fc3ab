//! Requests as they are sent upstream.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, Uri, header};

use crate::protocol::openai::endpoint;
use crate::proxy::auth::Caller;
use crate::proxy::in_flight::InFlight;
use crate::proxy::{Rules, headers};
use crate::upstream::{AnswerBody, SendError, Upstream};

/// A request as it is sent upstream.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// The method.
    pub(super) method: Method,
    /// Path and query, without the base.
    pub(super) suffix: String,
    /// The headers, already made upstream's.
    pub(super) headers: HeaderMap,
    /// The body, already rewritten.
    pub(super) body: Bytes,
}

/// The content type of a body that is sent upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// The client's.
    AsItCame,
    /// JSON: a metered body that was read as JSON is sent as JSON.
    Json,
}

impl Outgoing {
    /// Sends it.
    pub(super) fn send(
        self,
        upstream: &Upstream,
    ) -> impl Future<Output = Result<Response<AnswerBody>, SendError>> {
        let Self { method, suffix, headers, body } = self;
        upstream.send(method, &suffix, headers, body)
    }
}

/// Makes the request that is sent upstream.
pub(super) fn outgoing(
    rules: &Rules,
    head: http::request::Parts,
    body: Bytes,
    caller: &Caller,
    content: Content,
    in_flight: &InFlight,
) -> Outgoing {
    let suffix = suffix(&head.uri);
    let mut headers = head.headers;
    let sender = headers::Sender {
        authorization: &caller.authorization,
        secret: caller.secret.expose(),
        own_account: !caller.key.pass_through,
        more: &rules.forwarded,
    };
    headers::to_upstream(&mut headers, &sender);
    if let Some(trace) = &in_flight.trace {
        trace.put_on(&mut headers);
    }
    if content == Content::Json {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    Outgoing { method: head.method, suffix, headers, body }
}

fn suffix(uri: &Uri) -> String {
    let path = endpoint::canonical(uri.path());
    uri.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"))
}

//! Selects the headers that are forwarded, in both directions.

use std::collections::BTreeMap;
use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use memchr::memmem;

use crate::domain::{Money, tag};
use crate::keys;
use crate::proxy::refuse::Refusal;

const OWN_PREFIX: &str = "x-spendguard-";
const MAX_COST: &str = "x-spendguard-max-cost-usd";
/// The header of the guard's own that has a request's tags.
pub(super) const TAGS: &str = "x-spendguard-tags";
const COST: &str = "x-spendguard-cost";
const BETA: HeaderName = HeaderName::from_static("openai-beta");
const TAGS_MAX: usize = 8;

/// Headers that are about one connection (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The headers of a client for the guard itself.
#[derive(Debug, Default)]
pub struct GuardHeaders {
    /// The most the request may cost.
    pub max_cost: Option<Money>,
    /// Tags to count it under.
    pub tags: BTreeMap<String, String>,
    /// Whether the last usage of a stream gets its cost.
    pub cost: bool,
}

/// Reads the headers that are for the guard.
pub fn guard_headers(headers: &HeaderMap) -> Result<GuardHeaders, Refusal> {
    let wrong = |message: &str| Refusal::Invalid(message.to_owned(), None);
    let mut guard_headers = GuardHeaders::default();
    if let Some(value) = headers.get(MAX_COST) {
        let amount = value.to_str().ok().and_then(|text| text.trim().parse::<Money>().ok());
        let amount = amount.filter(|amount| *amount >= Money::ZERO);
        guard_headers.max_cost = Some(
            amount
                .ok_or_else(|| wrong("x-spendguard-max-cost-usd must be a decimal amount such as 0.05."))?,
        );
    }
    if let Some(value) = headers.get(TAGS) {
        let tags = value.to_str().ok().and_then(tags);
        guard_headers.tags = tags.ok_or_else(|| {
            wrong("x-spendguard-tags must be up to 8 name=value pairs of up to 64 characters, as in team=search.")
        })?;
    }
    guard_headers.cost = match headers.get(COST).map(HeaderValue::as_bytes) {
        Some(b"true") => true,
        Some(b"false") | None => false,
        Some(_) => return Err(wrong("x-spendguard-cost must be true or false.")),
    };
    Ok(guard_headers)
}

fn tags(text: &str) -> Option<BTreeMap<String, String>> {
    let mut tags = BTreeMap::new();
    for pair in text.split(',').filter(|pair| !pair.trim().is_empty()) {
        let (name, value) = pair.split_once('=')?;
        let (name, value) = (name.trim(), value.trim());
        let fits = |part: &str| !part.is_empty() && part.len() <= tag::BYTES_MAX;
        if !fits(name) || !fits(value) || tags.insert(name.to_owned(), value.to_owned()).is_some() {
            return None;
        }
    }
    (tags.len() <= TAGS_MAX).then_some(tags)
}

/// A header that the operator forwards beside those of OpenAI's API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// The name in lower case, or what it begins with.
    pub name: Box<str>,
    /// Whether `name` is only what it begins with.
    pub is_prefix: bool,
}

impl Forwarded {
    fn matches(&self, name: &str) -> bool {
        let is_named = if self.is_prefix { name.starts_with(&*self.name) } else { name == &*self.name };
        is_named && !is_reserved(name)
    }
}

impl fmt::Display for Forwarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.name, if self.is_prefix { "*" } else { "" })
    }
}

/// Names that can't be forwarded: they are about one connection, or the guard
/// writes them itself.
pub fn is_reserved(name: &str) -> bool {
    let is_hop_by_hop = HOP_BY_HOP.iter().any(|hop| hop.as_str() == name);
    is_hop_by_hop
        || matches!(name, "accept-encoding" | "authorization" | "content-encoding" | "content-length")
        || matches!(name, "cookie" | "expect" | "host" | "sec-websocket-protocol")
        || name.starts_with(OWN_PREFIX)
}

/// The sender of a request to upstream.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    /// The authorization that upstream gets.
    pub authorization: &'a HeaderValue,
    /// The key that the client presented.
    pub secret: &'a str,
    /// Whether upstream is called with the guard's key: then the client may not choose
    /// the organization or project that pays.
    pub own_account: bool,
    /// Headers that the operator forwards in addition to those of OpenAI's API.
    pub more: &'a [Forwarded],
}

/// Turns a client's headers into those that upstream gets: of the client's, only
/// those on the list, and none that holds a key.
pub fn to_upstream(headers: &mut HeaderMap, sender: &Sender<'_>) {
    let named = connection_named(headers);
    let Sender { authorization, secret, own_account, more } = *sender;
    drop_each(headers, |name, value| {
        let passes = match name.as_str() {
            "openai-organization" | "openai-project" => !own_account,
            text => is_openais(text) || more.iter().any(|header| header.matches(text)),
        };
        !passes || named.contains(name) || holds_key(value.as_bytes(), secret)
    });
    if !more.iter().any(|header| header.matches(BETA.as_str())) {
        keep_known_betas(headers);
    }
    headers.insert(header::AUTHORIZATION, authorization.clone());
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
}

/// Keeps the known values of `openai-beta`. Another value may make a request cost
/// something that its body does not show.
fn keep_known_betas(headers: &mut HeaderMap) {
    let values =
        || headers.get_all(BETA).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    if values().all(|value| is_known_beta(value.trim_ascii())) {
        return;
    }
    let known = values().map(<[u8]>::trim_ascii).filter(|value| is_known_beta(value));
    let kept = HeaderValue::from_bytes(&known.collect::<Vec<_>>().join(&b","[..]));
    headers.remove(BETA);
    if let Some(kept) = kept.ok().filter(|kept| !kept.is_empty()) {
        headers.insert(BETA, kept);
    }
}

/// Whether a value of `openai-beta` is sent by OpenAI's packages or coding agents, and
/// what it lets a request do is known: the body's `multi_agent` is read, and the others
/// are about paths that have rules of their own, or about how a request is sent.
fn is_known_beta(value: &[u8]) -> bool {
    let name = value.split(|byte| *byte == b'=').next().unwrap_or_default();
    matches!(name, b"assistants" | b"agents" | b"chatkit_beta" | b"realtime" | b"responses_websockets")
        || matches!(value, b"responses=experimental" | b"responses=v1" | b"responses_multi_agent=v1")
}

/// Whether OpenAI's API takes a header, or its official packages and coding agents
/// send it. Any other header is dropped: a network in front may have added it, or a
/// client may have put a key in it.
fn is_openais(name: &str) -> bool {
    // A match on byte strings compiles to a decision tree, without comparing each in turn.
    matches!(
        name.as_bytes(),
        b"accept" | b"content-type" | b"user-agent" | b"idempotency-key" | b"x-client-request-id"
        // Tracing, as W3C has it.
        | b"traceparent" | b"tracestate"
        // Sent by `fetch` of Node.
        | b"accept-language" | b"sec-fetch-mode"
        // Codex.
        | b"originator" | b"version" | b"session_id" | b"session-id" | b"thread_id" | b"thread-id"
        | b"conversation_id" | b"conversation-id" | b"x-responsesapi-include-timing-metrics"
        // `openai-`, `x-openai-`, `x-stainless-`, `x-codex-`.
        | [b'o', b'p', b'e', b'n', b'a', b'i', b'-', ..]
        | [b'x', b'-', b'o', b'p', b'e', b'n', b'a', b'i', b'-', ..]
        | [b'x', b'-', b's', b't', b'a', b'i', b'n', b'l', b'e', b's', b's', b'-', ..]
        | [b'x', b'-', b'c', b'o', b'd', b'e', b'x', b'-', ..]
    )
}

/// Whether a value holds the caller's key, or any virtual key.
pub fn holds_key(value: &[u8], secret: &str) -> bool {
    let holds = |needle: &[u8]| value.len() >= needle.len() && memmem::find(value, needle).is_some();
    holds(secret.as_bytes()) || holds(keys::PREFIX.as_bytes())
}

/// What a request came to, and what the tightest dollar limit leaves.
pub type Amounts = (Money, Option<Money>);

/// Adds the headers that say what a request came to.
pub fn add_amounts(headers: &mut HeaderMap, (cost, remaining): Amounts) {
    let named = [("x-spendguard-cost-usd", Some(cost)), ("x-spendguard-remaining-usd", remaining)];
    let value = |amount: Option<Money>| HeaderValue::try_from(amount?.to_string()).ok();
    headers.extend(
        named.into_iter().filter_map(|(name, amount)| Some((HeaderName::from_static(name), value(amount)?))),
    );
}

/// Turns upstream's headers into those that the client gets.
pub fn to_client(headers: &mut HeaderMap) {
    let named = connection_named(headers);
    drop_each(headers, |name, _| {
        let text = name.as_str();
        HOP_BY_HOP.contains(name)
            || matches!(text, "set-cookie" | "alt-svc" | "openai-organization" | "openai-project")
            // `server.cors_origins` decides which pages may read an answer.
            || text.starts_with("access-control-")
            || text.starts_with(OWN_PREFIX)
            || named.contains(name)
    });
}

/// Removes the headers that a test picks.
fn drop_each(headers: &mut HeaderMap, is_dropped: impl Fn(&HeaderName, &HeaderValue) -> bool) {
    let dropped = headers.iter().filter(|(name, value)| is_dropped(name, value));
    for name in dropped.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
        headers.remove(name);
    }
}

/// Whether a body is of a media type, whatever its parameters.
pub fn has_type(headers: &HeaderMap, name: &[u8]) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    kind.get(..name.len()).is_some_and(|kind| kind.eq_ignore_ascii_case(name))
}

/// Whether a body is compressed, so that its content can't be read.
pub fn is_encoded(headers: &HeaderMap) -> bool {
    let encodings = headers.get_all(header::CONTENT_ENCODING);
    encodings.iter().any(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// Headers that `Connection` names, which are about this connection too.
fn connection_named(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        // The usual value, and the name of no header that goes on.
        .filter(|name| !name.eq_ignore_ascii_case("keep-alive"))
        .filter_map(|name| name.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests;

//! Which headers go on, in both directions, and which stay behind.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::domain::Money;
use crate::proxy::refuse::Refusal;

const OWN_PREFIX: &str = "x-spendguard-";
const MAX_COST: &str = "x-spendguard-max-cost-usd";
const TAGS: &str = "x-spendguard-tags";
const TAGS_MAX: usize = 8;
const TAG_BYTES_MAX: usize = 64;

const ORGANIZATION: HeaderName = HeaderName::from_static("openai-organization");
const PROJECT: HeaderName = HeaderName::from_static("openai-project");

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

/// What a client says to the guard itself.
#[derive(Debug, Default)]
pub struct Wishes {
    /// The most the request may cost.
    pub max_cost: Option<Money>,
    /// Tags to count it under.
    pub tags: BTreeMap<String, String>,
}

/// Reads the headers that are for the guard.
pub fn wishes(headers: &HeaderMap) -> Result<Wishes, Refusal> {
    let wrong = |message: &str| Refusal::Invalid(message.to_owned(), None);
    let mut wishes = Wishes::default();
    if let Some(value) = headers.get(MAX_COST) {
        let amount = value.to_str().ok().and_then(|text| text.trim().parse::<Money>().ok());
        let amount = amount.filter(|amount| *amount >= Money::ZERO);
        wishes.max_cost = Some(
            amount
                .ok_or_else(|| wrong("x-spendguard-max-cost-usd must be a decimal amount such as 0.05."))?,
        );
    }
    if let Some(value) = headers.get(TAGS) {
        let tags = value.to_str().ok().and_then(tags);
        wishes.tags = tags.ok_or_else(|| {
            wrong("x-spendguard-tags must be up to 8 name=value pairs of up to 64 characters, as in team=search.")
        })?;
    }
    Ok(wishes)
}

fn tags(text: &str) -> Option<BTreeMap<String, String>> {
    let mut tags = BTreeMap::new();
    for pair in text.split(',').filter(|pair| !pair.trim().is_empty()) {
        let (name, value) = pair.split_once('=')?;
        let (name, value) = (name.trim(), value.trim());
        let fits = |part: &str| !part.is_empty() && part.len() <= TAG_BYTES_MAX;
        if !fits(name) || !fits(value) || tags.insert(name.to_owned(), value.to_owned()).is_some() {
            return None;
        }
    }
    (tags.len() <= TAGS_MAX).then_some(tags)
}

/// Turns a client's headers into those that upstream gets.
///
/// `own_account` says that upstream is called with the guard's key: then the
/// client may not choose the organization or project that pays.
pub fn to_upstream(headers: &mut HeaderMap, authorization: HeaderValue, own_account: bool) {
    drop_hop_by_hop(headers);
    for name in
        [header::HOST, header::CONTENT_LENGTH, header::COOKIE, header::EXPECT, header::SEC_WEBSOCKET_PROTOCOL]
    {
        headers.remove(name);
    }
    if own_account {
        headers.remove(ORGANIZATION);
        headers.remove(PROJECT);
    }
    drop_own(headers);
    headers.insert(header::AUTHORIZATION, authorization);
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
}

/// Turns upstream's headers into those that the client gets.
pub fn to_client(headers: &mut HeaderMap) {
    drop_hop_by_hop(headers);
    for name in [header::SET_COOKIE, header::ALT_SVC, ORGANIZATION, PROJECT] {
        headers.remove(name);
    }
    drop_own(headers);
}

/// Whether a body is compressed, so that what it says can't be seen.
pub fn is_encoded(headers: &HeaderMap) -> bool {
    let encodings = headers.get_all(header::CONTENT_ENCODING);
    encodings.iter().any(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

fn drop_own(headers: &mut HeaderMap) {
    let own = |name: &&HeaderName| name.as_str().starts_with(OWN_PREFIX);
    while let Some(name) = headers.keys().find(own).cloned() {
        headers.remove(name);
    }
}

fn drop_hop_by_hop(headers: &mut HeaderMap) {
    // What `Connection` names is about this connection too.
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| -> (HeaderName, HeaderValue) {
            (name.parse().unwrap(), value.parse().unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn upstream_never_sees_what_is_the_guards_or_the_connections() {
        let mut headers = map(&[
            ("authorization", "Bearer sk-guard-virtual"),
            ("cookie", "a=b"),
            ("x-spendguard-tags", "a=b"),
            ("x-spendguard-max-cost-usd", "1"),
            ("connection", "keep-alive, x-hop"),
            ("x-hop", "1"),
            ("openai-organization", "org-theirs"),
            ("accept-encoding", "gzip"),
            ("openai-beta", "assistants=v2"),
        ]);
        to_upstream(&mut headers, HeaderValue::from_static("Bearer up"), true);
        let expected = map(&[
            ("authorization", "Bearer up"),
            ("accept-encoding", "identity"),
            ("openai-beta", "assistants=v2"),
        ]);
        assert_eq!(headers, expected);
    }

    #[test]
    fn wishes_are_read_or_refused() {
        let read = wishes(&map(&[(TAGS, "team=search, feature=chat"), (MAX_COST, "0.05")])).unwrap();
        assert_eq!(read.max_cost, Some(Money::from_nano(50_000_000)));
        assert_eq!(read.tags.get("feature").map(String::as_str), Some("chat"));
        for bad in ["team", "=x", "a=b,a=c", "a=1,b=1,c=1,d=1,e=1,f=1,g=1,h=1,i=1"] {
            assert!(wishes(&map(&[(TAGS, bad)])).is_err(), "{bad}");
        }
        assert!(wishes(&map(&[(MAX_COST, "-1")])).is_err());
    }
}

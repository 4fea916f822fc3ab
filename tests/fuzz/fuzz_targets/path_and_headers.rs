//! Any method, path and headers: what is forwarded is what was classified, and
//! nothing of the guard's own gets through in either direction.
//!
//! An input is the head of a request: `METHOD PATH`, then `name: value` lines.

#![no_main]

use std::sync::{Arc, LazyLock};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use libfuzzer_sys::fuzz_target;
use spendguard::directory::Directory;
use spendguard::domain::Money;
use spendguard::protocol::openai::endpoint::{canonical, classify};
use spendguard::proxy::refuse::Refusal;
use spendguard::proxy::{auth, headers};
use spendguard::startup::{self, Config};
use spendguard::store::{Durability, Store};

/// The key that upstream gets for the guard's own.
const UPSTREAM: HeaderValue = HeaderValue::from_static("Bearer sk-upstream-of-the-guard");

/// Headers that neither side may see of the other.
const NEVER_UPSTREAM: [HeaderName; 9] = [
    header::HOST,
    header::COOKIE,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::CONNECTION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::SEC_WEBSOCKET_PROTOCOL,
];

static DIRECTORY: LazyLock<Arc<Directory>> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("there is room for a database");
    let store = Store::open(folder.path(), Durability::Process).expect("a new database opens");
    let config = Config { open_requests_max: 8, zone: "UTC".into() };
    let (opened, _writer) = startup::open(store, &config, Arc::default(), Arc::default()).expect("it opens");
    opened.directory
});

/// A path as the laxest server would take it: escapes decoded, slashes merged,
/// dots resolved (RFC 3986, section 6.2.2).
fn lax(path: &str) -> String {
    let mut decoded = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let escaped = hex.filter(|_| *byte == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok());
        decoded.push(escaped.unwrap_or(if *byte == b'\\' { b'/' } else { *byte }));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    let decoded = String::from_utf8_lossy(&decoded).into_owned();
    let mut segments: Vec<&str> = Vec::new();
    for segment in decoded.split('/').map(|segment| segment.split([';', '?', '#']).next().unwrap_or_default())
    {
        match segment.trim() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            plain => segments.push(plain),
        }
    }
    format!("/{}", segments.join("/"))
}

/// A path that is let through can't be taken for another one.
fn is_one_path(method: &Method, path: &str) {
    let Some(endpoint) = classify(method, path) else { return };
    let forwarded = canonical(path);
    assert_eq!(classify(method, forwarded), Some(endpoint), "what is forwarded is what was classified");
    assert_eq!(canonical(forwarded), forwarded, "and stays it");
    assert_eq!(lax(forwarded), forwarded, "no server takes it for another path");
    let sent: Uri = format!("https://api.openai.com/v1{forwarded}").parse().expect("it can be sent");
    assert_eq!(sent.path(), format!("/v1{forwarded}"));
    assert_eq!(sent.query(), None);
}

/// Method and path of the first line, and the headers of the others.
fn head(input: &[u8]) -> Option<(Method, Uri, HeaderMap)> {
    let mut lines = input.split(|byte| *byte == b'\n');
    let first = lines.next()?;
    let space = first.iter().position(|byte| *byte == b' ')?;
    let method = Method::from_bytes(&first[..space]).ok()?;
    let uri = Uri::try_from(&first[space + 1..]).ok()?;
    let mut headers = HeaderMap::new();
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        headers.append(name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?);
    }
    Some((method, uri, headers))
}

fn wishes_are_bounded(of: &HeaderMap) {
    let Ok(wishes) = headers::guard_headers(of) else { return };
    assert!(wishes.max_cost.is_none_or(|most| most >= Money::ZERO));
    assert!(wishes.tags.len() <= 8);
    let parts = wishes.tags.iter().flat_map(|(name, value)| [name, value]);
    parts.for_each(|part| assert!((1..=64).contains(&part.len()), "{part:?}"));
}

/// A caller is somebody's key, and a refusal does not show one.
fn callers_are_known(of: &HeaderMap, pass_through: bool) {
    let shown = match auth::caller(of, &DIRECTORY, Some(&UPSTREAM), pass_through) {
        Ok(caller) => {
            assert!(pass_through && caller.key.pass_through, "no key of the guard's exists");
            assert_ne!(caller.authorization, UPSTREAM, "a client's own key is sent, not the guard's");
            assert!(caller.authorization.is_sensitive());
            caller.unseen.expect("it is not on the ring")
        }
        Err(Refusal::BadKey(masked)) => masked,
        Err(Refusal::NoKey) => return,
        Err(other) => panic!("{other:?}"),
    };
    assert!(shown.chars().count() <= 24 && !shown.contains(char::is_control), "{shown:?}");
}

/// What goes upstream and what comes back holds nothing of the other side.
fn nothing_leaks(of: &HeaderMap, own_account: bool) {
    let own = |headers: &HeaderMap| headers.keys().any(|key| key.as_str().starts_with("x-spendguard-"));
    let mut sent = of.clone();
    let sender = headers::Sender {
        authorization: &UPSTREAM,
        secret: "sk-guard-of-the-client",
        own_account,
        more: &[],
    };
    headers::to_upstream(&mut sent, &sender);
    let holds_key = |value: &HeaderValue| headers::holds_key(value.as_bytes(), sender.secret);
    assert!(!sent.values().any(holds_key));
    assert!(!own(&sent));
    assert!(NEVER_UPSTREAM.iter().all(|name| !sent.contains_key(name)));
    let account = ["openai-organization", "openai-project"];
    assert!(!own_account || account.iter().all(|name| !sent.contains_key(*name)));
    assert_eq!(sent.get_all(header::AUTHORIZATION).iter().collect::<Vec<_>>(), [&UPSTREAM]);
    assert_eq!(sent.get_all(header::ACCEPT_ENCODING).iter().collect::<Vec<_>>(), ["identity"]);
    let mut answered = of.clone();
    headers::to_client(&mut answered);
    assert!(!own(&answered));
    for name in account.into_iter().chain(["set-cookie", "connection", "transfer-encoding", "alt-svc"]) {
        assert!(!answered.contains_key(name), "{name} is passed on");
    }
}

fuzz_target!(|input: &[u8]| {
    if let Some((method, path)) = std::str::from_utf8(input).ok().and_then(|text| text.split_once(' ')) {
        if let Ok(method) = method.parse() {
            is_one_path(&method, path);
        }
    }
    let Some((method, uri, headers)) = head(input) else { return };
    is_one_path(&method, uri.path());
    wishes_are_bounded(&headers);
    for yes in [true, false] {
        callers_are_known(&headers, yes);
        nothing_leaks(&headers, yes);
    }
});

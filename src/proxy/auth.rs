//! Authentication: the key of a request, and the authorization that is sent upstream for it.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, HeaderValue, header};

use crate::directory::Directory;
use crate::domain::Secret;
use crate::keys::{DEFAULT_PROJECT, Key, KeyHash, ModelRule, is_mistyped};
use crate::protocol::openai::endpoint::Endpoint;
use crate::protocol::openai::operation::SocketForm;
use crate::proxy::client_secret::{self, SecretSession};
use crate::proxy::refuse::Refusal;

/// The header in which Azure's clients and many others send their key.
const KEY_HEADERS: [&str; 2] = ["api-key", "x-api-key"];
/// Browsers can't set headers on a WebSocket, so SDKs send the key here.
const SUBPROTOCOL: &str = "openai-insecure-api-key.";
/// The bounds of a secret that an operator chose.
const SECRET_BYTES_MIN: usize = 8;
const SECRET_BYTES_MAX: usize = 512;

/// A caller with a valid key.
#[derive(Debug)]
pub struct Caller {
    /// The key.
    pub key: Arc<Key>,
    /// Its secret as it was presented; no header or query may carry it on.
    pub secret: Secret,
    /// The authorization that upstream gets.
    pub authorization: HeaderValue,
    /// A client's own key that is not on the ring yet: its listed form.
    pub unseen: Option<String>,
    /// The models that its project may use.
    pub model_rule: Option<ModelRule>,
    /// The version of the rules by which it was found.
    pub rules_version: i64,
    /// The only session that it may open, if it came with a client secret.
    pub session: Option<SecretSession>,
}

/// Finds the caller of a request, or returns why there is none.
///
/// Without an upstream key of the guard's own, only pass-through keys can work.
pub fn caller(
    headers: &HeaderMap,
    directory: &Directory,
    upstream_key: Option<&HeaderValue>,
    pass_through: bool,
) -> Result<Caller, Refusal> {
    // Read first: what is read after it is of this version or a later one.
    let rules_version = directory.rules_version();
    let secret = presented(headers).ok_or(Refusal::NoKey)?;
    let text = secret.expose();
    if text.starts_with(client_secret::PREFIX) {
        return of_client_secret(&secret, directory, upstream_key, rules_version);
    }
    if !is_well_formed(text) {
        return Err(Refusal::BadKey(masked(&secret)));
    }
    let hash = KeyHash::of(text.as_bytes());
    let now_ms = directory.clock().now_ms();
    let bad = || {
        if directory.is_of_admin(&hash) { Refusal::AdminToken } else { Refusal::BadKey(masked(&secret)) }
    };
    let (key, unseen) = match directory.ring().find(&hash) {
        Some(key) => (key, None),
        None if pass_through && !text.starts_with(crate::keys::PREFIX) && !directory.is_of_admin(&hash) => {
            (Arc::new(unseen_key(hash, &secret)), Some(secret.redacted()))
        }
        None => return Err(bad()),
    };
    let active = directory.ring().project(&key.project).is_none_or(|project| project.archived_s.is_none());
    // A key that was taken for a client's own before it became an admin token.
    if key.pass_through && directory.is_of_admin(&hash) {
        return Err(Refusal::AdminToken);
    }
    if !active || !key.is_valid(&hash, now_ms.div_euclid(1_000)) {
        return Err(bad());
    }
    key.note_use(now_ms);
    let authorization = if key.pass_through {
        let mut own = HeaderValue::from_str(&format!("Bearer {text}")).map_err(|_| bad())?;
        own.set_sensitive(true);
        own
    } else {
        upstream_key.cloned().ok_or_else(bad)?
    };
    let model_rule = directory.ring().model_rule(&key.project);
    Ok(Caller { key, secret, authorization, unseen, model_rule, rules_version, session: None })
}

/// The caller with a client secret, which acts for the key that it was made with.
fn of_client_secret(
    secret: &Secret,
    directory: &Directory,
    upstream_key: Option<&HeaderValue>,
    rules_version: i64,
) -> Result<Caller, Refusal> {
    let now_ms = directory.clock().now_ms();
    let opened = upstream_key.and_then(|upstream_key| {
        let find = |id: &str| directory.ring().by_id(id).filter(|key| !key.pass_through);
        let (key, session) =
            client_secret::opened(secret.expose(), upstream_key, find, now_ms.div_euclid(1_000))?;
        Some((key, session, upstream_key.clone()))
    });
    let (key, session, authorization) = opened.ok_or_else(|| Refusal::BadKey(masked(secret)))?;
    if directory.ring().project(&key.project).is_some_and(|project| project.archived_s.is_some()) {
        return Err(Refusal::BadKey(masked(secret)));
    }
    key.note_use(now_ms);
    let model_rule = directory.ring().model_rule(&key.project);
    let secret = Secret::new(secret.expose());
    Ok(Caller { key, secret, authorization, unseen: None, model_rule, rules_version, session: Some(session) })
}

impl Caller {
    /// Whether it may make a request at that time: a client secret opens sessions, while it is valid.
    pub fn may_request(&self, endpoint: Endpoint, now_s: i64) -> Result<(), Refusal> {
        let Some(session) = &self.session else { return Ok(()) };
        let is_session = matches!(endpoint, Endpoint::Socket(_, SocketForm::Realtime(_)));
        if is_session && now_s < session.expires_s {
            return Ok(());
        }
        Err(Refusal::BadKey(masked(&self.secret)))
    }
}

/// Whether a text may be a key: a chosen secret has any form, one that the guard made has a
/// checksum.
fn is_well_formed(text: &str) -> bool {
    // A header may hold tabs; a list of keys may not.
    let is_plain = !text.is_empty() && !text.contains(char::is_control);
    is_plain && text.len() <= SECRET_BYTES_MAX && !is_mistyped(text)
}

/// Whether a request that was refused for its key carries one that another guard may have made
/// or changed a moment ago.
pub fn may_be_newer(headers: &HeaderMap) -> bool {
    presented(headers).is_some_and(|secret| {
        let text = secret.expose();
        let may_be_key = text.len() >= SECRET_BYTES_MIN && is_well_formed(text);
        may_be_key || text.starts_with(client_secret::PREFIX)
    })
}

/// The key that a request carries. `Authorization` goes before the other places,
/// unless it holds no key.
fn presented(headers: &HeaderMap) -> Option<Secret> {
    if let Some(secret) = headers.get(header::AUTHORIZATION).and_then(authorized) {
        return Some(secret);
    }
    let named = KEY_HEADERS.iter().find_map(|name| headers.get(*name));
    if let Some(key) = named.and_then(|value| std::str::from_utf8(value.as_bytes()).ok()) {
        return Some(Secret::new(key.trim()));
    }
    let protocols = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let mut protocols = protocols.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    protocols.find_map(|protocol| protocol.trim().strip_prefix(SUBPROTOCOL)).map(Secret::new)
}

/// The key in a value of `Authorization`: a bearer token, or a password.
fn authorized(value: &HeaderValue) -> Option<Secret> {
    let (scheme, rest) = std::str::from_utf8(value.as_bytes()).ok()?.trim().split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(Secret::new(rest));
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let decoded = String::from_utf8(BASE64_STANDARD.decode(rest).ok()?).ok()?;
        return decoded.split_once(':').map(|(_, password)| Secret::new(password));
    }
    None
}

fn unseen_key(hash: KeyHash, secret: &Secret) -> Key {
    let redacted: Arc<str> = secret.redacted().into();
    Key {
        id: hash.pass_through_id().into(),
        name: Arc::clone(&redacted),
        project: DEFAULT_PROJECT.into(),
        redacted,
        models: Vec::new(),
        pass_through: true,
        created_s: 0,
        expires_s: None,
        revoked_s: None,
        hash,
        old: None,
        last_used_ms: AtomicI64::new(0),
    }
}

/// A key as OpenAI shows a wrong one: both ends, the rest starred.
fn masked(secret: &Secret) -> String {
    let chars: Vec<char> = secret.expose().chars().filter(|c| !c.is_control()).collect();
    if chars.len() < 12 {
        return "****".to_owned();
    }
    let (head, tail) = (&chars[..5], &chars[chars.len() - 4..]);
    format!("{}***********{}", head.iter().collect::<String>(), tail.iter().collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: header::HeaderName, value: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(value).unwrap());
        presented(&headers).map(|secret| secret.expose().to_owned())
    }

    #[test]
    fn a_key_is_found_wherever_clients_put_it() {
        let key = Some("sk-guard-1".to_owned());
        assert_eq!(with(header::AUTHORIZATION, "Bearer sk-guard-1"), key);
        assert_eq!(with(header::AUTHORIZATION, "bearer  sk-guard-1 "), key);
        assert_eq!(with(header::AUTHORIZATION, "Basic dXNlcjpzay1ndWFyZC0x"), key);
        assert_eq!(with(header::SEC_WEBSOCKET_PROTOCOL, "realtime, openai-insecure-api-key.sk-guard-1"), key);
        assert_eq!(with(header::AUTHORIZATION, "Digest x"), None);
        for name in KEY_HEADERS {
            assert_eq!(with(name.parse().unwrap(), "sk-guard-1"), key);
        }
        let spaced = Some("My API Key".to_owned());
        assert_eq!(with(header::AUTHORIZATION, "Bearer My API Key"), spaced);
        assert_eq!(with("api-key".parse().unwrap(), " My API Key "), spaced);
        // `:My API Key`.
        assert_eq!(with(header::AUTHORIZATION, "Basic Ok15IEFQSSBLZXk="), spaced);
    }

    #[test]
    fn a_key_with_control_characters_is_no_key() {
        use crate::startup;
        use crate::store::{Durability, Store};
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), Durability::Process).unwrap();
        let config = startup::Config { open_requests_max: 1, zone: "UTC".into() };
        let (opened, _writer) = startup::open(store, &config, Arc::default(), Arc::default()).unwrap();
        let listed = |key: &str| {
            let value = HeaderValue::from_str(&format!("Bearer {key}")).unwrap();
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
            caller(&headers, &opened.directory, None, true).ok().and_then(|caller| caller.unseen)
        };
        assert_eq!(listed("sk-proj-abcdefgh").as_deref(), Some("sk-proj-…efgh"));
        assert_eq!(listed("sk-proj-abcde\t\th"), None);
    }

    #[test]
    fn a_wrong_key_is_shown_masked() {
        assert_eq!(masked(&Secret::new("sk-abcdefghijklmnopqrstuvwxyz")), "sk-ab***********wxyz");
        assert_eq!(masked(&Secret::new("hunter2")), "****");
    }
}

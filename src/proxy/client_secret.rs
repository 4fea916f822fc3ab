//! Client secrets of realtime sessions: made by the guard, for sockets of the guard's own.
//!
//! A secret contains what it stands for, with a code that only guards with the same upstream key can
//! make. So it is stored nowhere, works on every guard, and ends with its key.

use std::borrow::Cow;
use std::io::{Read as _, Write as _};
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::HeaderValue;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::Sha256;

use crate::domain::Secret;
use crate::keys::{Key, KeyHash};
use crate::protocol::openai::realtime::BoundSession;

/// What a client secret starts with.
pub(super) const PREFIX: &str = "ek_guard_";
/// The largest content of a secret, unpacked, and the longest secret, in bytes.
const CONTENT_BYTES_MAX: u64 = 64 << 10;
const SECRET_BYTES_MAX: usize = 64 << 10;
/// The purpose of the codes, which no other code of the upstream key has.
const PURPOSE: &[u8] = b"spendguard: client secrets of realtime sessions, 1";

/// A session that a client secret opens.
#[derive(Debug)]
pub struct SecretSession {
    /// Until when the secret opens it, in Unix seconds.
    pub expires_s: i64,
    /// What it is bound to.
    pub session: BoundSession,
}

#[derive(Serialize, Deserialize)]
struct Content<'a> {
    key: Cow<'a, str>,
    expires_s: i64,
    #[serde(borrow)]
    session: Cow<'a, RawValue>,
}

/// Makes a secret of a key.
pub(super) fn sealed(
    key: &Key,
    expires_s: i64,
    session: &BoundSession,
    upstream_key: &HeaderValue,
) -> Option<Secret> {
    let session = RawValue::from_string(session.json()).ok()?;
    let content = Content { key: Cow::Borrowed(&key.id), expires_s, session: Cow::Owned(session) };
    let mut packed = DeflateEncoder::new(Vec::new(), Compression::best());
    packed.write_all(&serde_json::to_vec(&content).ok()?).ok()?;
    let packed = packed.finish().ok()?;
    let code = coded(&packed, &key.hash, upstream_key)?.finalize().into_bytes();
    let base64 = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    Some(Secret::new(format!("{PREFIX}{}.{}", base64(&packed), base64(&code))))
}

/// Opens a secret; `None` if it is none of a key that is there.
pub(super) fn opened(
    secret: &str,
    upstream_key: &HeaderValue,
    find: impl FnOnce(&str) -> Option<Arc<Key>>,
    now_s: i64,
) -> Option<(Arc<Key>, SecretSession)> {
    let (packed, code) = secret.strip_prefix(PREFIX)?.split_once('.')?;
    if packed.len() > SECRET_BYTES_MAX {
        return None;
    }
    let packed = BASE64_URL_SAFE_NO_PAD.decode(packed).ok()?;
    let code = BASE64_URL_SAFE_NO_PAD.decode(code).ok()?;
    let mut content = Vec::new();
    DeflateDecoder::new(&packed[..]).take(CONTENT_BYTES_MAX).read_to_end(&mut content).ok()?;
    let content: Content<'_> = serde_json::from_slice(&content).ok()?;
    let key = find(&content.key)?;
    let hashes = [Some(key.hash), key.old.map(|(hash, _)| hash)];
    let is_of = |hash: &KeyHash| {
        key.is_valid(hash, now_s)
            && coded(&packed, hash, upstream_key).is_some_and(|own| own.verify_slice(&code).is_ok())
    };
    if !hashes.iter().flatten().any(is_of) {
        return None;
    }
    let session = BoundSession::of(serde_json::from_str(content.session.get()).ok()?).ok()?;
    Some((key, SecretSession { expires_s: content.expires_s, session }))
}

/// The code of a content, which is bound to the secret of its key: a rotated key has others.
fn coded(packed: &[u8], key: &KeyHash, upstream_key: &HeaderValue) -> Option<Hmac<Sha256>> {
    let mut purpose = Hmac::<Sha256>::new_from_slice(upstream_key.as_bytes()).ok()?;
    purpose.update(PURPOSE);
    let mut code = Hmac::<Sha256>::new_from_slice(&purpose.finalize().into_bytes()).ok()?;
    code.update(&key.0);
    code.update(packed);
    Some(code)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicI64;

    use super::*;

    fn key(hash: KeyHash) -> Key {
        Key {
            id: "key_1".into(),
            name: "web".into(),
            project: "default".into(),
            redacted: "sk-…".into(),
            models: Vec::new(),
            pass_through: false,
            created_s: 0,
            expires_s: None,
            revoked_s: None,
            hash,
            old: None,
            last_used_ms: AtomicI64::new(0),
        }
    }

    fn session() -> BoundSession {
        let fields =
            serde_json::json!({ "type": "realtime", "model": "gpt-realtime", "instructions": "To be" });
        BoundSession::of(fields.as_object().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_secret_opens_its_session_for_its_key_and_the_upstream_key_it_was_made_with() {
        let (hash, other) = (KeyHash::of(b"a"), KeyHash::of(b"b"));
        let upstream_key = HeaderValue::from_static("Bearer sk-1");
        let secret = sealed(&key(hash), 700, &session(), &upstream_key).unwrap();
        let open = |secret: &str, key: Key, upstream: &HeaderValue| {
            let find = |id: &str| (id == "key_1").then(|| Arc::new(key));
            opened(secret, upstream, find, 100)
                .map(|(key, of)| (key.id.to_string(), of.expires_s, of.session))
        };
        let expected = Some(("key_1".to_owned(), 700, session()));
        assert_eq!(open(secret.expose(), key(hash), &upstream_key), expected);
        let rotated = Key { old: Some((hash, 200)), ..key(other) };
        assert_eq!(open(secret.expose(), rotated, &upstream_key), expected, "within its grace");
        for refused in [
            Key { old: Some((hash, 50)), ..key(other) },
            Key { revoked_s: Some(90), ..key(hash) },
            Key { expires_s: Some(90), ..key(hash) },
            key(other),
        ] {
            assert_eq!(open(secret.expose(), refused, &upstream_key), None);
        }
        assert_eq!(open(secret.expose(), key(hash), &HeaderValue::from_static("Bearer sk-2")), None);
        let mut changed = secret.expose().to_owned();
        for at in PREFIX.len()..changed.len() {
            let was = changed.remove(at);
            changed.insert(at, if was == 'A' { 'B' } else { 'A' });
            // The last bits of base64 may say nothing.
            let opened = open(&changed, key(hash), &upstream_key);
            assert!(opened.is_none(), "{at}");
            changed.remove(at);
            changed.insert(at, was);
        }
        for garbage in ["", "ek_guard_", "ek_guard_.", "ek_guard_AA.AA", "sk-guard-1", "ek_1"] {
            assert_eq!(open(garbage, key(hash), &upstream_key), None);
        }
    }

    #[test]
    fn a_secret_that_unpacks_to_gigabytes_is_cut_off() {
        let mut packed = DeflateEncoder::new(Vec::new(), Compression::best());
        packed.write_all(&vec![b' '; 10 << 20]).unwrap();
        let packed = BASE64_URL_SAFE_NO_PAD.encode(packed.finish().unwrap());
        let upstream_key = HeaderValue::from_static("Bearer sk-1");
        assert!(opened(&format!("{PREFIX}{packed}.AA"), &upstream_key, |_| None, 0).is_none());
    }
}

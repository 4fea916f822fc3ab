//! Log-in: sessions in memory, bounded, and log-in attempts, paced.
//!
//! Only hashes of the cookies' values are kept. A restart signs all operators out.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use axum::http::{HeaderMap, HeaderValue, header};

use crate::domain::Secret;
use crate::keys::{self, KeyHash};
use crate::sync::unpoisoned;

/// The cookie with a session's value.
pub(super) const SESSION: &str = "spendguard_session";
/// The cookie that ties a log-in form to the browser that was given it.
pub(super) const FORM: &str = "spendguard_form";
/// A working day; after that, the operator has to sign in again.
const LIFE_MS: i64 = 12 * 3_600_000;
/// Beyond, the oldest is signed out.
const SESSIONS_MAX: usize = 200;
/// So many wrong tokens a minute, from any address; then log-in waits.
const FAILURES_MAX: usize = 10;
const FAILURES_WITHIN_MS: i64 = 60_000;
/// A new secret that is not fetched is dropped.
const SHOWN_WITHIN_MS: i64 = 600_000;

/// Sessions by the hash of their cookie's value.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    /// A lock of the standard library: held for a few map operations, never across an await.
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    open: HashMap<KeyHash, Session>,
    /// When log-in failed, in Unix milliseconds, oldest first.
    failures: VecDeque<i64>,
}

/// An open session.
#[derive(Clone, Debug)]
pub(super) struct OpenSession {
    pub(super) id: KeyHash,
    /// The hash of the token that opened it.
    pub(super) token: KeyHash,
    /// The token that each of its forms carries.
    pub(super) csrf: Arc<str>,
}

#[derive(Debug)]
struct Session {
    /// The hash of the token that opened it.
    token: KeyHash,
    csrf: Arc<str>,
    began_ms: i64,
    /// The secret of a key just made: the key's id, the secret, and when.
    made: Option<(Arc<str>, Secret, i64)>,
}

impl Sessions {
    /// Opens a session for a token; returns the value of its cookie.
    pub(super) fn open(&self, token: KeyHash, now_ms: i64) -> Result<String, getrandom::Error> {
        let value = keys::new_id("")?;
        let csrf = keys::new_id("")?.into();
        let mut inner = self.lock();
        inner.open.retain(|_, session| session.is_open(now_ms));
        if inner.open.len() >= SESSIONS_MAX {
            let oldest = inner.open.iter().min_by_key(|(_, session)| session.began_ms).map(|(id, _)| *id);
            oldest.and_then(|id| inner.open.remove(&id));
        }
        let session = Session { token, csrf, began_ms: now_ms, made: None };
        inner.open.insert(KeyHash::of(value.as_bytes()), session);
        Ok(value)
    }

    /// The session of a cookie's value, if it is still open.
    pub(super) fn find(&self, value: &str, now_ms: i64) -> Option<OpenSession> {
        let id = KeyHash::of(value.as_bytes());
        let inner = self.lock();
        let session = inner.open.get(&id).filter(|session| session.is_open(now_ms))?;
        Some(OpenSession { id, token: session.token, csrf: Arc::clone(&session.csrf) })
    }

    /// Ends a session.
    pub(super) fn close(&self, id: &KeyHash) {
        self.lock().open.remove(id);
    }

    /// Keeps a new key's secret until the next page shows it.
    pub(super) fn keep(&self, id: &KeyHash, key: Arc<str>, secret: Secret, now_ms: i64) {
        if let Some(session) = self.lock().open.get_mut(id) {
            session.made = Some((key, secret, now_ms));
        }
    }

    /// Takes the secret of a new key, once.
    pub(super) fn take(&self, id: &KeyHash, key: &str, now_ms: i64) -> Option<Secret> {
        let made = self.lock().open.get_mut(id)?.made.take()?;
        let (made_key, secret, at_ms) = made;
        (*made_key == *key && now_ms.saturating_sub(at_ms) < SHOWN_WITHIN_MS).then_some(secret)
    }

    /// For how many seconds log-in is barred.
    pub(super) fn barred_s(&self, now_ms: i64) -> Option<i64> {
        let mut inner = self.lock();
        let since_ms = now_ms.saturating_sub(FAILURES_WITHIN_MS);
        while inner.failures.front().is_some_and(|at_ms| *at_ms <= since_ms) {
            inner.failures.pop_front();
        }
        let oldest = inner.failures.front().filter(|_| inner.failures.len() >= FAILURES_MAX)?;
        Some(oldest.saturating_sub(since_ms).saturating_add(999).div_euclid(1_000).max(1))
    }

    /// Notes a log-in with a wrong token.
    pub(super) fn failed(&self, now_ms: i64) {
        let mut inner = self.lock();
        if inner.failures.len() >= FAILURES_MAX {
            inner.failures.pop_front();
        }
        inner.failures.push_back(now_ms);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        unpoisoned(self.inner.lock())
    }
}

impl Session {
    fn is_open(&self, now_ms: i64) -> bool {
        now_ms.saturating_sub(self.began_ms) < LIFE_MS
    }
}

/// Whether two secrets are equal, compared in constant time.
pub(super) fn same(given: &[u8], expected: &[u8]) -> bool {
    KeyHash::of(given).is(&KeyHash::of(expected))
}

/// The value of a cookie.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(known, _)| *known == name).map(|(_, value)| value)
}

/// The value of the session's cookie.
pub(super) fn presented(headers: &HeaderMap) -> Option<String> {
    cookie(headers, SESSION).map(str::to_owned)
}

/// The header value that sets a cookie for this site only, unreadable by scripts.
pub(super) fn set_cookie(name: &str, value: &str, life_s: i64, secure: bool) -> Option<HeaderValue> {
    let secure = if secure { "; Secure" } else { "" };
    let line = format!("{name}={value}; Path=/; Max-Age={life_s}; HttpOnly; SameSite=Strict{secure}");
    HeaderValue::from_str(&line).ok()
}

/// The life of a session in seconds, for its cookie.
pub(super) const fn life_s() -> i64 {
    LIFE_MS / 1_000
}

/// A field of a form as it was sent; only for values that need no decoding.
pub(super) fn form_field<'a>(body: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut pairs = body.split(|byte| *byte == b'&');
    pairs.find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_after_its_life_and_the_oldest_makes_room() {
        let sessions = Sessions::default();
        let token = KeyHash::of(b"token");
        let first = sessions.open(token, 0).unwrap();
        assert!(sessions.find(&first, LIFE_MS - 1).is_some());
        assert!(sessions.find(&first, LIFE_MS).is_none());
        let mut last = String::new();
        for at_ms in 1..=i64::try_from(SESSIONS_MAX).unwrap() {
            last = sessions.open(token, at_ms).unwrap();
        }
        assert!(sessions.find(&first, 300).is_none(), "the oldest made room");
        assert!(sessions.find(&last, 300).is_some());
        assert_eq!(sessions.lock().open.len(), SESSIONS_MAX);
    }

    #[test]
    fn a_new_secret_is_shown_once_and_not_late() {
        let sessions = Sessions::default();
        let value = sessions.open(KeyHash::of(b"token"), 0).unwrap();
        let id = sessions.find(&value, 0).unwrap().id;
        let keep = || sessions.keep(&id, "key_1".into(), Secret::new("sk-guard-x"), 0);
        keep();
        assert!(sessions.take(&id, "key_1", 1).is_some());
        assert!(sessions.take(&id, "key_1", 1).is_none(), "once");
        keep();
        assert!(sessions.take(&id, "key_1", SHOWN_WITHIN_MS).is_none(), "not late");
        keep();
        assert!(sessions.take(&id, "key_2", 1).is_none(), "not another's");
    }

    #[test]
    fn ten_wrong_tokens_bar_log_in_for_the_rest_of_their_minute() {
        let sessions = Sessions::default();
        for at_ms in 0..10 {
            assert_eq!(sessions.barred_s(at_ms), None);
            sessions.failed(at_ms);
        }
        assert_eq!(sessions.barred_s(10), Some(60));
        assert_eq!(sessions.barred_s(59_999), Some(1));
        assert_eq!(sessions.barred_s(60_000), None);
    }
}

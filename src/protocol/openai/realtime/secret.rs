//! Requests for a client secret, which opens sessions with certain settings for a short time.
//! (`ClientSecretCreateParams` of OpenAI's SDKs.)

use serde_json::{Map, Value, json};

use crate::protocol::openai::realtime::client::{Update, invalid};
use crate::protocol::openai::realtime::settings::Settings;
use crate::protocol::openai::request::{self, Invalid};

/// How long a secret is valid, in seconds, unless it is asked for otherwise; and the bounds of that.
const SECONDS: i64 = 600;
const SECONDS_MIN: i64 = 10;
const SECONDS_MAX: i64 = 7_200;
/// The largest session that a secret is bound to, as JSON, in bytes.
pub(super) const SESSION_BYTES_MAX: usize = 32 << 10;

/// A request for a client secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRequest {
    /// How long the secret is to be valid, in seconds.
    pub seconds: i64,
    /// The session that it is bound to.
    pub session: BoundSession,
}

/// The session that a secret is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundSession(Map<String, Value>);

impl SecretRequest {
    /// Reads the body of `POST /realtime/client_secrets`.
    pub fn read(body: &[u8]) -> Result<Self, Invalid> {
        let body = if body.is_empty() { b"{}" } else { body };
        let mut fields: Map<String, Value> = request::fields(request::text(body)?)?;
        let expires = fields.get("expires_after").filter(|expires| !expires.is_null());
        let seconds = expires.and_then(|expires| expires.get("seconds"));
        let seconds = seconds.map_or(Some(SECONDS), Value::as_i64);
        let seconds = seconds.filter(|seconds| (SECONDS_MIN..=SECONDS_MAX).contains(seconds));
        let seconds = seconds.ok_or_else(|| {
            invalid("'expires_after.seconds' is a whole number from 10 to 7200.", Some("expires_after"))
        })?;
        let session = match fields.remove("session") {
            Some(Value::Object(session)) => BoundSession::of(session)?,
            _ => {
                return Err(invalid(
                    "'session' is an object with the 'type' and the model.",
                    Some("session"),
                ));
            }
        };
        Ok(Self { seconds, session })
    }
}

impl BoundSession {
    /// A session by its fields.
    pub fn of(session: Map<String, Value>) -> Result<Self, Invalid> {
        let update = Map::from_iter([("session".to_owned(), Value::Object(session.clone()))]);
        Update::read(update)?;
        let session = Self(session);
        if session.json().len() > SESSION_BYTES_MAX {
            let message = "The session of a client secret has at most 32 KiB. Send longer instructions with session.update.";
            return Err(invalid(message, Some("session")));
        }
        let has_model = session.model().is_some_and(|model| !model.is_empty());
        match session.kind() {
            Some("realtime") if has_model => Ok(session),
            Some("transcription") if session.model().is_none() => Ok(session),
            _ => {
                let message = "A session has the 'type' realtime and a 'model', or the 'type' transcription.";
                Err(invalid(message, Some("session")))
            }
        }
    }

    fn kind(&self) -> Option<&str> {
        self.0.get("type")?.as_str()
    }

    /// The model that answers.
    pub fn model(&self) -> Option<&str> {
        self.0.get("model")?.as_str()
    }

    /// The model that writes down what is said.
    pub fn transcription_model(&self) -> Option<String> {
        let settings = Settings::of(None).with(&Value::Object(self.0.clone()));
        settings.transcription.map(|transcription| transcription.model)
    }

    /// The query with which the session is opened; `encoded` writes a text into it.
    pub fn query(&self, encoded: impl Fn(&str) -> String) -> String {
        self.model().map_or("intent=transcription".to_owned(), |model| format!("model={}", encoded(model)))
    }

    /// The message that gives a session these settings.
    pub fn update(&self) -> Update {
        Update::own(&Value::Object(self.0.clone()))
    }

    /// It as JSON.
    pub fn json(&self) -> String {
        Value::Object(self.0.clone()).to_string()
    }

    /// The answer to a request for a secret: the secret, until when it is valid, and the session.
    pub fn answer(&self, secret: &str, expires_s: i64, id: &str) -> Value {
        let mut session = self.0.clone();
        let kind = self.kind().unwrap_or_default();
        session.insert("object".to_owned(), json!(format!("realtime.{}session", prefix(kind))));
        session.insert("id".to_owned(), json!(id));
        json!({ "value": secret, "expires_at": expires_s, "session": session })
    }
}

fn prefix(kind: &str) -> &'static str {
    if kind == "transcription" { "transcription_" } else { "" }
}

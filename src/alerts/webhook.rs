//! Webhooks, signed as <https://www.standardwebhooks.com> says, version 1.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use jiff::Timestamp;
use serde_json::json;
use sha2::Sha256;

use crate::alerts::Message;
use crate::domain::Secret;
use crate::upstream::{self, Upstream};

/// How secrets of Standard Webhooks begin; what follows is Base64.
const SECRET_PREFIX: &str = "whsec_";

/// A receiver of webhooks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Its URL.
    pub url: Uri,
    /// The secret that signs requests: `whsec_` and Base64.
    pub secret: Secret,
}

#[derive(Debug)]
pub(super) struct Webhook {
    pub(super) to: Post,
    key: Secret,
}

impl Webhook {
    pub(super) fn new(config: &Config, roots: &Arc<rustls::ClientConfig>) -> Result<Self, String> {
        let webhook = Self { to: Post::new(&config.url, roots), key: config.secret.clone() };
        webhook.mac().map(|_| webhook)
    }

    fn mac(&self) -> Result<Hmac<Sha256>, String> {
        let encoded = self.key.expose().strip_prefix(SECRET_PREFIX);
        let key = encoded.and_then(|encoded| STANDARD.decode(encoded).ok()).filter(|key| !key.is_empty());
        let key = key.ok_or_else(|| format!("its secret must be {SECRET_PREFIX} and Base64"))?;
        Hmac::new_from_slice(&key).map_err(|error| error.to_string())
    }

    fn signature(&self, id: &str, now_s: i64, body: &str) -> Result<String, String> {
        let mut mac = self.mac()?;
        mac.update(format!("{id}.{now_s}.{body}").as_bytes());
        Ok(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
    }

    pub(super) async fn send(&self, message: &Message, now_s: i64) -> Result<(), String> {
        let at = Timestamp::from_millisecond(message.at_ms).map_err(|error| error.to_string())?;
        let body = json!({ "type": message.kind, "timestamp": at.to_string(), "data": message.data });
        let body = body.to_string();
        // Receivers refuse old signatures, so each attempt is signed with its own time.
        let (now_s, signature) = (now_s.to_string(), self.signature(&message.id, now_s, &body)?);
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("webhook-id", &message.id), ("webhook-timestamp", &now_s), ("webhook-signature", &signature)]
        {
            headers.insert(name, HeaderValue::from_str(value).map_err(|error| error.to_string())?);
        }
        self.to.json(headers, body).await
    }
}

/// A URL that accepts JSON.
#[derive(Debug)]
pub(super) struct Post {
    to: Upstream,
    /// Path and query, as configured.
    path: String,
    pub(super) host: String,
}

impl Post {
    pub(super) fn new(url: &Uri, roots: &Arc<rustls::ClientConfig>) -> Self {
        // The URL as it is written: joining it with a base URL would change its path.
        let path = url.path_and_query().map_or("/", PathAndQuery::as_str).to_owned();
        let mut origin = url.clone().into_parts();
        origin.path_and_query = Some(PathAndQuery::from_static("/"));
        let config = upstream::Config {
            base_url: Uri::from_parts(origin).unwrap_or_else(|_| url.clone()),
            connect_timeout: super::SEND_MAX,
            response_timeout: super::SEND_MAX,
        };
        let host = url.host().unwrap_or_default().to_owned();
        Self { to: Upstream::new(&config, roots), path, host }
    }

    /// Posts a body. A 2xx answer is success.
    pub(super) async fn json(&self, mut headers: HeaderMap, body: String) -> Result<(), String> {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static("spendguard"));
        let sent = self.to.send(Method::POST, &self.path, headers, Bytes::from(body)).await;
        let status: StatusCode = sent.map_err(|error| error.to_string())?.status();
        if status.is_success() { Ok(()) } else { Err(format!("it answered {status}")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook(secret: &str) -> Result<Webhook, String> {
        let config = Config { url: Uri::from_static("http://127.0.0.1/hook"), secret: Secret::new(secret) };
        Webhook::new(&config, &upstream::roots())
    }

    /// The example that the specification's own libraries are tested with.
    #[test]
    fn a_signature_is_the_one_of_standard_webhooks() {
        let webhook = webhook("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = r#"{"test": 2432232314}"#;
        let signature = webhook.signature("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signature.unwrap(), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_of_another_form_is_refused() {
        for secret in ["plain", "whsec_", "whsec_***"] {
            assert!(webhook(secret).is_err(), "{secret}");
        }
    }
}

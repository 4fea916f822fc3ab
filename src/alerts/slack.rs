//! Slack's incoming webhooks: <https://api.slack.com/messaging/webhooks>.

use std::sync::Arc;

use http::{HeaderMap, Uri};
use serde_json::json;

use crate::alerts::Message;
use crate::alerts::webhook::Post;
use crate::domain::Secret;

/// A channel of Slack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Its URL, which is a secret: it is the only credential.
    pub url: Secret,
}

#[derive(Debug)]
pub(super) struct Slack {
    pub(super) to: Post,
}

impl Slack {
    pub(super) fn new(config: &Config, roots: &Arc<rustls::ClientConfig>) -> Result<Self, String> {
        let url: Uri = config.url.expose().parse().map_err(|_| "its url is not valid".to_owned())?;
        let is_known = matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some();
        if is_known {
            Ok(Self { to: Post::new(&url, roots) })
        } else {
            Err("its url is not valid".to_owned())
        }
    }

    pub(super) async fn send(&self, message: &Message) -> Result<(), String> {
        let text = format!("*{}*\n{}", escaped(&message.subject), escaped(&message.text));
        self.to.json(HeaderMap::new(), json!({ "text": text }).to_string()).await
    }
}

/// Slack turns text in angle brackets into links and mentions.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

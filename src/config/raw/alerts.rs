//! Alerts as they are written in the file.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::raw::SecretSource;

/// The channels that alerts are sent through.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Alerts {
    /// The URL of the dashboard in messages. Default: that of the admin listener.
    pub link: Option<String>,
    /// Whether an alert is sent when a hard limit is likely to be reached.
    pub forecast: bool,
    /// E-mail.
    pub email: Option<Email>,
    /// Webhooks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub webhook: Vec<Webhook>,
    /// Slack channels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slack: Vec<Slack>,
}

/// E-mail by SMTP.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Email {
    /// `smtp://user@host:587` (STARTTLS) or `smtps://user@host:465`.
    pub smtp: String,
    /// The user's password.
    #[serde(default)]
    pub password: Option<SecretSource>,
    /// `required`, or `none` for a relay in a trusted network: e-mail is sent there unencrypted.
    #[serde(default = "required")]
    pub tls: String,
    /// The sender.
    pub from: String,
    /// The receivers.
    pub to: Vec<String>,
}

fn required() -> String {
    "required".into()
}

/// A webhook that alerts are posted to.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Its URL.
    pub url: String,
    /// The secret that signs requests: `whsec_` and Base64.
    pub secret: SecretSource,
}

/// A Slack channel.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Slack {
    /// Its incoming webhook.
    pub url: SecretSource,
}

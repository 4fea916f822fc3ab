//! Alerts as they are written in the file.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::raw::SecretSource;

/// Who is told when a limit is reached.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Alerts {
    /// The address of the dashboard in messages; the admin listener's if absent.
    pub link: Option<String>,
    /// Whether it is told that a hard limit is likely to be reached.
    pub forecast: bool,
    /// A mailbox.
    pub email: Option<Email>,
    /// Programs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub webhook: Vec<Webhook>,
    /// Channels of Slack.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slack: Vec<Slack>,
}

/// A mailbox that alerts go to.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Email {
    /// `smtp://user@host:587` (STARTTLS) or `smtps://user@host:465`.
    pub smtp: String,
    /// The user's password.
    #[serde(default)]
    pub password: Option<SecretSource>,
    /// `required`, or `none` for a relay in the own network: mail goes there in the clear.
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

/// A program that alerts are posted to.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Where it listens.
    pub url: String,
    /// What it knows the signature by: `whsec_` and Base64.
    pub secret: SecretSource,
}

/// A channel of Slack.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Slack {
    /// Its incoming webhook.
    pub url: SecretSource,
}

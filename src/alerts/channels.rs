//! The list of channels, and a test message through one of them.

use crate::alerts::{Channel, Message, Outbox, Transport};

/// A channel as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name, such as `webhook-1`.
    pub name: String,
    /// `email`, `webhook` or `slack`.
    pub kind: &'static str,
    /// Its e-mail addresses, or its host: the rest of a URL may be a secret.
    pub place: String,
}

impl Listed {
    fn of(channel: &Channel) -> Self {
        let place = match &channel.transport {
            Transport::Email(email) => email.to.to_string(),
            Transport::Webhook(webhook) => webhook.to.host.clone(),
            Transport::Slack(slack) => slack.to.host.clone(),
        };
        Self { name: channel.name.clone(), kind: channel.kind, place }
    }
}

impl Outbox {
    /// The configured channels.
    pub fn listed(&self) -> Vec<Listed> {
        self.channels.load().all.iter().map(|channel| Listed::of(channel)).collect()
    }

    /// Sends a test message through one channel, if there is one of that name.
    pub async fn test_one(&self, name: &str) -> Option<Result<(), String>> {
        let channels = self.channels.load_full();
        let channel = channels.all.iter().find(|channel| channel.name == name)?;
        let message = Message::test(&channels.branding, &self.opened.directory);
        Some(channel.test(&message, self.opened.guard.clock().now_s()).await)
    }
}

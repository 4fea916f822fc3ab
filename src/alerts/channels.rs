//! Which channels there are, and a test through one of them.

use crate::alerts::{Channel, Message, Outbox, Transport};

/// A channel as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name, as `webhook-1`.
    pub name: String,
    /// `email`, `webhook` or `slack`.
    pub kind: &'static str,
    /// Addresses, or a host: the rest of an address may be a secret.
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
    /// The channels that are configured.
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

//! Alerts: messages to operators, from an outbox through e-mail, webhooks and Slack.
//!
//! Pending messages are in the database with the state of each delivery, so that none
//! is lost with the process. A channel that fails is retried at growing intervals and
//! delays no other. After a crash between sending a message and recording that, the
//! message is sent again, under the same id.

mod channels;
mod email;
mod message;
mod slack;
mod webhook;

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::alerts::email::Email;
use crate::alerts::slack::Slack;
use crate::alerts::webhook::Webhook;
use crate::startup::Opened;
use crate::store::outbox::{self, Alert, Due, NEWS_MS, Outcome};
use crate::store::records::Channel as Mail;

pub use channels::Listed;
pub use email::{Config as EmailConfig, MailTls, is_address};
pub use message::{Branding, Message};
pub use slack::Config as SlackConfig;
pub use webhook::Config as WebhookConfig;

/// The time limit of one attempt.
const SEND_MAX: Duration = Duration::from_secs(30);
/// The number of deliveries read from the database at once.
const BATCH: usize = 50;
/// The wait before the second attempt; doubled for each that follows.
const AGAIN_AFTER_MS: i64 = 10_000;
const AGAIN_AFTER_MS_MAX: i64 = 3_600_000;
/// The wait before a database that can't be used is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest wait for work where other guards share the ledger: one that has died wakes no other.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// The longest single wait; a longer one is split.
const WAIT_MAX_MS: i64 = 60_000;

/// The channels that alerts are sent through, and the branding of their messages.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The mailbox of operators.
    pub email: Option<EmailConfig>,
    /// The receivers of webhooks.
    pub webhooks: Vec<WebhookConfig>,
    /// Slack's incoming webhooks.
    pub slacks: Vec<SlackConfig>,
    /// How messages name the guard.
    pub branding: Branding,
}

/// Why a channel can't be used as it is configured.
#[derive(Debug, thiserror::Error)]
#[error("{channel}: {problem}")]
pub struct ChannelError {
    channel: String,
    problem: String,
}

/// Why a message was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Unsent {
    /// A temporary failure; the delivery is tried again.
    Yet(String),
    /// This recipient is refused permanently.
    Refused(String),
}

impl Unsent {
    fn text(self) -> String {
        match self {
            Self::Yet(text) | Self::Refused(text) => text,
        }
    }
}

/// A way to reach operators.
#[derive(Debug)]
pub struct Channel {
    /// Its name, such as `webhook-1`: its kind and its position among channels of that kind.
    pub name: String,
    kind: &'static str,
    transport: Transport,
}

#[derive(Debug)]
enum Transport {
    Email(Email),
    Webhook(Webhook),
    Slack(Slack),
}

/// All channels, and the branding of their messages.
#[derive(Debug, Default)]
pub struct Channels {
    all: Vec<Arc<Channel>>,
    branding: Branding,
}

/// Delivers alerts.
pub struct Outbox {
    opened: Opened,
    channels: ArcSwap<Channels>,
    changed: Notify,
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("channels", &self.channels).finish_non_exhaustive()
    }
}

impl Channels {
    /// The channels of a configuration; `roots` are the trusted root certificates.
    pub fn of(config: &Config, roots: &Arc<rustls::ClientConfig>) -> Result<Self, ChannelError> {
        let mut all = Vec::new();
        let mut add = |kind: &'static str, name: String, transport: Result<Transport, String>| {
            let transport = transport.map_err(|problem| ChannelError { channel: name.clone(), problem })?;
            all.push(Arc::new(Channel { name, kind, transport }));
            Ok(())
        };
        if let Some(email) = &config.email {
            add(outbox::EMAIL, outbox::EMAIL.to_owned(), Email::new(email).map(Transport::Email))?;
        }
        for (at, webhook) in config.webhooks.iter().enumerate() {
            let transport = Webhook::new(webhook, roots).map(Transport::Webhook);
            add("webhook", format!("webhook-{}", at + 1), transport)?;
        }
        for (at, slack) in config.slacks.iter().enumerate() {
            let transport = Slack::new(slack, roots).map(Transport::Slack);
            add("slack", format!("slack-{}", at + 1), transport)?;
        }
        Ok(Self { all, branding: config.branding.clone() })
    }
}

impl Channel {
    /// Attempts one delivery within a bounded time. The present is `now_s`. `recipient` is the
    /// recipient of an e-mail, `mail` the e-mail settings of a spend alert.
    async fn send(
        &self,
        message: &Message,
        recipient: Option<&str>,
        mail: Option<&Mail>,
        now_s: i64,
    ) -> Result<(), Unsent> {
        let sending = async {
            match &self.transport {
                Transport::Email(email) => email.send(message, recipient, mail).await,
                Transport::Webhook(webhook) => webhook.send(message, now_s).await.map_err(Unsent::Yet),
                Transport::Slack(slack) => slack.send(message).await.map_err(Unsent::Yet),
            }
        };
        let late = |_| Err(Unsent::Yet(format!("no answer within {SEND_MAX:?}")));
        timeout(SEND_MAX, sending).await.unwrap_or_else(late)
    }

    /// Sends a test message to all configured recipients; the error names those that were not reached.
    async fn test(&self, message: &Message, now_s: i64) -> Result<(), String> {
        let Transport::Email(email) = &self.transport else {
            return self.send(message, None, None, now_s).await.map_err(Unsent::text);
        };
        let mut failed = Vec::new();
        for recipient in email.recipients() {
            if let Err(error) = self.send(message, Some(&recipient), None, now_s).await {
                failed.push(format!("{recipient}: {}", error.text()));
            }
        }
        if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
    }

    /// The names of its deliveries.
    fn deliveries(&self) -> Vec<String> {
        match &self.transport {
            Transport::Email(email) => {
                email.recipients().map(|recipient| outbox::email_to(&recipient)).collect()
            }
            Transport::Webhook(_) | Transport::Slack(_) => vec![self.name.clone()],
        }
    }
}

impl Outbox {
    /// An outbox of a ledger's alerts.
    pub fn new(opened: Opened, channels: Channels) -> Self {
        Self { opened, channels: ArcSwap::from_pointee(channels), changed: Notify::new() }
    }

    /// Replaces the channels.
    pub fn change(&self, channels: Channels) {
        self.channels.store(Arc::new(channels));
        self.changed.notify_one();
    }

    /// Whether e-mail is configured.
    pub fn has_email(&self) -> bool {
        self.channels.load().all.iter().any(|channel| channel.kind == outbox::EMAIL)
    }

    /// Sends a test message through each channel; returns their names and results.
    pub async fn test(&self) -> Vec<(String, Result<(), String>)> {
        let channels = self.channels.load_full();
        let clock = self.opened.guard.clock();
        let message = Message::test(&channels.branding, &self.opened.directory);
        let mut results = Vec::new();
        for channel in &channels.all {
            results.push((channel.name.clone(), channel.test(&message, clock.now_s()).await));
        }
        results
    }

    /// Delivers until it is stopped.
    pub async fn run(&self, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            let channels = self.channels.load_full();
            let (over, is_over) = watch::channel(false);
            let mut workers = JoinSet::new();
            let mut wakes = Vec::new();
            for channel in &channels.all {
                let wake = Arc::new(Notify::new());
                wakes.push(Arc::clone(&wake));
                let worker = Worker {
                    opened: self.opened.clone(),
                    channel: Arc::clone(channel),
                    branding: channels.branding.clone(),
                    wake,
                    over: is_over.clone(),
                };
                workers.spawn(worker.run());
            }
            self.route_until_changed(&channels, &wakes, &mut stop).await;
            // A delivery that has begun is completed and recorded before another task may send it.
            let _ = over.send(true);
            while workers.join_next().await.is_some() {}
        }
    }

    async fn route_until_changed(
        &self,
        channels: &Channels,
        wakes: &[Arc<Notify>],
        stop: &mut watch::Receiver<bool>,
    ) {
        let names: Vec<String> = channels.all.iter().flat_map(|channel| channel.deliveries()).collect();
        loop {
            let marked = self.opened.guard.core().news().crossed.notified();
            let (names, now_ms) = (names.clone(), self.opened.guard.clock().now_ms());
            let routed = self.opened.records.route_alerts(names, now_ms).await;
            for wake in wakes {
                wake.notify_one();
            }
            let again = match routed {
                Ok(at_ms) => at_ms.map(|at_ms| wait_until(at_ms, now_ms)),
                Err(_) => Some(PAUSE),
            };
            tokio::select! {
                () = marked => {}
                () = wait(again, &self.opened) => {}
                () = self.changed.notified() => return,
                _ = stop.changed() => return,
            }
        }
    }
}

/// How long to wait until an instant, at most `WAIT_MAX_MS`.
fn wait_until(at_ms: i64, now_ms: i64) -> Duration {
    let wait_ms = at_ms.saturating_sub(now_ms).clamp(0, WAIT_MAX_MS);
    Duration::from_millis(u64::try_from(wait_ms).unwrap_or(0))
}

/// Waits, for ever if there is nothing to wait for and no other guard's work to find.
async fn wait(longest: Option<Duration>, opened: &Opened) {
    match longest.or(opened.guard.core().is_shared().then_some(LOOK_AGAIN_AFTER)) {
        Some(longest) => sleep(longest).await,
        None => std::future::pending().await,
    }
}

/// Delivers through one channel.
struct Worker {
    opened: Opened,
    channel: Arc<Channel>,
    branding: Branding,
    wake: Arc<Notify>,
    over: watch::Receiver<bool>,
}

impl Worker {
    async fn run(mut self) {
        while !*self.over.borrow() {
            let again = match self.found().await {
                Ok((due, _)) if !due.is_empty() => self.deliver(due).await,
                Ok((_, next_ms)) => {
                    next_ms.map(|next_ms| wait_until(next_ms, self.opened.guard.clock().now_ms()))
                }
                Err(()) => Some(PAUSE),
            };
            tokio::select! {
                () = wait(again, &self.opened) => {}
                () = self.wake.notified() => {}
                _ = self.over.changed() => {}
            }
        }
    }

    /// The deliveries that are due, and the time of the next one.
    async fn found(&self) -> Result<(Vec<Due>, Option<i64>), ()> {
        let (name, now_ms) = (self.channel.name.clone(), self.opened.guard.clock().now_ms());
        let found = self.opened.reports.due_alerts(name, now_ms, AGAIN_AFTER_MS_MAX, BATCH);
        found
            .await
            .map_err(|error| tracing::warn!(event = "alerts_read_failed", %error, "alerts can't be read"))
    }

    /// Delivers one after the other, up to the first temporary failure, since the
    /// next one would fail too. Returns how long to wait.
    async fn deliver(&self, due: Vec<Due>) -> Option<Duration> {
        for due in due {
            if *self.over.borrow() {
                break;
            }
            let message = Message::of(&due.alert, &self.branding, &self.opened.directory);
            let (recipient, now_s) = (outbox::recipient(&due.channel), self.opened.guard.clock().now_s());
            let sent = self.channel.send(&message, recipient, due.mail.as_ref(), now_s).await;
            let goes_on = !matches!(sent, Err(Unsent::Yet(_)));
            let outcome = self.outcome(&due.alert, due.attempts, sent);
            self.note(&Arc::new(due), outcome).await;
            if !goes_on {
                return Some(PAUSE);
            }
        }
        Some(Duration::ZERO)
    }

    fn outcome(&self, alert: &Alert, attempts: u32, sent: Result<(), Unsent>) -> Outcome {
        let metrics = self.opened.guard.metrics();
        let (error, is_refused) = match sent {
            Ok(()) => {
                metrics.alerted(self.channel.kind, "sent");
                return Outcome::Sent;
            }
            Err(Unsent::Yet(error)) => (error, false),
            Err(Unsent::Refused(error)) => (error, true),
        };
        let now_ms = self.opened.guard.clock().now_ms();
        let doubled = AGAIN_AFTER_MS.saturating_mul(1 << attempts.min(16));
        if is_refused || now_ms.saturating_sub(alert.at_ms) >= NEWS_MS {
            metrics.alerted(self.channel.kind, "given_up");
            tracing::error!(event = "alert_given_up", channel = %self.channel.name, alert = alert.id, %error, "an alert could not be delivered and is given up");
            return Outcome::GivenUp(error);
        }
        metrics.alerted(self.channel.kind, "failed");
        tracing::warn!(event = "alert_delivery_failed", channel = %self.channel.name, alert = alert.id, %error, "an alert could not be delivered; it is tried again");
        Outcome::Again(now_ms.saturating_add(doubled.min(AGAIN_AFTER_MS_MAX)), error)
    }

    /// Records an outcome. Retries until it is written, so that a message that was
    /// sent is not sent again.
    async fn note(&self, due: &Arc<Due>, outcome: Outcome) {
        let noting = async {
            loop {
                let (due, now_ms) = (Arc::clone(due), self.opened.guard.clock().now_ms());
                let noted = self.opened.records.note_delivery(due, now_ms, outcome.clone()).await;
                let Err(error) = noted else { return };
                tracing::warn!(event = "alert_outcome_not_written", %error, "the outcome of a delivery can't be written yet; trying again");
                sleep(PAUSE).await;
            }
        };
        let mut over = self.over.clone();
        let mut noting = pin!(noting);
        tokio::select! {
            () = &mut noting => {}
            // At shutdown it gets one last bounded attempt. The returned value
            // keeps a lock, so it is dropped here.
            () = async { drop(over.wait_for(|over| *over).await) } => {
                let _ = timeout(PAUSE, noting).await;
            }
        }
    }
}

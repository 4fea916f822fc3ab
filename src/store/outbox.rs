//! Alerts and their deliveries, as plain structs.
//!
//! A crossing is routed once: each configured channel then gets a delivery, and of e-mail
//! each recipient. A delivery waits until it is sent or given up, across restarts. The
//! e-mails of a spend alert go to its own recipients, as they are then.

use crate::domain::limit::Unit;
use crate::ledger::entry::AlertKind;
use crate::store::records::Channel as Mail;

/// Messages of one kind that a limit sends by itself in an hour; further ones are combined.
pub const OWN_MESSAGES_MAX: u64 = 10;

/// A delivery that could not be made for this long, in milliseconds, is no news any more.
pub const NEWS_MS: i64 = 3 * 86_400_000;

/// A meter that has come to a mark, as it was then. Amounts are in `unit`, nano-dollars
/// for dollars. Of what version 1 wrote, the window and the cap are not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// The id of its line in the ledger.
    pub id: u64,
    /// What it has come to.
    pub mark: AlertKind,
    /// Name of the limit.
    pub limit: String,
    /// Whose meter.
    pub subject: String,
    /// The soft threshold, or the cap.
    pub threshold: i64,
    /// Where the window starts, in Unix seconds.
    pub window_start_s: i64,
    /// What was settled then.
    pub settled: i64,
    /// When, in Unix milliseconds.
    pub at_ms: i64,
    /// Where the window ends, in Unix seconds.
    pub window_end_s: i64,
    /// What the limit counts.
    pub unit: Unit,
    /// The name of its window.
    pub period: String,
    /// Its cap then.
    pub hard: Option<i64>,
    /// Crossings that its message tells of, this one included; 1 unless it is a digest.
    pub count: u64,
}

/// One channel's part in telling an alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The name of the channel.
    pub channel: String,
    /// Of e-mail, whom it is for; older releases had one delivery for all.
    pub recipient: Option<String>,
    /// `waiting`, `sent`, `given_up` or `dropped`.
    pub state: String,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was sent or is tried next, in Unix milliseconds.
    pub next_ms: i64,
    /// Why the last try failed.
    pub error: Option<String>,
    /// Whom it is for, if not those that its channel is configured for.
    pub mail: Option<Mail>,
}

/// What a channel has to deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The alert.
    pub alert: Alert,
    /// The channel as the delivery has it, with the recipient of an e-mail.
    pub channel: String,
    /// How often it was tried.
    pub attempts: u32,
    /// Whom it is for, if not those that the channel is configured for.
    pub mail: Option<Mail>,
    /// Until when no other guard sends it, in Unix milliseconds; `None` where there is no other.
    pub claimed_until_ms: Option<i64>,
}

/// What came of trying to deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was taken.
    Sent,
    /// It was not; it is tried again then, in Unix milliseconds.
    Again(i64, String),
    /// It was not, and never will be.
    GivenUp(String),
}

/// The channel that knows addresses.
pub const EMAIL: &str = "email";
/// The name that a recipient's delivery has.
pub fn email_to(recipient: &str) -> String {
    format!("{EMAIL}:{recipient}")
}

/// The recipient that a delivery names.
pub fn recipient(channel: &str) -> Option<&str> {
    channel.strip_prefix(EMAIL)?.strip_prefix(':')
}

/// Why recipients got no message.
pub const NO_EMAIL: &str = "[alerts.email] is not configured, so its recipients get no message";

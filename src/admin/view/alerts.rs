//! The shapes of alerts.

use serde::Serialize;
use utoipa::ToSchema;

use crate::store::outbox::{Alert, Delivery};

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Alert)]
pub(crate) struct AlertView {
    object: &'static str,
    pub(crate) id: String,
    /// `soft`, `hard`, `forecast`, `credit_low`, `credit_used_up`, `fuse_blown` or `kill_switch`.
    kind: &'static str,
    limit: String,
    subject: String,
    unit: &'static str,
    threshold: String,
    /// The amount settled at that time.
    settled: String,
    hard: Option<String>,
    /// The window in which it happened, as text.
    window: String,
    window_start: i64,
    resets_at: i64,
    created_at: i64,
    deliveries: Vec<DeliveryView>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Delivery)]
struct DeliveryView {
    channel: String,
    /// For e-mail, the recipient: each one has a delivery of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    recipients: Option<Vec<String>>,
    /// `waiting`, `sent`, `failed`, or `dropped` if its channel was removed.
    state: String,
    attempts: u32,
    sent_at: Option<i64>,
    next_attempt_at: Option<i64>,
    error: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChannelTest)]
pub(crate) struct TestView {
    channel: String,
    /// `sent` or `failed`.
    state: &'static str,
    /// The error.
    error: Option<String>,
}

impl AlertView {
    pub(crate) fn of(alert: &Alert, deliveries: &[Delivery]) -> Self {
        let unit = alert.unit;
        Self {
            object: "guard.alert",
            id: format!("alert_{}", alert.id),
            kind: alert.mark.name(),
            limit: alert.limit.clone(),
            subject: alert.subject.clone(),
            unit: unit.name(),
            threshold: unit.decimal(alert.threshold),
            settled: unit.decimal(alert.settled),
            hard: alert.hard.map(|hard| unit.decimal(hard)),
            window: alert.period.clone(),
            window_start: alert.window_start_s,
            resets_at: alert.window_end_s,
            created_at: alert.at_ms.div_euclid(1_000),
            deliveries: deliveries.iter().map(DeliveryView::of).collect(),
        }
    }
}

impl DeliveryView {
    fn of(delivery: &Delivery) -> Self {
        let at_s = delivery.next_ms.div_euclid(1_000);
        Self {
            channel: delivery.channel.clone(),
            recipients: match &delivery.recipient {
                Some(recipient) => Some(vec![recipient.clone()]),
                None => delivery.mail.as_ref().map(|mail| mail.recipients.clone()),
            },
            state: if delivery.state == "given_up" { "failed".to_owned() } else { delivery.state.clone() },
            attempts: delivery.attempts,
            sent_at: (delivery.state == "sent").then_some(at_s),
            next_attempt_at: (delivery.state == "waiting").then_some(at_s),
            error: delivery.error.clone(),
        }
    }
}

impl TestView {
    pub(crate) fn of(channel: String, sent: Result<(), String>) -> Self {
        Self { channel, state: if sent.is_ok() { "sent" } else { "failed" }, error: sent.err() }
    }
}

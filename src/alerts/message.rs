//! What is told: an alert in words, and as data for programs.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::directory::Directory;
use crate::keys::Ring;
use crate::ledger::entry::AlertKind;
use crate::store::outbox::Alert;

const HOUR_MS: i64 = 3_600_000;

/// How messages name the guard that sends them.
#[derive(Clone, Debug, Default)]
pub struct Branding {
    /// Where operators look.
    pub link: Arc<str>,
}

/// One message, the same through every channel.
#[derive(Clone, Debug)]
pub struct Message {
    /// The same however often it is sent.
    pub id: String,
    /// `limit.soft`, `limit.hard`, `limit.forecast`, `credit.low`, `credit.used_up` or
    /// `test`.
    pub kind: &'static str,
    /// When it happened, in Unix milliseconds.
    pub at_ms: i64,
    /// One line.
    pub subject: String,
    /// A few.
    pub text: String,
    /// For programs.
    pub data: Value,
}

/// The kind of an alert, and what happened: in one line, and in a few.
fn happened(alert: &Alert, whose: &str) -> (&'static str, String, String) {
    let Alert { limit, unit, .. } = alert;
    let (settled, threshold) = (unit.phrase(alert.settled), unit.phrase(alert.threshold));
    let balance = || unit.phrase(alert.hard.unwrap_or_default().saturating_sub(alert.settled));
    match alert.mark {
        AlertKind::Hard => (
            "limit.hard",
            format!("Limit {limit} refuses requests of {whose}"),
            format!(
                "The hard limit \"{limit}\" has no room left for {whose}: {settled} of {threshold} are settled, and \
                 requests are refused. Raise the limit to let them through again."
            ),
        ),
        AlertKind::Forecast => (
            "limit.forecast",
            format!("Limit {limit}: {whose} is likely to reach {threshold}"),
            format!(
                "If the days to come are as the last weeks were, {whose} will reach the hard limit \"{limit}\" of \
                 {threshold} before it resets, and requests will be refused then. {settled} are settled now."
            ),
        ),
        AlertKind::Soft => {
            let hard = alert.hard.map(|hard| format!(" The hard limit is {}.", unit.phrase(hard)));
            (
                "limit.soft",
                format!("Limit {limit}: {whose} has passed {threshold}"),
                format!(
                    "{whose} has settled {settled}, past the soft threshold of {threshold} of the limit \"{limit}\".{} \
                     Requests go on.",
                    hard.unwrap_or_default()
                ),
            )
        }
        AlertKind::CreditLow => (
            "credit.low",
            format!("Prepaid credit is low: {} left", balance()),
            format!(
                "Prepaid credit has {} left, less than {threshold}. Add credit before it is used up. {settled} were spent \
                 since the first grant.",
                balance()
            ),
        ),
        AlertKind::CreditUsedUp => (
            "credit.used_up",
            format!("Prepaid credit refuses requests: {} left", balance()),
            format!(
                "A request was refused, since it may cost more than the {} of prepaid credit that are left. {settled} \
                 were spent since the first grant.",
                balance()
            ),
        ),
    }
}

/// What many crossings have come to that are told together.
fn happened_often(alert: &Alert, whose: &str) -> (&'static str, String, String) {
    let Alert { limit, count, .. } = alert;
    let (kind, _, last) = happened(alert, whose);
    let what = match alert.mark {
        AlertKind::Soft => "soft thresholds were passed",
        AlertKind::Hard => "times a meter had no room left and requests were refused",
        AlertKind::Forecast => "meters became likely to reach the hard limit",
        AlertKind::CreditLow | AlertKind::CreditUsedUp => "marks of prepaid credit were come to",
    };
    let (from, to) = (alert.at_ms.div_euclid(HOUR_MS), alert.at_ms.div_euclid(HOUR_MS) + 1);
    let subject = format!("Limit {limit}: {count} more alerts in an hour");
    let text = format!(
        "From {} to {}, {count} more {what} under the limit \"{limit}\", beyond those that had messages of their own. \
         `spendguard alerts list` has them all. The last:\n{last}",
        instant(from * 3_600),
        instant(to * 3_600),
    );
    (kind, subject, text)
}

/// How long it lasts.
fn until(alert: &Alert) -> String {
    let is_credit = matches!(alert.mark, AlertKind::CreditLow | AlertKind::CreditUsedUp);
    match alert.period.as_str() {
        _ if is_credit => "It lasts until credit is added.".to_owned(),
        "total" => "It never resets.".to_owned(),
        period => format!("The window is a {period}; it resets at {}.", instant(alert.window_end_s)),
    }
}

impl Message {
    /// An alert in words.
    pub fn of(alert: &Alert, branding: &Branding, directory: &Directory) -> Self {
        let (unit, organization) = (alert.unit, directory.organization());
        let whose = whose(&alert.subject, directory.ring());
        let is_digest = alert.count > 1;
        let (kind, subject, happened) =
            if is_digest { happened_often(alert, &whose) } else { happened(alert, &whose) };
        let mut data = json!({
            "limit": alert.limit,
            "subject": alert.subject,
            "unit": unit.name(),
            "threshold": unit.decimal(alert.threshold),
            "settled": unit.decimal(alert.settled),
            "hard": alert.hard.map(|hard| unit.decimal(hard)),
            "window": alert.period,
            "window_start": alert.window_start_s,
            "resets_at": (alert.period != "total").then_some(alert.window_end_s),
            "organization": &*organization,
            "link": &*branding.link,
        });
        if is_digest {
            data["digest_of"] = alert.count.into();
        }
        Self {
            id: format!("alert_{}", alert.id),
            kind,
            at_ms: alert.at_ms,
            subject: format!("[{organization}] {subject}"),
            text: format!("{happened}\n{}\n\n{}\n", until(alert), branding.link),
            data,
        }
    }

    /// A message that only shows that messages arrive.
    pub fn test(branding: &Branding, directory: &Directory) -> Self {
        let (organization, now_ms) = (directory.organization(), directory.clock().now_ms());
        Self {
            id: format!("test_{now_ms}"),
            kind: "test",
            at_ms: now_ms,
            subject: format!("[{organization}] A test of spendguard's alerts"),
            text: format!(
                "This is a test. Alerts of spent limits will arrive here as this did.\n\n{}\n",
                branding.link
            ),
            data: json!({ "organization": &*organization, "link": &*branding.link }),
        }
    }
}

/// A meter's subject in words.
fn whose(subject: &str, ring: &Ring) -> String {
    match subject {
        "org" => "the organization".to_owned(),
        key if ring.by_id(key).is_some() => format!("key \"{}\" ({key})", ring.key_name(key)),
        project if ring.project(project).is_some() => {
            format!("project \"{}\" ({project})", ring.project_name(project))
        }
        other => format!("\"{other}\""),
    }
}

fn instant(at_s: i64) -> String {
    let text = Timestamp::from_second(at_s).map(|at| at.strftime("%Y-%m-%d %H:%M UTC").to_string());
    text.unwrap_or_else(|_| at_s.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::limit::Unit;

    #[test]
    fn a_digest_says_how_many_when_and_what_the_last_was() {
        let alert = Alert {
            id: 1,
            mark: AlertKind::Soft,
            limit: "users".to_owned(),
            subject: "ann".to_owned(),
            threshold: 2_000_000_000,
            window_start_s: 0,
            settled: 3_000_000_000,
            at_ms: 1_795_264_500_000,
            window_end_s: 1_796_083_200,
            unit: Unit::Usd,
            period: "month".to_owned(),
            hard: None,
            count: 312,
        };
        let (kind, subject, text) = happened_often(&alert, "\"ann\"");
        assert_eq!((kind, subject.as_str()), ("limit.soft", "Limit users: 312 more alerts in an hour"));
        assert!(
            text.starts_with("From 2026-11-21 12:00 UTC to 2026-11-21 13:00 UTC, 312 more soft thresholds"),
            "{text}"
        );
        assert!(text.contains("\"ann\" has settled $3.00, past the soft threshold of $2.00"), "{text}");
    }
}

//! The message of an alert: as text, and as data for programs.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::directory::Directory;
use crate::keys::Ring;
use crate::ledger::entry::AlertKind;
use crate::ledger::meter::key_and_tag;
use crate::store::outbox::Alert;

const HOUR_MS: i64 = 3_600_000;

/// How messages name the guard that sends them.
#[derive(Clone, Debug, Default)]
pub struct Branding {
    /// The address of the dashboard.
    pub link: Arc<str>,
}

/// One message, the same through every channel.
#[derive(Clone, Debug)]
pub struct Message {
    /// Identifies the message; the same for every attempt to send it.
    pub id: String,
    /// `limit.soft`, `limit.hard`, `limit.forecast`, `credit.low`, `credit.used_up`, `fuse.blown`,
    /// `kill_switch.on` or `test`.
    pub kind: &'static str,
    /// When it happened, in Unix milliseconds.
    pub at_ms: i64,
    /// The text in one line.
    pub subject: String,
    /// The text in a few lines.
    pub text: String,
    /// The data for programs.
    pub data: Value,
}

/// The kind of an alert, and its text: in one line, and in a few. The text states what
/// happened, when, and what to do.
fn described(alert: &Alert, name: &str) -> (&'static str, String, String) {
    let Alert { limit, unit, .. } = alert;
    let (settled, threshold, at) =
        (unit.phrase(alert.settled), unit.phrase(alert.threshold), happened_at(alert));
    let balance = || unit.phrase(alert.hard.unwrap_or_default().saturating_sub(alert.settled));
    match alert.mark {
        AlertKind::Hard => (
            "limit.hard",
            format!("Limit {limit}: {name} reached the hard cap of {threshold}, requests are rejected"),
            format!(
                "Limit \"{limit}\" for {name} reached its hard cap of {threshold} at {at}: requests are rejected{}. \
                 Settled: {settled}. To admit requests again, raise the hard cap.",
                resets_at(alert)
                    .map_or_else(|| ", and the limit never resets".to_owned(), |at| format!(" until {at}"))
            ),
        ),
        AlertKind::Forecast => (
            "limit.forecast",
            format!("Limit {limit}: {name} is likely to reach the hard cap of {threshold}"),
            format!(
                "If spending goes on as in the last weeks, limit \"{limit}\" for {name} will reach its hard cap of \
                 {threshold} before it resets{}, and requests will be rejected. Settled at {at}: {settled}. To prevent \
                 that, raise the hard cap or reduce spending.",
                resets_at(alert).map_or_else(String::new, |at| format!(" at {at}"))
            ),
        ),
        AlertKind::Soft => (
            "limit.soft",
            format!("Limit {limit}: {name} passed {threshold}"),
            format!(
                "Limit \"{limit}\" for {name} passed its soft threshold of {threshold} at {at}. Settled: {settled}. {}",
                still_admitted(alert)
            ),
        ),
        AlertKind::CreditLow => (
            "credit.low",
            format!("Prepaid credit is low: {} left", balance()),
            format!(
                "Prepaid credit went below {threshold} at {at}: {} left. Spent since the first grant: {settled}. Add \
                 credit before it is used up, since requests are rejected then.",
                balance()
            ),
        ),
        AlertKind::CreditUsedUp => (
            "credit.used_up",
            format!("Prepaid credit is used up: {} left, requests are rejected", balance()),
            format!(
                "A request was rejected at {at}, since it may cost more than the rest of the prepaid credit: {}. Spent \
                 since the first grant: {settled}. Requests are rejected until credit is added.",
                balance()
            ),
        ),
        AlertKind::FuseBlown | AlertKind::KillSwitch => stopped(alert, name),
    }
}

/// The same of a stop.
fn stopped(alert: &Alert, name: &str) -> (&'static str, String, String) {
    let Alert { limit, unit, subject, .. } = alert;
    let (spent, at) = (unit.phrase(alert.settled), happened_at(alert));
    if alert.mark == AlertKind::KillSwitch {
        let subject = if subject == "org" { "organization" } else { subject };
        return (
            "kill_switch.on",
            format!("An operator has stopped all spending of {name}"),
            format!(
                "An operator has turned on the kill switch of {name} at {at}. Requests that cost money are rejected \
                 until it is turned off: spendguard kill-switch off {subject}"
            ),
        );
    }
    (
        "fuse.blown",
        format!("Fuse {limit} has blown for {name}: {spent} spent in a short time, requests are rejected"),
        format!(
            "Fuse \"{limit}\" has blown for {name} at {at}: {spent} were spent within its time, more than {}. Requests \
             that cost money are rejected {}. To admit them again, find out what has spent so much, then reset the \
             fuse: spendguard fuses reset {limit}",
            unit.phrase(alert.threshold),
            resets_at(alert).map_or_else(|| "until it is reset".to_owned(), |at| format!("until {at}"))
        ),
    )
}

/// That a soft threshold stops no request, and until when the limit counts.
fn still_admitted(alert: &Alert) -> String {
    let cap = alert.hard.map(|hard| format!(", up to the hard cap of {}", alert.unit.phrase(hard)));
    let cap = cap.unwrap_or_else(|| ": the limit has no hard cap".to_owned());
    let window = resets_at(alert).map(|at| format!("The window is a {}; it resets at {at}.", alert.period));
    let window = window.unwrap_or_else(|| "The limit never resets.".to_owned());
    format!("Requests are still admitted{cap}. {window}")
}

/// The text of a digest: of many crossings that share one message.
fn digest(alert: &Alert, name: &str) -> (&'static str, String, String) {
    let Alert { limit, count, .. } = alert;
    let (kind, _, last) = described(alert, name);
    let what = match alert.mark {
        AlertKind::Soft => "soft thresholds were passed",
        AlertKind::Hard => "hard caps were reached",
        AlertKind::Forecast => "meters became likely to reach the hard cap",
        AlertKind::CreditLow | AlertKind::CreditUsedUp => "alerts of prepaid credit were raised",
        AlertKind::FuseBlown => "fuses have blown",
        AlertKind::KillSwitch => "kill switches were turned on",
    };
    let (from, to) = (alert.at_ms.div_euclid(HOUR_MS), alert.at_ms.div_euclid(HOUR_MS) + 1);
    let subject = format!("Limit {limit}: {count} more alerts in an hour");
    let text = format!(
        "From {} to {}, {count} more {what} under the limit \"{limit}\", in addition to those that were sent one by one. \
         `spendguard alerts list` shows all of them. The last one:\n{last}",
        instant(from * 3_600),
        instant(to * 3_600),
    );
    (kind, subject, text)
}

fn happened_at(alert: &Alert) -> String {
    instant(alert.at_ms.div_euclid(1_000))
}

/// When the window of an alert ends, or what it tells of; `None` if it never does.
fn resets_s(alert: &Alert) -> Option<i64> {
    let ends = if matches!(alert.mark, AlertKind::FuseBlown | AlertKind::KillSwitch) {
        alert.window_end_s != i64::MAX
    } else {
        alert.period != "total"
    };
    ends.then_some(alert.window_end_s)
}

/// The same as text.
fn resets_at(alert: &Alert) -> Option<String> {
    resets_s(alert).map(instant)
}

impl Message {
    /// The message of an alert.
    pub fn of(alert: &Alert, branding: &Branding, directory: &Directory) -> Self {
        let (unit, organization) = (alert.unit, directory.organization());
        let name = subject_name(&alert.subject, directory.ring());
        let is_digest = alert.count > 1;
        let (kind, subject, text) = if is_digest { digest(alert, &name) } else { described(alert, &name) };
        let mut data = json!({
            "limit": alert.limit,
            "subject": alert.subject,
            "unit": unit.name(),
            "threshold": unit.decimal(alert.threshold),
            "settled": unit.decimal(alert.settled),
            "hard": alert.hard.map(|hard| unit.decimal(hard)),
            "window": alert.period,
            "window_start": alert.window_start_s,
            "resets_at": resets_s(alert),
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
            text: format!("{text}\n\n{}\n", branding.link),
            data,
        }
    }

    /// A test message, which shows that messages arrive.
    pub fn test(branding: &Branding, directory: &Directory) -> Self {
        let (organization, now_ms) = (directory.organization(), directory.clock().now_ms());
        Self {
            id: format!("test_{now_ms}"),
            kind: "test",
            at_ms: now_ms,
            subject: format!("[{organization}] Test of spendguard's alerts"),
            text: format!(
                "This is a test. Alerts about limits and credit will arrive in the same way.\n\n{}\n",
                branding.link
            ),
            data: json!({ "organization": &*organization, "link": &*branding.link }),
        }
    }
}

/// A meter's subject by its name.
fn subject_name(subject: &str, ring: &Ring) -> String {
    match subject {
        "org" => "the organization".to_owned(),
        key if ring.by_id(key).is_some() => format!("key \"{}\" ({key})", ring.key_name(key)),
        project if ring.project(project).is_some() => {
            format!("project \"{}\" ({project})", ring.project_name(project))
        }
        other => match key_and_tag(other).filter(|(key, _)| ring.by_id(key).is_some()) {
            Some((key, tag)) => format!("{tag} of key \"{}\" ({key})", ring.key_name(key)),
            None => format!("\"{other}\""),
        },
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

    fn alert(mark: AlertKind, count: u64) -> Alert {
        Alert {
            id: 1,
            mark,
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
            count,
        }
    }

    #[test]
    fn a_digest_says_how_many_when_and_what_the_last_was() {
        let (kind, subject, text) = digest(&alert(AlertKind::Soft, 312), "\"ann\"");
        assert_eq!((kind, subject.as_str()), ("limit.soft", "Limit users: 312 more alerts in an hour"));
        assert!(
            text.starts_with("From 2026-11-21 12:00 UTC to 2026-11-21 13:00 UTC, 312 more soft thresholds"),
            "{text}"
        );
        let last = "for \"ann\" passed its soft threshold of $2.00 at 2026-11-21 12:35 UTC. Settled: $3.00.";
        assert!(text.contains(last), "{text}");
    }

    #[test]
    fn a_hard_cap_says_when_it_was_reached_until_when_it_rejects_and_what_to_do() {
        let hard = alert(AlertKind::Hard, 1);
        let (kind, subject, text) = described(&hard, "\"ann\"");
        assert_eq!(kind, "limit.hard");
        assert_eq!(subject, "Limit users: \"ann\" reached the hard cap of $2.00, requests are rejected");
        assert_eq!(
            text,
            "Limit \"users\" for \"ann\" reached its hard cap of $2.00 at 2026-11-21 12:35 UTC: requests are rejected until \
             2026-12-01 00:00 UTC. Settled: $3.00. To admit requests again, raise the hard cap."
        );
        let (.., forever) = described(&Alert { period: "total".to_owned(), ..hard }, "\"ann\"");
        assert!(forever.contains("requests are rejected, and the limit never resets. Settled"), "{forever}");
    }
}

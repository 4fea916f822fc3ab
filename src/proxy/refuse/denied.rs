//! The text of a denial: the limit, its state, when it resets, what to lower.

use http::{HeaderMap, HeaderValue, StatusCode, header};
use jiff::Timestamp;

use crate::domain::limit::Per;
use crate::domain::{Limit, Money, Span, Window};
use crate::ledger::denial::{Blocked, Denial, Short};
use crate::ledger::meter::{METERS_MAX, VALUES_MAX, key_and_tag};
use crate::proxy::refuse::levers::Levers;
use crate::proxy::refuse::{Answer, Config, REASON, RESETS_AT, SpendStatus, client, retry, server};

/// A used-up limit has a `retry-after` only if it resets within this time, in
/// seconds: many clients sleep for that long.
const RETRY_AFTER_S_MAX: i64 = 60;
const EXCEEDS_REMAINING: HeaderValue = HeaderValue::from_static("request_exceeds_remaining");

pub(super) fn answer(denial: &Denial, levers: Levers, config: Config, now_s: i64) -> Answer {
    match denial {
        Denial::Exhausted(blocked) if blocked.left() > 0 => exceeds_remaining(blocked, levers, config, now_s),
        Denial::Exhausted(blocked) => exhausted(blocked, config, now_s),
        Denial::Held(blocked) => held(blocked, config),
        Denial::TooLarge(blocked) => too_large(blocked, levers, config),
        Denial::OverClientCap { cap, needed } => {
            let (cap, needed) = (cap.dollars(), needed.dollars());
            let mut message =
                format!("This request may cost up to {needed}, x-spendguard-max-cost-usd allows {cap}.");
            message.push_str(&levers.advice());
            client(StatusCode::BAD_REQUEST, Some("request_cost_exceeds_limit"), None, message)
        }
        Denial::NoCredit(short) => no_credit(short, levers, config),
        Denial::CreditHeld(short) => credit_held(short, config),
        Denial::TooManyMeters(limit) => too_many_meters(limit),
    }
}

/// A limit with the maximum number of meters, in all or within the key.
fn too_many_meters(limit: &Limit) -> Answer {
    let until = match limit.window {
        Window::Total => "",
        Window::Request
        | Window::Minute
        | Window::Hour
        | Window::Day
        | Window::Week
        | Window::Month
        | Window::Quarter
        | Window::Year => " until its window ends",
    };
    let counted = match &limit.per {
        Per::Tag(name) => {
            let (each, all) = (grouped(VALUES_MAX), grouped(METERS_MAX));
            format!(
                "values of the tag \"{name}\" as the guard keeps apart ({each} for each key, {all} in all)"
            )
        }
        per @ (Per::Organization | Per::Project | Per::Key | Per::User | Per::Model) => {
            format!("{per}s as the guard keeps apart ({})", grouped(METERS_MAX))
        }
    };
    let message =
        format!("Limit \"{}\" counts as many {counted}, so new ones are refused{until}.", limit.name);
    let mut answer = server(StatusCode::SERVICE_UNAVAILABLE, "overloaded", &message);
    retry(&mut answer.headers, false, None);
    answer
}

/// A count with a comma before each three digits.
pub(super) fn grouped(count: usize) -> String {
    let digits = count.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn too_large(blocked: &Blocked, levers: Levers, config: Config) -> Answer {
    let limit = &blocked.limit;
    let mut message = format!("This request could exceed limit \"{}\" by itself.", limit.name);
    if config.show_amounts {
        let (needed, hard) = (limit.unit.phrase(blocked.needed), limit.unit.phrase(blocked.hard));
        message.push_str(&format!(" It may need up to {needed}; the limit is {hard}."));
    }
    message.push_str(&levers.advice());
    client(StatusCode::BAD_REQUEST, Some("request_cost_exceeds_limit"), None, message)
}

fn exhausted(blocked: &Blocked, config: Config, now_s: i64) -> Answer {
    let Blocked { limit, hard, settled, .. } = blocked;
    let (whose, _) = whose(limit);
    let mut message = format!("Your {whose} reached its enforced spend limit. Limit {}", named(blocked));
    if config.show_amounts {
        message.push_str(&format!(
            " has used {} of {}",
            limit.unit.phrase(*settled),
            limit.unit.phrase(*hard)
        ));
    }
    message.push_str(&format!("; {}.", resets(blocked)));
    of_limit(blocked, message, config, now_s)
}

/// Something is left, but not enough for this request: its need, the rest, and what to
/// lower.
fn exceeds_remaining(blocked: &Blocked, levers: Levers, config: Config, now_s: i64) -> Answer {
    let Blocked { limit, hard, settled, held, needed, .. } = blocked;
    let phrase = |amount: i64| limit.unit.phrase(amount);
    let mut message = if config.show_amounts {
        let mut message = format!(
            "This request may need up to {}, and limit {} has {} left: {} of {} is used",
            phrase(*needed),
            named(blocked),
            phrase(blocked.left()),
            phrase(*settled),
            phrase(*hard)
        );
        if *held > 0 {
            message.push_str(&format!(", and {} is held by other requests", phrase(*held)));
        }
        message
    } else {
        format!("This request may need more than limit {} has left", named(blocked))
    };
    message.push_str(&format!("; {}.{}", resets(blocked), levers.advice()));
    let mut answer = of_limit(blocked, message, config, now_s);
    answer.headers.insert(REASON, EXCEEDS_REMAINING);
    answer
}

/// A refusal by a limit whose window has to end first.
fn of_limit(blocked: &Blocked, message: String, config: Config, now_s: i64) -> Answer {
    let (_, code) = whose(&blocked.limit);
    let mut answer = spent(message, code, config);
    if let Some(end_s) = window_end(blocked) {
        resets_at(&mut answer.headers, end_s, now_s);
    }
    answer
}

/// Says when what stands in the way ends, in Unix seconds.
pub(super) fn resets_at(headers: &mut HeaderMap, end_s: i64, now_s: i64) {
    let left_s = end_s.saturating_sub(now_s);
    if left_s <= RETRY_AFTER_S_MAX {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(left_s.max(1)));
    }
    headers.insert(RESETS_AT, HeaderValue::from(end_s));
}

/// The scope of the limit in OpenAI's words, and the code for it.
fn whose(limit: &Limit) -> (&'static str, &'static str) {
    match &limit.per {
        Per::Organization => ("organization", "organization_spend_limit_exceeded"),
        Per::Project | Per::Key | Per::User | Per::Model | Per::Tag(_) => {
            ("project", "project_spend_limit_exceeded")
        }
    }
}

fn held(blocked: &Blocked, config: Config) -> Answer {
    let limit = &blocked.limit;
    let mut message = format!("Limit \"{}\" is held by other requests that have not ended yet.", limit.name);
    if config.show_amounts {
        let unit = limit.unit;
        let (settled, held, hard) =
            (unit.phrase(blocked.settled), unit.phrase(blocked.held), unit.phrase(blocked.hard));
        message.push_str(&format!(" {settled} is used and {held} held of {hard}."));
    }
    held_for_now(message)
}

fn no_credit(short: &Short, levers: Levers, config: Config) -> Answer {
    let is_used_up = short.balance <= Money::ZERO;
    let mut message = "You exceeded your current quota: ".to_owned();
    if is_used_up {
        message.push_str("prepaid credit is used up.");
    } else if config.show_amounts {
        let (left, needed) = (short.balance.dollars(), short.needed.dollars());
        message
            .push_str(&format!("this request may need up to {needed}, and {left} of prepaid credit is left"));
        if short.held > Money::ZERO {
            message.push_str(&format!(", of which other requests hold {}", short.held.dollars()));
        }
        message.push('.');
    } else {
        message.push_str("this request may need more prepaid credit than is left.");
    }
    if !is_used_up {
        message.push_str(&levers.advice());
    }
    message.push_str(" More credit can be added by an operator of spendguard.");
    let mut answer = spent(message, "credit_balance_exhausted", config);
    if !is_used_up {
        answer.headers.insert(REASON, EXCEEDS_REMAINING);
    }
    answer
}

fn credit_held(short: &Short, config: Config) -> Answer {
    let mut message = "Prepaid credit is held by other requests that have not ended yet.".to_owned();
    if config.show_amounts {
        let (left, held) = (short.balance.dollars(), short.held.dollars());
        message.push_str(&format!(" {left} is left, and {held} of it held."));
    }
    held_for_now(message)
}

/// The only refusal by a limit that a retry may help: always 429.
fn held_for_now(mut message: String) -> Answer {
    message.push_str(" Try again in a moment.");
    let mut headers = HeaderMap::new();
    retry(&mut headers, true, Some(1));
    let (status, code) = (StatusCode::TOO_MANY_REQUESTS, Some("spend_limit_held"));
    Answer { status, message, kind: "insufficient_quota", param: None, code, headers }
}

/// A refusal that no retry can help.
pub(super) fn spent(message: String, code: &'static str, config: Config) -> Answer {
    let mut headers = HeaderMap::new();
    retry(&mut headers, false, None);
    let code = if config.classic { "insufficient_quota" } else { code };
    let (status, kind, code) = match config.spend_status {
        SpendStatus::TooManyRequests => (StatusCode::TOO_MANY_REQUESTS, "insufficient_quota", code),
        SpendStatus::PaymentRequired => (StatusCode::PAYMENT_REQUIRED, "insufficient_quota", code),
        SpendStatus::BadRequest => {
            (StatusCode::BAD_REQUEST, "invalid_request_error", "billing_hard_limit_reached")
        }
    };
    Answer { status, message, kind, param: None, code: Some(code), headers }
}

/// A limit by its name, what it counts, and the value of a tag that it counts separately.
fn named(blocked: &Blocked) -> String {
    let limit = &blocked.limit;
    let scope = match &limit.per {
        Per::Tag(_) => {
            let label = blocked.subject.label();
            format!("for {} within this key", key_and_tag(label).map_or(label, |(_, tag)| tag))
        }
        per @ (Per::Organization | Per::Project | Per::Key | Per::User | Per::Model) => format!("per {per}"),
    };
    format!("\"{}\" ({scope}, {})", limit.name, window(limit))
}

fn window(limit: &Limit) -> String {
    match limit.window {
        Window::Total => "in total".to_owned(),
        Window::Request => "per request".to_owned(),
        Window::Minute
        | Window::Hour
        | Window::Day
        | Window::Week
        | Window::Month
        | Window::Quarter
        | Window::Year => format!("per {}", limit.window),
    }
}

/// When the window of a meter ends, in Unix seconds, if it does.
fn window_end(blocked: &Blocked) -> Option<i64> {
    let Span { end_s, .. } = blocked.span;
    (end_s != i64::MAX && blocked.limit.window != Window::Request).then_some(end_s)
}

fn resets(blocked: &Blocked) -> String {
    let at = window_end(blocked).and_then(|end_s| Timestamp::from_second(end_s).ok());
    at.map_or_else(|| "it does not reset".to_owned(), |at| format!("it resets at {at}"))
}

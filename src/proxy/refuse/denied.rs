//! How a denial is worded: which limit, how far it is, when it resets.

use http::{HeaderMap, StatusCode};
use jiff::Timestamp;

use crate::domain::limit::Per;
use crate::domain::{Limit, Span, Window};
use crate::ledger::denial::{Blocked, Denial, Short};
use crate::proxy::refuse::{Answer, Config, client, retry, unwritable};

pub(super) fn answer(denial: &Denial, config: Config, now_s: i64) -> Answer {
    match denial {
        Denial::Exhausted(blocked) => exhausted(blocked, config, now_s),
        Denial::Held(blocked) => held(blocked, config),
        Denial::TooLarge(blocked) => {
            let limit = &blocked.limit;
            let mut message = format!("This request could exceed limit \"{}\" by itself.", limit.name);
            if config.show_amounts {
                let (needed, hard) = (limit.unit.phrase(blocked.needed), limit.unit.phrase(blocked.hard));
                message.push_str(&format!(" It may cost up to {needed}; the limit is {hard}."));
            }
            message.push_str(" Ask for less output or send less input.");
            client(StatusCode::BAD_REQUEST, Some("request_cost_exceeds_limit"), None, message)
        }
        Denial::OverClientCap { cap, needed } => {
            let (cap, needed) = (cap.dollars(), needed.dollars());
            let message =
                format!("This request may cost up to {needed}, x-spendguard-max-cost-usd allows {cap}.");
            client(StatusCode::BAD_REQUEST, Some("request_cost_exceeds_limit"), None, message)
        }
        Denial::NoCredit(short) => no_credit(short, config),
        Denial::CreditHeld(short) => credit_held(short, config),
        Denial::TooManyMeters => unwritable(),
    }
}

fn exhausted(blocked: &Blocked, config: Config, now_s: i64) -> Answer {
    let Blocked { limit, span, hard, settled, .. } = blocked;
    let (whose, code) = match limit.per {
        Per::Organization => ("organization", "organization_spend_limit_exceeded"),
        Per::Project | Per::Key | Per::User | Per::Model => ("project", "project_spend_limit_exceeded"),
    };
    let mut message = format!("Your {whose} reached its enforced spend limit. Limit \"{}\"", limit.name);
    message.push_str(&format!(" (per {}, {})", limit.per, window(limit)));
    if config.show_amounts {
        let unit = limit.unit;
        message.push_str(&format!(" has used {} of {}", unit.phrase(*settled), unit.phrase(*hard)));
        message.push_str(&format!(", this request may need {}", unit.phrase(blocked.needed)));
    }
    message.push_str(&resets(*span));
    let code = if config.classic { "insufficient_quota" } else { code };
    let after_s = (span.end_s != i64::MAX).then(|| span.end_s.saturating_sub(now_s));
    let mut headers = HeaderMap::new();
    retry(&mut headers, false, after_s);
    quota(message, code, headers)
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

fn no_credit(short: &Short, config: Config) -> Answer {
    let mut message =
        "You exceeded your current quota: prepaid credit does not suffice for this request.".to_owned();
    if config.show_amounts {
        let (left, needed) = (short.balance.dollars(), short.needed.dollars());
        message.push_str(&format!(" {left} is left, it may need {needed}."));
    }
    message.push_str(" Ask whoever runs spendguard to add credit.");
    let code = if config.classic { "insufficient_quota" } else { "credit_balance_exhausted" };
    let mut headers = HeaderMap::new();
    retry(&mut headers, false, None);
    quota(message, code, headers)
}

fn credit_held(short: &Short, config: Config) -> Answer {
    let mut message = "Prepaid credit is held by other requests that have not ended yet.".to_owned();
    if config.show_amounts {
        let (left, held) = (short.balance.dollars(), short.held.dollars());
        message.push_str(&format!(" {left} is left, and {held} of it held."));
    }
    held_for_now(message)
}

fn held_for_now(mut message: String) -> Answer {
    message.push_str(" Try again in a moment.");
    let mut headers = HeaderMap::new();
    retry(&mut headers, true, Some(1));
    quota(message, "spend_limit_held", headers)
}

fn quota(message: String, code: &'static str, headers: HeaderMap) -> Answer {
    let status = StatusCode::TOO_MANY_REQUESTS;
    Answer { status, message, kind: "insufficient_quota", param: None, code: Some(code), headers }
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

fn resets(span: Span) -> String {
    match Timestamp::from_second(span.end_s) {
        Ok(at) if span.end_s != i64::MAX => format!("; it resets at {at}."),
        _ => "; it does not reset.".to_owned(),
    }
}

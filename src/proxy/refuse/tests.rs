//! Refusals state what happened.

use std::sync::Arc;

use super::*;
use crate::domain::Window;
use crate::domain::limit::{Mode, Only, Per, Source, Unit};
use crate::upstream::{SendError, SendErrorKind};

/// Status, code, `x-should-retry` and message.
fn said(refusal: &Refusal) -> (u16, String, String, String) {
    let config = Config { classic: false, spend_status: SpendStatus::default(), show_amounts: true };
    let response = refusal.response(config, 0, &HeaderValue::from_static("req_1"));
    let error: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let retry = response.headers().get(SHOULD_RETRY).map_or("", |value| value.to_str().unwrap());
    let error = &error["error"];
    (response.status().as_u16(), text(&error["code"]), retry.to_owned(), text(&error["message"]))
}

fn limit(per: Per, window: Window) -> Arc<Limit> {
    Arc::new(Limit {
        name: "users".into(),
        per,
        only: Only::default(),
        unit: Unit::Usd,
        window,
        zone: "UTC".into(),
        soft: Vec::new(),
        hard: Some(1),
        mode: Mode::Enforce,
        source: Source::File,
    })
}

#[test]
fn a_limit_that_counts_too_many_apart_is_named() {
    for (per, window, expected) in [
        (
            Per::User,
            Window::Month,
            "Limit \"users\" counts as many users as the guard keeps apart (2,000,000), so new ones are refused until its \
             window ends.",
        ),
        (
            Per::Key,
            Window::Total,
            "Limit \"users\" counts as many keys as the guard keeps apart (2,000,000), so new ones are refused.",
        ),
    ] {
        let refusal = Refusal::denied(Denial::TooManyMeters(limit(per, window)));
        let (status, code, retry, message) = said(&refusal);
        assert_eq!((status, code.as_str(), retry.as_str()), (503, "overloaded", "false"));
        assert_eq!(message, expected);
        assert_eq!(
            (refusal.reason(), refusal.limit().map(|limit| &*limit.name)),
            ("overloaded", Some("users"))
        );
    }
}

#[test]
fn a_body_without_room_has_another_text_than_too_many_requests() {
    let (status, code, retry, message) = said(&Refusal::NoRoom);
    assert_eq!((status, code.as_str(), retry.as_str()), (503, "overloaded", "true"));
    assert_eq!(
        message,
        "The memory for request bodies is taken by other requests. Try again in a moment, or send a smaller body."
    );
    assert!(said(&Refusal::Overloaded).3.starts_with("Too many requests"));
}

#[test]
fn a_lost_request_may_have_been_billed_if_it_was_sent() {
    let error = |kind, sent| SendError { kind, sent, detail: String::new() };
    for (kind, status, code, text) in [
        (
            SendErrorKind::Broken,
            502,
            "upstream_unreachable",
            "The upstream API could not be reached or broke off.",
        ),
        (
            SendErrorKind::Unreachable,
            502,
            "upstream_unreachable",
            "The upstream API could not be reached or broke off.",
        ),
        (SendErrorKind::TimedOut, 504, "upstream_timeout", "The upstream API did not answer in time."),
    ] {
        for (billed, more) in [(Billed::No, ""), (Billed::Perhaps, " The request may have been billed.")] {
            let refusal = Refusal::Upstream(NoAnswer::of(&error(kind, billed == Billed::Perhaps), billed));
            let (said_status, said_code, _, message) = said(&refusal);
            assert_eq!((said_status, said_code.as_str()), (status, code));
            assert_eq!(message, format!("{text}{more}"));
        }
    }
}

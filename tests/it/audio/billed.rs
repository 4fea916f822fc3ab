//! Audio requests from their whole space, before an upstream that bills as the oracle says.

use std::cell::RefCell;
use std::rc::Rc;

use http::{Method, StatusCode};
use oracle::Chance;
use oracle::audio::{Listening, Speaking};
use serde_json::Value;
use spendguard::domain::Money;

use super::{LIMIT, SPEECH, TRANSCRIPTIONS};
use crate::harness::{House, call, run};
use crate::scripted::{Reply, guard_before};

const REQUESTS: u64 = 150;

fn pico(amount: &Value) -> u128 {
    let amount = amount.as_str().unwrap().parse::<Money>().unwrap();
    u128::try_from(amount.nano()).unwrap() * 1_000
}

/// Answers of upstream, each for the next request.
type Next = Rc<RefCell<Option<(&'static str, String)>>>;

async fn house() -> (House, Next) {
    let next = Next::default();
    let answers = Rc::clone(&next);
    let reply = move |_: &str, _: &Value| match answers.borrow_mut().take() {
        Some(("text/event-stream", events)) => Reply::Events(events),
        Some((_, json)) => Reply::Json(serde_json::from_str(&json).unwrap()),
        None => Reply::Silence,
    };
    (guard_before(&LIMIT.replace("10", "100000"), reply).await.0, next)
}

/// Sends a request; what was booked for it, and what was held.
async fn booked(house: &House, path: &str, kind: &str, body: Vec<u8>) -> (u128, u128) {
    let bearer = format!("Bearer {}", house.key);
    let headers = [("authorization", bearer.as_str()), ("content-type", kind)];
    let answer = call(&house.proxy, Method::POST, path, &headers, body.into()).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    house.settled().await;
    let entry = &house.entries().await[0];
    assert_eq!(entry["basis"], "reported", "{entry}");
    (pico(&entry["cost_usd"]), pico(&entry["held_usd"]))
}

#[test]
fn every_recording_is_held_and_booked_as_openai_bills_it() {
    run(async {
        let (house, next) = house().await;
        for seed in 0..REQUESTS {
            let mut chance = Chance::of_seed(seed);
            let listening = Listening::draw(&mut chance);
            let used = listening.used(&mut chance);
            *next.borrow_mut() = Some(listening.answer(used));
            let (kind, body) = listening.body();
            let (cost, held) = booked(&house, TRANSCRIPTIONS, &kind, body).await;
            let charge = listening.charge_pico(used).div_ceil(1_000) * 1_000;
            assert_eq!(cost, charge, "{seed}: {listening:?} {used:?}");
            let most = listening.maximum_pico();
            assert!(held >= most, "{seed}: {held} < {most}, {listening:?}");
        }
    });
}

#[test]
fn every_speech_is_held_and_booked_as_openai_bills_it() {
    run(async {
        let (house, next) = house().await;
        for seed in 0..REQUESTS {
            let mut chance = Chance::of_seed(seed);
            let speaking = Speaking::draw(&mut chance);
            let used = speaking.used(&mut chance);
            *next.borrow_mut() = Some(("text/event-stream", Speaking::answer(used)));
            let body = speaking.body().into_bytes();
            let (cost, held) = booked(&house, SPEECH, "application/json", body).await;
            assert_eq!(
                cost,
                Speaking::charge_pico(used).div_ceil(1_000) * 1_000,
                "{seed}: {speaking:?} {used:?}"
            );
            let most = speaking.maximum_pico();
            assert!(held >= most, "{seed}: {held} < {most}, {speaking:?}");
        }
    });
}

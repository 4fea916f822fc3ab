//! Image requests from their whole space, before an upstream that bills as the oracle says.

use std::cell::RefCell;
use std::rc::Rc;

use http::{Method, StatusCode};
use oracle::Chance;
use oracle::images::Drawing;
use oracle::prices::Place;
use serde_json::Value;
use spendguard::domain::Money;

use crate::harness::{call, run};
use crate::scripted::{Reply, guard_before};

const REQUESTS: u64 = 250;

fn pico(amount: &Value) -> u128 {
    let amount = amount.as_str().unwrap().parse::<Money>().unwrap();
    u128::try_from(amount.nano()).unwrap() * 1_000
}

#[test]
fn every_image_request_is_held_and_booked_as_openai_bills_it() {
    run(async {
        let next: Rc<RefCell<Option<(&str, String)>>> = Rc::default();
        let answers = Rc::clone(&next);
        let reply = move |_: &str, _: &Value| match answers.borrow_mut().take() {
            Some(("text/event-stream", events)) => Reply::Events(events),
            Some((_, json)) => Reply::Json(serde_json::from_str(&json).unwrap()),
            None => Reply::Silence,
        };
        let limit = "[[limit]]\nname = \"m\"\nwindow = \"month\"\nhard = 100000\n";
        let (house, _) = guard_before(limit, reply).await;
        let bearer = format!("Bearer {}", house.key);
        let place = Place { date: "2026-11-28", is_regional: false };
        let mut loosest = 0;
        for seed in 0..REQUESTS {
            let mut chance = Chance::of_seed(seed);
            let drawing = Drawing::draw(&mut chance);
            let used = drawing.used(&mut chance);
            *next.borrow_mut() = Some(drawing.answer(&used, &mut chance));
            let (kind, body) = drawing.body();
            let headers = [("authorization", bearer.as_str()), ("content-type", kind.as_str())];
            let answer = call(&house.proxy, Method::POST, drawing.path(), &headers, body.into()).await;
            assert_eq!(answer.status, StatusCode::OK, "{seed}: {drawing:?} {answer:?}");
            house.settled().await;
            let entry = &house.entries().await[0];
            let (charge, most) = (drawing.charge_pico(&used, place), drawing.maximum_pico(place));
            let held = pico(&entry["held_usd"]);
            assert_eq!(
                pico(&entry["cost_usd"]),
                charge.div_ceil(1_000) * 1_000,
                "{seed}: {drawing:?} {used:?} {entry}"
            );
            assert!(held >= most, "{seed}: {held} < {most}, {drawing:?} {entry}");
            assert_eq!(entry["basis"], "reported", "{seed}: {entry}");
            loosest = loosest.max(held * 100 / most);
        }
        // Low quality at 1024 x 1024 is held at the largest size: 408 tokens for 272.
        assert!(loosest < 260, "a hold was {loosest} % of the most");
    });
}

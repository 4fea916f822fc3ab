//! Decisions from their whole space, before an upstream that bills as the oracle says.

use std::cell::RefCell;
use std::rc::Rc;

use http::{Method, StatusCode};
use oracle::Chance;
use oracle::decisions::Asking;
use oracle::prices::Place;
use serde_json::{Value, json};
use spendguard::domain::Money;

use crate::harness::{House, run};
use crate::scripted::{Reply, guard_before};

const REQUESTS: u64 = 150;
const LIMIT: &str = "[[limit]]\nname = \"m\"\nwindow = \"month\"\nhard = 100\n";

fn pico(amount: &Value) -> u128 {
    let amount = amount.as_str().unwrap().parse::<Money>().unwrap();
    u128::try_from(amount.nano()).unwrap() * 1_000
}

#[test]
fn every_decision_is_held_and_booked_as_openai_bills_it() {
    run(async {
        let next: Rc<RefCell<Option<Value>>> = Rc::default();
        let answers = Rc::clone(&next);
        let reply = move |_: &str, _: &Value| answers.borrow_mut().take().map_or(Reply::Silence, Reply::Json);
        let (house, _) = guard_before(LIMIT, reply).await;
        let place = Place { date: "2026-11-28", is_regional: false };
        for seed in 0..REQUESTS {
            let mut chance = Chance::of_seed(seed);
            let asking = Asking::draw(&mut chance);
            let used = asking.used(&mut chance, asking.tokens_max() / 2);
            *next.borrow_mut() = Some(asking.answer(&used));
            let answer = house.post_raw("/v1/decisions", &[], asking.body().into()).await;
            assert_eq!(answer.status, StatusCode::OK, "{seed}: {asking:?} {answer:?}");
            house.settled().await;
            let entry = &house.entries().await[0];
            let charge = asking.charge_pico(&used, place);
            assert_eq!(pico(&entry["cost_usd"]), charge.div_ceil(1_000) * 1_000, "{seed}: {used:?} {entry}");
            assert_eq!(
                (&entry["basis"], &entry["service_tier"]),
                (&json!("reported"), &json!("decisions")),
                "{entry}"
            );
            let held = pico(&entry["held_usd"]);
            // The base64 of an image, a hundred bytes, is no text.
            let least = asking
                .maximum_pico(if asking.remote > 0 { asking.tokens_max() } else { asking.images }, place);
            let most = asking.maximum_pico(asking.tokens_max(), place) + 1_000;
            assert!((least..=most).contains(&held), "{seed}: {least} {held} {most} {asking:?} {entry}");
        }
    });
}

#[test]
fn decisions_are_a_report_of_their_own_and_their_images_are_held_wherever_they_are() {
    run(async {
        let house = House::with(LIMIT).await;
        let image =
            json!([{ "type": "input_image", "image_url": "https://a.example/x.png", "detail": "high" }]);
        let question = |instructions: &Value| json!([{ "type": "predicate", "instructions": instructions }]);
        let mut held = Vec::new();
        for (input, questions) in [
            (json!("a text"), question(&json!("Is it one?"))),
            (json!("a text"), question(&image)),
            (json!([{ "role": "user", "content": image }]), question(&json!("Is it one?"))),
        ] {
            let body = json!({ "model": "gpt-6-luna", "input": input, "questions": questions });
            let answer = house.post("/v1/decisions", &[], &body).await;
            assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
            house.settled().await;
            held.push(pico(&house.entries().await[0]["held_usd"]));
        }
        // Nothing bounds an image behind a URL but the window: 922,000 tokens that may be written to
        // the cache, at 0.25 dollars a million.
        assert!(held[0] < 50_000_000, "{held:?}");
        assert_eq!(held[1..], [230_500_000_000; 2]);
        let now = jiff::Timestamp::now().as_second();
        let usage = async |kind: &str| -> Vec<Value> {
            let path = format!("/v1/organization/usage/{kind}?start_time={}&bucket_width=1d", now - 86_400);
            let page = house.admin(Method::GET, &path, None).await.json();
            let buckets = page["data"].as_array().unwrap().clone();
            buckets.iter().flat_map(|bucket| bucket["results"].as_array().unwrap().clone()).collect()
        };
        let decisions = usage("decisions").await;
        assert_eq!(decisions.len(), 1, "{decisions:?}");
        assert_eq!(decisions[0]["object"], "organization.usage.decisions.result");
        assert_eq!(
            (&decisions[0]["num_model_requests"], &decisions[0]["output_tokens"]),
            (&json!(3), &json!(60))
        );
        assert!(usage("completions").await.is_empty());
    });
}

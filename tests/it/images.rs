//! Image requests: what they hold, and what they cost by each way of knowing it.
//!
//! Prices are OpenAI's of gpt-image-2: 5 dollars for a million tokens of text, 8 of images that are read, 30 of
//! images that are made.

mod billed;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use spendguard::domain::demand::Tier;
use spendguard::domain::{Class, Money};

use crate::harness::{Answer, House, call, run};
use crate::scripted::{Reply, guard_before};

const LIMIT: &str = "[[limit]]\nname = \"m\"\nwindow = \"month\"\nhard = 10\n";
const GENERATIONS: &str = "/v1/images/generations";
const EDITS: &str = "/v1/images/edits";

fn image(more: Value) -> Value {
    let mut body = json!({ "model": "gpt-image-2", "prompt": "a cat on a mat" });
    body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    body
}

/// A form of texts, and of files whose names begin with `@`.
pub(crate) fn form(parts: &[(&str, &str)]) -> Bytes {
    let part = |(name, data): &(&str, &str)| {
        let file = name.strip_prefix('@');
        let name = file.unwrap_or(name);
        let file = if file.is_some() { "; filename=\"x.png\"\r\nContent-Type: image/png" } else { "" };
        format!("--b7\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n{data}\r\n")
    };
    Bytes::from(parts.iter().map(part).collect::<String>() + "--b7--\r\n")
}

pub(crate) async fn post_form(house: &House, path: &str, more: &[(&str, &str)], body: Bytes) -> Answer {
    let bearer = format!("Bearer {}", house.key);
    let mut headers =
        vec![("authorization", bearer.as_str()), ("content-type", "multipart/form-data; boundary=b7")];
    headers.extend_from_slice(more);
    call(&house.proxy, Method::POST, path, &headers, body).await
}

async fn last(house: &House) -> Value {
    house.settled().await;
    house.entries().await[0].clone()
}

#[test]
fn an_image_costs_what_its_usage_says() {
    run(async {
        let house = House::with(LIMIT).await;
        let answer = house.post(GENERATIONS, &[], &image(json!({ "n": 2, "quality": "low" }))).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        // 14 bytes of prompt are 4 tokens of text; two images of 272 tokens.
        assert_eq!(answer.header("x-spendguard-cost-usd"), "0.01634");
        let entry = last(&house).await;
        assert_eq!((&entry["basis"], &entry["cost_usd"]), (&json!("reported"), &json!("0.01634")));
        assert_eq!(entry["usage"]["image_output_tokens"], 544, "{entry}");
        assert_eq!(entry["usage"]["images"], 2, "{entry}");
        // Two of low quality in the largest size, and 64 bytes of body at most.
        let held: f64 = entry["held_usd"].as_str().unwrap().parse().unwrap();
        assert!((0.02448..0.026).contains(&held), "{held}");
        assert_eq!(house.meter("m").await["held"], "0");
    });
}

#[test]
fn an_edit_costs_the_same_as_json_and_as_a_form() {
    run(async {
        let house = House::with(LIMIT).await;
        let body = image(
            json!({ "images": [{ "image_url": "data:image/png;base64,AAAA" }, { "image_url": "https://x/y" }] }),
        );
        let json = house.post(EDITS, &[], &body).await;
        assert_eq!(json.status, StatusCode::OK, "{json:?}");
        let parts = [
            ("model", "gpt-image-2"),
            ("prompt", "a cat on a mat"),
            ("@image[]", "PNG1"),
            ("@image[]", "PNG2"),
        ];
        let sent = form(&parts);
        let form = post_form(&house, EDITS, &[], sent.clone()).await;
        assert_eq!(form.status, StatusCode::OK, "{form:?}");
        // 4 tokens of text, 200 of the images that were sent, 1,056 of the one that was made.
        assert_eq!(form.header("x-spendguard-cost-usd"), "0.0333");
        assert_eq!(json.header("x-spendguard-cost-usd"), "0.0333");
        let seen = call(&house.fake_direct, Method::GET, "/__last", &[], Bytes::new()).await.json();
        assert_eq!(seen["headers"]["content-type"], "multipart/form-data; boundary=b7");
        assert_eq!(seen["body"].as_str().unwrap().as_bytes(), sent, "it passes as it is");
        let held: f64 = last(&house).await["held_usd"].as_str().unwrap().parse().unwrap();
        // 6,240 tokens made and 7,200 for each image that is read, at the dearest of text and images.
        assert!((0.3024..0.304).contains(&held), "{held}");
    });
}

#[test]
fn a_stream_of_images_costs_all_that_were_made() {
    run(async {
        let house = House::with(LIMIT).await;
        let body = image(json!({ "n": 3, "stream": true, "partial_images": 2, "quality": "low" }));
        let direct =
            call(&house.fake_direct, Method::POST, GENERATIONS, &[], Bytes::from(body.to_string())).await;
        let answer = house.post(GENERATIONS, &[("x-fake-image-bytes", "300000")], &body).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        assert!(answer.body.len() > 9 * 400_000 && direct.body.len() < 20_000);
        let entry = last(&house).await;
        // Three times 272 and two previews of 100.
        assert_eq!(entry["usage"]["image_output_tokens"], 1_416, "{entry}");
        assert_eq!((&entry["basis"], &entry["usage"]["images"]), (&json!("reported"), &json!(3)), "{entry}");
    });
}

#[test]
fn svg_costs_the_image_and_what_the_model_that_writes_it_used() {
    run(async {
        let house = House::with(LIMIT).await;
        let svg = json!({ "output_format": "svg", "svg": { "model": "gpt-6-luna" }, "quality": "low" });
        let answer = house.post(GENERATIONS, &[], &image(svg)).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let luna = spendguard::pricing::sheet::Sheet::built_in(&[])
            .unwrap()
            .find("gpt-6-luna", 1_796_000_000)
            .unwrap();
        let rates = luna.rates(Tier::Standard, 0);
        // 50 tokens read and 700 written by the one; 4 and 272 by the other.
        let pico = 50 * rates[Class::Input] + 700 * rates[Class::Output] + 4 * 5_000_000 + 272 * 30_000_000;
        let expected = Money::from_pico_rounded_up(i128::from(pico));
        assert_eq!(answer.header("x-spendguard-cost-usd"), expected.to_string());
        let unnamed = house.post(GENERATIONS, &[], &image(json!({ "output_format": "svg" }))).await;
        assert_eq!(unnamed.status, StatusCode::FORBIDDEN, "{unnamed:?}");
    });
}

#[test]
fn without_usage_an_image_costs_its_hold_or_its_price() {
    run(async {
        let config = format!("{LIMIT}[[price]]\nmodel = \"my-painter\"\nimages = \"0.04\"\n");
        let house = House::with(&config).await;
        let unknown =
            house.post(GENERATIONS, &[("x-fake-no-usage", "1")], &image(json!({ "quality": "low" }))).await;
        assert_eq!(unknown.status, StatusCode::OK);
        let entry = last(&house).await;
        assert_eq!((&entry["basis"], &entry["cost_usd"]), (&json!("assumed"), &entry["held_usd"]), "{entry}");
        let body = json!({ "model": "my-painter", "prompt": "a cat", "n": 3 });
        let priced = house.post(GENERATIONS, &[("x-fake-no-usage", "1")], &body).await;
        assert_eq!(priced.header("x-spendguard-cost-usd"), "0.12", "{priced:?}");
        let entry = last(&house).await;
        assert_eq!((&entry["basis"], &entry["held_usd"]), (&json!("counted"), &json!("0.12")), "{entry}");
    });
}

#[test]
fn a_stream_that_ends_before_its_image_costs_the_hold() {
    run(async {
        let usage = json!({ "input_tokens": 5, "output_tokens": 272, "total_tokens": 277 });
        let partial = json!({ "type": "image_generation.partial_image", "b64_json": "AAAA" });
        let one = json!({ "type": "image_generation.completed", "b64_json": "AAAA", "usage": usage });
        for event in [partial, one] {
            let events = format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap());
            let (house, _) = guard_before(LIMIT, move |_, _| Reply::Events(events.clone())).await;
            house.post(GENERATIONS, &[], &image(json!({ "stream": true, "n": 2 }))).await;
            let entry = last(&house).await;
            assert_eq!(
                (&entry["basis"], &entry["cost_usd"]),
                (&json!("assumed"), &entry["held_usd"]),
                "{entry}"
            );
        }
    });
}

#[test]
fn an_image_beyond_the_limit_is_refused_and_the_advice_is_to_make_fewer() {
    run(async {
        let house = House::with("[[limit]]\nname = \"m\"\nwindow = \"month\"\nhard = 0.5\n").await;
        let answer = house.post(GENERATIONS, &[], &image(json!({ "n": 4 }))).await;
        assert_eq!((answer.status, &*answer.code()), (StatusCode::BAD_REQUEST, "request_cost_exceeds_limit"));
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains("Lower n"), "{message}");
        assert_eq!(house.post(GENERATIONS, &[], &image(json!({ "n": 2 }))).await.status, StatusCode::OK);
    });
}

#[test]
fn a_form_that_could_be_read_in_two_ways_is_refused() {
    run(async {
        let house = House::with(LIMIT).await;
        let model = ("model", "gpt-image-2");
        for parts in [
            &[("prompt", "x")][..],
            &[model, model],
            &[model, ("n", "1"), ("n", "10")],
            &[model, ("n", "1"), ("n[]", "10")],
            &[model, ("@n", "10")],
            &[model, ("n", "1e1")],
            &[model, ("prompt", "a\r\n--b7\nContent-Disposition: form-data; name=\"n\"\n\n10")],
        ] {
            let answer = post_form(&house, EDITS, &[], form(parts)).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{parts:?} {answer:?}");
            assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
        }
        for kind in ["multipart/form-data", "multipart/form-data; boundary=b7; boundary=b8"] {
            let bearer = format!("Bearer {}", house.key);
            let headers = [("authorization", bearer.as_str()), ("content-type", kind)];
            let answer = call(&house.proxy, Method::POST, EDITS, &headers, form(&[model])).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{kind} {answer:?}");
        }
        assert_eq!(house.fake.served().len(), 0, "nothing has gone upstream");
    });
}

#[test]
fn a_form_on_a_path_of_azure_is_of_the_deployment_in_the_path() {
    run(async {
        let house = House::with(LIMIT).await;
        let path = "/openai/deployments/gpt-image-2/images/edits?api-version=2026-01-01";
        let answer = post_form(&house, path, &[], form(&[("prompt", "a cat"), ("@image", "PNG")])).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        assert_eq!(last(&house).await["model"], "gpt-image-2");
        let both =
            post_form(&house, path, &[], form(&[("model", "gpt-image-1-mini"), ("@image", "PNG")])).await;
        assert_eq!(both.status, StatusCode::BAD_REQUEST, "{both:?}");
    });
}

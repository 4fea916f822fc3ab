//! Batches that are refused, before anything of them is sent upstream.

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use spendguard::domain::Money;

use super::{
    CHAT, Client, FIVE, LASTING, LIMIT, SHORT, SOL, bases, chat, chats, form, id, line, meter, reported,
    truth,
};
use crate::harness::{Answer, House, call, run};

const PROJECTS: &str = "[[project]]\nid = \"other\"\nname = \"Other\"\n[[limit]]\nname = \"all\"\nwindow = \"month\"\nhard = 10\n";

/// How many batches were made upstream.
async fn made(house: &House) -> usize {
    let list =
        call(&house.fake_direct, Method::GET, "/v1/batches?limit=1000", &[], Bytes::new()).await.json();
    list["data"].as_array().unwrap().len()
}

/// The text of a refusal, which is one of OpenAI's shape with this status. Upstream has no batch and nothing is held.
async fn text(house: &House, answer: &Answer, status: u16) -> String {
    assert_eq!(answer.status.as_u16(), status, "{answer:?}");
    let error = answer.json()["error"].clone();
    assert!(
        error["type"].is_string() && error.get("param").is_some() && error.get("code").is_some(),
        "{error}"
    );
    assert_eq!(made(house).await, 0);
    assert_eq!(meter(house, "all").await.1, Money::ZERO);
    error["message"].as_str().unwrap().to_owned()
}

async fn key_of_other(house: &House) -> String {
    let made = house.make_key(json!({ "name": "stranger", "project_id": "other" })).await;
    made["value"].as_str().unwrap().to_owned()
}

#[test]
fn a_batch_that_does_not_fit_beside_others_is_refused_and_fits_once_they_are_settled() {
    run(async {
        // Five lines are held at 7.5 thousandths of a dollar for their output, and at no more than 1.7 for their input.
        let config =
            "[guard]\nhold_wait = \"100ms\"\n[[limit]]\nname = \"all\"\nwindow = \"month\"\nhard = 0.021\n";
        let house = House::with(config).await;
        let client = Client::of(&house);
        let file = client.upload(&chats(5, FIVE).concat()).await;
        let first = id(&client.create(&file, CHAT, &[SHORT]).await);
        id(&client.create(&file, CHAT, &[LASTING]).await);
        let refused = client.create(&file, CHAT, &[]).await;
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS, "{refused:?}");
        assert_eq!((refused.code().as_str(), refused.header("x-should-retry")), ("spend_limit_held", "true"));
        assert_eq!(made(&house).await, 2, "nothing was sent");
        assert_eq!(client.read(&first).await["status"], "completed");
        assert_eq!(client.create(&file, CHAT, &[]).await.status, StatusCode::OK);
    });
}

#[test]
fn a_batch_is_refused_for_good_where_the_limit_is_used_up_or_smaller_than_the_batch() {
    run(async {
        let house = House::with("[[limit]]\nname = \"all\"\nwindow = \"month\"\nhard = 0.004\n").await;
        let client = Client::of(&house);
        let file = client.upload(&chats(3, FIVE).concat()).await;
        let larger = client.create(&file, CHAT, &[]).await;
        text(&house, &larger, 400).await;
        assert_eq!(larger.code(), "request_cost_exceeds_limit", "{larger:?}");
        // Two lines fit, and cost something; then two do not fit any more.
        let batch = client.begin(&chats(2, FIVE), &[SHORT]).await;
        assert_eq!(client.read(&batch).await["status"], "completed");
        let full = client.begin(&chats(1, FIVE), &[SHORT, ("x-fake-completion-tokens", "100")]).await;
        assert_eq!(client.read(&full).await["status"], "completed");
        let file = client.upload(&chats(2, FIVE).concat()).await;
        let refused = client.create(&file, CHAT, &[]).await;
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS, "{refused:?}");
        assert_eq!(refused.header("x-should-retry"), "false");
        assert_eq!(refused.json()["error"]["type"], "insufficient_quota");
        assert_eq!(made(&house).await, 2, "nothing was sent");
    });
}

#[test]
fn a_line_with_a_model_that_the_key_may_not_use_is_named() {
    run(async {
        let house = House::with(LIMIT).await;
        let narrow = house.make_key(json!({ "name": "narrow", "models": ["gpt-5*"] })).await;
        let client = Client::with_key(&house.proxy, narrow["value"].as_str().unwrap());
        let file = client.upload(&[chat("a", FIVE), chat("b", FIVE), chat("c", SOL)].concat()).await;
        let refused = client.create(&file, CHAT, &[]).await;
        let text = text(&house, &refused, 403).await;
        assert_eq!(refused.code(), "model_not_found");
        assert!(text.contains(SOL) && text.to_lowercase().contains("line 3"), "{text}");
        let allowed = client.upload(&chats(2, FIVE).concat()).await;
        assert_eq!(client.create(&allowed, CHAT, &[SHORT]).await.status, StatusCode::OK);
    });
}

#[test]
fn a_line_whose_model_has_no_price_is_named_where_a_limit_is_in_dollars() {
    run(async {
        let house = House::with(LIMIT).await;
        let client = Client::of(&house);
        let file = client.upload(&[chat("a", SOL), chat("b", "model-of-tomorrow")].concat()).await;
        let refused = client.create(&file, CHAT, &[]).await;
        let text = text(&house, &refused, 403).await;
        assert_eq!(refused.code(), "model_not_priced");
        assert!(text.contains("model-of-tomorrow") && text.to_lowercase().contains("line 2"), "{text}");
    });
}

#[test]
fn a_path_that_is_refused_to_requests_is_refused_to_batches_with_its_reason() {
    run(async {
        let house = House::with(LIMIT).await;
        let client = Client::of(&house);
        let film = line("a", "/v1/videos", &json!({ "model": "sora-2", "prompt": "a cat" }));
        let file = client.upload(&film).await;
        let refused = client.create(&file, "/v1/videos", &[]).await;
        let text = text(&house, &refused, 403).await;
        assert_eq!(refused.code(), "endpoint_not_allowed");
        assert!(text.contains("/v1/videos"), "{text}");
    });
}

#[test]
fn a_file_that_is_no_batch_is_refused_with_the_line_and_the_fault() {
    let good = chat("a", SOL);
    let with = |field: &str, value: Value| {
        let mut line: Value = serde_json::from_str(&chat("b", SOL)).unwrap();
        line[field] = value;
        format!("{good}{line}\n")
    };
    let cases = [
        (format!("{good}{{\"custom_id\": \"b\", \n"), "line 2"),
        (format!("{good}\"text\"\n"), "line 2"),
        (with("url", json!("/v1/responses")), "line 2"),
        (with("body", json!([])), "line 2"),
        (with("body", json!({ "messages": [] })), "line 2"),
        (String::new(), ""),
        ((0..50_001).map(|at| chat(&at.to_string(), SOL)).collect(), "50000"),
    ];
    run(async {
        let house = House::with(LIMIT).await;
        let client = Client::of(&house);
        for (content, names) in &cases {
            let file = client.upload(content).await;
            let refused = client.create(&file, CHAT, &[]).await;
            let text = text(&house, &refused, 400).await;
            assert!(text.to_lowercase().replace(',', "").contains(names), "{names}: {text}");
        }
        let allowed = client.upload(&good).await;
        assert_eq!(client.create(&allowed, CHAT, &[]).await.status, StatusCode::OK);
    });
}

#[test]
fn a_line_with_an_object_of_another_project_is_refused_as_if_there_were_none() {
    run(async {
        let house = House::with(PROJECTS).await;
        let client = Client::of(&house);
        let body = json!({ "model": SOL, "input": "hello", "max_output_tokens": 20 });
        let response = id(&client.post("/v1/responses", &[], &body).await);
        let key = key_of_other(&house).await;
        let stranger = Client::with_key(&house.proxy, &key);
        let mut more = body.clone();
        more["previous_response_id"] = json!(response);
        let lines = line("a", "/v1/responses", &body) + &line("b", "/v1/responses", &more);
        let file = stranger.upload(&lines).await;
        let refused = stranger.create(&file, "/v1/responses", &[]).await;
        let text = text(&house, &refused, 404).await;
        assert!(text.contains(&response) && text.to_lowercase().contains("line 2"), "{text}");
        // Its own project may.
        let own = client.upload(&lines).await;
        assert_eq!(client.create(&own, "/v1/responses", &[SHORT]).await.status, StatusCode::OK);
    });
}

#[test]
fn a_file_of_another_project_is_not_there() {
    run(async {
        let house = House::with(PROJECTS).await;
        let file = Client::of(&house).upload(&chats(1, SOL).concat()).await;
        let key = key_of_other(&house).await;
        let stranger = Client::with_key(&house.proxy, &key);
        let foreign = stranger.create(&file, CHAT, &[]).await;
        let foreign = text(&house, &foreign, 404).await;
        let unknown = stranger.create("file-0000000000000000", CHAT, &[]).await;
        let unknown = text(&house, &unknown, 404).await;
        assert_eq!(foreign.replace(&file, "file-0000000000000000"), unknown, "its existence leaks");
    });
}

/// A file that upstream has, and that did not pass the guard.
async fn sent_around(house: &House, content: &str) -> String {
    let headers = [("content-type", "multipart/form-data; boundary=b7")];
    let form = form(&[("purpose", b"batch"), ("@file", content.as_bytes())]);
    id(&call(&house.fake_direct, Method::POST, "/v1/files", &headers, form).await)
}

#[test]
fn a_file_that_did_not_pass_the_guard_is_refused_with_the_remedy_or_read_first_where_that_is_configured() {
    const SHARED: &str = "[endpoints]\nshared_objects = true\n";
    run(async {
        let lines = chats(3, SOL).concat();
        let house = House::with(&format!("{SHARED}{LIMIT}")).await;
        let file = sent_around(&house, &lines).await;
        let refused = Client::of(&house).create(&file, CHAT, &[]).await;
        assert!(refused.status.is_client_error(), "{refused:?}");
        let text = text(&house, &refused, refused.status.as_u16()).await;
        assert!(text.contains("fetch_batch_files"), "{text}");

        let house = House::with(&format!("{SHARED}{LIMIT}[guard]\nfetch_batch_files = true\n")).await;
        let client = Client::of(&house);
        let file = sent_around(&house, &lines).await;
        let batch = id(&client.create(&file, CHAT, &[SHORT]).await);
        assert!(meter(&house, "all").await.1 > Money::from_nano(3 * 100 * 5_000));
        assert_eq!(client.read(&batch).await["status"], "completed");
        assert_eq!(meter(&house, "all").await, (truth(&house), Money::ZERO));
        assert_eq!(bases(&house).await, reported());
        let broken = sent_around(&house, "{\n").await;
        let refused = client.create(&broken, CHAT, &[]).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{refused:?}");
    });
}

//! What a request holds: never less than it can cost, and no more than it has to.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::StatusCode;
use serde_json::{Value, json};

use crate::harness::{House, call, run};
use crate::scripted::{Reply, guard_before, response};

/// The budget of the README.
const MONTHLY: &str = "[[limit]]\nname = \"m\"\nwindow = \"month\"\nsoft = [12.00]\nhard = 24.00\n";

/// The input of a request that is answered, so that others can continue its answer.
const FIRST_INPUT: &str = "a first question";
/// The id of that answer.
const FIRST_ID: &str = "resp_1";

/// How many of `count` requests are upstream at once, none of them answered.
async fn at_once(path: &'static str, body: Value, count: usize) -> usize {
    let (house, asked) = guard_before(MONTHLY, |path, body| {
        if body["input"] == FIRST_INPUT {
            return Reply::Json(response("gpt-6.1-sol", 3_000, 500));
        }
        if path.ends_with("/input_tokens") {
            if body["previous_response_id"].is_string() {
                // No count is needed: what the ledger knows of that answer is enough.
                return Reply::Json(json!({}));
            }
            // As OpenAI's tokenizers count plain English. Base64 makes up for the pictures of a
            // document's pages.
            return Reply::Json(
                json!({ "object": "response.input_tokens", "input_tokens": text_bytes(body) / 4 }),
            );
        }
        Reply::Silence
    })
    .await;
    if body["previous_response_id"] == FIRST_ID {
        let first = json!({ "model": body["model"], "input": FIRST_INPUT });
        assert_eq!(house.post(path, &[], &first).await.status, StatusCode::OK);
        asked.borrow_mut().clear();
    }
    let bearer = format!("Bearer {}", house.key);
    let bytes = bytes::Bytes::from(body.to_string());
    let refused = std::rc::Rc::new(std::cell::Cell::new(0));
    for _ in 0..count {
        let (proxy, bearer, bytes) = (house.proxy.clone(), bearer.clone(), bytes.clone());
        let refused = std::rc::Rc::clone(&refused);
        tokio::task::spawn_local(async move {
            let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
            let answer = call(&proxy, http::Method::POST, path, &headers, bytes).await;
            assert_ne!(answer.status, StatusCode::OK);
            refused.set(refused.get() + 1);
        });
    }
    let upstream = || asked.borrow().iter().filter(|(path, _)| !path.ends_with("/input_tokens")).count();
    for _ in 0..1_000 {
        if upstream() + refused.get() == count {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    upstream()
}

/// Bytes of all strings of a JSON value.
fn text_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(list) => list.iter().map(text_bytes).sum(),
        Value::Object(members) => members.values().map(text_bytes).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

/// Plain English of so many tokens.
pub(crate) fn english(tokens: usize) -> String {
    "all the words of a text ".repeat(tokens / 6)
}

pub(crate) fn chat_of(model: &str, tokens: usize) -> Value {
    json!({ "model": model, "messages": [{ "role": "user", "content": english(tokens) }] })
}

pub(crate) fn response_with(model: &str, tool: Value) -> Value {
    json!({ "model": model, "input": english(500), "tools": [tool] })
}

/// A document of so many pages, each with so many tokens of text, inline.
fn document(pages: usize, page_tokens: usize) -> Value {
    let file = oracle::media::pdf_file(pages, &english(page_tokens));
    let data = format!("data:application/pdf;base64,{}", BASE64_STANDARD.encode(file));
    json!([{ "role": "user", "content": [
        { "type": "input_file", "filename": "a.pdf", "file_data": data },
        { "type": "input_text", "text": "What does it say?" },
    ] }])
}

/// A question about a part, to a model of an unpublished vocabulary.
fn chat_with(part: Value) -> Value {
    let question = json!({ "type": "text", "text": "What does it show?" });
    json!({ "model": "gpt-6.1-sol", "messages": [{ "role": "user", "content": [question, part] }] })
}

/// A document that only upstream can read.
fn letter() -> Value {
    let kind = "application/vnd.openxmlformats-officedocument.wordprocessingml.document";
    let data = BASE64_STANDARD.encode([&b"PK\x03\x04"[..], &[7; 3_000]].concat());
    json!({ "type": "file", "file": { "filename": "a.docx", "file_data": format!("data:{kind};base64,{data}") } })
}

macro_rules! fit_at_once {
    ($($name:ident: $path:literal, $body:expr, $least:literal;)*) => { $(
        #[test]
        fn $name() {
            run(async {
                let upstream = at_once($path, $body, $least).await;
                assert_eq!(upstream, $least, "all of them fit at once");
            });
        }
    )* };
}

fit_at_once! {
    a_hundred_chats_fit_a_small_budget: "/v1/chat/completions", chat_of("gpt-5", 3_000), 100;
    a_hundred_chats_of_an_unpublished_vocabulary_fit_it: "/v1/chat/completions", chat_of("gpt-6.1-sol", 3_000), 100;
    six_chats_of_the_dearest_model_fit_it: "/v1/chat/completions", chat_of("gpt-5.5-pro", 3_000), 6;
    twenty_agents_with_a_long_context_fit_it: "/v1/responses",
        json!({ "model": "gpt-6.1-sol", "input": english(200_000) }), 20;
    twelve_web_searches_fit_it: "/v1/responses", response_with("gpt-6.1-sol", json!({ "type": "web_search" })), 12;
    twelve_mcp_tools_fit_it: "/v1/responses",
        response_with("gpt-6.1-sol", json!({ "type": "mcp", "server_label": "s", "server_url": "https://mcp.example" })), 12;
    a_hundred_code_interpreters_fit_it: "/v1/responses",
        response_with("gpt-5-mini", json!({ "type": "code_interpreter", "container": { "type": "auto" } })), 100;
    twelve_image_tools_fit_it: "/v1/responses", response_with("gpt-5-mini", json!({ "type": "image_generation" })), 12;
    a_hundred_that_continue_an_answer_fit_it: "/v1/responses",
        json!({ "model": "gpt-6.1-sol", "previous_response_id": FIRST_ID, "input": english(100) }), 100;
    a_hundred_chats_with_a_picture_by_url_fit_it: "/v1/chat/completions", chat_with(picture("https://example.com/a.png")), 100;
    a_hundred_chats_with_a_letter_fit_it: "/v1/chat/completions", chat_with(letter()), 100;
    forty_documents_of_ten_pages_fit_it: "/v1/responses", json!({ "model": "gpt-6.1-sol", "input": document(10, 500) }), 40;
}

/// A house with one limit, before an upstream that answers with this usage.
pub(crate) async fn billing(
    config: &str,
    input_tokens: u64,
    output_tokens: u64,
) -> (House, crate::scripted::Received) {
    guard_before(config, move |path, body| {
        if path.ends_with("/input_tokens") {
            return Reply::Json(json!({ "input_tokens": input_tokens }));
        }
        let model = body["model"].as_str().unwrap_or_default();
        if path.ends_with("/responses") {
            return Reply::Json(response(model, input_tokens, output_tokens));
        }
        Reply::Json(json!({
            "id": "chatcmpl-1", "object": "chat.completion", "model": model,
            "choices": [{ "index": 0, "message": { "role": "assistant", "content": "x" }, "finish_reason": "stop" }],
            "usage": { "prompt_tokens": input_tokens, "completion_tokens": output_tokens, "total_tokens": input_tokens + output_tokens },
        }))
    })
    .await
}

pub(crate) fn limit(hard: &str) -> String {
    format!("[[limit]]\nname = \"m\"\nwindow = \"month\"\nhard = {hard}\n")
}

#[test]
fn an_open_request_is_asked_for_what_it_holds() {
    run(async {
        let (house, asked) = billing(&limit("24"), 10, 10).await;
        let answer = house.post("/v1/responses", &[], &json!({ "model": "gpt-5", "input": "x" })).await;
        assert_eq!(answer.header("x-spendguard-output-bound"), "16384");
        assert_eq!(asked.borrow()[0].1["max_output_tokens"], 16_384);
        let answer = house.post("/v1/chat/completions", &[], &chat_of("gpt-5", 10)).await;
        assert_eq!(answer.header("x-spendguard-output-bound"), "16384");
        assert_eq!(asked.borrow()[1].1["max_completion_tokens"], 16_384);
        let mut bounded = chat_of("gpt-5", 10);
        bounded["max_tokens"] = json!(50);
        let answer = house.post("/v1/chat/completions", &[], &bounded).await;
        assert_eq!(answer.header("x-spendguard-output-bound"), "", "the client's own bound stands");
        assert_eq!(asked.borrow()[2].1, bounded);
        let searching = response_with("gpt-5", json!({ "type": "web_search" }));
        house.post("/v1/responses", &[], &searching).await;
        assert_eq!(asked.borrow()[3].1["max_tool_calls"], 8);
    });
}

#[test]
fn without_a_cap_requests_stay_as_they_are() {
    run(async {
        let (house, asked) = billing("", 10, 10).await;
        let body = response_with("gpt-5", json!({ "type": "web_search" }));
        let answer = house.post("/v1/responses", &[], &body).await;
        assert_eq!(answer.header("x-spendguard-output-bound"), "");
        assert_eq!(asked.borrow()[0].1, body);
    });
}

#[test]
fn an_output_default_of_zero_is_the_models_own_maximum() {
    run(async {
        let config = format!("{}[guard]\noutput_default = 0\n", limit("24"));
        let (house, asked) = billing(&config, 10, 10).await;
        house.post("/v1/responses", &[], &json!({ "model": "gpt-5", "input": "x" })).await;
        assert_eq!(asked.borrow()[0].1.get("max_output_tokens"), None);
        assert_eq!(house.entries().await[0]["held_usd"], "1.28003625");
    });
}

/// What the newest entry held, in nano-dollars.
pub(crate) async fn held_nano(house: &House) -> i64 {
    let held = house.entries().await[0]["held_usd"].as_str().unwrap().parse::<spendguard::domain::Money>();
    held.unwrap().nano()
}

/// A PNG of one colour: its header, and as many bytes more as are asked for.
pub(crate) fn png(width: u32, height: u32, filler: usize) -> String {
    let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    bytes.extend(width.to_be_bytes());
    bytes.extend(height.to_be_bytes());
    bytes.extend([8, 2, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(u32::try_from(filler).unwrap().to_be_bytes());
    bytes.extend(b"IDAT");
    bytes.resize(bytes.len() + filler, 0);
    format!("data:image/png;base64,{}", BASE64_STANDARD.encode(bytes))
}

pub(crate) fn picture(url: &str) -> Value {
    json!({ "type": "image_url", "image_url": { "url": url } })
}

#[test]
fn a_text_that_looks_like_an_image_is_counted_as_text() {
    run(async {
        let (house, _) = billing(&limit("1.00"), 885_000, 100).await;
        // Every run of letters differs, so that base64 costs what it can.
        let mixed = |n: u64| format!("{:08x}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32);
        let text = (0..160_000).map(mixed).collect::<Vec<_>>().concat();
        let body = json!({ "model": "gpt-4.1", "max_tokens": 100, "messages": [{ "role": "user", "content": [
            { "type": "text", "text": text }, picture(&png(600, 600, 1_000_000)),
        ] }] });
        let tokens = spendguard::pricing::count::text(spendguard::pricing::count::Encoding::O200k, &text);
        let answer = house.post("/v1/chat/completions", &[], &body).await;
        let cost_nano = i64::try_from(tokens).unwrap() * 2_000;
        assert!(cost_nano > 1_000_000_000, "the text alone costs more than the limit");
        assert_ne!(answer.status, StatusCode::OK, "{answer:?}");
    });
}

#[test]
fn an_image_is_held_at_what_its_pixels_cost() {
    run(async {
        let (house, _) = billing(&limit("10"), 300_000, 10).await;
        let ask = |url: String| json!({ "model": "gpt-6.1-sol", "max_completion_tokens": 10, "messages": [{ "role": "user", "content": [picture(&url)] }] });
        house.post("/v1/chat/completions", &[], &ask(png(16_000, 16_000, 40_000))).await;
        let entry = &house.entries().await[0];
        let cost = entry["cost_usd"].as_str().unwrap().parse::<spendguard::domain::Money>().unwrap();
        assert!(cost.nano() > 1_000_000_000, "{entry}");
        assert!(held_nano(&house).await >= cost.nano(), "{entry}");
        house.post("/v1/chat/completions", &[], &ask(png(640, 480, 40_000))).await;
        let entry = &house.entries().await[0];
        assert!(held_nano(&house).await < 5_000_000, "a small image holds little: {entry}");
    });
}

#[test]
fn an_escaped_image_is_an_image() {
    run(async {
        let config = "[[limit]]\nname = \"rate\"\nunit = \"tokens\"\nwindow = \"minute\"\nhard = 50_000\n";
        let (house, _) = billing(config, 800, 10).await;
        let body = json!({ "model": "gpt-4o", "max_tokens": 1_000, "messages": [{ "role": "user", "content": [picture(&png(800, 600, 300_000))] }] });
        let escaped = body.to_string().replace("image/png", "image\\/png");
        let answer = house.post_raw("/v1/chat/completions", &[], escaped.into()).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    });
}

#[test]
fn an_image_does_not_make_a_request_too_dear_when_its_output_can_be_clamped() {
    run(async {
        let config = "[[limit]]\nname = \"each\"\nwindow = \"request\"\nhard = 0.05\n";
        let (house, asked) = billing(config, 800, 10).await;
        let body = json!({ "model": "gpt-4o", "max_output_tokens": 16_000, "input": [{ "role": "user", "content": [
            { "type": "input_image", "image_url": png(800, 600, 300_000) }] }] });
        let answer = house.post("/v1/responses", &[], &body).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let clamped = asked.borrow().last().unwrap().1["max_output_tokens"].as_u64().unwrap();
        assert!((4_000..5_000).contains(&clamped), "{clamped}");
        // A request's window lasts as long as its second: no meter is kept of it.
        house.guard.core().flush().await.unwrap();
        let differences = house.books.verify().await.unwrap().differences;
        assert!(differences.is_empty(), "{differences:?}");
    });
}

#[test]
fn a_stored_prompt_is_refused_under_a_cap_unless_it_is_allowed() {
    run(async {
        let body = json!({ "model": "gpt-5", "prompt": { "id": "pmpt_1" } });
        let (house, asked) = billing(&limit("1000"), 10, 10).await;
        let answer = house.post("/v1/responses", &[], &body).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{answer:?}");
        assert!(answer.json()["error"]["message"].as_str().unwrap().contains("guard.stored_prompts"));
        assert!(asked.borrow().is_empty());
        let (house, _) = billing("", 10, 10).await;
        let answer = house.post("/v1/responses", &[], &json!({ "prompt": { "id": "pmpt_1" } })).await;
        assert_eq!(answer.status, StatusCode::OK, "a template may name the model: {answer:?}");
        let config = format!("{}[guard]\nstored_prompts = \"allow\"\n", limit("1000"));
        let (house, _) = billing(&config, 10, 10).await;
        let answer = house.post("/v1/responses", &[], &body).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        // Web search, an image at an unknown quality, a container of 64 GiB.
        assert!(held_nano(&house).await > 2_190_000_000);
    });
}

#[test]
fn hosted_calls_are_clamped_to_what_is_left() {
    run(async {
        let (house, asked) = billing(&limit("0.50"), 1_000, 100).await;
        let answer = house
            .post("/v1/responses", &[], &response_with("gpt-6.1-sol", json!({ "type": "web_search" })))
            .await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let calls = asked.borrow().last().unwrap().1["max_tool_calls"].as_u64().unwrap();
        assert!((1..8).contains(&calls), "{calls}");
        assert_eq!(answer.header("x-spendguard-clamped-tool-calls"), calls.to_string());
        assert!(held_nano(&house).await <= 500_000_000);
    });
}

#[test]
fn what_a_search_reads_is_held() {
    run(async {
        let (house, _) = billing(&limit("10"), 15_000, 100).await;
        let mut body = chat_of("gpt-5-search-api", 50);
        body["max_completion_tokens"] = json!(100);
        body["web_search_options"] = json!({});
        house.post("/v1/chat/completions", &[], &body).await;
        let entry = &house.entries().await[0];
        let cost = entry["cost_usd"].as_str().unwrap().parse::<spendguard::domain::Money>().unwrap();
        assert!(held_nano(&house).await >= cost.nano(), "{entry}");
    });
}

#[test]
fn a_large_text_that_can_not_be_paid_is_refused_and_upstream_is_not_asked() {
    run(async {
        let (house, asked) = billing(&limit("0.001"), 1, 1).await;
        let body = json!({ "model": "gpt-4o", "max_tokens": 1, "messages": [{ "role": "user", "content": "word ".repeat(7_000_000) }] });
        let answer = house.post("/v1/chat/completions", &[], &body).await;
        assert!(matches!(answer.status.as_u16(), 400 | 429), "{answer:?}");
        assert!(asked.borrow().is_empty());
    });
}

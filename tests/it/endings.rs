//! How answers end, and what each ending costs.

mod reported;

use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::bad_upstream::{Script, before, says, says_and_stays};
use crate::harness::{Answer, call, run};

const SSE: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n";
const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";
const RELEASED: &str = "release none 0";
const HELD: &str = "settle assumed held";

/// A stream of events that ends where they end.
fn stream(events: &str) -> Script {
    says(format!("{SSE}\r\n{events}"))
}

fn answers(status: &str, kind: &str, body: &str) -> Script {
    says(format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
}

fn object(body: &Value) -> Script {
    answers("200 OK", "application/json", &body.to_string())
}

fn chunk(more: Value) -> String {
    let mut chunk = json!({ "id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [] });
    chunk.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
    format!("data: {chunk}\n\n")
}

fn says_text(text: &str) -> String {
    chunk(json!({ "choices": [{ "index": 0, "delta": { "content": text }, "finish_reason": null }] }))
}

fn event(kind: &str, mut more: Value) -> String {
    more["type"] = json!(kind);
    format!("event: {kind}\ndata: {more}\n\n")
}

fn created() -> String {
    event(
        "response.created",
        json!({ "response": { "id": "resp_1", "model": "gpt-5", "status": "in_progress" } }),
    )
}

fn ending(status: &str, more: Value) -> String {
    let mut response =
        json!({ "id": "resp_1", "model": "gpt-5", "status": status, "output": [], "usage": null });
    response.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
    event(&format!("response.{status}"), json!({ "response": response }))
}

const ERROR: &str =
    "data: {\"error\":{\"message\":\"m\",\"type\":\"server_error\",\"param\":null,\"code\":null}}\n\n";

fn error_event() -> String {
    event("error", json!({ "code": "server_error", "message": "m", "param": null, "sequence_number": 1 }))
}

fn asks(path: &str, model: &str, is_stream: bool) -> Value {
    let mut body = json!({ "model": model, "stream": is_stream });
    if path == CHAT {
        body["messages"] = json!([{ "role": "user", "content": "hello ".repeat(50) }]);
    } else {
        body["input"] = json!("hello ".repeat(50));
    }
    body
}

/// Asks once; the answer, and how the hold ended: kind, basis and cost, which is
/// `held` if it is the hold.
async fn ended(path: &str, body: &Value, script: Script) -> (Answer, String) {
    let (house, _) = before(script, "").await;
    let answer = house.post(path, &[], body).await;
    house.settled().await;
    let entries = house.entries().await;
    assert_eq!(entries.len(), 1, "{entries:?}");
    // There are many, one after the other.
    house.close().await;
    let entry = &entries[0];
    let text = |field: &str| entry[field].as_str().unwrap_or("none");
    let cost = if entry["cost_usd"] == entry["held_usd"] { "held" } else { text("cost_usd") };
    (answer, format!("{} {} {cost}", text("kind"), text("basis")))
}

/// Checks what streams cost that were asked of a model.
async fn check(path: &str, model: &str, cases: Vec<(&str, Script, &str)>) {
    for (name, script, expected) in cases {
        let (answer, end) = ended(path, &asks(path, model, true), script).await;
        let matches =
            end == expected || (expected.ends_with('…') && end.starts_with(expected.trim_end_matches('…')));
        assert!(matches, "{model}, {name}: {end} and not {expected}: {answer:?}");
    }
}

#[test]
fn an_error_before_any_output_within_a_200_is_free() {
    run(async {
        let role =
            chunk(json!({ "choices": [{ "index": 0, "delta": { "role": "assistant", "content": "" } }] }));
        for model in ["gpt-5", "gpt-4o-mini"] {
            let cases = vec![
                ("an error first", stream(ERROR), RELEASED),
                ("an error by its event", stream(&format!("event: error\n{ERROR}")), RELEASED),
                ("an error beside choices", stream(&chunk(json!({ "error": { "message": "m" } }))), RELEASED),
                ("an error after the role", stream(&format!("{role}{ERROR}data: [DONE]\n\n")), RELEASED),
            ];
            check(CHAT, model, cases).await;
            let failed = ending("failed", json!({ "error": { "code": "server_error", "message": "m" } }));
            let cases = vec![
                ("failed first", stream(&failed), RELEASED),
                ("failed after it was created", stream(&format!("{}{failed}", created())), RELEASED),
                ("an error first", stream(&error_event()), RELEASED),
                ("an error without a type", stream(ERROR), RELEASED),
                (
                    "an error of its own type",
                    stream("event: error\ndata: {\"type\":\"server_error\"}\n\n"),
                    RELEASED,
                ),
            ];
            check(RESPONSES, model, cases).await;
            for path in [CHAT, RESPONSES] {
                let error = json!({ "error": { "message": "m", "type": "server_error", "param": null, "code": null } });
                let (answer, end) = ended(path, &asks(path, model, false), object(&error)).await;
                assert_eq!((answer.status, end.as_str()), (StatusCode::OK, RELEASED));
                assert_eq!(answer.header("x-spendguard-cost-usd"), "0");
            }
        }
    });
}

#[test]
fn a_stream_that_fails_after_output_is_charged_its_hold_if_the_model_may_reason() {
    run(async {
        let (text, bound) = (
            says_text("hi"),
            chunk(json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "length" }] })),
        );
        let cases = |plain: &'static str| {
            let end = |hold: &'static str| if plain.is_empty() { hold } else { plain };
            vec![
                ("an error", stream(&format!("{text}{ERROR}")), end(HELD)),
                ("an error, and then its end", stream(&format!("{text}{ERROR}data: [DONE]\n\n")), end(HELD)),
                ("no end", stream(&text), end(HELD)),
                ("its output bound", stream(&format!("{text}{bound}data: [DONE]\n\n")), end(HELD)),
                ("nothing at all", stream(""), end(HELD)),
                ("no event stream", answers("200 OK", "text/html", "<html>welcome</html>"), end(HELD)),
                ("done", stream(&format!("{text}data: [DONE]\n\n")), "settle counted …"),
            ]
        };
        check(CHAT, "gpt-5", cases("")).await;
        check(CHAT, "gpt-4o-mini", cases("settle counted …")).await;
    });
}

#[test]
fn spoken_output_without_usage_is_charged_its_hold_however_it_ends() {
    run(async {
        let mut asked = asks(CHAT, "gpt-audio", true);
        asked["modalities"] = json!(["text", "audio"]);
        asked["audio"] = json!({ "voice": "alloy", "format": "pcm16" });
        let sound = chunk(
            json!({ "choices": [{ "index": 0, "delta": { "audio": { "id": "a", "data": "UklG" } } }] }),
        );
        for end in ["", ERROR, "data: [DONE]\n\n"] {
            let (_, end) = ended(CHAT, &asked, stream(&format!("{sound}{end}"))).await;
            assert_eq!(end, HELD);
        }
    });
}

#[test]
fn a_response_that_does_not_end_well_without_usage_is_charged_its_hold() {
    run(async {
        let delta = event("response.output_text.delta", json!({ "delta": "hi" }));
        let summary = event("response.reasoning_summary_text.delta", json!({ "delta": "hm" }));
        let item =
            event("response.output_item.added", json!({ "item": { "type": "reasoning", "id": "rs_1" } }));
        let part = event("response.content_part.added", json!({ "item_id": "msg_1" }));
        let tool = event("response.mcp_call.in_progress", json!({ "item_id": "mcp_1" }));
        let after = |output: &str, last: &str| stream(&format!("{}{output}{last}", created()));
        let failed = ending("failed", json!({ "error": { "code": "server_error" } }));
        let incomplete =
            ending("incomplete", json!({ "incomplete_details": { "reason": "max_output_tokens" } }));
        check(
            RESPONSES,
            "gpt-5",
            vec![
                ("failed after text", after(&delta, &failed), HELD),
                ("failed after a summary", after(&summary, &failed), HELD),
                ("failed after an item was begun", after(&item, &failed), HELD),
                ("failed after a part was begun", after(&part, &failed), HELD),
                ("failed after a call was begun", after(&tool, &failed), HELD),
                ("an error after text", after(&delta, &error_event()), HELD),
                ("incomplete at once", after("", &incomplete), HELD),
                ("incomplete after text", after(&delta, &incomplete), HELD),
                ("cancelled", after(&delta, &ending("cancelled", json!({}))), HELD),
                (
                    "completed, but its status says no",
                    after(&delta, &ending("completed", json!({ "status": "incomplete" }))),
                    HELD,
                ),
                ("cut off", after(&delta, ""), HELD),
                ("completed", after(&delta, &ending("completed", json!({}))), "settle counted …"),
            ],
        )
        .await;
        for status in ["failed", "incomplete", "cancelled", "in_progress"] {
            for output in [
                json!([]),
                json!([{ "type": "message", "content": [{ "type": "output_text", "text": "hi" }] }]),
            ] {
                let body = json!({ "id": "resp_1", "object": "response", "model": "gpt-5", "status": status, "output": output, "usage": null });
                let (_, end) = ended(RESPONSES, &asks(RESPONSES, "gpt-5", false), object(&body)).await;
                assert_eq!(end, HELD, "{body}");
            }
        }
        let chat = json!({ "choices": [{ "message": { "content": "hi" }, "finish_reason": "length" }] });
        assert_eq!(ended(CHAT, &asks(CHAT, "gpt-5", false), object(&chat)).await.1, HELD);
        let html = answers("200 OK", "text/html", "<html>welcome</html>");
        assert_eq!(
            ended(CHAT, &asks(CHAT, "gpt-5", false), html).await.1,
            HELD,
            "a page in between is no answer"
        );
    });
}

#[test]
fn a_5xx_is_free_only_if_it_is_openais() {
    run(async {
        let envelope =
            json!({ "error": { "message": "m", "type": "server_error", "param": null, "code": null } })
                .to_string();
        let json = "application/json";
        let page = "<html><h1>504 Gateway Time-out</h1></html>";
        for (status, kind, body, expected) in [
            ("500 Internal Server Error", json, envelope.as_str(), RELEASED),
            ("503 Service Unavailable", json, envelope.as_str(), RELEASED),
            ("504 Gateway Time-out", "text/html", page, HELD),
            ("502 Bad Gateway", "text/html", "", HELD),
            ("500 Oops", json, "", HELD),
            ("500 Oops", json, "{}", HELD),
            ("500 Oops", json, "null", HELD),
            ("500 Oops", json, r#"{"message":"Internal server error"}"#, HELD),
            ("503 Oops", json, r#"{"error":"upstream connect error"}"#, HELD),
            ("503 Oops", json, r#"{"error":null}"#, HELD),
            ("503 Oops", json, r#"{"error":{"code":503,"message":"m","status":"UNAVAILABLE"}}"#, HELD),
            ("524 Timeout", "text/event-stream", ERROR, HELD),
            ("429 Too Many Requests", "text/html", page, RELEASED),
            ("400 Bad Request", json, "", RELEASED),
            ("408 Request Timeout", "text/html", page, RELEASED),
        ] {
            for is_stream in [false, true] {
                let (answer, end) =
                    ended(CHAT, &asks(CHAT, "gpt-4o-mini", is_stream), answers(status, kind, body)).await;
                assert_eq!(
                    (end.as_str(), answer.status.as_str()),
                    (expected, &status[..3]),
                    "{status} {body}"
                );
                assert_eq!(answer.body, body, "it is passed on as it is");
            }
        }
        let broken = says(
            "HTTP/1.1 500 Oops\r\nContent-Length: 900\r\n\r\n{\"error\":{\"message\":\"m\",\"type\":\"x\"}}",
        );
        assert_eq!(ended(CHAT, &asks(CHAT, "gpt-4o-mini", false), broken).await.1, HELD);
    });
}

#[test]
fn a_stream_is_settled_at_its_last_event_though_the_connection_stays_open() {
    run(async {
        let usage = chunk(json!({ "usage": { "prompt_tokens": 1000, "completion_tokens": 500 } }));
        let completed =
            ending("completed", json!({ "usage": { "input_tokens": 1000, "output_tokens": 500 } }));
        for (path, events) in [(CHAT, format!("{usage}data: [DONE]\n\n")), (RESPONSES, completed)] {
            let script = says_and_stays(format!("{SSE}\r\n{events}"));
            let (house, _) = before(script, "").await;
            let mut headers = http::HeaderMap::new();
            headers.insert("authorization", format!("Bearer {}", house.key).parse().unwrap());
            let body = bytes::Bytes::from(asks(path, "gpt-5", true).to_string());
            let answer = house.proxy.send(Method::POST, path, headers, body).await.unwrap();
            let mut body = answer.into_body();
            body.frame().await.unwrap().unwrap();
            let more = tokio::time::timeout(std::time::Duration::from_millis(300), body.frame()).await;
            assert!(more.is_err(), "the connection stays open");
            house.settled().await;
            let entry = &house.entries().await[0];
            assert_eq!(
                (&entry["basis"], &entry["cost_usd"]),
                (&json!("reported"), &json!("0.00625")),
                "{entry}"
            );
            assert_eq!(entry["disconnected"], false);
        }
    });
}

#[test]
fn every_post_is_booked_though_its_id_was_seen_and_reading_it_again_is_free() {
    run(async {
        let usage = json!({ "input_tokens": 1000, "output_tokens": 100 });
        let body =
            json!({ "id": "resp_1", "model": "gpt-5", "status": "completed", "output": [], "usage": usage });
        let (house, _) = before(object(&body), "").await;
        for _ in 0..2 {
            house.post(RESPONSES, &[], &asks(RESPONSES, "gpt-5", false)).await;
            assert_eq!(house.entries().await[0]["cost_usd"], "0.00225");
        }
        let bearer = format!("Bearer {}", house.key);
        let headers = [("authorization", bearer.as_str())];
        let again =
            call(&house.proxy, Method::GET, "/v1/responses/resp_1", &headers, bytes::Bytes::new()).await;
        assert_eq!(again.json()["usage"], body["usage"]);
        let entries = house.entries().await;
        assert_eq!((entries.len(), &entries[0]["cost_usd"]), (3, &json!("0")), "{entries:?}");
    });
}

#[test]
fn every_answer_has_a_request_id() {
    run(async {
        let usage = chunk(json!({ "usage": { "prompt_tokens": 1, "completion_tokens": 1 } }));
        for (script, expected) in [
            (object(&json!({ "usage": null })), "req_"),
            (answers("400 Bad Request\r\nX-Request-Id: req_upstreams", "text/plain", "no"), "req_upstreams"),
            (answers("504 Late", "text/html", "no"), "req_"),
            (answers("200 OK\r\nX-Request-Id: ", "application/json", "{}"), "req_"),
            (stream(&usage), "req_"),
            (says(""), "req_"),
        ] {
            let (house, _) = before(script, "").await;
            let answer = house.post(CHAT, &[], &asks(CHAT, "gpt-4o-mini", true)).await;
            assert!(answer.header("x-request-id").starts_with(expected), "{expected}: {answer:?}");
            let bearer = format!("Bearer {}", house.key);
            for (path, headers) in [
                ("/v1/models", vec![("authorization", bearer.as_str())]),
                ("/v1/spendguard/me", vec![("authorization", bearer.as_str())]),
                ("/v1/models", vec![]),
                ("/", vec![]),
                ("/livez", vec![]),
            ] {
                let answer = call(&house.proxy, Method::GET, path, &headers, bytes::Bytes::new()).await;
                assert!(answer.header("x-request-id").starts_with("req_"), "{path}: {answer:?}");
            }
        }
    });
}

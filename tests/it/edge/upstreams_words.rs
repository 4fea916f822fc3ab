//! What upstream says of the account that pays, and who hears it.

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::edge::Scripted;
use crate::harness::{House, UPSTREAM_KEY, call, chat, run};

const SECRETS: [&str; 4] = ["org-Acme0123", "proj_Main0123", "sk-proj-ab12", UPSTREAM_KEY];

fn error(code: &str) -> Value {
    let message = format!(
        "Rate limit reached for gpt-4o-mini in organization org-Acme0123 and project proj_Main0123 with sk-proj-ab12 \
         and {UPSTREAM_KEY} on tokens per min (TPM): Limit 5."
    );
    json!({ "error": { "message": message, "type": "tokens", "param": null, "code": code } })
}

fn hides_all(text: &str) {
    for secret in SECRETS {
        assert!(!text.contains(secret), "{secret} is in {text}");
    }
}

#[test]
fn errors_of_upstream_name_neither_its_account_nor_its_key() {
    run(async {
        for status in ["400 Bad Request", "403 Forbidden", "404 Not Found", "429 Too Many Requests", "500 Oh"]
        {
            let upstream = Scripted::says_json(status, &error("rate_limit_exceeded")).await;
            let house = House::in_front_of(Some(&upstream.base_url), Some(UPSTREAM_KEY), "").await;
            let bearer = format!("Bearer {}", house.key);
            let headers = [("authorization", bearer.as_str())];
            let free = call(&house.proxy, Method::GET, "/v1/models", &headers, Bytes::new()).await;
            for answer in [house.chat(&[], json!({})).await, free] {
                assert_eq!(answer.status.as_str(), &status[..3]);
                hides_all(&String::from_utf8_lossy(&answer.body));
                let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
                assert!(
                    message.starts_with("Rate limit reached for gpt-4o-mini in organization org-*** and"),
                    "{message}"
                );
                assert!(message.ends_with("on tokens per min (TPM): Limit 5."), "{message}");
                assert_eq!(answer.code(), "rate_limit_exceeded");
            }
        }
    });
}

#[test]
fn errors_within_a_stream_are_masked_and_the_rest_is_as_it_came() {
    run(async {
        let usual = "data: {\"choices\":[{\"delta\":{\"content\":\"org-Chart sk-learn\"}}]}\n\n";
        let failed = format!("event: error\ndata: {}\n\n", error("server_error"));
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
        let upstream = Scripted::says(format!("{head}{usual}{failed}")).await;
        let house = House::in_front_of(Some(&upstream.base_url), Some(UPSTREAM_KEY), "").await;
        let answer = house.chat(&[], json!({ "stream": true })).await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(text.starts_with(usual), "{text}");
        assert!(
            text.contains("event: error\ndata: {") && text.contains("organization org-*** and"),
            "{text}"
        );
        hides_all(&text.replace(UPSTREAM_KEY, "sk-***"));
    });
}

#[test]
fn a_failed_response_is_masked_too() {
    run(async {
        let mut response = json!({ "id": "resp_1", "object": "response", "status": "failed", "model": "gpt-5", "output": [] });
        response["error"] = error("server_error")["error"].clone();
        let upstream = Scripted::says_json("200 OK", &response).await;
        let house = House::in_front_of(Some(&upstream.base_url), Some(UPSTREAM_KEY), "").await;
        let answer = house.post("/v1/responses", &[], &json!({ "model": "gpt-5", "input": "x" })).await;
        assert_eq!(answer.status, StatusCode::OK);
        hides_all(&String::from_utf8_lossy(&answer.body));
        assert_eq!(answer.json()["status"], "failed");
    });
}

#[test]
fn that_upstream_refuses_the_guards_key_is_no_fault_of_the_client() {
    run(async {
        let upstream = Scripted::says_json("401 Unauthorized", &error("invalid_api_key")).await;
        let house = House::in_front_of(Some(&upstream.base_url), Some(UPSTREAM_KEY), "").await;
        let bearer = format!("Bearer {}", house.key);
        let free =
            call(&house.proxy, Method::GET, "/v1/models", &[("authorization", &bearer)], Bytes::new()).await;
        for answer in [house.chat(&[], json!({})).await, free] {
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (StatusCode::BAD_GATEWAY, "upstream_key_refused")
            );
            assert_eq!(
                (answer.header("x-should-retry"), &answer.json()["error"]["type"]),
                ("false", &json!("server_error"))
            );
            hides_all(&String::from_utf8_lossy(&answer.body));
        }
        house.settled().await;
        assert_eq!(house.entries().await[0]["cost_usd"], "0");
    });
}

#[test]
fn to_a_clients_own_key_upstream_says_what_it_says() {
    run(async {
        let said = error("invalid_api_key");
        let upstream = Scripted::says_json("401 Unauthorized", &said).await;
        let house = House::in_front_of(Some(&upstream.base_url), None, "").await;
        let headers = [("authorization", "Bearer sk-proj-own-key"), ("openai-organization", "org-own")];
        let body = Bytes::from(chat(json!({})).to_string());
        let answer = call(&house.proxy, Method::POST, "/v1/chat/completions", &headers, body).await;
        assert_eq!((answer.status, answer.json()), (StatusCode::UNAUTHORIZED, said));
        assert!(upstream.asked.borrow()[0].contains("\r\nopenai-organization: org-own\r\n"));
    });
}

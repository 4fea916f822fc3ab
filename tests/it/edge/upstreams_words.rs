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
        hides_all(&text);
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
fn free_answers_name_the_account_no_more_than_metered_ones() {
    let mut response =
        json!({ "id": "resp_1", "object": "response", "status": "failed", "model": "gpt-5", "output": [] });
    response["error"] = error("server_error")["error"].clone();
    response["tools"] = json!([{ "type": "function", "parameters": { "error": { "title": "org-chart" } } }]);
    let failed = json!({ "type": "response.failed", "response": response });
    let events = format!("event: response.failed\ndata: {failed}\n\n");
    let job = json!({ "id": "ftjob-1", "organization_id": "org-Acme0123", "error": error("x")["error"] });
    let batch = json!({ "id": "batch_1", "errors": { "object": "list", "data": [error("x")["error"]] } });
    let list = |object: &Value| json!({ "object": "list", "data": [object], "has_more": false });
    run(async move {
        for (path, kind, body) in [
            ("/v1/responses/resp_1", "application/json", response.to_string()),
            ("/v1/responses/resp_1?stream=true", "text/event-stream", events.clone()),
            ("/v1/responses/resp_1?stream=true", "text/plain", events),
            ("/v1/batches/batch_1", "application/json", batch.to_string()),
            ("/v1/batches", "application/json", list(&batch).to_string()),
            ("/v1/fine_tuning/jobs/ftjob-1", "application/json", job.to_string()),
            ("/v1/fine_tuning/jobs", "application/json", list(&job).to_string()),
        ] {
            let length = body.len();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n");
            let upstream = Scripted::says(format!("{head}Connection: close\r\n\r\n{body}")).await;
            let shared = "[endpoints]\nshared_objects = true\n";
            let house = House::in_front_of(Some(&upstream.base_url), Some(UPSTREAM_KEY), shared).await;
            let bearer = format!("Bearer {}", house.key);
            let answer =
                call(&house.proxy, Method::GET, path, &[("authorization", &bearer)], Bytes::new()).await;
            assert_eq!(answer.status, StatusCode::OK, "{path}");
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            hides_all(&text);
            let expected = SECRETS.iter().fold(body, |text, secret| {
                let kind =
                    ["org-", "proj_", "sk-"].into_iter().find(|kind| secret.starts_with(kind)).unwrap();
                text.replace(secret, &format!("{kind}***"))
            });
            assert_eq!(text.replace(" and *** on ", " and sk-*** on "), expected, "{path} {kind}");
        }
    });
}

#[test]
fn a_files_content_and_items_pass_as_they_are() {
    run(async {
        let text = "{\"error\":{\"message\":\"edit proj_dir/x.py\"},\"organization_id\":\"org-mode\"}";
        let upstream = Scripted::says(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n{text}"
        ))
        .await;
        let shared = "[endpoints]\nshared_objects = true\n";
        let house = House::in_front_of(Some(&upstream.base_url), Some(UPSTREAM_KEY), shared).await;
        let bearer = format!("Bearer {}", house.key);
        for path in ["/v1/files/file-1/content", "/v1/conversations/conv_1/items/i_1"] {
            let answer =
                call(&house.proxy, Method::GET, path, &[("authorization", &bearer)], Bytes::new()).await;
            assert_eq!(String::from_utf8_lossy(&answer.body), text, "{path}");
        }
    });
}

#[test]
fn a_stream_without_a_content_type_is_masked_too() {
    run(async {
        let failed = format!("data: {}\n\n", error("server_error"));
        let upstream = Scripted::says(format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{failed}")).await;
        let house = House::in_front_of(Some(&upstream.base_url), Some(UPSTREAM_KEY), "").await;
        let answer = house.chat(&[], json!({ "stream": true })).await;
        hides_all(&String::from_utf8_lossy(&answer.body));
    });
}

#[test]
fn a_schema_with_a_field_named_error_leaves_the_answer_as_it_came() {
    run(async {
        let arguments = "edit proj_dir/x.py, then org-mode and sk-learn";
        let parameters = json!({ "type": "object", "properties": { "error": { "type": "string" } } });
        let response = json!({
            "id": "resp_1", "object": "response", "status": "completed", "model": "gpt-5", "error": null,
            "output": [{ "type": "function_call", "name": "edit", "arguments": arguments }],
            "tools": [{ "type": "function", "name": "edit", "parameters": parameters }],
            "usage": { "input_tokens": 5, "output_tokens": 5, "total_tokens": 10 },
        });
        let upstream = Scripted::says_json("200 OK", &response).await;
        let house = House::in_front_of(Some(&upstream.base_url), Some(UPSTREAM_KEY), "").await;
        let asked = json!({ "model": "gpt-5", "input": "x", "tools": response["tools"] });
        let answer = house.post("/v1/responses", &[], &asked).await;
        assert_eq!(answer.json(), response);
        let created = json!({ "type": "response.created", "response": response });
        let completed = json!({ "type": "response.completed", "response": response });
        let events = format!("data: {created}\n\ndata: {completed}\n\n");
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
        let upstream = Scripted::says(format!("{head}{events}")).await;
        let house = House::in_front_of(Some(&upstream.base_url), Some(UPSTREAM_KEY), "").await;
        let mut streamed = asked.clone();
        streamed["stream"] = json!(true);
        let answer = house.post("/v1/responses", &[], &streamed).await;
        assert_eq!(String::from_utf8_lossy(&answer.body), events);
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

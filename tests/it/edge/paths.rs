//! Paths: health, wrong base URLs, clients of Azure, methods, upgrades.

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::json;

use crate::attack::Target;
use crate::edge::{ask, last};
use crate::harness::{House, call, chat, run};

#[test]
fn balancers_ask_for_health_without_a_key() {
    run(async {
        let house = House::with("").await;
        for path in ["/livez", "/readyz", "/healthz"] {
            let answer = ask(&house, Method::GET, path, &[]).await;
            assert_eq!((answer.status, answer.body.as_ref()), (StatusCode::OK, b"ok\n".as_slice()), "{path}");
            assert_eq!(ask(&house, Method::HEAD, path, &[]).await.status, StatusCode::OK, "{path}");
            assert_eq!(ask(&house, Method::POST, path, &[]).await.status, StatusCode::UNAUTHORIZED, "{path}");
        }
    });
}

#[test]
fn a_wrong_base_url_is_reported_and_can_not_be_allowed() {
    run(async {
        let house = House::with("[endpoints]\nallow = [\"POST /v1/images/variations\"]\n").await;
        for (path, shown) in [
            ("/v1/v1/chat/completions", "/v1/v1/chat/completions"),
            ("//v1/chat/completions", "//v1/chat/completions"),
            ("/v1//chat/completions", "/v1//chat/completions"),
            ("/api/v1/chat/completions", "/api/v1/chat/completions"),
            ("/v1/chat/completions/", "/v1/chat/completions/"),
            ("/V1/chat/completions", "/V1/chat/completions"),
            ("/v1/chat/completions/chat/completions", "/v1/chat/completions/chat/completions"),
            ("/v1/v1/responses", "/v1/v1/responses"),
        ] {
            let answer = house.post(path, &[], &chat(json!({}))).await;
            let error = &answer.json()["error"];
            assert_eq!(
                (answer.status, &error["type"]),
                (StatusCode::NOT_FOUND, &json!("invalid_request_error")),
                "{path}"
            );
            let message = error["message"].as_str().unwrap();
            assert!(message.starts_with(&format!("Invalid URL (POST {shown})")), "{message}");
            assert!(message.contains("/v1, as in http://"), "{message}");
        }
        let other = house.post("/v1/audio/voices", &[], &json!({})).await;
        assert_eq!((other.status, other.code().as_str()), (StatusCode::FORBIDDEN, "endpoint_not_allowed"));
        assert!(house.fake.served().is_empty(), "nothing was forwarded");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.toml");
        for entry in ["POST /v1/v1/chat/completions", "POST /v1//responses", "GET /v1/models/"] {
            std::fs::write(&file, format!("[endpoints]\nallow = [{entry:?}]\n")).unwrap();
            let refused = spendguard::config::load(Some(&file), []).unwrap_err().to_string();
            assert!(refused.contains("endpoints.allow") && refused.contains("base URL"), "{refused}");
        }
    });
}

#[test]
fn azures_clients_are_served_by_the_deployments_model() {
    run(async {
        let house = House::with("").await;
        let headers = [("api-key", house.key.as_str()), ("content-type", "application/json")];
        let post = async |path: &str, body: serde_json::Value| {
            call(&house.proxy, Method::POST, path, &headers, Bytes::from(body.to_string())).await
        };
        let messages = json!({ "messages": [{ "role": "user", "content": "hello" }] });
        let path = "/openai/deployments/gpt-4o-mini/chat/completions?api-version=2024-10-21";
        assert_eq!(post(path, messages.clone()).await.status, StatusCode::OK);
        let seen = last(&house).await;
        assert_eq!(seen["uri"], "/v1/chat/completions");
        let sent: serde_json::Value = serde_json::from_str(seen["body"].as_str().unwrap()).unwrap();
        assert_eq!((&sent["model"], &sent["messages"]), (&json!("gpt-4o-mini"), &messages["messages"]));
        let entry = &house.entries().await[0];
        assert_eq!(
            (&entry["model"], &entry["endpoint"]),
            (&json!("gpt-4o-mini"), &json!("/v1/chat/completions"))
        );
        assert_eq!(post(path, chat(json!({}))).await.status, StatusCode::OK, "it may name the same");
        let other = post(path, chat(json!({ "model": "gpt-4o" }))).await;
        assert_eq!(
            (other.status, &other.json()["error"]["param"]),
            (StatusCode::BAD_REQUEST, &json!("model"))
        );
        for (path, body) in [
            ("/openai/v1/chat/completions?api-version=preview", chat(json!({}))),
            ("/openai/v1/responses", json!({ "model": "gpt-5", "input": "hello" })),
            (
                "/openai/responses?api-version=2025-04-01-preview",
                json!({ "model": "gpt-5", "input": "hello" }),
            ),
            ("/openai/deployments/text-embedding-3-small/embeddings?api-version=1", json!({ "input": "x" })),
        ] {
            assert_eq!(post(path, body).await.status, StatusCode::OK, "{path}");
        }
        let refused = post("/openai/deployments/dall-e-2/images/variations", json!({ "prompt": "x" })).await;
        assert_eq!(refused.code(), "endpoint_not_allowed");
        let narrow = house.make_key(json!({ "name": "narrow", "models": ["gpt-5*"] })).await;
        let headers = [("api-key", narrow["value"].as_str().unwrap())];
        let body = Bytes::from(messages.to_string());
        let narrow = call(&house.proxy, Method::POST, path, &headers, body).await;
        assert_eq!(narrow.code(), "model_not_found", "a deployment is no way around a key's models");
    });
}

#[test]
fn what_may_be_read_may_be_asked_about() {
    run(async {
        let house = House::with("").await;
        let bearer = format!("Bearer {}", house.key);
        let headers = [("authorization", bearer.as_str())];
        ask(&house, Method::HEAD, "/v1/models", &headers).await;
        assert_eq!(last(&house).await["method"], "HEAD");
        let refused = ask(&house, Method::HEAD, "/v1/images/edits", &headers).await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN);
    });
}

#[test]
fn methods_without_a_body_have_none() {
    run(async {
        let house = House::with("").await;
        let target = Target::from(&house);
        for method in ["GET", "HEAD", "DELETE"] {
            let line = format!("{method} /v1/models/gpt-4o");
            let length = target.request(&line, "Content-Length: 2\r\nConnection: close\r\n", "{}");
            let te = "Transfer-Encoding: chunked\r\nConnection: close\r\n";
            let chunked = target.request(&line, te, "2\r\n{}\r\n0\r\n\r\n");
            for request in [length, chunked] {
                let answer = target.raw(&request).await;
                assert!(answer.starts_with("HTTP/1.1 400"), "{request}\n{answer}");
            }
        }
        assert_eq!(last(&house).await, json!(null), "nothing was forwarded");
        let none = target.request("GET /v1/models", "Content-Length: 0\r\nConnection: close\r\n", "");
        assert!(target.raw(&none).await.starts_with("HTTP/1.1 200"));
        let empty = target.request(
            "GET /v1/models",
            "Transfer-Encoding: chunked\r\nConnection: close\r\n",
            "0\r\n\r\n",
        );
        assert!(target.raw(&empty).await.starts_with("HTTP/1.1 200"));
    });
}

#[test]
fn a_websocket_that_is_not_served_is_refused_so_that_clients_go_on_over_http_at_once() {
    run(async {
        let house = House::with("").await;
        let target = Target::from(&house);
        let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        for path in ["/v1/chat/completions", "/v1/live/sessions"] {
            let answer = target.raw(target.request(&format!("GET {path}"), upgrade, "")).await;
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 426 "), "{answer}");
            assert!(!head.to_ascii_lowercase().contains("\nupgrade:"), "{head}");
            assert!(body.contains("\"invalid_request_error\""), "{body}");
            assert!(body.contains("A WebSocket is served at /v1/responses and /v1/realtime only"), "{body}");
        }
        let without_key = target.request("GET /v1/responses", upgrade, "").replace(&target.key, "sk-none");
        assert!(target.raw(&without_key).await.starts_with("HTTP/1.1 401"));
        let h2c = "Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n";
        let answer = target.raw(target.request("GET /v1/models", h2c, "")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "an offer may be ignored: {answer}");
    });
}

//! Headers and queries that go upstream, and keys that don't.

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::json;

use crate::edge::{ask, last};
use crate::harness::{House, UPSTREAM_KEY, call, chat, run};

/// What openai-python, openai-node and Codex send beside the key, as they send it.
const SENT: [(&str, &str); 24] = [
    ("accept", "application/json"),
    ("accept-language", "*"),
    ("content-type", "application/json"),
    ("sec-fetch-mode", "cors"),
    ("user-agent", "OpenAI/Python 3.57.0"),
    ("openai-beta", "assistants=v2"),
    ("idempotency-key", "stainless-python-retry-4d3a"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("tracestate", "vendor=1"),
    ("x-stainless-lang", "python"),
    ("x-stainless-package-version", "3.57.0"),
    ("x-stainless-os", "Linux"),
    ("x-stainless-arch", "x64"),
    ("x-stainless-runtime", "CPython"),
    ("x-stainless-runtime-version", "3.13.1"),
    ("x-stainless-async", "false"),
    ("x-stainless-retry-count", "1"),
    ("x-stainless-read-timeout", "600"),
    ("x-stainless-helper-method", "beta.chat.completions.stream"),
    ("x-client-request-id", "0198a"),
    ("originator", "codex_cli_rs"),
    ("session_id", "0198b"),
    ("conversation_id", "0198c"),
    ("x-codex-turn-metadata", "{\"sandbox\":\"none\"}"),
];

/// What clients, browsers and networks in front add, or put a key into.
const ADDED: [&str; 22] = [
    "api-key",
    "x-api-key",
    "x-goog-api-key",
    "x-auth-token",
    "cookie",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "x-amzn-trace-id",
    "via",
    "origin",
    "referer",
    "x-request-id",
    "x-http-method-override",
    "x-spendguard-note",
    "openai-organization",
    "openai-project",
    "proxy-authorization",
];

#[test]
fn what_official_clients_send_arrives_as_it_was_sent_and_nothing_else_does() {
    run(async {
        let house = House::with("").await;
        let mut headers = SENT.to_vec();
        headers.extend(ADDED.map(|name| (name, "added")));
        headers.retain(|(name, _)| *name != "content-type");
        assert_eq!(house.chat(&headers, json!({})).await.status, StatusCode::OK);
        let last = last(&house).await;
        let mut arrived = last["headers"].as_object().unwrap().clone();
        for (name, value) in SENT {
            assert_eq!(arrived.remove(name), Some(json!(value)), "{name}");
        }
        assert_eq!(arrived.remove("authorization"), Some(json!(format!("Bearer {UPSTREAM_KEY}"))));
        assert_eq!(arrived.remove("accept-encoding"), Some(json!("identity")));
        let rest: Vec<_> = arrived.keys().map(String::as_str).collect();
        assert_eq!(rest, ["content-length", "host"]);
    });
}

#[test]
fn a_virtual_key_goes_upstream_in_no_header_and_no_query() {
    run(async {
        let house = House::with("").await;
        let other = house.make_key(json!({ "name": "other" })).await["value"].as_str().unwrap().to_owned();
        for key in [house.key.clone(), other] {
            let bearer = format!("Bearer {}", house.key);
            let mut headers = vec![("authorization", bearer.as_str())];
            let names = ADDED.iter().chain(SENT.iter().map(|(name, _)| name));
            headers.extend(names.filter(|name| **name != "content-type").map(|name| (*name, key.as_str())));
            let query = format!("?limit={key}&api_key={key}&{key}=1&after=a&x={}", key.replace('-', "%2D"));
            let path = format!("/v1/models{query}");
            assert_eq!(ask(&house, Method::GET, &path, &headers).await.status, StatusCode::OK);
            let seen = last(&house).await;
            let text = seen.to_string().replace("%2D", "-");
            assert!(!text.contains(&key), "{seen}");
            assert_eq!(seen["uri"], "/v1/models?after=a");
            let path = format!("/v1/chat/completions{query}&beta=true");
            let body = Bytes::from(chat(json!({})).to_string());
            let posted = call(&house.proxy, Method::POST, &path, &headers, body).await;
            assert_eq!(posted.status, StatusCode::OK);
            let seen = last(&house).await;
            assert!(!seen.to_string().replace("%2D", "-").contains(&key), "{seen}");
            assert_eq!(seen["uri"], "/v1/chat/completions?beta=true");
        }
        let bearer = format!("Bearer {}", house.key);
        let in_path = format!("/v1/files/{}", house.key);
        let refused = ask(&house, Method::GET, &in_path, &[("authorization", &bearer)]).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    });
}

#[test]
fn parameters_of_the_api_go_on_and_unknown_ones_are_dropped() {
    run(async {
        let house = House::with("[endpoints]\nshared_objects = true\n").await;
        let bearer = format!("Bearer {}", house.key);
        let path =
            "/v1/responses/resp_1?include%5B%5D=file_search_call.results&stream=true&starting_after=7&utm=x";
        ask(&house, Method::GET, path, &[("authorization", &bearer)]).await;
        let expected =
            "/v1/responses/resp_1?include%5B%5D=file_search_call.results&stream=true&starting_after=7";
        assert_eq!(last(&house).await["uri"], expected);
    });
}

#[test]
fn a_key_is_taken_wherever_clients_put_it_and_may_have_spaces() {
    run(async {
        let house = House::with("").await;
        let made = house.make_key(json!({ "name": "sdk", "secret": "My API Key" })).await;
        assert_eq!(made["value"], "My API Key");
        // `user:My API Key`.
        let basic = "Basic dXNlcjpNeSBBUEkgS2V5";
        for (name, value) in [
            ("authorization", "Bearer My API Key"),
            ("authorization", basic),
            ("api-key", "My API Key"),
            ("x-api-key", "My API Key"),
        ] {
            let answer = ask(&house, Method::GET, "/v1/models", &[(name, value)]).await;
            assert_eq!(answer.status, StatusCode::OK, "{name}: {value}");
        }
        let protocol = format!("realtime, openai-insecure-api-key.{}", house.key);
        let headers = [("sec-websocket-protocol", protocol.as_str())];
        assert_eq!(ask(&house, Method::GET, "/v1/models", &headers).await.status, StatusCode::OK);
        let unusable = [("authorization", "Negotiate x"), ("api-key", "My API Key")];
        assert_eq!(ask(&house, Method::GET, "/v1/models", &unusable).await.status, StatusCode::OK);
        for bad in [" My API Key", "My API Key ", "ключ-ключ-ключ", "tab\there", "short"] {
            let body = Some(json!({ "name": "bad", "secret": bad }));
            let refused = house.admin(Method::POST, "/guard/v1/keys", body).await;
            assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{bad:?}");
        }
    });
}

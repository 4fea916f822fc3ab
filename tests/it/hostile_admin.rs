//! Hostile requests to the admin API: each is refused clearly, and changes nothing.

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{ADMIN_TOKEN, Answer, House, call, run};

async fn send(house: &House, method: &Method, path: &str, kind: &str, body: &str) -> Answer {
    let bearer = format!("Bearer {ADMIN_TOKEN}");
    let headers = [("authorization", bearer.as_str()), ("content-type", kind)];
    call(&house.admin, method.clone(), path, &headers, Bytes::from(body.to_owned())).await
}

/// The status of a refusal and what it says is at fault.
fn refusal(answer: &Answer) -> (u16, String) {
    let error = &answer.json()["error"];
    let message = error["message"].as_str().unwrap_or_default();
    assert!(!message.is_empty() && error["type"] == "invalid_request_error", "{answer:?}");
    assert!(message.chars().count() <= 1_001, "{message}");
    (answer.status.as_u16(), error["param"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn queries_and_names_in_paths_that_mean_nothing_are_refused() {
    run(async {
        let house = House::with("").await;
        let long = "x".repeat(10_240);
        for (path, status, param) in [
            ("/guard/v1/keys?limit=0", 400, "limit"),
            ("/guard/v1/keys?limit=99999999999999999999999", 400, ""),
            ("/guard/v1/keys?limit=1&limit=2", 400, ""),
            ("/guard/v1/keys?nothing=1", 400, ""),
            ("/guard/v1/keys?after=%00%FF", 400, "after"),
            ("/guard/v1/keys?order=up", 400, "order"),
            (&format!("/guard/v1/alerts?after={long}"), 400, "after"),
            (&format!("/guard/v1/ledger?after={long}"), 400, "after"),
            ("/guard/v1/ledger?after=alert_1", 400, "after"),
            ("/guard/v1/ledger?since=2026-02-30", 400, "since"),
            ("/guard/v1/usage?since=10000-01-01", 400, "since"),
            ("/guard/v1/usage?since=-9999-01-01", 400, "since"),
            ("/guard/v1/usage?group_by=day&since=0", 400, "since"),
            ("/guard/v1/keys/%FF", 400, ""),
            ("/v1/organization/projects/%FF/spend_alerts/x", 400, ""),
            (&format!("/guard/v1/keys/{long}"), 404, ""),
            (&format!("/v1/organization/{long}"), 404, ""),
            ("/v1/organization/projects?limit=101", 400, "limit"),
            ("/v1/organization/costs?start_time=99999999999999", 400, "start_time"),
            ("/v1/organization/costs?start_time=0&page=page_-1", 400, "page"),
            ("/v1/organization/audit_logs?after=audit_log-99999999999999999999", 400, "after"),
            ("/v1/organization/audit_logs?effective_at[gt]=soon", 400, "effective_at"),
        ] {
            let answer = send(&house, &Method::GET, path, "application/json", "").await;
            assert_eq!(refusal(&answer), (status, param.to_owned()), "{path}");
        }
    });
}

#[test]
fn bodies_that_are_no_object_or_not_said_to_be_json_are_refused() {
    run(async {
        let house = House::with("").await;
        let deep = format!("{{\"only\":{}{}}}", "[".repeat(20_000), "]".repeat(20_000));
        let (keys, limit) = ("/guard/v1/keys", "/guard/v1/limits/x");
        for (path, kind, body, status) in [
            (keys, "text/plain", r#"{"name":"x"}"#, 415),
            (keys, "", r#"{"name":"x"}"#, 415),
            (keys, "application/json", "", 400),
            (keys, "application/json", "{", 400),
            (keys, "application/json", r#"["x",null,null,[],null]"#, 400),
            (keys, "application/json", r#"{"name":"x"}{"name":"y"}"#, 400),
            (keys, "application/json", r#"{"name":"x","name":"y"}"#, 422),
            (keys, "application/json", r#"{"name":1}"#, 422),
            (limit, "text/plain", r#"["x"]"#, 400),
            (limit, "text/plain", r#"{"window":"month","hard":1,"hard":2}"#, 422),
            (limit, "text/plain", r#"{"window":"month","hard":true}"#, 422),
            (limit, "text/plain", &deep, 422),
            ("/guard/v1/keys/x/rotate", "text/plain", "[]", 400),
        ] {
            let method = if path == limit { Method::PUT } else { Method::POST };
            let answer = send(&house, &method, path, kind, body).await;
            assert_eq!(refusal(&answer).0, status, "{path} {kind} {}", &body[..body.len().min(80)]);
        }
        assert_eq!(house.admin(Method::GET, keys, None).await.json()["data"].as_array().unwrap().len(), 1);
    });
}

#[test]
fn a_body_that_is_too_large_is_refused_even_if_the_client_sends_it_all_first() {
    run(async {
        let house = House::with("").await;
        for bytes in [(1 << 20) + 1, 10 << 20] {
            let body = format!("{{\"name\":\"{}\"}}", "x".repeat(bytes));
            for (method, path) in [
                (Method::POST, "/guard/v1/keys"),
                (Method::PUT, "/guard/v1/limits/x"),
                (Method::POST, "/guard/v1/keys/x/rotate"),
                (Method::POST, "/v1/organization/projects"),
            ] {
                let answer = send(&house, &method, path, "application/json", &body).await;
                assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE, "{path} {bytes}");
                let message = answer.json()["error"]["message"].clone();
                assert_eq!(message, "the body is larger than 1 MiB", "{path}");
            }
        }
    });
}

#[test]
fn names_lists_and_times_are_bounded() {
    run(async {
        let house = House::with("").await;
        let id = house.make_key(json!({ "name": "\u{202e}<b>😀" })).await["id"].as_str().unwrap().to_owned();
        let limit = |more: Value| {
            let mut body = json!({ "window": "month", "hard": "5" });
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            (Method::PUT, "/guard/v1/limits/x".to_owned(), body)
        };
        let key = |more: Value| {
            let mut body = json!({ "name": "x" });
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            (Method::POST, "/guard/v1/keys".to_owned(), body)
        };
        let rotate = |seconds: i64| {
            (Method::POST, format!("/guard/v1/keys/{id}/rotate"), json!({ "grace_seconds": seconds }))
        };
        for ((method, path, body), param) in [
            (key(json!({ "name": "x".repeat(10_240) })), "name"),
            (key(json!({ "name": " \u{a0}" })), "name"),
            (key(json!({ "name": "a\u{0}b" })), "name"),
            (key(json!({ "models": vec!["x"; 1_001] })), "models"),
            (key(json!({ "models": ["*".repeat(201)] })), "models"),
            (key(json!({ "models": [""] })), "models"),
            (key(json!({ "models": ["a\u{0}"] })), "models"),
            (key(json!({ "expires_in_seconds": 0 })), "expires_in_seconds"),
            (key(json!({ "expires_in_seconds": i64::MAX })), "expires_in_seconds"),
            (rotate(-1), "grace_seconds"),
            (limit(json!({ "soft": vec!["1"; 101] })), "soft"),
            (limit(json!({ "hard": "1e9" })), "hard"),
            (limit(json!({ "hard": "１２" })), "hard"),
            (limit(json!({ "zone": "../../etc/passwd" })), "zone"),
            (limit(json!({ "only": { "key": vec!["x"; 1_001] } })), "only"),
            (limit(json!({ "only": { "tag": { "x": vec!["y"; 1_001] } } })), "only"),
        ] {
            let answer = house.admin(method, &path, Some(body)).await;
            assert_eq!(refusal(&answer), (400, param.to_owned()), "{path}");
        }
        let change = json!({ "models": [" "] });
        let answer = house.admin(Method::PATCH, &format!("/guard/v1/keys/{id}"), Some(change)).await;
        assert_eq!(refusal(&answer), (400, "models".to_owned()));
    });
}

#[test]
fn a_project_that_is_not_there_is_not_found() {
    run(async {
        let house = House::with("").await;
        let answer = house.admin(Method::POST, "/guard/v1/projects/nobody/archive", None).await;
        assert_eq!(refusal(&answer).0, 404);
    });
}

//! Client secrets: a short-lived key to one kind of session, made by the guard.

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Error;

use super::{connected, cost, create, text, until, usd};
use crate::accrual::LIMIT;
use crate::harness::{House, run};
use crate::sockets::{next, say, settled};

async fn made(house: &House, body: Value) -> Value {
    let answer = house.post("/v1/realtime/client_secrets", &[], &body).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()
}

/// A request for a secret by another key.
async fn asked(house: &House, key: &Value, body: &Value) -> crate::harness::Answer {
    let bearer = format!("Bearer {}", key["value"].as_str().unwrap());
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let body = bytes::Bytes::from(body.to_string());
    crate::harness::call(&house.proxy, Method::POST, "/v1/realtime/client_secrets", &headers, body).await
}

fn session(more: Value) -> Value {
    let mut session = json!({ "type": "realtime", "model": "gpt-realtime", "max_output_tokens": 77 });
    session.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "session": session, "expires_after": { "anchor": "created_at", "seconds": 60 } })
}

fn status(opened: Result<crate::sockets::Socket, Error>) -> u16 {
    match opened {
        Err(Error::Http(answer)) => answer.status().as_u16(),
        Ok(_) => 101,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_secret_opens_its_session_and_what_that_spends_is_its_keys() {
    run(async {
        let house = House::with(LIMIT).await;
        let answer = made(&house, session(json!({ "instructions": "Be brief." }))).await;
        let secret = answer["value"].as_str().unwrap();
        assert!(secret.starts_with("ek_guard_"), "{answer}");
        assert_eq!(answer["session"]["model"], "gpt-realtime");
        assert_eq!(answer["session"]["object"], "realtime.session");
        assert!(answer["expires_at"].as_i64().unwrap() > 0);
        // As a browser sends it.
        let protocol = format!("realtime, openai-insecure-api-key.{secret}");
        let headers = [("sec-websocket-protocol", protocol.as_str())];
        let mut socket = connected(&house, "", "", &headers).await.unwrap();
        assert_eq!(next(&mut socket).await["type"], "session.created");
        let updated = until(&mut socket, "session.updated").await;
        assert_eq!(updated["session"]["instructions"], "Be brief.");
        say(&mut socket, &text("hello")).await;
        say(&mut socket, &create(json!({}))).await;
        let begun = until(&mut socket, "response.created").await;
        assert_eq!(begun["response"]["max_output_tokens"], 77);
        let done = until(&mut socket, "response.done").await;
        let entries = settled(&house).await;
        let [entry] = &entries[..] else { panic!("{entries:?}") };
        assert_eq!(usd(&entry["cost_usd"]), cost(&done["response"]["usage"]));
        let keys = house.admin(Method::GET, "/guard/v1/keys", None).await.json();
        assert!(keys["data"].as_array().unwrap().iter().any(|key| key["id"] == entry["key_id"]), "{entry}");
    });
}

#[test]
fn a_secret_opens_nothing_else() {
    run(async {
        let house = House::with(LIMIT).await;
        let answer = made(&house, session(json!({}))).await;
        let secret = answer["value"].as_str().unwrap();
        assert_eq!(status(connected(&house, secret, "model=gpt-realtime", &[]).await), 101);
        assert_eq!(status(connected(&house, secret, "model=gpt-realtime-2", &[]).await), 400);
        assert_eq!(status(connected(&house, &secret.replace('.', ".A"), "", &[]).await), 401);
        let bearer = format!("Bearer {secret}");
        let headers = [("authorization", bearer.as_str())];
        for (method, path) in [
            (Method::GET, "/v1/models"),
            (Method::GET, "/v1/spendguard/me"),
            (Method::POST, "/v1/realtime/client_secrets"),
            (Method::POST, "/v1/chat/completions"),
        ] {
            let answer =
                crate::harness::call(&house.proxy, method, path, &headers, bytes::Bytes::new()).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
            assert!(!String::from_utf8_lossy(&answer.body).contains(secret), "{path}");
        }
    });
}

#[test]
fn a_secret_ends_with_its_key() {
    run(async {
        let house = House::with(LIMIT).await;
        let key = house.make_key(json!({ "name": "second" })).await;
        let answer = asked(&house, &key, &session(json!({}))).await.json();
        let secret = answer["value"].as_str().unwrap();
        let mut socket = connected(&house, secret, "", &[]).await.unwrap();
        let path = format!("/guard/v1/keys/{}", key["id"].as_str().unwrap());
        house.admin(Method::DELETE, &path, None).await;
        assert_eq!(status(connected(&house, secret, "", &[]).await), 401);
        say(&mut socket, &create(json!({}))).await;
        let error = loop {
            let event = next(&mut socket).await;
            if event["type"] == "error" {
                break event;
            }
        };
        assert_eq!((&error["status"], &error["error"]["code"]), (&json!(401), &json!("invalid_api_key")));
    });
}

#[test]
fn a_secret_for_what_can_not_be_metered_or_is_not_allowed_is_refused() {
    run(async {
        let house = House::with(LIMIT).await;
        let key = house.make_key(json!({ "name": "second", "models": ["gpt-realtime-mini"] })).await;
        let answer = asked(&house, &key, &session(json!({}))).await;
        assert_eq!(
            (answer.status.as_u16(), answer.json()["error"]["code"].clone()),
            (403, json!("model_not_found"))
        );
        let heard = json!({ "model": "gpt-realtime-mini", "audio": { "input": { "transcription": { "model": "whisper-1" } } } });
        let answer = asked(&house, &key, &session(heard)).await;
        assert_eq!(answer.status.as_u16(), 403, "{answer:?}");
        for body in [
            json!({}),
            json!({ "session": { "type": "realtime" } }),
            json!({ "session": { "type": "transcription", "model": "gpt-realtime" } }),
            json!({ "session": { "type": "realtime", "model": "gpt-realtime", "tools": [{ "type": "mcp" }] } }),
            json!({ "session": { "type": "realtime", "model": "gpt-realtime", "voice": "alloy" } }),
            json!({ "session": { "type": "realtime", "model": "gpt-realtime", "instructions": "x".repeat(40_000) } }),
            json!({ "session": { "type": "realtime", "model": "gpt-realtime" }, "expires_after": { "seconds": 9 } }),
            json!({ "session": { "type": "realtime", "model": "gpt-realtime" }, "expires_after": { "seconds": 7_201 } }),
        ] {
            let answer = house.post("/v1/realtime/client_secrets", &[], &body).await;
            let status = answer.status.as_u16();
            assert!(status == 400 || status == 403, "{body}: {answer:?}");
        }
    });
}

//! Admin tokens: who guesses them, and who sends them to the wrong place.

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use spendguard::keys::KeyHash;

use crate::harness::{ADMIN_TOKEN, Answer, House, call, chat, run};

async fn admin_with(house: &House, authorization: &str) -> Answer {
    let headers = [("authorization", authorization)];
    call(&house.admin, Method::GET, "/guard/v1/limits", &headers, Bytes::new()).await
}

async fn chat_with(house: &House, authorization: &str) -> Answer {
    let headers = [("authorization", authorization), ("content-type", "application/json")];
    let body = Bytes::from(chat(json!({})).to_string());
    call(&house.proxy, Method::POST, "/v1/chat/completions", &headers, body).await
}

#[test]
fn wrong_tokens_are_paced_and_a_good_one_is_always_let_in() {
    run(async {
        let house = House::with("").await;
        let made = house
            .admin(Method::POST, "/v1/organization/admin_api_keys", Some(json!({ "name": "ci" })))
            .await
            .json();
        let key = made["value"].as_str().unwrap().to_owned();
        for number in 0..10 {
            let wrong = admin_with(&house, &format!("Bearer guess-{number}")).await;
            assert_eq!((wrong.status, wrong.code()), (StatusCode::UNAUTHORIZED, "invalid_api_key".into()));
        }
        for guess in ["Bearer guess", "Basic Z3Vlc3M6Z3Vlc3M=", "Bearer ", "\u{e9}"] {
            let barred = admin_with(&house, guess).await;
            assert_eq!(
                (barred.status, barred.code()),
                (StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded".into())
            );
            let seconds: i64 = barred.header("retry-after").parse().unwrap();
            assert!((1..=60).contains(&seconds), "{barred:?}");
        }
        for good in [ADMIN_TOKEN, &key] {
            assert_eq!(admin_with(&house, &format!("Bearer {good}")).await.status, StatusCode::OK);
        }
        // Who sends none does not guess.
        let none = call(&house.admin, Method::GET, "/guard/v1/limits", &[], Bytes::new()).await;
        assert_eq!(none.status, StatusCode::UNAUTHORIZED);
    });
}

fn is_refused_as_admin_token(answer: &Answer) {
    assert_eq!((answer.status, answer.code()), (StatusCode::UNAUTHORIZED, "invalid_api_key".into()));
    let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("admin token") && !message.contains("0123456789"), "{message}");
}

#[test]
fn an_admin_token_never_goes_upstream() {
    run(async {
        // Clients send their own keys here, which are forwarded.
        let house = House::in_front_of(None, None, "[keys]\nunknown = \"pass-through\"\n").await;
        let body = json!({ "name": "short", "expires_in_seconds": 1 });
        let made = house.admin(Method::POST, "/v1/organization/admin_api_keys", Some(body)).await.json();
        let key = made["value"].as_str().unwrap().to_owned();
        for token in [ADMIN_TOKEN, &key] {
            is_refused_as_admin_token(&chat_with(&house, &format!("Bearer {token}")).await);
        }
        // "user:test-admin-token-0123456789"
        is_refused_as_admin_token(
            &chat_with(&house, "Basic dXNlcjp0ZXN0LWFkbWluLXRva2VuLTAxMjM0NTY3ODk=").await,
        );
        tokio::time::sleep(std::time::Duration::from_millis(2_100)).await;
        assert_eq!(admin_with(&house, &format!("Bearer {key}")).await.status, StatusCode::UNAUTHORIZED);
        is_refused_as_admin_token(&chat_with(&house, &format!("Bearer {key}")).await);
        assert!(house.fake.served().is_empty(), "{:?}", house.fake.served());
        // One that went through as a client's own key before it became a token.
        assert_eq!(chat_with(&house, "Bearer sk-proj-own-key-of-a-client").await.status, StatusCode::OK);
        house.directory.know_admin_token(KeyHash::of(b"sk-proj-own-key-of-a-client"));
        is_refused_as_admin_token(&chat_with(&house, "Bearer sk-proj-own-key-of-a-client").await);
        let served = house.fake.served();
        assert_eq!(served["gpt-4o-mini"].requests, 1, "{served:?}");
        let listed = house.admin(Method::GET, "/guard/v1/keys?limit=100", None).await.json();
        let listed: Vec<&Value> =
            listed["data"].as_array().unwrap().iter().map(|key| &key["redacted_value"]).collect();
        assert_eq!(listed.len(), 2, "the house's own, and the client's: {listed:?}");
    });
}

#[test]
fn where_keys_are_virtual_an_admin_token_is_distinguished_from_a_wrong_key() {
    run(async {
        let house = House::with("").await;
        is_refused_as_admin_token(&chat_with(&house, &format!("Bearer {ADMIN_TOKEN}")).await);
        let wrong = chat_with(&house, "Bearer sk-nobody-knows-this-one").await;
        assert!(wrong.json()["error"]["message"].as_str().unwrap().starts_with("Incorrect"), "{wrong:?}");
    });
}

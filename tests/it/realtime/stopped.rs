//! A stop binds what an open session begins next, and no other is opened.

use futures_util::StreamExt as _;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::{by_hand, connected_at, create, opened, sound, until};
use crate::accrual::{LIMIT, held};
use crate::harness::{House, run};
use crate::kill_switch::switch_on;
use crate::sockets::{next, say};

#[test]
fn under_a_stop_the_next_response_of_an_open_session_is_refused_and_the_session_stays_open() {
    run(async {
        let house = House::with(LIMIT).await;
        let mut socket = by_hand(&house, &[]).await;
        say(&mut socket, &create(json!({}))).await;
        until(&mut socket, "response.done").await;
        switch_on(&house, "default", None).await;
        let mut asked = create(json!({}));
        asked["event_id"] = json!("mine");
        for _ in 0..2 {
            say(&mut socket, &asked).await;
            let error = next(&mut socket).await;
            assert_eq!((&error["type"], &error["status"]), (&json!("error"), &json!(429)), "{error}");
            assert_eq!(
                (&error["error"]["code"], &error["error"]["event_id"]),
                (&json!("kill_switch"), &json!("mine")),
                "{error}"
            );
            assert_eq!(error["error"]["headers"]["x-should-retry"], "false", "{error}");
        }
        assert_eq!(held(&house).await, "0");
        let off = house.admin(Method::DELETE, "/guard/v1/kill-switches/default", None).await;
        assert_eq!(off.status, StatusCode::NO_CONTENT);
        say(&mut socket, &create(json!({}))).await;
        until(&mut socket, "response.done").await;
    });
}

#[test]
fn a_session_whose_sound_may_begin_a_response_is_ended_under_a_stop() {
    run(async {
        let house = House::with(LIMIT).await;
        let mut socket = opened(&house, "model=gpt-realtime", &[]).await;
        switch_on(&house, "default", None).await;
        say(&mut socket, &sound(100, true)).await;
        let error = next(&mut socket).await;
        assert_eq!(
            (&error["status"], &error["error"]["code"]),
            (&json!(429), &json!("kill_switch")),
            "{error}"
        );
        let closed = socket.next().await.unwrap().unwrap();
        let Message::Close(Some(frame)) = closed else { panic!("{closed:?}") };
        assert_eq!(u16::from(frame.code), 1008);
        assert_eq!(held(&house).await, "0");
    });
}

#[test]
fn under_a_stop_what_was_held_for_the_next_response_serves_no_message_that_comes_later() {
    run(async {
        let house = House::with(LIMIT).await;
        let mut socket = opened(&house, "model=gpt-realtime", &[]).await;
        say(&mut socket, &sound(100, true)).await;
        until(&mut socket, "input_audio_buffer.speech_started").await;
        assert_ne!(held(&house).await, "0");
        switch_on(&house, "default", None).await;
        say(&mut socket, &create(json!({}))).await;
        let error = next(&mut socket).await;
        assert_eq!(
            (&error["type"], &error["error"]["code"]),
            (&json!("error"), &json!("kill_switch")),
            "{error}"
        );
        assert_ne!(held(&house).await, "0", "speech may still be answered");
        say(&mut socket, &sound(100, true)).await;
        let error = next(&mut socket).await;
        assert_eq!((&error["status"], &error["error"]["code"]), (&json!(429), &json!("kill_switch")));
        let closed = socket.next().await.unwrap().unwrap();
        assert!(matches!(closed, Message::Close(Some(frame)) if u16::from(frame.code) == 1008));
        assert_eq!(held(&house).await, "0");
    });
}

#[test]
fn no_session_and_no_client_secret_is_given_to_who_is_stopped() {
    run(async {
        let house = House::with(LIMIT).await;
        let secret = json!({ "session": { "type": "realtime", "model": "gpt-realtime" } });
        switch_on(&house, "organization", None).await;
        for path in
            ["/v1/realtime?model=gpt-realtime", "/v1/realtime/translations?model=gpt-realtime-translate"]
        {
            let refused = connected_at(&house, path, &house.key, &[]).await;
            let Err(Error::Http(answer)) = refused else { panic!("{path}: {refused:?}") };
            assert_eq!(answer.status(), 429, "{path}");
            let body: Value = serde_json::from_slice(answer.body().as_ref().unwrap()).unwrap();
            assert_eq!(body["error"]["code"], "kill_switch", "{path}: {body}");
        }
        let answer = house.post("/v1/realtime/client_secrets", &[], &secret).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (StatusCode::TOO_MANY_REQUESTS, &json!("kill_switch"))
        );
    });
}

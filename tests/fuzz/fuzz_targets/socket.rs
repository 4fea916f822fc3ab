//! Any messages on a `WebSocket`: the guard understands of them what another reader of JSON does, and
//! they come out of the framing of event streams as they went in, however that is cut.
//!
//! The other reader keeps the last of two members of one name: where the guard has accepted a
//! message, both have understood the same.

#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use spendguard::protocol::openai::socket::{
    Asked, InputFate, Messages, Says, Steer, asked, cleaned, event, frame, with_own_input,
};

const QUEUED: &[u8] = br#"{"type":"response.steer","previous_response_id":"resp_1","input":"first"}"#;

fn check_client(message: &str) {
    let Ok(read) = asked(message.as_bytes()) else { return };
    // What another reader can't keep, such as a number without a value.
    let Ok(found) = serde_json::from_str::<Value>(message) else { return };
    match read {
        Asked::Create { lane, previous } => {
            assert_eq!(found["type"], "response.create");
            assert!(previous.is_none_or(|id| found["previous_response_id"] == *id));
            match lane {
                Some(lane) => assert_eq!(found["stream_id"], *lane),
                None => assert!(found["stream_id"].is_null()),
            }
            let Ok(Asked::Steer(queued)) = asked(QUEUED) else { panic!("it is input") };
            check_joined(&queued, message, &found);
        }
        Asked::Steer(steer) => {
            assert_eq!(found["type"], "response.steer");
            let failed: Value = serde_json::from_str(&steer.failed("c", "m", None)).expect("it is JSON");
            for name in ["input", "previous_response_id"] {
                assert_eq!(failed["steer"][name], found[name]);
            }
            let Some(parent) = &steer.parent else { return };
            assert_eq!(found["previous_response_id"], **parent);
            assert_eq!(found.as_object().map(serde_json::Map::len), Some(3));
            let sent = br#"{"type":"response.create","model":"m","input":"i","generate":false}"#;
            let next = steer.continuation(sent).expect("it belongs to no conversation");
            let next: Value = serde_json::from_slice(&next).expect("it is JSON");
            assert_eq!(next["previous_response_id"], found["previous_response_id"]);
            assert_eq!((&next["input"], &next["model"]), (&found["input"], &Value::from("m")));
        }
    }
}

/// Input stands before that of a request, and goes out of it again.
fn check_joined(queued: &Steer, message: &str, found: &Value) {
    let joined = queued.before(message.as_bytes()).expect("it is an object");
    assert_eq!(with_own_input(&joined, message.as_bytes()).expect("it has input"), message.trim_end());
    // A member that another reader takes for the input is there twice now.
    if asked(&joined).is_err() {
        return;
    }
    let joined: Value = serde_json::from_slice(&joined).expect("it is JSON");
    let items = joined["input"].as_array().expect("it is an array");
    assert_eq!(items[0]["content"], "first");
    match &found["input"] {
        Value::Array(own) => assert_eq!(items[1..], own[..]),
        Value::Null => assert_eq!(items.len(), 1),
        Value::String(text) => assert_eq!(items[1]["content"], **text),
        other => assert_eq!(items[1], *other),
    }
}

fn check_server(message: &str) {
    let read = event(message);
    let Ok(found) = serde_json::from_str::<Value>(message) else { return };
    let kind = found["type"].as_str().unwrap_or_default();
    let ids = |id: Option<String>| id.is_none_or(|id| found["response"]["id"] == *id);
    match read.says {
        Says::Begun(id) => assert!(kind == "response.created" && ids(id)),
        Says::Ended(id) => {
            assert!(matches!(kind, "response.completed" | "response.incomplete" | "response.failed"));
            assert!(ids(id));
        }
        Says::Error(status) => {
            assert_eq!(kind, "error");
            assert!(status.is_none_or(|status| status >= 400 && found["status"] == status));
            let cleaned: Value = serde_json::from_str(&cleaned(message)).expect("it is JSON");
            assert!(cleaned["error"]["headers"]["set-cookie"].is_null());
            assert_eq!((&cleaned["type"], &cleaned["status"]), (&found["type"], &found["status"]));
        }
        Says::Running => assert!(kind.starts_with("response.")),
        Says::Input(fate, parent) => {
            assert!(kind.starts_with("response.steer."));
            let is_queued = kind.ends_with("pending") && found["reason"] == "waiting_for_required_input";
            assert_eq!(fate == InputFate::Queued, is_queued);
            assert_eq!(found["steer"]["previous_response_id"], *parent);
        }
        Says::Nothing => {}
    }
    if let Some(lane) = read.lane {
        assert_eq!(found["stream_id"], *lane);
    }
}

fuzz_target!(|text: &str| {
    let messages: Vec<&str> = text.split('\u{1}').filter(|message| !message.is_empty()).collect();
    for message in &messages {
        check_client(message);
        check_server(message);
    }
    let mut stream = BytesMut::new();
    messages.iter().for_each(|message| frame(message, &mut stream));
    let expected: Vec<String> = messages.iter().map(|message| message.replace(['\r', '\n'], " ")).collect();
    for size in [1, 2 + text.len() % 61, stream.len().max(1)] {
        let mut reader = Messages::default();
        let parts = stream.chunks(size).map(Bytes::copy_from_slice);
        let found: Vec<Bytes> =
            parts.flat_map(|part| reader.feed(&part)).map(|framed| framed.message).collect();
        assert_eq!(found, expected, "in parts of {size}");
    }
});

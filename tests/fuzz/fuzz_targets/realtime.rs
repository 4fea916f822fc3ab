//! Any messages of a realtime session: what the guard sends in their place says what another reader
//! of JSON finds in them, and nothing in them is counted smaller than that reader would.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use spendguard::protocol::openai::realtime::{
    ClientEvent, Content, SecretRequest, ServerEvent, Settings, client_event, server_event, without_event_id,
};

/// Bytes that a decoder finds in a text of base64, whatever it makes of other characters.
fn decoded(text: &str) -> u64 {
    let characters = text.bytes().filter(|byte| byte.is_ascii_alphanumeric() || b"+/".contains(byte)).count();
    u64::try_from(characters * 3 / 4).expect("it fits")
}

/// Bytes of all sound within a value.
fn sound_of(value: &Value) -> u64 {
    match value {
        Value::Array(values) => values.iter().map(sound_of).sum(),
        Value::Object(fields) => {
            let own = value["audio"].as_str().filter(|_| value["type"] == "input_audio").map_or(0, decoded);
            own + fields.values().map(sound_of).sum::<u64>()
        }
        _ => 0,
    }
}

fn check_content(content: &Content, message: &str, within: &Value) {
    assert!(content.text_bytes <= u64::try_from(message.len()).expect("it fits"));
    assert!(content.sound_bytes >= sound_of(within));
}

fn check_client(message: &str) {
    let Ok(event) = client_event(message) else { return };
    let Ok(found) = serde_json::from_str::<Value>(message) else { return };
    match event {
        ClientEvent::Append(bytes) => {
            assert_eq!(found["type"], "input_audio_buffer.append");
            assert!(found["audio"].as_str().is_none_or(|audio| decoded(audio) <= bytes));
        }
        ClientEvent::Item(content) => check_content(&content, message, &found),
        ClientEvent::Create(create) => {
            check_content(&create.content, message, &found["response"]);
            assert_eq!(create.joins, found["response"]["conversation"] != "none");
            let sent: Value = serde_json::from_slice(&create.sent_as("id", Some(9))).expect("it is JSON");
            let mut expected = found;
            expected["event_id"] = json!("id");
            if expected["response"].is_null() {
                expected["response"] = json!({});
            }
            expected["response"]["max_output_tokens"] = json!(9);
            assert_eq!(sent, expected);
        }
        ClientEvent::Update(update) => {
            let settings = Settings::of(Some("m".to_owned()));
            let applied = update.applied_to(&settings);
            assert!(settings.clone().or_larger(&applied).text_bytes() >= applied.text_bytes());
            assert_eq!(update.model(), found["session"]["model"].as_str());
            let sent: Value = serde_json::from_slice(&update.sent_as("id", None)).expect("it is JSON");
            assert_eq!(sent["session"], found["session"]);
        }
        ClientEvent::Commit | ClientEvent::Clear | ClientEvent::Cancel | ClientEvent::Other => {}
    }
}

fn check_server(message: &str) {
    let event = server_event(message);
    let Ok(found) = serde_json::from_str::<Value>(message) else { return };
    match event {
        ServerEvent::Begun(begun) => {
            assert_eq!(found["type"], "response.created");
            assert!(begun.id.is_empty() || found["response"]["id"] == *begun.id);
        }
        ServerEvent::Ended { id, response } => {
            assert_eq!(found["type"], "response.done");
            assert!(id.is_empty() || found["response"]["id"] == *id);
            let response: Value = serde_json::from_str(&response).expect("it is JSON");
            assert!(found["response"].is_null() || response == found["response"]);
        }
        ServerEvent::Error(id) => {
            assert!(id.is_none_or(|id| found["error"]["event_id"] == *id));
            let shown: Value = serde_json::from_str(&without_event_id(message)).expect("it is JSON");
            assert!(shown["error"]["event_id"].is_null());
        }
        ServerEvent::Created(session) | ServerEvent::Updated(session) => {
            let _ = Settings::of(None).with(&session);
        }
        ServerEvent::Transcribed(..)
        | ServerEvent::Untranscribed(_)
        | ServerEvent::Committed(_)
        | ServerEvent::SpeechBegan(_)
        | ServerEvent::SpeechEnded(_)
        | ServerEvent::Cleared
        | ServerEvent::Goes(_)
        | ServerEvent::Other => {}
    }
}

fuzz_target!(|text: &str| {
    for message in text.split('\u{1}') {
        check_client(message);
        check_server(message);
    }
    if let Ok(asked) = SecretRequest::read(text.as_bytes()) {
        assert!((10..=7_200).contains(&asked.seconds));
        assert_eq!(asked.session.answer("s", 1, "i")["value"], "s");
    }
});

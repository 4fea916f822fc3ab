//! What messages of a session ask for, add and say.

use serde_json::{Value, json};

use super::*;

fn asked(message: &Value) -> ClientEvent {
    client_event(&message.to_string()).unwrap()
}

#[test]
fn sound_is_measured_by_its_bytes_and_is_no_text() {
    let append = json!({ "type": "input_audio_buffer.append", "audio": "AAAAAAA=" });
    assert_eq!(asked(&append), ClientEvent::Append(5));
    assert_eq!(SoundFormat::Samples.millis(4_800), 100);
    assert_eq!(SoundFormat::Telephone.millis(800), 100);
    let part = json!({ "type": "input_audio", "audio": "A".repeat(6_400) });
    let text = json!({ "type": "input_text", "text": "To be" });
    let item =
        json!({ "type": "conversation.item.create", "item": { "type": "message", "content": [part, text] } });
    let ClientEvent::Item(content) = asked(&item) else { panic!() };
    assert_eq!(content.sound_bytes, 4_800);
    assert!((100..200).contains(&content.text_bytes), "{content:?}");
}

#[test]
fn images_are_measured_and_those_behind_a_url_are_unknown() {
    const PNG: &str =
        "iVBORw0KGgoAAAANSUhEUgAAAAIAAAADCAIAAAA2iEnWAAAAEElEQVR4nGP4z8DAxAAGAAz6AQR3Ff8zAAAAAElFTkSuQmCC";
    let part = |url: String| json!({ "type": "input_image", "image_url": url, "detail": "low" });
    let parts = [part(format!("data:image/png;base64,{PNG}")), part("https://a/b.png".to_owned())];
    let item = json!({ "type": "conversation.item.create", "item": { "content": parts } });
    let ClientEvent::Item(content) = asked(&item) else { panic!() };
    let sizes: Vec<_> = content.images.iter().map(|image| image.size).collect();
    assert_eq!(sizes, [Some((2, 3)), None]);
    assert!(content.text_bytes < 250, "{content:?}");
}

#[test]
fn a_request_for_a_response_says_what_it_reads_and_how_much_it_may_write() {
    let create = |response: Value| {
        let ClientEvent::Create(create) = asked(&json!({ "type": "response.create", "response": response }))
        else {
            panic!()
        };
        create
    };
    let plain = create(Value::Null);
    assert_eq!((plain.output_max, plain.joins, plain.has_input, plain.speaks), (None, true, false, None));
    let sent: Value = serde_json::from_slice(&plain.sent_as("e1", Some(9))).unwrap();
    let expected =
        json!({ "type": "response.create", "event_id": "e1", "response": { "max_output_tokens": 9 } });
    assert_eq!(sent, expected);
    let all = json!({ "max_output_tokens": "inf", "conversation": "none", "input": [], "output_modalities": ["text"] });
    let all = create(all);
    assert_eq!(
        (all.output_max, all.joins, all.has_input, all.speaks),
        (Some(None), false, true, Some(false))
    );
    let kept: Value = serde_json::from_slice(&all.sent_as("e2", None)).unwrap();
    assert_eq!(kept["response"]["max_output_tokens"], "inf");
    assert_eq!(create(json!({ "max_output_tokens": 7 })).output_max, Some(Some(7)));
}

#[test]
fn what_is_ambiguous_or_unknown_is_asked_for_by_no_client() {
    for message in [
        "",
        "[]",
        r#"{"type":5}"#,
        r#"{"type":"response.create","type":"response.create"}"#,
        r#"{"type":"input_audio_buffer.append","audio":"AAAA","audio":""}"#,
        r#"{"type":"session.update"}"#,
        r#"{"type":"session.update","session":[]}"#,
        r#"{"type":"session.update","session":{"modalities":["text"]}}"#,
        r#"{"type":"session.update","session":{"tools":[{"type":"mcp"}]}}"#,
        r#"{"type":"session.update","session":{"prompt":{"id":"a"}}}"#,
        r#"{"type":"response.create","response":[]}"#,
        r#"{"type":"response.create","response":{"max_output_tokens":0}}"#,
        r#"{"type":"response.create","response":{"max_output_tokens":1.5}}"#,
        r#"{"type":"response.create","event_id":""}"#,
        r#"{"type":"conversation.item.create","item":{"content":[{"type":"input_file","file_id":"a"}]}}"#,
        r#"{"type":"response.created"}"#,
    ] {
        assert!(client_event(message).is_err(), "{message}");
    }
    let deep =
        format!(r#"{{"type":"conversation.item.create","item":{}{}}}"#, "[".repeat(40), "]".repeat(40));
    assert!(client_event(&deep).is_err());
    assert_eq!(client_event(r#"{"type":"response\u002ecancel"}"#), Ok(ClientEvent::Cancel));
}

#[test]
fn settings_are_what_sessions_say_and_until_confirmed_the_dearer_of_both() {
    let new = Settings::of(Some("gpt-realtime".to_owned()));
    assert!(new.answers_by_itself && new.speaks && new.detects_speech && new.output_max.is_none());
    let input = |input: Value| json!({ "audio": { "input": input } });
    let quiet = new.with(&input(json!({ "turn_detection": null })));
    assert!(!quiet.answers_by_itself && !quiet.detects_speech);
    let manual =
        new.with(&input(json!({ "turn_detection": { "type": "server_vad", "create_response": false } })));
    assert!(!manual.answers_by_itself && manual.detects_speech);
    let detection = json!({ "type": "server_vad", "create_response": false, "idle_timeout_ms": 6_000 });
    let asking = new.with(&input(json!({ "turn_detection": detection })));
    assert!(asking.answers_by_itself && asking.asks_after_silence);
    let both = quiet.clone().or_larger(&asking);
    assert!(both.answers_by_itself && !both.detects_speech);
    let bounded =
        new.with(&json!({ "max_output_tokens": 100, "output_modalities": ["text"], "instructions": "abc" }));
    assert_eq!((bounded.output_max, bounded.speaks, bounded.text_bytes()), (Some(100), false, 5));
    assert_eq!(bounded.clone().or_larger(&new).output_max, None);
    assert_eq!(bounded.with(&json!({ "max_output_tokens": 7 })).or_larger(&bounded).output_max, Some(100));
    assert_eq!(bounded.with(&json!({ "max_output_tokens": "inf" })).output_max, None);
    let heard = quiet.with(&input(
        json!({ "transcription": { "model": "whisper-1" }, "format": { "type": "audio/pcmu" } }),
    ));
    assert_eq!(heard.transcription.as_ref().map(|of| of.model.as_str()), Some("whisper-1"));
    assert_eq!(heard.sound, SoundFormat::Telephone);
    assert_eq!(heard.with(&input(json!({ "transcription": null }))).transcription, None);
    let longer = heard.with(&input(json!({ "transcription": { "prompt": "To be" } })));
    assert_eq!(longer.transcription.map(|of| of.model).as_deref(), Some("whisper-1"));
    let written = Settings::of(None);
    assert!(!written.answers_by_itself && !written.speaks && written.detects_speech);
}

#[test]
fn events_say_what_has_begun_and_ended() {
    let says = |message: Value| server_event(&message.to_string());
    let begun = |response: Value| says(json!({ "type": "response.created", "response": response }));
    let joins = json!({ "id": "resp_1", "conversation_id": "conv_1", "max_output_tokens": "inf" });
    assert_eq!(
        begun(joins),
        ServerEvent::Begun(Begun { id: "resp_1".to_owned(), output_max: Some(None), joins: true })
    );
    let beside = json!({ "id": "resp_1", "conversation_id": null, "max_output_tokens": 9 });
    let expected = Begun { id: "resp_1".to_owned(), output_max: Some(Some(9)), joins: false };
    assert_eq!(begun(beside), ServerEvent::Begun(expected));
    let unsaid = Begun { id: "resp_1".to_owned(), output_max: None, joins: true };
    assert_eq!(begun(json!({ "id": "resp_1" })), ServerEvent::Begun(unsaid));
    let done =
        says(json!({ "type": "response.done", "response": { "id": "resp_1", "status": "cancelled" } }));
    let response = r#"{"id":"resp_1","status":"cancelled"}"#.to_owned();
    assert_eq!(done, ServerEvent::Ended { id: "resp_1".to_owned(), response });
    let error = |error: Value| says(json!({ "type": "error", "event_id": "a", "error": error }));
    assert_eq!(
        error(json!({ "event_id": "mine", "message": "m" })),
        ServerEvent::Error(Some("mine".to_owned()))
    );
    assert_eq!(error(json!({ "event_id": null })), ServerEvent::Error(None));
    let kind = "conversation.item.input_audio_transcription.completed";
    let usage = r#"{"seconds":9,"type":"duration"}"#.to_owned();
    let written =
        says(json!({ "type": kind, "item_id": "i", "usage": { "type": "duration", "seconds": 9 } }));
    assert_eq!(written, ServerEvent::Transcribed("i".to_owned(), usage));
    assert_eq!(
        says(json!({ "type": "input_audio_buffer.committed", "item_id": "i" })),
        ServerEvent::Committed("i".to_owned())
    );
    assert_eq!(
        says(json!({ "type": "input_audio_buffer.speech_started", "audio_start_ms": 7 })),
        ServerEvent::SpeechBegan(7)
    );
    assert_eq!(
        says(json!({ "type": "response.output_audio.delta", "response_id": "r" })),
        ServerEvent::Goes("r".to_owned())
    );
    assert_eq!(says(json!({ "type": "rate_limits.updated" })), ServerEvent::Other);
    assert_eq!(server_event("["), ServerEvent::Other);
    let shown: Value =
        serde_json::from_str(&without_event_id(r#"{"type":"error","error":{"event_id":"a"}}"#)).unwrap();
    assert_eq!(shown, json!({ "type": "error", "error": { "event_id": null } }));
}

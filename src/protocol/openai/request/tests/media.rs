//! Which media a body holds, and which of its bytes are no text.

use serde_json::json;

use super::{chat, responses};
use crate::domain::ObjectKind;
use crate::domain::demand::{Detail, Image};
use crate::protocol::openai::{CHAT, Operation, RESPONSES};

#[test]
fn pictures_sound_and_files_in_chat_are_counted() {
    let picture = "data:image/png;base64,AAAA";
    let demand = chat(json!({"messages": [{"role": "user", "content": [
        {"type": "text", "text": "data:image/png;base64,this is text", "image_url": "data:image/png;base64,no"},
        {"type": "image_url", "image_url": {"url": picture, "detail": "low"}},
        {"image_url": {"url": "https://example.com/a.png"}, "type": "image_url"},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBE", "filename": "a.pdf"}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "input_smell", "smell": "?"},
    ]}, {"role": "assistant", "audio": {"id": "audio_1"}}, {"role": "tool", "content": "x", "tool_call_id": "c"}]}));
    let media = demand.unwrap().media;
    let unseen = |detail| Image { size: None, detail };
    assert_eq!(media.images, [unseen(Detail::Low), unseen(Detail::Auto)]);
    assert_eq!((media.inline_bytes(), media.documents.len(), media.opaque), (28 + 10 + 34, 1, 4));
    assert_eq!(media.audio_ms, 0, "a recording that is too short to be one is opaque");
}

#[test]
fn pictures_and_files_in_responses_are_counted_wherever_they_stand() {
    let picture = "data:image/png;base64,AAAA";
    let demand = responses(json!({"input": [
        {"role": "user", "content": [{"type": "input_image", "image_url": picture, "detail": "low"},
            {"type": "input_image", "file_id": "file-1"}, {"type": "input_file", "file_url": "https://example.com/a"}]},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": picture}]},
        {"type": "computer_call_output", "call_id": "c", "output": {"type": "computer_screenshot", "image_url": picture}},
        {"type": "image_generation_call", "id": "ig_1", "result": "QUJD", "status": "completed"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"},
        {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "c"},
    ]}))
    .unwrap();
    let media = demand.media;
    assert_eq!((media.images.len(), media.opaque, media.inline_bytes()), (5, 1, 3 * 28 + 6));
    assert!(!demand.server_context);
}

#[test]
fn a_part_with_two_sources_is_both() {
    let picture = "data:image/png;base64,AAAA";
    let media = responses(json!({"input": [{"role": "user", "content": [
        {"type": "input_image", "image_url": picture, "file_id": "file-1", "detail": "low"},
        {"type": "input_image", "image_url": "https://example.com/a.png", "file_id": "file-1"},
        {"type": "input_file", "file_data": "JVBE", "file_id": "file-1"},
        {"type": "input_file", "file_data": "JVBE", "file_url": "https://example.com/a.pdf"},
    ]}]}))
    .unwrap()
    .media;
    assert_eq!((media.images.len(), media.documents.len(), media.opaque), (4, 2, 2));
}

#[test]
fn a_sound_of_another_format_than_it_is_sent_as_is_opaque() {
    let wav = "UklGRiwAAABXQVZFZm10IBAAAAABAAEAgD4AAAB9AAACABAAZGF0YQgAAAAAAAAAAAAAAA==";
    for (format, opaque) in [(json!("wav"), 0), (json!("mp3"), 1), (json!("flac"), 1), (json!(null), 0)] {
        let part = json!({"type": "input_audio", "input_audio": {"data": wav, "format": format}});
        let media = chat(json!({"messages": [{"role": "user", "content": [part]}]})).unwrap().media;
        assert_eq!((media.opaque, media.audio_ms > 0), (opaque, opaque == 0), "{format}");
    }
}

#[test]
fn variables_of_a_stored_prompt_are_content() {
    let demand = responses(json!({"prompt": {"id": "pmpt_1", "version": "2", "variables": {
        "city": "Tbilisi",
        "picture": {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
        "type": {"type": "input_file", "file_id": "file-1"},
    }}}))
    .unwrap();
    assert_eq!((demand.media.images.len(), demand.media.opaque), (1, 1));
    let named = demand.references.iter().map(|of| (of.kind, &*of.id));
    assert!(named.eq([(ObjectKind::File, "file-1")]));
    for odd in [json!(null), json!("x"), json!([]), json!({"a": null, "b": 5})] {
        assert!(responses(json!({"prompt": {"id": "pmpt_1", "variables": odd}})).is_ok(), "{odd}");
    }
}

/// The parts of a body that are left out of its text.
fn left_out<'a>(endpoint: &Operation, body: &'a str) -> Vec<&'a str> {
    let media = endpoint.read(body.as_bytes()).unwrap().demand.media;
    media.inline.into_iter().map(|span| &body[span]).collect()
}

#[test]
fn media_is_left_out_of_the_text_in_every_spelling() {
    for url in [
        "data:image/png;base64,AAAA",
        r"data:image\/png;base64,AAAA",
        r"\u0064ata:image/png;base64,AA\u0041A",
        r"data:image/png;base64,AA\nAA",
        "DATA:IMAGE/PNG;BASE64,AAAA",
    ] {
        let body = format!(
            r#"{{"model":"m","messages":[{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":"{url}"}}}}]}}]}}"#
        );
        assert_eq!(left_out(&CHAT, &body), [format!("\"{url}\"")]);
        let body = format!(
            r#"{{"model":"m","input":[{{"role":"user","content":[{{"type":"input_im\u0061ge","image_url":"{url}"}}]}}]}}"#
        );
        assert_eq!(left_out(&RESPONSES, &body), [format!("\"{url}\"")]);
    }
}

#[test]
fn only_what_upstream_reads_as_media_is_left_out_of_the_text() {
    let base64 = "A".repeat(10_000);
    for part in [
        json!({"type": "text", "text": base64}),
        json!({"type": "text", "text": "", "image_url": {"url": format!("data:image/png;base64,{base64}")}}),
        json!({"type": "image_url", "image_url": {"url": format!("https://example.com/{base64}")}}),
        json!({"type": "refusal", "refusal": base64, "file_data": base64}),
    ] {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": [part]}]}).to_string();
        assert_eq!(left_out(&CHAT, &body), [""; 0], "{part}");
    }
}

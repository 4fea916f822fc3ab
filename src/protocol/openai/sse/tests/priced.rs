//! The cost of a stream is added to its last usage, and nothing else changes.

use super::*;
use crate::protocol::openai::{IMAGES, SPEECH};

/// What a client gets that asked for the cost, which the guard knows once the stream is accountable.
fn priced(operation: &Operation, stream: &str, cuts: &[usize]) -> String {
    let cost = Some("0.0001234".parse().unwrap());
    let mut tap = operation.tap(Hide::Nothing, EVENT_BYTES_MAX);
    tap.hold_last_usage();
    let (mut out, mut rest) = (Vec::new(), Bytes::copy_from_slice(stream.as_bytes()));
    for cut in cuts.iter().copied().chain([usize::MAX]) {
        out.extend_from_slice(&tap.feed(rest.split_to(cut.min(rest.len()))));
        if tap.is_accountable() {
            out.extend_from_slice(&tap.release(cost));
        }
    }
    out.extend_from_slice(&tap.finish());
    out.extend_from_slice(&tap.release(cost));
    String::from_utf8(out).unwrap()
}

#[test]
fn a_cost_is_a_number_in_the_last_usage_of_each_form() {
    let response = |kind: &str, usage: &str| {
        format!(
            "event: {kind}\ndata: {{\"type\":\"{kind}\",\"response\":{{\"id\":\"resp_1\",\"usage\":{usage},\"user\":null}}}}\n\n"
        )
    };
    let done = |kind: &str, usage: &str| format!("data: {{\"type\":\"{kind}\",\"usage\":{usage}}}\n\n");
    let usage = r#"{"input_tokens":1,"output_tokens":2,"d":{"x":[3]}}"#;
    let with_cost = r#"{"input_tokens":1,"output_tokens":2,"d":{"x":[3]},"cost":0.0001234}"#;
    let created = response("response.created", "null");
    for kind in ["response.completed", "response.incomplete", "response.failed"] {
        let sent = created.clone() + &response(kind, usage);
        assert_eq!(priced(&RESPONSES, &sent, &[]), created.clone() + &response(kind, with_cost));
    }
    let text = "data: {\"type\":\"speech.audio.delta\",\"audio\":\"AAAA\"}\n\n";
    let sent = text.to_owned() + &done("speech.audio.done", usage);
    assert_eq!(priced(&SPEECH, &sent, &[]), text.to_owned() + &done("speech.audio.done", with_cost));
    let chunk =
        |usage: &str| format!("data: {{\"choices\":[],\"usage\":{usage}}}\n\n: ping\n\ndata: [DONE]\n\n");
    for (usage, with_cost) in [
        (usage, with_cost),
        ("{ }", r#"{ "cost":0.0001234}"#),
        (r#"{"cost":0.5,"total_tokens":1}"#, r#"{"cost":0.0001234,"total_tokens":1}"#),
        ("null", "null"),
        ("7", "7"),
    ] {
        assert_eq!(priced(&CHAT, &chunk(usage), &[]), chunk(with_cost));
    }
}

#[test]
fn of_several_usages_the_last_has_the_cost_and_none_waits_for_more_than_the_next_event() {
    let chunk = |usage: &str| {
        format!(
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"a\"}}}}],\"usage\":{{{usage}}}}}\n\n"
        )
    };
    let stream = chunk("\"n\":1") + &chunk("\"n\":2") + "data: [DONE]\n\n";
    let expected = chunk("\"n\":1") + &chunk("\"n\":2,\"cost\":0.0001234") + "data: [DONE]\n\n";
    assert_eq!(priced(&CHAT, &stream, &[]), expected);

    let mut tap = CHAT.tap(Hide::Nothing, EVENT_BYTES_MAX);
    tap.hold_last_usage();
    assert_eq!(tap.feed(Bytes::from(chunk("\"n\":1"))), "");
    let other = "data: {\"choices\":[],\"moderation\":{}}\n\n";
    assert_eq!(tap.feed(Bytes::from(other)), chunk("\"n\":1") + other);
}

#[test]
fn an_image_is_held_back_in_part_and_its_usage_is_found_behind_it() {
    let image = "A".repeat(900_000);
    let event = |usage: &str, after: &str| {
        format!(
            "event: image_generation.completed\ndata: {{\"type\":\"image_generation.completed\",\"b64_json\":\"{image}\",\"usage\":{usage}{after}}}\n\n"
        )
    };
    let usage = r#"{"input_tokens":1,"output_tokens":2}"#;
    let with_cost = r#"{"input_tokens":1,"output_tokens":2,"cost":0.0001234}"#;
    for cuts in [vec![], vec![70_000; 20]] {
        assert_eq!(priced(&IMAGES, &event(usage, ""), &cuts), event(with_cost, ""), "{cuts:?}");
    }
    let far = format!(",\"x\":\"{image}\"");
    assert_eq!(priced(&IMAGES, &event(usage, &far), &[]), event(usage, &far), "it has passed by then");
    let mut tap = IMAGES.tap(Hide::Nothing, EVENT_BYTES_MAX);
    tap.hold_last_usage();
    let stream = event(usage, "");
    let mut fed = 0;
    let mut passed = 0;
    for part in stream.as_bytes().chunks(50_000) {
        passed += tap.feed(Bytes::copy_from_slice(part)).len();
        fed += part.len();
        assert!(fed - passed <= 256 << 10, "{fed} {passed}");
    }
}

proptest! {
    #[test]
    fn a_cost_is_added_however_a_stream_is_cut(
        texts in texts(),
        end in line_ends(),
        cuts in proptest::collection::vec(0_usize..80, 0..40),
    ) {
        let texts: Vec<_> = texts.iter().map(String::as_str).collect();
        let stream = chat(&texts, true, end);
        let at = stream.find(USAGE).unwrap() + USAGE.len() - 1;
        let expected = [&stream[..at], ",\"cost\":0.0001234", &stream[at..]].concat();
        prop_assert_eq!(priced(&CHAT, &stream, &cuts), expected);
        let without = chat(&texts, false, end);
        prop_assert_eq!(priced(&CHAT, &without, &cuts), without);
    }

    #[test]
    fn a_stream_without_usage_passes_unchanged_where_a_cost_was_asked_for(
        bytes in "[a-z{}\\[\\]\":,\\\\ \r\n]{0,200}",
        cuts in proptest::collection::vec(0_usize..30, 0..12),
    ) {
        for operation in OPERATIONS {
            prop_assert_eq!(&priced(operation, &bytes, &cuts), &bytes);
        }
    }
}

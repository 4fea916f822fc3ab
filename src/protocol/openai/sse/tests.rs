//! Streams under any chunking: what is seen, and what passes byte for byte.

use proptest::prelude::*;

mod endings;
mod hiding;
mod priced;

use super::*;
use crate::domain::demand::Tier;
use crate::domain::{Class, Quantities};
use crate::protocol::openai::{CHAT, OPERATIONS, Operation, RESPONSES};

const EVENT_BYTES_MAX: usize = 1 << 20;
const USAGE: &str = r#"{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29,"prompt_tokens_details":{"cached_tokens":9}}"#;

/// Feeds a stream cut into frames; gives all that came out.
fn run(tap: &mut Tap, stream: &[u8], cuts: &[usize]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = Bytes::copy_from_slice(stream);
    for cut in cuts {
        let frame = rest.split_to((*cut).min(rest.len()));
        out.extend_from_slice(&tap.feed(frame));
    }
    out.extend_from_slice(&tap.feed(rest));
    out.extend_from_slice(&tap.finish());
    out
}

/// A chat stream as upstream sends it, with or without `include_usage`.
fn chat(texts: &[&str], usage: bool, end: &str) -> String {
    let head = r#""id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"gpt-5-2025-08-07","service_tier":"default""#;
    let null = if usage { r#","usage":null"# } else { "" };
    let mut events = Vec::new();
    for text in texts {
        let text = serde_json::to_string(text).unwrap();
        let choice =
            format!(r#"{{"index":0,"delta":{{"content":{text}}},"logprobs":null,"finish_reason":null}}"#);
        events
            .push(format!(r#"data: {{{head},"choices":[{choice}]{null},"obfuscation":"aB}}1"}}{end}{end}"#));
    }
    if usage {
        events.push(format!(r#"data: {{{head},"choices":[],"usage":{USAGE},"obfuscation":""}}{end}{end}"#));
    }
    events.concat() + "data: [DONE]" + end + end
}

fn tap(hide: Hide) -> Tap {
    CHAT.tap(hide, EVENT_BYTES_MAX)
}

#[test]
fn a_chat_stream_tells_its_usage() {
    let stream = chat(&["Hello", " \"wörld\"\n"], true, "\n");
    let mut tap = tap(Hide::Nothing);
    assert_eq!(run(&mut tap, stream.as_bytes(), &[]), stream.as_bytes());
    let answer = tap.answer();
    assert_eq!(answer.object_id.as_deref(), Some("chatcmpl-1"));
    assert_eq!(answer.model.as_deref(), Some("gpt-5-2025-08-07"));
    assert_eq!(answer.tier, Some(Tier::Standard));
    let expected = Quantities::from([(Class::Input, 10), (Class::CachedInput, 9), (Class::Output, 10)]);
    assert_eq!(answer.usage.unwrap(), expected);
    assert_eq!(tap.transcript(), "Hello \"wörld\"\n");
    assert_eq!(tap.transcript_bytes(), 15);
    assert!(tap.is_done() && tap.seen_output() && !tap.is_mid_event());
}

#[test]
fn a_frame_that_passes_whole_is_not_copied() {
    let frame = Bytes::from(chat(&["a"], true, "\n"));
    let out = tap(Hide::Nothing).feed(frame.clone());
    assert_eq!(out.as_ptr(), frame.as_ptr());
}

#[test]
fn nothing_but_an_incomplete_event_is_held_back() {
    let stream = chat(&["a", "b"], true, "\n");
    let direct = chat(&["a", "b"], false, "\n");
    let first_event = stream.find("\n\n").unwrap() + 2;
    let mut tap = tap(Hide::InjectedUsage);
    let out = tap.feed(Bytes::copy_from_slice(&stream.as_bytes()[..first_event + 5]));
    assert_eq!(out, direct.as_bytes()[..direct.find("\n\n").unwrap() + 2]);
    assert!(
        tap.feed(Bytes::copy_from_slice(&stream.as_bytes()[first_event + 5..first_event + 9])).is_empty()
    );
    assert!(!tap.is_mid_event());
}

#[test]
fn chunks_that_are_more_than_usage_pass() {
    for (event, passes) in [
        (
            "data: {\"choices\":[],\"prompt_filter_results\":[],\"usage\":null}\n\n",
            "data: {\"choices\":[],\"prompt_filter_results\":[]}\n\n",
        ),
        (
            "data: {\"choices\":[],\"moderation\":{\"a\":1},\"usage\":null}\n\n",
            "data: {\"choices\":[],\"moderation\":{\"a\":1}}\n\n",
        ),
        ("data: {\"choices\":[{}],\"usage\":{\"prompt_tokens\":1}}\n\n", "data: {\"choices\":[{}]}\n\n"),
        (": keep-alive\n\n", ": keep-alive\n\n"),
        ("data: {\"choices\": [], \"usage\": {\"prompt_tokens\": 1}}\r\n\r\n", ""),
        ("data:{\"choices\":[],\ndata: \"usage\":{\"prompt_tokens\":1}}\n\n", ""),
        ("\n\n\n", "\n\n\n"),
    ] {
        assert_eq!(run(&mut tap(Hide::InjectedUsage), event.as_bytes(), &[]), passes.as_bytes(), "{event}");
    }
}

#[test]
fn usage_is_seen_even_if_its_lines_are_split() {
    let mut tap = tap(Hide::Nothing);
    run(
        &mut tap,
        b"data:{\"choices\":[],\ndata: \"usage\":{\"prompt_tokens\":1,\"completion_tokens\":0}}\n\n",
        &[],
    );
    assert_eq!(tap.answer().usage.unwrap()[Class::Input], 1);
}

#[test]
fn a_stream_that_ends_without_an_empty_line_is_still_read() {
    let stream = chat(&["a"], true, "\n");
    let cut = stream.strip_suffix("data: [DONE]\n\n").unwrap().trim_end();
    for hide in [Hide::Nothing, Hide::InjectedUsage] {
        let mut tap = tap(hide);
        run(&mut tap, cut.as_bytes(), &[]);
        assert!(tap.answer().usage.is_some() && !tap.is_done());
    }
}

#[test]
fn a_cut_usage_chunk_stays_hidden() {
    let stream = chat(&["a"], true, "\n");
    let direct = chat(&["a"], false, "\n");
    let in_usage = stream.find("\"completion_tokens\"").unwrap();
    let out = run(&mut tap(Hide::InjectedUsage), &stream.as_bytes()[..in_usage], &[]);
    assert_eq!(out, direct.strip_suffix("data: [DONE]\n\n").unwrap().as_bytes());
    let in_text = stream.find("\"content\"").unwrap();
    let out = run(&mut tap(Hide::InjectedUsage), &stream.as_bytes()[..in_text], &[]);
    assert_eq!(out, &stream.as_bytes()[..in_text]);
}

#[test]
fn an_oversized_event_passes_unread() {
    let long = format!(
        "data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":1}},\"x\":\"{}\"}}\n\n",
        "y".repeat(900)
    );
    let stream = format!("{long}{}", chat(&["a"], true, "\n"));
    let expected = format!("{long}{}", chat(&["a"], false, "\n"));
    for cuts in [vec![], vec![10; 200], vec![900, 1, 1, 200]] {
        let mut tap = CHAT.tap(Hide::InjectedUsage, long.len() - 1);
        assert_eq!(run(&mut tap, stream.as_bytes(), &cuts), expected.as_bytes());
        assert_eq!(tap.answer().usage.unwrap().tokens_total(), 29);
        let mut tap = CHAT.tap(Hide::InjectedUsage, long.len());
        assert_ne!(run(&mut tap, stream.as_bytes(), &cuts), expected.as_bytes());
    }
    let mut tap = CHAT.tap(Hide::Nothing, 40);
    tap.feed(Bytes::from_static(&[b'x'; 50]));
    assert!(tap.is_mid_event() && tap.partial.is_empty());
    tap.feed(Bytes::from_static(b"\n\ndata: [DONE]\n\n"));
    assert!(tap.is_done() && !tap.is_mid_event());
}

#[test]
fn errors_end_a_stream() {
    for event in [
        "data: {\"error\":{\"message\":\"m\",\"code\":\"c\"}}\n\n",
        "event: error\ndata: {\"x\":1}\n\n",
        "data: [DONE]\n\n",
    ] {
        let mut tap = tap(Hide::Nothing);
        run(&mut tap, event.as_bytes(), &[]);
        assert!(tap.is_done(), "{event}");
    }
    let mut tap = tap(Hide::Nothing);
    run(&mut tap, b"data: {\"choices\":[{\"delta\":{\"content\":\"{\\\"error\\\":[DONE]\"}}]}\n\n", &[]);
    assert!(!tap.is_done());
}

fn responses(ending: &str) -> String {
    format!(
        "event: response.created\n\
         data: {{\"type\":\"response.created\",\"sequence_number\":0,\"response\":{{\"id\":\"resp_1\",\"model\":\"gpt-5\",\
         \"service_tier\":\"auto\",\"status\":\"in_progress\",\"usage\":null}}}}\n\n\
         event: response.output_text.delta\n\
         data: {{\"type\":\"response.output_text.delta\",\"sequence_number\":1,\"delta\":\"Hi \\u00e9\",\"logprobs\":[]}}\n\n\
         data: {{\"type\":\"response.function_call_arguments.delta\",\"sequence_number\":2,\"delta\":\"{{}}\"}}\n\n\
         event: response.output_item.done\n\
         data: {{\"type\":\"response.output_item.done\",\"item\":{{\"type\":\"code_interpreter_call\",\"container_id\":\"c1\"}}}}\n\n\
         {ending}"
    )
}

#[test]
fn a_response_stream_tells_its_usage() {
    for kind in ["response.completed", "response.incomplete", "response.failed"] {
        let ending = format!(
            "event: {kind}\ndata: {{\"type\":\"{kind}\",\"response\":{{\"id\":\"resp_1\",\"model\":\"gpt-5-x\",\
             \"service_tier\":\"priority\",\"output\":[{{\"type\":\"file_search_call\"}}],\
             \"usage\":{{\"input_tokens\":36,\"output_tokens\":87}}}}}}\n\n"
        );
        let mut tap = RESPONSES.tap(Hide::Nothing, EVENT_BYTES_MAX);
        run(&mut tap, responses(&ending).as_bytes(), &[100, 1, 50]);
        let answer = tap.answer();
        assert_eq!(answer.usage.unwrap(), [(Class::Input, 36), (Class::Output, 87)].into());
        assert_eq!(answer.model.as_deref(), Some("gpt-5-x"));
        assert_eq!(answer.tier, Some(Tier::Priority));
        assert_eq!(
            (answer.tools_seen.containers, answer.tools_seen.quantities[Class::FileSearchCalls]),
            (1, 1)
        );
        assert_eq!(tap.transcript(), "Hi é{}");
        assert!(tap.is_done());
    }
}

#[test]
fn a_cut_response_stream_still_tells_who_and_what() {
    let mut tap = RESPONSES.tap(Hide::Nothing, EVENT_BYTES_MAX);
    run(&mut tap, responses("event: response.output_text.delta\ndata: {\"ty").as_bytes(), &[]);
    let answer = tap.answer();
    assert_eq!((answer.object_id.as_deref(), answer.model.as_deref()), (Some("resp_1"), Some("gpt-5")));
    assert_eq!((&answer.usage, answer.tools_seen.containers), (&None, 1));
    assert!(tap.seen_output() && !tap.is_done() && !tap.is_mid_event());
}

#[test]
fn failure_without_usage_and_errors_end_a_response() {
    for ending in [
        "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"usage\":null}}\n\n",
        "data: {\"type\":\"response.failed\",\"response\":{\"usage\":null}}\n\n",
        "data: {\"sequence_number\":1,\"type\":\"response.failed\"}\n\n",
        "event: error\ndata: {\"type\":\"error\",\"code\":\"c\"}\n\n",
    ] {
        let mut tap = RESPONSES.tap(Hide::Nothing, EVENT_BYTES_MAX);
        run(&mut tap, responses(ending).as_bytes(), &[]);
        assert!(tap.is_done() && tap.answer().usage.is_none(), "{ending}");
    }
}

#[test]
fn sound_is_output_but_no_text() {
    let mut tap = RESPONSES.tap(Hide::Nothing, EVENT_BYTES_MAX);
    run(
        &mut tap,
        b"event: response.audio.delta\ndata: {\"type\":\"response.audio.delta\",\"delta\":\"UklG\"}\n\n",
        &[],
    );
    assert!(tap.seen_output() && tap.transcript().is_empty());
}

fn line_ends() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec!["\n", "\r", "\r\n"])
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    let tricky =
        proptest::sample::select(vec!["\"usage\":null", "data: [DONE]\n\n", "usage", "}", "\\", "é🦀", ""]);
    let text = prop_oneof![".{0,20}", tricky.prop_map(str::to_owned)];
    proptest::collection::vec(text, 0..6)
}

proptest! {
    #[test]
    fn a_client_gets_what_it_would_have_got(
        texts in texts(),
        end in line_ends(),
        comments in any::<bool>(),
        cuts in proptest::collection::vec(0_usize..80, 0..40),
    ) {
        let texts: Vec<_> = texts.iter().map(String::as_str).collect();
        let comment = if comments { format!(": ping{end}{end}") } else { String::new() };
        let stream = comment.clone() + &chat(&texts, true, end) + &comment;
        let direct = comment.clone() + &chat(&texts, false, end) + &comment;
        let mut hiding = tap(Hide::InjectedUsage);
        let out = run(&mut hiding, stream.as_bytes(), &cuts);
        prop_assert_eq!(String::from_utf8(out).unwrap(), direct);
        let mut watching = tap(Hide::Nothing);
        prop_assert_eq!(run(&mut watching, stream.as_bytes(), &cuts), stream.as_bytes());
        for tap in [hiding, watching] {
            prop_assert_eq!(tap.answer().usage.unwrap().tokens_total(), 29);
            prop_assert_eq!(tap.transcript(), texts.concat());
            prop_assert!(tap.is_done());
        }
    }

    #[test]
    fn a_stream_without_injected_usage_passes_unchanged(
        bytes in "[a-z{}\\[\\]\":,\\\\ \r\n]{0,200}",
        cuts in proptest::collection::vec(0_usize..30, 0..12),
        event_bytes_max in 0_usize..60,
    ) {
        for endpoint in OPERATIONS {
            for hide in [Hide::Nothing, Hide::InjectedUsage] {
                let mut tap = endpoint.tap(hide, event_bytes_max);
                prop_assert_eq!(run(&mut tap, bytes.as_bytes(), &cuts), bytes.as_bytes());
                prop_assert!(tap.partial.len() <= event_bytes_max);
            }
        }
    }
}

//! How events report the end and the id of a stream.

use super::*;
use crate::protocol::openai::EMBEDDINGS;
use crate::protocol::openai::usage::Outcome;

fn answer_of(endpoint: &'static Operation, stream: &str) -> Answer {
    let mut tap = endpoint.tap(Hide::Nothing, EVENT_BYTES_MAX);
    run(&mut tap, stream.as_bytes(), &[30, 1, 7]);
    tap.answer()
}

fn chunk(members: &str) -> String {
    format!("data: {{\"id\":\"c\",\"model\":\"gpt-5.1\",{members}}}\n\n")
}

const TEXT: &str = r#""choices":[{"delta":{"content":"a"},"finish_reason":null}]"#;
const DONE: &str = "data: [DONE]\n\n";

#[test]
fn a_tier_is_learned_wherever_a_chunk_names_it() {
    let named = |tier: &str| chunk(&format!("\"service_tier\":{tier},{TEXT}"));
    let usage = chunk(r#""choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}"#);
    let many = named("null").repeat(9);
    for (stream, tier) in [
        (named("null") + &named("\"priority\"") + &usage, Some(Tier::Priority)),
        (named("\"priority\"") + &named("null") + &usage, Some(Tier::Priority)),
        (many + &named("\"flex\"") + &usage, Some(Tier::Flex)),
        (named("\"auto\"") + &named("\"default\"") + &usage, Some(Tier::Standard)),
        (named("\"priority\"") + &named("\"default\"") + &usage, Some(Tier::Standard)),
        (
            named("\"priority\"")
                + &chunk(r#""choices":[],"service_tier":"flex","usage":{"prompt_tokens":1}"#),
            Some(Tier::Flex),
        ),
        (usage.clone(), None),
    ] {
        assert_eq!(answer_of(&CHAT, &stream).tier, tier, "{stream}");
    }
}

#[test]
fn a_model_and_an_id_are_learned_however_late_they_come() {
    let stream = "data: {\"id\":\"\",\"model\":null,\"choices\":[]}\n\n".repeat(20) + &chunk(TEXT);
    let answer = answer_of(&CHAT, &stream);
    assert_eq!((answer.object_id.as_deref(), answer.model.as_deref()), (Some("c"), Some("gpt-5.1")));
}

#[test]
fn an_error_is_one_wherever_it_stands_and_null_is_none() {
    for error in ["null", "{}", "\"\"", "false"] {
        let stream = format!("data: {{\"error\":{error},\"id\":\"c\",{TEXT}}}\n\n").repeat(2)
            + &format!(
                "data: {{\"error\":{error},\"choices\":[],\"usage\":{{\"prompt_tokens\":1000,\"completion_tokens\":500}}}}\n\n"
            )
            + DONE;
        let answer = answer_of(&CHAT, &stream);
        assert_eq!(answer.outcome, Outcome::Completed, "{stream}");
        assert_eq!(answer.usage.unwrap().tokens_total(), 1_500);
    }
    let last = chunk(&format!("{TEXT},\"error\":{{\"code\":502}}"));
    for stream in [last.clone(), last + DONE, chunk(&TEXT.replace("null", "\"error\"")) + DONE] {
        let answer = answer_of(&CHAT, &stream);
        assert_eq!((answer.outcome, answer.has_begun), (Outcome::Failed, true), "{stream}");
    }
}

#[test]
fn a_chat_stream_ends_as_its_choices_do() {
    let finished = |reason: &str| chunk(&TEXT.replace("null", &format!("\"{reason}\"")));
    for (stream, outcome, is_at_bound) in [
        (finished("stop") + DONE, Outcome::Completed, false),
        (finished("tool_calls") + DONE, Outcome::Completed, false),
        (finished("length") + DONE, Outcome::Stopped, true),
        (finished("stop") + &finished("length") + &finished("stop") + DONE, Outcome::Stopped, true),
        (finished("content_filter") + DONE, Outcome::Stopped, false),
        (finished("stop"), Outcome::Open, false),
        (
            chunk(r#""choices":[{"delta":{"content":"\"finish_reason\":\"length\""}}]"#) + DONE,
            Outcome::Completed,
            false,
        ),
    ] {
        let answer = answer_of(&CHAT, &stream);
        assert_eq!((answer.outcome, answer.is_at_output_bound), (outcome, is_at_bound), "{stream}");
    }
}

#[test]
fn an_event_is_what_its_type_says_and_else_its_name() {
    let usage = r#""response":{"usage":{"input_tokens":3,"output_tokens":4}}"#;
    for (event, outcome) in [
        (
            format!("event: message\ndata: {{\"type\":\"response.completed\",{usage}}}\n\n"),
            Outcome::Completed,
        ),
        (
            format!("event: response.created\ndata: {{\"n\":1,{usage},\"type\":\"response.completed\"}}\n\n"),
            Outcome::Completed,
        ),
        (format!("event: response.incomplete\ndata: {{{usage}}}\n\n"), Outcome::Stopped),
        (format!("data: {{{usage},\"type\":\"response.failed\"}}\n\n"), Outcome::Failed),
    ] {
        let answer = answer_of(&RESPONSES, &event);
        assert_eq!(answer.outcome, outcome, "{event}");
        assert_eq!(answer.usage.unwrap().tokens_total(), 7, "{event}");
    }
    let delta =
        "event: response.completed\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"a\"}\n\n";
    let answer = answer_of(&RESPONSES, delta);
    assert_eq!((answer.outcome, answer.has_begun), (Outcome::Open, true));
    let quiet = "event: keepalive\ndata: {\"type\":\"keepalive\",\"error\":null}\n\n";
    assert_eq!(answer_of(&RESPONSES, quiet), Answer::default());
}

#[test]
fn hosted_calls_are_counted_from_their_start() {
    let mut tap = RESPONSES.tap(Hide::Nothing, EVENT_BYTES_MAX);
    let item = |state: &str, kind: &str, id: &str| {
        format!(
            "data: {{\"type\":\"response.output_item.{state}\",\"item\":{{\"type\":\"{kind}\",\"id\":\"{id}\"}}}}\n\n"
        )
    };
    for (event, calls) in [
        (item("added", "web_search_call", "ws_1"), 1),
        ("data: {\"type\":\"response.web_search_call.searching\",\"item_id\":\"ws_1\"}\n\n".to_owned(), 1),
        (item("done", "web_search_call", "ws_1"), 1),
        (item("added", "mcp_call", "mcp_1"), 2),
        (item("added", "function_call", "fc_1"), 2),
        (item("added", "message", "msg_1"), 2),
        (item("done", "code_interpreter_call", "ci_1"), 3),
        (item("done", "file_search_call", ""), 4),
        (item("done", "file_search_call", ""), 5),
    ] {
        run(&mut tap, event.as_bytes(), &[]);
        assert_eq!(tap.hosted_calls(), calls, "{event}");
    }
}

#[test]
fn what_could_not_be_read_is_said() {
    let item = r#"{"type":"response.output_item.done","item":{"type":"image_generation_call","id":"ig_1"}}"#;
    let long = format!("data: {}{item}\n\n", " ".repeat(EVENT_BYTES_MAX));
    let twice = "data: {\"type\":\"response.completed\",\"response\":{\"usage\":{},\"usage\":{}}}\n\n";
    for stream in [&long, twice] {
        let answer = answer_of(&RESPONSES, stream);
        assert!(answer.is_partly_unread && answer.has_begun | answer.usage.is_none(), "{stream:.80}");
    }
    let mut frames = RESPONSES.tap(Hide::Nothing, 50);
    run(&mut frames, long.as_bytes(), &[40, 40, 40]);
    assert!(frames.answer().is_partly_unread);
}

#[test]
fn output_that_no_delta_reported_is_text_too() {
    let item = r#"{"type":"response.output_item.done","item":{"type":"message","content":[{"text":"hello there"}]}}"#;
    let delta = r#"{"type":"response.output_text.delta","delta":"hello there"}"#;
    let last = r#"{"type":"response.completed","response":{"output":[{"type":"message","content":[{"text":"hello there"}]}]}}"#;
    let transcript = |events: &[&str]| {
        let mut tap = RESPONSES.tap(Hide::Nothing, EVENT_BYTES_MAX);
        for event in events {
            run(&mut tap, format!("data: {event}\n\n").as_bytes(), &[]);
        }
        tap.transcript().to_owned()
    };
    assert_eq!(transcript(&[delta, item, last]), "hello there");
    assert_eq!(transcript(&[delta, item, item, last]), format!("hello there{item}"));
    assert_eq!(transcript(&[item, last]), item);
    assert_eq!(transcript(&[last]), last);
}

#[test]
fn vectors_that_come_in_events_are_counted_by_their_total_and_have_no_output() {
    let stream =
        "data: {\"model\":\"text-embedding-3-small\",\"usage\":{\"total_tokens\":8}}\n\ndata: [DONE]\n\n";
    assert_eq!(answer_of(&EMBEDDINGS, stream).usage.unwrap(), Quantities::from([(Class::Input, 8)]));
    assert_eq!(answer_of(&CHAT, stream).usage, None, "a text has an output, which is not known");
}

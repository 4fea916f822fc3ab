//! Every usage shape, and that totals are conserved whatever details claim.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::domain::{Class, Quantities};
use crate::protocol::openai::{CHAT, EMBEDDINGS, OPERATIONS, Operation, RESPONSES};

fn tokens(endpoint: &'static Operation, usage: &Value) -> Quantities {
    endpoint.answer(json!({"usage": usage}).to_string().as_bytes()).usage.expect("usage is given")
}

#[test]
fn a_chat_answer_is_read() {
    let body = br#"{"id":"chatcmpl-1","object":"chat.completion","model":"gpt-5-2025-08-07","service_tier":"priority",
        "choices":[{"message":{"content":"hi","tool_calls":[{"function":{"arguments":"{}"}}]}}],
        "usage":{"prompt_tokens":100,"completion_tokens":50,"total_tokens":150,
        "prompt_tokens_details":{"cached_tokens":30,"audio_tokens":10,"text_tokens":90,"cache_write_tokens":5},
        "completion_tokens_details":{"reasoning_tokens":20,"audio_tokens":4,"rejected_prediction_tokens":3}}}"#;
    let answer = CHAT.answer(body);
    assert_eq!(answer.object_id.as_deref(), Some("chatcmpl-1"));
    assert_eq!(answer.model.as_deref(), Some("gpt-5-2025-08-07"));
    assert_eq!(answer.tier, Some(Tier::Priority));
    let expected = Quantities::from([
        (Class::Input, 55),
        (Class::CachedInput, 30),
        (Class::CacheWrite, 5),
        (Class::AudioInput, 10),
        (Class::Output, 26),
        (Class::Reasoning, 20),
        (Class::AudioOutput, 4),
    ]);
    assert_eq!(answer.usage.unwrap(), expected);
}

#[test]
fn a_response_is_read_with_its_tools() {
    let body = json!({"id": "resp_1", "model": "gpt-5", "service_tier": "flex",
        "output": [
            {"type": "web_search_call", "action": {"type": "search", "query": "x"}},
            {"type": "web_search_call", "action": {"type": "open_page"}},
            {"type": "web_search_call", "action": {"type": "search"}},
            {"type": "file_search_call", "results": null},
            {"type": "code_interpreter_call", "container_id": "cntr_1"},
            {"type": "code_interpreter_call", "container_id": "cntr_1"},
            {"type": "shell_call", "environment": {"type": "container_reference", "container_id": "cntr_2"}},
            {"type": "shell_call", "environment": {"type": "local"}},
            {"type": "message", "content": []}
        ],
        "usage": {"input_tokens": 8477, "output_tokens": 87, "total_tokens": 8564,
            "input_tokens_details": {"cached_tokens": 8385, "cache_write_tokens": 89,
                "cache_write_tokens_details": {"ttl_30m_tokens": 80, "ttl_12h_tokens": 9}},
            "output_tokens_details": {"reasoning_tokens": 7}}});
    let answer = RESPONSES.answer(body.to_string().as_bytes());
    let expected = Quantities::from([
        (Class::Input, 3),
        (Class::CachedInput, 8385),
        (Class::CacheWrite, 80),
        (Class::CacheWrite12h, 9),
        (Class::Output, 80),
        (Class::Reasoning, 7),
    ]);
    assert_eq!(answer.usage.unwrap(), expected);
    let calls = [(Class::WebSearchCalls, 2), (Class::FileSearchCalls, 1)];
    let tools = ToolUse { quantities: calls.into(), containers: 2 };
    assert_eq!(answer.tools_seen, tools);
}

#[test]
fn of_reported_and_listed_tools_the_larger_count() {
    let body = json!({"output": [{"type": "web_search_call", "action": {"type": "search"}}],
        "usage": {"input_tokens": 1, "output_tokens": 1},
        "tool_usage": {"web_search": {"num_requests": 7}, "image_gen": {
            "input_tokens": 50, "input_tokens_details": {"image_tokens": 40, "text_tokens": 10},
            "cached_tokens": 12, "cached_tokens_details": {"cached_image_tokens": 8, "cached_text_tokens": 4},
            "output_tokens": 60, "output_tokens_details": {"image_tokens": 55, "text_tokens": 5}}}});
    let tools = RESPONSES.answer(body.to_string().as_bytes()).tools_seen.quantities;
    assert_eq!(tools[Class::WebSearchCalls], 7);
    let fewer = json!({"output": [{"type": "web_search_call"}, {"type": "web_search_call", "action": null}],
        "tool_usage": {"web_search": {"num_requests": 1}, "file_search": {"num_requests": 2}}});
    let seen = RESPONSES.answer(fewer.to_string().as_bytes()).tools_seen.quantities;
    assert_eq!(seen, [(Class::WebSearchCalls, 2), (Class::FileSearchCalls, 2)].into());
    let image = Quantities::from([
        (Class::Input, 6),
        (Class::CachedInput, 4),
        (Class::ImageInput, 32),
        (Class::ImageCachedInput, 8),
        (Class::Output, 5),
        (Class::ImageOutput, 55),
    ]);
    assert_eq!(tools.only(Class::is_token), image);
}

#[test]
fn image_output_without_details_is_pictures() {
    let body = json!({"tool_usage": {"image_gen": {"input_tokens": 5, "output_tokens": 60}}});
    let answer = RESPONSES.answer(body.to_string().as_bytes());
    assert_eq!(answer.usage, None);
    assert_eq!(answer.tools_seen.quantities, [(Class::Input, 5), (Class::ImageOutput, 60)].into());
}

#[test]
fn embeddings_say_one_number() {
    let figures = json!({"prompt_tokens": 8, "total_tokens": 8});
    assert_eq!(tokens(&EMBEDDINGS, &figures), Quantities::from([(Class::Input, 8)]));
    assert_eq!(tokens(&EMBEDDINGS, &json!({"total_tokens": 8}))[Class::Input], 8);
}

#[test]
fn no_usage_is_not_zero_usage() {
    for body in
        ["{}", r#"{"usage":null}"#, r#"{"usage":{}}"#, r#"{"usage":"x"}"#, r#"{"usage":[1]}"#, "[]", "no", ""]
    {
        assert_eq!(CHAT.answer(body.as_bytes()).usage, None, "{body}");
    }
    let zero = CHAT.answer(br#"{"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}"#);
    assert_eq!(zero.usage, Some(Quantities::default()));
}

#[test]
fn nulls_and_oddities_count_as_nothing() {
    let figures = json!({"prompt_tokens": 9, "completion_tokens": null, "total_tokens": 12, "prompt_tokens_details": null,
        "completion_tokens_details": {"reasoning_tokens": null, "audio_tokens": "x", "image_tokens": -3}});
    let expected = Quantities::from([(Class::Input, 9), (Class::Output, 3)]);
    assert_eq!(tokens(&CHAT, &figures), expected);
    let odd = br#"{"id":5,"model":["m"],"service_tier":{},"output":"x","tool_usage":[],"usage":{"input_tokens":2.0,"output_tokens":0}}"#;
    let answer = RESPONSES.answer(odd);
    assert_eq!((answer.object_id, answer.model, answer.tier), (None, None, None));
    assert_eq!(answer.usage.unwrap()[Class::Input], 2);
}

#[test]
fn output_is_at_least_the_total_less_the_input() {
    let figures = json!({"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 410,
        "completion_tokens_details": {"reasoning_tokens": 300}});
    let expected = Quantities::from([(Class::Input, 100), (Class::Output, 10), (Class::Reasoning, 300)]);
    assert_eq!(tokens(&CHAT, &figures), expected);
    let less = json!({"input_tokens": 100, "output_tokens": 10, "total_tokens": 50});
    assert_eq!(tokens(&RESPONSES, &less), Quantities::from([(Class::Input, 100), (Class::Output, 10)]));
}

#[test]
fn usage_of_one_side_is_only_the_least_that_was_used() {
    for (figures, tokens) in [
        (json!({"prompt_tokens": 9, "completion_tokens": null}), Quantities::from([(Class::Input, 9)])),
        (json!({"prompt_tokens": -1, "completion_tokens": 4}), Quantities::from([(Class::Output, 4)])),
    ] {
        let answer = CHAT.answer(json!({"usage": figures}).to_string().as_bytes());
        assert_eq!((answer.usage, answer.used_so_far), (None, Some(tokens)), "{figures}");
    }
    let both = json!({"completion_tokens": 4, "total_tokens": 13});
    assert_eq!(tokens(&CHAT, &both), Quantities::from([(Class::Input, 9), (Class::Output, 4)]));
}

#[test]
fn figures_under_two_names_or_as_text_are_read() {
    let figures =
        json!({"prompt_tokens": 0, "completion_tokens": 0, "input_tokens": "12", "output_tokens": 4.0});
    assert_eq!(tokens(&CHAT, &figures), Quantities::from([(Class::Input, 12), (Class::Output, 4)]));
}

#[test]
fn cache_writes_say_how_long_they_live_or_that_is_known_to_be_hidden() {
    let read = |details: &Value| {
        let usage = json!({"input_tokens": 100, "output_tokens": 0, "input_tokens_details": details});
        let answer = RESPONSES.answer(json!({"usage": usage}).to_string().as_bytes());
        let tokens = answer.usage.unwrap();
        (tokens[Class::CacheWrite], tokens[Class::CacheWrite12h], answer.hides_cache_life)
    };
    let split = json!({"ttl_30m_tokens": 5, "ttl_12h_tokens": 6});
    assert_eq!(read(&json!({"cache_write_tokens": 11, "cache_write_tokens_details": split})), (5, 6, false));
    assert_eq!(read(&json!({"cache_write_tokens_details": split})), (5, 6, false));
    assert_eq!(read(&json!({"cache_write_tokens": 11})), (11, 0, true));
    assert_eq!(read(&json!({"cached_tokens": 11})), (0, 0, false));
}

#[test]
fn a_whole_answer_says_how_it_ended() {
    for (body, outcome, has_begun) in [
        (json!({"choices": [{"finish_reason": "stop"}]}), Outcome::Completed, true),
        (
            json!({"choices": [{"finish_reason": "stop"}, {"finish_reason": "length"}]}),
            Outcome::Stopped,
            true,
        ),
        (json!({"status": "completed", "error": null, "output": []}), Outcome::Completed, true),
        (json!({"status": "incomplete", "output": []}), Outcome::Stopped, true),
        (json!({"status": "failed", "error": {"code": "x"}}), Outcome::Failed, true),
        (json!({"status": "in_progress"}), Outcome::Open, true),
        (json!({"error": {"message": "m"}}), Outcome::Failed, false),
        (json!({"error": {"message": "m"}, "choices": []}), Outcome::Failed, false),
        (json!({"error": {"message": "m"}, "choices": [{}]}), Outcome::Failed, true),
        (json!({"data": []}), Outcome::Completed, false),
        (json!("an answer"), Outcome::Open, false),
    ] {
        let answer = RESPONSES.answer(body.to_string().as_bytes());
        assert_eq!((answer.outcome, answer.has_begun), (outcome, has_begun), "{body}");
    }
}

#[test]
fn cached_tokens_spill_from_text_into_pictures() {
    let figures = json!({"prompt_tokens": 100, "completion_tokens": 1,
        "prompt_tokens_details": {"cached_tokens": 90, "image_tokens": 80, "audio_tokens": 5}});
    let expected = Quantities::from([
        (Class::CachedInput, 15),
        (Class::ImageInput, 5),
        (Class::ImageCachedInput, 75),
        (Class::AudioInput, 5),
        (Class::Output, 1),
    ]);
    assert_eq!(tokens(&CHAT, &figures), expected);
}

proptest! {
    #[test]
    fn totals_are_conserved_whatever_the_details_say(
        input in 0_u64..1_000_000,
        output in 0_u64..1_000_000,
        details in proptest::collection::vec(proptest::option::of(0_u64..2_000_000), 11),
        total in proptest::option::of(0_u64..2_000_000),
        chat in any::<bool>(),
    ) {
        let input_details = json!({"cached_tokens": details[0], "audio_tokens": details[1], "image_tokens": details[2],
            "text_tokens": details[3], "cache_write_tokens": details[4],
            "cache_write_tokens_details": {"ttl_12h_tokens": details[5]},
            "cached_tokens_details": {"audio_tokens": details[6], "image_tokens": details[7]}});
        let output_details = json!({"reasoning_tokens": details[8], "audio_tokens": details[9], "image_tokens": details[10]});
        let figures = if chat {
            json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": total,
                "prompt_tokens_details": input_details, "completion_tokens_details": output_details})
        } else {
            json!({"input_tokens": input, "output_tokens": output, "total_tokens": total,
                "input_tokens_details": input_details, "output_tokens_details": output_details})
        };
        let tokens = tokens(&CHAT, &figures);
        prop_assert_eq!(tokens.input_tokens_total(), input);
        prop_assert_eq!(tokens.output_tokens_total(), output.max(total.unwrap_or(0).saturating_sub(input)));
        prop_assert!(tokens.cached_tokens_total() <= details[0].unwrap_or(0));
        prop_assert!(tokens[Class::Reasoning] <= details[8].unwrap_or(0));
        let written = tokens[Class::CacheWrite] + tokens[Class::CacheWrite12h];
        prop_assert_eq!(written, details[4].max(details[5]).unwrap_or(0).min(input - tokens.cached_tokens_total()));
    }

    #[test]
    fn no_answer_makes_it_panic(body in "\\PC{0,60}") {
        for endpoint in OPERATIONS {
            let _ = endpoint.answer(body.as_bytes());
        }
    }
}

#[test]
fn realtime_responses_split_both_sides_by_kind() {
    let body = br#"{"object":"realtime.response","id":"resp_1","status":"completed","output":[],"usage":{
        "total_tokens":253,"input_tokens":132,"output_tokens":121,
        "input_token_details":{"text_tokens":119,"audio_tokens":13,"image_tokens":0,"cached_tokens":64,
            "cached_tokens_details":{"text_tokens":64,"audio_tokens":0,"image_tokens":0}},
        "output_token_details":{"text_tokens":30,"audio_tokens":91}}}"#;
    let expected = [
        (Class::Input, 55),
        (Class::CachedInput, 64),
        (Class::AudioInput, 13),
        (Class::Output, 30),
        (Class::AudioOutput, 91),
    ];
    let answer = of_json(AnswerForm::Text, body);
    assert_eq!(answer.usage, Some(expected.into()));
    assert_eq!((answer.outcome, answer.object_id.as_deref()), (Outcome::Completed, Some("resp_1")));
}

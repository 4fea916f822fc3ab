//! Edits change their field and nothing else.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::protocol::openai::request::tests::any_json;
use crate::protocol::openai::{CHAT, COMPACT, COMPLETIONS, EMBEDDINGS, IMAGES, Operation, RESPONSES};

fn rewritten(endpoint: &'static Operation, body: &str, edit: &Edit) -> Option<String> {
    let request = endpoint.read(body.as_bytes()).unwrap();
    request.rewrite(body.as_bytes(), edit).map(|bytes| String::from_utf8(bytes).unwrap())
}

#[test]
fn edits_touch_their_field_and_nothing_else() {
    let usage = Edit { include_usage: true, ..Edit::default() };
    for (body, after) in [
        (r#" {"model":"m"}"#, r#" {"stream_options":{"include_usage":true},"model":"m"}"#),
        (
            r#"{"model":"m","stream_options":null}"#,
            r#"{"model":"m","stream_options":{"include_usage":true}}"#,
        ),
        (
            r#"{"stream_options": { },"model":"m"}"#,
            r#"{"stream_options": {"include_usage":true },"model":"m"}"#,
        ),
        (
            r#"{"model":"m","stream_options":{"include_obfuscation":false}}"#,
            r#"{"model":"m","stream_options":{"include_usage":true,"include_obfuscation":false}}"#,
        ),
        (
            r#"{"model":"m","stream_options":{"a":1,"include_\u0075sage" : false}}"#,
            r#"{"model":"m","stream_options":{"a":1,"include_\u0075sage" : true}}"#,
        ),
    ] {
        assert_eq!(rewritten(&CHAT, body, &usage).as_deref(), Some(after));
        assert_eq!(rewritten(&CHAT, after, &usage), None);
    }
    let output = Edit { output_max: Some(9), ..Edit::default() };
    for (endpoint, body, after) in [
        (&CHAT, r#"{"model":"m"}"#, r#"{"max_completion_tokens":9,"model":"m"}"#),
        (&CHAT, r#"{"model":"m","max_tokens": 50 }"#, r#"{"model":"m","max_tokens": 9 }"#),
        (&CHAT, r#"{"model":"m","max_tokens":null}"#, r#"{"model":"m","max_tokens":9}"#),
        (&COMPLETIONS, r#"{"model":"m"}"#, r#"{"max_tokens":9,"model":"m"}"#),
        (&RESPONSES, r#"{"model":"m"}"#, r#"{"max_output_tokens":9,"model":"m"}"#),
    ] {
        assert_eq!(rewritten(endpoint, body, &output).as_deref(), Some(after));
        assert_eq!(rewritten(endpoint, after, &output), None);
    }
    for endpoint in [&EMBEDDINGS, &COMPACT] {
        assert_eq!(rewritten(endpoint, r#"{"model":"m","max_output_tokens":10}"#, &output), None);
    }
    let calls = Edit { tool_calls_max: Some(2), ..Edit::default() };
    let body = r#"{"model":"m","max_tool_calls":4}"#;
    assert_eq!(rewritten(&RESPONSES, body, &calls).as_deref(), Some(r#"{"model":"m","max_tool_calls":2}"#));
    assert_eq!(rewritten(&RESPONSES, body, &Edit::default()), None);
}

fn any_body() -> impl Strategy<Value = Map<String, Value>> {
    let options = prop_oneof![
        Just(Value::Null),
        Just(json!({})),
        Just(json!({"include_usage": false, "include_obfuscation": true})),
        Just(json!({"include_usage": true})),
        Just(json!({"x": [{}]})),
    ];
    let count = || prop_oneof![Just(Value::Null), (0_u32..100).prop_map(Value::from)];
    let known = proptest::collection::btree_map(
        prop_oneof![Just("max_completion_tokens"), Just("max_output_tokens"), Just("max_tool_calls")],
        count(),
        0..3,
    );
    let other = proptest::collection::btree_map("zz[a-z]{1,4}", any_json(), 0..4);
    (known, other, proptest::option::of(options), any_json()).prop_map(|(known, other, options, metadata)| {
        let mut body: Map<String, Value> = other.into_iter().collect();
        body.extend(known.into_iter().map(|(key, value)| (key.to_owned(), value)));
        body.extend(options.map(|options| ("stream_options".to_owned(), options)));
        body.extend([("model".to_owned(), json!("m")), ("metadata".to_owned(), metadata)]);
        body
    })
}

proptest! {
    #[test]
    fn a_rewrite_differs_in_the_edited_fields_only(
        body in any_body(),
        pretty in any::<bool>(),
        include_usage in any::<bool>(),
        output_max in proptest::option::of(0_u64..100),
        tool_calls_max in proptest::option::of(0_u64..100),
        endpoint in proptest::sample::select(vec![&CHAT, &COMPLETIONS, &RESPONSES, &COMPACT, &EMBEDDINGS]),
    ) {
        let mut expected = Value::Object(body);
        let text = if pretty { serde_json::to_string_pretty(&expected) } else { serde_json::to_string(&expected) }.unwrap();
        let edit = Edit { include_usage, output_max, tool_calls_max };
        let request = endpoint.read(text.as_bytes()).unwrap();
        let after = request.rewrite(text.as_bytes(), &edit);
        if include_usage {
            if !expected["stream_options"].is_object() {
                expected["stream_options"] = json!({});
            }
            expected["stream_options"]["include_usage"] = json!(true);
        }
        let field = match endpoint.path {
            "/v1/chat/completions" => Some("max_completion_tokens"),
            "/v1/completions" => Some("max_tokens"),
            "/v1/responses" => Some("max_output_tokens"),
            "/v1/responses/compact" | "/v1/embeddings" => None,
            path => unreachable!("say which field bounds the output of {path}"),
        };
        if let (Some(field), Some(max)) = (field, output_max) {
            expected[field] = json!(max);
        }
        if let Some(max) = tool_calls_max {
            expected["max_tool_calls"] = json!(max);
        }
        let changed = serde_json::from_str::<Value>(&text).unwrap() != expected;
        prop_assert_eq!(after.is_some(), changed);
        let after = after.unwrap_or_else(|| text.clone().into_bytes());
        prop_assert_eq!(serde_json::from_slice::<Value>(&after).unwrap(), expected);
        let again = endpoint.read(&after).unwrap();
        prop_assert_eq!(again.rewrite(&after, &edit), None);
    }
}

#[test]
fn a_request_without_fields_to_set_passes_as_it_is() {
    let body = br#"{"model":"m","prompt":"a cat","n":2}"#;
    let edit = Edit { include_usage: true, output_max: Some(1), tool_calls_max: Some(1) };
    assert_eq!(IMAGES.read(body).unwrap().rewrite(body, &edit), None);
}

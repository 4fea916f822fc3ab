//! What bodies mean, and which are refused.

mod media;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::domain::demand::{Labels, WebSearch};
use crate::protocol::openai::{CHAT, COMPACT, COMPLETIONS, EMBEDDINGS, OPERATIONS, Operation, RESPONSES};

fn read(endpoint: &'static Operation, body: &Value) -> Result<Request, Invalid> {
    endpoint.read(body.to_string().as_bytes())
}

pub(super) fn chat(members: Value) -> Result<Demand, Invalid> {
    asked(&CHAT, members)
}

pub(super) fn responses(members: Value) -> Result<Demand, Invalid> {
    asked(&RESPONSES, members)
}

fn asked(endpoint: &'static Operation, members: Value) -> Result<Demand, Invalid> {
    let mut body = json!({"model": "m"});
    body.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    drop(members);
    read(endpoint, &body).map(|request| *request.demand)
}

fn refusal(endpoint: &'static Operation, body: &str) -> Invalid {
    match endpoint.read(body.as_bytes()) {
        Ok(request) => panic!("{body} was read as {:?}", request.demand),
        Err(invalid) => invalid,
    }
}

#[test]
fn a_plain_chat_is_read() {
    let body = br#"{"model":"gpt-5","messages":[{"role":"user","content":"hi"}],"stream":true,"n":2,
        "max_completion_tokens":7,"service_tier":"flex","user":"u","safety_identifier":"s\u00e9"}"#;
    let request = CHAT.read(body).unwrap();
    let expected = Demand {
        model: "gpt-5".to_owned(),
        stream: true,
        tier: Some(Tier::Flex),
        body_bytes: u64::try_from(body.len()).unwrap(),
        output_max: Some(7),
        choices: 2,
        end_user: Some("sé".to_owned()),
        labels: Labels {
            safety_identifier: Some("sé".to_owned()),
            user: Some("u".to_owned()),
            ..Labels::default()
        },
        ..Demand::default()
    };
    assert_eq!(*request.demand, expected);
    assert!(request.wants_usage_injected());
}

#[test]
fn null_means_absent() {
    let demand = chat(
        json!({"max_tokens": null, "n": null, "stream": null, "service_tier": null, "user": null,
        "stream_options": null, "tools": null, "modalities": null, "messages": null, "web_search_options": null}),
    );
    let plain = chat(json!({})).unwrap();
    assert_eq!(Demand { body_bytes: plain.body_bytes, ..demand.unwrap() }, plain);
    assert_eq!(chat(json!({"service_tier": "auto"})).unwrap().tier, None);
}

#[test]
fn a_field_that_stands_twice_is_refused() {
    for body in [
        r#"{"model":"a","model":"b"}"#,
        r#"{"model":"a","mod\u0065l":"b"}"#,
        r#"{"model":"m","max_tokens":1,"max_tokens":2}"#,
        r#"{"model":"m","n":1,"\u006e":2}"#,
        r#"{"model":"m","stream":true,"stream_options":{"include_usage":true,"include_usage":false}}"#,
        r#"{"model":"m","messages":[{"content":[{"type":"text","type":"image_url"}]}]}"#,
        r#"{"model":"m","messages":[{"content":[{"type":"image_url","image_url":{"url":"a","url":"b"}}]}]}"#,
        r#"{"model":"m","messages":[{"content":"a","content":[]}]}"#,
        r#"{"model":"m","messages":[],"messages":[]}"#,
        r#"{"model":"m","tools":[{"type":"function","type":"web_search"}]}"#,
        r#"{"model":"m","prompt_cache_options":{"ttl":"30m","ttl":"12h"}}"#,
        r#"{"model":"m","metadata":{"a":"1"},"metadata":{}}"#,
        r#"{"model":"m","prompt_cache_key":"a","prompt_cache_key":"b"}"#,
    ] {
        assert_eq!(refusal(&CHAT, body).kind, InvalidKind::Malformed, "{body}");
    }
    assert!(refusal(&CHAT, r#"{"model":"a","model":"b"}"#).message.contains("duplicate field `model`"));
    assert!(CHAT.read(br#"{"model":"m","logit_bias":{"a":1},"logit_bias":{}}"#).is_ok());
}

#[test]
fn numbers_have_one_spelling() {
    for field in ["max_tokens", "max_completion_tokens", "n", "max_tool_calls"] {
        for number in
            ["1e3", "1.0", "\"5\"", "-1", "-0", "9007199254740993", "99999999999999999999999", "true", "[]"]
        {
            let invalid = refusal(&CHAT, &format!(r#"{{"model":"m","{field}":{number}}}"#));
            assert_eq!(invalid.param, Some(field), "{field}: {number}");
        }
        for broken in ["01", "+1", "1."] {
            refusal(&CHAT, &format!(r#"{{"model":"m","{field}":{broken}}}"#));
        }
    }
    assert_eq!(chat(json!({"max_tokens": 1_u64 << 53})).unwrap().output_max, Some(1 << 53));
    assert_eq!(chat(json!({"max_tokens": 0})).unwrap().output_max, Some(0));
    for n in [0, 129] {
        assert_eq!(chat(json!({"n": n})).unwrap_err().param, Some("n"));
    }
    assert_eq!(chat(json!({"n": 128})).unwrap().choices, 128);
}

#[test]
fn two_output_bounds_are_refused() {
    let both = chat(json!({"max_tokens": 5, "max_completion_tokens": 5})).unwrap_err();
    assert_eq!((both.param, both.kind), (Some("max_tokens"), InvalidKind::Malformed));
    let one = chat(json!({"max_tokens": null, "max_completion_tokens": 5})).unwrap();
    assert_eq!(one.output_max, Some(5));
}

#[test]
fn what_is_not_one_object_in_utf8_is_refused() {
    let deep = format!(r#"{{"model":"m","metadata":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    for body in [
        "",
        " ",
        "null",
        "[]",
        r#"["m"]"#,
        "\"m\"",
        "5",
        "{",
        "{}",
        r#"{"model":"m"} x"#,
        r#"{"model":"m"}{}"#,
        r#"{"model":"m",}"#,
        r#"{"model":"m" "n":1}"#,
        "{'model':'m'}",
        "\u{feff}{\"model\":\"m\"}",
        r#"{"model":"m","stream_options":[true]}"#,
        r#"{"model":"m","tools":[["web_search"]]}"#,
        r#"{"model":"m","tools":{"type":"web_search"}}"#,
        r#"{"model":"m","modalities":"audio"}"#,
        &deep,
    ] {
        assert_eq!(refusal(&CHAT, body).kind, InvalidKind::Malformed, "{body}");
    }
    let mut bytes = br#"{"model":"m","x":"?"}"#.to_vec();
    bytes[18] = 0xff;
    let invalid = CHAT.read(&bytes).unwrap_err();
    assert!(invalid.message.contains("UTF-8"), "{invalid}");
}

#[test]
fn nesting_can_not_exhaust_the_stack() {
    for open in ["[", r#"{"content":["#, r#"{"a":"#] {
        for body in [open.repeat(1_000_000), format!(r#"{{"model":"m","input":{}"#, open.repeat(1_000_000))] {
            let invalid = refusal(&RESPONSES, &body);
            assert!(invalid.message.contains("nested deeper"), "{invalid}");
        }
    }
    let nested = format!(r#"{{"model":"m","input":{}{}}}"#, r#"[{"content":"#.repeat(60), "}]".repeat(60));
    refusal(&RESPONSES, &nested);
    let fits = format!(r#"{{"model":"m","input":{}0{}}}"#, r#"[{"content":"#.repeat(60), "}]".repeat(60));
    RESPONSES.read(fits.as_bytes()).unwrap();
}

#[test]
fn messages_about_broken_bodies_stay_short() {
    let body = format!(r#"{{"model":"m","modalities":"{}"}}"#, "é".repeat(100_000));
    assert!(refusal(&CHAT, &body).message.len() < 600);
}

#[test]
fn models_and_users_are_short_plain_strings() {
    let long = "x".repeat(257);
    for (members, param) in [
        (json!({"model": ""}), "model"),
        (json!({"model": null}), "model"),
        (json!({"model": 5}), "model"),
        (json!({"model": "a\nb"}), "model"),
        (json!({"model": long}), "model"),
        (json!({"user": long}), "user"),
        (json!({"user": 5}), "user"),
        (json!({"safety_identifier": long}), "safety_identifier"),
        (json!({"stream": "true"}), "stream"),
        (json!({"stream": 1}), "stream"),
        (json!({"service_tier": "gold"}), "service_tier"),
        (json!({"stream_options": {"include_usage": 1}}), "stream_options"),
    ] {
        let invalid = chat(members).unwrap_err();
        assert_eq!((invalid.param, invalid.kind), (Some(param), InvalidKind::Malformed));
    }
    assert_eq!(refusal(&EMBEDDINGS, "{}").param, Some("model"));
    assert_eq!(chat(json!({"user": "u"})).unwrap().end_user.as_deref(), Some("u"));
}

#[test]
fn usage_is_injected_only_into_streams_that_lack_it() {
    let wants = |endpoint, members: Value| {
        let mut body = json!({"model": "m"});
        body.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        let request = read(endpoint, &body).unwrap();
        (request.wants_usage_injected(), request.demand.usage_asked)
    };
    assert_eq!(wants(&CHAT, json!({"stream": true})), (true, false));
    assert_eq!(wants(&COMPLETIONS, json!({"stream": true})), (true, false));
    assert_eq!(wants(&RESPONSES, json!({"stream": true})), (false, false));
    assert_eq!(wants(&CHAT, json!({"stream": false})), (false, false));
    let asks = json!({"stream": true, "stream_options": {"include_usage": true}});
    assert_eq!(wants(&CHAT, asks), (false, true));
    let refuses = json!({"stream": true, "stream_options": {"include_usage": false}});
    assert_eq!(wants(&CHAT, refuses), (true, false));
}

#[test]
fn what_upstream_fills_in_is_server_context() {
    for members in [
        json!({"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]}),
        json!({"input": [{"type": "web_search_call", "id": "ws_1", "status": "completed"}]}),
    ] {
        assert!(responses(members.clone()).unwrap().server_context, "{members}");
        assert!(asked(&COMPACT, members).unwrap().server_context);
    }
    for members in [
        json!({"previous_response_id": "resp_1"}),
        json!({"conversation": "conv_1"}),
        json!({"conversation": {"id": "conv_1"}}),
        json!({"input": [{"type": "item_reference", "id": "msg_1"}]}),
        json!({"input": [{"id": "msg_1"}]}),
    ] {
        assert_eq!(responses(members.clone()).unwrap().references.len(), 1, "{members}");
        assert_eq!(asked(&COMPACT, members).unwrap().references.len(), 1);
    }
    let plain =
        json!({"input": [{"role": "user", "content": "x", "id": "msg_1"}], "previous_response_id": null});
    let plain = responses(plain).unwrap();
    assert!(!plain.server_context && plain.references.is_empty());
}

#[test]
fn a_stored_prompt_may_stand_for_the_model_too() {
    for prompt in [json!({"id": "pmpt_1"}), json!(false), json!(5), json!(-5), json!(0.5)] {
        assert!(responses(json!({"prompt": prompt})).unwrap().stored_prompt, "{prompt}");
        let bare = read(&RESPONSES, &json!({"prompt": prompt})).unwrap().demand;
        assert_eq!((bare.stored_prompt, &*bare.model), (true, ""));
    }
    assert!(!responses(json!({"prompt": null})).unwrap().stored_prompt);
    assert!(!asked(&COMPLETIONS, json!({"prompt": "x"})).unwrap().stored_prompt);
    assert_eq!(refusal(&RESPONSES, r#"{"prompt":null}"#).param, Some("model"));
}

#[test]
fn a_prediction_is_counted_by_its_bytes() {
    let prediction = json!({"type": "content", "content": "x".repeat(100)});
    let demand = chat(json!({"prediction": prediction})).unwrap();
    assert!(demand.prediction_bytes >= 100, "{}", demand.prediction_bytes);
    assert_eq!(responses(json!({"prediction": prediction})).unwrap().prediction_bytes, 0);
}

#[test]
fn responses_that_are_stored_run_in_the_background_and_nothing_else() {
    assert!(responses(json!({"background": true})).unwrap().background);
    assert!(responses(json!({"background": true, "store": true})).unwrap().background);
    assert!(!responses(json!({"background": false, "store": false})).unwrap().background);
    let invalid = responses(json!({"background": true, "store": false})).unwrap_err();
    assert_eq!((invalid.kind, invalid.param), (InvalidKind::Malformed, Some("background")));
    for invalid in [
        responses(json!({"background": true, "conversation": "conv_1"})).unwrap_err(),
        chat(json!({"background": true})).unwrap_err(),
    ] {
        assert_eq!((invalid.kind, invalid.param), (InvalidKind::NotAllowed, Some("background")));
    }
}

#[test]
fn chat_extras_are_read() {
    let demand = chat(json!({"modalities": ["text", "audio"], "web_search_options": {},
        "prompt_cache_options": {"ttl": "12h"}}))
    .unwrap();
    assert!(demand.audio_output && demand.cache_12h);
    assert_eq!(demand.tools.web_search, Some(WebSearch::Chat));
    let plain = chat(json!({"modalities": ["text"], "prompt_cache_options": {"ttl": "30m"}})).unwrap();
    assert!(!plain.audio_output && !plain.cache_12h);
    let escaped = br#"{"model":"m","messages":[],"prompt_cache_options":{"ttl":"30\u006d"}}"#;
    assert!(!CHAT.read(escaped).unwrap().demand.cache_12h, "however it is spelled");
}

#[test]
fn completions_count_their_prompts() {
    let completions = |members| asked(&COMPLETIONS, members).unwrap();
    for (prompt, prompts) in [
        (json!("x"), 1),
        (json!(["x", "y", "z"]), 3),
        (json!([1, 2, 3]), 1),
        (json!([[1, 2], [3]]), 2),
        (json!([]), 1),
        (json!(null), 1),
    ] {
        let demand = completions(json!({"prompt": prompt, "n": 2, "best_of": 4}));
        assert_eq!(demand.choices, 4 * prompts, "{prompt}");
    }
    let plain = completions(json!({"echo": true}));
    assert_eq!((plain.output_max, plain.echo, plain.server_context), (Some(16), true, false));
    assert_eq!(completions(json!({"max_tokens": 99})).output_max, Some(99));
}

#[test]
fn embeddings_have_no_output() {
    let demand = asked(&EMBEDDINGS, json!({"input": [[1, 2], [3]], "max_tokens": 5})).unwrap();
    assert_eq!((demand.output_max, demand.choices), (Some(0), 1));
    assert_eq!(asked(&COMPACT, json!({"input": "x"})).unwrap().output_max, None);
}

pub(super) fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u32>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-z_\"\\\\]{1,6}", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        for endpoint in OPERATIONS {
            let _ = endpoint.read(&body);
        }
    }

    #[test]
    fn no_json_makes_it_panic(messages in any_json(), tools in any_json(), prompt in any_json()) {
        let body = json!({"model": "m", "messages": messages, "input": messages, "tools": tools, "prompt": prompt});
        for endpoint in OPERATIONS {
            let _ = read(endpoint, &body);
        }
    }
}

#[test]
fn every_object_that_a_body_names_is_found() {
    use crate::domain::ObjectKind as Kind;
    let body = r#"{"model":"gpt-5","previous_response_id":"resp_1","conversation":{"id":"conv_1"},
        "input":[{"type":"item_reference","id":"msg_1"},{"id":"rs_1"},
            {"role":"user","content":[{"type":"input_image","file_id":"file-1"},{"type":"input_file","file_id":"file-\u0032"}]}],
        "tools":[{"type":"file_search","vector_store_ids":["vs_1","vs_2"]},
            {"type":"code_interpreter","container":"cntr_1"},
            {"type":"code_interpreter","container":{"type":"auto","file_ids":["file-3"]}},
            {"type":"shell","environment":{"type":"container_auto","skills":[{"type":"skill_reference","skill_id":"skill_1"}]}},
            {"type":"shell","environment":{"type":"container_reference","container_id":"cntr_2"}}]}"#;
    let found = RESPONSES.read(body.as_bytes()).unwrap().demand.references;
    let mut found: Vec<_> = found.iter().map(|reference| (reference.kind, reference.id.as_str())).collect();
    found.sort_unstable();
    let mut expected = [
        (Kind::Response, "resp_1"),
        (Kind::Conversation, "conv_1"),
        (Kind::Item, "msg_1"),
        (Kind::Item, "rs_1"),
        (Kind::File, "file-1"),
        (Kind::File, "file-2"),
        (Kind::File, "file-3"),
        (Kind::VectorStore, "vs_1"),
        (Kind::VectorStore, "vs_2"),
        (Kind::Container, "cntr_1"),
        (Kind::Container, "cntr_2"),
        (Kind::Skill, "skill_1"),
    ];
    expected.sort_unstable();
    assert_eq!(found, expected);
    let chat = br#"{"model":"gpt-5","messages":[{"role":"user","content":[{"type":"file","file":{"file_id":"file-9"}}]}]}"#;
    assert_eq!(CHAT.read(chat).unwrap().demand.references[0].id, "file-9");
    let twice = r#"{"model":"gpt-5","conversation":{"id":"conv_1","id":"conv_2"},"input":""}"#;
    assert!(RESPONSES.read(twice.as_bytes()).is_err(), "an id that stands twice is two ids");
    let long = format!(r#"{{"model":"gpt-5","previous_response_id":"{}"}}"#, "x".repeat(10_000));
    assert!(RESPONSES.read(long.as_bytes()).unwrap_err().message.contains("longer than 256"));
}

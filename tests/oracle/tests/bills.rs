//! Bills that were computed by hand from the published prices.

use oracle::answer::answer;
use oracle::ask::Ask;
use oracle::media::{Picture, wav_file};
use oracle::outcome::{Call, CallsForm, Drawn, End, Outcome, Pass, Report, Session, Used};
use oracle::prices::{Memory, Tier};
use oracle::{Endpoint, World, base64, maximum};
use serde_json::{Value, json};

/// Picodollars in a dollar.
const USD: u128 = 1_000_000_000_000;

fn most(endpoint: Endpoint, body: &Value) -> u128 {
    maximum(&World::furnished(), endpoint, body.to_string().as_bytes()).expect("a known model")
}

fn chat(model: &str) -> Value {
    json!({ "model": model, "max_completion_tokens": 100, "service_tier": "default",
        "messages": [{ "role": "user", "content": "hello" }] })
}

fn responses(model: &str, tools: &Value) -> Value {
    json!({ "model": model, "max_output_tokens": 1_000, "service_tier": "default", "input": "hello", "tools": tools })
}

#[test]
fn a_plain_text_costs_its_bytes_and_its_output_bound() {
    // 5 bytes, 4 tokens around the message, 3 before the answer; 0.25 and 2 USD per million.
    assert_eq!(most(Endpoint::Chat, &chat("gpt-5-mini")), 12 * 250_000 + 100 * 2_000_000);
    let mut five = chat("gpt-5-mini");
    five["n"] = json!(5);
    assert_eq!(most(Endpoint::Chat, &five), 12 * 250_000 + 500 * 2_000_000);
    let mut unbounded = chat("gpt-5-mini");
    unbounded["max_completion_tokens"] = Value::Null;
    assert_eq!(most(Endpoint::Chat, &unbounded), 12 * 250_000 + 128_000 * 2_000_000);
}

#[test]
fn escapes_do_not_lengthen_a_text() {
    let body = br#"{"model":"gpt-5-mini","max_completion_tokens":1,"service_tier":"default",
        "messages":[{"role":"user","content":"\u0068\u0065llo"}]}"#;
    assert_eq!(maximum(&World::default(), Endpoint::Chat, body), Some(12 * 250_000 + 2_000_000));
}

#[test]
fn predictions_are_billed_beside_the_answer() {
    let mut body = chat("gpt-4o");
    body["prediction"] = json!({ "type": "content", "content": "twelve bytes" });
    assert_eq!(most(Endpoint::Chat, &body), 12 * 2_500_000 + 112 * 10_000_000);
}

#[test]
fn the_dearest_tier_that_may_serve_counts() {
    let of = |tier: Value, project_tier| {
        let mut body = chat("gpt-5");
        body["service_tier"] = tier;
        let world = World { project_tier, ..World::default() };
        maximum(&world, Endpoint::Chat, body.to_string().as_bytes()).expect("a known model")
    };
    let standard = 12 * 1_250_000 + 100 * 10_000_000;
    assert_eq!(of(json!("default"), Tier::Priority), standard);
    assert_eq!(of(json!("flex"), Tier::Standard), standard, "flex may be served at the standard tier");
    assert_eq!(of(json!("priority"), Tier::Standard), 2 * standard);
    assert_eq!(of(json!("fast"), Tier::Standard), 2 * standard);
    assert_eq!(of(Value::Null, Tier::Standard), standard);
    assert_eq!(of(Value::Null, Tier::Priority), 2 * standard);
    // Not published: 2.5 times.
    let mut body = chat("gpt-5.5-pro");
    body["service_tier"] = json!("priority");
    assert_eq!(most(Endpoint::Chat, &body), (12 * 30_000_000 + 100 * 180_000_000) * 5 / 2);
}

#[test]
fn regions_and_ended_promotions_cost_more() {
    let body = chat("gpt-6.1-sol").to_string();
    let world = World { is_regional: true, ..World::default() };
    // Cache writes are dearer than plain input.
    assert_eq!(maximum(&world, Endpoint::Chat, body.as_bytes()), Some(12 * 2_750_000 + 100 * 11_000_000));
    let body = chat("gpt-5.6-sol").to_string();
    let on = |date: &str| {
        let world = World { date: date.to_owned(), ..World::default() };
        maximum(&world, Endpoint::Chat, body.as_bytes())
    };
    assert_eq!(on("2026-11-21"), Some(12 * 5_000_000 + 100 * 20_000_000));
    assert_eq!(on("2026-11-22"), Some(12 * 6_250_000 + 100 * 30_000_000));
}

#[test]
fn a_large_picture_costs_its_pixels_at_long_rates() {
    let file = Picture::Png.file(16_000, 16_000, &[0; 1_000]);
    let url = format!("data:image/png;base64,{}", base64::encode(&file));
    let mut body = chat("gpt-6.1-sol");
    body["messages"][0]["content"] = json!([{ "type": "image_url", "image_url": { "url": url } }]);
    // 500 × 500 patches × 1.2, above 272,000.
    assert_eq!(most(Endpoint::Chat, &body), 300_007 * 5_000_000 + 100 * 15_000_000);
    body["prompt_cache_options"] = json!({ "ttl": "12h" });
    assert_eq!(most(Endpoint::Chat, &body), 300_007 * 10_000_000 + 100 * 15_000_000);
    body["messages"][0]["content"] = json!(url);
    let text = u128::try_from(url.len()).expect("a length") + 7;
    assert_eq!(most(Endpoint::Chat, &body), text * 5_000_000 + 100 * 10_000_000, "a text is no picture");
}

#[test]
fn audio_costs_its_seconds() {
    let mut body = chat("gpt-audio");
    let data = base64::encode(&wav_file(8, 8, 800));
    let part = json!({ "type": "input_audio", "input_audio": { "data": data, "format": "wav" } });
    body["messages"][0]["content"] = json!([part]);
    // 100 seconds, 10 tokens each, at 32 USD; text output at 10, spoken at 64.
    assert_eq!(most(Endpoint::Chat, &body), 7 * 2_500_000 + 1_000 * 32_000_000 + 100 * 10_000_000);
    body["modalities"] = json!(["text", "audio"]);
    assert_eq!(most(Endpoint::Chat, &body), 7 * 2_500_000 + 1_000 * 32_000_000 + 100 * 64_000_000);
}

#[test]
fn each_hosted_call_adds_to_the_context_that_every_later_turn_reads() {
    let mut body = responses("gpt-5", &json!([{ "type": "web_search" }]));
    body["max_tool_calls"] = json!(2);
    // 5 bytes, 7 around them, 23 of the tool: 35, 16,035 and 32,035 tokens.
    let tokens = 48_105 * 1_250_000 + 1_000 * 10_000_000;
    assert_eq!(most(Endpoint::Responses, &body), tokens + 2 * USD / 100);
    body["max_tool_calls"] = json!(0);
    assert_eq!(most(Endpoint::Responses, &body), 35 * 1_250_000 + 1_000 * 10_000_000);
    let nested = json!([{ "type": "namespace", "tools": [{ "type": "web_search" }] }]);
    let hidden = json!({ "model": "gpt-5", "max_output_tokens": 1_000, "service_tier": "default",
        "max_tool_calls": 2, "input": [{ "type": "additional_tools", "tools": nested }] });
    assert!(most(Endpoint::Responses, &hidden) > tokens + 2 * USD / 100);
}

#[test]
fn containers_cost_what_they_were_made_with() {
    let of = |container: Value| {
        let mut body =
            responses("gpt-5-mini", &json!([{ "type": "code_interpreter", "container": container }]));
        body["max_tool_calls"] = json!(1);
        body.as_object_mut().expect("an object").remove("input");
        let tools = u128::try_from(body["tools"].to_string().len()).expect("a length") + 3;
        most(Endpoint::Responses, &body) - (2 * tools + 16_000) * 250_000 - 1_000 * 2_000_000
    };
    assert_eq!(of(json!({ "type": "auto" })), USD * 3 / 100);
    assert_eq!(of(json!({ "type": "auto", "memory_limit": "64g" })), USD * 192 / 100);
    assert_eq!(of(json!("cntr_16g")), USD * 48 / 100);
}

#[test]
fn a_stored_prompt_brings_its_text_its_pictures_and_its_tools() {
    let body = json!({ "model": "gpt-5-mini", "prompt": { "id": "pmpt_laden" }, "max_output_tokens": 100,
        "max_tool_calls": 1, "service_tier": "default" });
    // 2,000 tokens of text, a picture of 2,489; one turn more with 16,000.
    let tokens = (2 * (3 + 2_000 + 2_489) + 16_000) * 250_000 + 100 * 2_000_000;
    // A shell of 64 GB; a picture of 6,240 tokens at 32 USD, from another of 6,821 at 8, and what is drawn.
    let tools = USD * 192 / 100 + 6_240 * 32_000_000 + 6_821 * 8_000_000 + 100 * 5_000_000;
    assert_eq!(most(Endpoint::Responses, &body), tokens + tools);
}

#[test]
fn what_upstream_keeps_is_input() {
    let mut body = responses("gpt-5-mini", &json!([]));
    body.as_object_mut().expect("an object").remove("tools");
    body["previous_response_id"] = json!("resp_large");
    assert_eq!(most(Endpoint::Responses, &body), 90_012 * 250_000 + 1_000 * 2_000_000);
    body["previous_response_id"] = json!("resp_unknown");
    assert_eq!(most(Endpoint::Responses, &body), 0, "upstream answers 404");
}

#[test]
fn searches_of_chat_models_cost_a_fee_and_a_second_turn() {
    let input = (2 * 12 + 16_000) * 2_500_000;
    assert_eq!(most(Endpoint::Chat, &chat("gpt-4o-search-preview")), input + 100 * 10_000_000 + USD / 40);
}

#[test]
fn legacy_completions_multiply_prompts_and_choices() {
    let body = json!({ "model": "davinci-002", "prompt": ["one", "two"], "best_of": 3, "max_tokens": 10 });
    assert_eq!(most(Endpoint::Completions, &body), 6 * 2_000_000 + 60 * 2_000_000);
    let body = json!({ "model": "davinci-002", "prompt": [1, 2, 3], "echo": true });
    assert_eq!(most(Endpoint::Completions, &body), 3 * 2_000_000 + (16 + 3) * 2_000_000);
}

#[test]
fn embeddings_are_bounded_by_input_and_by_request() {
    let body = json!({ "model": "text-embedding-3-small", "input": ["x".repeat(9_000), "y"] });
    assert_eq!(most(Endpoint::Embeddings, &body), 8_192 * 20_000);
    let many = vec!["x".repeat(9_000); 40];
    let body = json!({ "model": "text-embedding-3-small", "input": many });
    assert_eq!(most(Endpoint::Embeddings, &body), 300_000 * 20_000);
}

#[test]
fn a_compaction_takes_no_output_bound() {
    let body = json!({ "model": "gpt-5-mini", "input": "hello", "max_output_tokens": 16, "service_tier": "default" });
    assert_eq!(most(Endpoint::Compact, &body), 12 * 250_000 + 128_000 * 2_000_000);
}

fn outcome(used: Used) -> Outcome {
    Outcome {
        tier: Tier::Standard,
        model: "gpt-5".to_owned(),
        used,
        prompts: vec![used.input],
        passes: Vec::new(),
        largest: used.input,
        words: 0,
        function: None,
        calls: Vec::new(),
        search_pico: USD / 100,
        chat_search_pico: 0,
        drawn: None,
        containers: Vec::new(),
        ttl_12h: false,
        end: End::Completed,
        cut_percent: 0,
        report: Report::default(),
    }
}

fn charged(model: &str, outcome: &Outcome) -> u128 {
    let world = World::furnished();
    let body = responses(model, &json!([])).to_string();
    let ask = Ask::read(&world, Endpoint::Responses, body.as_bytes()).expect("a known model");
    outcome.charge(&world, &ask, 0)
}

#[test]
fn answers_cost_what_was_used() {
    let mut searched = outcome(Used { input: 1_000, output: 100, ..Used::default() });
    assert_eq!(charged("gpt-5", &searched), USD * 225 / 100_000);
    searched.calls = vec![Call::Search, Call::Page, Call::Search];
    assert_eq!(charged("gpt-5", &searched), USD * 2_225 / 100_000);
    searched.end = End::FailedAtOnce;
    assert_eq!(charged("gpt-5", &searched), 0);
    let used = Used { input: 10_000, cached: 4_000, write: 1_000, output: 500, ..Used::default() };
    let mut written = outcome(used);
    assert_eq!(
        charged("gpt-6.1-sol", &written),
        5_000 * 2_000_000 + 4_000 * 100_000 + 1_000 * 2_500_000 + 500 * 10_000_000
    );
    written.largest = 272_001;
    assert_eq!(
        charged("gpt-6.1-sol", &written),
        5_000 * 4_000_000 + 4_000 * 200_000 + 1_000 * 5_000_000 + 500 * 15_000_000
    );
    // Above the step, a class without a price of its own costs the long input price.
    let mut pro = outcome(Used { input: 300_000, cached: 100_000, ..Used::default() });
    assert_eq!(charged("gpt-5.5-pro", &pro), 18 * USD);
    pro.containers = vec![Session { index: 0, id: "c".to_owned(), memory: Memory::G64, minutes: 5 }];
    assert_eq!(charged("gpt-5.5-pro", &pro), 18 * USD + USD * 48 / 100);
}

#[test]
fn a_stage_of_a_stream_costs_the_compaction_of_its_own_turns() {
    let world = World::furnished();
    let body = responses("gpt-5", &json!([])).to_string();
    let ask = Ask::read(&world, Endpoint::Responses, body.as_bytes()).expect("a known model");
    let mut compacted = outcome(Used { input: 2_000 + 2_500, output: 30 + 70, ..Used::default() });
    compacted.prompts = vec![1_000, 1_000];
    compacted.calls = vec![Call::Page];
    let pass = |turn, read, wrote| Pass { turn, read, wrote };
    compacted.passes = vec![pass(0, 1_000, 30), pass(1, 1_500, 70)];
    let (input, output) = (1_250_000, 10_000_000);
    assert_eq!(
        compacted.stages(&world, &ask),
        [2_000 * input + 30 * output, 2_000 * input + 30 * output, 4_500 * input + 100 * output]
    );
}

#[test]
fn pictures_that_were_made_cost_their_own_models_rates() {
    let world = World::furnished();
    let tools = json!([{ "type": "image_generation", "model": "gpt-image-1.5" }]);
    let body = responses("gpt-5", &tools).to_string();
    let ask = Ask::read(&world, Endpoint::Responses, body.as_bytes()).expect("a known model");
    let mut made = outcome(Used::default());
    made.drawn =
        Some((ask.tools.images[0].clone(), Drawn { text_in: 100, image_in: 1_000, image_out: 4_160 }));
    assert_eq!(made.charge(&world, &ask, 0), 100 * 5_000_000 + 1_000 * 8_000_000 + 4_160 * 32_000_000);
}

#[test]
fn a_cut_stream_costs_what_was_delivered() {
    let world = World::default();
    let body = chat("gpt-4o").to_string();
    let ask = Ask::read(&world, Endpoint::Chat, body.as_bytes()).expect("a known model");
    let mut cut = outcome(Used { input: 10, output: 20, ..Used::default() });
    (cut.words, cut.end) = (20, End::Cut);
    assert_eq!(cut.charge(&world, &ask, 5), 10 * 2_500_000 + 5 * 10_000_000);
}

#[test]
fn an_answer_says_what_was_used_where_the_report_puts_it() {
    let world = World::furnished();
    let mut body = responses("gpt-5", &json!([{ "type": "web_search" }]));
    body["stream"] = json!(true);
    let ask = Ask::read(&world, Endpoint::Responses, body.to_string().as_bytes()).expect("a known model");
    let mut made = outcome(Used { input: 1_000, output: 100, ..Used::default() });
    made.calls = vec![Call::Search, Call::Search];
    made.report.calls = CallsForm::Stream;
    let parts = answer(&made, &ask, "one").parts;
    let last = &parts.last().expect("an event").text;
    assert!(last.starts_with("event: response.completed\ndata: {"));
    let last: Value = serde_json::from_str(last.split_once("data: ").expect("data").1).expect("JSON");
    assert_eq!(last["response"]["output"], json!([]));
    assert_eq!(last["response"]["usage"]["input_tokens"], 1_000);
    assert_eq!(parts.iter().filter(|part| part.text.contains("item.done")).count(), 2);
}

#[test]
fn a_search_of_a_small_model_is_billed_for_a_block_of_input() {
    let body = responses("gpt-4.1-mini", &json!([{ "type": "web_search" }])).to_string();
    let world = World::furnished();
    let ask = Ask::read(&world, Endpoint::Responses, body.as_bytes()).expect("a known model");
    let searched =
        Outcome { calls: vec![Call::Search; 2], ..outcome(Used { input: 1_000, ..Used::default() }) };
    // 0.40 USD per million tokens, and 10 USD per thousand searches.
    assert_eq!(searched.charge(&world, &ask, 0), 17_000 * 400_000 + 2 * USD / 100);
    let preview = responses("gpt-4.1-mini", &json!([{ "type": "web_search_preview" }])).to_string();
    let ask = Ask::read(&world, Endpoint::Responses, preview.as_bytes()).expect("a known model");
    let searched = Outcome { search_pico: USD / 40, ..searched };
    assert_eq!(searched.charge(&world, &ask, 0), 1_000 * 400_000 + 2 * USD / 40);
}

#[test]
fn a_stream_with_hosted_calls_costs_more_with_each_call() {
    let world = World::furnished();
    let body = responses("gpt-5", &json!([{ "type": "web_search" }]));
    let ask = Ask::read(&world, Endpoint::Responses, body.to_string().as_bytes()).expect("a known model");
    let mut made = outcome(Used { input: 1_000 + 3_000, output: 100, ..Used::default() });
    (made.prompts, made.largest, made.calls) = (vec![1_000, 3_000], 3_000, vec![Call::Search]);
    let answer = 100 * 10_000_000;
    let begun = 1_000 * 1_250_000 + answer;
    assert_eq!(made.stages(&world, &ask), [begun, begun + USD / 100, begun + USD / 100 + 3_000 * 1_250_000]);
    assert_eq!(made.stages(&world, &ask).last(), Some(&made.charge(&world, &ask, 0)));
}

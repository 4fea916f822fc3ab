//! One input of the target `request`, and what must hold of it.
//!
//! The guard's understanding of a body is held against that of the second
//! reader and of `serde_json`, before and after the body is rewritten.

use std::ops::Range;

use oracle::Endpoint;
use serde_json::Value;
use spendguard::domain::Demand;
use spendguard::domain::demand::{Tier, WebSearch};
use spendguard::protocol::openai::request::{Edit, Request};

use crate::bound::operation;
use crate::json::{self, Json};

/// What an input asks for: the first two bytes choose, the rest is the body.
pub struct Case<'a> {
    pub endpoint: Endpoint,
    pub edit: Edit,
    pub body: &'a [u8],
}

/// Amounts that an edit may set.
const AMOUNTS: [u64; 5] = [9, 0, 1, 256, 1 << 53];

/// Takes an input apart.
pub fn case(input: &[u8]) -> Option<Case<'_>> {
    let ([endpoint, edits], body) = crate::knobs::<2>(input)?;
    let endpoint = Endpoint::ALL[endpoint % Endpoint::ALL.len()];
    let amount = AMOUNTS[(edits / 8) % AMOUNTS.len()];
    let edit = Edit {
        include_usage: edits & 1 != 0,
        output_max: (edits & 2 != 0).then_some(amount),
        tool_calls_max: (edits & 4 != 0).then_some(amount),
    };
    Some(Case { endpoint, edit, body })
}

/// Fields that the guard interprets in the outermost object.
const FIELDS: [&str; 24] = [
    "model",
    "stream",
    "stream_options",
    "service_tier",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "max_tool_calls",
    "n",
    "best_of",
    "echo",
    "background",
    "previous_response_id",
    "conversation",
    "web_search_options",
    "safety_identifier",
    "user",
    "prompt_cache_options",
    "modalities",
    "prompt",
    "prediction",
    "tools",
    "messages",
    "input",
];

/// Members that decide what a message, an item or a part costs.
const PARTS: [&str; 13] = [
    "type",
    "role",
    "id",
    "detail",
    "content",
    "output",
    "outputs",
    "image_url",
    "input_audio",
    "file",
    "file_id",
    "file_data",
    "tools",
];

/// Members that decide what a tool costs.
const TOOLS: [&str; 6] = ["type", "container", "environment", "model", "output_format", "svg"];

/// Tools that cost nothing of their own.
const PLAIN_TOOLS: [&str; 7] =
    ["function", "custom", "computer", "computer_use", "computer_use_preview", "local_shell", "apply_patch"];

const IMAGES: [&str; 4] = ["image_url", "input_image", "computer_screenshot", "image"];

/// Checks an input; what the guard refuses may be anything.
pub fn check(case: &Case<'_>) {
    let Ok(request) = operation(case.endpoint).read(case.body) else { return };
    let read = json::read(case.body).expect("what the guard reads is JSON");
    assert!(matches!(read, Json::Object(_)), "a body is an object");
    reads_one_way(&read);
    understands(case.endpoint, &request, &read);
    agrees_with_serde(&request.demand, case.body);
    rewrites(case, &request, read);
}

/// Nothing that the guard interprets stands twice.
fn reads_one_way(read: &Json) {
    for field in FIELDS {
        assert!(read.times(field) <= 1, "{field} stands twice");
    }
    for (object, member) in [("stream_options", "include_usage"), ("prompt_cache_options", "ttl")] {
        let times = read.get(object).map_or(0, |inner| inner.times(member));
        assert!(times <= 1, "{object}.{member} stands twice");
    }
    for list in ["messages", "input"] {
        each_part(read.get(list), &mut |part| {
            for member in PARTS {
                assert!(part.times(member) <= 1, "{member} stands twice in {list}");
            }
        });
    }
    for tool in read.get("tools").map(Json::elements).unwrap_or_default() {
        for member in TOOLS {
            assert!(tool.times(member) <= 1, "{member} stands twice in a tool");
        }
    }
}

/// Calls for every object that is a message, an item or a part.
fn each_part(node: Option<&Json>, seen: &mut impl FnMut(&Json)) {
    let Some(node) = node else { return };
    for element in node.elements() {
        each_part(Some(element), seen);
    }
    if let Json::Object(_) = node {
        seen(node);
        for inner in ["content", "output", "outputs"] {
            each_part(node.get(inner), seen);
        }
    }
}

/// The demand is what the second reader sees.
fn understands(endpoint: Endpoint, request: &Request, read: &Json) {
    let demand = &request.demand;
    let given = |name| read.given(name);
    let model = given("model").and_then(Json::as_text);
    assert_eq!(model.as_ref().map_or("", String::as_str), demand.model);
    assert!((demand.stored_prompt || !demand.model.is_empty()) && demand.model.len() <= 256);
    assert_eq!(given("stream") == Some(&Json::Bool(true)), demand.stream);
    let usage_asked = given("stream_options").and_then(|options| options.given("include_usage"));
    assert_eq!(usage_asked == Some(&Json::Bool(true)), demand.usage_asked);
    assert_eq!(demand.output_max, output_max(endpoint, read));
    assert_eq!(demand.choices, choices(endpoint, read));
    assert_eq!(demand.tools.calls_max, given("max_tool_calls").and_then(Json::as_count));
    let end_user = given("safety_identifier").or(given("user")).and_then(Json::as_text);
    assert_eq!(demand.end_user, end_user);
    assert_eq!(demand.tier.map(Tier::name), tier(read).as_deref());
    assert_eq!(given("background") == Some(&Json::Bool(true)), demand.background);
    let may_be = endpoint == Endpoint::Responses && demand.stored && given("conversation").is_none();
    assert!(!demand.background || may_be);
    let chatty = matches!(endpoint, Endpoint::Chat | Endpoint::Completions);
    let injects = demand.stream && chatty && !demand.usage_asked;
    assert_eq!(request.wants_usage_injected(), injects);
    asks_for_context(endpoint, demand, read);
    counts_media(endpoint, demand, read);
    knows_tools(endpoint, demand, read);
}

fn output_max(endpoint: Endpoint, read: &Json) -> Option<u64> {
    let count = |name| read.given(name).map(|value| value.as_count().expect("a bound is plain digits"));
    match endpoint {
        Endpoint::Chat => count("max_completion_tokens").or_else(|| count("max_tokens")),
        Endpoint::Completions => count("max_tokens").or(Some(16)),
        Endpoint::Responses => count("max_output_tokens"),
        Endpoint::Compact => None,
        Endpoint::Embeddings => Some(0),
    }
}

fn choices(endpoint: Endpoint, read: &Json) -> u64 {
    let count = |name| read.given(name).map_or(1, |value| value.as_count().expect("plain digits"));
    match endpoint {
        Endpoint::Chat => count("n"),
        Endpoint::Completions => count("n").max(count("best_of")) * prompts(read.get("prompt")),
        Endpoint::Responses | Endpoint::Compact | Endpoint::Embeddings => 1,
    }
}

/// How many prompts a legacy completion has: lists of tokens and texts count.
fn prompts(prompt: Option<&Json>) -> u64 {
    let Some(Json::List(elements)) = prompt else { return 1 };
    let is_token = |element: &&Json| matches!(element, Json::Number(digits) if digits.starts_with(|c: char| c.is_ascii_digit()));
    let tokens = elements.iter().filter(is_token).count();
    let texts = elements.len() - tokens;
    u64::try_from(texts + usize::from(tokens > 0)).expect("it fits").max(1)
}

fn tier(read: &Json) -> Option<String> {
    let named = read.given("service_tier")?.as_text().expect("a tier is a text");
    Some(match named.as_str() {
        "auto" => return None,
        "standard" => "default".to_owned(),
        "fast" => "priority".to_owned(),
        _ => named,
    })
}

fn asks_for_context(endpoint: Endpoint, demand: &Demand, read: &Json) {
    if !matches!(endpoint, Endpoint::Responses | Endpoint::Compact) {
        return;
    }
    assert_eq!(demand.stored_prompt, read.given("prompt").is_some());
    let named = |json: &Json| json.as_text().is_some_and(|id| demand.references.iter().any(|it| it.id == id));
    for field in ["previous_response_id", "conversation"] {
        let given = read.given(field);
        let id = given.map(|given| given.given("id").unwrap_or(given)).filter(|id| id.as_text().is_some());
        assert!(id.is_none_or(named), "{field} is missing");
    }
    each_part(read.get("input"), &mut |part| {
        let kind = part.given("type").and_then(Json::as_text);
        let id = part.given("id").filter(|id| id.as_text().is_some());
        if kind.as_deref() == Some("item_reference") {
            assert!(id.is_none_or(named), "an item that is referred to is missing");
        }
    });
}

fn counts_media(endpoint: Endpoint, demand: &Demand, read: &Json) {
    let media = &demand.media;
    assert!(media.inline_bytes() <= demand.body_bytes, "what is inline is within the body");
    assert!(media.inline.windows(2).all(|pair| pair[0].end <= pair[1].start), "spans ascend");
    let list = match endpoint {
        Endpoint::Chat => read.get("messages"),
        Endpoint::Responses | Endpoint::Compact => read.get("input"),
        Endpoint::Completions | Endpoint::Embeddings => return,
    };
    let mut pictures = 0;
    each_part(list, &mut |part| {
        let kind = part.given("type").and_then(Json::as_text);
        pictures += usize::from(kind.is_some_and(|kind| IMAGES.contains(&kind.as_str())));
    });
    assert!(media.images.len() >= pictures, "a picture is missing");
}

fn knows_tools(endpoint: Endpoint, demand: &Demand, read: &Json) {
    let mut tools: Vec<&Json> = read.get("tools").map(Json::elements).unwrap_or_default().iter().collect();
    while let Some(tool) = tools.pop() {
        let kind = tool.given("type").and_then(Json::as_text).expect("a tool has a type");
        tools.extend(tool.given("tools").map(Json::elements).unwrap_or_default());
        if kind == "namespace" {
            continue;
        }
        let local = tool.given("environment").and_then(|place| place.given("type"));
        if PLAIN_TOOLS.contains(&kind.as_str()) || (kind == "shell" && local == Some(&json::text("local"))) {
            continue;
        }
        let tools = &demand.tools;
        assert!(matches!(endpoint, Endpoint::Responses | Endpoint::Compact), "{kind} has no price here");
        assert!(tools.loops, "{kind} makes turns");
        match kind.as_str() {
            "web_search_preview" | "web_search_preview_2025_03_11" => {
                assert_eq!(tools.web_search, Some(WebSearch::Preview));
            }
            "web_search" | "web_search_2025_08_26" => assert!(tools.web_search.is_some()),
            "file_search" => assert!(tools.file_search),
            "code_interpreter" | "shell" => assert!(!tools.containers.is_empty()),
            "image_generation" => assert!(tools.image.is_some()),
            "mcp" | "tool_search" => {}
            other => panic!("{other} is not known to have a price"),
        }
    }
}

/// Where `serde_json` reads the body at all, it sees the same request.
fn agrees_with_serde(demand: &Demand, body: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(body) else { return };
    assert_eq!(value["model"].as_str().unwrap_or_default(), demand.model);
    assert_eq!(value["stream"].as_bool().unwrap_or(false), demand.stream);
    assert_eq!(value["max_tool_calls"].as_u64(), demand.tools.calls_max);
    let user = value["safety_identifier"].as_str().or(value["user"].as_str());
    assert_eq!(user, demand.end_user.as_deref());
}

/// The output field that an edit sets, and what the guard then expects.
fn output_field(endpoint: Endpoint, read: &Json) -> Option<&'static str> {
    let older = read.given("max_tokens").is_some();
    let older_only = read.get("max_completion_tokens").is_none() && read.get("max_tokens").is_some();
    match endpoint {
        Endpoint::Chat if older || older_only => Some("max_tokens"),
        Endpoint::Chat => Some("max_completion_tokens"),
        Endpoint::Completions => Some("max_tokens"),
        Endpoint::Responses => Some("max_output_tokens"),
        Endpoint::Compact | Endpoint::Embeddings => None,
    }
}

/// The demand of the rewritten body.
pub fn demand_after(case: &Case<'_>, before: &Demand, body_bytes: usize) -> Demand {
    let Edit { include_usage, output_max, tool_calls_max } = case.edit;
    let mut after = before.clone();
    after.body_bytes = u64::try_from(body_bytes).expect("it fits");
    after.usage_asked |= include_usage;
    after.tools.calls_max = tool_calls_max.or(before.tools.calls_max);
    if !matches!(case.endpoint, Endpoint::Embeddings | Endpoint::Compact) {
        after.output_max = output_max.or(before.output_max);
    }
    after
}

/// A demand without the places in the body, which a rewrite moves.
fn placeless(mut demand: Demand) -> Demand {
    let length = |span: &Range<usize>| 0..span.len();
    demand.media.inline = demand.media.inline.iter().map(length).collect();
    for document in &mut demand.media.documents {
        document.span = length(&document.span);
    }
    demand
}

/// The rewritten body is the same request but for the edited fields.
fn rewrites(case: &Case<'_>, request: &Request, read: Json) {
    let edit = &case.edit;
    let mut expected = read.clone();
    if edit.include_usage {
        let mut options = read.given("stream_options").cloned().unwrap_or(Json::Object(Vec::new()));
        options.set("include_usage", Json::Bool(true));
        expected.set("stream_options", options);
    }
    if let (Some(field), Some(max)) = (output_field(case.endpoint, &read), edit.output_max) {
        expected.set(field, json::number(max));
    }
    if let Some(max) = edit.tool_calls_max {
        expected.set("max_tool_calls", json::number(max));
    }
    let rewritten = request.rewrite(case.body, edit);
    assert_eq!(rewritten.is_some(), expected != read, "it is rewritten if that changes something");
    let after = rewritten.unwrap_or_else(|| case.body.to_vec());
    let read_after = json::read(&after).expect("what is forwarded is JSON");
    assert_eq!(read_after.sorted(), expected.sorted());
    let again = operation(case.endpoint).read(&after).expect("what is forwarded can be read again");
    assert_eq!(
        placeless(Demand::clone(&again.demand)),
        placeless(demand_after(case, &request.demand, after.len()))
    );
    assert_eq!(again.rewrite(&after, edit), None, "a second rewrite changes nothing");
    let is_serde = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).is_ok();
    assert_eq!(is_serde(case.body), is_serde(&after));
}

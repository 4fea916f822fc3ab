//! Any answer: token classes are disjoint and add up to what was reported, a
//! cost is never negative, and no usage within a bound costs more than it.

#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use oracle::Endpoint;
use spendguard::domain::demand::{ContainerDemand, Image, ImageDemand, Media, Tier, ToolDemand, WebSearch};
use spendguard::domain::quantity::Direction;
use spendguard::domain::usage::{ContainerMemory, ToolUse};
use spendguard::domain::{Class, Demand, Money, Quantities, Usage};
use spendguard::pricing::bound::{
    BoundInputs, ModelTokens, ToolsBound, affordable_output, bound, largest_prompt,
};
use spendguard::pricing::cost::{Offer, cost};
use spendguard::pricing::rates::NamedRates;
use spendguard::pricing::sheet::{Override, Price, Sheet};
use spendguard_fuzz::bound::operation;
use spendguard_fuzz::json::{self, Json};
use spendguard_fuzz::knobs;

const AT_S: i64 = 1_795_000_000;
const TIERS: [Tier; 5] = [Tier::Flex, Tier::Standard, Tier::Scale, Tier::Priority, Tier::Ultrafast];
const AMOUNTS: [u64; 6] = [0, 1, 100, 20_000, 400_000, 1 << 53];

/// Every price of the sheet, and one as dear as a configuration may make it.
static PRICES: LazyLock<Vec<Arc<Price>>> = LazyLock::new(|| {
    let most = |class| (class, "9000000000".to_owned());
    let rates = NamedRates { classes: [most(Class::Input), most(Class::Output)].into(), long: None };
    let dearest = Override { model: "gpt-4o-mini-dearest".into(), rates, ..Override::default() };
    let sheet = Sheet::built_in(&[dearest]).expect("the sheet is whole");
    sheet.models(AT_S)
});

/// The larger of a figure's two names, if both that are given are plain whole
/// numbers; what is odd is not checked.
fn figure(usage: &Json, names: [&str; 2]) -> Option<u64> {
    let given = names.into_iter().filter_map(|name| usage.given(name));
    given.map(Json::as_count).collect::<Option<Vec<u64>>>()?.into_iter().max()
}

/// Reported totals are what the classes add up to, whatever the details say;
/// output is at least the total less the input.
fn adds_up(answer: &Json, tokens: &Quantities) {
    let Some(usage) = answer.given("usage") else { panic!("usage was made up") };
    let input = figure(usage, ["prompt_tokens", "input_tokens"]);
    if let Some(input) = input {
        assert_eq!(tokens.input_tokens_total(), input);
    }
    if let Some(output) = figure(usage, ["completion_tokens", "output_tokens"]) {
        assert!(tokens.output_tokens_total() >= output);
        let total = usage.given("total_tokens").map(Json::as_count);
        if let (Some(input), None | Some(Some(_))) = (input, total) {
            let rest = total.flatten().unwrap_or(0).saturating_sub(input);
            assert_eq!(tokens.output_tokens_total(), output.max(rest));
        }
    }
    let classes = tokens.non_zero().map(|(_, count)| u128::from(count)).sum::<u128>();
    let totals = u128::from(tokens.input_tokens_total()) + u128::from(tokens.output_tokens_total());
    assert_eq!(classes, totals, "each token is in one class");
}

/// A demand from the knobs.
fn demand(knobs: &[usize]) -> Demand {
    let amount = |at: usize| AMOUNTS[knobs[at] % AMOUNTS.len()];
    let flag = |at: usize, bit: usize| knobs[at] & (1 << bit) != 0;
    let memories = [ContainerMemory::G1, ContainerMemory::G4, ContainerMemory::G16, ContainerMemory::G64];
    let searches = [None, Some(WebSearch::Current), Some(WebSearch::Preview), Some(WebSearch::Chat)];
    let tools = ToolDemand {
        web_search: searches[knobs[0] % 4],
        file_search: flag(1, 0),
        containers: [(1, 2), (6, 6)]
            .into_iter()
            .filter(|(bit, _)| flag(1, *bit))
            .map(|(_, at)| ContainerDemand::Made(memories[knobs[at] % 4]))
            .collect(),
        context_container: None,
        image: flag(1, 2).then(|| ImageDemand::default()),
        loops: flag(1, 0) || flag(1, 1) || flag(1, 2) || flag(1, 6) || matches!(knobs[0] % 4, 1 | 2),
        mcp_servers: 0,
        calls_max: flag(1, 3).then(|| amount(3)),
    };
    let images = usize::from(flag(1, 5)) + usize::from(flag(5, 0));
    let media = Media {
        images: vec![Image::default(); images],
        audio_ms: if flag(1, 4) { amount(4) } else { 0 },
        opaque: u64::from(flag(5, 1)),
        ..Media::default()
    };
    Demand {
        tier: [None].into_iter().chain(TIERS.map(Some)).nth(knobs[2] % 6).flatten(),
        body_bytes: amount(4),
        media,
        server_context: flag(5, 2),
        output_max: flag(5, 3).then(|| amount(6)),
        choices: [1, 2, 128, 1_000_000][knobs[6] % 4],
        audio_output: flag(5, 4),
        echo: flag(5, 5),
        cache_12h: flag(0, 2),
        tools,
        ..Demand::default()
    }
}

/// The usage cut down to what the demand and its bound allow. The image tool's tokens, which the bound
/// has as well, are of a model of its own.
fn within(usage: &Usage, demand: &Demand, bound: ModelTokens, calls: u64) -> Usage {
    let media = &demand.media;
    let hidden = media.opaque > 0 || demand.server_context || demand.tools.loops;
    let images = !media.images.is_empty() || hidden;
    let audio = media.audio_ms > 0 || hidden || demand.audio_output;
    let allowed = [
        true,
        true,
        true,
        demand.cache_12h,
        audio,
        audio,
        images,
        images,
        true,
        true,
        demand.audio_output,
        false,
    ];
    let mut tokens = usage.tokens;
    let mut left = [bound.input, bound.output()];
    assert_eq!(Class::tokens().count(), allowed.len());
    for (class, allowed) in Class::tokens().zip(allowed) {
        let left = &mut left[usize::from(class.direction() == Direction::Output)];
        tokens[class] = if allowed { tokens[class].min(*left) } else { 0 };
        *left -= tokens[class];
    }
    let tools = &demand.tools;
    let searches_max = if tools.web_search == Some(WebSearch::Chat) { 1 } else { calls };
    let used = &usage.tools.quantities;
    let searches = if tools.web_search.is_some() { used[Class::WebSearchCalls].min(searches_max) } else { 0 };
    let file_searches = if tools.file_search { used[Class::FileSearchCalls].min(calls) } else { 0 };
    let tools = ToolUse {
        quantities: [(Class::WebSearchCalls, searches), (Class::FileSearchCalls, file_searches)].into(),
        containers: usage.tools.containers.min(u64::try_from(tools.containers.len()).expect("two")),
    };
    Usage { tokens, tools, largest_prompt: None }
}

/// The tiers at which a request may be served.
fn servable(asked: Option<Tier>, project_tier: Tier) -> Vec<Tier> {
    match asked {
        None => vec![project_tier, Tier::Standard],
        Some(Tier::Ultrafast) => vec![Tier::Ultrafast, Tier::Priority, Tier::Standard],
        Some(tier) => vec![tier, Tier::Standard],
    }
}

/// No usage within the bound costs more than the bound.
fn stays_within(price: &Price, demand: &Demand, used: &Usage, project_tier: Tier, nano: u64) {
    let inputs = BoundInputs {
        is_writable: true,
        text_tokens: None,
        prompt_tokens: None,
        document_tokens: None,
        context_tokens: (!demand.server_context).then_some(0),
        context_pictures: Some(0),
        output_max: None,
        tool_calls: demand.tools.calls_max.unwrap_or(8),
        tool_context_max: 16_000,
        tools_bound: ToolsBound::Practical,
        project_tier,
    };
    let bounded = bound(price, None, demand, inputs);
    let mut used = within(used, demand, ModelTokens::of(price, demand, inputs), inputs.tool_calls);
    used.largest_prompt = Some(largest_prompt(price, demand, inputs).min(used.tokens.input_tokens_total()));
    for tier in servable(demand.tier, project_tier) {
        let cost = cost(
            price,
            tier,
            &used,
            Offer { tools: &demand.tools, image_price: None, sessions: 1, reused: &[] },
        );
        assert!(cost.total() >= Money::ZERO && cost.tool_fees() <= cost.total());
        assert!(cost.total() <= bounded.cost, "{} > {} at {tier:?}", cost.total(), bounded.cost);
    }
    let headroom = Money::from_nano(i64::try_from(nano).unwrap_or(i64::MAX));
    let output = affordable_output(price, None, demand, inputs, headroom);
    if output > 0 {
        let clamped = bound(price, None, demand, BoundInputs { output_max: Some(output), ..inputs });
        assert!(clamped.cost <= headroom, "what is affordable fits");
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((knobs, body)) = knobs::<10>(input) else { return };
    let endpoint = Endpoint::ALL[knobs[0] % Endpoint::ALL.len()];
    let price = &PRICES[(knobs[1] + 256 * knobs[2]) % PRICES.len()];
    let image_price = &PRICES[knobs[3] % PRICES.len()];
    let answer = operation(endpoint).answer(body);
    let Some(tokens) = answer.usage else { return };
    let used = Usage { tokens, tools: answer.tools_seen, largest_prompt: None };
    // What is skipped in an answer need not be UTF-8.
    if std::str::from_utf8(body).is_ok() {
        adds_up(&json::read(body).expect("what has usage is JSON"), &used.tokens);
    }
    let demand = demand(&knobs[3..]);
    for tier in TIERS {
        let offer = Offer { tools: &demand.tools, image_price: Some(image_price), sessions: 1, reused: &[] };
        let cost = cost(price, tier, &used, offer);
        assert!(cost.total() >= Money::ZERO && cost.tool_fees() <= cost.total());
    }
    stays_within(price, &demand, &used, TIERS[knobs[2] % 5], used.tokens.tokens_total());
});

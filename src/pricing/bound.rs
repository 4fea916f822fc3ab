//! The most a request can cost: an upper bound, never a guess.
//!
//! Every token of a byte-level vocabulary is at least one byte of text, and JSON
//! only lengthens text, so a body has at most as many text tokens as bytes.
//! What is not text in the body, and what upstream adds, has rules of its own.

use crate::domain::demand::{Bound, Demand, Tier};
use crate::domain::{Money, Tokens};
use crate::pricing::cost::{FILE_SEARCH_PICO, search_block, session_pico, web_search_pico};
use crate::pricing::rates::Rates;
use crate::pricing::sheet::Price;

/// The largest context in the sheet, for models that name none.
const INPUT_MAX: u64 = 1_050_000;
/// The largest output in the sheet, for models that name none.
const OUTPUT_MAX: u64 = 128_000;
/// An image of unknown size: a photo of 12 megapixels is 14,364 tokens on the
/// patch models without a budget.
const IMAGE_TOKENS: u64 = 15_000;
/// The tile models' largest image: 85 + 8 tiles of 170.
const TILED_IMAGE_TOKENS: u64 = 1_445;
/// The same for gpt-4o-mini: 2,833 + 8 tiles of 5,667.
const MINI_IMAGE_TOKENS: u64 = 48_169;
const TILED_LOW_TOKENS: u64 = 85;
const MINI_LOW_TOKENS: u64 = 2_833;
/// Audio is 10 tokens a second; the thinnest speech codecs make 1,000 bytes a
/// second, 1,333 in base64.
const AUDIO_BYTES_PER_TOKEN: u64 = 100;
/// What one call of the image tool makes and reads at the most, and partial
/// images of 100 tokens each.
const IMAGE_CALL_OUTPUT_TOKENS: u64 = 20_300;
/// Embeddings: at most 300,000 tokens summed over a request's inputs.
const EMBEDDINGS_TOKENS_MAX: u64 = 300_000;

/// What is known of a request beside its demand.
#[derive(Clone, Copy, Debug)]
pub struct BoundInputs {
    /// The exact tokens of the body's text, if they were counted.
    pub input_tokens: Option<u64>,
    /// An output per choice to clamp to.
    pub output_max: Option<u64>,
    /// Hosted tool calls, if the request doesn't bound them.
    pub tool_calls_max: u64,
    /// The tier that is served when a request names none.
    pub project_tier: Tier,
}

/// The most that a request can be billed for.
pub fn bound(price: &Price, image_price: Option<&Price>, demand: &Demand, inputs: BoundInputs) -> Bound {
    let parts = Parts::of(price, image_price, demand, inputs);
    let output_tokens = output_per_choice(price, demand, inputs.output_max).saturating_mul(parts.choices);
    let pico = parts.fixed_pico + i128::from(output_tokens) * i128::from(parts.output_rate);
    let cost = Money::from_pico_rounded_up(pico);
    Bound { cost, input_tokens: parts.input_tokens, output_tokens }
}

/// The largest output per choice whose bound stays within `headroom`; zero if
/// there is none.
pub fn affordable_output(
    price: &Price,
    image_price: Option<&Price>,
    demand: &Demand,
    inputs: BoundInputs,
    headroom: Money,
) -> u64 {
    let parts = Parts::of(price, image_price, demand, inputs);
    let most = output_per_choice(price, demand, inputs.output_max);
    let left = i128::from(headroom.nano()) * 1_000 - parts.fixed_pico;
    let per_token = i128::from(parts.output_rate) * i128::from(parts.choices);
    if left < 0 {
        return 0;
    }
    let affordable =
        left.checked_div(per_token).map_or(most, |tokens| u64::try_from(tokens).unwrap_or(u64::MAX));
    affordable.min(most)
}

/// A bound in its parts: what the output can't change, and the output's rate.
struct Parts {
    input_tokens: u64,
    fixed_pico: i128,
    output_rate: u64,
    choices: u64,
}

impl Parts {
    fn of(price: &Price, image_price: Option<&Price>, demand: &Demand, inputs: BoundInputs) -> Self {
        let calls = demand.tools.calls_max.unwrap_or(inputs.tool_calls_max);
        let input_tokens = input_tokens(price, demand, inputs.input_tokens, calls);
        let rates = dearest_rates(price, demand.tier, inputs.project_tier, input_tokens);
        let echoed = if demand.echo { input_tokens } else { 0 };
        let output_rate =
            if demand.audio_output { rates.output.max(rates.audio_output) } else { rates.output };
        let fixed_pico = i128::from(input_tokens) * i128::from(input_rate(&rates, demand))
            + i128::from(echoed) * i128::from(output_rate)
            + fees_pico(price, image_price, demand, &rates, calls);
        Self { input_tokens, fixed_pico, output_rate, choices: demand.choices.max(1) }
    }
}

/// The most output tokens of one choice.
fn output_per_choice(price: &Price, demand: &Demand, clamp: Option<u64>) -> u64 {
    let asked = demand.output_max.into_iter().chain(clamp).chain(price.max_output_tokens).min();
    asked.unwrap_or(OUTPUT_MAX)
}

/// The most input tokens that can be billed, over all turns.
fn input_tokens(price: &Price, demand: &Demand, counted: Option<u64>, calls: u64) -> u64 {
    let window = price.max_input_tokens.unwrap_or(INPUT_MAX);
    let text = counted.unwrap_or_else(|| demand.body_bytes.saturating_sub(demand.media.inline_bytes));
    let (image, low) = image_tokens(price);
    let media = &demand.media;
    let known = text
        .saturating_add(media.images.saturating_mul(image))
        .saturating_add(media.images_low.saturating_mul(low))
        .saturating_add(media.audio_bytes.div_ceil(AUDIO_BYTES_PER_TOKEN));
    if demand.tools.loops {
        // Each turn may fill the window with what the tools have found.
        return window.saturating_mul(calls.saturating_add(1));
    }
    if demand.server_context || media.opaque > 0 {
        return window;
    }
    if price.max_output_tokens.is_none() && demand.output_max == Some(0) {
        // Embeddings: the window is that of one input of many.
        return known.min(EMBEDDINGS_TOKENS_MAX);
    }
    // A batch of prompts fills the window once for each.
    known.min(window.saturating_mul(demand.choices.max(1)))
}

fn image_tokens(price: &Price) -> (u64, u64) {
    let id = &*price.id;
    let base = id.strip_prefix("ft:").unwrap_or(id);
    if base.starts_with("gpt-4o-mini") {
        return (MINI_IMAGE_TOKENS, MINI_LOW_TOKENS);
    }
    let patched =
        base.starts_with("gpt-4.1-mini") || base.starts_with("gpt-4.1-nano") || base.starts_with("o4-mini");
    let tiled =
        ["gpt-4o", "gpt-4.1", "gpt-4-turbo", "o1", "o3"].iter().any(|family| base.starts_with(family));
    if tiled && !patched { (TILED_IMAGE_TOKENS, TILED_LOW_TOKENS) } else { (IMAGE_TOKENS, IMAGE_TOKENS) }
}

/// The dearest that may be served: a tier asked for may fall back to standard.
fn dearest_rates(price: &Price, asked: Option<Tier>, project_tier: Tier, input_tokens: u64) -> Rates {
    let rates = |tier| *price.rates(tier, input_tokens);
    // The long rates are not cheaper anywhere, but nothing says they can't be.
    let both = |tier| rates(tier).dearer(price.rates(tier, 0));
    let standard = both(Tier::Standard);
    match asked {
        None => both(project_tier).dearer(&standard),
        Some(Tier::Ultrafast) => both(Tier::Ultrafast).dearer(&both(Tier::Priority)).dearer(&standard),
        Some(tier) => both(tier).dearer(&standard),
    }
}

/// The dearest class that an input token of the request may be in.
fn input_rate(rates: &Rates, demand: &Demand) -> u64 {
    let mut rate = rates.input.max(rates.cached_input).max(rates.cache_write);
    if demand.cache_12h {
        rate = rate.max(rates.cache_write_12h);
    }
    let media = &demand.media;
    if media.images > 0
        || media.images_low > 0
        || media.opaque > 0
        || demand.server_context
        || demand.tools.loops
    {
        rate = rate.max(rates.image_input).max(rates.image_cached_input);
    }
    if media.audio_bytes > 0 || media.opaque > 0 || demand.audio_output {
        rate = rate.max(rates.audio_input).max(rates.audio_cached_input);
    }
    rate
}

fn fees_pico(price: &Price, image_price: Option<&Price>, demand: &Demand, rates: &Rates, calls: u64) -> i128 {
    let tools = &demand.tools;
    let mut pico = 0;
    if let Some(kind) = tools.web_search {
        let searches = if kind == crate::domain::demand::WebSearch::Chat { 1 } else { calls };
        let block = i128::from(search_block(price, Some(kind))) * i128::from(rates.input);
        pico += i128::from(searches) * (i128::from(web_search_pico(price, Some(kind))) + block);
    }
    if tools.file_search {
        pico += i128::from(calls) * i128::from(FILE_SEARCH_PICO);
    }
    // Each call may find its container gone and start another one.
    let container = tools.containers.iter().copied().max().map_or(0, session_pico);
    pico += i128::from(calls) * i128::from(container);
    if let (Some(_), Some(image)) = (&tools.image, image_price) {
        let tokens =
            Tokens { image_input: IMAGE_TOKENS, image_output: IMAGE_CALL_OUTPUT_TOKENS, ..Tokens::default() };
        let rates = dearest_rates(image, demand.tier, Tier::Standard, 0);
        pico += i128::from(calls) * rates.cost_pico(&tokens);
    }
    pico
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::Usage;
    use crate::domain::demand::{Media, ToolDemand, WebSearch};
    use crate::domain::tokens::ToolUse;
    use crate::pricing::cost::cost;
    use crate::pricing::sheet::Sheet;

    const NOW_S: i64 = 1_795_000_000;

    fn inputs() -> BoundInputs {
        BoundInputs { input_tokens: None, output_max: None, tool_calls_max: 8, project_tier: Tier::Standard }
    }

    fn text(body_bytes: u64, output_max: Option<u64>) -> Demand {
        Demand { body_bytes, output_max, choices: 1, ..Demand::default() }
    }

    #[test]
    fn a_plain_request_is_bounded_by_its_bytes_and_its_output() {
        let price = Sheet::built_in(&[]).unwrap().find("gpt-4o-mini", NOW_S).unwrap();
        let plain = bound(&price, None, &text(1_000, Some(100)), inputs());
        assert_eq!((plain.input_tokens, plain.output_tokens), (1_000, 100));
        assert_eq!(plain.cost.to_string(), "0.00021");
        let twice = bound(&price, None, &Demand { choices: 2, ..text(1_000, Some(100)) }, inputs());
        assert_eq!(twice.cost.to_string(), "0.00027");
        let open = bound(&price, None, &text(1_000, None), inputs());
        assert_eq!(open.output_tokens, 16_384, "the model's own maximum");
        let stored = bound(&price, None, &Demand { server_context: true, ..text(10, Some(1)) }, inputs());
        assert_eq!(stored.input_tokens, 128_000);
    }

    #[test]
    fn a_flex_request_is_bounded_by_the_standard_it_may_fall_back_to() {
        let price = Sheet::built_in(&[]).unwrap().find("gpt-6.1-sol", NOW_S).unwrap();
        let asked = |tier| bound(&price, None, &Demand { tier, ..text(1_000, Some(1_000)) }, inputs()).cost;
        assert_eq!(asked(Some(Tier::Flex)), asked(None));
        assert!(asked(Some(Tier::Priority)) > asked(None));
        assert!(asked(Some(Tier::Ultrafast)) > asked(Some(Tier::Priority)));
    }

    proptest! {
        #[test]
        fn no_usage_within_the_bound_costs_more_than_the_bound(
            model in prop::sample::select(vec!["gpt-4o-mini", "gpt-6.1-sol", "gpt-5.5-pro", "gpt-4", "gpt-audio", "gpt-6-luna"]),
            tier in prop::sample::select(vec![None, Some(Tier::Flex), Some(Tier::Standard), Some(Tier::Priority), Some(Tier::Ultrafast)]),
            body_bytes in 0u64..2_000_000,
            output_max in prop::option::of(0u64..200_000),
            choices in 1u64..4,
            images in 0u64..3,
            audio_bytes in 0u64..50_000,
            cache_12h: bool,
            searches in 0u64..9,
            shares in prop::array::uniform12(0u64..1_000),
        ) {
            let price = Sheet::built_in(&[]).unwrap().find(model, NOW_S).unwrap();
            let tools = if searches > 0 {
                ToolDemand { web_search: Some(WebSearch::Preview), loops: true, ..ToolDemand::default() }
            } else {
                ToolDemand::default()
            };
            let media = Media { images, inline_bytes: audio_bytes, audio_bytes, ..Media::default() };
            let demand = Demand {
                tier, choices, cache_12h, media, tools, audio_output: audio_bytes > 0, ..text(body_bytes + audio_bytes, output_max)
            };
            let bound = bound(&price, None, &demand, inputs());
            let tokens = spread(&bound, &demand, shares);
            let served = match tier {
                None => vec![Tier::Standard],
                Some(Tier::Ultrafast) => vec![Tier::Ultrafast, Tier::Priority, Tier::Standard],
                Some(asked) => vec![asked, Tier::Standard],
            };
            for tier in served {
                let usage = Usage { tokens, tools: ToolUse { web_searches: searches, ..ToolUse::default() } };
                let cost = cost(&price, tier, &usage, &demand.tools, None).total;
                prop_assert!(cost <= bound.cost, "{cost} > {} at {tier:?} with {tokens:?}", bound.cost);
            }
        }

        #[test]
        fn what_is_affordable_fits_and_one_token_more_does_not(
            body_bytes in 0u64..100_000, choices in 1u64..5, nano in 0i64..10_000_000_000,
        ) {
            let price = Sheet::built_in(&[]).unwrap().find("gpt-6.1-sol", NOW_S).unwrap();
            let demand = Demand { choices, ..text(body_bytes, None) };
            let headroom = Money::from_nano(nano);
            let output = affordable_output(&price, None, &demand, inputs(), headroom);
            let cost = |output| bound(&price, None, &demand, BoundInputs { output_max: Some(output), ..inputs() }).cost;
            if output > 0 { prop_assert!(cost(output) <= headroom); }
            if output < 128_000 { prop_assert!(cost(output + 1) > headroom); }
        }
    }

    /// Spreads a bound's tokens over the classes that the demand allows.
    fn spread(bound: &Bound, demand: &Demand, shares: [u64; 12]) -> Tokens {
        let mut tokens = Tokens::default();
        let allowed = [
            true,
            true,
            true,
            demand.cache_12h,
            demand.media.audio_bytes > 0,
            demand.media.audio_bytes > 0,
            demand.media.images > 0,
            demand.media.images > 0,
            true,
            true,
            demand.audio_output,
            false,
        ];
        let weight =
            |range: std::ops::Range<usize>| -> u64 { range.filter(|n| allowed[*n]).map(|n| shares[n]).sum() };
        let (input, output) = (weight(0..8).max(1), weight(8..12).max(1));
        for (n, class) in tokens.classes_mut().into_iter().enumerate().filter(|(n, _)| allowed[*n]) {
            let (total, weights) =
                if n < 8 { (bound.input_tokens, input) } else { (bound.output_tokens, output) };
            *class = total * shares[n] / weights;
        }
        tokens
    }
}

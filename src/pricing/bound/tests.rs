//! No usage within a bound costs more than the bound.

use proptest::prelude::*;

use super::*;
use crate::domain::Usage;
use crate::domain::demand::{ContainerDemand, Image, ImageDemand, Media, ToolDemand, WebSearch};
use crate::domain::usage::{ContainerMemory, ToolUse};
use crate::pricing::cost::{Offer, cost, unreported_images};
use crate::pricing::sheet::Sheet;

const NOW_S: i64 = 1_795_000_000;

fn inputs() -> BoundInputs {
    BoundInputs {
        is_writable: true,
        text_tokens: None,
        prompt_tokens: None,
        document_tokens: None,
        context_tokens: Some(0),
        context_pictures: Some(0),
        output_max: None,
        tool_calls: 8,
        tool_context_max: 16_000,
        tools_bound: ToolsBound::Practical,
        project_tier: Tier::Standard,
    }
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
    let unknown = BoundInputs { context_tokens: None, ..inputs() };
    assert_eq!(bound(&price, None, &text(10, Some(1)), unknown).input_tokens, 128_000);
    let known = BoundInputs { context_tokens: Some(5_000), ..inputs() };
    assert_eq!(bound(&price, None, &text(10, Some(1)), known).input_tokens, 5_010);
    let counted = BoundInputs { prompt_tokens: Some(70), ..unknown };
    assert_eq!(bound(&price, None, &text(10, Some(1)), counted).input_tokens, 70);
}

#[test]
fn a_model_of_unknown_size_is_as_large_as_the_largest_of_the_sheet() {
    let models = Sheet::built_in(&[]).unwrap().models(NOW_S);
    let largest = |size: fn(&Price) -> Option<u64>| models.iter().filter_map(|price| size(price)).max();
    assert_eq!(largest(|price| price.max_input_tokens), Some(INPUT_MAX));
    assert_eq!(largest(|price| price.max_output_tokens), Some(OUTPUT_MAX));
}

#[test]
fn a_flex_request_is_bounded_by_the_standard_it_may_fall_back_to() {
    let price = Sheet::built_in(&[]).unwrap().find("gpt-6.1-sol", NOW_S).unwrap();
    let asked = |tier| bound(&price, None, &Demand { tier, ..text(1_000, Some(1_000)) }, inputs()).cost;
    assert_eq!(asked(Some(Tier::Flex)), asked(None));
    assert!(asked(Some(Tier::Priority)) > asked(None));
    assert_eq!(asked(Some(Tier::Batch)).nano() * 2, asked(None).nano(), "a batch is served as one");
    assert!(asked(Some(Tier::Ultrafast)) > asked(Some(Tier::Priority)));
}

proptest! {
    #[test]
    fn no_usage_within_the_bound_costs_more_than_the_bound(
        model in prop::sample::select(vec!["gpt-4o-mini", "gpt-6.1-sol", "gpt-5.5-pro", "gpt-4", "gpt-audio", "gpt-6-luna"]),
        tier in prop::sample::select(vec![None, Some(Tier::Batch), Some(Tier::Flex), Some(Tier::Standard), Some(Tier::Priority), Some(Tier::Ultrafast)]),
        body_bytes in 0u64..2_000_000,
        output_max in prop::option::of(0u64..200_000),
        choices in 1u64..4,
        images in 0usize..3,
        audio_ms in 0u64..50_000,
        cache_12h: bool,
        searches in 0u64..9,
        memories in prop::collection::vec(prop::sample::select(vec![ContainerMemory::G1, ContainerMemory::G4, ContainerMemory::G64]), 0..4),
        used in 0u64..9,
        tools_bound in prop::sample::select(vec![ToolsBound::Practical, ToolsBound::Strict]),
        project_tier in prop::sample::select(vec![Tier::Standard, Tier::Flex, Tier::Priority, Tier::Scale]),
        pictures in 0u64..9,
        echo: bool,
        shares in prop::array::uniform12(0u64..1_000),
    ) {
        let sheet = Sheet::built_in(&[]).unwrap();
        let price = sheet.find(model, NOW_S).unwrap();
        let image = (pictures > 0).then(ImageDemand::default);
        let image_price = image.as_ref().map(|_| sheet.find("gpt-image-2", NOW_S).unwrap());
        let tools = ToolDemand {
            web_search: (searches > 0).then_some(WebSearch::Preview),
            loops: searches > 0 || pictures > 0 || !memories.is_empty(),
            image,
            containers: memories.into_iter().map(ContainerDemand::Made).collect(),
            ..ToolDemand::default()
        };
        let inputs = BoundInputs { tools_bound, project_tier, ..inputs() };
        let started = inputs.sessions() * u64::try_from(tools.containers.len()).unwrap();
        let media = Media { images: vec![Image { size: Some((900, 700)), ..Image::default() }; images], audio_ms, ..Media::default() };
        let demand = Demand {
            tier, choices, cache_12h, media, tools, echo, audio_output: audio_ms > 0, ..text(body_bytes, output_max)
        };
        let bound = bound(&price, image_price.as_deref(), &demand, inputs);
        let most = ModelTokens::of(&price, &demand, inputs);
        let tokens = spread((most.input, most.output()), &demand, shares);
        let served = match tier {
            None => vec![project_tier, Tier::Standard],
            Some(Tier::Batch) => vec![Tier::Batch],
            Some(Tier::Ultrafast) => vec![Tier::Ultrafast, Tier::Priority, Tier::Standard],
            Some(asked) => vec![asked, Tier::Standard],
        };
        for tier in served {
            let image = demand.tools.image.as_ref().map_or_else(Quantities::default, |tool| {
                let sent = u64::try_from(images).unwrap();
                unreported_images(tool, pictures.min(inputs.tool_calls), sent, output_per_choice(&price, &demand, None))
            });
            let used_input = tokens.input_tokens_total() + image.input_tokens_total();
            let used_output = tokens.output_tokens_total() + image.output_tokens_total();
            let mut tools = ToolUse { quantities: image, containers: used.min(started) };
            tools.quantities[Class::WebSearchCalls] = searches;
            let used = used_input;
            prop_assert!(used <= bound.input_tokens, "{used} > {} input tokens", bound.input_tokens);
            let used = used_output;
            prop_assert!(used <= bound.output_tokens, "{used} > {} output tokens", bound.output_tokens);
            let largest_prompt = Some(most.largest_prompt.min(tokens.input_tokens_total()));
            let usage = Usage { tokens, tools, largest_prompt };
            let offer = Offer { tools: &demand.tools, image_price: image_price.as_deref(), sessions: inputs.sessions(), reused: &[] };
            let cost = cost(&price, tier, &usage, offer).total();
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

/// Spreads the model's tokens over the classes that the demand allows.
fn spread((most_input, most_output): (u64, u64), demand: &Demand, shares: [u64; 12]) -> Quantities {
    let (has_audio, has_images) = (demand.media.audio_ms > 0, !demand.media.images.is_empty());
    let input = [
        (Class::Input, true),
        (Class::CachedInput, true),
        (Class::CacheWrite, true),
        (Class::CacheWrite12h, demand.cache_12h),
        (Class::AudioInput, has_audio),
        (Class::AudioCachedInput, has_audio),
        (Class::ImageInput, has_images),
        (Class::ImageCachedInput, has_images),
    ];
    let output = [(Class::Output, true), (Class::Reasoning, true), (Class::AudioOutput, demand.audio_output)];
    let mut tokens = Quantities::default();
    let (of_input, of_output) = shares.split_at(input.len());
    for (most, classes, shares) in [(most_input, &input[..], of_input), (most_output, &output, of_output)] {
        let allowed = || classes.iter().zip(shares).filter(|((_, is_allowed), _)| *is_allowed);
        let weights: u64 = allowed().map(|(_, share)| share).sum();
        for ((class, _), share) in allowed() {
            tokens[*class] = most * share / weights.max(1);
        }
    }
    tokens
}

//! The most that OpenAI can charge for a request, under the world's assumptions.

use crate::ask::Ask;
use crate::image::REFERENCE_TOKENS;
use crate::prices::{Memory, Rates, Tier};
use crate::world::{Endpoint, World};

/// The most that a request can cost, in picodollars; none if its body or its model is unknown.
pub fn maximum(world: &World, endpoint: Endpoint, body: &[u8]) -> Option<u128> {
    Ask::read(world, endpoint, body).map(|ask| of(world, &ask))
}

/// The most that a request can cost, in picodollars.
pub fn of(world: &World, ask: &Ask) -> u128 {
    if !ask.is_possible {
        return 0;
    }
    ask.tiers.iter().map(|tier| at(world, ask, *tier)).max().unwrap_or(0)
}

/// Hosted calls that a request can lead to.
pub fn calls(ask: &Ask) -> u64 {
    match () {
        () if ask.tools.chat_search_pico.is_some() => 1,
        () if ask.tools.loops() => ask.calls_max,
        () => 0,
    }
}

/// Sum and largest of the prompts of all turns: each call adds to the context, and each turn reads it.
pub fn turns(world: &World, ask: &Ask) -> (u128, u64) {
    let (first, window, step) = (ask.prompt_max(world), ask.window(), world.assumed.call_tokens_max);
    let is_embedding = ask.endpoint == Endpoint::Embeddings;
    let window = if is_embedding || ask.prompts > 1 { u64::MAX } else { window };
    let (mut sum, mut largest) = (0_u128, 0);
    for turn in 0..=calls(ask) {
        let prompt = first.saturating_add(step.saturating_mul(turn)).min(window);
        sum += u128::from(prompt);
        largest = largest.max(prompt);
    }
    (sum, largest)
}

/// Passes that compact the context: how many, what they read, and the largest context of them. Each
/// comes between two turns, or after the last one, and reads what is there by then.
fn passes(world: &World, ask: &Ask) -> (u128, u128, u64) {
    let Some(at) = ask.compacted_at else { return (0, 0, 0) };
    let (first, window, step) = (ask.prompt_max(world), ask.window(), world.assumed.call_tokens_max);
    let contexts = (0..=calls(ask)).map(|turn| {
        let before = first.saturating_add(step.saturating_mul(turn));
        before.saturating_add(ask.output_max).min(window)
    });
    let compacted = contexts.filter(|context| *context >= at);
    compacted.fold((0, 0, 0), |(count, sum, largest), context| {
        (count + 1, sum + u128::from(context), context.max(largest))
    })
}

fn at(world: &World, ask: &Ask, tier: Tier) -> u128 {
    let (input, largest) = turns(world, ask);
    let (passes, read, largest_read) = passes(world, ask);
    let (input, largest) = (input + read, largest.max(largest_read));
    let judged = if world.assumed.is_long_by_turn { u128::from(largest) } else { input };
    let is_long = ask.model.long_above.is_some_and(|above| judged > above.into());
    let rates = ask.model.rates(tier, is_long, world.place());
    let turns = u128::from(calls(ask)) + 1;
    let blocks = (turns - 1) * u128::from(ask.tools.search_block);
    let written = passes * u128::from(ask.output_turn_max) * rates.output;
    tokens(world, ask, rates, (turns + passes, input))
        + written
        + blocks * rates.input
        + fees(world, ask, turns - 1)
}

fn tokens(world: &World, ask: &Ask, rates: Rates, (reads, input): (u128, u128)) -> u128 {
    let window = u128::from(ask.window());
    let write = if ask.ttl_12h { rates.write_12h.max(rates.write) } else { rates.write };
    let dearest = rates.input.max(rates.cached).max(write);
    let audio = reads * u128::from(ask.audio).min(window);
    let pictures =
        ask.pictures.iter().chain(&ask.pictures_named).fold(0, |sum, tokens| sum + u128::from(*tokens));
    let pictures = reads * pictures.min(window);
    let mut cost = input * dearest;
    cost += audio * rates.audio_in.saturating_sub(dearest);
    cost += pictures * rates.image_in.saturating_sub(dearest);
    let output_rate = if ask.audio_out { rates.output.max(rates.audio_out) } else { rates.output };
    cost + output(world, ask) * output_rate
}

/// Tokens of all answers, at the most.
pub fn output(world: &World, ask: &Ask) -> u128 {
    let answers = u128::from(ask.choices) * u128::from(ask.prompts);
    let each = u128::from(ask.output_max) + u128::from(ask.predicted.tokens(world.assumed.text));
    let echoed = if ask.echo { u128::from(ask.choices) * u128::from(ask.prompt_max(world)) } else { 0 };
    answers * each + echoed
}

fn fees(world: &World, ask: &Ask, calls: u128) -> u128 {
    let tools = &ask.tools;
    let images: u128 = tools
        .images
        .iter()
        .map(|tool| {
            let rates = tool.rates(world.place());
            // A picture of kept context is read like one of the request.
            let pictures = ask.sizes.len().max(ask.pictures.len() + ask.pictures_named.len());
            let pictures = u128::try_from(pictures).expect("a count") * u128::from(REFERENCE_TOKENS);
            u128::from(tool.output) * rates.image_out + pictures * rates.image_in
        })
        .max()
        .unwrap_or(0);
    // What is drawn was written by the model first: no more than its output.
    let drawn: u128 = tools.images.iter().map(|tool| tool.rates(world.place()).input).max().unwrap_or(0);
    let drawn = if calls > 0 { drawn * output(world, ask) } else { 0 };
    let containers = if calls > 0 { tools.memories().map(Memory::session_pico).sum() } else { 0 };
    calls * tools.fee_max_pico().max(images) + drawn + containers + tools.chat_search_pico.unwrap_or(0)
}

//! What OpenAI charges for a batch, and the most it could charge: the sum over its lines, each at the batch rates of
//! its own model, or at those of the tier that its answer names, if that is above standard.
//!
//! Lines of chats, completions, responses and embeddings are modelled, and those of moderations, which are free; images
//! are not. What is charged is that of tokens: of hosted tools only the most is modelled.

use serde_json::Value;

use crate::ask::Ask;
use crate::maximum;
use crate::prices::{Tier, find};
use crate::world::{Endpoint, World};

/// Lines of a file, those without any text left out.
fn lines(file: &str) -> impl Iterator<Item = Option<Value>> {
    file.lines().filter(|line| !line.trim().is_empty()).map(|line| serde_json::from_str(line).ok())
}

/// The most that a batch can cost by its input file, in picodollars; none if a line, its path or its model is unknown.
pub fn most(world: &World, input: &str) -> Option<u128> {
    lines(input).map(|line| line_maximum(world, &line?)).sum()
}

fn line_maximum(world: &World, line: &Value) -> Option<u128> {
    let url = line["url"].as_str()?;
    if url == "/v1/moderations" {
        return Some(0);
    }
    let endpoint = Endpoint::ALL.into_iter().find(|endpoint| endpoint.path() == url)?;
    let mut ask = Ask::read(world, endpoint, line["body"].to_string().as_bytes())?;
    // A tier up to standard changes nothing of a batch. Whether one above it does is not published.
    ask.tiers.retain(|tier| matches!(tier, Tier::Priority | Tier::Ultrafast));
    ask.tiers.push(Tier::Batch);
    if line["body"]["service_tier"].as_str().is_none_or(|tier| tier == "auto") {
        ask.tiers = vec![Tier::Batch];
    }
    Some(maximum::of(world, &ask))
}

/// What OpenAI charges for the tokens of each line of an output or error file, by its `custom_id`, in picodollars: only
/// answers have usage. None if a line or the model of an answer is unknown.
pub fn charges(world: &World, output: &str) -> Option<Vec<(String, u128)>> {
    let charged = |line: Option<Value>| {
        let line = line?;
        let cost = line_charge(world, &line["response"]["body"])?;
        Some((line["custom_id"].as_str()?.to_owned(), cost))
    };
    lines(output).map(charged).collect()
}

fn line_charge(world: &World, body: &Value) -> Option<u128> {
    let usage = &body["usage"];
    if usage.is_null() {
        return Some(0);
    }
    let model = find(body["model"].as_str()?)?;
    let of = |names: [&str; 2]| {
        let found = names.into_iter().find_map(|name| usage.pointer(name)?.as_u64());
        u128::from(found.unwrap_or(0))
    };
    let input = of(["/input_tokens", "/prompt_tokens"]);
    let is_long = model.long_above.is_some_and(|above| input > above.into());
    let tier = match body["service_tier"].as_str() {
        Some("priority") => Tier::Priority,
        Some("ultrafast") => Tier::Ultrafast,
        _ => Tier::Batch,
    };
    let rates = model.rates(tier, is_long, world.place());
    let cached = of(["/input_tokens_details/cached_tokens", "/prompt_tokens_details/cached_tokens"]);
    let written =
        of(["/input_tokens_details/cache_write_tokens", "/prompt_tokens_details/cache_write_tokens"]);
    let written_12h = of(["/input_tokens_details", "/prompt_tokens_details"]
        .map(|details| format!("{details}/cache_write_tokens_details/ttl_12h_tokens"))
        .each_ref()
        .map(String::as_str));
    let audio = of(["/input_tokens_details/audio_tokens", "/prompt_tokens_details/audio_tokens"]);
    let output = of(["/output_tokens", "/completion_tokens"]);
    let spoken = of(["/output_tokens_details/audio_tokens", "/completion_tokens_details/audio_tokens"]);
    Some(
        (input - cached - written - audio) * rates.input
            + cached * rates.cached
            + (written - written_12h) * rates.write
            + written_12h * rates.write_12h
            + audio * rates.audio_in
            + (output - spoken) * rates.output
            + spoken * rates.audio_out,
    )
}

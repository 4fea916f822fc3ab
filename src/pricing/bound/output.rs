//! The most output of a choice: in one turn, and in all turns of a request with hosted tools.

use super::{BoundInputs, OUTPUT_MAX, sound, turns};
use crate::domain::Demand;
use crate::pricing::image_tool;
use crate::pricing::sheet::Price;

/// The most output tokens of one choice.
pub fn output_per_choice(price: &Price, demand: &Demand, written: Option<u64>) -> u64 {
    if let Some(drawing) = &demand.drawing {
        return image_tool::output_tokens(drawing);
    }
    if let Some(speech) = demand.speech {
        return sound::spoken_tokens(speech);
    }
    if let Some(transcript) = demand.transcript {
        return sound::written_tokens(price, demand, transcript);
    }
    let requested = demand.output_max.into_iter().chain(written).chain(price.max_output_tokens).min();
    requested.unwrap_or(OUTPUT_MAX)
}

/// The most output tokens of one choice over all turns.
pub(super) fn output_of_turns(price: &Price, demand: &Demand, inputs: BoundInputs) -> u64 {
    output_per_choice(price, demand, inputs.output_max).saturating_mul(outputs(price, demand, inputs))
}

/// How many turns may each write as much as the model can. A bound that the request names is for
/// all of them together.
fn outputs(price: &Price, demand: &Demand, inputs: BoundInputs) -> u64 {
    let most = price.max_output_tokens;
    let is_bounded = demand.output_max.is_some_and(|asked| most.is_none_or(|most| asked <= most));
    if inputs.is_writable || is_bounded { 1 } else { turns(demand, inputs).prompts }
}

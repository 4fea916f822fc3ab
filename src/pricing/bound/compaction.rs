//! The cost of compaction of the context within a request.
//!
//! Upstream compacts the context where it reaches a threshold (`context_management`): a
//! pass reads all of it and writes what replaces it. That may come after each turn, and
//! no field of the request bounds what a pass writes.

use super::output::output_of_turns;
use super::{BoundInputs, OUTPUT_MAX, ToolsBound, first_turn, turns, window};
use crate::domain::Demand;
use crate::pricing::sheet::Price;

/// All passes of a request together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Passes {
    /// Tokens that they read.
    pub(super) read: u64,
    /// Tokens that they write.
    pub(super) written: u64,
    /// The largest context that one of them reads.
    pub(super) largest: u64,
}

/// The passes of a request at the most: one for each turn after which the context may
/// have reached the threshold.
pub(super) fn passes(price: &Price, demand: &Demand, inputs: BoundInputs) -> Passes {
    let Some(at) = demand.compacted_at else { return Passes::default() };
    let turns = turns(demand, inputs);
    let is_strict = inputs.tools_bound == ToolsBound::Strict && turns.calls > 0;
    let first = first_turn(price, demand, inputs).filter(|_| !is_strict);
    let step = inputs.tool_context_max;
    let (largest, count) = match first {
        None => (window(price), turns.prompts),
        Some(first) => {
            let most = price.max_input_tokens.unwrap_or(u64::MAX);
            let written = first.saturating_add(output_of_turns(price, demand, inputs));
            let largest = written.saturating_add(turns.calls.saturating_mul(step)).min(most);
            // Turns whose calls leave the context below the threshold.
            let below = at.saturating_sub(written).div_ceil(step.max(1)).min(turns.calls);
            (largest, turns.prompts.saturating_sub(below))
        }
    };
    if largest < at {
        return Passes::default();
    }
    let each = price.max_output_tokens.unwrap_or(OUTPUT_MAX);
    Passes { read: largest.saturating_mul(count), written: each.saturating_mul(count), largest }
}

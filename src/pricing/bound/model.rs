//! The most tokens of the model itself.

use serde::{Deserialize, Serialize};

use super::output::output_of_turns;
use super::{BoundInputs, Input, compaction, input};
use crate::domain::Demand;
use crate::pricing::sheet::Price;

/// The most tokens of the model itself: those of a bound without the image tool's.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ModelTokens {
    /// Input of all turns together.
    pub input: u64,
    /// Input of the largest turn.
    pub largest_prompt: u64,
    /// Output of all choices.
    pub(super) written: u64,
    /// Output that no output bound covers: a prompt that each choice repeats, rejected
    /// predictions, what compaction writes.
    pub(super) beside: u64,
}

impl ModelTokens {
    /// Those of a request.
    pub fn of(price: &Price, demand: &Demand, inputs: BoundInputs) -> Self {
        let passes = compaction::passes(price, demand, inputs);
        let Input { tokens, largest_prompt } = input(price, demand, inputs);
        let input = tokens.saturating_add(passes.read);
        let choices = demand.choices.max(1);
        let echoed = if demand.echo { input } else { 0 };
        let repeated = echoed.saturating_add(demand.prediction_bytes).saturating_mul(choices);
        Self {
            input,
            largest_prompt: largest_prompt.max(passes.largest),
            written: output_of_turns(price, demand, inputs).saturating_mul(choices),
            beside: repeated.saturating_add(passes.written),
        }
    }

    /// Of each the larger one of two.
    #[must_use]
    pub fn most(&self, other: &Self) -> Self {
        Self {
            input: self.input.max(other.input),
            largest_prompt: self.largest_prompt.max(other.largest_prompt),
            written: self.written.max(other.written),
            beside: self.beside.max(other.beside),
        }
    }

    /// All output.
    pub const fn output(&self) -> u64 {
        self.written.saturating_add(self.beside)
    }
}

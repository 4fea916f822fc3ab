//! The bounds that the guard writes into a request that leaves its cost open.
//!
//! Where a cap applies, a request that names no output bound and no bound of
//! hosted calls gets the configured ones, so that upstream is asked for exactly
//! what is held.

use crate::domain::demand::Tier;
use crate::domain::{Demand, KeptSize};
use crate::pricing::bound::{BoundInputs, OUTPUT_MAX, ToolsBound};
use crate::pricing::sheet::Price;

/// The configured bounds.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Output tokens of a request that names no bound; zero for the model's own
    /// maximum.
    pub output_default: u64,
    /// Hosted tool calls of a request that doesn't bound them.
    pub tool_calls_max: u64,
    /// The most tokens that one hosted call adds to the context.
    pub tool_context_max: u64,
    /// How much the turns between hosted calls are assumed to read.
    pub tools_bound: ToolsBound,
    /// The tier that upstream serves when a request names none.
    pub project_tier: Tier,
}

/// The bounds that are written into a request; `None` leaves it as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Output tokens for each choice.
    pub output_max: Option<u64>,
    /// Calls of hosted tools.
    pub tool_calls: Option<u64>,
}

impl Policy {
    /// The bounds to write into a request under a cap.
    ///
    /// Predicted outputs take no output bound beside them, nor does an endpoint
    /// without the field (`is_clampable`); their output is bounded by the model.
    pub fn written(&self, price: &Price, demand: &Demand, is_clampable: bool) -> Written {
        let open = demand.output_max.is_none() && is_clampable && demand.prediction_bytes == 0;
        let most = price.max_output_tokens;
        let default = if self.output_default == 0 { most.unwrap_or(OUTPUT_MAX) } else { self.output_default };
        let hosted = demand.tools.loops;
        // A bound that is not below the model's own maximum need not be written,
        // unless there may be several turns: the maximum applies to each turn.
        let is_needed = |default: &u64| hosted || most.is_none_or(|most| *default < most);
        let default = most.map_or(default, |most| default.min(most));
        let default = Some(default).filter(|default| open && is_needed(default));
        // The requested bound is for all turns together. One above the model's maximum,
        // which is what is held, would allow several turns of that size.
        let requested = demand.output_max.filter(|_| hosted && is_clampable);
        let lowered = most.filter(|most| requested.is_some_and(|requested| requested > *most));
        let output_max = default.or(lowered);
        let tool_calls = (hosted && demand.tools.calls_max.is_none()).then_some(self.tool_calls_max);
        Written { output_max, tool_calls }
    }

    /// The inputs of the bound before anything was counted. `context` is the
    /// context that upstream adds from its own store.
    pub fn inputs(&self, demand: &Demand, written: Written, context: KeptSize) -> BoundInputs {
        BoundInputs {
            text_tokens: None,
            prompt_tokens: None,
            document_tokens: None,
            context_tokens: context.tokens,
            context_pictures: context.pictures,
            output_max: written.output_max,
            is_writable: true,
            tool_calls: written.tool_calls.or(demand.tools.calls_max).unwrap_or(self.tool_calls_max),
            tool_context_max: self.tool_context_max,
            tools_bound: self.tools_bound,
            project_tier: self.project_tier,
        }
    }
}

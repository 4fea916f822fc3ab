//! The turns of a request with hosted tools, against what its hold allows them.
//!
//! The hold assumes that each call adds at most so many tokens to the context, which
//! every later turn reads again. A stream shows the results of most calls. So the
//! guard sums up what the turns have read, and knows before the next one whether the
//! hold still covers it.

use crate::domain::Demand;
use crate::pricing::bound::{BoundInputs, ToolsBound, first_turn, input_tokens, largest_prompt, window};
use crate::pricing::sheet::Price;

/// What a hold allows the turns of its request to read, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// The first turn.
    first: u64,
    /// The part of it that is lists of MCP servers.
    lists: u64,
    /// All turns together.
    all: u64,
    /// The largest that is held for at its rates.
    largest: Option<u64>,
    /// The model's window: no turn reads more.
    window: u64,
    /// The assumed addition of a call whose result the stream does not show.
    unseen: u64,
}

/// What the turns of a stream have read so far, and what the next one will.
///
/// Each call is taken for a turn of its own, as the hold does.
#[derive(Clone, Copy, Debug)]
pub struct Turns {
    allowed: Allowance,
    /// Tokens that the turns so far have read, beyond the first turn's for each.
    read: u64,
    /// Turns that are over.
    over: u64,
    /// Tokens that the calls have added to the context.
    added: u64,
    /// Tokens of the lists of MCP servers.
    listed: u64,
}

/// What a stream shows of the context that hosted tools add, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// By a call that is done: the turn that made it is over. `None` if it is not shown.
    Call(Option<u64>),
    /// By what an earlier call has brought.
    Output(u64),
    /// By a list of tools of an MCP server, which all turns read.
    List(u64),
}

impl Turns {
    /// The turns of a request with hosted tools; `None` if no context outgrows its hold:
    /// without such tools, or where each turn is held at the model's window.
    pub fn of(price: &Price, demand: &Demand, inputs: BoundInputs) -> Option<Self> {
        // A request above the window is refused by upstream, or is smaller than its bound.
        let most = price.max_input_tokens.unwrap_or(u64::MAX);
        let first = first_turn(price, demand, inputs)?.min(most);
        if !demand.tools.loops || inputs.tools_bound == ToolsBound::Strict {
            return None;
        }
        let largest = largest_prompt(price, demand, inputs);
        let allowed = Allowance {
            first,
            lists: demand.tools.mcp_servers.saturating_mul(inputs.tool_context_max),
            all: input_tokens(price, demand, inputs),
            // Above it a larger turn costs more for each token.
            largest: price.long_above.filter(|above| largest <= *above),
            window: window(price),
            unseen: inputs.tool_context_max,
        };
        Some(Self { allowed, read: 0, over: 0, added: 0, listed: 0 })
    }

    /// The most tokens of a call's result that are worth counting.
    pub fn countable(&self) -> u64 {
        self.allowed.all
    }

    /// Adds to the context.
    pub fn take(&mut self, added: Added) {
        match added {
            Added::Call(shown) => {
                self.read = self.read.saturating_add(self.next().saturating_sub(self.allowed.first));
                self.over = self.over.saturating_add(1);
                self.added = self.added.saturating_add(shown.unwrap_or(self.allowed.unseen));
            }
            Added::Output(tokens) => self.added = self.added.saturating_add(tokens),
            Added::List(tokens) => self.listed = self.listed.saturating_add(tokens),
        }
    }

    /// Whether the next turn would read more than the hold allows for.
    pub fn are_outgrown(&self) -> bool {
        let Allowance { first, all, largest, .. } = self.allowed;
        let next = self.next();
        let so_far = first.saturating_mul(self.over).saturating_add(self.read);
        so_far.saturating_add(next) > all || largest.is_some_and(|largest| next > largest)
    }

    /// Tokens that the next turn reads.
    fn next(&self) -> u64 {
        let Allowance { first, lists, window, .. } = self.allowed;
        let listed = self.listed.saturating_sub(lists);
        first.saturating_add(listed).saturating_add(self.added).min(window.max(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(calls: u64) -> Turns {
        // As the hold sums it up: each turn the first one's, and what the calls before it added.
        let all = 5_000 * (calls + 1) + 1_000 * calls * (calls + 1) / 2;
        let allowed =
            Allowance { first: 5_000, lists: 2_000, all, largest: None, window: 50_000, unseen: 1_000 };
        Turns { allowed, read: 0, over: 0, added: 0, listed: 0 }
    }

    #[test]
    fn calls_that_bring_what_is_assumed_never_outgrow_the_hold() {
        for calls in 0..20 {
            for brought in [Some(1_000), None] {
                let mut turns = turns(calls);
                for _ in 0..calls {
                    assert!(!turns.are_outgrown());
                    turns.take(Added::Call(brought));
                }
                assert!(!turns.are_outgrown(), "{calls} calls");
            }
        }
    }

    #[test]
    fn one_token_more_than_the_hold_has_outgrows_it() {
        let mut just = turns(2);
        just.take(Added::Call(Some(1_500)));
        just.take(Added::Call(Some(0)));
        assert!(!just.are_outgrown(), "1,500 are read twice: 3,000");
        just.take(Added::Output(1));
        assert!(just.are_outgrown());
        // A call with a large result may use the hold of calls that are not made.
        let mut one = turns(2);
        one.take(Added::Call(Some(8_000)));
        assert!(!one.are_outgrown(), "the third turn's 5,000 and all 3,000");
        one.take(Added::Output(1));
        assert!(one.are_outgrown());
    }

    #[test]
    fn a_list_is_read_by_every_turn_and_counts_beyond_what_was_held_for_lists() {
        let mut turns = turns(1);
        turns.take(Added::List(2_000));
        turns.take(Added::Call(Some(1_000)));
        assert!(!turns.are_outgrown());
        let mut turns = self::turns(1);
        turns.take(Added::List(2_500));
        turns.take(Added::Call(Some(0)));
        assert!(!turns.are_outgrown(), "500 are read twice");
        turns.take(Added::List(1));
        assert!(turns.are_outgrown());
    }

    #[test]
    fn a_turn_above_which_tokens_cost_more_outgrows_a_hold_at_the_lower_rates() {
        let mut turns = turns(8);
        turns.allowed.largest = Some(20_000);
        turns.take(Added::Call(Some(15_000)));
        assert!(!turns.are_outgrown());
        turns.take(Added::Output(1));
        assert!(turns.are_outgrown());
    }

    #[test]
    fn a_first_turn_that_is_taken_for_more_than_the_window_cuts_nothing() {
        use crate::domain::demand::{Tier, ToolDemand};
        use crate::pricing::sheet::Sheet;
        let price = Sheet::built_in(&[]).unwrap().find("gpt-4o-mini", 1_795_000_000).unwrap();
        let tools = ToolDemand { loops: true, ..ToolDemand::default() };
        let demand = Demand { body_bytes: 400_000, choices: 1, tools, ..Demand::default() };
        let inputs = BoundInputs {
            is_writable: true,
            text_tokens: None,
            prompt_tokens: None,
            document_tokens: None,
            context_tokens: Some(0),
            context_pictures: Some(0),
            output_max: Some(100),
            tool_calls: 8,
            tool_context_max: 16_000,
            tools_bound: ToolsBound::Practical,
            project_tier: Tier::Standard,
        };
        let mut turns = Turns::of(&price, &demand, inputs).unwrap();
        for _ in 0..8 {
            turns.take(Added::Call(Some(5_000)));
            assert!(!turns.are_outgrown(), "{turns:?}");
        }
    }

    #[test]
    fn no_turn_reads_more_than_the_window() {
        let mut turns = turns(2);
        turns.allowed.all = 3 * 50_000;
        for _ in 0..2 {
            turns.take(Added::Call(Some(u64::MAX)));
            assert!(!turns.are_outgrown());
        }
    }
}

//! The headroom of a request under the limits that apply to it.

use crate::domain::limit::{Mode, Per, Unit};
use crate::domain::{Limit, Money};
use crate::ledger::Ledger;
use crate::ledger::entry::Attribution;

/// The headroom of one request under the enforced limits; `None` if none applies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headroom {
    /// Dollars: by caps, prepaid credit, and the client's own maximum.
    pub cost: Option<Money>,
    /// Input and output tokens together.
    pub tokens: Option<i64>,
    /// Input tokens.
    pub input_tokens: Option<i64>,
    /// Output tokens.
    pub output_tokens: Option<i64>,
    /// Whether there is a cap for each model: it must be known which models run.
    pub by_model: bool,
    /// Whether a limit in dollars of whatever mode, with a cap or only thresholds,
    /// or a credit account shows what the request costs.
    pub shows_cost: bool,
}

impl Headroom {
    /// Whether a cap in dollars or in tokens applies.
    pub fn is_capped(&self) -> bool {
        self.cost.is_some() || self.tokens.or(self.input_tokens).or(self.output_tokens).is_some()
    }

    fn leave(&mut self, unit: Unit, room: i64) {
        let tighter = |known: Option<i64>| Some(known.map_or(room, |known| known.min(room)));
        match unit {
            Unit::Usd => self.cost = tighter(self.cost.map(Money::nano)).map(Money::from_nano),
            Unit::Tokens => self.tokens = tighter(self.tokens),
            Unit::InputTokens => self.input_tokens = tighter(self.input_tokens),
            Unit::OutputTokens => self.output_tokens = tighter(self.output_tokens),
            Unit::Requests => {}
        }
    }
}

impl Ledger {
    /// The headroom of a request of this attribution under the enforced limits.
    pub fn headroom(&self, of: &Attribution, client_cap: Option<Money>, at_ms: i64) -> Headroom {
        let credit = self.enforced_credit(at_ms);
        let cost = [client_cap, credit].into_iter().flatten().min();
        let mut left = Headroom { cost, shows_cost: self.account().is_some(), ..Headroom::default() };
        for metered in self.reached(of) {
            let Limit { unit, mode, hard, .. } = *metered.limit;
            for subject in metered.subjects(of) {
                left.shows_cost |= unit == Unit::Usd;
                let Some(hard) = hard.filter(|_| mode == Mode::Enforce) else { continue };
                left.by_model |= metered.limit.per == Per::Model;
                if unit != Unit::Requests {
                    let meter = metered.reading(subject, at_ms.div_euclid(1_000)).meter;
                    left.leave(unit, hard.saturating_sub(meter.settled).saturating_sub(meter.held).max(0));
                }
            }
        }
        left
    }

    /// Whether an enforced dollar cap applies, so that a price must be known.
    pub fn needs_price(&self, of: &Attribution, at_ms: i64) -> bool {
        self.headroom(of, None, at_ms).cost.is_some()
    }
}

//! What the lines of a batch are priced by.

use std::sync::Arc;

use crate::pricing::plan::Policy;
use crate::pricing::sheet::{Price, Sheet, UnknownModel};
use crate::proxy::Rules;

/// What lines are priced by.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct Pricing {
    sheet: Arc<Sheet>,
    unknown: UnknownModel,
    policy: Policy,
    /// Unix seconds: the prices of that time count.
    at_s: i64,
}

impl Pricing {
    /// By the rules in force.
    pub(in crate::proxy) fn of(rules: &Rules, at_s: i64) -> Self {
        Self::with((Arc::clone(&rules.sheet), rules.unknown_model), rules.admit.policy, at_s)
    }

    /// By these.
    pub(super) fn with((sheet, unknown): (Arc<Sheet>, UnknownModel), policy: Policy, at_s: i64) -> Self {
        Self { sheet, unknown, policy, at_s }
    }

    /// A text that is another one where the same line could be priced differently.
    pub(super) fn version(&self) -> String {
        let guard = env!("CARGO_PKG_VERSION");
        format!("{guard} {} {:?} {:?}", self.sheet.version(), self.unknown, self.policy)
    }

    /// The price of a model.
    pub(super) fn price_of(&self, model: &str, at_s: i64) -> Option<Arc<Price>> {
        self.sheet.price_of(model, at_s, self.unknown)
    }

    /// The sheet.
    pub(super) fn sheet(&self) -> &Arc<Sheet> {
        &self.sheet
    }

    /// The bounds of what requests leave open.
    pub(super) fn policy(&self) -> Policy {
        self.policy
    }

    /// Unix seconds of the prices.
    pub(super) fn at_s(&self) -> i64 {
        self.at_s
    }
}

//! The differences between two price sheets.

use std::sync::Arc;

use super::{Price, Sheet};

/// The models in which two sheets differ, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Models that only the newer sheet has.
    pub new: Vec<Arc<Price>>,
    /// Models that only the older sheet has.
    pub removed: Vec<Arc<Price>>,
    /// Models that differ in anything: rates, limits, facts, now or from a later day.
    pub changed: Vec<Change>,
}

/// One model's prices in two sheets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// In the older one.
    pub before: Arc<Price>,
    /// In the newer one.
    pub after: Arc<Price>,
}

impl Sheet {
    /// The differences of a newer sheet from this one, with the prices at an instant in Unix seconds.
    pub fn changes(&self, newer: &Self, at_s: i64) -> Changes {
        let mut changes = Changes::default();
        for after in newer.models(at_s) {
            match self.find_exactly(&after.id, at_s) {
                None => changes.new.push(after),
                Some(before) if self.models.get(&after.id) != newer.models.get(&after.id) => {
                    changes.changed.push(Change { before, after });
                }
                Some(_) => {}
            }
        }
        let is_gone = |before: &Arc<Price>| newer.find_exactly(&before.id, at_s).is_none();
        changes.removed = self.models(at_s).into_iter().filter(is_gone).collect();
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: i64 = 1_795_000_000;

    fn sheet(models: &str) -> Sheet {
        let text =
            format!(r#"{{"schema": "spendguard-prices/1", "as_of": "2026-11-21", "models": {{{models}}}}}"#);
        Sheet::parse(&text, &[]).unwrap()
    }

    #[test]
    fn models_that_are_new_gone_or_priced_otherwise_are_named() {
        let rates =
            |input: u32| format!(r#"{{"rates": {{"standard": {{"input": "{input}", "output": "8"}}}}}}"#);
        let later = r#"{"rates": {"standard": {"input": "1", "output": "8"}},
            "dated": [{"effective_from": "2027-01-01", "rates": {"standard": {"input": "9", "output": "9"}}}]}"#;
        let one = rates(1);
        let before = sheet(&format!(r#""gpt-a": {one}, "gpt-b": {one}, "gpt-c": {one}, "gpt-d": {one}"#));
        let after =
            sheet(&format!(r#""gpt-a": {one}, "gpt-b": {}, "gpt-c": {later}, "gpt-e": {one}"#, rates(2)));
        let Changes { new, removed, changed } = before.changes(&after, NOW_S);
        let ids = |prices: &[Arc<Price>]| prices.iter().map(|price| price.id.to_string()).collect::<Vec<_>>();
        assert_eq!((ids(&new), ids(&removed)), (vec!["gpt-e".to_owned()], vec!["gpt-d".to_owned()]));
        let changed: Vec<_> = changed.iter().map(|change| &*change.after.id).collect();
        assert_eq!(changed, ["gpt-b", "gpt-c"], "a price that comes into force later is a change as well");
        assert_eq!(before.changes(&before, NOW_S), Changes::default());
    }
}

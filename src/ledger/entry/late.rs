//! Endings that are learned after another guard has charged their hold in full.
//!
//! An entry is never changed. So the charge is taken back, with what operators have corrected of it,
//! under the project, key, user and model that it was booked under; and the request is settled by an
//! entry of its own, under those that the ending has. Charge and corrections together are the ending,
//! in every unit and in every sum.

use crate::domain::Money;
use crate::domain::demand::Bound;
use crate::ledger::entry::{Basis, Entry, Hold, Kind};

impl Entry {
    /// What corrects a hold that another guard has charged in full, by the ending that was learned
    /// later: an entry that takes all of the charge back and, if the request is to be charged, one
    /// that settles it. They have no ids yet. Nothing, if the charge was right. `booked` is what the
    /// charge and its corrections come to by now.
    pub fn late(ending: &Self, charged: &Hold, booked: Money) -> Vec<Self> {
        let as_charged = (booked, charged.bound.quantities(), Kind::Settle);
        if (ending.cost, ending.quantities, ending.kind) == as_charged {
            return Vec::new();
        }
        let corrects = Some(charged.id);
        let note = "the guard was given up before the request ended; what was charged for it is taken back";
        let taken_back = Self {
            id: 0,
            cost: -booked,
            quantities: charged.bound.quantities(),
            held: Bound::default(),
            basis: Some(Basis::Assumed),
            corrects,
            note: Some(note.to_owned()),
            ..Self::ending(charged, Kind::Adjust, ending.created_ms)
        };
        let note = "the guard was given up before the request ended; this is what it cost in the end";
        let settled = Self { id: 0, corrects, note: Some(note.to_owned()), ..ending.clone() };
        [taken_back].into_iter().chain(Some(settled).filter(|of| of.kind == Kind::Settle)).collect()
    }

    /// Whether its quantities, and one request, are not added but taken back.
    pub fn takes_back(&self) -> bool {
        self.kind == Kind::Adjust && self.basis == Some(Basis::Assumed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::Class;
    use crate::domain::demand::Tier;
    use crate::domain::limit::Unit;
    use crate::ledger::entry::Attribution;

    fn charged() -> Hold {
        Hold {
            id: 7,
            admitted_ms: 5,
            attribution: Arc::new(Attribution {
                image_model: Some("gpt-image-1".into()),
                ..Attribution::default()
            }),
            bound: Bound { cost: Money::from_nano(90), input_tokens: 20, output_tokens: 10 },
            tier: Tier::default(),
            price_version: "v".into(),
            stream: false,
        }
    }

    fn ending(kind: Kind) -> Entry {
        let ending = Entry::ending(&charged(), kind, 99);
        if kind == Kind::Release {
            return ending;
        }
        Entry {
            attribution: Arc::default(),
            cost: Money::from_nano(30),
            quantities: [(Class::CachedInput, 4), (Class::Output, 1), (Class::WebSearchCalls, 3)].into(),
            basis: Some(Basis::Reported),
            served_model: Some("gpt-5".into()),
            ..ending
        }
    }

    #[test]
    fn charge_and_corrections_are_the_ending_in_every_unit() {
        let hold = charged();
        let endings = [ending(Kind::Settle), ending(Kind::Release)];
        for (ending, by_operator) in endings.iter().flat_map(|ending| [(ending, 0), (ending, -60)]) {
            let by_operator = Money::from_nano(by_operator);
            let corrections = Entry::late(ending, &hold, hold.bound.cost + by_operator);
            assert!(
                corrections.iter().all(|of| (of.corrects, of.admitted_ms, of.created_ms) == (Some(7), 5, 99))
            );
            let assumed = Entry::assumed(&hold, 50, "");
            let by_operator = Entry { cost: by_operator, ..Entry::ending(&hold, Kind::Adjust, 60) };
            let all: Vec<Entry> = [assumed, by_operator].into_iter().chain(corrections).collect();
            for unit in Unit::ALL {
                let sum: i64 = all.iter().map(|entry| entry.amount(unit)).sum();
                assert_eq!(sum, ending.amount(unit), "{unit:?} of {:?}", ending.kind);
            }
        }
    }

    #[test]
    fn what_is_taken_back_is_of_whom_it_was_counted_for_and_what_is_settled_of_whom_it_was_for() {
        let (hold, ending) = (charged(), ending(Kind::Settle));
        let [taken_back, settled] = &*Entry::late(&ending, &hold, hold.bound.cost) else {
            panic!("two corrections")
        };
        assert!(taken_back.takes_back() && !settled.takes_back());
        assert_eq!((&taken_back.attribution, &taken_back.served_model), (&hold.attribution, &None));
        assert_eq!(
            (&settled.attribution, &settled.served_model),
            (&ending.attribution, &ending.served_model)
        );
        assert_eq!((settled.kind, settled.basis), (Kind::Settle, Some(Basis::Reported)));
    }

    #[test]
    fn a_charge_that_was_right_is_not_corrected() {
        let hold = charged();
        let ending = Entry::assumed(&hold, 99, "upstream has not answered");
        assert_eq!(Entry::late(&ending, &hold, hold.bound.cost), []);
        assert_eq!(Entry::late(&ending, &hold, Money::from_nano(30)).len(), 2, "it was, and then corrected");
    }
}

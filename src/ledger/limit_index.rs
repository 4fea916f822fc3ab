//! Finds the limits that may apply to a request without checking each one.
//!
//! There may be a limit for every key. One that is narrowed to keys or to projects
//! is listed under their ids; the others are checked for every request.

use std::borrow::Cow;
use std::collections::HashMap;

use foldhash::quality::RandomState;

use crate::domain::Limit;
use crate::ledger::entry::Attribution;

type Listed = HashMap<String, Vec<usize>, RandomState>;

/// The places of limits in a list, by whom they may apply to.
#[derive(Debug, Default)]
pub struct LimitIndex {
    always: Vec<usize>,
    by_key: Listed,
    by_project: Listed,
}

impl LimitIndex {
    /// The index of limits by their places in a list.
    pub fn of<'a>(limits: impl IntoIterator<Item = &'a Limit>) -> Self {
        let mut index = Self::default();
        for (place, limit) in limits.into_iter().enumerate() {
            let (listed, ids) = match &limit.only {
                only if !only.keys.is_empty() => (&mut index.by_key, &only.keys),
                only if !only.projects.is_empty() => (&mut index.by_project, &only.projects),
                _ => {
                    index.always.push(place);
                    continue;
                }
            };
            for id in ids {
                listed.entry(id.clone()).or_default().push(place);
            }
        }
        index
    }

    /// The places of all limits that may apply, ascending, each once. Each of them
    /// still decides whether it applies.
    pub fn places(&self, of: &Attribution) -> Cow<'_, [usize]> {
        let listed = [self.by_key.get(&*of.key), self.by_project.get(&*of.project)];
        if listed.iter().all(Option::is_none) {
            return Cow::Borrowed(&self.always);
        }
        let mut found: Vec<usize> = listed.into_iter().flatten().flatten().copied().collect();
        found.extend(&self.always);
        found.sort_unstable();
        found.dedup();
        Cow::Owned(found)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::domain::Window;
    use crate::domain::limit::{Mode, Only, Per, Source, Unit};
    use crate::ledger::entry::Tags;
    use crate::ledger::meter::subjects;

    fn limit((keys, projects): (Vec<u8>, Vec<u8>)) -> Limit {
        let names = |of: Vec<u8>| of.into_iter().map(|who| format!("name-{who}")).collect();
        Limit {
            name: "any".into(),
            per: Per::Organization,
            only: Only { keys: names(keys), projects: names(projects), ..Only::default() },
            unit: Unit::Usd,
            window: Window::Month,
            zone: "UTC".into(),
            soft: Vec::new(),
            hard: None,
            mode: Mode::Enforce,
            source: Source::File,
        }
    }

    fn of([project, project_name, key, key_name]: [u8; 4]) -> Attribution {
        let name = |who: u8| -> Arc<str> { format!("name-{who}").into() };
        Attribution {
            project: name(project),
            project_name: name(project_name),
            key: name(key),
            key_name: name(key_name),
            end_user: None,
            tags: Arc::new(Tags::new()),
            endpoint: "/v1/chat/completions".into(),
            model: "gpt-5".into(),
            priced_as: None,
            image_model: None,
        }
    }

    proptest! {
        #[test]
        fn every_limit_that_applies_is_reached_once_and_in_order(
            narrowed in vec((vec(0_u8..6, 0..3), vec(0_u8..6, 0..3)), 0..12),
            who in any::<[u8; 4]>().prop_map(|ids| ids.map(|id| id % 6)),
        ) {
            let limits: Vec<Limit> = narrowed.into_iter().map(limit).collect();
            let (index, of) = (LimitIndex::of(&limits), of(who));
            let reached = index.places(&of).into_owned();
            prop_assert!(reached.is_sorted_by(|a, b| a < b));
            let applies = |place: &usize| subjects(&limits[*place], &of).next().is_some();
            let all: Vec<usize> = (0..limits.len()).filter(applies).collect();
            let applicable: Vec<usize> = reached.into_iter().filter(applies).collect();
            prop_assert_eq!(applicable, all);
        }
    }

    #[test]
    fn a_limit_of_another_key_is_not_asked() {
        let limits = [limit((vec![1], vec![])), limit((vec![], vec![])), limit((vec![], vec![2]))];
        let index = LimitIndex::of(&limits);
        assert_eq!(*index.places(&of([0, 0, 0, 0])), [1]);
        assert_eq!(*index.places(&of([2, 0, 1, 0])), [0, 1, 2]);
        assert_eq!(*index.places(&of([0, 2, 0, 1])), [1], "ids count, not names");
    }
}

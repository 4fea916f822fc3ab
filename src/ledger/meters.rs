//! Meters and their subjects, those of one limit, and how many there are.
//!
//! Clients name end users, models and tags. So a limit has a most of meters, and of the values of a
//! tag each key has a most of its own: one that writes a new value with each request leaves the
//! others room.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use foldhash::quality::RandomState;
use indexmap::IndexMap;

use crate::domain::Limit;
use crate::domain::limit::Per;

/// The most meters of one limit: in memory, where each takes about 150 bytes, or as rows of one
/// window that guards share.
pub const METERS_MAX: usize = 2_000_000;
/// The most values of a tag that one limit keeps apart within one key and window.
pub const VALUES_MAX: usize = 100_000;

/// The subject of a meter.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// The organization.
    Organization,
    /// One project's, key's, end user's or model's.
    One(Arc<str>),
    /// One value's of a tag, within a key: `KEY/NAME=VALUE`.
    Tagged(Arc<str>),
}

/// What parts the key of a tag's value from the tag; no id of a key has it.
const OF_KEY: char = '/';

/// The key within which a label counts a tag, and the tag as `NAME=VALUE`; `None` of another label.
pub fn key_and_tag(label: &str) -> Option<(&str, &str)> {
    label.split_once(OF_KEY).filter(|(_, tag)| tag.contains('='))
}

impl Subject {
    /// The subject of a limit that has this label.
    pub fn labelled(limit: &Limit, label: String) -> Self {
        match limit.per {
            Per::Organization => Self::Organization,
            Per::Project | Per::Key | Per::User | Per::Model => Self::One(label.into()),
            Per::Tag(_) => Self::Tagged(label.into()),
        }
    }

    /// That of a tag's value within a key.
    pub(crate) fn tagged(key: &str, name: &str, value: &str) -> Self {
        Self::Tagged(format!("{key}{OF_KEY}{name}={value}").into())
    }

    /// The name in API, ledger and metrics: `org`, else the id or name itself.
    pub fn label(&self) -> &str {
        match self {
            Self::Organization => "org",
            Self::One(name) | Self::Tagged(name) => name,
        }
    }

    /// The key that it is a value of a tag of.
    pub(crate) fn key_of_tag(&self) -> Option<&str> {
        match self {
            Self::Organization | Self::One(_) => None,
            Self::Tagged(label) => key_and_tag(label).map(|(key, _)| key),
        }
    }
}

/// One counter, in its limit's unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meter {
    /// What has been charged for good.
    pub settled: i64,
    /// What open requests may still cost.
    pub held: i64,
}

/// Where a meter stands: its subject and the start of its window.
pub(crate) type Place = (Subject, i64);

/// Meters by subject and window start. They have places, which change only when
/// one is removed: the last takes its place. So they can be walked in slices, from
/// the last place to the first, and none is missed.
///
/// Looked up several times a request, so by a hash that is quick; its seed is
/// random, since clients choose names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meters {
    all: IndexMap<Place, Meter, RandomState>,
    values: Values,
}

/// How many values of a tag each key has, by the start of the window.
#[derive(Clone, Debug, Default)]
struct Values(BTreeMap<i64, HashMap<Box<str>, usize, RandomState>>);

impl Values {
    fn add(&mut self, start_s: i64, key: &str, count: usize) {
        let of_window = self.0.entry(start_s).or_default();
        match of_window.get_mut(key) {
            Some(known) => *known += count,
            None => drop(of_window.insert(key.into(), count)),
        }
    }

    fn remove(&mut self, (subject, start_s): &Place) {
        let (Some(key), Some(of_window)) = (subject.key_of_tag(), self.0.get_mut(start_s)) else { return };
        if let Some(count) = of_window.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                of_window.remove(key);
            }
        }
        if of_window.is_empty() {
            self.0.remove(start_s);
        }
    }

    fn is_full_for(&self, subject: &Subject, start_s: i64) -> bool {
        let count = |key: &str| self.0.get(&start_s)?.get(key).copied();
        subject.key_of_tag().and_then(count).is_some_and(|count| count >= VALUES_MAX)
    }
}

impl Meters {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is one at a place.
    pub(crate) fn has(&self, place: &Place) -> bool {
        self.all.contains_key(place)
    }

    /// The meter of a place.
    pub(crate) fn get(&self, place: &Place) -> Option<&Meter> {
        self.all.get(place)
    }

    /// The same, to be changed.
    pub(crate) fn get_mut(&mut self, place: &Place) -> Option<&mut Meter> {
        self.all.get_mut(place)
    }

    /// The meter of a place, made if there is none.
    pub(crate) fn made(&mut self, place: Place) -> &mut Meter {
        if let Some(key) = place.0.key_of_tag().filter(|_| !self.all.contains_key(&place)) {
            self.values.add(place.1, key, 1);
        }
        self.all.entry(place).or_default()
    }

    /// Removes the meter of a place.
    pub(crate) fn remove(&mut self, place: &Place) {
        if self.all.swap_remove(place).is_some() {
            self.values.remove(place);
        }
    }

    /// The meter with this number.
    pub(crate) fn at(&self, number: usize) -> Option<(&Place, &Meter)> {
        self.all.get_index(number)
    }

    /// Removes the meter with this number.
    pub(crate) fn remove_at(&mut self, number: usize) {
        if let Some((place, _)) = self.all.swap_remove_index(number) {
            self.values.remove(&place);
        }
    }

    /// Removes all.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// All, by their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Place, &Meter)> {
        self.all.iter()
    }

    /// All, to be moved elsewhere.
    pub(crate) fn into_all(self) -> impl Iterator<Item = (Place, Meter)> {
        self.all.into_iter()
    }

    /// Whether the key of a place has as many values of the tag as may be.
    pub(crate) fn is_full_for(&self, (subject, start_s): &Place) -> bool {
        self.values.is_full_for(subject, *start_s)
    }
}

impl Extend<(Place, Meter)> for Meters {
    fn extend<T: IntoIterator<Item = (Place, Meter)>>(&mut self, meters: T) {
        for (place, meter) in meters {
            *self.made(place) = meter;
        }
    }
}

impl FromIterator<(Place, Meter)> for Meters {
    fn from_iter<T: IntoIterator<Item = (Place, Meter)>>(meters: T) -> Self {
        let mut all = Self::default();
        all.extend(meters);
        all
    }
}

/// How many rows there are of a limit's meters, where guards share them.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    of_windows: BTreeMap<i64, usize>,
    values: Values,
}

impl Rows {
    /// Adds rows of a window; of a tag, of one key.
    pub(crate) fn add(&mut self, start_s: i64, key: Option<&str>, rows: usize) {
        *self.of_windows.entry(start_s).or_default() += rows;
        if let Some(key) = key {
            self.values.add(start_s, key, rows);
        }
    }

    /// Whether there are as many rows as may be where that of a place would be.
    pub(crate) fn is_full_for(&self, subject: &Subject, start_s: i64) -> bool {
        let is_full = self.of_windows.get(&start_s).is_some_and(|rows| *rows >= METERS_MAX);
        is_full || self.values.is_full_for(subject, start_s)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn place((key, value, start_s): (u8, u8, i64)) -> Place {
        (Subject::Tagged(format!("key_{key}/run={value}").into()), start_s)
    }

    fn counted(meters: &Meters) -> BTreeMap<(i64, String), usize> {
        let each = meters.values.0.iter();
        each.flat_map(|(start, keys)| keys.iter().map(|(key, count)| ((*start, key.to_string()), *count)))
            .collect()
    }

    proptest! {
        #[test]
        fn values_are_counted_by_key_and_window_whatever_comes_and_goes(
            steps in vec((0_u8..4, (0_u8..3, 0_u8..5, 0_i64..2)), 0..80),
        ) {
            let mut meters = Meters::default();
            for (step, of) in steps {
                match step {
                    0 => meters.remove(&place(of)),
                    1 => meters.remove_at(usize::from(of.1)),
                    _ => meters.made(place(of)).settled += 1,
                }
            }
            let mut expected: BTreeMap<(i64, String), usize> = BTreeMap::new();
            for ((subject, start_s), _) in meters.iter() {
                let key = subject.label().split('/').next().unwrap_or_default();
                *expected.entry((*start_s, key.to_owned())).or_default() += 1;
            }
            prop_assert_eq!(counted(&meters), expected);
        }
    }
}

//! Sums of quantities by class, in which some is taken back.

use std::fmt;
use std::ops::{AddAssign, Index, IndexMut};

use crate::domain::quantity::{Class, Quantities};

/// How much of each class there is in a sum, in which some is taken back.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Balance([i64; Class::ALL.len()]);

impl Balance {
    /// Adds class by class, each up to the end of the range.
    pub fn add(&mut self, added: &Quantities) {
        for (class, count) in added.non_zero() {
            self[class] = self[class].saturating_add_unsigned(count);
        }
    }

    /// Takes back class by class, each down to the end of the range.
    pub fn take_back(&mut self, taken: &Quantities) {
        for (class, count) in taken.non_zero() {
            self[class] = self[class].saturating_sub_unsigned(count);
        }
    }

    /// The classes of which there is something, with how much.
    pub fn non_zero(&self) -> impl Iterator<Item = (Class, i64)> {
        Class::ALL.into_iter().zip(self.0).filter(|(_, count)| *count != 0)
    }

    /// Whether there is nothing of any class.
    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|count| *count == 0)
    }

    /// What there is of the classes that `keep` keeps.
    #[must_use]
    pub fn only(&self, keep: impl Fn(Class) -> bool) -> Self {
        let mut kept = Self::default();
        for (class, count) in self.non_zero().filter(|(class, _)| keep(*class)) {
            kept[class] = count;
        }
        kept
    }

    /// No more than `most` of each class, and no less than its opposite.
    #[must_use]
    pub fn within(&self, most: i64) -> Self {
        Self(self.0.map(|count| count.clamp(-most, most)))
    }

    /// All tokens.
    pub fn tokens_total(&self) -> i64 {
        Class::tokens().map(|class| self[class]).fold(0, i64::saturating_add)
    }
}

impl From<Quantities> for Balance {
    fn from(quantities: Quantities) -> Self {
        let mut balance = Self::default();
        balance.add(&quantities);
        balance
    }
}

impl Index<Class> for Balance {
    type Output = i64;

    fn index(&self, class: Class) -> &i64 {
        &self.0[class.index()]
    }
}

impl IndexMut<Class> for Balance {
    fn index_mut(&mut self, class: Class) -> &mut i64 {
        &mut self.0[class.index()]
    }
}

/// Adds class by class, each within the range.
impl AddAssign for Balance {
    fn add_assign(&mut self, other: Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine = mine.saturating_add(theirs);
        }
    }
}

/// The classes by name, without those of which there is nothing.
impl fmt::Debug for Balance {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_map().entries(self.non_zero().map(|(class, count)| (class.name(), count))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_back_is_gone_in_any_order() {
        use Class::{FileSearchCalls, Input, Output};
        let (charged, real) = (
            Quantities::from([(Input, 9), (FileSearchCalls, 2)]),
            Quantities::from([(Input, 4), (Output, 1)]),
        );
        let mut balance = Balance::default();
        balance.take_back(&charged);
        assert_eq!((balance.tokens_total(), balance[FileSearchCalls]), (-9, -2));
        balance += real.into();
        balance.add(&charged);
        assert_eq!(balance, real.into());
        assert_eq!((balance.tokens_total(), balance.within(3)[Input]), (5, 3));
        balance.add(&[(Output, u64::MAX)].into());
        assert_eq!(balance[Output], i64::MAX);
    }
}

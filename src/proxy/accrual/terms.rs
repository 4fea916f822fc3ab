//! What an object that is billed by time costs: the terms of its job for one period.

use serde::{Deserialize, Serialize};

use crate::domain::usage::ContainerMemory;
use crate::domain::{Class, Money, Quantities};
use crate::pricing::cost;
use crate::pricing::rates::Rates;

/// The time that passes at the end of a hold before the next one must be there, in seconds: enough
/// to ask upstream, and to delete a container.
pub(super) const MARGIN_S: i64 = 120;
/// How long after its presumed end upstream is asked whether a container lives, in seconds.
pub(super) const GRACE_S: i64 = 60;
/// Minutes that are held beyond the presumed end of a container.
const MINUTES_BEYOND: i64 = (MARGIN_S + GRACE_S) / 60;
/// The fewest minutes of a container that OpenAI bills, and the most that are held at once: those
/// of a session, and what is held beyond its end.
const MINUTES_MIN: i64 = 5;
const MINUTES_MAX: i64 = 20 + MINUTES_BEYOND;
/// How long the storage of a vector store is held for, in seconds: a day.
const STORED_S: i64 = 86_400;
/// The same where its limit leaves no room and nothing can be held: until it is tried again.
const UNHELD_S: i64 = 3_600;
const MEBIBYTE: i128 = 1 << 20;

/// The terms of one period, as the row of the job keeps them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::proxy) struct Terms {
    /// Whether it was made with the guard's own key: only then can the guard ask for it.
    pub(super) is_own: bool,
    /// The period that the hold is for, in Unix seconds.
    pub(super) from_s: i64,
    pub(super) until_s: i64,
    /// Picodollars for a unit of the class that it is sold by.
    rate: u64,
    pub(super) of: Object,
}

/// The kinds of objects that are billed by time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Object {
    Container {
        memory: String,
        /// How long it lives after its last use, in seconds.
        idle_s: i64,
        /// When it was last used, as far as the job knows, in Unix seconds.
        active_s: i64,
        /// Whether it is its first period.
        is_new: bool,
    },
    VectorStore {
        /// The most bytes that it keeps in the period.
        bytes: u64,
        /// The most bytes that each file adds that is being taken up.
        file_bytes: u64,
        /// When files were last added, in Unix seconds.
        changed_s: i64,
        /// Whether its storage is held.
        is_held: bool,
        /// The store that the bytes are in, where the job is one of files that are held beside the
        /// hold of their store.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        beside: Option<String>,
    },
}

/// Why terms can't be read.
pub(super) type TermsError = serde_json::Error;

impl Terms {
    /// Those of a container that is made now.
    pub(in crate::proxy) fn container(
        (memory, idle_s): (ContainerMemory, i64),
        fees: &Rates,
        now_s: i64,
        is_own: bool,
    ) -> Self {
        let of =
            Object::Container { memory: memory.name().to_owned(), idle_s, active_s: now_s, is_new: true };
        let until_s = now_s.saturating_add(held_minutes(idle_s) * 60);
        Self { is_own, from_s: now_s, until_s, rate: fees[memory.session()], of }
    }

    /// The same of a container that lives so long after its last use, in seconds, as upstream says.
    pub(in crate::proxy) fn living(mut self, lives_s: i64) -> Self {
        if let Object::Container { idle_s, .. } = &mut self.of {
            *idle_s = lives_s;
        }
        self
    }

    /// The same once upstream has answered, at a time in Unix seconds: its counts of a store's files
    /// may lag for a while after that.
    pub(super) fn made(mut self, now_s: i64) -> Self {
        if let Object::VectorStore { changed_s, .. } = &mut self.of {
            *changed_s = now_s;
        }
        self
    }

    /// Those of a vector store from now on, which keeps so many bytes at the most.
    pub(in crate::proxy) fn vector_store(
        (bytes, file_bytes): (u64, u64),
        fees: &Rates,
        now_s: i64,
        is_own: bool,
    ) -> Self {
        let of = Object::VectorStore { bytes, file_bytes, changed_s: now_s, is_held: true, beside: None };
        let until_s = now_s.saturating_add(STORED_S);
        Self { is_own, from_s: now_s, until_s, rate: fees[Class::VectorStorage], of }
    }

    /// Reads them from the row of a job.
    pub(super) fn read(text: &str) -> Result<Self, TermsError> {
        serde_json::from_str(text)
    }

    /// Their text for the row of a job.
    pub(super) fn text(&self) -> Result<String, TermsError> {
        serde_json::to_string(self)
    }

    /// Until when a container lives, in Unix seconds, if its last use that the guard has seen was at a
    /// time: upstream may have shown a later one. Nothing else ends by itself.
    pub(super) fn lives_until(&self, used_s: i64) -> Option<i64> {
        match &self.of {
            Object::Container { idle_s, active_s, .. } => Some(used_s.max(*active_s).saturating_add(*idle_s)),
            Object::VectorStore { .. } => None,
        }
    }

    /// The store beside whose hold files are held.
    pub(super) fn store_beside(&self) -> Option<&str> {
        match &self.of {
            Object::VectorStore { beside, .. } => beside.as_deref(),
            Object::Container { .. } => None,
        }
    }

    /// Whether the period is held for.
    pub(super) fn is_held(&self) -> bool {
        !matches!(self.of, Object::VectorStore { is_held: false, .. })
    }

    /// The most that the period costs: what is held for it.
    pub(in crate::proxy) fn bound(&self) -> Money {
        if self.is_held() { self.charge(self.until_s).0 } else { Money::ZERO }
    }

    /// What the period costs if it ends at a time, in Unix seconds, and how much that is of.
    pub(super) fn charge(&self, end_s: i64) -> (Money, Quantities) {
        match &self.of {
            Object::Container { .. } => {
                let minutes = self.minutes(end_s);
                let cost = cost::session_minutes(self.rate, minutes);
                (cost, [(Class::ContainerMinutes, u64::try_from(minutes).unwrap_or(0))].into())
            }
            Object::VectorStore { bytes, .. } => {
                // A second at the least: what it keeps was there before the answer that said so.
                let seconds = end_s.saturating_sub(self.from_s).max(1);
                let part = i128::from(*bytes).saturating_mul(i128::from(seconds));
                let whole = MEBIBYTE * i128::from(STORED_S);
                let used = u64::try_from((part + whole - 1) / whole).unwrap_or(u64::MAX);
                let pico = i128::from(self.rate).saturating_mul(i128::from(used));
                (Money::from_pico_rounded_up(pico), [(Class::VectorStorage, used)].into())
            }
        }
    }

    /// The minutes of a container that are billed up to a time.
    fn minutes(&self, end_s: i64) -> i64 {
        let minutes = end_s.saturating_sub(self.from_s).max(0).saturating_add(59) / 60;
        let is_new = matches!(self.of, Object::Container { is_new: true, .. });
        if is_new { minutes.max(MINUTES_MIN) } else { minutes }
    }

    /// The next period of a container that was last used at a time and lives on now. It begins
    /// with a minute, so that none is billed twice.
    pub(super) fn next_of_container(&self, fees: &Rates, active_s: i64, now_s: i64) -> Self {
        let Object::Container { memory, idle_s, .. } = &self.of else { return self.clone() };
        let from_s = self.from_s.saturating_add(self.minutes(now_s).saturating_mul(60));
        let left_s = active_s.saturating_add(*idle_s).saturating_sub(from_s);
        let of = Object::Container { memory: memory.clone(), idle_s: *idle_s, active_s, is_new: false };
        let until_s = from_s.saturating_add(held_minutes(left_s) * 60);
        let known = ContainerMemory::named(memory).map(|memory| fees[memory.session()]);
        Self { is_own: self.is_own, from_s, until_s, rate: known.unwrap_or(self.rate), of }
    }

    /// The most bytes that a store keeps, and that each file adds that is being taken up.
    pub(super) fn stored(&self) -> (u64, u64) {
        match self.of {
            Object::VectorStore { bytes, file_bytes, .. } => (bytes, file_bytes),
            Object::Container { .. } => (0, 0),
        }
    }

    /// The next period of a vector store, in which it keeps other bytes at the most.
    pub(super) fn next_of_store(&self, most: u64, fees: &Rates, now_s: i64) -> Self {
        let mut of = self.of.clone();
        if let Object::VectorStore { bytes, is_held, .. } = &mut of {
            (*bytes, *is_held) = (most, true);
        }
        let until_s = now_s.saturating_add(STORED_S);
        Self { is_own: self.is_own, from_s: now_s, until_s, rate: fees[Class::VectorStorage], of }
    }

    /// The same once files were added to it, whose own terms are these.
    pub(super) fn grown(&self, added: &Self, fees: &Rates, now_s: i64) -> Self {
        let ((kept, each), (more, each_of_more)) = (self.stored(), added.stored());
        let mut grown = self.next_of_store(kept.saturating_add(more), fees, now_s);
        if let Object::VectorStore { file_bytes, changed_s, .. } = &mut grown.of {
            (*file_bytes, *changed_s) = (each.max(each_of_more), now_s);
        }
        grown
    }

    /// Those of files that are held beside the hold of their store.
    pub(super) fn beside(mut self, store: &str) -> Self {
        if let Object::VectorStore { beside, .. } = &mut self.of {
            *beside = Some(store.to_owned());
        }
        self
    }

    /// The same without a hold, for a shorter time.
    pub(super) fn unheld(mut self) -> Self {
        if let Object::VectorStore { is_held, .. } = &mut self.of {
            *is_held = false;
            self.until_s = self.from_s.saturating_add(UNHELD_S);
        }
        self
    }
}

/// The minutes that are held for a container that is idle in so many seconds from the beginning on.
fn held_minutes(left_s: i64) -> i64 {
    let minutes = left_s.max(0).saturating_add(59) / 60;
    minutes.saturating_add(MINUTES_BEYOND).clamp(MINUTES_MIN, MINUTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pricing::sheet::Sheet;

    const NOW_S: i64 = 1_795_000_000;

    fn container(memory: ContainerMemory, idle_minutes: i64) -> Terms {
        let sheet = Sheet::built_in(&[]).unwrap();
        Terms::container((memory, idle_minutes * 60), sheet.fees(), NOW_S, true)
    }

    /// What a period costs that ends after so many seconds.
    fn usd(terms: &Terms, seconds: i64) -> String {
        terms.charge(terms.from_s + seconds).0.to_string()
    }

    #[test]
    fn a_container_is_billed_by_the_minute_and_for_five_at_the_least() {
        // A twentieth of the price of a session of 20 minutes: 0.03, and 1.92 dollars.
        let small = container(ContainerMemory::G1, 20);
        for (seconds, expected) in
            [(0, "0.0075"), (1, "0.0075"), (300, "0.0075"), (301, "0.009"), (1_200, "0.03")]
        {
            assert_eq!(usd(&small, seconds), expected, "{seconds} s");
        }
        assert_eq!(usd(&container(ContainerMemory::G64, 20), 1_200), "1.92");
        let (_, quantities) = small.charge(NOW_S + 301);
        assert_eq!(quantities, [(Class::ContainerMinutes, 6)].into());
    }

    #[test]
    fn a_hold_is_for_the_idle_life_and_what_it_takes_to_see_its_end() {
        let minutes = |idle| (container(ContainerMemory::G1, idle).until_s - NOW_S) / 60;
        assert_eq!([1, 2, 5, 20, 10_000].map(minutes), [5, 5, 8, 23, 23]);
    }

    #[test]
    fn periods_of_a_container_begin_with_a_minute_and_no_minute_is_billed_twice() {
        let sheet = Sheet::built_in(&[]).unwrap();
        let first = container(ContainerMemory::G1, 20);
        let next = first.next_of_container(sheet.fees(), NOW_S + 600, NOW_S + 1_255);
        assert_eq!(next.from_s, NOW_S + 1_260);
        assert_eq!(next.until_s, NOW_S + 600 + 1_200 + 180);
        assert_eq!(
            (usd(&first, 1_255), usd(&next, 0), usd(&next, 1)),
            ("0.0315".to_owned(), "0".to_owned(), "0.0015".to_owned())
        );
    }

    #[test]
    fn storage_is_billed_by_the_mebibyte_and_day_rounded_up() {
        let sheet = Sheet::built_in(&[]).unwrap();
        let store = |bytes| Terms::vector_store((bytes, 0), sheet.fees(), NOW_S, true);
        assert_eq!(store(1 << 30).bound().to_string(), "0.1", "a gibibyte and day");
        assert_eq!(usd(&store(1 << 30), 43_200), "0.05");
        assert_eq!(usd(&store(1), 1), "0.000097657", "97,656.25 nano-dollars, rounded up");
        assert_eq!(usd(&store(0), 86_400), "0");
        assert_eq!(usd(&store(1), 0), "0.000097657", "it was there before the answer that named it");
        assert_eq!(store(1 << 30).unheld().bound(), Money::ZERO);
    }

    #[test]
    fn terms_are_what_was_written() {
        let terms = container(ContainerMemory::G4, 5);
        assert_eq!(Terms::read(&terms.text().unwrap()).unwrap(), terms);
    }
}

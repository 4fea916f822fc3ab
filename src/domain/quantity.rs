//! Quantities by class: everything about a request that is counted and charged.
//!
//! The classes are disjoint: cached and cache-write tokens are taken out of the
//! input, reasoning out of the output, audio and image out of both, so that the
//! classes of tokens add up to the totals that OpenAI reports. The table below is
//! the only list of classes. A new one is a line there and a price in the sheet:
//! rates, costs, the ledger's rows and the sums of them go by the table.

use std::fmt;
use std::ops::{AddAssign, Index, IndexMut, Range};

/// What one unit of a class is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// A token.
    Tokens,
    /// A call of a hosted tool.
    Calls,
    /// A session of a hosted container.
    Sessions,
    /// An image.
    Images,
    /// A Unicode character.
    Characters,
    /// A second of sound.
    Seconds,
    /// A minute.
    Minutes,
    /// A mebibyte that is stored for a day.
    MebibyteDays,
}

/// Whether a class is read or written by a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Read by the model.
    Input,
    /// Written by the model.
    Output,
    /// Neither.
    Neither,
}

/// Makes [`Class`] from its table: index, name, measure, direction.
macro_rules! classes {
    ($($(#[$doc:meta])* $class:ident = $index:literal, $name:literal, $measure:ident, $direction:ident;)*) => {
        /// A class of quantities: units of one kind that have one price.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Class { $($(#[$doc])* $class,)* }

        impl Class {
            /// Every class, in the order of their indexes.
            pub const ALL: [Self; [$($index),*].len()] = [$(Self::$class),*];

            /// The place in [`Class::ALL`].
            pub const fn index(self) -> usize {
                match self { $(Self::$class => $index,)* }
            }

            /// The name in metrics, exports, price sheets and columns.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$class => $name,)* }
            }

            /// What one unit is.
            pub const fn measure(self) -> Measure {
                match self { $(Self::$class => Measure::$measure,)* }
            }

            /// Whether it is input or output.
            pub const fn direction(self) -> Direction {
                match self { $(Self::$class => Direction::$direction,)* }
            }
        }
    };
}

classes! {
    /// Text input that was neither read from nor written to a cache.
    Input = 0, "input", Tokens, Input;
    /// Text input read from a cache.
    CachedInput = 1, "cached_input", Tokens, Input;
    /// Text input written to a cache with the short life (30 minutes).
    CacheWrite = 2, "cache_write", Tokens, Input;
    /// Text input written to a cache with the long life (12 hours).
    CacheWrite12h = 3, "cache_write_12h", Tokens, Input;
    /// Audio input that was not cached.
    AudioInput = 4, "audio_input", Tokens, Input;
    /// Audio input read from a cache.
    AudioCachedInput = 5, "audio_cached_input", Tokens, Input;
    /// Image input that was not cached.
    ImageInput = 6, "image_input", Tokens, Input;
    /// Image input read from a cache.
    ImageCachedInput = 7, "image_cached_input", Tokens, Input;
    /// Text output a client can see, and rejected predictions.
    Output = 8, "output", Tokens, Output;
    /// Text output spent on reasoning.
    Reasoning = 9, "reasoning", Tokens, Output;
    /// Audio output.
    AudioOutput = 10, "audio_output", Tokens, Output;
    /// Image output.
    ImageOutput = 11, "image_output", Tokens, Output;
    /// Web searches by the current tool (opening a page found is not billed).
    WebSearchCalls = 12, "web_search_calls", Calls, Neither;
    /// Web searches by the preview tool, and those of search models in chat.
    WebSearchPreviewCalls = 13, "web_search_preview_calls", Calls, Neither;
    /// File searches.
    FileSearchCalls = 14, "file_search_calls", Calls, Neither;
    /// Sessions of containers with one gibibyte of memory.
    Container1gSessions = 15, "container_1g_sessions", Sessions, Neither;
    /// Sessions of containers with four gibibytes.
    Container4gSessions = 16, "container_4g_sessions", Sessions, Neither;
    /// Sessions of containers with sixteen gibibytes.
    Container16gSessions = 17, "container_16g_sessions", Sessions, Neither;
    /// Sessions of containers with sixty-four gibibytes.
    Container64gSessions = 18, "container_64g_sessions", Sessions, Neither;
    /// Images made. Most models are billed by tokens, and an image costs nothing by itself.
    Images = 19, "images", Images, Neither;
    /// Characters that were to be spoken; some models are billed by them.
    Characters = 20, "characters", Characters, Neither;
    /// Seconds of sound that a model heard; some are billed by them.
    AudioSeconds = 21, "audio_seconds", Seconds, Neither;
    /// Minutes that containers lived. They are billed as parts of sessions, and a minute costs
    /// nothing by itself.
    ContainerMinutes = 22, "container_minutes", Minutes, Neither;
    /// Storage of vector stores. It is sold by the gibibyte and day; 0.10 dollars for that are a
    /// whole number of picodollars for a mebibyte.
    VectorStorage = 23, "vector_storage_mib_days", MebibyteDays, Neither;
}

/// The places of tokens of input, and of output: each request sums them several times.
const INPUT_TOKENS: Range<usize> = 0..8;
const OUTPUT_TOKENS: Range<usize> = 8..12;

impl Class {
    /// The class of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.name() == name)
    }

    /// Whether it is of tokens.
    pub const fn is_token(self) -> bool {
        matches!(self.measure(), Measure::Tokens)
    }

    /// Whether it is of a hosted tool, whose price is the same on every model.
    pub const fn is_of_tool(self) -> bool {
        matches!(self.measure(), Measure::Calls | Measure::Sessions | Measure::MebibyteDays)
    }

    /// Every class of tokens.
    pub fn tokens() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|class| class.is_token())
    }
}

/// How much of each class there is.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Quantities([u64; Class::ALL.len()]);

impl Quantities {
    /// The classes of which there is something, with how much.
    pub fn non_zero(&self) -> impl Iterator<Item = (Class, u64)> {
        Class::ALL.into_iter().zip(self.0).filter(|(_, count)| *count > 0)
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

    /// Adds to a class, up to the end of the range.
    pub fn add(&mut self, class: Class, count: u64) {
        self[class] = self[class].saturating_add(count);
    }

    /// All tokens of input, cached or not, of every modality.
    pub fn input_tokens_total(&self) -> u64 {
        self.sum(INPUT_TOKENS)
    }

    /// All tokens of output, reasoning included, of every modality.
    pub fn output_tokens_total(&self) -> u64 {
        self.sum(OUTPUT_TOKENS)
    }

    /// All tokens of input that came from a cache.
    pub fn cached_tokens_total(&self) -> u64 {
        let cached = [Class::CachedInput, Class::AudioCachedInput, Class::ImageCachedInput];
        cached.into_iter().map(|class| self[class]).fold(0, u64::saturating_add)
    }

    /// All tokens.
    pub fn tokens_total(&self) -> u64 {
        self.input_tokens_total().saturating_add(self.output_tokens_total())
    }

    fn sum(&self, places: Range<usize>) -> u64 {
        self.0[places].iter().copied().fold(0, u64::saturating_add)
    }

    /// Of each class the larger count of two.
    #[must_use]
    pub fn most(&self, other: &Self) -> Self {
        let mut most = *self;
        for class in Class::ALL {
            most[class] = most[class].max(other[class]);
        }
        most
    }

    /// Combines two: the output of the one with more output tokens, and everything else
    /// of the one with more input tokens; of equals, that of `later`.
    #[must_use]
    pub fn or_larger(&self, later: &Self) -> Self {
        let input = if later.input_tokens_total() >= self.input_tokens_total() { later } else { self };
        let output = if later.output_tokens_total() >= self.output_tokens_total() { later } else { self };
        let is_output = |class: Class| class.direction() == Direction::Output;
        let mut larger = input.only(|class| !is_output(class));
        larger += output.only(is_output);
        larger
    }
}

impl Index<Class> for Quantities {
    type Output = u64;

    fn index(&self, class: Class) -> &u64 {
        &self.0[class.index()]
    }
}

impl IndexMut<Class> for Quantities {
    fn index_mut(&mut self, class: Class) -> &mut u64 {
        &mut self.0[class.index()]
    }
}

/// So much of these classes, and nothing of the others.
impl<const N: usize> From<[(Class, u64); N]> for Quantities {
    fn from(counts: [(Class, u64); N]) -> Self {
        let mut quantities = Self::default();
        for (class, count) in counts {
            quantities.add(class, count);
        }
        quantities
    }
}

/// Adds class by class, each up to the end of the range.
impl AddAssign for Quantities {
    fn add_assign(&mut self, other: Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine = mine.saturating_add(theirs);
        }
    }
}

/// The classes by name, without those of which there is nothing.
impl fmt::Debug for Quantities {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_map().entries(self.non_zero().map(|(class, count)| (class.name(), count))).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn tokens_of_a_direction_are_neighbours() {
        for (places, direction) in [(INPUT_TOKENS, Direction::Input), (OUTPUT_TOKENS, Direction::Output)] {
            for class in Class::ALL {
                let is_of = class.is_token() && class.direction() == direction;
                assert_eq!(places.contains(&class.index()), is_of, "{}", class.name());
            }
        }
    }

    #[test]
    fn each_class_has_an_index_and_a_name_of_its_own() {
        for (at, class) in Class::ALL.into_iter().enumerate() {
            assert_eq!(class.index(), at, "{class:?}");
            assert_eq!(Class::named(class.name()), Some(class));
            assert_eq!(class.is_token(), class.direction() != Direction::Neither, "{class:?}");
        }
        let names: BTreeSet<&str> = Class::ALL.map(Class::name).into();
        assert_eq!(names.len(), Class::ALL.len());
        assert_eq!(Class::named("tokens"), None);
    }

    #[test]
    fn classes_of_tokens_add_up_to_the_totals_and_no_other_counts() {
        let mut quantities = Quantities::default();
        for class in Class::ALL {
            quantities[class] = 1 << class.index();
        }
        let all: u64 = Class::tokens().map(|class| quantities[class]).sum();
        assert_eq!(quantities.input_tokens_total() + quantities.output_tokens_total(), all);
        assert_eq!(all, (1 << 12) - 1);
        quantities += quantities;
        assert_eq!(quantities.tokens_total(), 2 * all);
        assert_eq!(quantities.non_zero().count(), Class::ALL.len());
    }

    #[test]
    fn a_sum_stops_at_the_end_of_the_range() {
        let mut most = Quantities::from([(Class::Output, u64::MAX), (Class::FileSearchCalls, 1)]);
        most += most;
        assert_eq!(most, Quantities::from([(Class::Output, u64::MAX), (Class::FileSearchCalls, 2)]));
        assert_eq!(format!("{most:?}"), format!("{{\"output\": {}, \"file_search_calls\": 2}}", u64::MAX));
    }

    #[test]
    fn the_larger_input_and_the_larger_output_are_chosen_apart() {
        use Class::{CachedInput, Input, Output, Reasoning};
        let first = Quantities::from([(Input, 9), (CachedInput, 1), (Output, 1)]);
        let last = Quantities::from([(Input, 5), (Output, 3), (Reasoning, 4)]);
        let both = Quantities::from([(Input, 9), (CachedInput, 1), (Output, 3), (Reasoning, 4)]);
        assert_eq!(first.or_larger(&last), both);
        assert_eq!(last.or_larger(&first), both);
        let equal = Quantities::from([(Input, 10), (Output, 1)]);
        assert_eq!(first.or_larger(&equal), equal);
    }
}

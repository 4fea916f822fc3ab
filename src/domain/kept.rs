//! The context that an object at upstream adds to a request that refers to it.
//!
//! Upstream's usage tells how many tokens a context was to one model under some
//! options. For another model the same context has another size: pictures are cut
//! and text is split differently, earlier reasoning is read or left out. So each
//! size is stored with the conditions of its measurement, and holds only for those.

use std::sync::Arc;

use crate::domain::usage::ContainerMemory;

/// The conditions that the token count of a context depends on: the price of the
/// model, and the options of the request that decide which parts of the context are
/// read.
///
/// The default one is that of a text by its bytes: no byte-level vocabulary makes
/// more tokens of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendering(Arc<str>);

impl Rendering {
    /// That of a model, by the name of its price, under some options.
    pub fn of(model: &Arc<str>, options: &str) -> Self {
        Self(if options.is_empty() { Arc::clone(model) } else { format!("{model} {options}").into() })
    }

    /// The one of this name, as [`Rendering::name`] gives it.
    pub fn named(name: &str) -> Self {
        Self(name.into())
    }

    /// Its name in the database; empty for bytes of text.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Whether it is that of bytes of text, which hold for every model.
    fn is_bytes(&self) -> bool {
        self.0.is_empty()
    }
}

/// The content of an object, as far as the cost of a request that reads it depends
/// on it. By default nothing is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptContext {
    /// The most tokens that it adds under `rendering`; `None` if that is not known.
    pub tokens: Option<u64>,
    /// The conditions of the token count.
    pub rendering: Rendering,
    /// The most pictures in it, which an image tool may read; `None` if that is not
    /// known.
    pub pictures: Option<u64>,
    /// The containers that its calls ran in.
    pub containers: KeptContainers,
}

/// The containers that the calls of a context ran in: later calls may run there. By
/// default nothing is known of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptContainers {
    /// The largest memory of them; `None` if there are none.
    pub largest: Option<ContainerMemory>,
    /// Whether the index of objects knows each of them.
    pub are_indexed: bool,
}

impl Default for KeptContainers {
    fn default() -> Self {
        Self { largest: Some(ContainerMemory::G64), are_indexed: false }
    }
}

impl KeptContainers {
    /// No containers.
    pub const NONE: Self = Self { largest: None, are_indexed: true };

    /// The sum of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { largest: self.largest.max(other.largest), are_indexed: self.are_indexed && other.are_indexed }
    }
}

/// The part of a kept context that one request reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptSize {
    /// The most tokens; `None` if that is not known.
    pub tokens: Option<u64>,
    /// The most pictures; `None` if that is not known.
    pub pictures: Option<u64>,
    /// The containers that its calls ran in.
    pub containers: KeptContainers,
}

/// Both together; `None` if one of them is not known.
pub fn sum(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    Some(one?.saturating_add(other?))
}

impl KeptContext {
    /// A context without anything in it.
    pub fn nothing() -> Self {
        Self::text(0)
    }

    /// So many bytes of text.
    pub fn text(bytes: u64) -> Self {
        let containers = KeptContainers::NONE;
        Self { tokens: Some(bytes), rendering: Rendering::default(), pictures: Some(0), containers }
    }

    /// What a request reads of it under a rendering.
    pub fn under(&self, rendering: &Rendering) -> KeptSize {
        let holds = self.rendering.is_bytes() || self.rendering == *rendering;
        KeptSize {
            tokens: self.tokens.filter(|_| holds),
            pictures: self.pictures,
            containers: self.containers,
        }
    }

    /// The sum of both.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let pictures = sum(self.pictures, other.pictures);
        let measured = if self.rendering.is_bytes() { other } else { self };
        let tokens = sum(self.under(&measured.rendering).tokens, other.under(&measured.rendering).tokens);
        let rendering = tokens.map(|_| measured.rendering.clone()).unwrap_or_default();
        Self { tokens, rendering, pictures, containers: self.containers.plus(other.containers) }
    }
}

impl KeptSize {
    /// A context without anything in it.
    pub const NOTHING: Self = Self { tokens: Some(0), pictures: Some(0), containers: KeptContainers::NONE };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(tokens: u64, model: &str) -> KeptContext {
        let rendering = Rendering::of(&model.into(), "");
        KeptContext { tokens: Some(tokens), rendering, pictures: Some(1), ..KeptContext::nothing() }
    }

    #[test]
    fn a_size_holds_only_under_what_it_was_measured_under() {
        let small = measured(920, "gpt-4o");
        assert_eq!(small.under(&Rendering::of(&"gpt-4o".into(), "")).tokens, Some(920));
        for other in [Rendering::of(&"gpt-6.1-sol".into(), ""), Rendering::of(&"gpt-4o".into(), "all_turns")]
        {
            assert_eq!(
                small.under(&other),
                KeptSize { tokens: None, pictures: Some(1), ..KeptSize::NOTHING }
            );
            assert_eq!(KeptContext::text(7).under(&other).tokens, Some(7), "bytes hold for every model");
        }
    }

    #[test]
    fn contexts_add_up_where_they_were_measured_alike() {
        let one = measured(10, "a");
        for (other, tokens, pictures) in [
            (measured(5, "a"), Some(15), Some(2)),
            (measured(5, "b"), None, Some(2)),
            (KeptContext::text(3), Some(13), Some(1)),
            (KeptContext::default(), None, None),
        ] {
            for sum in [one.plus(&other), other.plus(&one)] {
                assert_eq!((sum.tokens, sum.pictures), (tokens, pictures), "{other:?}");
                assert_eq!(sum.under(&Rendering::of(&"a".into(), "")).tokens, tokens, "{other:?}");
            }
        }
    }
}

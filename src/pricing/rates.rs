//! Rates of one model at one tier, in picodollars per token.

use serde::Deserialize;

use crate::domain::{Money, Tokens};

/// Picodollars per token, for every class of tokens.
///
/// A dollar per million tokens is a million picodollars per token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Text input.
    pub input: u64,
    /// Text input read from a cache.
    pub cached_input: u64,
    /// Text input written to a cache.
    pub cache_write: u64,
    /// Text input written to a cache with the long life.
    pub cache_write_12h: u64,
    /// Audio input.
    pub audio_input: u64,
    /// Audio input read from a cache.
    pub audio_cached_input: u64,
    /// Image input.
    pub image_input: u64,
    /// Image input read from a cache.
    pub image_cached_input: u64,
    /// Text output, reasoning included.
    pub output: u64,
    /// Audio output.
    pub audio_output: u64,
    /// Image output.
    pub image_output: u64,
}

/// The rates that a sheet or an override names: US dollars per million tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedRates {
    /// Text input.
    pub input: Option<String>,
    /// Text input read from a cache.
    pub cached_input: Option<String>,
    /// Text input written to a cache.
    pub cache_write: Option<String>,
    /// Text input written to a cache with the long life.
    pub cache_write_12h: Option<String>,
    /// Audio input.
    pub audio_input: Option<String>,
    /// Audio input read from a cache.
    pub audio_cached_input: Option<String>,
    /// Image input.
    pub image_input: Option<String>,
    /// Image input read from a cache.
    pub image_cached_input: Option<String>,
    /// Text output.
    pub output: Option<String>,
    /// Audio output.
    pub audio_output: Option<String>,
    /// Image output.
    pub image_output: Option<String>,
    /// The rates of a long context.
    pub long: Option<Box<NamedRates>>,
}

/// Dollars per million tokens as picodollars per token.
pub(crate) fn pico(text: &str) -> Result<u64, String> {
    let nano = text.parse::<Money>().map_err(|error| format!("{text:?} is {error}"))?.nano();
    if nano < 0 || nano % 1_000 != 0 {
        return Err(format!("{text:?} is negative or finer than a millionth of a dollar"));
    }
    Ok((nano / 1_000).unsigned_abs())
}

impl NamedRates {
    /// Complete rates. A class that is not named costs as much as the class it is
    /// a part of; cached images and audio as much as cached text where they cost as
    /// much as text.
    ///
    /// Over the base rates of a shorter context, such a class costs no less than it
    /// does there: a cached token of a long context without a price of its own is a
    /// token of that context's input.
    pub fn resolve(&self, base: Option<&Rates>) -> Result<Rates, String> {
        let read = |named: &Option<String>, whole: u64, shorter: fn(&Rates) -> u64| match named {
            Some(text) => pico(text),
            None => Ok(base.map_or(whole, |base| shorter(base).max(whole))),
        };
        let input = read(&self.input, 0, |r| r.input)?;
        let cached_input = read(&self.cached_input, input, |r| r.cached_input)?;
        let cache_write = read(&self.cache_write, input, |r| r.cache_write)?;
        // Of a model for images, text that it writes costs no more than what it draws.
        let drawn = self.image_output.as_deref().map_or(Ok(0), pico)?;
        let output = read(&self.output, drawn, |r| r.output)?;
        let audio_input = read(&self.audio_input, input, |r| r.audio_input)?;
        let image_input = read(&self.image_input, input, |r| r.image_input)?;
        let cached = |kind: u64| if kind == input { cached_input } else { kind };
        Ok(Rates {
            input,
            cached_input,
            cache_write,
            cache_write_12h: read(&self.cache_write_12h, cache_write, |r| r.cache_write_12h)?,
            audio_input,
            audio_cached_input: read(&self.audio_cached_input, cached(audio_input), |r| {
                r.audio_cached_input
            })?,
            image_input,
            image_cached_input: read(&self.image_cached_input, cached(image_input), |r| {
                r.image_cached_input
            })?,
            output,
            audio_output: read(&self.audio_output, output, |r| r.audio_output)?,
            image_output: read(&self.image_output, output, |r| r.image_output)?,
        })
    }
}

impl Rates {
    fn all(&self) -> [u64; 11] {
        [
            self.input,
            self.cached_input,
            self.cache_write,
            self.cache_write_12h,
            self.audio_input,
            self.audio_cached_input,
            self.image_input,
            self.image_cached_input,
            self.output,
            self.audio_output,
            self.image_output,
        ]
    }

    fn of(all: [u64; 11]) -> Self {
        let [input, cached_input, cache_write, cache_write_12h, audio_input, audio_cached_input, ..] = all;
        let [.., image_input, image_cached_input, output, audio_output, image_output] = all;
        Self {
            input,
            cached_input,
            cache_write,
            cache_write_12h,
            audio_input,
            audio_cached_input,
            image_input,
            image_cached_input,
            output,
            audio_output,
            image_output,
        }
    }

    #[must_use]
    /// Every rate times `tenths` / 10, rounded up.
    pub fn scaled(&self, tenths: u64) -> Self {
        Self::of(self.all().map(|rate| rate.saturating_mul(tenths).div_ceil(10)))
    }

    #[must_use]
    /// The dearer of two, rate by rate.
    pub fn dearer(&self, other: &Self) -> Self {
        let mut all = self.all();
        for (mine, theirs) in all.iter_mut().zip(other.all()) {
            *mine = (*mine).max(theirs);
        }
        Self::of(all)
    }

    /// The exact cost of some tokens, in picodollars.
    pub fn cost_pico(&self, tokens: &Tokens) -> i128 {
        let part = |count: u64, rate: u64| i128::from(count) * i128::from(rate);
        part(tokens.input, self.input)
            + part(tokens.cached_input, self.cached_input)
            + part(tokens.cache_write, self.cache_write)
            + part(tokens.cache_write_12h, self.cache_write_12h)
            + part(tokens.audio_input, self.audio_input)
            + part(tokens.audio_cached_input, self.audio_cached_input)
            + part(tokens.image_input, self.image_input)
            + part(tokens.image_cached_input, self.image_cached_input)
            + part(tokens.output.saturating_add(tokens.reasoning), self.output)
            + part(tokens.audio_output, self.audio_output)
            + part(tokens.image_output, self.image_output)
    }
}

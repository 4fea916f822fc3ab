//! Prices that override the price sheet, as written in the file.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::raw::Amount;

section! {
    /// Rates in US dollars per million tokens.
    PriceRates {
        /// Text input.
        input: Option<Amount> = None,
        /// Text input read from a cache.
        cached_input: Option<Amount> = None,
        /// Text input written to a cache.
        cache_write: Option<Amount> = None,
        /// Text input written to a cache for 12 hours.
        cache_write_12h: Option<Amount> = None,
        /// Text output, reasoning included.
        output: Option<Amount> = None,
    }
}

/// A price that overrides the price sheet, in US dollars per million tokens if nothing else
/// is said.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// The model; `ft:BASE` for fine-tunes.
    pub model: String,
    /// The first day on which it applies, in UTC.
    #[serde(default)]
    pub effective_from: Option<String>,
    /// Text input.
    #[serde(default)]
    pub input: Option<Amount>,
    /// Text input read from a cache.
    #[serde(default)]
    pub cached_input: Option<Amount>,
    /// Text input written to a cache.
    #[serde(default)]
    pub cache_write: Option<Amount>,
    /// Text input written to a cache for 12 hours.
    #[serde(default)]
    pub cache_write_12h: Option<Amount>,
    /// Audio input.
    #[serde(default)]
    pub audio_input: Option<Amount>,
    /// Image input.
    #[serde(default)]
    pub image_input: Option<Amount>,
    /// Text output, reasoning included.
    #[serde(default)]
    pub output: Option<Amount>,
    /// Audio output.
    #[serde(default)]
    pub audio_output: Option<Amount>,
    /// Image output.
    #[serde(default)]
    pub image_output: Option<Amount>,
    /// An image, of a model that is billed by images.
    #[serde(default)]
    pub images: Option<Amount>,
    /// Characters that are spoken, by the million, of a model that is billed by them.
    #[serde(default)]
    pub characters: Option<Amount>,
    /// Sound that is read, by the minute, of a model that is billed by it.
    #[serde(default)]
    pub audio_seconds: Option<Amount>,
    /// Rates of a long context.
    #[serde(default)]
    pub long: Option<PriceRates>,
    /// Input tokens above which they apply.
    #[serde(default)]
    pub long_context_above_input_tokens: Option<u64>,
    /// The most input tokens the model takes.
    #[serde(default)]
    pub max_input_tokens: Option<u64>,
    /// The most output tokens the model makes.
    #[serde(default)]
    pub max_output_tokens: Option<u64>,
}

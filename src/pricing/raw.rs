//! The price sheet as it is written in `config/prices.json`.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::pricing::rates::NamedRates;

#[derive(Deserialize)]
pub(super) struct RawSheet {
    pub(super) as_of: String,
    /// Rates by class that are the same for every model without a price of its own; for a
    /// class that is not named, the built-in sheet's.
    #[serde(default)]
    pub(super) fees: BTreeMap<String, String>,
    /// The built-in sheet's, where a sheet has none of its own.
    pub(super) facts: Option<Vec<RawFacts>>,
    /// The built-in sheet's, where a sheet has none of its own.
    pub(super) families: Option<Vec<RawFamily>>,
    pub(super) models: BTreeMap<String, RawModel>,
}

/// Facts of the models whose names fit a pattern.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFacts {
    pub(super) models: Vec<String>,
    pub(super) tokenizer: Option<String>,
    pub(super) image: Option<RawImage>,
    pub(super) may_reason: Option<bool>,
    pub(super) search_block_tokens: Option<u64>,
    pub(super) searches_always: Option<bool>,
    pub(super) regional_uplift: Option<String>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawImage {
    pub(super) patches: Option<RawPatches>,
    pub(super) tiles: Option<RawTiles>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPatches {
    pub(super) thousandths: u64,
    pub(super) budget: Option<u64>,
    pub(super) budget_high: Option<u64>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTiles {
    pub(super) base_tokens: u64,
    pub(super) tile_tokens: u64,
}

/// Models of which an unknown one may be a version.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFamily {
    pub(super) family: String,
    pub(super) models: Vec<String>,
}

#[derive(Clone, Deserialize)]
pub(super) struct RawModel {
    /// Its purpose; `image_generation` for models that the image tool may run.
    pub(super) mode: Option<String>,
    /// The day on which it is shut down.
    pub(super) shutdown: Option<String>,
    pub(super) max_input_tokens: Option<u64>,
    pub(super) max_output_tokens: Option<u64>,
    pub(super) long_above: Option<u64>,
    pub(super) web_search_usd_per_1k_calls: Option<String>,
    /// The multiplier of rates at a regional base URL.
    pub(super) regional_uplift: Option<String>,
    pub(super) rates: RawTiers,
    #[serde(default)]
    pub(super) dated: Vec<RawDated>,
}

#[derive(Clone, Deserialize)]
pub(super) struct RawDated {
    pub(super) effective_from: String,
    pub(super) rates: RawTiers,
}

#[derive(Clone, Default, Deserialize)]
pub(super) struct RawTiers {
    #[serde(default)]
    pub(super) standard: NamedRates,
    pub(super) decisions: Option<NamedRates>,
    pub(super) batch: Option<NamedRates>,
    pub(super) flex: Option<NamedRates>,
    pub(super) priority: Option<NamedRates>,
    pub(super) ultrafast: Option<NamedRates>,
}

//! The price sheet as it is written in `config/prices.json`.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::pricing::rates::NamedRates;

#[derive(Deserialize)]
pub(super) struct RawSheet {
    pub(super) as_of: String,
    pub(super) models: BTreeMap<String, RawModel>,
}

#[derive(Clone, Deserialize)]
pub(super) struct RawModel {
    pub(super) max_input_tokens: Option<u64>,
    pub(super) max_output_tokens: Option<u64>,
    pub(super) long_above: Option<u64>,
    pub(super) web_search_usd_per_1k_calls: Option<String>,
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
    pub(super) flex: Option<NamedRates>,
    pub(super) priority: Option<NamedRates>,
    pub(super) ultrafast: Option<NamedRates>,
}

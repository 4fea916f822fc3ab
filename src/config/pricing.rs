//! `[pricing]`: the price sheet, its region, and how unknown models are priced.

use std::path::PathBuf;

use http::Uri;

use crate::config::problems::Notes;
use crate::config::raw::Raw;
use crate::config::settings::Pricing;
use crate::domain::demand::Tier;
use crate::pricing::sheet::{Override, UnknownModel};

const UNKNOWN_MODELS: [(&str, UnknownModel); 3] =
    [("family", UnknownModel::Family), ("refuse", UnknownModel::Refuse), ("dearest", UnknownModel::Dearest)];

/// The prices in force, from their section and `[[price]]`s.
pub(super) fn pricing(
    raw: &Raw,
    overrides: Vec<Override>,
    base_url: Option<&Uri>,
    notes: &mut Notes<'_>,
) -> Option<Pricing> {
    let raw = &raw.pricing;
    let unknown = notes.one_of("pricing.unknown_model", &raw.unknown_model, &UNKNOWN_MODELS);
    let region = notes.ok("pricing.region", region(raw.region.as_deref(), base_url));
    let tiers = [("default", Tier::Standard), ("priority", Tier::Priority), ("flex", Tier::Flex)];
    let default_tier = notes.one_of("pricing.default_tier", &raw.default_tier, &tiers);
    let sheet = match raw.sheet.as_str() {
        "built-in" => Some(None),
        file => {
            let read = std::fs::read_to_string(file);
            notes
                .ok("pricing.sheet", read.map_err(|error| format!("{file} can't be read: {error}")))
                .map(Some)
        }
    }?;
    let key = if sheet.is_some() { "pricing.sheet" } else { "price" };
    let (unknown_model, default_tier) = (unknown?, default_tier?);
    let file = sheet.is_some().then(|| PathBuf::from(&raw.sheet));
    let pricing = Pricing { file, sheet, overrides, unknown_model, default_tier, region: region? };
    notes.ok(key, pricing.sheet().map_err(|error| error.to_string()))?;
    Some(pricing)
}

/// The region of the prices: the configured one, else that of OpenAI's regional
/// base URLs (`https://eu.api.openai.com/v1`).
fn region(written: Option<&str>, base_url: Option<&Uri>) -> Result<Option<String>, String> {
    let is_region =
        |text: &str| (2..=16).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase());
    match written {
        Some("global") => Ok(None),
        Some(region) if is_region(region) => Ok(Some(region.to_owned())),
        Some(other) => Err(format!("{other:?} is no region; write it as \"us\", \"eu\" or \"global\"")),
        None => {
            let host = base_url.and_then(Uri::host).map(str::to_ascii_lowercase).unwrap_or_default();
            let region = host.strip_suffix(".api.openai.com").filter(|region| is_region(region));
            Ok(region.map(str::to_owned))
        }
    }
}

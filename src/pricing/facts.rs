//! The facts about a model in addition to its rates: vocabulary, images, reasoning.
//!
//! Facts are data of the price sheet, by patterns of names, so that a model that is
//! newer than the guard needs no newer guard. For a name that no pattern fits, each
//! fact is the most expensive one.

use crate::domain::{Money, Pattern};
use crate::pricing::count::Encoding;
use crate::pricing::image::{ImageRule, PatchRule, TileRule};
use crate::pricing::raw::{RawFacts, RawImage};

/// The facts about a model in addition to its rates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) tokenizer: Option<Encoding>,
    pub(super) image_rule: ImageRule,
    pub(super) may_reason: bool,
    pub(super) search_block_tokens: u64,
    pub(super) searches_always: bool,
    pub(super) uplift_tenths: u64,
}

/// Facts of one group of models; what is absent is left to the next group.
#[derive(Clone, Debug)]
struct Group {
    models: Vec<Pattern>,
    /// `None` inside: the vocabulary is not published.
    tokenizer: Option<Option<Encoding>>,
    image_rule: Option<ImageRule>,
    may_reason: Option<bool>,
    search_block_tokens: Option<u64>,
    searches_always: Option<bool>,
    uplift_tenths: Option<u64>,
}

/// All facts of a sheet, in its order.
#[derive(Clone, Debug, Default)]
pub(super) struct FactTable(Vec<Group>);

impl FactTable {
    pub(super) fn parse(raw: &[RawFacts]) -> Result<Self, String> {
        raw.iter().map(group).collect::<Result<_, _>>().map(Self)
    }

    /// The facts of a model by its name; a fine-tune has those of its base.
    pub(super) fn of(&self, model: &str) -> Facts {
        let base = model.strip_prefix("ft:").unwrap_or(model);
        let fits = |group: &&Group| group.models.iter().any(|pattern| pattern.matches(base));
        let groups = || self.0.iter().filter(fits);
        let dearest = Facts::dearest();
        Facts {
            tokenizer: groups().find_map(|group| group.tokenizer).flatten(),
            image_rule: groups().find_map(|group| group.image_rule).unwrap_or(dearest.image_rule),
            may_reason: groups().find_map(|group| group.may_reason).unwrap_or(dearest.may_reason),
            search_block_tokens: groups()
                .find_map(|group| group.search_block_tokens)
                .unwrap_or(dearest.search_block_tokens),
            searches_always: groups().find_map(|group| group.searches_always).unwrap_or(false),
            uplift_tenths: groups().find_map(|group| group.uplift_tenths).unwrap_or(dearest.uplift_tenths),
        }
    }
}

impl Facts {
    /// The worst case for an unknown model. It is not assumed to search on every
    /// request, which would add a fee; an uplift is assumed only where it is
    /// documented.
    pub(super) fn dearest() -> Self {
        Self {
            tokenizer: None,
            image_rule: ImageRule::DEAREST,
            may_reason: true,
            search_block_tokens: 8_000,
            searches_always: false,
            uplift_tenths: 10,
        }
    }
}

fn group(raw: &RawFacts) -> Result<Group, String> {
    let tokenizer = match raw.tokenizer.as_deref() {
        None => None,
        Some("unpublished") => Some(None),
        Some("o200k") => Some(Some(Encoding::O200k)),
        Some("cl100k") => Some(Some(Encoding::Cl100k)),
        Some(other) => return Err(format!("{other:?} is no tokenizer: o200k, cl100k or unpublished")),
    };
    Ok(Group {
        models: raw.models.iter().map(|pattern| Pattern::new(pattern)).collect(),
        tokenizer,
        image_rule: raw.image.as_ref().map(image_rule).transpose()?,
        may_reason: raw.may_reason,
        search_block_tokens: raw.search_block_tokens,
        searches_always: raw.searches_always,
        uplift_tenths: raw.regional_uplift.as_deref().map(uplift_tenths).transpose()?,
    })
}

fn image_rule(raw: &RawImage) -> Result<ImageRule, String> {
    let patches = raw.patches.map(|raw| PatchRule {
        thousandths: raw.thousandths,
        budget: raw.budget,
        budget_high: raw.budget_high,
    });
    let tiles = raw.tiles.map(|raw| TileRule { base_tokens: raw.base_tokens, tile_tokens: raw.tile_tokens });
    if patches.is_none() && tiles.is_none() {
        return Err("an image rule needs patches or tiles".to_owned());
    }
    Ok(ImageRule { patches, tiles })
}

/// The multiplier of rates, in tenths: `"1.1"` is 11.
pub(super) fn uplift_tenths(text: &str) -> Result<u64, String> {
    // A number of the same form as an amount of dollars.
    let nano = text.parse::<Money>().map_err(|error| format!("{text:?} is {error}"))?.nano();
    let tenths = u64::try_from(nano / 100_000_000).unwrap_or(0);
    if !(10..=100).contains(&tenths) || nano % 100_000_000 != 0 {
        return Err(format!("{text:?} is no uplift: a number from 1 to 10 with one digit after the point"));
    }
    Ok(tenths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::demand::{Detail, Image};
    use crate::pricing::sheet::Sheet;

    const NOW_S: i64 = 1_795_000_000;

    #[test]
    fn the_sheet_knows_vocabularies_and_what_models_do() {
        let sheet = Sheet::built_in(&[]).unwrap();
        for (model, tokenizer, may_reason, block, searches) in [
            ("gpt-4o-mini", Some(Encoding::O200k), false, 8_000, false),
            ("ft:gpt-4o-mini-2024-07-18:acme::x", Some(Encoding::O200k), false, 8_000, false),
            ("gpt-4-turbo", Some(Encoding::Cl100k), false, 0, false),
            ("text-embedding-3-small", Some(Encoding::Cl100k), false, 0, false),
            ("gpt-5", Some(Encoding::O200k), true, 0, false),
            ("gpt-5.6-sol", Some(Encoding::O200k), true, 0, false),
            ("o4-mini", Some(Encoding::O200k), true, 0, false),
            ("gpt-6.1-sol", None, true, 0, false),
            ("gpt-4o-search-preview", Some(Encoding::O200k), false, 0, true),
            ("gpt-5-search-api", Some(Encoding::O200k), true, 0, true),
        ] {
            let price = sheet.find(model, NOW_S).unwrap();
            let facts = (price.tokenizer, price.may_reason, price.search_block_tokens, price.searches_always);
            assert_eq!(facts, (tokenizer, may_reason, block, searches), "{model}");
        }
    }

    #[test]
    fn images_take_what_each_models_rule_says() {
        let sheet = Sheet::built_in(&[]).unwrap();
        // 125 x 94 patches; 2 x 2 tiles of 1,024 x 768.
        for (model, detail, tokens) in [
            ("gpt-6.1-sol", Detail::Auto, 14_100),
            ("gpt-6.1-sol", Detail::Low, 14_100),
            ("gpt-5.5", Detail::Auto, 12_000),
            ("gpt-5.4", Detail::High, 3_000),
            ("gpt-5.4", Detail::Auto, 12_000),
            ("gpt-5.4-mini", Detail::Auto, 4_050),
            ("gpt-5.4-nano", Detail::Low, 6_150),
            ("gpt-5-mini", Detail::Auto, 2_489),
            ("gpt-5-nano", Detail::Auto, 3_779),
            ("o4-mini", Detail::Auto, 2_642),
            ("gpt-4.1-mini", Detail::High, 2_489),
            ("gpt-4o", Detail::High, 765),
            ("gpt-4o", Detail::Low, 85),
            ("gpt-4.1", Detail::Auto, 765),
            ("o3", Detail::Auto, 765),
            ("gpt-4o-mini", Detail::High, 25_501),
            ("gpt-4o-mini", Detail::Low, 2_833),
            ("gpt-5", Detail::Auto, 3_000),
            ("gpt-5.1-codex-max", Detail::Auto, 3_000),
            ("gpt-5.2-pro", Detail::High, 3_000),
            ("gpt-5.3-codex", Detail::Auto, 3_000),
        ] {
            let rule = sheet.find(model, NOW_S).unwrap().image_rule;
            assert_eq!(
                rule.tokens(Image { size: Some((4_000, 3_000)), detail }),
                Some(tokens),
                "{model} {detail:?}"
            );
        }
    }

    #[test]
    fn a_name_without_facts_has_the_dearest() {
        let facts = FactTable::default().of("mystery");
        assert_eq!(facts, Facts::dearest());
        assert_eq!(facts.image_rule.tokens(Image { size: Some((640, 640)), detail: Detail::Low }), Some(984));
    }

    #[test]
    fn facts_that_mean_nothing_are_errors() {
        for (json, problem) in [
            (r#"{"models": ["x"], "tokenizer": "p50k"}"#, "no tokenizer"),
            (r#"{"models": ["x"], "image": {}}"#, "patches or tiles"),
            (r#"{"models": ["x"], "regional_uplift": "0.9"}"#, "no uplift"),
            (r#"{"models": ["x"], "regional_uplift": "1.15"}"#, "no uplift"),
        ] {
            let raw: RawFacts = serde_json::from_str(json).unwrap();
            let error = FactTable::parse(&[raw]).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
        assert!(serde_json::from_str::<RawFacts>(r#"{"models": ["x"], "reasons": true}"#).is_err());
    }
}

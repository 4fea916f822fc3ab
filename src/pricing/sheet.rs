//! The price sheet: models, their rates by tier and date, and how names resolve.
//!
//! A sheet never changes. A request keeps the one it was admitted under, so
//! that a reload in mid-stream can't change what it costs.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use crate::domain::demand::Tier;
use crate::domain::model::without_day;
use crate::pricing::rates::{NamedRates, Rates, pico};
use crate::pricing::raw::{RawModel, RawSheet, RawTiers};

const BUILT_IN: &str = include_str!("../../config/prices.json");
/// A sheet older than this is stale: OpenAI's prices have changed about once a
/// month since July 2026.
const FRESH_S: i64 = 45 * 86_400;
/// Priority costs 1.67 to 2.5 times standard wherever both are published.
const PRIORITY_TENTHS: u64 = 25;
/// Ultrafast costs six times standard wherever both are published.
const ULTRAFAST_TENTHS: u64 = 60;
/// Thousand calls of web search for a model that names no fee of its own.
const WEB_SEARCH_PICO: u64 = 25_000_000_000;

/// Why a sheet or an override can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{model}: {problem}")]
pub struct SheetError {
    /// The model at fault; `prices` when it is the sheet as a whole.
    pub model: String,
    /// What is wrong.
    pub problem: String,
}

/// A price that the operator sets, over the sheet's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Override {
    /// The model's name; `ft:BASE` for fine-tunes of a base.
    pub model: String,
    /// From when, in Unix seconds; always if absent.
    pub effective_from_s: Option<i64>,
    /// The standard rates; other tiers follow from them.
    pub rates: NamedRates,
    /// Input tokens above which the long rates apply.
    pub long_above: Option<u64>,
    /// The most input tokens the model takes.
    pub max_input_tokens: Option<u64>,
    /// The most output tokens the model makes.
    pub max_output_tokens: Option<u64>,
}

/// One model's price.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Price {
    /// The name in the sheet.
    pub id: Arc<str>,
    /// The most input tokens the model takes.
    pub max_input_tokens: Option<u64>,
    /// The most output tokens the model makes.
    pub max_output_tokens: Option<u64>,
    /// Input tokens above which the long rates apply to the whole request.
    pub long_above: Option<u64>,
    /// A web search call by the preview or the chat tool, in picodollars.
    pub web_search_pico: u64,
    tiers: [TierRates; 4],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TierRates {
    base: Rates,
    long: Rates,
}

/// All prices of one version.
#[derive(Debug)]
pub struct Sheet {
    version: Arc<str>,
    as_of_s: i64,
    /// By model, the newest first.
    models: HashMap<Arc<str>, Vec<(i64, Arc<Price>)>>,
}

impl Sheet {
    /// The sheet that comes with the guard, with the operator's prices over it.
    pub fn built_in(overrides: &[Override]) -> Result<Self, SheetError> {
        Self::parse(BUILT_IN, overrides)
    }

    /// A sheet from its JSON, with the operator's prices over it.
    pub fn parse(json: &str, overrides: &[Override]) -> Result<Self, SheetError> {
        let wrong = |model: &str, problem: String| SheetError { model: model.to_owned(), problem };
        let raw: RawSheet = serde_json::from_str(json).map_err(|error| wrong("prices", error.to_string()))?;
        let as_of_s = day_s(&raw.as_of).map_err(|problem| wrong("prices", problem))?;
        let mut models = HashMap::new();
        for (id, model) in &raw.models {
            let id: Arc<str> = id.as_str().into();
            let dated = dated(&id, model).map_err(|problem| wrong(&id, problem))?;
            models.insert(id, dated);
        }
        for price in overrides {
            let (from_s, resolved) = overridden(price).map_err(|problem| wrong(&price.model, problem))?;
            let dates = models.entry(Arc::clone(&resolved.id)).or_insert_with(Vec::new);
            // From its date on, the operator's price is over all of the sheet's.
            dates.retain(|(known_s, _)| *known_s < from_s);
            dates.insert(0, (from_s, Arc::new(resolved)));
        }
        Ok(Self { version: version(&raw.as_of, json, overrides), as_of_s, models })
    }

    /// The version that entries name: the sheet's date, and a mark of what was
    /// changed over it.
    pub fn version(&self) -> &Arc<str> {
        &self.version
    }

    /// The price of a model by any of its names, at an instant in Unix seconds.
    ///
    /// The name itself; without a date at its end; for a fine-tune
    /// `ft:BASE:…`, `ft:BASE`, with and without the base's date.
    pub fn find(&self, model: &str, at_s: i64) -> Option<Arc<Price>> {
        let exact = |name: &str| {
            let dates = self.models.get(name)?;
            dates.iter().find(|(from_s, _)| *from_s <= at_s).map(|(_, price)| Arc::clone(price))
        };
        let undated = |name: &str| exact(name).or_else(|| exact(without_day(name)?));
        if let Some(tuned) = model.strip_prefix("ft:") {
            let base = tuned.split(':').next().unwrap_or(tuned);
            return exact(model)
                .or_else(|| undated(&format!("ft:{base}")))
                .or_else(|| self.tuned_any(base, at_s));
        }
        undated(model)
    }

    /// The price of a fine-tune whose base is named without its date.
    fn tuned_any(&self, base: &str, at_s: i64) -> Option<Arc<Price>> {
        let name = format!("ft:{base}");
        let dated = self.models.iter().filter(|(id, _)| without_day(id) == Some(&name));
        let in_force = dated.filter_map(|(_, dates)| dates.iter().find(|(from_s, _)| *from_s <= at_s));
        in_force.map(|(_, price)| price).max_by_key(|price| price.rates(Tier::Standard, 0).output).cloned()
    }

    /// A price that no model of the sheet exceeds in any rate.
    pub fn dearest(&self, at_s: i64) -> Arc<Price> {
        let mut prices = self.models.keys().filter_map(|id| self.find(id, at_s));
        let Some(first) = prices.next() else { return Arc::new(Price::dearest_of_none()) };
        let mut dearest = Price { id: "dearest".into(), long_above: None, ..(*first).clone() };
        for price in prices {
            dearest.max_input_tokens = dearest.max_input_tokens.max(price.max_input_tokens);
            dearest.max_output_tokens = dearest.max_output_tokens.max(price.max_output_tokens);
            dearest.web_search_pico = dearest.web_search_pico.max(price.web_search_pico);
            for (mine, theirs) in dearest.tiers.iter_mut().zip(&price.tiers) {
                let base = mine.base.dearer(&theirs.base).dearer(&theirs.long);
                *mine = TierRates { base, long: base };
            }
        }
        Arc::new(dearest)
    }

    /// The prices in force, by name.
    pub fn models(&self, at_s: i64) -> Vec<Arc<Price>> {
        let mut prices: Vec<_> = self.models.keys().filter_map(|id| self.find(id, at_s)).collect();
        prices.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        prices
    }

    /// When the sheet was made, in Unix seconds.
    pub fn as_of_s(&self) -> i64 {
        self.as_of_s
    }

    /// How old it is.
    pub fn age_s(&self, now_s: i64) -> i64 {
        now_s.saturating_sub(self.as_of_s)
    }

    /// Whether it is so old that prices have probably changed since.
    pub fn is_stale(&self, now_s: i64) -> bool {
        self.age_s(now_s) > FRESH_S
    }
}

impl Price {
    /// The rates of a tier, for a request with so many input tokens.
    pub fn rates(&self, tier: Tier, input_tokens: u64) -> &Rates {
        let tier = &self.tiers[match tier {
            Tier::Flex => 0,
            Tier::Standard | Tier::Scale => 1,
            Tier::Priority => 2,
            Tier::Ultrafast => 3,
        }];
        let long = self.long_above.is_some_and(|above| input_tokens > above);
        if long { &tier.long } else { &tier.base }
    }

    fn dearest_of_none() -> Self {
        let none = TierRates { base: Rates::default(), long: Rates::default() };
        Self {
            id: "dearest".into(),
            max_input_tokens: None,
            max_output_tokens: None,
            long_above: None,
            web_search_pico: WEB_SEARCH_PICO,
            tiers: [none; 4],
        }
    }
}

fn dated(id: &Arc<str>, model: &RawModel) -> Result<Vec<(i64, Arc<Price>)>, String> {
    let price = |rates: &RawTiers| {
        let fee = model.web_search_usd_per_1k_calls.as_deref();
        // Dollars for a thousand calls are a thousandth of dollars for a million.
        let web_search_pico = fee.map(pico).transpose()?.map_or(WEB_SEARCH_PICO, |rate| rate * 1_000);
        Ok::<_, String>(Arc::new(Price {
            id: Arc::clone(id),
            max_input_tokens: model.max_input_tokens,
            max_output_tokens: model.max_output_tokens,
            long_above: model.long_above,
            web_search_pico,
            tiers: tiers(rates)?,
        }))
    };
    let mut dates = vec![(i64::MIN, price(&model.rates)?)];
    for block in &model.dated {
        dates.push((day_s(&block.effective_from)?, price(&block.rates)?));
    }
    dates.sort_unstable_by_key(|(from_s, _)| std::cmp::Reverse(*from_s));
    Ok(dates)
}

/// The rates of all tiers. A tier that is not published costs: flex as
/// standard; priority 2.5 and ultrafast 6 times standard.
fn tiers(raw: &RawTiers) -> Result<[TierRates; 4], String> {
    let base = raw.standard.resolve(None)?;
    let long = |named: &NamedRates, base: &Rates| {
        named.long.as_ref().map(|long| long.resolve(Some(base))).transpose()
    };
    let standard_long = long(&raw.standard, &base)?;
    let standard = TierRates { base, long: standard_long.unwrap_or(base) };
    let tier = |named: &Option<NamedRates>, tenths: u64| {
        let Some(named) = named else {
            return Ok(TierRates { base: base.scaled(tenths), long: standard.long.scaled(tenths) });
        };
        let own = named.resolve(None)?;
        let unpublished =
            if standard_long.is_some() { standard.long.scaled(tenths).dearer(&own) } else { own };
        Ok::<_, String>(TierRates { base: own, long: long(named, &own)?.unwrap_or(unpublished) })
    };
    Ok([
        tier(&raw.flex, 10)?,
        standard,
        tier(&raw.priority, PRIORITY_TENTHS)?,
        tier(&raw.ultrafast, ULTRAFAST_TENTHS)?,
    ])
}

fn overridden(price: &Override) -> Result<(i64, Price), String> {
    if price.rates.input.is_none() {
        return Err("a price needs at least input".to_owned());
    }
    let raw = RawTiers { standard: price.rates.clone(), ..RawTiers::default() };
    let resolved = Price {
        id: price.model.as_str().into(),
        max_input_tokens: price.max_input_tokens,
        max_output_tokens: price.max_output_tokens,
        long_above: price.long_above,
        web_search_pico: WEB_SEARCH_PICO,
        tiers: tiers(&raw)?,
    };
    Ok((price.effective_from_s.unwrap_or(i64::MIN), resolved))
}

fn version(as_of: &str, json: &str, overrides: &[Override]) -> Arc<str> {
    if overrides.is_empty() && json == BUILT_IN {
        return as_of.into();
    }
    let mut hasher = DefaultHasher::new();
    json.hash(&mut hasher);
    format!("{overrides:?}").hash(&mut hasher);
    format!("{as_of}+{:08x}", hasher.finish() & 0xffff_ffff).into()
}

/// A day of UTC as the Unix seconds it starts at.
fn day_s(day: &str) -> Result<i64, String> {
    let date = day.parse::<jiff::civil::Date>().map_err(|_| format!("{day:?} is not a date"))?;
    let start = date.to_zoned(jiff::tz::TimeZone::UTC).map_err(|error| error.to_string())?;
    Ok(start.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: i64 = 1_795_000_000;

    fn sheet() -> Sheet {
        Sheet::built_in(&[]).unwrap()
    }

    #[test]
    fn names_resolve_to_their_prices() {
        for (name, id) in [
            ("gpt-4o-mini", "gpt-4o-mini"),
            ("gpt-4o-mini-2024-07-18", "gpt-4o-mini-2024-07-18"),
            ("gpt-6.1-sol-2026-09-29", "gpt-6.1-sol"),
            ("ft:gpt-4o-mini-2024-07-18:acme:support:abc", "ft:gpt-4o-mini-2024-07-18"),
            ("ft:gpt-4o-mini:acme::abc", "ft:gpt-4o-mini-2024-07-18"),
        ] {
            assert_eq!(sheet().find(name, NOW_S).map(|p| p.id.to_string()).as_deref(), Some(id), "{name}");
        }
        for name in ["gpt-9", "gpt-4o-mini-2024-7-18", "ft:unknown:x", "", "GPT-4o"] {
            assert!(sheet().find(name, NOW_S).is_none(), "{name}");
        }
    }

    #[test]
    fn published_rates_are_what_the_sheet_says() {
        let sheet = sheet();
        let rates = |model: &str, tier, input| *sheet.find(model, NOW_S).unwrap().rates(tier, input);
        assert_eq!(rates("gpt-4o-mini", Tier::Standard, 0).input, 150_000);
        assert_eq!(rates("gpt-4o-mini", Tier::Standard, 0).cached_input, 75_000);
        assert_eq!(rates("gpt-4o-mini", Tier::Priority, 0).output, 1_000_000);
        assert_eq!(rates("gpt-6.1-sol", Tier::Standard, 272_000).output, 10_000_000);
        assert_eq!(rates("gpt-6.1-sol", Tier::Standard, 272_001).output, 15_000_000);
        assert_eq!(rates("gpt-6.1-sol", Tier::Ultrafast, 0).cache_write_12h, 30_000_000);
        assert_eq!(rates("text-embedding-3-small", Tier::Standard, 0).input, 20_000);
        assert_eq!(
            rates("gpt-5.5-pro", Tier::Flex, 300_000).output,
            270_000_000,
            "no long flex: as standard"
        );
        assert_eq!(rates("gpt-4", Tier::Priority, 0).input, 75_000_000, "no priority: 2.5 times standard");
    }

    #[test]
    fn an_override_starts_on_its_date_and_marks_the_version() {
        let input = |text: &str| NamedRates { input: Some(text.to_owned()), ..NamedRates::default() };
        let price = Override {
            model: "gpt-4o-mini".into(),
            effective_from_s: Some(NOW_S),
            rates: input("1.5"),
            ..Override::default()
        };
        let sheet = Sheet::built_in(&[price]).unwrap();
        let rate = |at_s| sheet.find("gpt-4o-mini", at_s).unwrap().rates(Tier::Standard, 0).input;
        assert_eq!((rate(NOW_S - 1), rate(NOW_S)), (150_000, 1_500_000));
        assert!(sheet.version().starts_with("2026-11-21+"));
        let bad = Override { model: "x".into(), rates: input("0.0000001"), ..Override::default() };
        assert!(Sheet::built_in(&[bad]).unwrap_err().problem.contains("millionth"));
    }

    #[test]
    fn nothing_in_the_sheet_is_dearer_than_the_dearest() {
        let sheet = sheet();
        let dearest = sheet.dearest(NOW_S);
        for price in sheet.models(NOW_S) {
            for tier in [Tier::Flex, Tier::Standard, Tier::Priority, Tier::Ultrafast] {
                for input in [0, 1_000_000] {
                    let most = dearest.rates(tier, input);
                    assert_eq!(most.dearer(price.rates(tier, input)), *most, "{}", price.id);
                }
            }
        }
    }

    #[test]
    fn a_sheet_says_when_it_is_stale() {
        let sheet = sheet();
        assert!(!sheet.is_stale(sheet.as_of_s() + 44 * 86_400));
        assert!(sheet.is_stale(sheet.as_of_s() + 46 * 86_400));
    }
}

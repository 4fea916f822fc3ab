//! The price sheet: models, their rates by tier and date, and how names resolve.
//!
//! A sheet never changes. A request keeps the one it was admitted under, so that a
//! reload in mid-stream can't change its cost.

mod changes;

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::domain::demand::Tier;
use crate::domain::model::without_day;
use crate::domain::{Class, Pattern};
use crate::pricing::facts::FactTable;
pub use crate::pricing::price::{Override, Price};
use crate::pricing::rates::{self, Rates};
use crate::pricing::raw::{RawFamily, RawModel, RawSheet};

pub use self::changes::{Change, Changes};

/// The name of a sheet's file in the data folder, where the configuration names none.
pub const FILE: &str = "prices.json";
const BUILT_IN: &str = include_str!("../../config/prices.json");
/// A sheet older than this is stale: OpenAI's prices have changed about once a
/// month since July 2026.
const FRESH_S: i64 = 45 * 86_400;
/// Why a sheet or an override can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{model}: {problem}")]
pub struct SheetError {
    /// The model at fault; `prices` when it is the sheet as a whole.
    pub model: String,
    /// The problem.
    pub problem: String,
}

/// All prices of one version.
#[derive(Debug)]
pub struct Sheet {
    version: Arc<str>,
    as_of_s: i64,
    /// By model, the newest first.
    models: HashMap<Arc<str>, Vec<(i64, Arc<Price>)>>,
    /// Rates of hosted tools, for models without their own.
    fees: Rates,
    facts: FactTable,
    families: Vec<Family>,
    /// The models that the image tool may run, and until when each is served.
    image_models: Vec<(Arc<str>, i64)>,
}

/// How a model without a price of its own is priced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownModel {
    /// As the dearest of its family, if it is a version of a known one.
    #[default]
    Family,
    /// It has no price.
    Refuse,
    /// As the dearest model of the sheet.
    Dearest,
}

/// Models of which an unknown one may be a version.
#[derive(Clone, Debug)]
struct Family(Vec<Pattern>);

impl Family {
    fn has(&self, model: &str) -> bool {
        self.0.iter().any(|pattern| pattern.matches(model))
    }
}

impl Sheet {
    /// The sheet that comes with the guard, with the operator's prices over it.
    pub fn built_in(overrides: &[Override]) -> Result<Self, SheetError> {
        Self::parse(BUILT_IN, overrides)
    }

    /// A sheet from its JSON, with the operator's prices over it.
    pub fn parse(json: &str, overrides: &[Override]) -> Result<Self, SheetError> {
        let wrong = |model: &str, problem: String| SheetError { model: model.to_owned(), problem };
        let raw = read(json).map_err(|problem| wrong("prices", problem))?;
        let as_of_s = day_s(&raw.as_of).map_err(|problem| wrong("prices", problem))?;
        let Beside { fees, facts, families } =
            beside_models(&raw).map_err(|problem| wrong("prices", problem))?;
        let (mut models, mut image_models) = (HashMap::new(), Vec::new());
        for (id, model) in &raw.models {
            let id: Arc<str> = id.as_str().into();
            let dated = dated(&id, model, (&facts, &fees)).map_err(|problem| wrong(&id, problem))?;
            if model.mode.as_deref() == Some("image_generation") {
                let end_s = model.shutdown.as_deref().map_or(Ok(i64::MAX), day_s);
                image_models.push((Arc::clone(&id), end_s.map_err(|problem| wrong(&id, problem))?));
            }
            models.insert(id, dated);
        }
        for price in overrides {
            let resolved =
                Price::of_override(price, &facts, &fees).map_err(|problem| wrong(&price.model, problem))?;
            let from_s = price.effective_from_s.unwrap_or(i64::MIN);
            let dates = models.entry(Arc::clone(&resolved.id)).or_insert_with(Vec::new);
            // From its date on, the operator's price overrides all of the sheet's.
            dates.retain(|(known_s, _)| *known_s < from_s);
            dates.insert(0, (from_s, Arc::new(resolved)));
        }
        let version = version(&raw.as_of, json, overrides);
        Ok(Self { version, as_of_s, models, fees, facts, families, image_models })
    }

    /// The sheet where requests go to a region: each model's rates are raised by
    /// what is documented for it. Its version names the region.
    #[must_use]
    pub fn in_region(mut self, region: &str) -> Self {
        for (_, price) in self.models.values_mut().flatten() {
            *price = Arc::new(price.in_region());
        }
        self.version = format!("{}+{region}", self.version).into();
        self
    }

    /// The version that entries name: the sheet's date, a hash of the operator's
    /// changes to it, and the region.
    pub fn version(&self) -> &Arc<str> {
        &self.version
    }

    /// The price of a model by any of its names, at an instant in Unix seconds.
    ///
    /// The name itself; without a date at its end; for a fine-tune
    /// `ft:BASE:…`, `ft:BASE`, with and without the base's date.
    pub fn find(&self, model: &str, at_s: i64) -> Option<Arc<Price>> {
        let exact = |name: &str| self.find_exactly(name, at_s);
        let undated = |name: &str| exact(name).or_else(|| exact(without_day(name)?));
        if let Some(tuned) = model.strip_prefix("ft:") {
            let base = tuned.split(':').next().unwrap_or(tuned);
            return exact(model)
                .or_else(|| undated(&format!("ft:{base}")))
                .or_else(|| self.tuned_any(base, at_s));
        }
        undated(model)
    }

    fn find_exactly(&self, id: &str, at_s: i64) -> Option<Arc<Price>> {
        let dates = self.models.get(id)?;
        dates.iter().find(|(from_s, _)| *from_s <= at_s).map(|(_, price)| Arc::clone(price))
    }

    /// The price of a model; for a model without one, the price of an unknown
    /// model, under the model's own name without a date.
    pub fn price_of(&self, model: &str, at_s: i64, unknown: UnknownModel) -> Option<Arc<Price>> {
        self.find(model, at_s).or_else(|| match unknown {
            UnknownModel::Family => self.family(model, at_s),
            UnknownModel::Refuse => None,
            UnknownModel::Dearest => {
                let name = without_day(model).unwrap_or(model);
                Some(Arc::new(Price::dearest(name, &self.fees, self.in_force(at_s))))
            }
        })
    }

    /// The price of a fine-tune whose base is named without its date.
    fn tuned_any(&self, base: &str, at_s: i64) -> Option<Arc<Price>> {
        let name = format!("ft:{base}");
        let dated = self.models.iter().filter(|(id, _)| without_day(id) == Some(&name));
        let in_force = dated.filter_map(|(_, dates)| dates.iter().find(|(from_s, _)| *from_s <= at_s));
        in_force
            .map(|(_, price)| price)
            .max_by_key(|price| price.rates(Tier::Standard, 0)[Class::Output])
            .cloned()
    }

    /// A price that no model of the sheet exceeds in any rate.
    pub fn dearest(&self, at_s: i64) -> Arc<Price> {
        Arc::new(Price::dearest("dearest", &self.fees, self.in_force(at_s)))
    }

    /// The dearest model for images that is still served: the model of an image tool that
    /// names none. If a sheet's last such model is shut down, the most expensive of all;
    /// `None` if a sheet has no such model.
    pub fn dearest_image_model(&self, at_s: i64) -> Option<Arc<Price>> {
        let priced = |(id, end_s): &(Arc<str>, i64)| Some((*end_s > at_s, self.find_exactly(id, at_s)?));
        let key = |(is_served, price): &(bool, Arc<Price>)| {
            let name = (price.id.len(), Arc::clone(&price.id));
            (*is_served, price.rates(Tier::Standard, 0)[Class::ImageOutput], Reverse(name))
        };
        self.image_models.iter().filter_map(priced).max_by_key(key).map(|(_, price)| price)
    }

    /// The price of an unknown version of a known family, under its own name: in
    /// every rate the dearest of the models that the sheet has of that family.
    ///
    /// `None` if no family's name fits, and for fine-tunes: how much more they cost
    /// than their base differs.
    pub fn family(&self, model: &str, at_s: i64) -> Option<Arc<Price>> {
        let name = without_day(model).unwrap_or(model);
        let family = self.families.iter().find(|family| family.has(name))?;
        let mut members = self.in_force(at_s).filter(|price| family.has(&price.id)).peekable();
        members.peek()?;
        let dearest = Price::dearest(name, &self.fees, members);
        Some(Arc::new(dearest.renamed(name, &self.facts)))
    }

    fn in_force(&self, at_s: i64) -> impl Iterator<Item = &Price> {
        let newest =
            move |dates: &'_ [(i64, Arc<Price>)]| dates.iter().position(|(from_s, _)| *from_s <= at_s);
        self.models.values().filter_map(move |dates| newest(dates).map(|at| &*dates[at].1))
    }

    /// The prices in force, by name.
    pub fn models(&self, at_s: i64) -> Vec<Arc<Price>> {
        let mut prices: Vec<_> = self.models.keys().filter_map(|id| self.find(id, at_s)).collect();
        prices.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        prices
    }

    /// Rates of hosted tools, for models without their own.
    pub fn fees(&self) -> &Rates {
        &self.fees
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

fn read(json: &str) -> Result<RawSheet, String> {
    serde_json::from_str(json).map_err(|error| error.to_string())
}

/// The parts of a sheet other than its models.
struct Beside {
    fees: Rates,
    facts: FactTable,
    families: Vec<Family>,
}

/// Fees, facts and families; those of the built-in sheet where a sheet has none.
fn beside_models(raw: &RawSheet) -> Result<Beside, String> {
    let built_in = read(BUILT_IN)?;
    let facts = raw.facts.as_ref().or(built_in.facts.as_ref());
    let families = raw.families.as_ref().or(built_in.families.as_ref());
    let family = |raw: &RawFamily| match raw.models.as_slice() {
        [] => Err(format!("family {:?} has no models", raw.family)),
        models => Ok(Family(models.iter().map(|pattern| Pattern::new(pattern)).collect())),
    };
    let facts = FactTable::parse(facts.map_or(&[], Vec::as_slice))?;
    let families = families.into_iter().flatten().map(family).collect::<Result<_, _>>()?;
    Ok(Beside { fees: fees(&raw.fees, &built_in.fees)?, facts, families })
}

/// The rates of hosted tools: the sheet's own, else the built-in sheet's.
fn fees(own: &BTreeMap<String, String>, built_in: &BTreeMap<String, String>) -> Result<Rates, String> {
    let named = |fees: &BTreeMap<String, String>| rates::by_class(fees.clone());
    let (own, built_in) = (named(own)?, named(built_in)?);
    if let Some(class) = own.keys().find(|class| !class.is_of_tool()) {
        return Err(format!("fees: {} is priced by model", class.name()));
    }
    let mut fees = Rates::default();
    for class in Class::ALL.into_iter().filter(|class| class.is_of_tool()) {
        let fee = own.get(&class).or(built_in.get(&class));
        let fee = fee.ok_or_else(|| format!("fees: {} has no price", class.name()))?;
        fees[class] = rates::pico(fee, class)?;
    }
    Ok(fees)
}

/// All dates of a model, the newest first.
fn dated(
    id: &Arc<str>,
    model: &RawModel,
    beside: (&FactTable, &Rates),
) -> Result<Vec<(i64, Arc<Price>)>, String> {
    let price = |rates| Price::of_model(id, model, rates, beside).map(Arc::new);
    let mut dates = vec![(i64::MIN, price(&model.rates)?)];
    for block in &model.dated {
        dates.push((day_s(&block.effective_from)?, price(&block.rates)?));
    }
    dates.sort_unstable_by_key(|(from_s, _)| Reverse(*from_s));
    Ok(dates)
}

fn version(as_of: &str, json: &str, overrides: &[Override]) -> Arc<str> {
    if overrides.is_empty() && json == BUILT_IN {
        return as_of.into();
    }
    let [a, b, c, d, ..]: [u8; 32] = Sha256::digest(format!("{json}{overrides:?}")).into();
    format!("{as_of}+{:08x}", u32::from_be_bytes([a, b, c, d])).into()
}

/// A day of UTC as the Unix seconds it starts at.
fn day_s(day: &str) -> Result<i64, String> {
    let date = day.parse::<jiff::civil::Date>().map_err(|_| format!("{day:?} is not a date"))?;
    let start = date.to_zoned(jiff::tz::TimeZone::UTC).map_err(|error| error.to_string())?;
    Ok(start.timestamp().as_second())
}

#[cfg(test)]
mod tests;

//! One model's price: rates by tier and context, and facts beside them.

use std::sync::Arc;

use crate::domain::Class;
use crate::domain::demand::Tier;
use crate::pricing::count::Encoding;
use crate::pricing::facts::{FactTable, Facts, uplift_tenths};
use crate::pricing::image::ImageRule;
use crate::pricing::rates::{NamedRates, Rates, pico};
use crate::pricing::raw::{RawModel, RawTiers};

/// Priority costs 1.67 to 2.5 times standard wherever both are published.
const PRIORITY_TENTHS: u64 = 25;
/// Ultrafast costs six times standard wherever both are published.
const ULTRAFAST_TENTHS: u64 = 60;

/// A price that the operator sets, which overrides the sheet's.
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
    /// The vocabulary; `None` if it is not published.
    pub tokenizer: Option<Encoding>,
    /// How many tokens an image takes.
    pub image_rule: ImageRule,
    /// Whether the model may bill output that is in no answer.
    pub may_reason: bool,
    /// Input tokens billed for what one call of `web_search` reads, where that is
    /// a fixed number; 0 where what was read is in the usage.
    pub search_block_tokens: u64,
    /// Whether the model searches the web on every chat request, asked or not.
    pub searches_always: bool,
    /// The multiplier of rates in a region, in tenths.
    uplift_tenths: u64,
    tiers: [TierRates; 6],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TierRates {
    base: Rates,
    long: Rates,
}

impl Price {
    /// The price of a sheet's model under some rates.
    pub(super) fn of_model(
        id: &Arc<str>,
        model: &RawModel,
        rates: &RawTiers,
        (facts, fees): (&FactTable, &Rates),
    ) -> Result<Self, String> {
        let mut fees = *fees;
        if let Some(fee) = &model.web_search_usd_per_1k_calls {
            fees[Class::WebSearchPreviewCalls] = pico(fee, Class::WebSearchPreviewCalls)?;
        }
        let uplift = model.regional_uplift.as_deref().map(uplift_tenths).transpose()?;
        let mut facts = facts.of(id);
        facts.uplift_tenths = uplift.unwrap_or(facts.uplift_tenths);
        Ok(Self {
            max_input_tokens: model.max_input_tokens,
            max_output_tokens: model.max_output_tokens,
            long_above: model.long_above,
            ..Self::with(id, facts, &tiers(rates, &fees)?)
        })
    }

    /// The price that an operator sets. It is the price that the operator pays, so
    /// no regional uplift is applied.
    pub(super) fn of_override(price: &Override, facts: &FactTable, fees: &Rates) -> Result<Self, String> {
        let has = |class| price.rates.classes.contains_key(&class);
        if ![Class::Input, Class::Images, Class::Characters, Class::AudioSeconds].into_iter().any(has) {
            return Err("a price needs input, images, characters or audio_seconds".to_owned());
        }
        let raw = RawTiers { standard: price.rates.clone(), ..RawTiers::default() };
        let facts = Facts { uplift_tenths: 10, ..facts.of(&price.model) };
        Ok(Self {
            max_input_tokens: price.max_input_tokens,
            max_output_tokens: price.max_output_tokens,
            long_above: price.long_above,
            ..Self::with(&price.model.as_str().into(), facts, &tiers(&raw, fees)?)
        })
    }

    /// A price that none of some prices exceeds in anything.
    pub(super) fn dearest<'a>(id: &str, fees: &Rates, prices: impl Iterator<Item = &'a Self>) -> Self {
        let none = TierRates { base: *fees, long: *fees };
        let of_none = Self::with(&id.into(), Facts::dearest(), &[none; 6]);
        let dearest = prices.fold(None, |dearest: Option<Self>, price| {
            Some(dearest.map_or_else(|| price.clone(), |dearest| dearest.dearer(price)))
        });
        Self { id: id.into(), ..dearest.unwrap_or(of_none) }
    }

    fn dearer(mut self, other: &Self) -> Self {
        for (mine, theirs) in self.tiers.iter_mut().zip(&other.tiers) {
            let base = mine.base.dearer(&theirs.base);
            // Long rates may begin at the first threshold of the two.
            *mine = TierRates { base, long: base.dearer(&mine.long).dearer(&theirs.long) };
        }
        Self {
            max_input_tokens: self.max_input_tokens.max(other.max_input_tokens),
            max_output_tokens: self.max_output_tokens.max(other.max_output_tokens),
            long_above: self.long_above.into_iter().chain(other.long_above).min(),
            tokenizer: self.tokenizer.filter(|mine| other.tokenizer == Some(*mine)),
            image_rule: self.image_rule.dearer(&other.image_rule),
            may_reason: self.may_reason || other.may_reason,
            search_block_tokens: self.search_block_tokens.max(other.search_block_tokens),
            searches_always: self.searches_always && other.searches_always,
            uplift_tenths: self.uplift_tenths.max(other.uplift_tenths),
            ..self
        }
    }

    fn with(id: &Arc<str>, facts: Facts, tiers: &[TierRates; 6]) -> Self {
        Self {
            id: Arc::clone(id),
            max_input_tokens: None,
            max_output_tokens: None,
            long_above: None,
            tokenizer: facts.tokenizer,
            image_rule: facts.image_rule,
            may_reason: facts.may_reason,
            search_block_tokens: facts.search_block_tokens,
            searches_always: facts.searches_always,
            uplift_tenths: facts.uplift_tenths,
            tiers: *tiers,
        }
    }

    /// The same price under another name. The facts of that name count where they are
    /// not cheaper: for a new model they are only guessed from its name.
    pub(super) fn renamed(self, id: &str, facts: &FactTable) -> Self {
        let known = facts.of(id);
        Self {
            id: id.into(),
            tokenizer: self.tokenizer.filter(|mine| known.tokenizer == Some(*mine)),
            image_rule: self.image_rule.dearer(&known.image_rule),
            may_reason: self.may_reason || known.may_reason,
            search_block_tokens: known.search_block_tokens,
            searches_always: known.searches_always,
            ..self
        }
    }

    /// The price at a regional base URL: every rate is raised, no fee of a tool.
    pub(super) fn in_region(&self) -> Self {
        let raised = |rates: TierRates| TierRates {
            base: rates.base.scaled(self.uplift_tenths),
            long: rates.long.scaled(self.uplift_tenths),
        };
        Self { tiers: self.tiers.map(raised), ..self.clone() }
    }

    /// The rates of a tier, for a request with so many input tokens.
    pub fn rates(&self, tier: Tier, input_tokens: u64) -> &Rates {
        let tier = &self.tiers[match tier {
            Tier::Decisions => 0,
            Tier::Batch => 1,
            Tier::Flex => 2,
            Tier::Standard | Tier::Scale => 3,
            Tier::Priority => 4,
            Tier::Ultrafast => 5,
        }];
        let long = self.long_above.is_some_and(|above| input_tokens > above);
        if long { &tier.long } else { &tier.base }
    }
}

/// The rates of all tiers. A tier that is not published costs: decisions, batch
/// and flex as standard; priority 2.5 and ultrafast 6 times standard. Fees are those of standard.
fn tiers(raw: &RawTiers, fees: &Rates) -> Result<[TierRates; 6], String> {
    let base = raw.standard.resolve(fees, None)?;
    let long = |named: &NamedRates, base: &Rates| {
        named.long.as_ref().map(|long| long.resolve(base, Some(base))).transpose()
    };
    let standard_long = long(&raw.standard, &base)?;
    let standard = TierRates { base, long: standard_long.unwrap_or(base) };
    let tier = |named: &Option<NamedRates>, tenths: u64| {
        let Some(named) = named else {
            return Ok(TierRates { base: base.scaled(tenths), long: standard.long.scaled(tenths) });
        };
        let own = named.resolve(&base, None)?;
        let unpublished =
            if standard_long.is_some() { standard.long.scaled(tenths).dearer(&own) } else { own };
        Ok::<_, String>(TierRates { base: own, long: long(named, &own)?.unwrap_or(unpublished) })
    };
    Ok([
        tier(&raw.decisions, 10)?,
        tier(&raw.batch, 10)?,
        tier(&raw.flex, 10)?,
        standard,
        tier(&raw.priority, PRIORITY_TENTHS)?,
        tier(&raw.ultrafast, ULTRAFAST_TENTHS)?,
    ])
}

//! Published prices, as the oracle's own copy.
//!
//! `prices.json` was made from litellm 1.109.1 and genai-prices 0.2.3 on 2026-11-21. All rates are
//! picodollars per token. Tool fees are those of OpenAI's pricing page on that day.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::Value;

/// Day of the prices.
pub const CATALOGUE_DAY: &str = "2026-11-21";
/// Fee of a web search, in picodollars: 10 USD per 1,000 calls.
pub const WEB_SEARCH_PICO: u128 = 10_000_000_000;
/// Fee of a preview search on a model that does not reason: 25 USD per 1,000 calls.
pub const WEB_SEARCH_PREVIEW_PICO: u128 = 25_000_000_000;
/// Input tokens that one search of a small model is billed for, whatever it read.
pub const SEARCH_BLOCK_TOKENS: u64 = 8_000;
/// Fee of a file search: 2.50 USD per 1,000 calls.
pub const FILE_SEARCH_PICO: u128 = 2_500_000_000;

/// Service tiers that a request may be served at; batches have one of their own, which no request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are OpenAI's")]
pub enum Tier {
    Batch,
    Flex,
    Standard,
    Scale,
    Priority,
    Ultrafast,
}

impl Tier {
    /// Name that an answer's `service_tier` has.
    pub const fn wire(self) -> &'static str {
        match self {
            Self::Flex => "flex",
            // Answers within a batch name none of their own.
            Self::Batch | Self::Standard => "default",
            Self::Scale => "scale",
            Self::Priority => "priority",
            Self::Ultrafast => "ultrafast",
        }
    }
}

/// Sizes of a container, by memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the sizes")]
pub enum Memory {
    G1,
    G4,
    G16,
    G64,
}

impl Memory {
    /// All sizes, the smallest first.
    pub const ALL: [Self; 4] = [Self::G1, Self::G4, Self::G16, Self::G64];

    /// Name that `memory_limit` has.
    pub const fn wire(self) -> &'static str {
        match self {
            Self::G1 => "1g",
            Self::G4 => "4g",
            Self::G16 => "16g",
            Self::G64 => "64g",
        }
    }

    /// Size of that name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|memory| memory.wire() == name)
    }

    /// Price of a session of 20 minutes, in picodollars.
    pub const fn session_pico(self) -> u128 {
        match self {
            Self::G1 => 30_000_000_000,
            Self::G4 => 120_000_000_000,
            Self::G16 => 480_000_000_000,
            Self::G64 => 1_920_000_000_000,
        }
    }
}

/// Rates of one model at one tier and context length, in picodollars per token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the token classes")]
pub struct Rates {
    pub input: u128,
    pub cached: u128,
    pub write: u128,
    pub write_12h: u128,
    pub output: u128,
    pub audio_in: u128,
    pub audio_out: u128,
    pub image_in: u128,
    pub image_out: u128,
}

impl Rates {
    fn of(value: &Value) -> Self {
        let rate = |name: &str| value[name].as_u64().map(u128::from);
        // A class without a rate of its own costs what its plain class costs.
        let (input, output) = (rate("input").unwrap_or(0), rate("output").unwrap_or(0));
        let write = rate("write").unwrap_or(input);
        Self {
            input,
            cached: rate("cached").unwrap_or(input),
            write,
            write_12h: rate("write_12h").unwrap_or(write),
            output,
            audio_in: rate("audio_in").unwrap_or(input),
            audio_out: rate("audio_out").unwrap_or(output),
            image_in: rate("image_in").unwrap_or(input),
            image_out: rate("image_out").unwrap_or(output),
        }
    }

    fn map(self, input: impl Fn(u128) -> u128, output: impl Fn(u128) -> u128) -> Self {
        Self {
            input: input(self.input),
            cached: input(self.cached),
            write: input(self.write),
            write_12h: input(self.write_12h),
            output: output(self.output),
            audio_in: input(self.audio_in),
            audio_out: output(self.audio_out),
            image_in: input(self.image_in),
            image_out: output(self.image_out),
        }
    }
}

/// One model of the catalogue.
#[derive(Clone)]
pub struct Model {
    /// Id in the catalogue.
    pub name: String,
    /// `chat`, `responses`, `completion`, `embedding` or `image_generation`.
    pub mode: String,
    /// Tokens that one prompt may have at the most.
    pub input_max: Option<u64>,
    /// Tokens that one answer may have at the most.
    pub output_max: Option<u64>,
    /// A prompt above so many tokens costs the long rates, all of it.
    pub long_above: Option<u64>,
    /// Day on which the model is shut down, as `YYYY-MM-DD`.
    pub shutdown: Option<String>,
    uplift_percent: u128,
    tiers: BTreeMap<String, (Rates, Option<Rates>)>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.name)
    }
}

/// Models at a promotional price: `gpt-5.6-sol` under all of its names.
const PROMOTED: [&str; 4] = ["gpt-5.6", "gpt-5.6-sol", "daybreak-blue-latest", "gpt-daybreak-blue-latest"];
/// Day until which that price was promised.
const PROMOTION_LAST_DAY: &str = "2026-11-21";

impl Model {
    /// Whether the model thinks before it answers, in tokens that no client sees.
    pub fn reasons(&self) -> bool {
        let reasons =
            ["o1", "o3", "o4", "gpt-5", "gpt-6", "codex", "daybreak", "gpt-daybreak", "gpt-rosalind"];
        reasons.iter().any(|start| self.name.starts_with(start)) && !self.name.contains("-chat")
    }

    /// Input tokens that one web search is billed for beside its fee.
    pub fn search_block(&self) -> u64 {
        let is_small = ["gpt-4o-mini", "gpt-4.1-mini"].iter().any(|start| self.name.starts_with(start));
        if is_small { SEARCH_BLOCK_TOKENS } else { 0 }
    }

    /// Whether each request searches the web, asked or not.
    pub fn always_searches(&self) -> bool {
        self.name.contains("-search-")
    }

    /// Whether a tier has rates of its own, for prompts of that length.
    pub fn publishes(&self, tier: Tier, is_long: bool) -> bool {
        let name = if tier == Tier::Scale { "standard" } else { tier_name(tier) };
        self.tiers.get(name).is_some_and(|(_, long)| !is_long || long.is_some())
    }

    /// Whether a tier has a rate of its own for what is kept in the cache for twelve hours.
    pub fn publishes_12h(&self, tier: Tier) -> bool {
        let name = if tier == Tier::Scale { "standard" } else { tier_name(tier) };
        self.tiers.get(name).is_some_and(|(rates, _)| rates.write_12h != rates.write)
    }

    /// Rates at a tier. A tier without published rates costs what the standard tier costs, the
    /// priority tier 2.5 times of it; where a tier has no long rates, each class costs the dearer of
    /// that tier's rate and the standard tier's long rate.
    pub fn rates(&self, tier: Tier, is_long: bool, place: Place<'_>) -> Rates {
        let (standard, standard_long) = self.tiers["standard"];
        let long_of = |short: Rates, long: Option<Rates>| match (is_long, long, standard_long) {
            (false, ..) => short,
            (true, Some(long), _) => long,
            (true, None, Some(other)) => dearer(short, other),
            (true, None, None) => short,
        };
        let rates = match (self.tiers.get(tier_name(tier)), tier) {
            (Some((short, long)), _) => long_of(*short, *long),
            (None, Tier::Priority | Tier::Ultrafast) => {
                long_of(standard, standard_long).map(|rate| rate * 5 / 2, |rate| rate * 5 / 2)
            }
            (None, Tier::Batch | Tier::Flex | Tier::Standard | Tier::Scale) => {
                long_of(standard, standard_long)
            }
        };
        let rates = if PROMOTED.contains(&&*self.name) && place.date > PROMOTION_LAST_DAY {
            // 5 and 30 USD in place of 4 and 20.
            rates.map(|rate| rate * 5 / 4, |rate| rate * 3 / 2)
        } else {
            rates
        };
        let percent = if place.is_regional { 100 + self.uplift_percent } else { 100 };
        rates.map(|rate| (rate * percent).div_ceil(100), |rate| (rate * percent).div_ceil(100))
    }
}

/// When and where a request is served.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Day, as `YYYY-MM-DD`.
    pub date: &'a str,
    /// Whether a regional base URL serves it.
    pub is_regional: bool,
}

fn tier_name(tier: Tier) -> &'static str {
    match tier {
        Tier::Batch => "batch",
        Tier::Flex => "flex",
        Tier::Standard | Tier::Scale => "standard",
        Tier::Priority => "priority",
        Tier::Ultrafast => "ultrafast",
    }
}

fn dearer(a: Rates, b: Rates) -> Rates {
    Rates {
        input: a.input.max(b.input),
        cached: a.cached.max(b.cached),
        write: a.write.max(b.write),
        write_12h: a.write_12h.max(b.write_12h),
        output: a.output.max(b.output),
        audio_in: a.audio_in.max(b.audio_in),
        audio_out: a.audio_out.max(b.audio_out),
        image_in: a.image_in.max(b.image_in),
        image_out: a.image_out.max(b.image_out),
    }
}

static CATALOGUE: LazyLock<BTreeMap<String, Model>> = LazyLock::new(|| {
    let file: Value = serde_json::from_str(include_str!("../prices.json")).expect("the prices are JSON");
    let models = file["models"].as_object().expect("an object");
    models.iter().map(|(name, value)| (name.clone(), model(name, value))).collect()
});

fn model(name: &str, value: &Value) -> Model {
    let tiers = ["standard", "batch", "flex", "priority", "ultrafast"].into_iter().filter_map(|tier| {
        let rates = value.get(tier)?;
        Some((tier.to_owned(), (Rates::of(rates), rates.get("long").map(Rates::of))))
    });
    Model {
        name: name.to_owned(),
        mode: value["mode"].as_str().unwrap_or_default().to_owned(),
        input_max: value["input_max"].as_u64(),
        output_max: value["output_max"].as_u64(),
        long_above: value["long_above"].as_u64(),
        shutdown: value["shutdown"].as_str().map(str::to_owned),
        uplift_percent: value["uplift_percent"].as_u64().unwrap_or(0).into(),
        tiers: tiers.collect(),
    }
}

/// Every model of the catalogue, by id.
pub fn models() -> impl Iterator<Item = &'static Model> {
    CATALOGUE.values()
}

/// Model of an id: exactly, or without its date, or the base of a fine-tuned one.
pub fn find(id: &str) -> Option<&'static Model> {
    if let Some(model) = CATALOGUE.get(id) {
        return Some(model);
    }
    if let Some(tuned) = id.strip_prefix("ft:") {
        return CATALOGUE.get(&format!("ft:{}", tuned.split(':').next()?));
    }
    CATALOGUE.get(undated(id)?)
}

/// Id without `-YYYY-MM-DD`.
fn undated(id: &str) -> Option<&str> {
    let (base, date) = id.split_at_checked(id.len().checked_sub(11)?)?;
    let is_date = date.bytes().enumerate().all(|(at, byte)| match at {
        0 | 5 | 8 => byte == b'-',
        _ => byte.is_ascii_digit(),
    });
    is_date.then_some(base)
}

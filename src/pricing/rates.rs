//! Rates of one model at one tier, in picodollars per unit of each class.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Index, IndexMut};

use serde::Deserialize;

use crate::domain::quantity::Measure;
use crate::domain::{Class, Money, Quantities};

/// Picodollars per unit, for every class.
///
/// A dollar per million tokens is a million picodollars per token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates([u64; Class::ALL.len()]);

/// The rates that a sheet or an override names, as US dollars in decimal text: per million
/// tokens or characters, per thousand calls, per session, image, minute of sound, or gibibyte and
/// day.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawRates")]
pub struct NamedRates {
    /// By class.
    pub classes: BTreeMap<Class, String>,
    /// The rates of a long context.
    pub long: Option<Box<NamedRates>>,
}

/// A sheet's version is made of this text too, and no upgrade may change it: so the first
/// classes are in it whether they are named or not, and others only if they are.
impl fmt::Debug for NamedRates {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = formatter.debug_struct("NamedRates");
        for class in Class::ALL {
            let named = self.classes.get(&class);
            let is_first = class <= Class::ImageOutput && class != Class::Reasoning;
            if is_first || named.is_some() {
                text.field(class.name(), &named);
            }
        }
        text.field("long", &self.long).finish()
    }
}

/// Rates as they are written: by the names of classes.
#[derive(Deserialize)]
struct RawRates {
    long: Option<Box<NamedRates>>,
    #[serde(flatten)]
    classes: BTreeMap<String, Option<String>>,
}

impl TryFrom<RawRates> for NamedRates {
    type Error = String;

    fn try_from(raw: RawRates) -> Result<Self, String> {
        let classes = raw.classes.into_iter().filter_map(|(name, rate)| Some((name, rate?)));
        Ok(Self { classes: by_class(classes)?, long: raw.long })
    }
}

/// Reads rates by the names of classes.
pub(super) fn by_class(
    named: impl IntoIterator<Item = (String, String)>,
) -> Result<BTreeMap<Class, String>, String> {
    let class = |name: &str| Class::named(name).ok_or_else(|| format!("there is no class {name:?}"));
    named.into_iter().map(|(name, rate)| Ok((class(&name)?, rate))).collect()
}

/// Dollars for as many units of a class as its prices are given for, as picodollars per unit;
/// per second of a price by the minute they are rounded up.
pub(super) fn pico(text: &str, class: Class) -> Result<u64, String> {
    let units = match class.measure() {
        Measure::Tokens | Measure::Characters => 1_000_000,
        Measure::Calls => 1_000,
        Measure::Seconds => 60,
        Measure::MebibyteDays => 1_024,
        Measure::Sessions | Measure::Images | Measure::Minutes => 1,
    };
    let nano = text.parse::<Money>().map_err(|error| format!("{text:?} is {error}"))?.nano();
    let pico = i128::from(nano) * 1_000;
    let is_whole = pico % units == 0 || class.measure() == Measure::Seconds;
    if nano < 0 || !is_whole {
        return Err(format!("{text:?} is negative or finer than a millionth of a dollar"));
    }
    u64::try_from((pico + units - 1) / units).map_err(|_| format!("{text:?} is too much"))
}

impl NamedRates {
    /// Complete rates. A class of tokens that is not named costs as much as the class it is
    /// a part of; cached images and audio as much as cached text where they cost as much as
    /// text. Classes other than tokens cost as in `fees`.
    ///
    /// Over the base rates of a shorter context, such a class of tokens costs no less than
    /// it does there: a cached token of a long context without a price of its own is a
    /// token of that context's input.
    pub(super) fn resolve(&self, fees: &Rates, base: Option<&Rates>) -> Result<Rates, String> {
        let named = |class| self.classes.get(&class).map(|text| pico(text, class)).transpose();
        // Of a model for images, text that it writes costs no more than what it draws.
        let drawn = named(Class::ImageOutput)?.unwrap_or(0);
        let mut rates = *fees;
        for class in Class::ALL {
            let cached = |kind| if rates[kind] == rates[Class::Input] { Class::CachedInput } else { kind };
            let whole = match class {
                Class::Input => 0,
                Class::CachedInput | Class::CacheWrite | Class::AudioInput | Class::ImageInput => {
                    rates[Class::Input]
                }
                Class::CacheWrite12h => rates[Class::CacheWrite],
                Class::AudioCachedInput => rates[cached(Class::AudioInput)],
                Class::ImageCachedInput => rates[cached(Class::ImageInput)],
                Class::Output => drawn,
                Class::Reasoning | Class::AudioOutput | Class::ImageOutput => rates[Class::Output],
                Class::WebSearchCalls
                | Class::WebSearchPreviewCalls
                | Class::FileSearchCalls
                | Class::Container1gSessions
                | Class::Container4gSessions
                | Class::Container16gSessions
                | Class::Container64gSessions
                | Class::Images
                | Class::Characters
                | Class::AudioSeconds
                | Class::ContainerMinutes
                | Class::VectorStorage => fees[class],
            };
            // Reasoning is output at whatever the context's output costs.
            let is_no_less = class.is_token() && class != Class::Reasoning;
            let shorter = base.filter(|_| is_no_less).map_or(0, |base| base[class]);
            rates[class] = named(class)?.unwrap_or(whole.max(shorter));
        }
        Ok(rates)
    }
}

impl Rates {
    /// Every rate of tokens times `tenths` / 10, rounded up; other rates stay.
    #[must_use]
    pub fn scaled(&self, tenths: u64) -> Self {
        let mut scaled = *self;
        for class in Class::tokens() {
            scaled[class] = self[class].saturating_mul(tenths).div_ceil(10);
        }
        scaled
    }

    /// The dearer of two, rate by rate.
    #[must_use]
    pub fn dearer(&self, other: &Self) -> Self {
        let mut dearer = *self;
        for (mine, theirs) in dearer.0.iter_mut().zip(other.0) {
            *mine = (*mine).max(theirs);
        }
        dearer
    }

    /// The exact cost of some quantities, in picodollars.
    pub fn cost_pico(&self, quantities: &Quantities) -> i128 {
        let part = |(class, count)| i128::from(count).saturating_mul(i128::from(self[class]));
        quantities.non_zero().map(part).fold(0, i128::saturating_add)
    }
}

impl Index<Class> for Rates {
    type Output = u64;

    fn index(&self, class: Class) -> &u64 {
        &self.0[class.index()]
    }
}

impl IndexMut<Class> for Rates {
    fn index_mut(&mut self, class: Class) -> &mut u64 {
        &mut self.0[class.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_that_versions_are_made_of_stays_what_it_was() {
        let named = |classes: &[(Class, &str)], long| {
            let classes = classes.iter().map(|(class, rate)| (*class, (*rate).to_owned())).collect();
            NamedRates { classes, long }
        };
        let long = Some(Box::new(named(&[(Class::Output, "2")], None)));
        let none = "cache_write: None, cache_write_12h: None, audio_input: None, audio_cached_input: None, \
                    image_input: None, image_cached_input: None";
        assert_eq!(
            format!("{:?}", named(&[(Class::Input, "1.5")], long)),
            format!(
                "NamedRates {{ input: Some(\"1.5\"), cached_input: None, {none}, output: None, audio_output: None, \
                 image_output: None, long: Some(NamedRates {{ input: None, cached_input: None, {none}, \
                 output: Some(\"2\"), audio_output: None, image_output: None, long: None }}) }}"
            )
        );
        let fee = format!("{:?}", named(&[(Class::FileSearchCalls, "3")], None));
        assert!(fee.contains("image_output: None, file_search_calls: Some(\"3\"), long: None"), "{fee}");
    }

    #[test]
    fn reasoning_costs_as_output_unless_it_has_a_rate_of_its_own() {
        let rates = |json: &str| {
            let named: NamedRates = serde_json::from_str(json).unwrap();
            let base = named.resolve(&Rates::default(), None).unwrap();
            let long = named.long.as_ref().map(|long| long.resolve(&base, Some(&base)).unwrap());
            (base[Class::Reasoning], long.map(|long| long[Class::Reasoning]))
        };
        let cheaper = r#"{"input": "1", "output": "8", "long": {"input": "2", "output": "4"}}"#;
        assert_eq!(rates(cheaper), (8_000_000, Some(4_000_000)), "as the output of that context");
        assert_eq!(rates(r#"{"output": "8", "reasoning": "9"}"#), (9_000_000, None));
        let unknown = serde_json::from_str::<NamedRates>(r#"{"input": "1", "tokens_in": "2"}"#).unwrap_err();
        assert!(unknown.to_string().contains("there is no class \"tokens_in\""), "{unknown}");
    }
}

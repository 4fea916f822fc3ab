//! From the file's limits and prices to those of the domain.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::raw;
use crate::domain::limit::Source;
use crate::domain::{Class, Limit};
use crate::pricing::rates::NamedRates;
use crate::pricing::sheet::Override;
use crate::rulebook::rule::{LimitRule, OnlyRule};

/// A mistake: the key it is at, and what is wrong.
pub type Problem = (String, String);

/// The limits of the file.
pub(super) fn limits(raw: &[raw::Limit], zone: &str, problems: &mut Vec<Problem>) -> Vec<Arc<Limit>> {
    let mut limits: Vec<Arc<Limit>> = Vec::new();
    for (at, limit) in raw.iter().enumerate() {
        match rule(limit).limit(&limit.name, zone) {
            Ok(_) if limits.iter().any(|known| *known.name == limit.name) => {
                let problem = format!("another limit is named {:?}; names are unique", limit.name);
                problems.push((format!("limit[{at}].name"), problem));
            }
            Ok(parsed) => limits.push(Arc::new(Limit { source: Source::File, ..parsed })),
            Err(error) => problems.push((format!("limit[{at}].{}", error.field), error.problem)),
        }
    }
    limits
}

fn rule(limit: &raw::Limit) -> LimitRule {
    LimitRule {
        per: limit.per.clone(),
        only: OnlyRule {
            project: limit.only.project.clone(),
            key: limit.only.key.clone(),
            model: limit.only.model.clone(),
            tag: limit.only.tag.clone(),
        },
        unit: limit.unit.clone(),
        window: limit.window.clone(),
        zone: limit.zone.clone(),
        soft: limit.soft.iter().map(raw::Amount::text).collect(),
        hard: limit.hard.as_ref().map(raw::Amount::text),
        mode: limit.mode.clone(),
    }
}

/// The operator's prices.
pub(super) fn prices(raw: &[raw::Price], problems: &mut Vec<Problem>) -> Vec<Override> {
    let mut prices = Vec::new();
    for (at, price) in raw.iter().enumerate() {
        let from = price.effective_from.as_deref().map(|day| {
            let date = day.parse::<jiff::civil::Date>().ok();
            date.and_then(|date| date.to_zoned(jiff::tz::TimeZone::UTC).ok())
        });
        let effective_from_s = match from {
            Some(None) => {
                let problem = "write a day as 2026-12-01".to_owned();
                problems.push((format!("price[{at}].effective_from"), problem));
                continue;
            }
            Some(Some(start)) => Some(start.timestamp().as_second()),
            None => None,
        };
        prices.push(Override {
            model: price.model.clone(),
            effective_from_s,
            rates: rates(price),
            long_above: price.long_context_above_input_tokens,
            max_input_tokens: price.max_input_tokens,
            max_output_tokens: price.max_output_tokens,
        });
    }
    prices
}

fn rates(price: &raw::Price) -> NamedRates {
    let long = price.long.as_ref().map(|long| {
        let classes = named([
            (Class::Input, &long.input),
            (Class::CachedInput, &long.cached_input),
            (Class::CacheWrite, &long.cache_write),
            (Class::CacheWrite12h, &long.cache_write_12h),
            (Class::Output, &long.output),
        ]);
        Box::new(NamedRates { classes, long: None })
    });
    let classes = named([
        (Class::Input, &price.input),
        (Class::CachedInput, &price.cached_input),
        (Class::CacheWrite, &price.cache_write),
        (Class::CacheWrite12h, &price.cache_write_12h),
        (Class::AudioInput, &price.audio_input),
        (Class::ImageInput, &price.image_input),
        (Class::Output, &price.output),
        (Class::AudioOutput, &price.audio_output),
        (Class::ImageOutput, &price.image_output),
        (Class::Images, &price.images),
        (Class::Characters, &price.characters),
        (Class::AudioSeconds, &price.audio_seconds),
    ]);
    NamedRates { classes, long }
}

fn named<const N: usize>(rates: [(Class, &Option<raw::Amount>); N]) -> BTreeMap<Class, String> {
    rates.into_iter().filter_map(|(class, rate)| Some((class, rate.as_ref()?.text()))).collect()
}

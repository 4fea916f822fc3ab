//! `spendguard prices …`: the sheet that comes with this binary.

use serde_json::json;

use crate::cli::args::PricesCommand;
use crate::cli::{Failure, Format, say, table};
use crate::clock::Clock;
use crate::domain::demand::Tier;
use crate::pricing::rates::Rates;
use crate::pricing::sheet::{Price, Sheet};

pub(super) fn run(command: PricesCommand, format: Format) -> Result<(), Failure> {
    let sheet = Sheet::built_in(&[]).map_err(|error| Failure::failed(error.to_string()))?;
    let now_s = Clock::default().now_s();
    match command {
        PricesCommand::List => list(format, &sheet, now_s),
        PricesCommand::Show { model } => {
            let price = sheet.find(&model, now_s);
            let price =
                price.ok_or_else(|| Failure::failed(format!("the sheet has no price for {model:?}")))?;
            show(format, &price)
        }
        PricesCommand::Check => {
            let days = sheet.age_s(now_s) / 86_400;
            let is_stale = sheet.is_stale(now_s);
            let answer = json!({ "version": sheet.version(), "age_days": days, "stale": is_stale });
            let told = format!("price sheet {} is {days} days old", sheet.version());
            let is_told = table::programs(format, &answer);
            if is_stale {
                return Err(Failure::failed(format!(
                    "{told}; prices have probably changed, update spendguard or add [[price]]s"
                )));
            }
            if !is_told {
                say(&told);
            }
            Ok(())
        }
    }
}

/// Picodollars per token as dollars per million tokens.
fn usd(pico: u64) -> String {
    let text = crate::domain::Money::from_nano(i64::try_from(pico).unwrap_or(i64::MAX).saturating_mul(1_000));
    text.to_string()
}

const COLUMNS: [table::Column; 6] = [
    ("MODEL", false),
    ("RATES", false),
    ("INPUT", true),
    ("CACHED", true),
    ("CACHE WRITE", true),
    ("OUTPUT", true),
];

fn row(price: &Price, name: &str, rates: &Rates) -> Vec<String> {
    let cells = [rates.input, rates.cached_input, rates.cache_write, rates.output].map(usd);
    [price.id.to_string(), name.to_owned()].into_iter().chain(cells).collect()
}

fn list(format: Format, sheet: &Sheet, now_s: i64) -> Result<(), Failure> {
    if format == Format::Table {
        say(&format!("US dollars per million tokens, sheet {}", sheet.version()));
    }
    let rows: Vec<_> = sheet
        .models(now_s)
        .iter()
        .map(|price| row(price, "default", price.rates(Tier::Standard, 0)))
        .collect();
    table::print(format, &COLUMNS, &rows)
}

fn show(format: Format, price: &Price) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for tier in [Tier::Standard, Tier::Flex, Tier::Priority, Tier::Ultrafast] {
        rows.push(row(price, tier.name(), price.rates(tier, 0)));
        if price.long_above.is_some() {
            rows.push(row(price, &format!("{}, long", tier.name()), price.rates(tier, u64::MAX)));
        }
    }
    table::print(format, &COLUMNS, &rows)?;
    if format != Format::Table {
        return Ok(());
    }
    if let Some(above) = price.long_above {
        say(&format!("long: the whole request, once its input exceeds {above} tokens"));
    }
    let most =
        |tokens: Option<u64>| tokens.map_or_else(|| "not published".to_owned(), |tokens| tokens.to_string());
    say(&format!(
        "at most {} tokens in, {} out",
        most(price.max_input_tokens),
        most(price.max_output_tokens)
    ));
    Ok(())
}

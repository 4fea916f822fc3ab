//! `spendguard prices …`: the price sheet in force, and updates of it.

mod replace;
mod update;

use std::path::Path;

use serde_json::Value;

use crate::admin::prices::PricesView;
use crate::cli::args::PricesCommand;
use crate::cli::{Cli, Connection, Failure, Format, say, table};
use crate::clock::Clock;
use crate::config::{self, Settings};
use crate::domain::Class;
use crate::domain::demand::Tier;
use crate::pricing::rates::Rates;
use crate::pricing::sheet::{Price, Sheet};

/// Runs a command on prices. `connect` finds the guard, which only `check` needs.
pub async fn run(
    command: PricesCommand,
    format: Format,
    arguments: &Cli,
    connect: impl Fn() -> Result<Connection, Failure>,
) -> Result<(), Failure> {
    let config = arguments.config.as_deref();
    let now_s = Clock::default().now_s();
    match command {
        PricesCommand::List => list(format, &sheet(config)?, now_s),
        PricesCommand::Show { model } => {
            let price = sheet(config)?.find(&model, now_s);
            let price =
                price.ok_or_else(|| Failure::failed(format!("the sheet has no price for {model:?}")))?;
            show(format, &price)
        }
        PricesCommand::Update(args) => update::update(&args, format, config).await,
        PricesCommand::Check => match connect()?.get("/guard/v1/prices").await {
            Ok(answer) => check(format, &answer, "of the running guard"),
            // A guard that was named explicitly must answer.
            Err(failure) if failure.is_unreachable && arguments.admin_url.is_none() => {
                let settings = settings(config)?;
                let view = PricesView::of(&sheet_of(&settings)?, settings.pricing.file.as_deref(), now_s);
                check(format, &serde_json::json!(view), "of the configuration, as no guard could be asked")
            }
            Err(failure) => Err(failure),
        },
    }
}

fn settings(config: Option<&Path>) -> Result<Settings, Failure> {
    config::load(config, std::env::vars()).map_err(|error| Failure::wrong(error.to_string()))
}

/// The sheet of the configuration, with its prices and its region.
fn sheet(config: Option<&Path>) -> Result<Sheet, Failure> {
    sheet_of(&settings(config)?)
}

fn sheet_of(settings: &Settings) -> Result<Sheet, Failure> {
    settings.pricing.sheet().map_err(|error| Failure::failed(error.to_string()))
}

/// Judges a sheet by the admin API's description of it.
fn check(format: Format, answer: &Value, whose: &str) -> Result<(), Failure> {
    let (version, days) = (table::text(answer, "version"), table::text(answer, "age_days"));
    let from = answer["file"].as_str().map_or("built-in".to_owned(), str::to_owned);
    let is_printed = table::programs(format, answer);
    let said = format!("price sheet {version} ({from}), {whose}, is {days} days old");
    if answer["stale"] == true {
        return Err(Failure::failed(format!(
            "{said}; prices have probably changed: spendguard prices update, or add [[price]]s"
        )));
    }
    if !is_printed {
        say(&said);
    }
    Ok(())
}

/// The day of an instant in Unix seconds.
fn day_of(at_s: i64) -> String {
    jiff::Timestamp::from_second(at_s).map_or_else(|_| at_s.to_string(), |at| at.strftime("%F").to_string())
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
    let cells =
        [Class::Input, Class::CachedInput, Class::CacheWrite, Class::Output].map(|class| usd(rates[class]));
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
    for tier in [Tier::Standard, Tier::Decisions, Tier::Batch, Tier::Flex, Tier::Priority, Tier::Ultrafast] {
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

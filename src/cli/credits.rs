//! `spendguard credits …`.

use http::Method;
use serde_json::{Value, json};

use crate::cli::args::CreditsCommand;
use crate::cli::table::{self, money, text, time};
use crate::cli::{Connection, Failure, Format, say};
use crate::clock::Clock;
use crate::config::units;

pub(super) async fn run(
    command: CreditsCommand,
    format: Format,
    connection: &Connection,
) -> Result<(), Failure> {
    match command {
        CreditsCommand::Add { usd, note, expires } => {
            let mut body = json!({ "amount_usd": usd, "note": note });
            body["expires_at"] = expires.as_deref().map(in_time).transpose()?.into();
            let made = connection.call(Method::POST, "/guard/v1/credits", Some(body)).await?;
            let words = format!("{} grants {} USD", text(&made, "id"), money(&made, "amount_usd"));
            table::outcome(format, &made, &words);
            Ok(())
        }
        CreditsCommand::Balance => balance(format, connection).await,
    }
}

/// Unix seconds after a duration such as `365d`.
fn in_time(text: &str) -> Result<i64, Failure> {
    let duration = units::duration(text).map_err(Failure::wrong)?;
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    Ok(Clock::default().now_s().saturating_add(seconds))
}

async fn balance(format: Format, connection: &Connection) -> Result<(), Failure> {
    let credits = connection.get("/guard/v1/credits").await?;
    if table::programs(format, &credits) {
        return Ok(());
    }
    let grants = credits["grants"].as_array().cloned().unwrap_or_default();
    if format == Format::Table {
        if grants.is_empty() {
            say("no credit was ever granted, so none is asked for");
            return Ok(());
        }
        let amount = |field| money(&credits, field);
        say(&format!("balance {} USD, {} of it held", amount("balance_usd"), amount("held_usd")));
        say(&format!(
            "granted {}, used {}, expired {}\n",
            amount("granted_usd"),
            amount("used_usd"),
            amount("expired_usd")
        ));
    }
    let columns = [
        ("ID", false),
        ("CREATED", false),
        ("AMOUNT USD", true),
        ("USED USD", true),
        ("EXPIRES", false),
        ("STATUS", false),
        ("NOTE", false),
    ];
    let row = |grant: &Value| {
        vec![
            text(grant, "id"),
            time(grant, "created_at"),
            money(grant, "amount_usd"),
            money(grant, "used_usd"),
            time(grant, "expires_at"),
            text(grant, "status"),
            text(grant, "note"),
        ]
    };
    table::print(format, &columns, &grants.iter().map(row).collect::<Vec<_>>())
}

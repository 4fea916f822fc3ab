//! The arguments of `spendguard limits`.

use std::path::PathBuf;

use clap::Subcommand;
use clap::builder::PossibleValuesParser;

use crate::domain::Window;
use crate::domain::limit::{Per, Unit};

/// `spendguard limits …`.
#[derive(Clone, Debug, Subcommand)]
pub enum LimitsCommand {
    /// List limits with their meters.
    #[command(after_help = "Example: spendguard limits list")]
    List,
    /// Make or change a limit.
    #[command(after_help = "Example: spendguard limits set budget --window month --hard 24 --soft 50%")]
    Set {
        /// Its name.
        name: String,
        /// For whom it counts separately: organization, project, key, user, model or tag:NAME.
        #[arg(long, default_value = "organization", value_parser = per)]
        per: String,
        /// What it counts.
        #[arg(long, default_value = "usd", value_parser = PossibleValuesParser::new(Unit::ALL.map(Unit::name)))]
        unit: String,
        /// Over which window of the calendar; `request` caps each request.
        #[arg(long, value_parser = PossibleValuesParser::new(Window::ALL.map(Window::name)))]
        window: String,
        /// The cap.
        #[arg(long)]
        hard: Option<String>,
        /// Soft thresholds, such as 12 or 50%.
        #[arg(long, value_delimiter = ',')]
        soft: Vec<String>,
        /// The requests that it applies to: project=chatbot, key=…, model=gpt-5* or tag:team=search.
        #[arg(long)]
        only: Vec<String>,
        /// IANA time zone.
        #[arg(long)]
        zone: Option<String>,
        /// Only count and log the requests that would be refused.
        #[arg(long)]
        shadow: bool,
    },
    /// Remove a limit that was not made by the configuration file.
    #[command(after_help = "Example: spendguard limits remove budget")]
    Remove {
        /// Its name.
        name: String,
    },
    /// Show what the limits of a file would have rejected in the past.
    #[command(after_help = "Example: spendguard limits try --file new.toml --since 30d")]
    Try {
        /// The file: `[[limit]]` tables in the form of the configuration, whatever else is in it.
        #[arg(long)]
        file: PathBuf,
        /// From which day or Unix second, or how long ago, such as 30d.
        #[arg(long, default_value = "30d")]
        since: String,
        /// Until which day or Unix second, exclusive. Default: now.
        #[arg(long)]
        until: Option<String>,
    },
    /// Show which entries and holds make up a limit's number.
    #[command(after_help = "Example: spendguard limits explain monthly-budget")]
    Explain {
        /// Its name.
        name: String,
    },
}

fn per(text: &str) -> Result<String, String> {
    Per::named(text).map(|per| per.name().into_owned()).ok_or_else(|| format!("use {}", Per::NAMES))
}

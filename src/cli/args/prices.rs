//! The arguments of `spendguard prices`.

use clap::{Args, Subcommand};

/// `spendguard prices …`.
#[derive(Clone, Debug, Subcommand)]
pub enum PricesCommand {
    /// List all models with their standard rates.
    #[command(after_help = "Example: spendguard prices list")]
    List,
    /// Show one model with all its rates.
    #[command(after_help = "Example: spendguard prices show gpt-6.1-sol")]
    Show {
        /// The model, by any of its names.
        model: String,
    },
    /// Check whether the price sheet of the running guard is up to date; without a guard, that of the
    /// configuration.
    #[command(after_help = "Example: spendguard prices check")]
    Check,
    /// Install a newer price sheet, and show what it changes.
    #[command(
        after_help = "Example: spendguard prices update prices.json --sha256 8f8060d8ce7a40c91b995c74d6a27657543d49e3c1c53430dabd556f244392c6"
    )]
    Update(UpdateArgs),
}

/// `spendguard prices update`.
#[derive(Clone, Debug, Args)]
pub struct UpdateArgs {
    /// A file in the form of config/prices.json, or its https:// URL.
    pub source: String,
    /// The published SHA-256 of the sheet: 64 hexadecimal digits.
    #[arg(long, value_parser = sha256)]
    pub sha256: String,
    /// Accept a sheet that is older than the one in force.
    #[arg(long)]
    pub older: bool,
}

fn sha256(text: &str) -> Result<String, String> {
    let is_digest = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_digest { Ok(text.to_owned()) } else { Err("a SHA-256 has 64 hexadecimal digits".to_owned()) }
}

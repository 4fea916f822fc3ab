//! The arguments of `spendguard prices`.

use clap::{Args, Subcommand};

/// `spendguard prices …`.
#[derive(Clone, Debug, Subcommand)]
pub enum PricesCommand {
    /// All models with their standard rates.
    #[command(after_help = "Example: spendguard prices list")]
    List,
    /// One model with all its rates.
    #[command(after_help = "Example: spendguard prices show gpt-6.1-sol")]
    Show {
        /// The model, by any of its names.
        model: String,
    },
    /// Whether the sheet that a running guard has in force is fresh; without one, that of the configuration.
    #[command(after_help = "Example: spendguard prices check")]
    Check,
    /// Put a newer sheet where the guard reads it, and say what it changes.
    #[command(
        after_help = "Example: spendguard prices update prices.json --sha256 8f8060d8ce7a40c91b995c74d6a27657543d49e3c1c53430dabd556f244392c6"
    )]
    Update(UpdateArgs),
}

/// `spendguard prices update`.
#[derive(Clone, Debug, Args)]
pub struct UpdateArgs {
    /// A file of the form of config/prices.json, or its https:// address.
    pub source: String,
    /// SHA-256 of the sheet, as its maker says: 64 hexadecimal digits.
    #[arg(long, value_parser = sha256)]
    pub sha256: String,
    /// Take a sheet that is older than the one in force.
    #[arg(long)]
    pub older: bool,
}

fn sha256(text: &str) -> Result<String, String> {
    let is_digest = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_digest { Ok(text.to_owned()) } else { Err("a SHA-256 has 64 hexadecimal digits".to_owned()) }
}

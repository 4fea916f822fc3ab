//! The arguments about the ledger.

use clap::Subcommand;

/// `spendguard ledger …`.
#[derive(Clone, Debug, Subcommand)]
pub enum LedgerCommand {
    /// Show the newest entries.
    #[command(after_help = "Example: spendguard ledger tail -f")]
    Tail {
        /// Keep printing new entries.
        #[arg(short, long)]
        follow: bool,
        /// How many entries.
        #[arg(short = 'n', long, default_value_t = 20)]
        number: usize,
    },
    /// Export all entries, oldest first.
    #[command(after_help = "Example: spendguard ledger export --format csv > ledger.csv")]
    Export {
        /// From which day or Unix second.
        #[arg(long)]
        since: Option<String>,
        /// Until which day or Unix second, exclusive.
        #[arg(long)]
        until: Option<String>,
    },
    /// Correct an entry by a new one.
    #[command(
        after_help = "Example: spendguard ledger adjust ent_42 --usd=-1.23 --note 'refunded by OpenAI'"
    )]
    Adjust {
        /// The entry's id.
        entry: String,
        /// Dollars to add, or with a minus to take away.
        #[arg(long, allow_hyphen_values = true)]
        usd: String,
        /// The reason.
        #[arg(long)]
        note: String,
    },
    /// Verify the ledger: compare all that it stores twice, and explain each difference.
    #[command(after_help = "Example: spendguard ledger verify")]
    Verify,
}

//! The arguments of `spendguard storage`.

use clap::Subcommand;

/// `spendguard storage …`.
#[derive(Clone, Debug, Subcommand)]
pub enum StorageCommand {
    /// Show sizes, rows, how far back entries reach, and the free disk space.
    #[command(after_help = "Example: spendguard storage status --format json")]
    Status,
    /// Delete old entries; the sums of their quarters of an hour and days stay.
    #[command(after_help = "Example: spendguard storage prune --before 2026-01-01 --dry-run")]
    Prune {
        /// The first day or Unix second whose entries are kept.
        #[arg(long)]
        before: String,
        /// Only count the entries that would be pruned.
        #[arg(long)]
        dry_run: bool,
    },
}

/// What to do with the guards that share a database.
#[derive(Clone, Debug, Subcommand)]
pub enum NodesCommand {
    /// List them: those that are alive first, then the latest others.
    #[command(after_help = "Example: spendguard nodes list")]
    List,
}

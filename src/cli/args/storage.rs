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
    /// Copy a stopped guard's ledger from SQLite to PostgreSQL or back, and verify the copy.
    ///
    /// All guards must be stopped. The target must be empty. If the copy is interrupted, the same
    /// command goes on with it; until it is whole, no guard starts on the target. The source is
    /// left as it is.
    #[command(
        after_help = "Example: spendguard storage migrate --from spendguard-data --to env:DATABASE_URL"
    )]
    Migrate(MigrateArgs),
}

/// From where to where a ledger is copied.
#[derive(Clone, Debug, clap::Args)]
pub struct MigrateArgs {
    /// The ledger: a data folder, or a database as `postgres://…`, as `env:NAME` with its URL in a
    /// variable of the environment, or as `file:PATH` with its URL in a file.
    #[arg(long)]
    pub from: String,
    /// Where it is copied to, in the same forms.
    #[arg(long)]
    pub to: String,
    /// The schema of the tables in PostgreSQL.
    #[arg(long, default_value = "spendguard")]
    pub schema: String,
}

/// What to do with the guards that share a database.
#[derive(Clone, Debug, Subcommand)]
pub enum NodesCommand {
    /// List them: those that are alive first, then the latest others.
    #[command(after_help = "Example: spendguard nodes list")]
    List,
}

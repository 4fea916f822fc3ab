//! The arguments, as clap reads them.

mod format;
mod ledger;
mod limits;
mod prices;
mod stops;
mod storage;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use clap_complete::Shell;

pub use format::Format;
pub(crate) use ledger::LedgerCommand;
pub(crate) use limits::LimitsCommand;
pub(crate) use prices::{PricesCommand, UpdateArgs};
pub(crate) use stops::{FusesCommand, KillSwitchCommand};
pub(crate) use storage::{MigrateArgs, NodesCommand, StorageCommand};

/// A spend guard in front of the OpenAI API.
#[derive(Clone, Debug, Parser)]
#[command(version, about, after_help = "Example: spendguard demo    # a tour without an OpenAI key")]
pub struct Cli {
    /// The URL of the guard's admin API.
    #[arg(long, global = true, env = "SPENDGUARD_ADMIN_URL")]
    pub admin_url: Option<String>,
    /// A file with the admin token.
    #[arg(long, global = true)]
    pub token_file: Option<PathBuf>,
    /// The configuration file.
    #[arg(long, global = true)]
    pub config: Option<PathBuf>,
    /// The subcommand.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Serve: the main job. No configuration file is needed.
    #[command(after_help = "Example: OPENAI_API_KEY=sk-… spendguard serve --config config/spendguard.toml")]
    Serve {},
    /// Show the product with a fake OpenAI: keys, limits that are reached, traffic.
    #[command(after_help = "Example: spendguard demo")]
    Demo {
        /// Run only the fake OpenAI, for tests.
        #[arg(long)]
        upstream_only: bool,
        /// Where the fake OpenAI listens with --upstream-only.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// How long the demo sends traffic, in seconds.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Read a configuration and print what would be in force.
    #[command(after_help = "Example: spendguard check --config config/spendguard.toml")]
    Check {},
    /// Information about the configuration file.
    #[command(after_help = "Example: spendguard config schema > spendguard.schema.json")]
    Config {
        /// The subcommand.
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Make, list, rotate and revoke keys.
    #[command(after_help = "Example: spendguard keys create --name chatbot")]
    Keys {
        /// The subcommand.
        #[command(subcommand)]
        command: KeysCommand,
        /// The output format.
        #[arg(long, global = true, value_enum, default_value_t)]
        format: Format,
    },
    /// Make, list and archive projects.
    #[command(after_help = "Example: spendguard projects create Chatbot --id chatbot")]
    Projects {
        /// The subcommand.
        #[command(subcommand)]
        command: ProjectsCommand,
        /// The output format.
        #[arg(long, global = true, value_enum, default_value_t)]
        format: Format,
    },
    /// See, set and explain limits.
    #[command(after_help = "Example: spendguard limits set budget --window month --hard 24 --soft 50%")]
    Limits {
        /// The subcommand.
        #[command(subcommand)]
        command: LimitsCommand,
        /// The output format.
        #[arg(long, global = true, value_enum, default_value_t)]
        format: Format,
    },
    /// Stop all spending of a key, a project or the organization, and allow it again.
    #[command(after_help = "Example: spendguard kill-switch on key_abc --note 'its secret has leaked'")]
    KillSwitch {
        /// The subcommand.
        #[command(subcommand)]
        command: KillSwitchCommand,
        /// The output format.
        #[arg(long, global = true, value_enum, default_value_t)]
        format: Format,
    },
    /// See fuses, and reset those that have blown.
    #[command(after_help = "Example: spendguard fuses reset runaway")]
    Fuses {
        /// The subcommand.
        #[command(subcommand)]
        command: FusesCommand,
        /// The output format.
        #[arg(long, global = true, value_enum, default_value_t)]
        format: Format,
    },
    /// Add prepaid credit, and see what is left of it.
    #[command(after_help = "Example: spendguard credits add 25.00 --note 'purchase order 7'")]
    Credits {
        /// The subcommand.
        #[command(subcommand)]
        command: CreditsCommand,
        /// The output format.
        #[arg(long, global = true, value_enum, default_value_t)]
        format: Format,
    },
    /// Show what was spent.
    Usage(UsageArgs),
    /// Read, export, correct and prove the ledger.
    #[command(after_help = "Example: spendguard ledger tail -f")]
    Ledger {
        /// The subcommand.
        #[command(subcommand)]
        command: LedgerCommand,
        /// The output format; an export is CSV by default.
        #[arg(long, global = true, value_enum)]
        format: Option<Format>,
    },
    /// List the guards that share a database.
    #[command(after_help = "Example: spendguard nodes list")]
    Nodes {
        /// The subcommand.
        #[command(subcommand)]
        command: NodesCommand,
        /// The output format.
        #[arg(long, global = true, value_enum, default_value_t)]
        format: Format,
    },
    /// Show the disk space that the ledger uses, prune it, and move it to another engine.
    #[command(after_help = "Example: spendguard storage status")]
    Storage {
        /// The subcommand.
        #[command(subcommand)]
        command: StorageCommand,
        /// The output format.
        #[arg(long, global = true, value_enum, default_value_t)]
        format: Format,
    },
    /// See the price sheet.
    #[command(after_help = "Example: spendguard prices show gpt-5")]
    Prices {
        /// The subcommand.
        #[command(subcommand)]
        command: PricesCommand,
        /// The output format.
        #[arg(long, global = true, value_enum, default_value_t)]
        format: Format,
    },
    /// List alerts, and test their channels.
    #[command(after_help = "Example: spendguard alerts test")]
    Alerts {
        /// The subcommand.
        #[command(subcommand)]
        command: AlertsCommand,
        /// The output format.
        #[arg(long, global = true, value_enum, default_value_t)]
        format: Format,
    },
    /// Print the completions of a shell.
    #[command(after_help = "Example: spendguard completions bash > /etc/bash_completion.d/spendguard")]
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// Write a man page for each command into a folder.
    #[command(after_help = "Example: spendguard man /usr/local/share/man/man1")]
    Man {
        /// The folder, which must be there.
        folder: PathBuf,
    },
}

/// `spendguard config …`.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the JSON Schema of the configuration file.
    #[command(after_help = "Example: spendguard config schema > spendguard.schema.json")]
    Schema,
}

/// `spendguard keys …`.
#[derive(Clone, Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a key; its secret is shown once.
    #[command(after_help = "Example: spendguard keys create --name chatbot --expires 30d --models 'gpt-5*'")]
    Create(NewKeyArgs),
    /// Import a secret that is already in use, read from standard input.
    #[command(after_help = "Example: spendguard keys import --name legacy < secret.txt")]
    Import(NewKeyArgs),
    /// List keys.
    #[command(after_help = "Example: spendguard keys list --format json")]
    List,
    /// Give a key a new secret.
    #[command(after_help = "Example: spendguard keys rotate key_abc --grace 1h")]
    Rotate {
        /// The key's id.
        id: String,
        /// How long the old secret still works.
        #[arg(long, default_value = "0s")]
        grace: String,
    },
    /// Revoke a key, at once.
    #[command(after_help = "Example: spendguard keys revoke key_abc")]
    Revoke {
        /// The key's id.
        id: String,
    },
}

/// A key to be made.
#[derive(Clone, Debug, clap::Args)]
pub struct NewKeyArgs {
    /// The name shown to people.
    #[arg(long)]
    pub name: String,
    /// Its project, by id or name.
    #[arg(long)]
    pub project: Option<String>,
    /// How long it is valid, such as 30d or 12h.
    #[arg(long)]
    pub expires: Option<String>,
    /// Models it may use; all if none is given.
    #[arg(long, value_delimiter = ',')]
    pub models: Vec<String>,
    /// Read a chosen secret from standard input.
    #[arg(long)]
    pub secret_stdin: bool,
}

/// `spendguard projects …`.
#[derive(Clone, Debug, Subcommand)]
pub enum ProjectsCommand {
    /// Make a project.
    #[command(after_help = "Example: spendguard projects create Chatbot --id chatbot")]
    Create {
        /// The name shown to people.
        name: String,
        /// Its id; a random one if absent.
        #[arg(long)]
        id: Option<String>,
    },
    /// List projects.
    #[command(after_help = "Example: spendguard projects list")]
    List,
    /// Archive a project; its keys are refused.
    #[command(after_help = "Example: spendguard projects archive chatbot")]
    Archive {
        /// The project's id.
        id: String,
    },
}

/// `spendguard usage …`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example: spendguard usage --by model --since 2026-11-01 --format csv")]
pub struct UsageArgs {
    /// The grouping: key, project, model, user, day, endpoint or tag.
    #[arg(long, default_value = "key", value_parser = ["key", "project", "model", "user", "day", "endpoint", "tag"])]
    pub by: String,
    /// From which day or Unix second. Default: the start of this month.
    #[arg(long)]
    pub since: Option<String>,
    /// Until which day or Unix second, exclusive. Default: now.
    #[arg(long)]
    pub until: Option<String>,
    /// The output format.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `spendguard credits …`.
#[derive(Clone, Debug, Subcommand)]
pub enum CreditsCommand {
    /// Grant credit; from the first grant on, requests without credit are refused.
    #[command(after_help = "Example: spendguard credits add 25.00 --note 'purchase order 7' --expires 365d")]
    Add {
        /// US dollars.
        usd: String,
        /// The reason or the purpose.
        #[arg(long, default_value = "")]
        note: String,
        /// How long it can be spent, such as 365d. Default: no expiry.
        #[arg(long)]
        expires: Option<String>,
    },
    /// Show the grants and the balance.
    #[command(after_help = "Example: spendguard credits balance --format json")]
    Balance,
}

/// `spendguard alerts …`.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum AlertsCommand {
    /// Send a test message through every channel.
    #[command(after_help = "Example: spendguard alerts test")]
    Test,
    /// List what was sent, what is waiting, and what failed.
    #[command(after_help = "Example: spendguard alerts list")]
    List,
}

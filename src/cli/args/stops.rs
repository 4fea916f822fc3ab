//! The arguments about kill switches and fuses.

use clap::Subcommand;

/// `spendguard kill-switch …`.
#[derive(Clone, Debug, Subcommand)]
pub enum KillSwitchCommand {
    /// Stop all spending of a key, a project or the organization, at once.
    #[command(after_help = "Example: spendguard kill-switch on key_abc --note 'its secret has leaked'")]
    On {
        /// `organization`, or the id of a project or key.
        subject: String,
        /// Why, for other operators.
        #[arg(long)]
        note: Option<String>,
    },
    /// Allow spending again.
    #[command(after_help = "Example: spendguard kill-switch off key_abc")]
    Off {
        /// `organization`, or the id of a project or key.
        subject: String,
    },
    /// List what is stopped, also by fuses.
    #[command(after_help = "Example: spendguard kill-switch list")]
    List,
}

/// `spendguard fuses …`.
#[derive(Clone, Debug, Subcommand)]
pub enum FusesCommand {
    /// List fuses with those who have spent the most.
    #[command(after_help = "Example: spendguard fuses list")]
    List,
    /// Reset a fuse that has blown.
    #[command(after_help = "Example: spendguard fuses reset runaway --subject key_abc")]
    Reset {
        /// Its name.
        name: String,
        /// `organization`, or the id of a project or key; all for whom it has blown if absent.
        #[arg(long)]
        subject: Option<String>,
    },
}

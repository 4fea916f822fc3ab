//! The command line: what people type, and tables for them to read.
//!
//! All but `serve`, `demo`, `check` and `config` talk to the admin API of a
//! running guard; on the same machine they find it and its token themselves.

mod alerts;
mod api;
mod args;
mod credits;
mod keys;
mod ledger;
mod limits;
mod prices;
mod table;
mod usage;

mod print {
    use std::io::Write as _;

    /// Prints a line to standard output; a reader that has gone is no error.
    pub fn say(line: &str) {
        let _ = writeln!(std::io::stdout(), "{line}");
    }

    /// Prints a line to standard error.
    pub fn complain(line: &str) {
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}

pub use api::{Connection, Failure};
pub use args::{Cli, Command, Format};
pub use print::{complain, say};

/// Runs a command against a running guard.
pub async fn run(command: Command, connection: &Connection) -> Result<(), Failure> {
    match command {
        Command::Keys { command } => keys::run(command, connection).await,
        Command::Projects { command } => keys::projects(command, connection).await,
        Command::Limits { command } => limits::run(command, connection).await,
        Command::Credits { command } => credits::run(command, connection).await,
        Command::Usage(wanted) => usage::run(wanted, connection).await,
        Command::Ledger { command } => ledger::run(command, connection).await,
        Command::Prices { command } => prices::run(command),
        Command::Alerts { command } => alerts::run(command, connection).await,
        Command::Serve { .. } | Command::Demo { .. } | Command::Check { .. } | Command::Config { .. } => {
            Err(Failure::wrong("this command does not talk to a guard"))
        }
    }
}

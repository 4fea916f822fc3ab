//! The command line: the commands, and their output as tables.
//!
//! All but `serve`, `demo`, `check`, `config` and `storage migrate` talk to the admin API of a
//! running guard; on the same machine they find it and its token themselves.

mod alerts;
mod api;
mod args;
mod credits;
mod keys;
mod ledger;
mod limits;
mod manual;
mod migrate;
mod nodes;
mod prices;
mod stops;
mod storage;
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
pub(crate) use args::StorageCommand;
pub use args::{Cli, Command, Format};
pub use manual::{completions, pages};
pub(crate) use migrate::run as migrate;
pub use prices::run as prices;
pub use print::{complain, say};

/// Runs a command against a running guard.
pub async fn run(command: Command, connection: &Connection) -> Result<(), Failure> {
    match command {
        Command::Keys { command, format } => keys::run(command, format, connection).await,
        Command::Projects { command, format } => keys::projects(command, format, connection).await,
        Command::Limits { command, format } => limits::run(command, format, connection).await,
        Command::KillSwitch { command, format } => stops::kill_switch(command, format, connection).await,
        Command::Fuses { command, format } => stops::fuses(command, format, connection).await,
        Command::Credits { command, format } => credits::run(command, format, connection).await,
        Command::Usage(args) => usage::run(args, connection).await,
        Command::Ledger { command, format } => ledger::run(command, format, connection).await,
        Command::Nodes { command, format } => nodes::run(command, format, connection).await,
        Command::Storage { command, format } => storage::run(command, format, connection).await,
        Command::Alerts { command, format } => alerts::run(command, format, connection).await,
        Command::Serve { .. }
        | Command::Demo { .. }
        | Command::Check { .. }
        | Command::Config { .. }
        | Command::Prices { .. }
        | Command::Completions { .. }
        | Command::Man { .. } => Err(Failure::wrong("this command does not talk to a guard")),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;

    /// Splits a line as a shell does: quotes, environment variables, redirections.
    fn words(line: &str) -> Vec<String> {
        let line = line.split(" # ").next().unwrap_or(line);
        let parts = line.split('\'').enumerate().flat_map(|(at, part)| match at % 2 {
            0 => part.split_whitespace().map(str::to_owned).collect(),
            _ => vec![part.to_owned()],
        });
        parts.skip_while(|word| word.contains('=')).take_while(|word| word != "<" && word != ">").collect()
    }

    fn check(command: &clap::Command, path: &str) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let example = help.strip_prefix("Example: ").unwrap_or_else(|| panic!("{path} has no example"));
        let words = words(example);
        assert!(words.join(" ").starts_with(path), "{example:?} is none of {path}");
        Cli::try_parse_from(&words).unwrap_or_else(|error| panic!("{example:?}: {error}"));
        for below in command.get_subcommands() {
            check(below, &format!("{path} {}", below.get_name()));
        }
    }

    #[test]
    fn every_command_has_an_example_that_is_understood() {
        check(&Cli::command(), "spendguard");
    }
}

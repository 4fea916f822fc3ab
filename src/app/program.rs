//! The program: arguments, logging, run, exit code.
//!
//! It is part of the library so that the code of its futures is compiled there,
//! once, beside what they call. A binary that polled them would compile them all
//! again, apart from the rest.

use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;

use crate::app::{self, App, log};
use crate::cli::{self, Cli, Command, Connection, Failure, StorageCommand, complain, say};
use crate::config::{self, Settings, text};

/// Runs the program, from its arguments to its exit code.
pub fn main() -> ExitCode {
    let arguments = Cli::parse();
    let runtime = match app::runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("error: no runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(run(arguments));
    drop(runtime);
    log::flush();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&format!("error: {}", failure.message));
            failure.exit_code()
        }
    }
}

async fn run(arguments: Cli) -> Result<(), Failure> {
    let settings = || -> Result<Settings, Failure> {
        config::load(arguments.config.as_deref(), std::env::vars())
            .map_err(|error| Failure::wrong(error.to_string()))
    };
    match arguments.command.clone() {
        Command::Serve {} => {
            let settings = settings()?;
            log::start(&settings.log_level, settings.log_json);
            let app = App::start(settings, arguments.config.clone()).await.map_err(failed)?;
            app.announce();
            app.run().await.map_err(failed)
        }
        Command::Demo { upstream_only, listen, .. } if upstream_only => {
            app::demo::upstream(listen).await.map_err(failed)
        }
        Command::Demo { seconds, .. } => {
            log::start("warn", false);
            Box::pin(app::demo::run(seconds)).await.map_err(failed)
        }
        Command::Check {} => {
            say(settings()?.text.trim_end());
            Ok(())
        }
        Command::Config { .. } => {
            say(&text::schema());
            Ok(())
        }
        Command::Completions { shell } => {
            say(cli::completions(shell).trim_end());
            Ok(())
        }
        Command::Man { folder } => cli::pages(&folder),
        Command::Storage { command: StorageCommand::Migrate(args), format } => {
            log::start("warn", false);
            cli::migrate(&args, format)
        }
        Command::Prices { command, format } => {
            cli::prices(command, format, &arguments, || connection(&arguments, settings)).await
        }
        command @ (Command::Keys { .. }
        | Command::Alerts { .. }
        | Command::Projects { .. }
        | Command::Limits { .. }
        | Command::KillSwitch { .. }
        | Command::Fuses { .. }
        | Command::Credits { .. }
        | Command::Usage(_)
        | Command::Ledger { .. }
        | Command::Nodes { .. }
        | Command::Storage { .. }) => cli::run(command, &connection(&arguments, settings)?).await,
    }
}

/// The guard to talk to: the one named, else the one of the configuration,
/// which need not be there or complete for a guard on another machine.
fn connection(
    arguments: &Cli,
    settings: impl Fn() -> Result<Settings, Failure>,
) -> Result<Connection, Failure> {
    let (token_file, token) = (arguments.token_file.clone(), std::env::var("SPENDGUARD_ADMIN_TOKEN").ok());
    if let Some(url) = arguments.admin_url.clone().filter(|_| token_file.is_some() || token.is_some()) {
        return Connection::find(url, token_file, token, Path::new(""));
    }
    let settings = settings()?;
    let scheme = if settings.admin.tls.is_some() { "https" } else { "http" };
    let url = arguments.admin_url.clone().unwrap_or_else(|| format!("{scheme}://{}", settings.admin.listen));
    let token = settings.admin.token.map(|token| token.expose().to_owned());
    let data_file = settings.storage_path.join("admin-token");
    Connection::find(url, token_file, token, &data_file)
}

#[expect(clippy::needless_pass_by_value, reason = "it is mapped over, by value")]
fn failed(error: app::StartError) -> Failure {
    Failure::failed(error.to_string())
}

//! Shell completions and man pages of the command line.

use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::api::Failure;
use crate::cli::args::Cli;

/// The completions of a shell, as a script for it.
pub fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "spendguard", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes a man page for each command into a folder: `spendguard.1`, `spendguard-keys.1`,
/// `spendguard-keys-create.1` and so on.
pub fn pages(folder: &Path) -> Result<(), Failure> {
    clap_mangen::generate_to(Cli::command(), folder)
        .map_err(|error| Failure::failed(format!("{}: {error}", folder.display())))
}

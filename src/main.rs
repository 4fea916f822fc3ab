//! The `spendguard` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    spendguard::app::program::main()
}

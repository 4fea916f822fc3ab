//! A release binary of the guard that runs for a benchmark.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The running guard, ended with this value.
pub(crate) struct Running {
    process: Child,
    /// Address of the proxy, as the guard prints it.
    pub(crate) proxy: String,
    /// Address of the admin listener.
    pub(crate) admin: String,
}

/// A guard with a configuration in front of an upstream; its database is in `folder`.
pub(crate) fn guard(folder: &Path, config: &str, token: &str, upstream: &str) -> Command {
    let file = folder.join("spendguard.toml");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/target/release/spendguard"));
    command
        .args(["serve", "--config", file.to_str().unwrap()])
        .env("OPENAI_API_KEY", "sk-upstream")
        .env("SPENDGUARD_ADMIN_TOKEN", token)
        .env("SPENDGUARD_SERVER__LISTEN", "127.0.0.1:0")
        .env("SPENDGUARD_ADMIN__LISTEN", "127.0.0.1:0")
        .env("SPENDGUARD_UPSTREAM__BASE_URL", upstream)
        .env("SPENDGUARD_UPSTREAM__FORWARD_HEADERS", "x-fake-*")
        .env("SPENDGUARD_STORAGE__PATH", folder.join("data"));
    command
}

impl Running {
    /// Starts a guard by its command.
    pub(crate) fn of(mut command: Command) -> Self {
        let mut process = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("cargo build --release comes first");
        let lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let (mut proxy, mut admin) = (String::new(), String::new());
        for line in lines {
            let address = line.rsplit(' ').next().unwrap_or_default().to_owned();
            match &line {
                line if line.starts_with("proxy listening") => proxy = address,
                line if line.starts_with("admin listening") => admin = address,
                line if line.contains("OPENAI_BASE_URL") => break,
                _ => {}
            }
        }
        Self { process, proxy, admin }
    }

    /// The folder under `/proc` that tells of the process.
    pub(crate) fn proc(&self) -> String {
        format!("/proc/{}", self.process.id())
    }

    /// CPU time until now, in hundredths of a second.
    pub(crate) fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("{}/stat", self.proc())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // By a signal, so that the guard closes its database.
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
    }
}

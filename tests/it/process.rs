//! A process of the real binary.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

pub(crate) const SPENDGUARD: &str = env!("CARGO_BIN_EXE_spendguard");

/// A process of the binary; killed when dropped.
pub(crate) struct Process {
    child: Child,
    lines: Vec<String>,
}

impl Process {
    pub(crate) fn start(arguments: &[&str], environment: &[(&str, &str)], until: &str) -> Self {
        let mut child = Command::new(SPENDGUARD)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = Vec::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let last = line.contains(until);
            lines.push(line);
            if last {
                break;
            }
        }
        Self { child, lines }
    }

    pub(crate) fn address(&self, before: &str) -> String {
        let line = self.lines.iter().find(|line| line.starts_with(before)).unwrap();
        line.rsplit("://").next().unwrap().to_owned()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Waits for the end; returns the exit code.
    pub(crate) fn wait(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// SIGKILL, the end that nothing can prepare for.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

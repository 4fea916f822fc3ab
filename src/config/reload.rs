//! Noticing that files have changed, and what a change can't do while running.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::config::Settings;

/// What tells one state of a file from another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
}

/// Files that are looked at now and then.
#[derive(Clone, Debug)]
pub struct Watch {
    files: Vec<(PathBuf, Option<Stamp>)>,
}

impl Watch {
    /// Watches some files from their present state on.
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let file = |path: PathBuf| {
            let stamp = stamp(&path);
            (path, stamp)
        };
        Self { files: paths.into_iter().map(file).collect() }
    }

    /// Whether any file is another than at the last look.
    pub fn changed(&mut self) -> bool {
        let mut changed = false;
        for (path, known) in &mut self.files {
            let now = stamp(path);
            changed |= now != *known;
            *known = now;
        }
        changed
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(Stamp { modified: metadata.modified().ok(), bytes: metadata.len() })
}

/// The keys of a change that only a restart puts in force.
pub fn needs_restart(old: &Settings, new: &Settings) -> Vec<&'static str> {
    let mut keys = Vec::new();
    let mut note = |changed: bool, key| {
        if changed {
            keys.push(key);
        }
    };
    note(old.server.listen != new.server.listen, "server.listen");
    note(old.server.tls != new.server.tls, "server.tls");
    note(old.server.connections_max != new.server.connections_max, "server.connections_max");
    note(old.server.header_timeout != new.server.header_timeout, "server.header_timeout");
    note(old.server.idle_timeout != new.server.idle_timeout, "server.idle_timeout");
    note(old.admin.listen != new.admin.listen, "admin.listen");
    note(old.admin.tls != new.admin.tls, "admin.tls");
    note(old.admin.token != new.admin.token, "admin.token");
    note(old.storage_path != new.storage_path, "storage.path");
    note(old.durability != new.durability, "storage.durability");
    note(old.guard.open_requests_max != new.guard.open_requests_max, "guard.open_requests_max");
    note(old.log_json != new.log_json || old.log_level != new.log_level, "log");
    keys
}

//! Detects changed files, and changes that need a restart.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::config::Settings;

/// Identifies a state of a file. The time of modification can be set back; that of
/// the last status change can't, and a file that replaces another one has an inode
/// of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    changed: (i64, i64),
    modified: (i64, i64),
    bytes: u64,
}

/// Files that are checked from time to time.
#[derive(Clone, Debug)]
pub struct Watch {
    files: Vec<(PathBuf, Option<Stamp>)>,
}

impl Watch {
    /// Watches files, starting from their present state.
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let file = |path: PathBuf| {
            let stamp = stamp(&path);
            (path, stamp)
        };
        Self { files: paths.into_iter().map(file).collect() }
    }

    /// Replaces the watched files; for those that were watched already, the known
    /// state is kept.
    pub fn follow(&mut self, paths: impl IntoIterator<Item = PathBuf>) {
        let mut next = Self::new(paths);
        for (path, stamp) in &mut next.files {
            if let Some((_, known)) = self.files.iter().find(|(known, _)| known == path) {
                stamp.clone_from(known);
            }
        }
        *self = next;
    }

    /// Whether any file has changed since the last check.
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
    Some(Stamp {
        file: (metadata.dev(), metadata.ino()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        bytes: metadata.len(),
    })
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
    note(old.database != new.database, "storage.url and cluster");
    note(old.durability != new.durability, "storage.durability");
    note(old.guard.open_requests_max != new.guard.open_requests_max, "guard.open_requests_max");
    note(old.log_json != new.log_json || old.log_level != new.log_level, "log");
    keys
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::time::{Duration, SystemTime};

    use super::*;

    /// Writes a file whose time of modification is always the same.
    fn write(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000);
        File::options().write(true).open(path).unwrap().set_modified(at).unwrap();
    }

    #[test]
    fn a_file_of_the_same_size_and_time_is_seen_to_be_another() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("a.toml"), folder.path().join("b.toml"));
        write(&path, "hard = 24");
        let mut watch = Watch::new([path.clone()]);
        assert!(!watch.changed());
        write(&other, "hard = 12");
        fs::rename(&other, &path).unwrap();
        assert!(watch.changed(), "another file in its place");
        assert!(!watch.changed());
        std::thread::sleep(Duration::from_millis(20));
        write(&path, "hard = 36");
        assert!(watch.changed(), "the same file, written again");
        fs::remove_file(&path).unwrap();
        assert!(watch.changed() && !watch.changed());
    }

    #[test]
    fn files_that_are_watched_already_keep_the_state_that_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("a"), folder.path().join("b"));
        write(&path, "1");
        write(&other, "1");
        let mut watch = Watch::new([path.clone()]);
        fs::write(&path, "22").unwrap();
        watch.follow([path.clone(), other.clone()]);
        assert!(watch.changed(), "what changed before is not forgotten");
        fs::write(&other, "22").unwrap();
        assert!(watch.changed());
        watch.follow([path]);
        fs::write(&other, "333").unwrap();
        assert!(!watch.changed());
    }
}

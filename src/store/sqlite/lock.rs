//! The lock file: who has the ledger, and how its last run ended.
//!
//! The system frees the lock at any death. What the file says outlives it: as
//! long as it says that the ledger is open, the newest facts may be in the
//! write-ahead log alone, so a log that is gone is a ledger that forgets.

use std::fs::{File, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::store::StoreError;

/// The file's name in the data folder.
pub(super) const LOCK: &str = "lock";

/// Both words are of one length, so that one overwrites the other at once.
const OPEN: &[u8] = b"open  \n";
const CLOSED: &[u8] = b"closed\n";

/// What the lock file says of the runs before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastRun {
    /// There was none that had a ledger.
    None,
    /// It closed its ledger.
    Ended,
    /// It died with the ledger open.
    Died,
}

/// The lock, held as long as this lives.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    /// Takes the lock, unless another guard has it.
    pub(super) fn take(folder: &Path) -> Result<(Self, LastRun), StoreError> {
        let at = |source| StoreError::Folder { path: folder.to_owned(), source };
        let path = folder.join(LOCK);
        // Not truncated: its content is read once no other guard has it.
        let opened =
            File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let mut file = opened.map_err(at)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => StoreError::Locked { path: folder.to_owned() },
            TryLockError::Error(source) => at(source),
        })?;
        let mut said = Vec::new();
        file.read_to_end(&mut said).map_err(at)?;
        let last_run = match said.as_slice() {
            [] => LastRun::None,
            OPEN => LastRun::Died,
            _ => LastRun::Ended,
        };
        Ok((Self(file), last_run))
    }

    /// Says that the newest facts may be in the write-ahead log alone.
    pub(super) fn say_open(&self) -> io::Result<()> {
        self.0.write_all_at(OPEN, 0)
    }

    /// Says that the log may be merged and removed.
    pub(super) fn say_closed(&self) -> io::Result<()> {
        self.0.write_all_at(CLOSED, 0)
    }
}

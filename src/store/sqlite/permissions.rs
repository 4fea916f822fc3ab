//! Closing the data folder to other users of the machine: it says whose keys spent how
//! much.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::pricing::sheet;
use crate::store::sqlite::DATABASE;
use crate::store::sqlite::lock::LOCK;

/// What a group and others may do.
const OTHERS: u32 = 0o077;

/// Takes from other users what they may do with the folder and the ledger's files. What can't be
/// changed, as by a user who does not own it, is said in the log.
pub(super) fn close(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut is_shared = false;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_of_ledger = name.starts_with(DATABASE) || name == LOCK;
        if is_of_ledger {
            close_one(&entry.path());
        }
        // The token's file is looked at by those who read it, and prices are no secret.
        is_shared |= !is_of_ledger && name != "admin-token" && name != sheet::FILE;
    }
    if !is_shared {
        close_one(folder);
    } else if is_open(folder).unwrap_or(false) {
        tracing::warn!(
            event = "data_folder_shared",
            folder = %folder.display(),
            "the data folder has other files, too, and other users may look into it; give the guard a folder of its own"
        );
    }
}

fn is_open(path: &Path) -> io::Result<bool> {
    Ok(fs::metadata(path)?.permissions().mode() & OTHERS != 0)
}

fn close_one(path: &Path) {
    let closed = || -> io::Result<()> {
        let mode = fs::metadata(path)?.permissions().mode();
        if mode & OTHERS == 0 {
            return Ok(());
        }
        fs::set_permissions(path, Permissions::from_mode(mode & !OTHERS))
    };
    if let Err(error) = closed() {
        tracing::warn!(
            event = "file_mode_not_changed", path = %path.display(), %error,
            "other users may read it, and that can't be changed"
        );
    }
}

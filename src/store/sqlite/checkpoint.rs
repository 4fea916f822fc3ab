//! Moving the write-ahead log into the database without making anybody wait.
//!
//! A checkpoint waits for the disk, tens of milliseconds at a time. So a thread
//! of its own does it while others go on writing; only the last few pages, which
//! let the log start over, are moved while nothing is written.

use std::sync::Weak;
use std::time::Duration;

use rusqlite::Connection;

use crate::store::sqlite::leader::GroupCommit;

const EVERY: Duration = Duration::from_secs(1);
/// Pages in the log from which on it is made to start over: 32 MiB.
const RESTARTED_AT_PAGES: i64 = 8_192;

/// Runs until the writer is gone.
pub(super) fn run(db: &Connection, writer: &Weak<impl AsRef<GroupCommit>>) {
    loop {
        std::thread::sleep(EVERY);
        let Some(writer) = writer.upgrade() else { return };
        once(db, (*writer).as_ref());
    }
}

/// Moves what can be moved. What fails now is tried again; the log only grows
/// meanwhile.
pub(super) fn once(db: &Connection, leader: &GroupCommit) {
    let pages = passive(db).unwrap_or(0);
    if pages > RESTARTED_AT_PAGES {
        let _ = leader.undisturbed(|_| passive(db));
    }
}

/// Moves what can be moved without waiting for anybody; returns the pages that
/// the log has.
fn passive(db: &Connection) -> rusqlite::Result<i64> {
    db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(1))
}

//! What the database takes of its disk.

use std::path::Path;

use rusqlite::Connection;

use crate::store::reports::{Sizes, Storage};
use crate::store::sqlite::pruned;

/// The sizes that can be had without reading the database.
pub(super) fn sizes(path: &Path) -> Sizes {
    let bytes = |ending: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        std::fs::metadata(name).map_or(0, |file| file.len())
    };
    let free = rustix::fs::statvfs(path).ok().map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    Sizes { database: bytes(""), log: bytes("-wal").saturating_add(bytes("-shm")), free }
}

/// What the database is and takes.
pub(super) fn of(db: &Connection, sizes: Sizes) -> rusqlite::Result<Storage> {
    let number = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0));
    let count = |sql: &str| number(sql).map(|count| u64::try_from(count).unwrap_or(0));
    Ok(Storage {
        database_bytes: sizes.database,
        log_bytes: sizes.log,
        reusable_bytes: count("PRAGMA freelist_count")?.saturating_mul(count("PRAGMA page_size")?),
        free_bytes: sizes.free,
        entries: count("SELECT COUNT(*) FROM entry INDEXED BY entry_admitted")?,
        rollups: count("SELECT COUNT(*) FROM rollup")?,
        oldest_ms: db.query_row("SELECT MIN(admitted_ms) FROM entry", [], |row| row.get(0))?,
        pruned: pruned::pruned(db)?,
    })
}

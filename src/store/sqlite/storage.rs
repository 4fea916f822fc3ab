//! What the database takes of its disk.

use rusqlite::Connection;

use crate::store::reports::Sizes;
use crate::store::sql::columns::uint;
use crate::store::sqlite::Store;

impl Store {
    /// The sizes that can be had without reading the database.
    pub(super) fn sizes(&self) -> Sizes {
        let path = &self.path;
        let bytes = |ending: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(ending);
            std::fs::metadata(name).map_or(0, |file| file.len())
        };
        let free = rustix::fs::statvfs(path).ok().map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        Sizes { database: bytes(""), log: bytes("-wal").saturating_add(bytes("-shm")), free }
    }
}

/// What of the database is free for what is written next, in bytes.
pub(super) fn reusable_bytes(db: &Connection) -> rusqlite::Result<u64> {
    let number = |sql: &str| db.query_row(sql, [], |row| row.get(0)).map(uint);
    Ok(number("PRAGMA freelist_count")?.saturating_mul(number("PRAGMA page_size")?))
}

//! The tables, and the version that says which of them a database has.

use rusqlite::Connection;

use crate::store::rollup;

/// The version this code reads and writes, kept in `PRAGMA user_version`.
pub(crate) const VERSION: i64 = 1;

/// Every table is append-only but for `api_key`, `project` and `limit_rule`
/// (an operator's settings), and `hold_batch` (emptied as its holds end).
const TABLES: &str = "
CREATE TABLE entry (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    admitted_ms INTEGER NOT NULL,
    project TEXT NOT NULL,
    api_key TEXT NOT NULL,
    end_user TEXT NOT NULL,
    tags TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    model TEXT NOT NULL,
    priced_as TEXT NOT NULL,
    served_model TEXT NOT NULL,
    tier TEXT NOT NULL,
    basis TEXT NOT NULL,
    cost_nano INTEGER NOT NULL,
    tool_fees_nano INTEGER NOT NULL,
    held_nano INTEGER NOT NULL,
    held_input INTEGER NOT NULL,
    held_output INTEGER NOT NULL,
    input INTEGER NOT NULL,
    cached_input INTEGER NOT NULL,
    cache_write INTEGER NOT NULL,
    cache_write_12h INTEGER NOT NULL,
    audio_input INTEGER NOT NULL,
    audio_cached_input INTEGER NOT NULL,
    image_input INTEGER NOT NULL,
    image_cached_input INTEGER NOT NULL,
    output INTEGER NOT NULL,
    reasoning INTEGER NOT NULL,
    audio_output INTEGER NOT NULL,
    image_output INTEGER NOT NULL,
    price_version TEXT NOT NULL,
    status INTEGER NOT NULL,
    upstream_request_id TEXT,
    object_id TEXT,
    duration_ms INTEGER NOT NULL,
    ttft_ms INTEGER,
    stream INTEGER NOT NULL,
    disconnected INTEGER NOT NULL,
    corrects INTEGER,
    note TEXT
) STRICT;
CREATE INDEX entry_admitted ON entry (admitted_ms);

CREATE TABLE hold_batch (
    first_id INTEGER PRIMARY KEY,
    holds TEXT NOT NULL
) STRICT;

CREATE TABLE crossing (
    limit_name TEXT NOT NULL,
    subject TEXT NOT NULL,
    threshold INTEGER NOT NULL,
    window_start_s INTEGER NOT NULL,
    settled INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (limit_name, subject, threshold, window_start_s)
) STRICT, WITHOUT ROWID;

CREATE TABLE project (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    created_s INTEGER NOT NULL,
    archived_s INTEGER
) STRICT;

CREATE TABLE api_key (
    id TEXT PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    name TEXT NOT NULL,
    project TEXT NOT NULL,
    redacted TEXT NOT NULL,
    models TEXT NOT NULL,
    pass_through INTEGER NOT NULL,
    created_s INTEGER NOT NULL,
    expires_s INTEGER,
    revoked_s INTEGER,
    old_hash BLOB UNIQUE,
    old_hash_until_s INTEGER
) STRICT;

CREATE TABLE limit_rule (
    name TEXT PRIMARY KEY,
    rule TEXT NOT NULL
) STRICT;
";

/// Derived from `entry`: dropped by hand, it is rebuilt at the next start.
const ROLLUP: &str = "
CREATE TABLE rollup (
    start_s INTEGER NOT NULL,
    project TEXT NOT NULL,
    api_key TEXT NOT NULL,
    end_user TEXT NOT NULL,
    tags TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    model TEXT NOT NULL,
    priced_as TEXT NOT NULL,
    served_model TEXT NOT NULL,
    requests INTEGER NOT NULL,
    cost_nano INTEGER NOT NULL,
    input INTEGER NOT NULL,
    cached_input INTEGER NOT NULL,
    cache_write INTEGER NOT NULL,
    cache_write_12h INTEGER NOT NULL,
    audio_input INTEGER NOT NULL,
    audio_cached_input INTEGER NOT NULL,
    image_input INTEGER NOT NULL,
    image_cached_input INTEGER NOT NULL,
    output INTEGER NOT NULL,
    reasoning INTEGER NOT NULL,
    audio_output INTEGER NOT NULL,
    image_output INTEGER NOT NULL,
    last_ms INTEGER NOT NULL,
    PRIMARY KEY (start_s, project, api_key, end_user, tags, endpoint, model, priced_as, served_model)
) STRICT, WITHOUT ROWID;
";

/// What the organization's API keeps beside keys, projects and limits: settings
/// all of them, but for `audit`, which is append-only.
const ORGANIZATION: &str = "
CREATE TABLE admin_key (
    id TEXT PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    name TEXT NOT NULL,
    redacted TEXT NOT NULL,
    role TEXT NOT NULL,
    created_s INTEGER NOT NULL,
    expires_s INTEGER,
    used_s INTEGER
) STRICT;

CREATE TABLE service_account (
    id TEXT PRIMARY KEY,
    project TEXT NOT NULL,
    name TEXT NOT NULL,
    api_keys TEXT NOT NULL,
    created_s INTEGER NOT NULL
) STRICT;

CREATE TABLE spend_alert (
    id TEXT PRIMARY KEY,
    project TEXT,
    channel TEXT NOT NULL
) STRICT;

CREATE TABLE model_rule (
    project TEXT PRIMARY KEY,
    mode TEXT NOT NULL,
    models TEXT NOT NULL
) STRICT;

CREATE TABLE audit (
    id INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    actor TEXT NOT NULL,
    actor_name TEXT NOT NULL,
    event TEXT NOT NULL,
    project TEXT,
    resource TEXT NOT NULL,
    before TEXT,
    after TEXT
) STRICT;
CREATE INDEX audit_at ON audit (at_ms);
CREATE INDEX audit_actor ON audit (actor);
CREATE INDEX audit_resource ON audit (resource);
";

/// The tables without which a database is no ledger.
pub(crate) const NEEDED: [&str; 6] = ["entry", "hold_batch", "crossing", "project", "api_key", "limit_rule"];

/// Creates the tables of a new database, all or none.
pub(crate) fn create(db: &mut Connection) -> rusqlite::Result<()> {
    let tx = db.transaction()?;
    tx.execute_batch(TABLES)?;
    tx.execute_batch(ROLLUP)?;
    tx.execute_batch(ORGANIZATION)?;
    tx.pragma_update(None, "user_version", VERSION)?;
    tx.commit()
}

/// Makes the table of rollups anew from the entries; returns its rows.
pub(crate) fn rebuild_rollups(db: &mut Connection) -> rusqlite::Result<usize> {
    let tx = db.transaction()?;
    tx.execute_batch(ROLLUP)?;
    let rebuilt = rollup::rebuilt(&tx, |_| {})?;
    for (key, sums) in &rebuilt {
        rollup::upsert_rollup(&tx, key, sums)?;
    }
    tx.commit()?;
    Ok(rebuilt.len())
}

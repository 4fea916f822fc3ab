//! The tables, and the version that says which of them a database has.

mod corrections;
mod jobs;
mod objects;
mod stops;

use rusqlite::{Connection, Transaction};

use self::corrections::{CORRECTIONS, DIGEST};
use self::jobs::{JOB_TERMS, JOBS};
use crate::store::sql::rollup::{self, Table};
use crate::store::sql::{self, Db};

/// The version this code reads and writes, kept in `PRAGMA user_version`.
pub(crate) const VERSION: i64 = 10;

/// What brings a database from each version to the next.
const STEPS: [&[&str]; 10] = [
    &[TABLES],
    &[ALERTS, ORGANIZATION],
    &[CREDIT, SETTING, DAYS, MAIL],
    &[PRUNED, CORRECTIONS, DIGEST],
    &[objects::TABLES],
    &[objects::RENDERINGS],
    &[OTHER_QUANTITIES, JOBS],
    &[JOB_TERMS],
    &[objects::BATCH_INPUT],
    &[stops::STOPS],
];

/// Every table is append-only but for `api_key`, `project`, `limit_rule` and `stop`
/// (an operator's settings), `hold_batch` and `job` (emptied as their holds end), `object` and
/// `object_item` (what upstream keeps). Old rows of `entry` are pruned if operators say so.
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

/// A crossing has the id of its line in the ledger, and what its limit was then. A
/// delivery is one channel's part in telling it: `waiting`, `sent`, `given_up`
/// or, if its channel is no longer configured, `dropped`. Crossings of version 1
/// were sent to no channel, and won't be.
const ALERTS: &str = "
ALTER TABLE crossing RENAME TO crossing_1;
CREATE TABLE crossing (
    id INTEGER PRIMARY KEY,
    mark TEXT NOT NULL,
    limit_name TEXT NOT NULL,
    subject TEXT NOT NULL,
    threshold INTEGER NOT NULL,
    window_start_s INTEGER NOT NULL,
    window_end_s INTEGER NOT NULL,
    settled INTEGER NOT NULL,
    unit TEXT NOT NULL,
    period TEXT NOT NULL,
    hard INTEGER,
    at_ms INTEGER NOT NULL,
    is_routed INTEGER NOT NULL,
    UNIQUE (limit_name, subject, mark, threshold, window_start_s)
) STRICT;
INSERT INTO crossing
    SELECT line.id, 'soft', limit_name, subject, threshold, window_start_s, window_start_s, settled, '', '', NULL,
        at_ms, 1
    FROM (SELECT *, row_number() OVER (PARTITION BY at_ms, limit_name, subject ORDER BY threshold) AS place
        FROM crossing_1)
    JOIN (SELECT id, at_ms, limit_name, subject,
            row_number() OVER (PARTITION BY at_ms, limit_name, subject ORDER BY id) AS place
        FROM (SELECT DISTINCT at_ms, limit_name, subject FROM crossing_1)
        JOIN entry ON admitted_ms = at_ms AND kind = 'threshold'
            AND instr(note, limit_name || ': ' || subject || ' crossed ') = 1) AS line
    USING (at_ms, limit_name, subject, place);
DROP TABLE crossing_1;
CREATE INDEX crossing_unrouted ON crossing (id) WHERE is_routed = 0;

CREATE TABLE delivery (
    crossing INTEGER NOT NULL,
    channel TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    next_ms INTEGER NOT NULL,
    error TEXT,
    PRIMARY KEY (crossing, channel)
) STRICT, WITHOUT ROWID;
CREATE INDEX delivery_waiting ON delivery (channel, next_ms) WHERE state = 'waiting';
";

/// A table of sums.
macro_rules! sums {
    ($table:literal) => {
        concat!(
            "CREATE TABLE ",
            $table,
            " (
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
"
        )
    };
}

/// Derived from `entry`: dropped by hand, it is rebuilt at the next start.
const ROLLUP: &str = sums!("rollup");
/// Its part of [`OTHER_QUANTITIES`]; by itself, since the table may be missing.
const OTHER_QUANTITIES_OF_ROLLUP: &str = "ALTER TABLE rollup ADD COLUMN other_quantities TEXT;";

/// Derived from `rollup` (see `store::sql::days`): emptied by hand, they are filled
/// again. A span says what they sum up: all before its end or, where its last
/// quarter of an hour is too long to be added at once, the key of the next row.
const DAYS: &str = concat!(
    sums!("rollup_day"),
    sums!("rollup_day_user"),
    "CREATE TABLE rollup_day_span (
    start_s INTEGER PRIMARY KEY,
    end_s INTEGER NOT NULL,
    next TEXT
) STRICT;
"
);

/// The recipient of a delivery, if it is not one that its channel is configured for.
const MAIL: &str = "ALTER TABLE delivery ADD COLUMN mail TEXT;";

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

/// A grant has the id of its line in the ledger, and the latest instant that a request
/// had been admitted at. Append-only.
const CREDIT: &str = "
CREATE TABLE credit_grant (
    id INTEGER PRIMARY KEY,
    amount_nano INTEGER NOT NULL,
    note TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_s INTEGER,
    latest_ms INTEGER NOT NULL,
    corrects INTEGER
) STRICT;
";

/// What operators set of the organization itself, one text for each name.
const SETTING: &str = "
CREATE TABLE setting (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
";

/// What was pruned, all together: one row, or none while nothing was (see
/// `store::sql::retention`).
const PRUNED: &str = "
CREATE TABLE pruned (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    before_s INTEGER NOT NULL,
    entries INTEGER NOT NULL,
    last_id INTEGER NOT NULL,
    latest_ms INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    cost_nano INTEGER NOT NULL,
    tokens INTEGER NOT NULL
) STRICT;
";

/// Quantities of classes that have no column of their own (see `store::sql::quantities`). What was
/// written before says nothing of them.
const OTHER_QUANTITIES: &str = "
ALTER TABLE entry ADD COLUMN other_quantities TEXT;
ALTER TABLE rollup_day ADD COLUMN other_quantities TEXT;
ALTER TABLE rollup_day_user ADD COLUMN other_quantities TEXT;
ALTER TABLE pruned ADD COLUMN other_quantities TEXT;
";

/// The tables without which a database is no ledger, and the version each is of.
pub(crate) const NEEDED: [(i64, &str); 22] = [
    (10, "stop"),
    (7, "job"),
    (1, "entry"),
    (1, "hold_batch"),
    (1, "crossing"),
    (1, "project"),
    (1, "api_key"),
    (1, "limit_rule"),
    (2, "delivery"),
    (2, "admin_key"),
    (2, "service_account"),
    (2, "spend_alert"),
    (2, "model_rule"),
    (2, "audit"),
    (3, "credit_grant"),
    (3, "setting"),
    (3, "rollup_day"),
    (3, "rollup_day_user"),
    (3, "rollup_day_span"),
    (4, "pruned"),
    (5, "object"),
    (5, "object_item"),
];

/// Creates the tables of a new database, all or none.
pub(crate) fn create(db: &mut Connection) -> rusqlite::Result<()> {
    let tx = db.transaction()?;
    upgrade(&tx, 0)?;
    create_rollups(&tx)?;
    tx.commit()
}

/// Brings a database from a version to this one, and writes the version even if
/// it is this one already.
pub(crate) fn upgrade(tx: &Transaction<'_>, version: i64) -> rusqlite::Result<()> {
    for step in STEPS.iter().skip(usize::try_from(version).unwrap_or(STEPS.len())) {
        step.iter().try_for_each(|tables| tx.execute_batch(tables))?;
    }
    if version < 7 && tx.table_exists(None, Table::Quarters.name())? {
        tx.execute_batch(OTHER_QUANTITIES_OF_ROLLUP)?;
    }
    tx.pragma_update(None, "user_version", VERSION)
}

fn create_rollups(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    tx.execute_batch(ROLLUP)?;
    tx.execute_batch(OTHER_QUANTITIES_OF_ROLLUP)
}

/// Rebuilds the table of rollups from the entries; returns its rows.
pub(crate) fn rebuild_rollups(db: &mut Connection) -> sql::Result<usize> {
    let tx = db.transaction()?;
    create_rollups(&tx)?;
    tx.execute_batch("DELETE FROM rollup_day; DELETE FROM rollup_day_user; DELETE FROM rollup_day_span")?;
    let rebuilt = rollup::rebuilt(Db::Sqlite(&tx), |entry| entry.map(drop))?;
    for (key, sums) in &rebuilt {
        rollup::upsert_rollup(Db::Sqlite(&tx), Table::Quarters, key, sums)?;
    }
    tx.commit()?;
    Ok(rebuilt.len())
}

#[cfg(test)]
mod tests;

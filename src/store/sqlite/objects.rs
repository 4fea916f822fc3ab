//! The objects that upstream keeps, and which project each belongs to.
//!
//! A row for each object, and a smaller one for each item of a stored answer.
//! Rows are written before a client learns of the object, and go when upstream
//! forgets it. Nothing of an object's content is here.

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::domain::object::{KnownObject, OBJECT_ID_BYTES_MAX};
use crate::domain::usage::ContainerMemory;
use crate::domain::{KeptContainers, KeptContext, ObjectKind, ObjectReference, Rendering};
use crate::store::objects::{KnownItem, ObjectChange, ObjectKey, RESPONSE_LIFE_S, StoredObject};
use crate::store::sqlite::codec::{int, uint};

/// A day, in seconds.
const DAY_S: i64 = 24 * 60 * 60;
/// Items are kept by periods of ten days, so that those of a period that is
/// over are neighbours and are found without an index of their own.
const PERIOD_S: i64 = 10 * DAY_S;
/// The period of items that stay until their conversation is deleted.
const FOREVER: i64 = (1 << 15) - 1;
/// The bits of an item's key that come from its id.
const ITEM_BITS: u32 = 48;
/// Rows that are removed at once.
const REMOVED_MAX: i64 = 500;

/// The tables. Responses that were stored before there were any are known from
/// their entries.
pub(super) const TABLES: &str = "
CREATE TABLE object (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    project TEXT NOT NULL,
    api_key TEXT NOT NULL,
    context_tokens INTEGER,
    memory TEXT,
    idle_s INTEGER NOT NULL,
    created_s INTEGER NOT NULL,
    used_s INTEGER NOT NULL,
    expires_s INTEGER,
    PRIMARY KEY (kind, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX object_expires ON object (expires_s) WHERE expires_s IS NOT NULL;
CREATE TABLE object_item (
    id INTEGER PRIMARY KEY,
    project TEXT NOT NULL,
    context_tokens INTEGER
) STRICT;
INSERT OR IGNORE INTO object
    SELECT 'response', object_id, project, api_key,
        CASE basis WHEN 'reported' THEN input + cached_input + cache_write + cache_write_12h + audio_input
            + audio_cached_input + image_input + image_cached_input + output + reasoning + audio_output + image_output END,
        NULL, 0, admitted_ms / 1000, 0, admitted_ms / 1000 + 2678400
    FROM entry
    WHERE admitted_ms > (SELECT MAX(admitted_ms) FROM entry) - 2678400000
        AND endpoint = '/v1/responses' AND kind = 'settle' AND object_id IS NOT NULL;
";

/// What the tokens of a context were measured under (`domain::Rendering`), its pictures,
/// and the largest memory of its containers: empty where there are none, and after `≤` where
/// the index may not know each of them. What was recorded before has none: a container that
/// runs then ends some twenty minutes later, unless it is used by its id.
pub(super) const RENDERINGS: &str = "
ALTER TABLE object ADD COLUMN rendering TEXT;
ALTER TABLE object ADD COLUMN pictures INTEGER;
ALTER TABLE object_item ADD COLUMN rendering TEXT;
ALTER TABLE object_item ADD COLUMN pictures INTEGER;
ALTER TABLE object_item ADD COLUMN memory TEXT NOT NULL DEFAULT '';
UPDATE object SET memory = '' WHERE kind IN ('response', 'conversation') AND memory IS NULL;
";

/// An item's key in a period.
fn in_period(key: ObjectKey, period: i64) -> i64 {
    let low = i64::try_from(key.0 & ((1 << ITEM_BITS) - 1)).unwrap_or(0);
    (period << ITEM_BITS) | low
}

/// Writes changes, in their order.
pub(crate) fn write(db: &Connection, changes: &[ObjectChange]) -> rusqlite::Result<()> {
    changes.iter().try_for_each(|change| match change {
        ObjectChange::Put { of, known, expires_s } => put(db, of, known, *expires_s),
        ObjectChange::Item { key, project, context, made_s } => {
            let period = made_s.map_or(FOREVER, |made_s| made_s.div_euclid(PERIOD_S));
            let (tokens, rendering, pictures) = columns(context);
            db.prepare_cached("INSERT OR IGNORE INTO object_item VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
                .execute(params![
                    in_period(*key, period),
                    project,
                    tokens,
                    rendering,
                    pictures,
                    containers_text(context.containers)
                ])
                .map(drop)
        }
        ObjectChange::Remove(of) => db
            .prepare_cached("DELETE FROM object WHERE kind = ?1 AND id = ?2")?
            .execute(params![of.kind.name(), of.id])
            .map(drop),
    })
}

fn put(
    db: &Connection,
    of: &ObjectReference,
    known: &KnownObject,
    expires_s: Option<i64>,
) -> rusqlite::Result<()> {
    let (tokens, rendering, pictures) = columns(&known.context);
    let is_container = of.kind == ObjectKind::Container;
    let own = known.container_memory.map(ContainerMemory::name);
    let own = own.map(str::to_owned);
    let memory = if is_container { own } else { Some(containers_text(known.context.containers)) };
    db.prepare_cached(
        "INSERT INTO object VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) ON CONFLICT DO UPDATE \
         SET context_tokens = excluded.context_tokens, memory = excluded.memory, idle_s = excluded.idle_s, \
         used_s = excluded.used_s, expires_s = excluded.expires_s, rendering = excluded.rendering, \
         pictures = excluded.pictures",
    )?
    .execute(params![
        of.kind.name(),
        of.id,
        known.project,
        known.key,
        tokens,
        memory,
        known.idle_s,
        known.created_s,
        known.used_s,
        expires_s,
        rendering,
        pictures,
    ])
    .map(drop)
}

/// The columns of a context: tokens, rendering, pictures.
fn columns(context: &KeptContext) -> (Option<i64>, Option<&str>, Option<i64>) {
    let tokens = context.tokens.map(int);
    (tokens, tokens.map(|_| context.rendering.name()), context.pictures.map(int))
}

/// Stands before the memory of containers that the index may not know.
const AT_MOST: char = '≤';

/// The largest memory of a context's containers, as the column has it.
fn containers_text(containers: KeptContainers) -> String {
    let name = containers.largest.map_or("", ContainerMemory::name);
    if containers.are_indexed { name.to_owned() } else { format!("{AT_MOST}{name}") }
}

/// What is null or can't be read is not known.
fn containers_from(text: Option<&str>) -> KeptContainers {
    let Some(text) = text else { return KeptContainers::default() };
    let name = text.strip_prefix(AT_MOST);
    let are_indexed = name.is_none();
    match name.unwrap_or(text) {
        "" => KeptContainers { largest: None, are_indexed },
        name => ContainerMemory::named(name).map_or_else(KeptContainers::default, |memory| KeptContainers {
            largest: Some(memory),
            are_indexed,
        }),
    }
}

/// A context from the columns `context_tokens`, `rendering`, `pictures` and `memory`.
fn context_from(row: &Row<'_>, from: usize) -> rusqlite::Result<KeptContext> {
    let rendering: Option<String> = row.get(from + 1)?;
    let rendering = rendering.as_deref().map(Rendering::named);
    let tokens = row.get::<_, Option<i64>>(from)?.filter(|_| rendering.is_some()).map(uint);
    let pictures = row.get::<_, Option<i64>>(from + 2)?.map(uint);
    let memory: Option<String> = row.get(from + 3)?;
    let containers = containers_from(memory.as_deref());
    Ok(KeptContext { tokens, rendering: rendering.unwrap_or_default(), pictures, containers })
}

/// What is stored of an object or an item.
pub(super) fn stored(
    db: &Connection,
    of: &ObjectReference,
    now_s: i64,
) -> rusqlite::Result<Option<StoredObject>> {
    if of.id.len() > OBJECT_ID_BYTES_MAX {
        return Ok(None);
    }
    if of.kind == ObjectKind::Item {
        let item = find_item(db, ObjectKey::of(of.kind, &of.id), now_s)?;
        return Ok(item.map(StoredObject::Item));
    }
    Ok(find(db, of)?.map(StoredObject::Object))
}

/// What is known of an object.
fn find(db: &Connection, of: &ObjectReference) -> rusqlite::Result<Option<KnownObject>> {
    db.prepare_cached(
        "SELECT project, api_key, idle_s, created_s, used_s, context_tokens, rendering, pictures, memory \
         FROM object WHERE kind = ?1 AND id = ?2",
    )?
    .query_row(params![of.kind.name(), of.id], |row| known_from(of.kind, row))
    .optional()
}

/// What is known of an item.
fn find_item(db: &Connection, key: ObjectKey, now_s: i64) -> rusqlite::Result<Option<KnownItem>> {
    let now = now_s.div_euclid(PERIOD_S);
    let oldest = (now_s - RESPONSE_LIFE_S).div_euclid(PERIOD_S);
    let mut statement = db.prepare_cached(
        "SELECT project, context_tokens, rendering, pictures, memory FROM object_item WHERE id = ?1",
    )?;
    for period in (oldest..=now + 1).rev().chain([FOREVER]) {
        let found = statement.query_row([in_period(key, period)], |row| {
            Ok(KnownItem { project: row.get(0)?, context: context_from(row, 1)? })
        });
        let found = found.optional()?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Removes some rows of what upstream has forgotten by `now_s`; returns whether
/// there may be more.
pub(crate) fn forget(db: &Connection, now_s: i64) -> rusqlite::Result<bool> {
    let objects = db
        .prepare_cached(
            "DELETE FROM object WHERE (kind, id) IN \
             (SELECT kind, id FROM object WHERE expires_s < ?1 ORDER BY expires_s LIMIT ?2)",
        )?
        .execute([now_s, REMOVED_MAX])?;
    let oldest = (now_s - RESPONSE_LIFE_S).div_euclid(PERIOD_S).clamp(0, FOREVER);
    let items = db
        .prepare_cached(
            "DELETE FROM object_item WHERE id IN (SELECT id FROM object_item WHERE id < ?1 LIMIT ?2)",
        )?
        .execute([oldest << ITEM_BITS, REMOVED_MAX])?;
    Ok(int(u64::try_from(objects.max(items)).unwrap_or(u64::MAX)) >= REMOVED_MAX)
}

fn known_from(kind: ObjectKind, row: &Row<'_>) -> rusqlite::Result<KnownObject> {
    let is_container = kind == ObjectKind::Container;
    let memory = row.get::<_, Option<String>>(8)?.filter(|_| is_container);
    Ok(KnownObject {
        project: row.get(0)?,
        key: row.get(1)?,
        context: context_from(row, 5)?,
        // A size that can't be read is not known, which is taken for the dearest.
        container_memory: memory.as_deref().and_then(ContainerMemory::named),
        idle_s: row.get(2)?,
        created_s: row.get(3)?,
        used_s: row.get(4)?,
    })
}

#[cfg(test)]
mod tests;

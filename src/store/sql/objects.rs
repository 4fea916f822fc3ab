//! The objects that upstream keeps, and which project each belongs to.
//!
//! A row for each object, and a smaller one for each item of a stored answer.
//! Rows are written before a client learns of the object, and go when upstream
//! forgets it. Nothing of an object's content is here.

use crate::domain::object::{KnownObject, OBJECT_ID_BYTES_MAX};
use crate::domain::usage::ContainerMemory;
use crate::domain::{KeptContainers, KeptContext, ObjectKind, ObjectReference, Rendering};
use crate::store::objects::{KnownItem, ObjectChange, ObjectKey, RESPONSE_LIFE_S, SizeAt, StoredObject};
use crate::store::sql::codec::{int, uint};
use crate::store::sql::{Db, Result, Row, params};

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

/// An item's key in a period.
fn in_period(key: ObjectKey, period: i64) -> i64 {
    let low = i64::try_from(key.0 & ((1 << ITEM_BITS) - 1)).unwrap_or(0);
    (period << ITEM_BITS) | low
}

/// The row that a change is of: whether it is an item's, the kind and id of an object, and the key
/// of an item.
fn row_of(change: &ObjectChange) -> (bool, &str, &str, i64) {
    match change {
        ObjectChange::Put { of, .. }
        | ObjectChange::BatchInput { of, .. }
        | ObjectChange::Remove(of)
        | ObjectChange::EndTurn { of, .. } => (false, of.kind.name(), &of.id, 0),
        ObjectChange::Item { key, made_s, .. } => (true, "", "", item_key(*key, *made_s)),
    }
}

fn item_key(key: ObjectKey, made_s: Option<i64>) -> i64 {
    in_period(key, made_s.map_or(FOREVER, |made_s| made_s.div_euclid(PERIOD_S)))
}

/// Changes in the order of their rows, in which every transaction writes them where several write
/// at once; those of one row stay in their order.
pub(crate) fn in_order<'a>(changes: impl IntoIterator<Item = &'a ObjectChange>) -> Vec<&'a ObjectChange> {
    let mut changes: Vec<&ObjectChange> = changes.into_iter().collect();
    changes.sort_by(|a, b| row_of(a).cmp(&row_of(b)));
    changes
}

/// Writes changes, in their order.
pub(crate) fn write<'a>(db: Db<'_>, changes: impl IntoIterator<Item = &'a ObjectChange>) -> Result<()> {
    changes.into_iter().try_for_each(|change| match change {
        ObjectChange::Put { of, known, expires_s } => put(db, of, known, *expires_s),
        ObjectChange::Item { key, project, context, made_s } => {
            let (tokens, rendering, pictures) = columns(context);
            db.execute(
                "INSERT INTO object_item (id, project, context_tokens, rendering, pictures, memory) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (id) DO NOTHING",
                params![
                    item_key(*key, *made_s),
                    project,
                    tokens,
                    rendering,
                    pictures,
                    containers_text(context.containers),
                ],
            )
            .map(drop)
        }
        ObjectChange::BatchInput { of, scanned } => db
            .execute(
                "UPDATE object SET batch_input = ?3 WHERE kind = ?1 AND id = ?2",
                params![of.kind.name(), of.id, scanned],
            )
            .map(drop),
        ObjectChange::Remove(of) => db
            .execute("DELETE FROM object WHERE kind = ?1 AND id = ?2", params![of.kind.name(), of.id])
            .map(drop),
        ObjectChange::EndTurn { of, turn, alone } => end_turn(db, of, *turn, alone.as_ref()),
    })
}

/// Ends a turn on a conversation that guards share. While it was open the size was not known; it
/// is from now on if the turn was alone all the time: each other one has changed the number of
/// changes. A turn of which it is not known whether it has begun is ended, too.
fn end_turn(db: Db<'_>, of: &ObjectReference, turn: u64, alone: Option<&SizeAt>) -> Result<()> {
    let (tokens, rendering, pictures) = alone.map(|alone| columns(&alone.context)).unwrap_or_default();
    let memory = alone.map(|alone| containers_text(alone.context.containers));
    let if_alone = alone.map(|alone| int(alone.changes));
    db.execute(
        "UPDATE object SET context_tokens = CASE WHEN changes = ?3 THEN CAST(?4 AS BIGINT) END, \
         rendering = CASE WHEN changes = ?3 THEN CAST(?5 AS TEXT) END, \
         pictures = CASE WHEN changes = ?3 THEN CAST(?6 AS BIGINT) END, \
         memory = CASE WHEN changes = ?3 THEN CAST(?7 AS TEXT) ELSE memory END, changes = changes + 1, \
         open_turns = CAST(CAST(open_turns AS JSONB) - CAST(?8 AS TEXT) AS TEXT) WHERE kind = ?1 AND id = ?2",
        params![of.kind.name(), of.id, if_alone, tokens, rendering, pictures, memory, turn.to_string()],
    )
    .map(drop)
}

/// An earlier use than the one that is stored is not written: what was paid for since would be paid
/// for twice.
fn put(db: Db<'_>, of: &ObjectReference, known: &KnownObject, expires_s: Option<i64>) -> Result<()> {
    let (tokens, rendering, pictures) = columns(&known.context);
    let is_container = of.kind == ObjectKind::Container;
    let memory =
        if is_container { container_text(known) } else { Some(containers_text(known.context.containers)) };
    db.execute(
        "INSERT INTO object (kind, id, project, api_key, context_tokens, memory, idle_s, created_s, used_s, expires_s, \
         rendering, pictures) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) ON CONFLICT (kind, id) \
         DO UPDATE SET context_tokens = excluded.context_tokens, memory = excluded.memory, \
         idle_s = excluded.idle_s, \
         expires_s = CASE WHEN excluded.used_s < object.used_s THEN object.expires_s ELSE excluded.expires_s END, \
         used_s = CASE WHEN excluded.used_s < object.used_s THEN object.used_s ELSE excluded.used_s END, \
         rendering = excluded.rendering, pictures = excluded.pictures",
        params![
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
        ],
    )
    .map(drop)
}

/// The columns of a context: tokens, rendering, pictures.
fn columns(context: &KeptContext) -> (Option<i64>, Option<&str>, Option<i64>) {
    let tokens = context.tokens.map(int);
    (tokens, tokens.map(|_| context.rendering.name()), context.pictures.map(int))
}

/// Stands before the memory of a container whose time a job charges.
const OF_JOB: &str = "job ";

/// The memory of a container, as the column has it.
fn container_text(known: &KnownObject) -> Option<String> {
    let of_job = if known.has_job { OF_JOB } else { "" };
    known.container_memory.map(|memory| format!("{of_job}{}", memory.name()))
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
fn context_from(row: &Row<'_>, from: usize) -> Result<KeptContext> {
    let rendering: Option<String> = row.get(from + 1)?;
    let rendering = rendering.as_deref().map(Rendering::named);
    let tokens = row.get::<Option<i64>>(from)?.filter(|_| rendering.is_some()).map(uint);
    let pictures = row.get::<Option<i64>>(from + 2)?.map(uint);
    let memory: Option<String> = row.get(from + 3)?;
    let containers = containers_from(memory.as_deref());
    Ok(KeptContext { tokens, rendering: rendering.unwrap_or_default(), pictures, containers })
}

/// What is stored of an object or an item.
pub(crate) fn stored(db: Db<'_>, of: &ObjectReference, now_s: i64) -> Result<Option<StoredObject>> {
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
pub(crate) fn find(db: Db<'_>, of: &ObjectReference) -> Result<Option<KnownObject>> {
    let sql = format!(
        "SELECT project, api_key, idle_s, created_s, used_s, context_tokens, rendering, pictures, memory, {} \
         FROM object WHERE kind = ?1 AND id = ?2",
        db.changes_of_objects()
    );
    db.optional(&sql, params![of.kind.name(), of.id], |row| known_from(of.kind, row))
}

/// What a scan has found in a file whose lines can make a batch.
pub(crate) fn batch_input(db: Db<'_>, of: &ObjectReference) -> Result<Option<String>> {
    let sql = "SELECT batch_input FROM object WHERE kind = ?1 AND id = ?2";
    let found = db.optional(sql, params![of.kind.name(), of.id], |row| row.get::<Option<String>>(0))?;
    Ok(found.flatten())
}

/// What is known of an item.
fn find_item(db: Db<'_>, key: ObjectKey, now_s: i64) -> Result<Option<KnownItem>> {
    let now = now_s.div_euclid(PERIOD_S);
    let oldest = (now_s - RESPONSE_LIFE_S).div_euclid(PERIOD_S);
    let sql = "SELECT project, context_tokens, rendering, pictures, memory FROM object_item WHERE id = ?1";
    for period in (oldest..=now + 1).rev().chain([FOREVER]) {
        let found = db.optional(sql, params![in_period(key, period)], |row| {
            Ok(KnownItem { project: row.get(0)?, context: context_from(row, 1)? })
        })?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Removes some rows of what upstream has forgotten by `now_s`; returns whether
/// there may be more.
pub(crate) fn forget(db: Db<'_>, now_s: i64) -> Result<bool> {
    // Rows that others write at this time are left to the next time: who waits for no row is in the
    // way of none.
    let free = db.skip_locked();
    let objects = format!(
        "DELETE FROM object WHERE (kind, id) IN \
         (SELECT kind, id FROM object WHERE expires_s < ?1 ORDER BY expires_s LIMIT ?2{free})"
    );
    let objects = db.execute(&objects, params![now_s, REMOVED_MAX])?;
    let items = format!(
        "DELETE FROM object_item WHERE id IN (SELECT id FROM object_item WHERE id < ?1 LIMIT ?2{free})"
    );
    let items = db.execute(&items, params![first_item(now_s), REMOVED_MAX])?;
    Ok(int(objects.max(items)) >= REMOVED_MAX)
}

/// Whether there are rows of what upstream has forgotten by `now_s`.
pub(crate) fn is_to_forget(db: Db<'_>, now_s: i64) -> Result<bool> {
    Ok(db.exists("SELECT 1 FROM object WHERE expires_s < ?1 LIMIT 1", params![now_s])?
        || db.exists("SELECT 1 FROM object_item WHERE id < ?1 LIMIT 1", params![first_item(now_s)])?)
}

/// The least key of an item that upstream may still have.
fn first_item(now_s: i64) -> i64 {
    (now_s - RESPONSE_LIFE_S).div_euclid(PERIOD_S).clamp(0, FOREVER) << ITEM_BITS
}

fn known_from(kind: ObjectKind, row: &Row<'_>) -> Result<KnownObject> {
    let is_container = kind == ObjectKind::Container;
    let memory = row.get::<Option<String>>(8)?.filter(|_| is_container);
    let of_job = memory.as_deref().and_then(|memory| memory.strip_prefix(OF_JOB));
    Ok(KnownObject {
        project: row.get(0)?,
        key: row.get(1)?,
        context: context_from(row, 5)?,
        // A size that can't be read is not known, which is taken for the dearest.
        container_memory: of_job.or(memory.as_deref()).and_then(ContainerMemory::named),
        has_job: of_job.is_some(),
        idle_s: row.get(2)?,
        created_s: row.get(3)?,
        used_s: row.get(4)?,
        changes: uint(row.get(9)?),
    })
}

#[cfg(test)]
mod tests;

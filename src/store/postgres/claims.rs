//! A change of an object that no other guard may make at the same time.

use std::collections::BTreeMap;

use crate::domain::object::KnownObject;
use crate::domain::{KeptContainers, KeptContext, ObjectReference};
use crate::store::objects::{BegunTurn, ObjectChange, SizeAt};
use crate::store::postgres::clock::now_ms;
use crate::store::sql::codec::int;
use crate::store::sql::columns::{json_from, json_text};
use crate::store::sql::{Db, Error, Result, objects, params};

/// How long a turn can take, in milliseconds. One that is open for longer is that of a guard that
/// has died.
const TURN_MS_MAX: i64 = 86_400_000;

/// Changes an object by what is stored of it, under the lock of its row; one that is not stored
/// is as `new`. Returns what `change` does.
pub(super) fn change<T>(
    db: Db<'_>,
    of: &ObjectReference,
    new: &KnownObject,
    change: impl FnOnce(KnownObject) -> (T, ObjectChange),
) -> Result<T> {
    db.transaction(|| {
        let (done, written) = change(locked(db, of, new)?);
        objects::write(db, &[written])?;
        Ok(done)
    })
}

/// Begins a turn of this number on a conversation, if `covers` says that enough is held for it, by
/// what is stored of the conversation and by whether no other turn is open. From then on its size is
/// not known. `None` if it was not begun.
pub(super) fn begin_turn(
    db: Db<'_>,
    (of, number): (&ObjectReference, u64),
    new: &KnownObject,
    added: KeptContainers,
    covers: impl FnOnce(&KnownObject, bool) -> bool,
) -> Result<Option<BegunTurn>> {
    db.transaction(|| {
        let known = locked(db, of, new)?;
        let sql = "SELECT open_turns FROM object WHERE kind = ?1 AND id = ?2";
        let open: String = db.row(sql, params![of.kind.name(), of.id], |row| row.get(0))?;
        let row_of = || format!("the conversation {}", of.id);
        let mut open: BTreeMap<u64, i64> = json_from(&open, "object.open_turns", row_of)?;
        let now_ms = now_ms(db)?;
        open.retain(|_, began_ms| now_ms.saturating_sub(*began_ms) < TURN_MS_MAX);
        let was_alone = open.is_empty();
        if !covers(&known, was_alone) {
            return Ok(None);
        }
        let changes = known.changes + 1;
        open.insert(number, now_ms);
        let before = known.context.clone();
        let context = KeptContext { containers: before.containers.plus(added), ..KeptContext::default() };
        let known = KnownObject { context, ..known };
        objects::write(db, &[ObjectChange::Put { of: of.clone(), known, expires_s: None }])?;
        let begun = "UPDATE object SET changes = ?3, open_turns = ?4 WHERE kind = ?1 AND id = ?2";
        db.execute(begun, params![of.kind.name(), of.id, int(changes), json_text(&open)?])?;
        Ok(Some(BegunTurn { number, alone: was_alone.then_some(SizeAt { changes, context: before }) }))
    })
}

/// Locks the row of an object, and makes it if it is not there. Returns what is stored of it.
fn locked(db: Db<'_>, of: &ObjectReference, new: &KnownObject) -> Result<KnownObject> {
    // Who inserts it at the same time waits here, and reads what the first has written.
    db.execute(
            "INSERT INTO object (kind, id, project, api_key, idle_s, created_s, used_s) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) \
             ON CONFLICT (kind, id) DO NOTHING",
            params![of.kind.name(), of.id, new.project, new.key, new.idle_s, new.created_s, new.used_s],
        )?;
    let lock = "SELECT 1 FROM object WHERE kind = ?1 AND id = ?2 FOR UPDATE";
    db.row(lock, params![of.kind.name(), of.id], |_| Ok(()))?;
    objects::find(db, of)?.ok_or(Error::NoRow)
}

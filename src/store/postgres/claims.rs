//! A change of an object that no other guard may make at the same time.

use crate::domain::ObjectReference;
use crate::domain::object::KnownObject;
use crate::store::objects::ObjectChange;
use crate::store::sql::{Db, Error, Result, objects, params};

/// Changes an object by what is stored of it, under the lock of its row; one that is not stored
/// is as `new`. Returns what `change` does.
pub(super) fn change<T>(
    db: Db<'_>,
    of: &ObjectReference,
    new: &KnownObject,
    change: impl FnOnce(KnownObject) -> (T, ObjectChange),
) -> Result<T> {
    db.transaction(|| {
        // Who inserts it at the same time waits here, and reads what the first has written.
        db.execute(
            "INSERT INTO object (kind, id, project, api_key, idle_s, created_s, used_s) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) \
             ON CONFLICT (kind, id) DO NOTHING",
            params![of.kind.name(), of.id, new.project, new.key, new.idle_s, new.created_s, new.used_s],
        )?;
        let lock = "SELECT 1 FROM object WHERE kind = ?1 AND id = ?2 FOR UPDATE";
        db.row(lock, params![of.kind.name(), of.id], |_| Ok(()))?;
        let known = objects::find(db, of)?.ok_or(Error::NoRow)?;
        let (done, written) = change(known);
        objects::write(db, &[written])?;
        Ok(done)
    })
}

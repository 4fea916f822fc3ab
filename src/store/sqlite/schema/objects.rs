//! The tables of the objects that upstream keeps, in the two steps by which they came.

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

/// What a scan has found in a file whose lines can make a batch.
pub(super) const BATCH_INPUT: &str = "ALTER TABLE object ADD COLUMN batch_input TEXT;";

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::domain::object::KnownObject;
    use crate::domain::{KeptContainers, KeptContext, ObjectKind, ObjectReference};
    use crate::store::objects::{ObjectChange, ObjectKey, StoredObject};
    use crate::store::sql::{Db, objects};
    use crate::store::sqlite;

    const NOW_S: i64 = 1_795_000_000;

    /// A database without the tables of objects.
    fn without() -> Connection {
        let db = sqlite::memory();
        db.execute_batch("DROP TABLE object; DROP TABLE object_item").unwrap();
        db
    }

    #[test]
    fn responses_that_were_made_before_there_was_an_index_are_known_by_their_entries() {
        let db = without();
        for (id, at_ms, basis) in
            [(1, 3_000_000_000_i64, "reported"), (2, 3_000_000_001, "assumed"), (3, 1, "reported")]
        {
            db.execute(
                "INSERT INTO entry VALUES (?1, 'settle', ?2, ?2, 'p', 'k', '', '', '/v1/responses', 'm', '', '', \
                 'default', ?3, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, '', 200, NULL, 'resp_' || ?1, 0, \
                 NULL, 0, 0, NULL, NULL, NULL)",
                (id, at_ms, basis),
            )
            .unwrap();
        }
        db.execute_batch(TABLES).unwrap();
        let mut known = db.prepare("SELECT id, project, context_tokens FROM object ORDER BY id").unwrap();
        let known = known.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
        let known: Vec<(String, String, Option<i64>)> = known.map(Result::unwrap).collect();
        assert_eq!(known, [("resp_1".into(), "p".into(), Some(78)), ("resp_2".into(), "p".into(), None)]);
    }

    #[test]
    fn the_size_of_a_context_that_was_recorded_without_its_rendering_is_not_known() {
        let of = |kind: ObjectKind, id: &str| ObjectReference { kind, id: id.to_owned() };
        let (response, item) = (of(ObjectKind::Response, "resp_1"), of(ObjectKind::Item, "msg_1"));
        let db = without();
        db.execute_batch(TABLES).unwrap();
        let row = (response.kind.name(), &response.id);
        db.execute("INSERT INTO object VALUES (?1, ?2, 'p', 'k', 920, NULL, 0, 1, 0, NULL)", row).unwrap();
        db.execute("INSERT INTO object_item VALUES (?1, 'p', 20)", [key_of(&item)]).unwrap();
        db.execute_batch(RENDERINGS).unwrap();
        let context =
            |of: &ObjectReference| match objects::stored(Db::Sqlite(&db), of, NOW_S).unwrap().unwrap() {
                StoredObject::Object(known) => known.context,
                StoredObject::Item(known) => known.context,
            };
        let unknown = KeptContext { containers: KeptContainers::NONE, ..KeptContext::default() };
        assert_eq!((context(&response), context(&item)), (unknown.clone(), unknown));
        let known = KnownObject {
            project: "p".into(),
            key: "k".into(),
            context: KeptContext::text(7),
            container_memory: None,
            has_job: false,
            idle_s: 1,
            created_s: 2,
            used_s: 3,
            changes: 0,
        };
        let put = ObjectChange::Put { of: response.clone(), known: known.clone(), expires_s: None };
        objects::write(Db::Sqlite(&db), &[put]).unwrap();
        assert_eq!(context(&response), known.context);
    }

    /// The key of an item's row.
    fn key_of(item: &ObjectReference) -> i64 {
        let db = sqlite::memory();
        let (key, context) = (ObjectKey::of(item.kind, &item.id), KeptContext::default());
        let change = ObjectChange::Item { key, project: "p".into(), context, made_s: Some(NOW_S) };
        objects::write(Db::Sqlite(&db), &[change]).unwrap();
        db.query_row("SELECT id FROM object_item", [], |row| row.get(0)).unwrap()
    }
}

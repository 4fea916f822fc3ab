//! Databases of earlier versions, brought to this one.

use super::*;
use crate::domain::{Class, ObjectKind, ObjectReference};
use crate::store::objects::ObjectChange;
use crate::store::sql::rollup::Ids;
use crate::store::sql::{entries, objects, pruned, verify};
use crate::store::sqlite::commit;

#[test]
fn a_database_of_version_1_keeps_its_crossings_with_their_lines_and_sends_no_alert() {
    let mut db = Connection::open_in_memory().unwrap();
    let tx = db.transaction().unwrap();
    tx.execute_batch(ROLLUP).unwrap();
    tx.execute_batch(TABLES).unwrap();
    // Two thresholds passed at once, and one whose line is gone.
    for (threshold, subject, at_ms) in [(10, "org", 5), (20, "org", 5), (10, "key_1", 6)] {
        let crossing = ("monthly", subject, threshold, 0, 25, at_ms);
        tx.execute("INSERT INTO crossing VALUES (?1, ?2, ?3, ?4, ?5, ?6)", crossing).unwrap();
    }
    for id in [7, 8] {
        tx.execute(
            "INSERT INTO entry VALUES (?1, 'threshold', 5, 5, '', '', '', '', '', '', '', '', 'default', '', 0, 0, 0, \
             0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, '', 0, NULL, NULL, 0, NULL, 0, 0, NULL, \
             'monthly: org crossed something')",
            [id],
        )
        .unwrap();
    }
    upgrade(&tx, 1).unwrap();
    tx.commit().unwrap();
    let mut kept = db.prepare("SELECT id, threshold, mark, is_routed FROM crossing ORDER BY id").unwrap();
    let kept = kept.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))).unwrap();
    let kept: Vec<(i64, i64, String, bool)> = kept.map(Result::unwrap).collect();
    assert_eq!(kept, [(7, 10, "soft".to_owned(), true), (8, 20, "soft".to_owned(), true)]);
    let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert_eq!(version, VERSION);
}

/// A database of version 6 with an entry, its rollup and its days.
fn version_6() -> Connection {
    let mut db = Connection::open_in_memory().unwrap();
    let tx = db.transaction().unwrap();
    tx.execute_batch(ROLLUP).unwrap();
    STEPS[..6].iter().for_each(|step| step.iter().for_each(|tables| tx.execute_batch(tables).unwrap()));
    let counts = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, ";
    tx.execute_batch(&format!(
        "INSERT INTO entry VALUES (7, 'settle', 5, 5, 'p', 'k', '', '', '/v1/responses', 'm', '', '', 'default', \
         'reported', 90, 40, 0, 0, 0, {counts}'v', 200, NULL, NULL, 0, NULL, 0, 0, NULL, NULL);
         INSERT INTO rollup VALUES (0, 'p', 'k', '', '', '/v1/responses', 'm', '', '', 1, 90, {counts}5);
         INSERT INTO rollup_day SELECT * FROM rollup; INSERT INTO rollup_day_user SELECT * FROM rollup;
         INSERT INTO rollup_day_span VALUES (0, 900, NULL);
         INSERT INTO pruned VALUES (1, 0, 1, 1, 1, 1, 1, 1);"
    ))
    .unwrap();
    tx.commit().unwrap();
    db
}

#[test]
fn a_database_of_version_6_keeps_its_sums_and_adds_quantities_of_any_class_to_them() {
    let mut connection = version_6();
    let tx = connection.transaction().unwrap();
    upgrade(&tx, 6).unwrap();
    tx.commit().unwrap();
    let db = Db::Sqlite(&connection);
    let mut entry = entries::entry(db, 7, &Ids).unwrap().unwrap();
    assert_eq!((entry.quantities[Class::Input], entry.quantities[Class::ImageOutput]), (1, 12));
    assert_eq!(entry.quantities.tokens_total(), 78);
    (entry.id, entry.quantities) = (8, [(Class::Input, 1), (Class::WebSearchCalls, 2)].into());
    commit::write_endings(db, std::slice::from_ref(&entry)).unwrap();
    for table in [Table::Quarters, Table::Days, Table::DaysByUser] {
        let sql = format!("SELECT {} FROM {}", rollup::COLUMNS, table.name());
        let (_, sums) = db.row(&sql, &[], rollup::row_from).unwrap();
        assert_eq!((sums.requests, sums.quantities.tokens_total()), (2, 79), "{table:?}");
        assert_eq!(sums.quantities[Class::WebSearchCalls], 2, "{table:?}");
    }
    assert_eq!(pruned::pruned(db).unwrap().unwrap().total.tokens, 1);
}

#[test]
fn a_database_of_version_6_without_rollups_has_them_rebuilt() {
    let mut db = version_6();
    db.execute_batch("DROP TABLE rollup; DELETE FROM pruned").unwrap();
    let tx = db.transaction().unwrap();
    upgrade(&tx, 6).unwrap();
    tx.commit().unwrap();
    assert_eq!(rebuild_rollups(&mut db).unwrap(), 1);
    assert!(verify::verify(Db::Sqlite(&db), Vec::new()).unwrap().differences.is_empty());
}

#[test]
fn a_database_of_version_7_is_given_the_terms_of_jobs() {
    let mut db = Connection::open_in_memory().unwrap();
    let tx = db.transaction().unwrap();
    tx.execute_batch(ROLLUP).unwrap();
    STEPS[..7].iter().for_each(|step| step.iter().for_each(|tables| tx.execute_batch(tables).unwrap()));
    tx.execute("INSERT INTO job VALUES (1, 'test', 'a', 2, '{}')", []).unwrap();
    upgrade(&tx, 7).unwrap();
    tx.commit().unwrap();
    let kept: (i64, String) =
        db.query_row("SELECT hold_id, terms FROM job", [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert_eq!(kept, (1, "{}".to_owned()));
}

#[test]
fn a_database_of_version_8_keeps_its_objects_and_takes_what_a_scan_has_found() {
    let mut db = Connection::open_in_memory().unwrap();
    let tx = db.transaction().unwrap();
    tx.execute_batch(ROLLUP).unwrap();
    STEPS[..8].iter().for_each(|step| step.iter().for_each(|tables| tx.execute_batch(tables).unwrap()));
    let file = "INSERT INTO object (kind, id, project, api_key, idle_s, created_s, used_s) \
                VALUES ('file', 'file-1', 'p', 'k', 0, 1, 0)";
    tx.execute(file, []).unwrap();
    upgrade(&tx, 8).unwrap();
    tx.commit().unwrap();
    let of = ObjectReference { kind: ObjectKind::File, id: "file-1".to_owned() };
    let db = Db::Sqlite(&db);
    assert_eq!(objects::batch_input(db, &of).unwrap(), None);
    let change = ObjectChange::BatchInput { of: of.clone(), scanned: "{}".into() };
    objects::write(db, &[change]).unwrap();
    assert_eq!(objects::batch_input(db, &of).unwrap().as_deref(), Some("{}"));
}

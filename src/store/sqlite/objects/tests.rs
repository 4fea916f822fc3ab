//! What is written of objects, and what is read back.

use super::*;
use crate::store::sqlite::schema;

const NOW_S: i64 = 1_795_000_000;

fn database() -> Connection {
    let mut db = Connection::open_in_memory().unwrap();
    schema::create(&mut db).unwrap();
    db
}

fn of(id: &str) -> ObjectReference {
    ObjectReference { kind: ObjectKind::Response, id: id.to_owned() }
}

fn known(project: &str, tokens: Option<u64>) -> KnownObject {
    KnownObject {
        project: project.into(),
        key: "k".into(),
        context: KeptContext {
            tokens,
            rendering: Rendering::named(if tokens.is_some() { "m" } else { "" }),
            pictures: Some(9),
            containers: KeptContainers { largest: Some(ContainerMemory::G16), are_indexed: false },
        },
        container_memory: None,
        idle_s: 1,
        created_s: 2,
        used_s: 3,
    }
}

#[test]
fn an_object_keeps_its_first_owner_whatever_is_learned_later() {
    let db = database();
    let put = |known| ObjectChange::Put { of: of("resp_1"), known, expires_s: None };
    write(&db, &[put(known("a", None)), put(known("b", Some(5)))]).unwrap();
    assert_eq!(find(&db, &of("resp_1")).unwrap(), Some(known("a", Some(5))));
    assert_eq!(find(&db, &of("resp_2")).unwrap(), None);
    write(&db, &[ObjectChange::Remove(of("resp_1"))]).unwrap();
    assert_eq!(find(&db, &of("resp_1")).unwrap(), None);
}

#[test]
fn what_upstream_has_forgotten_goes_in_small_steps_and_nothing_else() {
    let db = database();
    let many: i64 = 1_200;
    let mut changes = Vec::new();
    let key = |n: i64| ObjectKey::of(ObjectKind::Item, &format!("msg_{n}"));
    for n in 0..many {
        let expires_s = Some(NOW_S - 1);
        changes.push(ObjectChange::Put { of: of(&format!("resp_{n}")), known: known("a", None), expires_s });
        let made_s = Some(NOW_S - RESPONSE_LIFE_S - 2 * PERIOD_S);
        changes.push(ObjectChange::Item {
            key: key(n),
            project: "a".into(),
            context: KeptContext::text(7),
            made_s,
        });
    }
    let fresh = [(many, Some(NOW_S)), (many + 1, Some(NOW_S - 30 * DAY_S)), (many + 2, None)];
    for (n, made_s) in fresh {
        changes.push(ObjectChange::Item {
            key: key(n),
            project: "a".into(),
            context: KeptContext::default(),
            made_s,
        });
    }
    let kept = |id: &str, expires_s| ObjectChange::Put { of: of(id), known: known("a", None), expires_s };
    changes.extend([kept("resp_new", Some(NOW_S + 1)), kept("resp_forever", None)]);
    write(&db, &changes).unwrap();
    let mut steps = 1;
    while forget(&db, NOW_S).unwrap() {
        steps += 1;
    }
    assert_eq!(steps, 3);
    let count = |table: &str| -> i64 {
        db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    };
    assert_eq!((count("object"), count("object_item")), (2, 3));
    for (n, _) in fresh {
        assert!(find_item(&db, key(n), NOW_S).unwrap().is_some(), "{n}");
    }
    assert!(find_item(&db, key(0), NOW_S).unwrap().is_none());
}

#[test]
fn responses_that_were_made_before_there_was_an_index_are_known_by_their_entries() {
    let tx = database();
    tx.execute_batch("DROP TABLE object; DROP TABLE object_item").unwrap();
    for (id, at_ms, basis) in
        [(1, 3_000_000_000_i64, "reported"), (2, 3_000_000_001, "assumed"), (3, 1, "reported")]
    {
        tx.execute(
            "INSERT INTO entry VALUES (?1, 'settle', ?2, ?2, 'p', 'k', '', '', '/v1/responses', 'm', '', '', 'default', \
             ?3, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, '', 200, NULL, 'resp_' || ?1, 0, NULL, 0, 0, \
             NULL, NULL, NULL)",
            (id, at_ms, basis),
        )
        .unwrap();
    }
    tx.execute_batch(TABLES).unwrap();
    let mut known = tx.prepare("SELECT id, project, context_tokens FROM object ORDER BY id").unwrap();
    let known = known.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    let known: Vec<(String, String, Option<i64>)> = known.map(Result::unwrap).collect();
    assert_eq!(known, [("resp_1".into(), "p".into(), Some(78)), ("resp_2".into(), "p".into(), None)]);
}

#[test]
fn the_size_of_a_context_that_was_recorded_without_its_rendering_is_not_known() {
    let db = database();
    db.execute_batch("DROP TABLE object; DROP TABLE object_item").unwrap();
    db.execute_batch(TABLES).unwrap();
    let (response, item) = (of("resp_1"), ObjectKey::of(ObjectKind::Item, "msg_1"));
    let row = (response.kind.name(), &response.id);
    db.execute("INSERT INTO object VALUES (?1, ?2, 'p', 'k', 920, NULL, 0, 1, 0, NULL)", row).unwrap();
    let row = in_period(item, NOW_S.div_euclid(PERIOD_S));
    db.execute("INSERT INTO object_item VALUES (?1, 'p', 20)", [row]).unwrap();
    db.execute_batch(RENDERINGS).unwrap();
    let unknown = KeptContext::default();
    let unknown = KeptContext { containers: KeptContainers::NONE, ..unknown };
    assert_eq!(find(&db, &response).unwrap().unwrap().context, unknown);
    assert_eq!(find_item(&db, item, NOW_S).unwrap().unwrap().context, unknown);
    let known = known("p", Some(7));
    write(&db, &[ObjectChange::Put { of: response.clone(), known: known.clone(), expires_s: None }]).unwrap();
    assert_eq!(find(&db, &response).unwrap().unwrap().context, known.context);
}

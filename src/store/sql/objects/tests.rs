//! What is written of objects, and what is read back.

use super::*;
use crate::store::sqlite;

const NOW_S: i64 = 1_795_000_000;

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
        has_job: false,
        idle_s: 1,
        created_s: 2,
        used_s: 3,
        changes: 0,
    }
}

#[test]
fn an_object_keeps_its_first_owner_whatever_is_learned_later() {
    let connection = sqlite::memory();
    let db = Db::Sqlite(&connection);
    let put = |known| ObjectChange::Put { of: of("resp_1"), known, expires_s: None };
    write(db, &[put(known("a", None)), put(known("b", Some(5)))]).unwrap();
    assert_eq!(find(db, &of("resp_1")).unwrap(), Some(known("a", Some(5))));
    assert_eq!(find(db, &of("resp_2")).unwrap(), None);
    write(db, &[ObjectChange::Remove(of("resp_1"))]).unwrap();
    assert_eq!(find(db, &of("resp_1")).unwrap(), None);
}

#[test]
fn what_upstream_has_forgotten_goes_in_small_steps_and_nothing_else() {
    let connection = sqlite::memory();
    let db = Db::Sqlite(&connection);
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
    write(db, &changes).unwrap();
    let mut steps = 1;
    while forget(db, NOW_S).unwrap() {
        assert!(is_to_forget(db, NOW_S).unwrap(), "after {steps} steps");
        steps += 1;
    }
    assert!(steps == 3 && !is_to_forget(db, NOW_S).unwrap(), "{steps} steps");
    let count = |table: &str| -> i64 {
        db.row(&format!("SELECT COUNT(*) FROM {table}"), &[], |row| row.get(0)).unwrap()
    };
    assert_eq!((count("object"), count("object_item")), (2, 3));
    for (n, _) in fresh {
        assert!(find_item(db, key(n), NOW_S).unwrap().is_some(), "{n}");
    }
    assert!(find_item(db, key(0), NOW_S).unwrap().is_none());
}

#[test]
fn changes_are_ordered_by_their_rows_and_those_of_one_row_stay_in_their_order() {
    let put =
        |id: &str, tokens| ObjectChange::Put { of: of(id), known: known("a", Some(tokens)), expires_s: None };
    let item = |id: &str| ObjectChange::Item {
        key: ObjectKey::of(ObjectKind::Item, id),
        project: "a".into(),
        context: KeptContext::default(),
        made_s: None,
    };
    let conversation = ObjectReference { kind: ObjectKind::Conversation, id: "z".to_owned() };
    let changes = [
        item("m"),
        put("b", 1),
        ObjectChange::Remove(of("b")),
        put("b", 2),
        item("n"),
        put("a", 3),
        item("m"),
    ];
    let (forth, mut back) = (in_order(&changes), changes.iter().rev().collect::<Vec<_>>());
    let rows = |changes: &[&ObjectChange]| -> Vec<String> {
        changes.iter().map(|change| format!("{:?}", row_of(change))).collect()
    };
    let tokens_of_b: Vec<_> = forth
        .iter()
        .filter_map(|change| match change {
            ObjectChange::Put { of, known, .. } => (of.id == "b").then_some(known.context.tokens),
            ObjectChange::Remove(_) => Some(None),
            ObjectChange::Item { .. } | ObjectChange::BatchInput { .. } | ObjectChange::EndTurn { .. } => {
                None
            }
        })
        .collect();
    assert_eq!(tokens_of_b, [Some(1), None, Some(2)]);
    let last = ObjectChange::Remove(conversation);
    back.insert(3, &last);
    let mut of_back = rows(&in_order(back));
    of_back.remove(0);
    assert_eq!(rows(&forth), of_back, "whatever order they came in, kinds in theirs");
}

//! Whatever is pruned, what is read of the past stays what it was.

use std::sync::Arc;

use super::*;
use crate::domain::demand::{Bound, Tier};
use crate::domain::limit::{Mode, Only, Per, Source, Unit};
use crate::domain::{Class, Limit, Money, Quantities, Window};
use crate::ledger::account::{Account, Grant};
use crate::ledger::entry::{Attribution, Basis};
use crate::store::sql::codec::insert_entry;
use crate::store::sql::{credit, entries, verify};
use crate::store::sqlite;

/// 2026-11-01T00:00:00Z.
const FIRST_S: i64 = 1_793_491_200;
const HOUR_MS: i64 = 3_600_000;

fn entry(id: u64, admitted_ms: i64) -> Entry {
    let key: Arc<str> = format!("key_{}", id % 3).into();
    let attribution = Attribution {
        project: "default".into(),
        project_name: "default".into(),
        key_name: Arc::clone(&key),
        key,
        end_user: None,
        tags: Arc::default(),
        endpoint: "/chat/completions".into(),
        model: "gpt-4o".into(),
        priced_as: None,
        image_model: None,
    };
    Entry {
        id,
        kind: Kind::Settle,
        created_ms: admitted_ms,
        admitted_ms,
        attribution: Arc::new(attribution),
        held: Bound::default(),
        cost: Money::from_nano(1_000 + i64::try_from(id).unwrap()),
        tool_fees: Money::ZERO,
        quantities: Quantities::from([(Class::Input, id), (Class::FileSearchCalls, id % 2)]),
        basis: Some(Basis::Reported),
        served_model: None,
        tier: Tier::default(),
        price_version: "test".into(),
        status: 200,
        upstream_request_id: None,
        object_id: None,
        duration_ms: 1,
        ttft_ms: None,
        stream: false,
        disconnected: false,
        corrects: None,
        note: None,
    }
}

fn write(db: Db<'_>, written: &[Entry]) {
    entries::insert_summed(db, written).unwrap();
}

fn grant(db: Db<'_>, id: u64, made_ms: i64, expires_s: Option<i64>, latest_ms: i64) {
    let amount = Money::from_nano(1_000_000);
    let grant = Grant { id, amount, note: String::new(), created_ms: made_ms, expires_s, corrects: None };
    credit::insert(db, &grant, latest_ms).unwrap();
}

/// Prunes as the guard does; returns how many entries went.
fn prune(db: Db<'_>, before_s: i64) -> u64 {
    let (mut entries, mut from_ms) = (0, i64::MIN);
    while let Some(step) = next_entries(db, from_ms, before_s)
        .unwrap()
        .unwrap()
        .or_else(|| next_crossings(db, before_s).unwrap())
    {
        from_ms = from_ms.max(step.next_from_ms());
        entries += delete(db, &step).unwrap();
    }
    entries
}

fn differences(db: Db<'_>) -> Vec<crate::store::reports::Difference> {
    verify::verify(db, Vec::new()).unwrap().differences
}

fn monthly() -> Limit {
    Limit {
        name: "monthly".into(),
        per: Per::Key,
        only: Only::default(),
        unit: Unit::Usd,
        window: Window::Month,
        zone: "UTC".into(),
        soft: Vec::new(),
        hard: None,
        mode: Mode::Enforce,
        source: Source::File,
    }
}

fn figures(account: Option<Account>, at_ms: i64) -> String {
    format!("{:?}", account.map(|account| (account.balance(at_ms), account.readings(at_ms))))
}

#[test]
fn of_a_window_that_is_pruned_in_part_the_sums_are_the_same_and_the_lost_part_is_named() {
    let connection = sqlite::memory();
    let db = Db::Sqlite(&connection);
    let entries: Vec<Entry> =
        (1..=600).map(|id| entry(id, FIRST_S * 1_000 + i64::try_from(id).unwrap() * HOUR_MS / 20)).collect();
    write(db, &entries);
    let (limit, window) = (monthly(), Span { start_s: FIRST_S, end_s: FIRST_S + 30 * 86_400 });
    let sums = |db: Db<'_>| entries::settled_by_entries(db, &limit, window, &Ids).unwrap();
    let before = sums(db);
    let expected = prunable(db, FIRST_S + 20 * 3_600).unwrap();
    assert_eq!(prune(db, FIRST_S + 20 * 3_600), expected);
    assert_eq!((expected, sums(db)), (399, before.clone()));
    let (whole_since_s, lost) = pruned_of(db, &limit, window, &Ids).unwrap().unwrap();
    assert_eq!(whole_since_s, FIRST_S + 20 * 3_600);
    let lost_usd: i64 = lost.iter().map(|(_, sum)| sum).sum();
    let of_pruned = entries.iter().filter(|entry| entry.admitted_ms < whole_since_s * 1_000);
    assert_eq!(lost_usd, of_pruned.map(|entry| entry.cost.nano()).sum::<i64>());
    assert_eq!(differences(db), []);
    // A sum that is changed where its entries are gone is seen all the same.
    db.execute("UPDATE rollup SET cost_nano = cost_nano - 1 WHERE start_s = ?1", params![FIRST_S + 3_600])
        .unwrap();
    let found: Vec<String> = differences(db).into_iter().map(|found| found.what).collect();
    assert!(found[0].contains("where entries were pruned"), "{found:?}");
}

#[test]
fn what_has_no_column_of_its_own_is_proven_too_where_its_entries_are_gone() {
    let connection = sqlite::memory();
    let db = Db::Sqlite(&connection);
    let ids = 1..=100;
    let entries: Vec<Entry> = ids.map(|id| entry(id, FIRST_S * 1_000 + i64::try_from(id).unwrap())).collect();
    write(db, &entries);
    assert_eq!(prune(db, FIRST_S + 3_600), 100);
    assert_eq!(
        pruned(db).unwrap().unwrap().total.others,
        Quantities::from([(Class::FileSearchCalls, 50)]).into()
    );
    assert_eq!(differences(db), []);
    db.execute("UPDATE rollup SET other_quantities = NULL WHERE api_key = 'key_0'", &[]).unwrap();
    let found: Vec<String> = differences(db).into_iter().map(|found| found.what).collect();
    assert!(found[0].contains("33 file_search_calls; what was pruned"), "{found:?}");
    assert!(found[0].contains("50 file_search_calls"), "{found:?}");
}

#[test]
fn a_quarter_of_an_hour_whose_sums_are_not_those_of_its_entries_is_kept_as_proof() {
    let connection = sqlite::memory();
    let db = Db::Sqlite(&connection);
    write(db, &[entry(1, FIRST_S * 1_000), entry(2, FIRST_S * 1_000 + HOUR_MS)]);
    db.execute("UPDATE rollup SET cost_nano = 7 WHERE start_s > ?1", params![FIRST_S]).unwrap();
    let before_s = FIRST_S + 86_400;
    let step = next_entries(db, i64::MIN, before_s).unwrap().unwrap().unwrap();
    assert_eq!(delete(db, &step).unwrap(), 1);
    let refused = next_entries(db, step.next_from_ms(), before_s).unwrap().unwrap_err();
    assert!(matches!(refused, PruneError::Unlike { start_s } if start_s == FIRST_S + 3_600), "{refused}");
    assert_eq!(db.row("SELECT COUNT(*) FROM entry", &[], |row| row.get::<i64>(0)).unwrap(), 1);
}

#[test]
fn credit_comes_to_the_same_after_a_restart_however_much_is_pruned() {
    for seed in 0..40_i64 {
        let connection = sqlite::memory();
        let db = Db::Sqlite(&connection);
        let at_ms = |minute: i64| FIRST_S * 1_000 + minute * 60_000;
        // The first grant cuts a quarter, and so do dates of expiry.
        let made = 60 + seed * 7;
        let before: Vec<Entry> =
            (1..50).map(|id| entry(id, at_ms(i64::try_from(id).unwrap() * made / 50))).collect();
        write(db, &before);
        grant(db, 50, at_ms(made), Some(FIRST_S + (made + 100 + seed * 11) * 60), at_ms(made));
        grant(
            db,
            51,
            at_ms(made),
            (seed % 2 == 0).then_some(FIRST_S + (made + 250) * 60 + seed),
            at_ms(made),
        );
        let after =
            (52..400).map(|id| entry(id, at_ms(made + i64::try_from(id - 52).unwrap() * 2 - seed % 5)));
        let mut after: Vec<Entry> = after.collect();
        let corrected = after[usize::try_from(seed).unwrap() * 5].clone();
        let cost = Money::from_nano(-500);
        after.push(Entry {
            id: 400,
            kind: Kind::Adjust,
            corrects: Some(corrected.id),
            cost,
            quantities: Quantities::default(),
            ..corrected
        });
        write(db, &after);
        let now_ms = at_ms(made + 800);
        let account = |db: Db<'_>| figures(credit::account(db).unwrap(), now_ms);
        let (expected, latest) = (account(db), credit::latest_ms(db).unwrap());
        for hours in [1, 5, 8, 48] {
            let before_s = FIRST_S + hours * 3_600;
            let promised = prunable(db, before_s).unwrap();
            assert_eq!(prune(db, before_s), promised, "seed {seed}, {hours} hours");
            assert_eq!(account(db), expected, "seed {seed}, {hours} hours");
        }
        let left: i64 = db.row("SELECT COUNT(*) FROM entry", &[], |row| row.get(0)).unwrap();
        assert!(left < 60, "seed {seed}: {left} entries stay");
        assert_eq!((credit::latest_ms(db).unwrap(), differences(db)), (latest, Vec::new()));
    }
}

#[test]
fn an_ending_stays_as_long_as_a_hold_of_its_batch_is_open() {
    let connection = sqlite::memory();
    let db = Db::Sqlite(&connection);
    let hold = |id: u64| {
        format!(
            "{{\"id\":{id},\"at\":{},\"project\":\"default\",\"key\":\"key_1\",\"endpoint\":\"/chat/completions\",\
             \"model\":\"gpt-4o\",\"cost\":1,\"input\":1,\"output\":1,\"tier\":\"default\",\"price\":\"test\",\
             \"stream\":false}}\n",
            FIRST_S * 1_000
        )
    };
    db.execute("INSERT INTO hold_batch VALUES (7, ?1)", params![hold(7) + &hold(8)]).unwrap();
    write(db, &[entry(6, FIRST_S * 1_000), entry(7, FIRST_S * 1_000)]);
    let before_s = FIRST_S + 86_400;
    assert_eq!((prunable(db, before_s).unwrap(), prune(db, before_s)), (1, 1));
    assert_eq!(db.row("SELECT id FROM entry", &[], |row| row.get::<i64>(0)).unwrap(), 7);
    db.execute("DELETE FROM hold_batch", &[]).unwrap();
    assert_eq!((prunable(db, before_s).unwrap(), prune(db, before_s)), (1, 1));
    assert_eq!(differences(db), []);
}

#[test]
fn a_threshold_goes_with_its_line_once_its_window_is_over_and_its_alert_was_sent() {
    let connection = sqlite::memory();
    let db = Db::Sqlite(&connection);
    let crossing = |id: i64, window_end_s: i64, is_routed: bool| {
        db.execute(
            "INSERT INTO crossing (id, mark, limit_name, subject, threshold, window_start_s, window_end_s, settled, unit, \
             period, hard, at_ms, is_routed) VALUES (?1, 'soft', 'l', 'org', ?1, ?2, ?3, 1, 'usd', 'day', NULL, ?4, ?5)",
            params![id, FIRST_S, window_end_s, FIRST_S * 1_000, is_routed],
        )
        .unwrap();
        let line = Entry {
            kind: Kind::Threshold,
            cost: Money::ZERO,
            quantities: Quantities::default(),
            ..entry(uint(id), FIRST_S * 1_000)
        };
        insert_entry(db, &line, "").unwrap();
    };
    let day_end_s = FIRST_S + 86_400;
    crossing(1, day_end_s, true);
    crossing(2, day_end_s, true);
    crossing(3, day_end_s, false);
    crossing(4, i64::MAX, true);
    db.execute("INSERT INTO delivery VALUES (1, 'email', 'sent', 1, 0, NULL, NULL)", &[]).unwrap();
    db.execute("INSERT INTO delivery VALUES (2, 'email', 'waiting', 1, 0, 'refused', NULL)", &[]).unwrap();
    assert_eq!((prunable(db, day_end_s - 900).unwrap(), prune(db, day_end_s - 900)), (0, 0));
    assert_eq!((prunable(db, day_end_s).unwrap(), prune(db, day_end_s)), (1, 1));
    let left = "SELECT id FROM crossing JOIN entry USING (id) ORDER BY id";
    let left: Vec<i64> = db.rows(left, &[], |row| row.get(0)).unwrap();
    assert_eq!(left, [2, 3, 4]);
    assert_eq!(differences(db), []);
}

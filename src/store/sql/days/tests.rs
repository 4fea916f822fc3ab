//! However much is summed up by days, the answers are the same.

use std::collections::BTreeMap;

use super::*;
use crate::domain::Limit;
use crate::domain::limit::{Mode, Only, Per, Source, Unit};
use crate::store::reports::{GroupBy, Groups, UsageRow};
use crate::store::sql::rollup::Ids;
use crate::store::sql::{history, key_usage, usage, usage_rows, verify};
use crate::store::sqlite;

/// Two days before summer time begins in Warsaw: 2026-03-27T00:00:00Z.
const FIRST_S: i64 = 1_774_569_600;
const LAST_S: i64 = FIRST_S + 5 * 86_400;
const ZONES: [&str; 3] = ["UTC", "Europe/Warsaw", "Asia/Kathmandu"];

fn zones(names: &[&str]) -> Vec<TimeZone> {
    names.iter().map(|name| TimeZone::get(name).unwrap()).collect()
}

/// What came in one quarter of an hour for one of some keys and users.
fn rollup(start_s: i64, number: u64) -> (RollupKey, RollupSums) {
    let names = [
        "default",
        &format!("key_{}", number % 7),
        &format!("user {}", number % 3),
        &if number.is_multiple_of(2) { format!(r#"{{"run":"r{}"}}"#, number % 4) } else { String::new() },
        "/v1/x",
        "gpt",
        "gpt",
        "",
    ];
    let sums = RollupSums {
        requests: i64::try_from(1 + number % 2).unwrap(),
        cost_nano: 1_000,
        last_ms: start_s * 1_000,
        ..RollupSums::default()
    };
    (RollupKey { start_s, names: names.map(str::to_owned) }, sums)
}

fn limit(per: Per, window: Window, zone: &str) -> Limit {
    Limit {
        name: "limit".into(),
        per,
        only: Only::default(),
        unit: Unit::Requests,
        window,
        zone: zone.into(),
        soft: Vec::new(),
        hard: None,
        mode: Mode::Enforce,
        source: Source::File,
    }
}

/// Everything that is read of sums, asked in many ways.
fn answers(db: Db<'_>) -> Vec<String> {
    let mut answers = Vec::new();
    for zone in ["UTC", "Europe/Warsaw", "America/St_Johns"] {
        let zone = TimeZone::get(zone).unwrap();
        let first = calendar::span(Window::Day, &zone, FIRST_S);
        let days =
            std::iter::successors(Some(first), |day| Some(calendar::span(Window::Day, &zone, day.end_s)));
        let days = GroupBy::Day(days.take(7).collect());
        for (since_s, until_s) in
            [(i64::MIN, i64::MAX), (FIRST_S + 5_000, LAST_S - 40_000), (first.end_s, LAST_S)]
        {
            let span = Span { start_s: since_s, end_s: until_s };
            let late = Span { start_s: FIRST_S + 100_000, end_s: until_s };
            let by = [(&days, span), (&GroupBy::Key, late), (&GroupBy::User, span)];
            let found: [Groups; 3] = usage::usages(db, by, |_, key| key != "key_3").unwrap();
            answers.push(format!("{found:?}"));
            if since_s > i64::MIN {
                let of_key = key_usage::by_model(db, "key_2", &[span]).unwrap().remove(0);
                let [all] = usage::usages(db, [(&GroupBy::Model, span)], |_, key| key == "key_2").unwrap();
                let all: Vec<_> = all.into_iter().map(|(of, sum)| (of[0].clone(), sum)).collect();
                assert_eq!(of_key, all, "one key's own rows are those found among all");
                answers.push(format!("{of_key:?}"));
            }
        }
    }
    for width_s in [900, 3_600, 86_400] {
        let mut sums: BTreeMap<(i64, String), u64> = BTreeMap::new();
        let each = |line: UsageRow<'_>| {
            *sums.entry((line.at_s.div_euclid(width_s), line.key.to_owned())).or_default() +=
                line.sum.requests;
            true
        };
        usage_rows::each_row(db, width_s, FIRST_S, LAST_S, each).unwrap();
        answers.push(format!("{sums:?}"));
    }
    for (per, window) in [
        (Per::Key, Window::Day),
        (Per::User, Window::Month),
        (Per::Organization, Window::Hour),
        (Per::Tag("run".into()), Window::Day),
    ] {
        for zone in ["Europe/Warsaw", "Asia/Kathmandu", "America/St_Johns"] {
            let limit = limit(per.clone(), window, zone);
            let since_s = calendar::span(window, &TimeZone::get(zone).unwrap(), FIRST_S + 200_000).start_s;
            let past = history::settled(db, &[(&limit, since_s)], &Ids).unwrap();
            let past: BTreeMap<_, _> = past[0]
                .iter()
                .map(|((subject, start_s), sum)| (format!("{subject:?} {start_s}"), sum))
                .collect();
            answers.push(format!("{past:?}"));
        }
    }
    let mut used = BTreeMap::new();
    usage::each_use(db, |key, ms| {
        let last = used.entry(key.to_owned()).or_insert(ms);
        *last = ms.max(*last);
    })
    .unwrap();
    answers.push(format!("{used:?}"));
    answers
}

fn differences(db: Db<'_>) -> Vec<&'static str> {
    // There are no entries behind these rollups, which is reported as well.
    let found = verify::verify(db, Vec::new()).unwrap().differences;
    found.into_iter().map(|difference| difference.kind).filter(|kind| *kind == "day").collect()
}

#[test]
fn however_much_is_summed_up_all_answers_are_the_same() {
    // One sums days up, the other never does.
    let (connection, connection_of_plain) = (sqlite::memory(), sqlite::memory());
    let (db, plain) = (Db::Sqlite(&connection), Db::Sqlite(&connection_of_plain));
    let both = |(key, sums): (RollupKey, RollupSums)| {
        add(db, &end(db).unwrap(), &key, &sums).unwrap();
        upsert_rollup(plain, Table::Quarters, &key, &sums).unwrap();
    };
    for (number, start_s) in (FIRST_S..LAST_S).step_by(900).enumerate() {
        for more in 0..4 {
            both(rollup(start_s, u64::try_from(number).unwrap() * 5 + more));
        }
    }
    let zones = zones(&ZONES);
    let mut steps = 0;
    while is_to_sum_up(db, LAST_S - 7_000, &zones).unwrap() {
        assert!(sum_up(db, LAST_S - 7_000, &zones).unwrap());
        steps += 1;
        if steps % 200 == 3 {
            // Late, early, and before everything else.
            for start_s in [FIRST_S, FIRST_S + steps * 900, LAST_S, FIRST_S - 90_000] {
                both(rollup(start_s, 40 + steps.unsigned_abs()));
            }
            assert_eq!(answers(db), answers(plain), "after {steps} steps");
        }
    }
    assert_eq!(days(db).unwrap().iter().filter(|day| first_cut_of(day, &zones)).count(), 0);
    assert!(
        days(db).unwrap().last().unwrap().span.end_s == LAST_S - 7_200,
        "only whole quarters that are over"
    );
    assert_eq!((answers(db), differences(db)), (answers(plain), vec![]));
}

fn first_cut_of(day: &Day, zones: &[TimeZone]) -> bool {
    day_end_s(zones, day.span.start_s) < day.span.end_s
}

#[test]
fn a_quarter_too_long_for_one_step_is_summed_up_in_parts() {
    let (connection, connection_of_plain) = (sqlite::memory(), sqlite::memory());
    let (db, plain) = (Db::Sqlite(&connection), Db::Sqlite(&connection_of_plain));
    for number in 0..2_500 {
        let (mut key, sums) = rollup(FIRST_S, number);
        key.names[2] = format!("user {number:04}");
        for db in [db, plain] {
            upsert_rollup(db, Table::Quarters, &key, &sums).unwrap();
        }
    }
    let zones = zones(&ZONES);
    for number in 0..5 {
        assert!(sum_up(db, LAST_S, &zones).unwrap());
        // One whose part is summed up already, and one whose part is not.
        for user in ["user 0001", "user 2499"] {
            let (mut key, sums) = rollup(FIRST_S, number);
            key.names[2] = user.to_owned();
            add(db, &end(db).unwrap(), &key, &sums).unwrap();
            upsert_rollup(plain, Table::Quarters, &key, &sums).unwrap();
        }
        assert_eq!((answers(db), differences(db)), (answers(plain), vec![]), "after part {number}");
    }
    assert!(!is_to_sum_up(db, LAST_S, &zones).unwrap() && !sum_up(db, LAST_S, &zones).unwrap());
    assert_eq!(end(db).unwrap(), RollupKey { start_s: FIRST_S + 900, ..RollupKey::default() });
}

#[test]
fn sums_that_are_added_together_are_those_that_are_added_one_by_one() {
    let (connection, connection_of_plain) = (sqlite::memory(), sqlite::memory());
    let (db, plain) = (Db::Sqlite(&connection), Db::Sqlite(&connection_of_plain));
    let hours = || (FIRST_S..LAST_S).step_by(3_600).zip(0..);
    for db in [db, plain] {
        for (start_s, number) in hours() {
            let (key, sums) = rollup(start_s, number);
            upsert_rollup(db, Table::Quarters, &key, &sums).unwrap();
        }
        while sum_up(db, LAST_S - 86_400, &zones(&ZONES)).unwrap() {}
    }
    let late: BTreeMap<RollupKey, RollupSums> =
        hours().map(|(start_s, more)| rollup(start_s, more + 3)).collect();
    for (table, sums_of) in in_tables(&days(db).unwrap(), late.clone()) {
        for (key, sums) in sums_of {
            upsert_rollup(db, table, &key, &sums).unwrap();
        }
    }
    for (key, sums) in &late {
        add(plain, &end(plain).unwrap(), key, sums).unwrap();
    }
    assert_eq!((answers(db), differences(db)), (answers(plain), vec![]));
}

#[test]
fn what_another_zones_midnight_cuts_is_removed_and_summed_up_again() {
    let connection = sqlite::memory();
    let db = Db::Sqlite(&connection);
    for start_s in (FIRST_S..LAST_S).step_by(3_600) {
        let (key, sums) = rollup(start_s, 1);
        upsert_rollup(db, Table::Quarters, &key, &sums).unwrap();
    }
    let before = answers(db);
    let (utc, with_tokyo) = (zones(&["UTC"]), zones(&["UTC", "Asia/Tokyo"]));
    while sum_up(db, LAST_S, &utc).unwrap() {}
    assert_eq!((days(db).unwrap().len(), first_cut(db, &utc).unwrap()), (5, None));
    let cut_s = first_cut(db, &with_tokyo).unwrap();
    assert_eq!(cut_s, Some(FIRST_S));
    assert!(is_to_sum_up(db, FIRST_S, &with_tokyo).unwrap() && !is_to_sum_up(db, LAST_S, &utc).unwrap());
    while take_away(db, FIRST_S).unwrap() {
        assert_eq!((&answers(db), differences(db)), (&before, vec![]));
    }
    while sum_up(db, LAST_S, &with_tokyo).unwrap() {}
    assert_eq!((days(db).unwrap().len(), first_cut(db, &with_tokyo).unwrap()), (10, None));
    assert_eq!((answers(db), differences(db)), (before, vec![]));
}

#[test]
fn a_day_that_was_changed_by_hand_is_a_difference() {
    let connection = sqlite::memory();
    let db = Db::Sqlite(&connection);
    let (key, sums) = rollup(FIRST_S, 1);
    upsert_rollup(db, Table::Quarters, &key, &sums).unwrap();
    assert!(sum_up(db, LAST_S, &zones(&ZONES)).unwrap());
    assert_eq!(differences(db), [""; 0]);
    db.execute("UPDATE rollup_day SET cost_nano = cost_nano + 1", &[]).unwrap();
    db.execute("DELETE FROM rollup_day_user", &[]).unwrap();
    assert_eq!(differences(db), ["day", "day"]);
}

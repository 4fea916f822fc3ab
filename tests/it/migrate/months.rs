//! Entries of several months, which PostgreSQL has a partition for each of.

use rusqlite::Connection;

use super::{House, assert_same, furnish, same_in_a_folder, shown};
use crate::harness::run;
use crate::process::Place;

/// Repeats the endings of a ledger in past months, as far away as two years, while no guard runs.
fn repeat_in_the_past(db: &Connection) {
    let columns = |table: &str, but: &[&str]| {
        let mut named = db.prepare(&format!("SELECT name FROM pragma_table_info('{table}')")).unwrap();
        let names = named.query_map([], |row| row.get::<_, String>(0)).unwrap().map(Result::unwrap);
        names.filter(|name| !but.contains(&name.as_str())).collect::<Vec<_>>().join(", ")
    };
    let (of_entry, of_sum) =
        (columns("entry", &["id", "created_ms", "admitted_ms"]), columns("rollup", &["start_s", "last_ms"]));
    for days in [65, 300, 720] {
        let (s, ms) = (days * 86_400, days * 86_400_000_i64);
        db.execute_batch(&format!(
            "INSERT INTO rollup (start_s, last_ms, {of_sum}) SELECT start_s - {s}, last_ms - {ms}, {of_sum} \
             FROM rollup WHERE start_s > unixepoch() - 86400; \
             INSERT INTO entry (id, created_ms, admitted_ms, {of_entry}) \
             SELECT id + (SELECT MAX(id) FROM entry), created_ms - {ms}, admitted_ms - {ms}, {of_entry} \
             FROM entry WHERE admitted_ms > (unixepoch() - 86400) * 1000 AND kind IN ('settle', 'release')"
        ))
        .unwrap();
    }
}

#[test]
fn each_entry_is_copied_to_its_month_and_back() {
    run(async {
        let house = House::new();
        let guard = house.place.serve();
        furnish(&guard).await;
        guard.stop();
        let db = Connection::open(house.place.database()).unwrap();
        db.execute_batch("DELETE FROM credit_grant; DELETE FROM entry WHERE kind = 'grant'").unwrap();
        repeat_in_the_past(&db);
        drop(db);
        let guard = house.place.serve();
        let before = shown(&guard).await;
        guard.verify().await;
        guard.stop();

        house.to_postgres();
        assert_eq!(house.postgres.ask("SELECT count(*) FROM entry_default"), "0");
        let months = house.postgres.ask("SELECT count(DISTINCT tableoid) FROM entry");
        assert!(months.parse::<u32>().unwrap() >= 4, "{months} partitions have entries");
        let guard = Place::serve_by(house.on_postgres());
        assert_same(&before, &shown(&guard).await);
        guard.verify().await;
        guard.stop();

        same_in_a_folder(&house, &before).await;
    });
}

//! Copies that are killed, and guards that start while a copy begins.

use std::process::{Command, Stdio};
use std::time::Duration;

use http::StatusCode;
use serde_json::json;

use super::{House, refusal, spent};
use crate::harness::run;
use crate::process::{Place, Serving, refused};

/// Adds so many releases to a ledger, which no sum counts. The model of one has a NUL, which
/// PostgreSQL can't store.
fn fill(db: &rusqlite::Connection, count: u32) {
    db.execute_batch(&format!(
        "INSERT INTO entry WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {count}) \
         SELECT 1000 + n, 'release', 1795000000000 + n, 1795000000000 + n, 'default', 'key_' || (n % 50), '', '', \
         '/v1/chat/completions', CASE n WHEN 7 THEN 'a' || char(0) ELSE 'gpt-4o-mini' END, '', '', 'default', '', 0, 0, n, n, n, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, \
         '2026-11-21', 500, 'req_' || n, NULL, 7, NULL, 0, 0, NULL, NULL, NULL FROM n"
    ))
    .unwrap();
}

/// Starts a copy, and kills it once it has copied some entries and not all. It is stopped
/// meanwhile, and `stopped` looks at it then.
fn killed(mut command: Command, copied: impl Fn() -> Option<u64>, all: u64, stopped: impl FnOnce()) {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while copied().is_none_or(|count| count == 0) {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was killed");
        std::thread::sleep(Duration::from_millis(5));
    }
    let stop = Command::new("kill").args(["-STOP", &child.id().to_string()]).status().unwrap();
    assert!(stop.success());
    stopped();
    assert!(copied().is_some_and(|count| count < all), "it was whole when it was stopped");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Entries of a ledger whose copy can be killed before it is whole.
const ENTRIES: u32 = 60_000;

/// A stopped guard's ledger with so many entries, and a key.
async fn large() -> (House, String) {
    let (house, key) = spent().await;
    fill(&rusqlite::Connection::open(house.place.database()).unwrap(), ENTRIES);
    (house, key)
}

/// A guard takes up where the ledger was left.
async fn goes_on(guard: Serving, key: &str) {
    guard.verify().await;
    assert_eq!(guard.chat(key, &[], json!({})).await.status, StatusCode::OK);
    guard.written(2).await;
}

#[test]
fn a_copy_that_is_killed_is_no_ledger_and_goes_on_by_the_same_command() {
    run(async {
        let (house, key) = large().await;
        let (data, database) = (house.place.data.display().to_string(), "env:DATABASE_URL");
        let copied = || {
            let there = "SELECT count(*) FROM pg_tables WHERE tablename = 'migration'";
            if house.postgres.ask(there) == "0" {
                return None;
            }
            let sql = "SELECT copied FROM migration WHERE name = 'entry'";
            house.postgres.ask(sql).parse().ok()
        };
        killed(house.migration(&data, database), copied, ENTRIES.into(), || {});
        let said = refused(house.on_postgres());
        assert!(said.contains("the schema spendguard is half a copy"), "{said}");
        assert!(
            said.contains("Run the same command again") && said.contains("DROP SCHEMA spendguard CASCADE"),
            "{said}"
        );
        let said = refusal(house.migration(database, &house.folder("other").display().to_string()));
        assert!(said.contains("is half a copy"), "{said}");
        // Another ledger, or the same after a guard ran on it, is not what was copied.
        let change = |sql: &str| {
            rusqlite::Connection::open(house.place.database()).unwrap().execute_batch(sql).unwrap();
        };
        change("UPDATE entry SET duration_ms = 8 WHERE id = 1001");
        let said = refusal(house.migration(&data, database));
        assert!(
            said.contains("half a copy of another ledger") && said.contains("its table entry differs"),
            "{said}"
        );
        change("UPDATE entry SET duration_ms = 7 WHERE id = 1001");
        // What was copied and is not as it was copied fails the comparison, and stays no ledger.
        house.postgres.ask("UPDATE entry SET duration_ms = 8 WHERE id = 1001");
        let said = refusal(house.migration(&data, database));
        assert!(said.contains("the copy is not like --from: the table entry has 60"), "{said}");
        assert!(refused(house.on_postgres()).contains("is half a copy"));
        house.postgres.ask("UPDATE entry SET duration_ms = 7 WHERE id = 1001");
        let resumed = house.to_postgres();
        assert!(resumed.resumed_at("entry") > 0, "{}", resumed.out);
        goes_on(Place::serve_by(house.on_postgres()), &key).await;
    });
}

#[test]
fn a_copy_back_that_is_killed_is_no_ledger_and_goes_on_by_the_same_command() {
    run(async {
        let (house, key) = large().await;
        house.to_postgres();
        let back = house.folder("back");
        let copied = || {
            // One that is not there yet is not made here.
            let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE;
            let db = rusqlite::Connection::open_with_flags(back.join("spendguard.db"), flags).ok()?;
            let no_log_is_moved = rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
            db.set_db_config(no_log_is_moved, true).unwrap();
            let sql = "SELECT copied FROM migration WHERE name = 'entry'";
            db.query_row(sql, [], |row| row.get::<_, i64>(0)).ok()?.try_into().ok()
        };
        let stopped = || {
            let free = "SELECT count(*) FROM (SELECT 1 FROM rules FOR UPDATE SKIP LOCKED) AS free";
            assert_eq!(house.postgres.ask(free), "0", "no guard can join the source meanwhile");
        };
        let to = back.display().to_string();
        killed(house.migration("env:DATABASE_URL", &to), copied, ENTRIES.into(), stopped);
        let said = refused(house.on_folder(&back));
        assert!(said.contains("is half a copy") && said.contains("Run the same command again"), "{said}");
        let resumed = house.to_folder(&back);
        assert!(resumed.resumed_at("entry") > 0, "{}", resumed.out);
        goes_on(Place::serve_by(house.on_folder(&back)), &key).await;
    });
}

/// A new schema, without a row of a guard.
fn empty_schema(house: &House) {
    Place::serve_by(house.on_postgres()).stop();
    house.postgres.ask(
        "DO $$ DECLARE of record; BEGIN FOR of IN SELECT tablename FROM pg_tables WHERE schemaname = 'spendguard' \
         AND tablename NOT IN ('rules', 'schema_version') LOOP EXECUTE 'TRUNCATE ' || of.tablename; END LOOP; END $$",
    );
}

#[test]
fn a_copy_to_a_schema_that_a_guard_joins_meanwhile_leaves_it_to_the_guard() {
    run(async {
        let (house, _) = large().await;
        empty_schema(&house);
        // As a guard that joins: not to be seen until it has.
        let joining =
            "SELECT 1 FROM rules FOR UPDATE; INSERT INTO node VALUES (7, 'first', '1', 0, 0, 'alive')";
        let joins = house.postgres.hold(joining, 3);
        let said = refusal(house.migration(&house.place.data.display().to_string(), "env:DATABASE_URL"));
        drop(joins);
        assert!(said.contains("has rows in its table node"), "{said}");
        let left = "SELECT (SELECT version FROM schema_version), (SELECT count(*) FROM entry), \
                    (SELECT count(*) FROM pg_tables WHERE tablename = 'migration')";
        assert_eq!(house.postgres.ask(left), "7|0|0", "the guard's ledger is as it was");
    });
}

#[test]
fn a_guard_that_starts_while_a_copy_begins_is_refused() {
    run(async {
        let house = House::new();
        empty_schema(&house);
        let begins = "SELECT 1 FROM rules FOR UPDATE; UPDATE schema_version SET version = 0";
        let _begins = house.postgres.hold(begins, 3);
        let said = refused(house.on_postgres());
        assert!(said.contains("the schema spendguard is half a copy"), "{said}");
        assert_eq!(house.postgres.ask("SELECT count(*) FROM node"), "0");
    });
}

//! Databases that are torn, cut, overwritten or gone: what a torn log leaves is
//! taken up; of what is damaged, nothing is changed and nothing is begun.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use http::{Method, StatusCode};
use rusqlite::Connection;
use serde_json::json;
use spendguard::clock::Clock;
use spendguard::metrics::Metrics;
use spendguard::startup::{self, Config};
use spendguard::store::{Durability, Store, StoreError};

use crate::crash::Chance;
use crate::harness::run;
use crate::process::{Place, Process};

const FILES: [&str; 3] = ["spendguard.db", "spendguard.db-wal", "lock"];
const PAGE: usize = 4_096;
/// The header of a log, and of each page in it.
const WAL_HEADER: usize = 32;
const FRAME: usize = PAGE + 24;

/// The files of a guard, byte by byte.
#[derive(Clone, PartialEq, Eq)]
struct Files(Vec<Option<Vec<u8>>>);

impl Files {
    fn of(folder: &Path) -> Self {
        Self(FILES.iter().map(|name| fs::read(folder.join(name)).ok()).collect())
    }

    fn put(&self, folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        for (name, bytes) in FILES.iter().zip(&self.0) {
            if let Some(bytes) = bytes {
                fs::write(folder.join(name), bytes).unwrap();
            }
        }
    }

    fn db(&mut self) -> &mut Vec<u8> {
        self.0[0].as_mut().unwrap()
    }

    fn wal(&mut self) -> &mut Vec<u8> {
        self.0[1].as_mut().unwrap()
    }
}

/// What a guard left that did `requests` and was killed with one more on its
/// way. Nothing of its log was in the database yet.
async fn killed(requests: usize) -> Files {
    let (_fake, fake) = Process::fake();
    let place = Place::new(&fake, "");
    let guard = place.serve();
    let key = guard.make_key().await;
    // A log that somebody reads from its start on is not moved any further.
    let reader = rusqlite::Connection::open(place.database()).unwrap();
    reader.execute_batch("BEGIN; SELECT 1 FROM api_key").unwrap();
    for n in 0..requests {
        let user = format!("user-{n}");
        let more = json!({ "max_completion_tokens": 20, "user": user });
        assert_eq!(guard.chat(&key, &[], more).await.status, StatusCode::OK);
    }
    let slow = [("x-fake-hang", "1")];
    let hanging = guard.chat(&key, &slow, json!({}));
    let wait = tokio::time::timeout(std::time::Duration::from_millis(300), hanging).await;
    assert!(wait.is_err(), "it is on its way");
    guard.process.kill();
    Files::of(&place.data)
}

/// What a guard left that did `requests` and was stopped in order.
async fn stopped(requests: usize) -> Files {
    let (_fake, fake) = Process::fake();
    let place = Place::new(&fake, "");
    let guard = place.serve();
    let key = guard.make_key().await;
    for n in 0..requests {
        guard.chat(&key, &[], json!({ "user": format!("user-{n}") })).await;
    }
    guard.stop();
    // The process may end before it has closed the database.
    let db = rusqlite::Connection::open(place.database()).unwrap();
    db.execute_batch(
        "PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE; PRAGMA journal_mode = WAL",
    )
    .unwrap();
    drop(db);
    let _ = fs::remove_file(place.data.join("lock"));
    Files::of(&place.data)
}

/// Opens a guard here in this process; returns its entries, once verified.
async fn opened(folder: &Path) -> Result<u64, StoreError> {
    let store = Store::open(folder, Durability::Process)?;
    let config = Config { open_requests_max: 10, zone: "UTC".into() };
    let (opened, writer) =
        startup::open(store, &config, Arc::new(Clock::default()), Arc::new(Metrics::default())).unwrap();
    let thread = writer.start().unwrap();
    let report = opened.books.verify().await.unwrap();
    assert!(report.differences.is_empty(), "{:#?}", report.differences);
    assert_eq!(report.holds, 0, "what was open is charged");
    drop(opened);
    tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap();
    Ok(report.entries)
}

async fn opened_files(files: &Files) -> Result<u64, StoreError> {
    let folder = tempfile::tempdir().unwrap();
    files.put(folder.path());
    opened(folder.path()).await
}

/// Has the real binary refuse these files; returns what it says.
fn refused(files: &Files, place: &Place) -> String {
    let _ = fs::remove_dir_all(&place.data);
    files.put(&place.data);
    let said = place.refused();
    assert!(said.contains("spendguard.db"), "{said}");
    let after = Files::of(&place.data);
    assert!(after.0[0] == files.0[0], "the database was changed: {said}");
    assert!(files.0[1].is_none() || after.0[1] == files.0[1], "the log was changed: {said}");
    said
}

#[test]
fn of_a_log_that_is_torn_anywhere_all_that_was_whole_is_taken_up() {
    run(async {
        let whole = killed(12).await;
        let length = whole.clone().wal().len();
        let all = opened_files(&whole).await.unwrap();
        // Those that were answered, the one on its way, and none besides.
        assert_eq!(all, 13);
        let mut before = 0;
        let mut chance = Chance::of_the_day();
        for frame in 0..=(length - WAL_HEADER) / FRAME {
            let boundary = WAL_HEADER + frame * FRAME;
            let inside = boundary + usize::try_from(chance.within(1, 4_119)).unwrap();
            let mut at_boundary = 0;
            for cut in [boundary, inside.min(length)] {
                let mut torn = whole.clone();
                torn.wal().truncate(cut);
                let entries = opened_files(&torn).await.unwrap();
                assert!(before <= entries && entries <= all, "{entries} of {all} in {cut} of {length} bytes");
                if cut == boundary {
                    at_boundary = entries;
                } else if cut != length {
                    assert_eq!(entries, at_boundary, "half a frame says nothing");
                }
                before = entries;
            }
        }
        assert_eq!(before, all);
        let mut gone = whole.clone();
        gone.wal().truncate(0);
        assert_eq!(opened_files(&gone).await.unwrap(), 0, "the log had all of it");
    });
}

#[test]
fn a_log_with_a_byte_flipped_counts_up_to_there() {
    run(async {
        let whole = killed(12).await;
        let length = whole.clone().wal().len();
        let mut chance = Chance::of_the_day();
        for _ in 0..40 {
            let at = usize::try_from(
                chance.within(u64::try_from(length * 2 / 3).unwrap(), u64::try_from(length).unwrap()),
            )
            .unwrap();
            let (mut flipped, mut cut) = (whole.clone(), whole.clone());
            flipped.wal()[at] ^= 0x10;
            cut.wal().truncate(WAL_HEADER + (at - WAL_HEADER) / FRAME * FRAME);
            let (flipped, cut) = (opened_files(&flipped).await.unwrap(), opened_files(&cut).await.unwrap());
            assert_eq!(flipped, cut, "byte {at} of {length}");
        }
    });
}

#[test]
fn a_log_that_is_gone_is_missed_unless_the_guard_had_closed_it() {
    run(async {
        let (_fake, fake) = Process::fake();
        let place = Place::new(&fake, "");
        let mut files = killed(3).await;
        files.0[1] = None;
        let said = refused(&files, &place);
        assert!(said.contains("spendguard.db-wal is missing") && said.contains("lock"), "{said}");
        // What it says to do, if the log is not needed, does it.
        fs::remove_file(place.data.join("lock")).unwrap();
        place.serve().verify().await;
        // Closed in order, there is no log, and none is missing.
        let closed = tempfile::tempdir().unwrap();
        opened(closed.path()).await.unwrap();
        let log = closed.path().join("spendguard.db-wal");
        for _ in 0..500 {
            if !log.exists() {
                break;
            }
            // The thread that moves the log looks once a second whether it is over.
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert!(!log.exists());
        opened(closed.path()).await.unwrap();
    });
}

#[test]
fn a_database_that_is_gone_is_not_replaced_by_an_empty_one() {
    run(async {
        let (_fake, fake) = Process::fake();
        let place = Place::new(&fake, "");
        let whole = killed(3).await;
        let mut only_log = whole.clone();
        (only_log.0[0], only_log.0[2]) = (None, None);
        let said = refused(&only_log, &place);
        assert!(said.contains("is missing") && said.contains("spendguard.db-wal says"), "{said}");
        let mut only_lock = whole.clone();
        (only_lock.0[0], only_lock.0[1]) = (None, None);
        let said = refused(&only_lock, &place);
        assert!(said.contains("is missing") && said.contains("lock says"), "{said}");
        fs::remove_file(place.data.join("lock")).unwrap();
        place.serve().verify().await;
    });
}

#[test]
fn a_first_start_that_is_killed_leaves_nothing_in_the_way_of_the_next() {
    run(async {
        let (_fake, fake) = Process::fake();
        let place = Place::new(&fake, "");
        let mut chance = Chance::of_the_day();
        for _ in 0..30 {
            let _ = fs::remove_dir_all(&place.data);
            let starting = Process::launch(place.command());
            tokio::time::sleep(std::time::Duration::from_millis(chance.within(0, 60))).await;
            starting.kill();
            assert_eq!(opened(&place.data).await.unwrap(), 0);
        }
    });
}

#[test]
fn what_is_no_database_is_refused_and_left_as_it_is() {
    run(async {
        let (_fake, fake) = Process::fake();
        let place = Place::new(&fake, "");
        let whole = killed(3).await;
        for (what, bytes) in [
            ("empty", Vec::new()),
            ("garbage", vec![0x5a; 10_000]),
            ("zeros", vec![0; 65_536]),
            ("short", b"SQLite".to_vec()),
        ] {
            let mut files = whole.clone();
            *files.db() = bytes;
            for with_log in [true, false] {
                if !with_log {
                    (files.0[1], files.0[2]) = (None, None);
                }
                // With its log, SQLite may know what a page or two should be.
                let said = refused(&files, &place);
                assert!(said.contains("damaged") && said.contains("backup"), "{what}, {with_log}: {said}");
            }
        }
        let foreign = tempfile::tempdir().unwrap();
        let path = foreign.path().join("spendguard.db");
        rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE song (name TEXT)").unwrap();
        let said = refused(&Files::of(foreign.path()), &place);
        assert!(said.contains("no ledger"), "{said}");
    });
}

#[test]
fn a_database_that_is_cut_or_has_a_page_of_zeros_is_refused() {
    run(async {
        let (_fake, fake) = Process::fake();
        let place = Place::new(&fake, "");
        let whole = stopped(120).await;
        let pages = whole.clone().db().len() / PAGE;
        let all = opened_files(&whole).await.unwrap();
        assert!(pages > 20 && all == 120, "{pages} pages, {all} entries");
        let mut found = 0;
        for page in 0..pages {
            for cut in [false, true] {
                let mut damaged = whole.clone();
                if cut {
                    damaged.db().truncate(page * PAGE + PAGE / 2);
                } else {
                    damaged.db()[page * PAGE..(page + 1) * PAGE].fill(0);
                }
                match opened_files(&damaged).await {
                    Err(StoreError::Damaged { .. }) => found += 1,
                    // A page that is free has nothing to lose.
                    Ok(entries) => assert_eq!((entries, cut), (all, false), "page {page} of {pages}"),
                    Err(error) => panic!("page {page} of {pages}: {error}"),
                }
            }
        }
        assert!(found * 10 >= pages * 2 * 9, "{found} of {} damages were found", pages * 2);
        let mut damaged = whole.clone();
        damaged.db()[5 * PAGE..6 * PAGE].fill(0);
        let said = refused(&damaged, &place);
        assert!(said.contains("damaged") && said.contains(".dump"), "{said}");
    });
}

#[test]
fn a_hold_that_cannot_be_read_is_not_passed_over() {
    run(async {
        let (_fake, fake) = Process::fake();
        let place = Place::new(&fake, "");
        killed(1).await.put(&place.data);
        let db = rusqlite::Connection::open(place.database()).unwrap();
        assert_eq!(
            db.execute("UPDATE hold_batch SET holds = replace(holds, '\"cost\":', '\"cost\":x')", [])
                .unwrap(),
            1
        );
        // Kept open, as a crash would: its log is still there.
        let said = place.refused();
        assert!(said.contains("hold_batch") && said.contains("can't be read"), "{said}");
        drop(db);
    });
}

#[test]
fn an_index_of_the_log_that_is_gone_is_rebuilt() {
    run(async {
        let whole = killed(3).await;
        let folder = tempfile::tempdir().unwrap();
        whole.put(folder.path());
        fs::write(folder.path().join("spendguard.db-shm"), vec![0xff; 32_768]).unwrap();
        assert_eq!(opened(folder.path()).await.unwrap(), 4, "one that is garbage, too");
        // None is in the copy of the files that every other test here opens.
        assert_eq!(opened_files(&whole).await.unwrap(), 4);
    });
}

#[test]
fn a_stored_value_that_cannot_be_read_stops_the_start_and_is_named_with_the_remedy() {
    run(async {
        let (_fake, fake) = Process::fake();
        let place = Place::new(&fake, "");
        let guard = place.serve();
        guard.make_key().await;
        let limited = json!({ "window": "month", "hard": "5" });
        guard.ask(Method::PUT, "/guard/v1/limits/api", Some(limited)).await;
        guard.process.kill();
        let forge = |sql: &str| {
            assert_eq!(Connection::open(place.database()).unwrap().execute(sql, []), Ok(1), "{sql}");
        };
        let lock = place.data.join("lock");
        for (table, column, good) in [("api_key", "models", "[]"), ("limit_rule", "rule", "")] {
            let good = if good.is_empty() {
                let sql = format!("SELECT {column} FROM {table}");
                Connection::open(place.database()).unwrap().query_row(&sql, [], |row| row.get(0)).unwrap()
            } else {
                good.to_owned()
            };
            // An empty list of models allows every model, so it must not stand for what can't be read.
            forge(&format!("UPDATE {table} SET {column} = '[\"gpt-4o'"));
            let _ = std::fs::remove_file(&lock);
            let said = place.refused();
            let named = if table == "api_key" { "api_key.models of key_" } else { "limit \"api\"" };
            assert!(said.contains(named) && said.contains("can't be read"), "{said}");
            forge(&format!("UPDATE {table} SET {column} = '{good}'"));
            let _ = std::fs::remove_file(&lock);
        }
        place.serve().process.kill();
    });
}

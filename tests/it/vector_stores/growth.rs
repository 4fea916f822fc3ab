//! Files that are added to a vector store, and what is held and booked while they are taken up.

use std::cell::Cell;
use std::time::Duration;

use futures_util::future::join_all;
use http::StatusCode;
use serde_json::{Value, json};
use spendguard::domain::ObjectKind;

use super::{FILE_BYTES, PATH, made, terms};
use crate::accrual::{LIMIT, at_fake, booked, booked_soon, counted, followed, held, knows, knows_file, runs};
use crate::harness::{House, run};
use crate::scripted::{Reply, guard_before};

/// 64 MiB for a day.
const FILE_NANO: i64 = 6_250_000;

fn limit(hard: &str) -> String {
    LIMIT.replace("hard = 1", &format!("hard = {hard}"))
}

/// Terms of files that are held beside a store; times are in seconds from now on.
fn beside(house: &House, store: &str, from: i64, until: i64) -> Value {
    let mut terms = terms(house, from, until, FILE_BYTES);
    terms["of"]["vector_store"]["beside"] = json!(store);
    terms
}

#[test]
fn files_that_are_added_at_once_hold_what_they_may_take_and_not_their_store_again() {
    run(async {
        let house = House::with(&limit("0.026")).await;
        for number in 0..4 {
            knows_file(&house, &format!("file-{number}")).await;
        }
        let id = made(&house, &[], json!({ "file_ids": ["file-0", "file-1"] })).await;
        let path = format!("{PATH}/{id}/files");
        let add = |number: u8| {
            let (house, path) = (&house, &path);
            async move { house.post(path, &[], &json!({ "file_id": format!("file-{number}") })).await }
        };
        let added = join_all([add(2), add(3)]).await;
        assert!(added.iter().all(|answer| answer.status == StatusCode::OK), "{added:?}");
        assert_eq!(held(&house).await, "0.025", "four files of 64 MiB for a day");
        assert_eq!(add(3).await.status, StatusCode::TOO_MANY_REQUESTS);
    });
}

#[test]
fn files_that_upstream_counts_before_it_answers_are_not_held_twice() {
    run(async {
        let (house, _) = guard_before(&limit("0.013"), |path, _| {
            if path.ends_with("/files") {
                let added = json!({ "id": "file-1", "object": "vector_store.file" });
                return Reply::Later(LOOKED, Box::new(Reply::Json(added)));
            }
            Reply::Json(json!({ "id": "vs_1", "object": "vector_store", "usage_bytes": 2 * FILE_BYTES }))
        })
        .await;
        knows_file(&house, "file-1").await;
        knows(&house, ObjectKind::VectorStore, "vs_1", |_| {}).await;
        followed(&house, "vector_store", "vs_1", FILE_NANO, &terms(&house, -600, 85_800, FILE_BYTES)).await;
        let path = format!("{PATH}/vs_1/files");
        let file = json!({ "file_id": "file-1" });
        let (added, seen) = tokio::join!(house.post(&path, &[], &file), async {
            tokio::time::sleep(LOOKED * 7 / 8).await;
            (held(&house).await, runs(&house, "vector_store", "vs_1/0").await)
        });
        assert_eq!(added.status, StatusCode::OK, "{added:?}");
        assert_eq!(seen, ("0.0125".to_owned(), false), "the store's file, and the one that is added");
        assert_eq!(held(&house).await, "0.0125");
    });
}

#[test]
fn what_an_add_may_cost_is_compared_with_the_cap_of_its_request() {
    run(async {
        let house = House::with(LIMIT).await;
        for number in 0..3 {
            knows_file(&house, &format!("file-{number}")).await;
        }
        let id = made(&house, &[], json!({ "file_ids": ["file-0", "file-1"] })).await;
        let path = format!("{PATH}/{id}/files");
        let file = json!({ "file_id": "file-2" });
        let capped = house.post(&path, &[("x-spendguard-max-cost-usd", "0.006")], &file).await;
        assert_eq!(capped.status, StatusCode::BAD_REQUEST, "{capped:?}");
        let added = house.post(&path, &[("x-spendguard-max-cost-usd", "0.00625")], &file).await;
        assert_eq!(added.status, StatusCode::OK, "{added:?}");
        assert_eq!(held(&house).await, "0.01875", "in one hold, as there is room");
    });
}

#[test]
fn files_beside_their_store_are_held_with_it_as_soon_as_there_is_room() {
    run(async {
        let house = House::with(LIMIT).await;
        let file = [("x-fake-file-bytes", "5000000")];
        let id = at_fake(&house, PATH, &file, &json!({ "file_ids": ["file-1", "file-2"] })).await;
        followed(&house, "vector_store", &id, 500_000, &terms(&house, -10, 86_390, 5_000_000)).await;
        let files = format!("{id}/1");
        let of_files = beside(&house, &id, -120, 86_280);
        followed(&house, "vector_store", &files, FILE_NANO, &of_files).await;
        // The least of each: ten seconds of 5 MB, and two minutes of 64 MiB.
        assert_eq!(booked_soon(&house, PATH, 2).await, [counted("0.000097657"), counted("0.000097657")]);
        assert_eq!(held(&house).await, "0.000976563", "10 MB for a day: 9.54 MiB, rounded up");
        assert!(runs(&house, "vector_store", &id).await && !runs(&house, "vector_store", &files).await);
    });
}

#[test]
fn files_beside_their_store_stay_held_and_are_booked_by_the_day_as_long_as_there_is_no_room() {
    run(async {
        let house = House::with(&limit("0.03")).await;
        let file = [("x-fake-file-bytes", "67108864")];
        let id = at_fake(&house, PATH, &file, &json!({ "file_ids": ["file-1", "file-2", "file-3"] })).await;
        followed(&house, "vector_store", &id, 2 * FILE_NANO, &terms(&house, -10, 86_390, 2 * FILE_BYTES))
            .await;
        let files = format!("{id}/1");
        let of_files = beside(&house, &id, -86_390, 10);
        followed(&house, "vector_store", &files, FILE_NANO, &of_files).await;
        assert_eq!(booked_soon(&house, PATH, 1).await, [counted("0.00625")], "64 MiB for a day");
        assert_eq!(held(&house).await, "0.01875", "the store, and the next day of its third file");
        assert!(runs(&house, "vector_store", &files).await);
    });
}

#[test]
fn files_beside_a_store_that_was_deleted_end_with_it() {
    run(async {
        let house = House::with(LIMIT).await;
        followed(&house, "vector_store", "vs_1/1", FILE_NANO, &beside(&house, "vs_1", -5, 86_395)).await;
        assert_eq!(booked_soon(&house, PATH, 1).await, [counted("0.000097657")]);
        assert_eq!(held(&house).await, "0");
    });
}

/// A store that upstream shows with so many files that are still being taken up, by how often it was
/// read, and one of 64 MiB that is not; its period began some seconds ago, and files were added
/// some seconds ago. What is booked of it within some seconds, and what is held then.
async fn looked_at(
    pending: impl Fn(u64) -> u64 + 'static,
    (from, changed, bytes): (i64, i64, u64),
    lasts: u64,
) -> (usize, String) {
    let reads = Cell::new(0);
    let (house, _) = guard_before(LIMIT, move |_, _| {
        reads.set(reads.get() + 1);
        Reply::Json(json!({
            "id": "vs_1", "object": "vector_store", "usage_bytes": FILE_BYTES, "status": "in_progress",
            "file_counts": { "in_progress": pending(reads.get()) },
        }))
    })
    .await;
    let mut terms = terms(&house, from, from + 86_400, bytes);
    terms["of"]["vector_store"]["changed_s"] = json!(house.guard.clock().now_s() + changed);
    followed(&house, "vector_store", "vs_1", 50_000_000, &terms).await;
    tokio::time::sleep(Duration::from_secs(lasts)).await;
    (booked(&house, PATH).await.len(), held(&house).await)
}

#[test]
fn a_store_that_takes_up_files_is_booked_once_an_hour_at_most_while_it_needs_no_larger_hold() {
    run(async {
        let by_one = |reads: u64| 7 - reads.min(7);
        let until_third = |reads: u64| u64::from(reads < 3);
        let all = 8 * FILE_BYTES;
        let (old, pending, done, again, larger) = tokio::join!(
            looked_at(by_one, (-7_200, -7_200, all), 10),
            looked_at(until_third, (-600, -600, all), 2),
            looked_at(until_third, (-600, -600, all), 10),
            looked_at(|_| 0, (-600, -7_200, all), 10),
            looked_at(|_| 1, (-600, -7_200, FILE_BYTES), 10),
        );
        let seen = |count: usize, held: &str| (count, held.to_owned());
        assert_eq!(old, seen(1, "0.04375"), "an hour has passed: once, for seven files of 64 MiB and a day");
        assert_eq!(pending, seen(0, "0.05"), "files are being taken up");
        assert_eq!(done, seen(1, "0.00625"), "they have been");
        assert_eq!(again, seen(0, "0.05"), "the last look has changed the hold already");
        assert_eq!(larger, seen(1, "0.0125"), "more than is held for is held at once");
    });
}

/// A guard before an upstream that shows a store of so many files of 64 MiB, all taken up.
async fn before_store_of(files: u64, hard: &str) -> House {
    let (house, _) = guard_before(&limit(hard), move |_, _| {
        Reply::Json(json!({ "id": "vs_1", "object": "vector_store", "usage_bytes": files * FILE_BYTES }))
    })
    .await;
    house
}

/// Long enough for a guard to look at each of its jobs.
const LOOKED: Duration = Duration::from_secs(4);

#[test]
fn a_store_that_is_as_large_as_its_hold_and_the_files_beside_it_keeps_both() {
    run(async {
        let house = before_store_of(2, "0.0126").await;
        followed(&house, "vector_store", "vs_1", FILE_NANO, &terms(&house, -600, 85_800, FILE_BYTES)).await;
        followed(&house, "vector_store", "vs_1/3", FILE_NANO, &beside(&house, "vs_1", -600, 85_800)).await;
        tokio::time::sleep(LOOKED).await;
        assert_eq!((held(&house).await.as_str(), booked(&house, PATH).await), ("0.0125", Vec::new()));
    });
}

#[test]
fn what_others_add_to_a_store_is_held_beside_it_where_a_larger_hold_has_no_room() {
    run(async {
        // Room for the two files, and not for one and two at once.
        let house = before_store_of(2, "0.0126").await;
        followed(&house, "vector_store", "vs_1", FILE_NANO, &terms(&house, -600, 85_800, FILE_BYTES)).await;
        tokio::time::sleep(LOOKED).await;
        assert_eq!((held(&house).await.as_str(), booked(&house, PATH).await), ("0.0125", Vec::new()));
        assert!(runs(&house, "vector_store", "vs_1/0").await);
        // Not even room for the second alone: it is booked as it accrues, and the first stays held.
        let house = before_store_of(2, "0.0124").await;
        followed(&house, "vector_store", "vs_1", FILE_NANO, &terms(&house, -600, 85_800, FILE_BYTES)).await;
        tokio::time::sleep(LOOKED).await;
        assert_eq!((held(&house).await.as_str(), booked(&house, PATH).await), ("0.00625", Vec::new()));
        assert!(runs(&house, "vector_store", "vs_1/0").await);
    });
}

#[test]
fn files_beside_a_store_that_is_not_held_stay_held() {
    run(async {
        let house = before_store_of(3, "0.0126").await;
        let mut store = terms(&house, -600, 3_000, 3 * FILE_BYTES);
        store["of"]["vector_store"]["is_held"] = json!(false);
        followed(&house, "vector_store", "vs_1", 0, &store).await;
        followed(&house, "vector_store", "vs_1/0", FILE_NANO, &beside(&house, "vs_1", -600, 85_800)).await;
        tokio::time::sleep(LOOKED).await;
        assert_eq!(held(&house).await, "0.00625");
        assert!(runs(&house, "vector_store", "vs_1/0").await);
    });
}

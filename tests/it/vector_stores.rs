//! Vector stores: their storage is held for the next day, booked as it accrues, and never deleted.

mod growth;

use std::cell::Cell;
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use spendguard::domain::ObjectKind;

use crate::accrual::{
    LIMIT, MIB_DAY, ask, at_fake, booked, booked_soon, counted, followed, held, knows, knows_file, runs,
    stranger,
};
use crate::harness::{House, call, run};
use crate::scripted::{Reply, guard_before};

const PATH: &str = "/v1/vector_stores";
const FILE_BYTES: u64 = 64 << 20;

/// Terms of a store that keeps so many bytes at the most; times are in seconds from now on.
fn terms(house: &House, from: i64, until: i64, bytes: u64) -> Value {
    let now_s = house.guard.clock().now_s();
    json!({
        "is_own": true, "from_s": now_s + from, "until_s": now_s + until, "rate": MIB_DAY,
        "of": { "vector_store": {
            "bytes": bytes, "file_bytes": FILE_BYTES, "changed_s": now_s + from, "is_held": true,
        } },
    })
}

async fn made(house: &House, headers: &[(&str, &str)], body: Value) -> String {
    let answer = house.post(PATH, headers, &body).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_store_is_held_for_a_day_at_the_most_that_its_files_may_take_and_its_deletion_ends_that() {
    run(async {
        let house = House::with(LIMIT).await;
        let empty = made(&house, &[], json!({ "name": "a" })).await;
        assert_eq!((held(&house).await.as_str(), runs(&house, "vector_store", &empty).await), ("0", true));
        for id in ["file-1", "file-2"] {
            knows_file(&house, id).await;
        }
        let id = made(&house, &[], json!({ "file_ids": ["file-1", "file-2"] })).await;
        assert_eq!(held(&house).await, "0.0125", "128 MiB at 0.10 dollars a GiB and day");
        let deleted = ask(&house, Method::DELETE, &format!("{PATH}/{id}")).await;
        assert_eq!(deleted.json()["deleted"], true, "{deleted:?}");
        assert_eq!(held(&house).await, "0");
        assert!(!runs(&house, "vector_store", &id).await);
        let booked = booked(&house, PATH).await;
        // Some seconds are less than a MiB and day, which is the least that is booked.
        assert!(booked.is_empty() || booked == [counted("0.000097657")], "{booked:?}");
    });
}

#[test]
fn a_store_is_made_without_a_body_and_not_by_one_that_could_be_read_in_two_ways() {
    run(async {
        let house = House::with(LIMIT).await;
        let made = house.post_raw(PATH, &[], bytes::Bytes::new()).await;
        assert_eq!(made.status, StatusCode::OK, "{made:?}");
        knows_file(&house, "file-1").await;
        for body in [r#"{"file_ids":[],"file_ids":["file-1"]}"#, r#"{"file_ids":"file-1"}"#, "[]", "{"] {
            let answer = house.post_raw(PATH, &[], body.to_owned().into()).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}: {answer:?}");
        }
    });
}

#[test]
fn stores_and_files_of_other_projects_are_not_found() {
    run(async {
        let house = House::with(LIMIT).await;
        let id = made(&house, &[], json!({ "name": "a" })).await;
        knows_file(&house, "file-1").await;
        let foreign = house.post(PATH, &[], &json!({ "file_ids": ["file-of-another"] })).await;
        assert_eq!(foreign.status, StatusCode::NOT_FOUND, "{foreign:?}");
        let other = format!("Bearer {}", stranger(&house).await);
        let headers = [("authorization", other.as_str()), ("content-type", "application/json")];
        for (path, body) in [
            (format!("{PATH}/{id}/files"), json!({ "file_id": "file-1" })),
            (format!("{PATH}/{id}/files"), json!({})),
            (format!("{PATH}/{id}/file_batches"), json!({ "files": [{ "file_id": "file-1" }] })),
            (format!("{PATH}/{id}/file_batches/vsfb_1/cancel"), json!({})),
            (format!("{PATH}/{id}/files/file-1"), json!({ "attributes": {} })),
            (format!("{PATH}/{id}/search"), json!({ "query": "a" })),
            (PATH.to_owned(), json!({ "file_ids": ["file-1"] })),
        ] {
            let answer = call(&house.proxy, Method::POST, &path, &headers, body.to_string().into()).await;
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path} {answer:?}");
        }
        assert_eq!(held(&house).await, "0");
    });
}

#[test]
fn files_are_held_before_they_are_added_and_not_added_without_room() {
    run(async {
        let house = House::with(&LIMIT.replace("hard = 1", "hard = 0.02")).await;
        for id in ["file-1", "file-2", "file-3", "file-4"] {
            knows_file(&house, id).await;
        }
        let id = made(&house, &[], json!({ "name": "a" })).await;
        let added = house.post(&format!("{PATH}/{id}/files"), &[], &json!({ "file_id": "file-1" })).await;
        assert_eq!(added.json()["object"], "vector_store.file", "{added:?}");
        assert_eq!(held(&house).await, "0.00625");
        let files = json!({ "files": [{ "file_id": "file-2" }] });
        let added = house.post(&format!("{PATH}/{id}/file_batches"), &[], &files).await;
        assert_eq!(added.status, StatusCode::OK, "{added:?}");
        assert_eq!(held(&house).await, "0.0125");
        let more = house.post(&format!("{PATH}/{id}/files"), &[], &json!({ "file_id": "file-3" })).await;
        assert_eq!(more.status, StatusCode::OK, "{more:?}");
        assert_eq!(held(&house).await, "0.01875", "there is room for three");
        let more = house.post(&format!("{PATH}/{id}/files"), &[], &json!({ "file_id": "file-4" })).await;
        assert_eq!(more.status, StatusCode::TOO_MANY_REQUESTS, "{more:?}");
        let refused = house
            .post(&format!("{PATH}/{id}/files"), &[("x-fake-status", "400")], &json!({ "file_id": "file-x" }))
            .await;
        assert_eq!(refused.status, StatusCode::NOT_FOUND);
        assert_eq!(held(&house).await, "0.01875");
        let batch = added.json()["id"].as_str().unwrap().to_owned();
        for path in ["files/file-1", &format!("file_batches/{batch}/cancel")] {
            let answer = house.post(&format!("{PATH}/{id}/{path}"), &[], &json!({})).await;
            assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        }
    });
}

#[test]
fn files_that_upstream_does_not_take_leave_the_hold_as_it_was() {
    run(async {
        let house = House::with(LIMIT).await;
        knows_file(&house, "file-1").await;
        let id = made(&house, &[], json!({ "name": "a" })).await;
        let path = format!("{PATH}/{id}/files");
        let refused = house.post(&path, &[("x-fake-status", "400")], &json!({ "file_id": "file-1" })).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{refused:?}");
        assert_eq!(held(&house).await, "0");
    });
}

#[test]
fn each_search_costs_a_call() {
    run(async {
        let house = House::with(LIMIT).await;
        let id = made(&house, &[], json!({ "name": "a" })).await;
        let path = format!("{PATH}/{id}/search");
        for query in [json!("a"), json!(["a", "b", "c"])] {
            let found = house.post(&path, &[], &json!({ "query": query })).await;
            assert_eq!(found.json()["object"], "vector_store.search_results.page", "{found:?}");
        }
        // 2.50 dollars a thousand.
        let search = format!("{PATH}/{{}}/search");
        assert_eq!(booked(&house, &search).await, [counted("0.0025"), counted("0.0075")]);
        let failed = house.post(&path, &[("x-fake-status", "500")], &json!({ "query": "a" })).await;
        assert_eq!(failed.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!((booked(&house, &search).await.len(), held(&house).await.as_str()), (2, "0"));
    });
}

#[test]
fn storage_is_booked_as_it_accrues_and_held_at_what_upstream_says_that_it_takes() {
    run(async {
        let house = House::with(LIMIT).await;
        let (fake, file) = ([("x-fake-file-bytes", "5000000")], json!({ "file_ids": ["file-1"] }));
        let id = at_fake(&house, PATH, &fake, &file).await;
        followed(&house, "vector_store", &id, 6_250_000, &terms(&house, -7_200, 79_200, FILE_BYTES)).await;
        // Two hours of 64 MiB are 5.3 of a MiB and day; from then on it is less than 5 MiB.
        assert_eq!(booked_soon(&house, PATH, 1).await, [counted("0.000585938")]);
        assert_eq!(held(&house).await, "0.000488282", "4.77 MiB for a day, rounded up");
        assert!(runs(&house, "vector_store", &id).await);
    });
}

#[test]
fn files_that_are_taken_up_still_are_held_at_the_most_that_they_may_take() {
    run(async {
        let house = House::with(LIMIT).await;
        let (fake, files) = ([("x-fake-store-reads", "1000")], json!({ "file_ids": ["file-1", "file-2"] }));
        let id = at_fake(&house, PATH, &fake, &files).await;
        // One of them more than the job knows of.
        followed(&house, "vector_store", &id, 6_250_000, &terms(&house, -7_200, 79_200, FILE_BYTES)).await;
        assert_eq!(booked_soon(&house, PATH, 1).await.len(), 1);
        assert_eq!(held(&house).await, "0.0125");
    });
}

#[test]
fn a_store_without_room_for_its_storage_is_kept_and_booked_over_the_limit() {
    run(async {
        let house = House::with(&LIMIT.replace("hard = 1", "hard = 0.02")).await;
        let id =
            at_fake(&house, PATH, &[("x-fake-file-bytes", "1073741824")], &json!({ "file_ids": ["file-1"] }))
                .await;
        followed(&house, "vector_store", &id, 10_000_000, &terms(&house, -86_390, 60, 1 << 30)).await;
        assert_eq!(booked_soon(&house, PATH, 1).await, [counted("0.1")], "a GiB and day");
        assert_eq!((held(&house).await.as_str(), runs(&house, "vector_store", &id).await), ("0", true));
        let shown =
            call(&house.fake_direct, Method::GET, &format!("{PATH}/{id}"), &[], bytes::Bytes::new()).await;
        assert_eq!(shown.status, StatusCode::OK, "it is there");
        let metrics = house.admin(Method::GET, "/metrics", None).await;
        let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
        assert!(metrics.contains("spendguard_jobs{kind=\"vector_store\",state=\"open\"} 1"), "{metrics}");
        assert!(metrics.contains("spendguard_overrun_usd_total 0.09"), "{metrics}");
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        house.guard.core().flush().await.unwrap();
        let entries = house.entries().await;
        let alerts = entries.iter().filter(|entry| entry["kind"] == "threshold");
        let alerts: Vec<&str> = alerts.map(|entry| entry["note"].as_str().unwrap()).collect();
        assert!(alerts.len() == 1 && alerts[0].contains("no room left"), "{alerts:?}");
        assert_eq!(booked(&house, PATH).await.len(), 1, "until an hour has passed");
        let made = house.post(PATH, &[], &json!({ "name": "b" })).await;
        assert_eq!(made.status, StatusCode::OK, "an empty one costs nothing: {made:?}");
    });
}

#[test]
fn a_store_whose_deletion_got_no_answer_is_asked_for_soon_also_where_a_look_is_under_way() {
    run(async {
        let requests = Cell::new(0);
        let (house, asked) = guard_before(LIMIT, move |_, _| {
            requests.set(requests.get() + 1);
            let store = json!({ "id": "vs_1", "object": "vector_store", "usage_bytes": FILE_BYTES });
            match requests.get() {
                1 => Reply::Later(Duration::from_millis(600), Box::new(Reply::Json(store))),
                2 => Reply::Error(500),
                _ => Reply::Json(store),
            }
        })
        .await;
        let count = || asked.borrow().len();
        knows(&house, ObjectKind::VectorStore, "vs_1", |_| {}).await;
        followed(&house, "vector_store", "vs_1", 6_250_000, &terms(&house, -600, 85_800, FILE_BYTES)).await;
        while count() == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let deleted = ask(&house, Method::DELETE, &format!("{PATH}/vs_1")).await;
        assert_eq!(deleted.status, StatusCode::INTERNAL_SERVER_ERROR);
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(count(), 3, "a look, the deletion, and another look");
    });
}

#[test]
fn usage_of_storage_and_of_containers_is_shown_as_openai_shows_it() {
    run(async {
        let house = House::with(LIMIT).await;
        let stored = at_fake(&house, PATH, &[], &json!({ "file_ids": ["file-1"] })).await;
        followed(&house, "vector_store", &stored, 6_250_000, &terms(&house, -86_390, 60, FILE_BYTES)).await;
        let container = house.post("/v1/containers", &[], &json!({ "name": "a" })).await.json();
        ask(&house, Method::DELETE, &format!("/v1/containers/{}", container["id"].as_str().unwrap())).await;
        booked_soon(&house, PATH, 1).await;
        let results = async |path: &str| {
            let now_s = house.guard.clock().now_s();
            let path = format!("/v1/organization/{path}start_time={now_s}&bucket_width=1d");
            house.admin(Method::GET, &path, None).await.json()["data"][0]["results"].clone()
        };
        let stores = results("usage/vector_stores?").await;
        assert_eq!(stores[0]["object"], "organization.usage.vector_stores.result", "{stores}");
        assert_eq!(stores[0]["usage_bytes"], FILE_BYTES, "{stores}");
        let sessions = results("usage/code_interpreter_sessions?").await;
        assert_eq!(sessions[0]["num_sessions"], 1, "{sessions}");
        let empty = house.post(PATH, &[], &json!({ "name": "a" })).await.json();
        let search = format!("{PATH}/{}/search", empty["id"].as_str().unwrap());
        house.post(&search, &[], &json!({ "query": ["one", "two"] })).await;
        let searches = results("usage/file_search_calls?").await;
        assert_eq!(searches[0]["object"], "organization.usage.file_searches.result", "{searches}");
        assert_eq!(searches[0]["num_requests"], 2, "{searches}");
        assert_eq!(results("usage/web_search_calls?").await, json!([]));
        let costs = results("costs?group_by=line_item&").await;
        let amount = |item: &str| {
            let found = costs.as_array().unwrap().iter().find(|cost| cost["line_item"] == item);
            found.map(|cost| cost["amount"]["value"].to_string())
        };
        assert_eq!(amount(PATH).as_deref(), Some("0.00625"), "{costs}");
        assert_eq!(amount("/v1/containers").as_deref(), Some("0.0075"), "{costs}");
    });
}

//! Thousands of meters: shown by pages, and requests go on meanwhile.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{House, run};

/// Spending of so many end users in the last quarter of an hour, as their requests
/// would have written it: each has spent their number, in nano-dollars.
fn spent_by_users(house: &House, users: i64) {
    let db = rusqlite::Connection::open(house.folder.path().join("data/spendguard.db")).unwrap();
    db.busy_timeout(Duration::from_secs(10)).unwrap();
    let now_s = house.guard.clock().now_s();
    let columns = "0, ".repeat(12) + "0";
    db.execute_batch("BEGIN IMMEDIATE").unwrap();
    let insert = format!(
        "INSERT INTO rollup VALUES ({}, 'default', 'key_past', 'user-' || ?1, '', '/v1/chat/completions', \
         'gpt-4o-mini', 'gpt-4o-mini', '', 1, ?1, {columns}, NULL)",
        now_s.div_euclid(900) * 900
    );
    let mut insert = db.prepare(&insert).unwrap();
    for user in 1..=users {
        insert.execute([user]).unwrap();
    }
    db.execute_batch("COMMIT").unwrap();
}

#[test]
fn requests_go_on_while_a_new_limit_learns_its_past_and_its_meters_are_shown_by_pages() {
    const USERS: usize = 60_000;
    run(async {
        let house = Rc::new(House::with("").await);
        assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK);
        house.settled().await;
        spent_by_users(&house, i64::try_from(USERS).unwrap());
        let served = Rc::new(RefCell::new(0));
        let (of_client, count) = (Rc::clone(&house), Rc::clone(&served));
        let client = tokio::task::spawn_local(async move {
            loop {
                assert_eq!(of_client.chat(&[], json!({ "user": "live" })).await.status, StatusCode::OK);
                *count.borrow_mut() += 1;
            }
        });
        let rule =
            json!({ "per": "user", "unit": "usd", "window": "day", "hard": "1", "soft": ["0.00005999"] });
        let began = house.guard.clock().running();
        let put = house.admin(Method::PUT, "/guard/v1/limits/users", Some(rule)).await;
        let took = house.guard.clock().running().saturating_sub(began);
        assert_eq!(put.status, StatusCode::OK, "{put:?}");
        let meanwhile = *served.borrow();
        client.abort();
        // At the least one in 200 ms.
        let expected = took.as_millis() / 200;
        assert!(expected > 0 && meanwhile > expected, "{meanwhile} requests passed in {took:?}");
        house.settled().await;
        meters_are_shown_by_pages(&house, USERS).await;
        let crossed = house.admin(Method::GET, "/guard/v1/alerts?limit=100", None).await.json();
        let crossed: Vec<&str> = crossed["data"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|alert| alert["subject"].as_str())
            .collect();
        assert!(crossed.contains(&"user-59990") && crossed.contains(&"user-60000"), "{crossed:?}");
    });
}

async fn meters_are_shown_by_pages(house: &House, users: usize) {
    let get = async |query: &str| {
        let path = format!("/guard/v1/limits{query}");
        let answer = house.admin(Method::GET, &path, None).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {answer:?}");
        answer.json()
    };
    let subjects = |limit: &Value| {
        let meters = limit["meters"].as_array().unwrap().iter();
        meters.map(|meter| meter["subject"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let page = get("/users?limit=3&after=user-59").await;
    assert_eq!(subjects(&page), ["user-590", "user-5900", "user-59000"], "by subject");
    assert_eq!(
        (&page["meters"][2]["settled"], &page["meters_total"]),
        (&json!("0.000059"), &json!(users + 1))
    );
    let live = get("/users?limit=1&after=live").await;
    assert_eq!(subjects(&live), ["user-1"]);
    let live = get("/users?limit=1").await;
    let explained = get("/users/explain?limit=1").await;
    assert_eq!(subjects(&live), ["live"]);
    assert_eq!(explained["settled_from_entries"]["live"], live["meters"][0]["settled"], "{explained}");
    let listed = get("").await;
    let fullest = subjects(&listed["data"][0]);
    assert_eq!(fullest.len(), 100);
    assert!(fullest.contains(&format!("user-{users}")) && fullest.contains(&"live".to_owned()));
    let metrics = house.admin(Method::GET, "/metrics", None).await.body;
    let metrics = String::from_utf8(metrics.to_vec()).unwrap();
    assert_eq!(metrics.matches("\nspendguard_limit_settled{").count(), 1, "no series for each end user");
    for path in ["?limit=0", "/users?limit=0", "/users/explain?limit=1001", "/users?order=asc"] {
        let path = format!("/guard/v1/limits{path}");
        assert_eq!(house.admin(Method::GET, &path, None).await.status, StatusCode::BAD_REQUEST, "{path}");
    }
}

#[test]
fn limits_are_listed_by_pages() {
    run(async {
        let limit = |number: u32| format!("[[limit]]\nname = \"l{number:03}\"\nwindow = \"day\"\nhard = 1\n");
        let house = House::with(&(0..250).map(limit).collect::<String>()).await;
        let get = async |query: &str| {
            let answer = house.admin(Method::GET, &format!("/guard/v1/limits{query}"), None).await.json();
            let names = answer["data"]
                .as_array()
                .unwrap()
                .iter()
                .map(|limit| limit["name"].as_str().unwrap().to_owned());
            (names.collect::<Vec<_>>(), answer["has_more"] == true)
        };
        let (first, has_more) = get("").await;
        assert_eq!((first.len(), &*first[99], has_more), (100, "l099", true));
        let (last, has_more) = get("?after=l199&limit=100").await;
        assert_eq!((last.len(), &*last[0], has_more), (50, "l200", false));
    });
}

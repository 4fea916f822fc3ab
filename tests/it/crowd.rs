//! Many clients at once: none of them slows the others.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Answer, House, call, chat, run};

/// Each key has room for one of [`ONE`] at a time.
const ONE_AT_A_TIME: &str = "[guard]\nwhen_tight = \"reject\"\nhold_wait = \"20s\"\n\
                             [[limit]]\nname = \"own\"\nper = \"key\"\nwindow = \"day\"\nhard = 0.0002\n";
const ONE: u64 = 200;
/// As many of one key may wait (`ledger::waiting`).
const WAITING_PER_KEY_MAX: usize = 1_024;

async fn gauge(house: &House, name: &str) -> Option<f64> {
    let text = house.admin(Method::GET, "/metrics", None).await.body;
    let text = String::from_utf8(text.to_vec()).unwrap();
    let line = text.lines().find(|line| line.split([' ', '{']).next() == Some(name))?;
    line.rsplit(' ').next().unwrap().parse().ok()
}

async fn until_waiting(house: &House, count: f64) {
    for _ in 0..500 {
        if gauge(house, "spendguard_waiting_requests").await == Some(count) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{:?} requests wait, not {count}", gauge(house, "spendguard_waiting_requests").await);
}

/// A request of a key for so many tokens at most, which makes one and takes so
/// long upstream.
async fn ask(house: &House, key: &str, tokens: u64, latency_ms: u64) -> Answer {
    let (bearer, latency) = (format!("Bearer {key}"), latency_ms.to_string());
    let headers = [
        ("authorization", bearer.as_str()),
        ("x-fake-latency-ms", latency.as_str()),
        ("x-fake-completion-tokens", "1"),
    ];
    let body = chat(json!({ "max_completion_tokens": tokens })).to_string();
    call(&house.proxy, Method::POST, "/v1/chat/completions", &headers, body.into()).await
}

async fn key(house: &House, name: &str) -> String {
    house.make_key(json!({ "name": name })).await["value"].as_str().unwrap().to_owned()
}

#[test]
fn so_many_of_a_key_wait_the_others_are_refused_and_those_who_leave_are_gone_at_once() {
    run(async {
        let house = Rc::new(House::with(ONE_AT_A_TIME).await);
        let other = key(&house, "other").await;
        let spawned = |number: usize| {
            let house = Rc::clone(&house);
            tokio::task::spawn_local(async move {
                let latency_ms = if number == 0 { 60_000 } else { 0 };
                ask(&house, &house.key.clone(), ONE, latency_ms).await
            })
        };
        let mut clients = vec![spawned(0)];
        while house.guard.in_doubt().1 == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        clients.extend((0..WAITING_PER_KEY_MAX).map(|number| spawned(number + 1)));
        until_waiting(&house, 1_024.0).await;
        let refused = ask(&house, &house.key, ONE, 0).await;
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!((refused.code().as_str(), refused.header("retry-after")), ("spend_limit_held", "1"));
        assert_eq!(refused.header("x-should-retry"), "true");
        let began = house.guard.clock().running();
        for _ in 0..20 {
            assert_eq!(ask(&house, &other, ONE, 0).await.status, StatusCode::OK);
        }
        assert!(
            house.guard.clock().running().saturating_sub(began) < Duration::from_secs(5),
            "the other key took {:?}",
            house.guard.clock().running().saturating_sub(began)
        );
        for client in clients {
            client.abort();
        }
        until_waiting(&house, 0.0).await;
    });
}

#[test]
fn those_who_wait_are_served_in_the_order_in_which_they_came() {
    run(async {
        let house = Rc::new(House::with(ONE_AT_A_TIME).await);
        // The first count of a model's input takes long, and another could pass meanwhile.
        assert_eq!(ask(&house, &house.key, ONE, 0).await.status, StatusCode::OK);
        let served = Rc::new(RefCell::new(Vec::new()));
        let mut clients = Vec::new();
        for number in 0..8 {
            let (of_client, order) = (Rc::clone(&house), Rc::clone(&served));
            clients.push(tokio::task::spawn_local(async move {
                let latency_ms = if number == 0 { 1_000 } else { 30 };
                let answer = ask(&of_client, &of_client.key, ONE, latency_ms).await;
                assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
                order.borrow_mut().push(number);
            }));
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
        for client in clients {
            client.await.unwrap();
        }
        assert_eq!(*served.borrow(), [0, 1, 2, 3, 4, 5, 6, 7]);
    });
}

#[test]
fn a_large_request_is_not_overtaken_by_small_ones_that_come_after_it() {
    run(async {
        let config = "[guard]\nwhen_tight = \"reject\"\nhold_wait = \"2s\"\n\
                      [[limit]]\nname = \"all\"\nwindow = \"day\"\nhard = 0.0012\n";
        let house = Rc::new(House::with(config).await);
        let keys = [key(&house, "a").await, key(&house, "b").await];
        // There is always one of these, and a large one has no room beside it.
        let small = keys.into_iter().enumerate().map(|(number, key)| {
            let house = Rc::clone(&house);
            tokio::task::spawn_local(async move {
                tokio::time::sleep(Duration::from_millis(75 * u64::try_from(number).unwrap())).await;
                for _ in 0..20 {
                    let answer = ask(&house, &key, 600, 150).await;
                    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
                }
            })
        });
        let small: Vec<_> = small.collect();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let large = ask(&house, &house.key, 1_500, 0).await;
        assert_eq!(large.status, StatusCode::OK, "{large:?}");
        for client in small {
            client.await.unwrap();
        }
    });
}

#[test]
fn a_raised_cap_lets_those_through_who_wait() {
    run(async {
        let house = Rc::new(House::with("[guard]\nwhen_tight = \"reject\"\nhold_wait = \"20s\"\n").await);
        let put = async |hard: &str| {
            let rule = json!({ "per": "organization", "unit": "usd", "window": "day", "hard": hard });
            house.admin(Method::PUT, "/guard/v1/limits/all", Some(rule)).await
        };
        assert_eq!(put("0.0002").await.status, StatusCode::OK);
        all_but_one_wait(&house, async || assert_eq!(put("1").await.status, StatusCode::OK)).await;
    });
}

#[test]
fn those_who_wait_for_credit_queue_too_and_a_grant_lets_them_through() {
    run(async {
        let config = "[credit]\nminimum = 0.000001\nlow_balance = 0.00001\n\
                      [guard]\nwhen_tight = \"reject\"\nhold_wait = \"20s\"\n";
        let house = Rc::new(House::with(config).await);
        let grant = async |amount: &str| {
            let body = json!({ "amount_usd": amount, "note": "test" });
            house.admin(Method::POST, "/guard/v1/credits", Some(body)).await
        };
        assert_eq!(grant("0.0002").await.status, StatusCode::CREATED);
        all_but_one_wait(&house, async || assert_eq!(grant("1").await.status, StatusCode::CREATED)).await;
    });
}

/// One request holds all room, five wait; then there is more, and all pass.
async fn all_but_one_wait(house: &Rc<House>, more: impl AsyncFnOnce()) {
    let clients = (0..6).map(|_| {
        let house = Rc::clone(house);
        tokio::task::spawn_local(async move { ask(&house, &house.key, ONE, 4_000).await.status })
    });
    let clients: Vec<_> = clients.collect();
    until_waiting(house, 5.0).await;
    let began = house.guard.clock().running();
    more().await;
    for client in clients {
        assert_eq!(client.await.unwrap(), StatusCode::OK);
    }
    assert!(
        house.guard.clock().running().saturating_sub(began) < Duration::from_secs(8),
        "they passed one after the other: {:?}",
        house.guard.clock().running().saturating_sub(began)
    );
    assert_eq!(gauge(house, "spendguard_waiting_requests").await, Some(0.0));
}

#[test]
fn what_a_key_asks_of_the_guard_itself_counts_on_rates() {
    run(async {
        let config =
            "[[limit]]\nname = \"rate\"\nper = \"key\"\nunit = \"requests\"\nwindow = \"minute\"\nhard = 4\n";
        let house = House::with(config).await;
        let bearer = format!("Bearer {}", house.key);
        let headers = [("authorization", bearer.as_str())];
        let today = "start_date=2026-11-01&end_date=2026-11-30";
        let paths =
            ["/v1/spendguard/me", "/dashboard/billing/subscription", "/v1/dashboard/billing/credit_grants"];
        let usage = format!("/v1/dashboard/billing/usage?{today}");
        for path in paths.into_iter().chain([usage.as_str()]) {
            let answer = call(&house.proxy, Method::GET, path, &headers, Bytes::new()).await;
            assert_eq!(answer.status, StatusCode::OK, "{path}");
            assert_eq!(answer.header("x-ratelimit-limit-requests"), "4");
        }
        let answer = call(&house.proxy, Method::GET, &usage, &headers, Bytes::new()).await;
        assert_eq!(
            (answer.status, answer.code()),
            (StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded".into())
        );
        assert_eq!(
            house.chat(&[], json!({})).await.status,
            StatusCode::TOO_MANY_REQUESTS,
            "they count together"
        );
    });
}

#[test]
fn a_key_has_so_many_questions_open_and_operators_wait_for_none_of_them() {
    run(async {
        let house = House::with("").await;
        assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK);
        let key = house.guard.ring().keys()[0].id.clone();
        let mut open = Vec::new();
        for _ in 0..6 {
            open.push(house.guard.question(&key).await.unwrap());
        }
        let bearer = format!("Bearer {}", house.key);
        let headers = [("authorization", bearer.as_str())];
        let me = async || call(&house.proxy, Method::GET, "/v1/spendguard/me", &headers, Bytes::new()).await;
        let refused = me().await;
        assert_eq!(
            (refused.status, refused.code()),
            (StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded".into())
        );
        assert_eq!((refused.header("retry-after"), refused.header("x-should-retry")), ("1", "true"));
        // One that waits is answered when another has been.
        let freed = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            open.pop();
        };
        let (waited, ()) = tokio::join!(me(), freed);
        assert_eq!(waited.status, StatusCode::OK);
        for number in 0..19 {
            open.push(house.guard.question(&format!("key_{number}").into()).await.unwrap());
        }
        assert!(house.guard.question(&"key_19".into()).await.is_none(), "there is a bound for all of them");
        drop(open);
        assert_eq!(me().await.status, StatusCode::OK);
        // A question that takes its time is answered by a reader of its own.
        let (send, received) = std::sync::mpsc::sync_channel::<()>(1);
        let slow = house.guard.read_for_key(move |_| Ok(received.recv().is_ok()));
        let operators = async {
            let began = house.guard.clock().running();
            let answer = house.admin(Method::GET, "/guard/v1/usage?group_by=key&since=0", None).await;
            assert_eq!(answer.status, StatusCode::OK);
            send.send(()).unwrap();
            house.guard.clock().running().saturating_sub(began)
        };
        let (slow, took) = tokio::join!(slow, operators);
        assert!(slow.unwrap() && took < Duration::from_secs(5), "{took:?}");
    });
}

#[test]
fn a_keys_usage_is_its_own_whatever_its_project_was_and_of_a_year_at_most() {
    run(async {
        let house = House::with("[[project]]\nid = \"b\"\nname = \"B\"\n").await;
        let other = key(&house, "other").await;
        let id = house.guard.ring().keys().into_iter().find(|key| &*key.name == "test").unwrap().id.clone();
        for (key, count) in [(&house.key, 3), (&other, 2)] {
            for _ in 0..count {
                assert_eq!(ask(&house, key, ONE, 0).await.status, StatusCode::OK);
            }
        }
        let moved = house
            .admin(Method::PATCH, &format!("/guard/v1/keys/{id}"), Some(json!({ "project_id": "b" })))
            .await;
        assert_eq!(moved.status, StatusCode::OK, "{moved:?}");
        assert_eq!(ask(&house, &house.key, ONE, 0).await.status, StatusCode::OK);
        house.settled().await;
        let bearer = format!("Bearer {}", house.key);
        let usage = async |from: &str, to: &str| {
            let path = format!("/v1/dashboard/billing/usage?start_date={from}&end_date={to}");
            call(&house.proxy, Method::GET, &path, &[("authorization", &bearer)], Bytes::new()).await
        };
        let today = jiff::Zoned::now().with_time_zone(jiff::tz::TimeZone::UTC).date();
        let (from, to) = (today.yesterday().unwrap().to_string(), today.tomorrow().unwrap().to_string());
        let answer = usage(&from, &to).await.json();
        let spent = house.admin(Method::GET, "/guard/v1/usage?group_by=key&since=0", None).await.json();
        let own = spent["data"].as_array().unwrap().iter().find(|sum| sum["group"]["key_id"] == *id).unwrap();
        let usd: f64 = own["cost_usd"].as_str().unwrap().parse().unwrap();
        assert_eq!(own["requests"], 4);
        assert!((answer["total_usage"].as_f64().unwrap() - usd * 100.0).abs() < 1e-9, "{answer} and {own}");
        assert_eq!(usage("2025-01-01", "2026-01-02").await.status, StatusCode::OK, "366 days");
        assert_eq!(usage("2025-01-01", "2026-01-03").await.status, StatusCode::BAD_REQUEST);
    });
}

#[test]
fn wrong_keys_are_counted_apart_and_paced_and_good_ones_never_wait_for_them() {
    run(async {
        let house = Rc::new(House::with("[[limit]]\nname = \"none\"\nwindow = \"total\"\nhard = 0\n").await);
        assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::TOO_MANY_REQUESTS);
        let began = house.guard.clock().running();
        let clients = (0..10).map(|client| {
            let house = Rc::clone(&house);
            tokio::task::spawn_local(async move {
                for number in 0..20 {
                    let wrong = format!("sk-wrong-{client}-{number}");
                    let answer = ask(&house, &wrong, ONE, 0).await;
                    assert_eq!(
                        (answer.status, answer.code()),
                        (StatusCode::UNAUTHORIZED, "invalid_api_key".into())
                    );
                }
            })
        });
        let clients: Vec<_> = clients.collect();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let asked = house.guard.clock().running();
        assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::TOO_MANY_REQUESTS);
        assert!(
            house.guard.clock().running().saturating_sub(asked) < Duration::from_millis(900),
            "a good key waited {:?}",
            house.guard.clock().running().saturating_sub(asked)
        );
        for client in clients {
            client.await.unwrap();
        }
        // A hundred at once, then twenty a second.
        assert!(
            house.guard.clock().running().saturating_sub(began) > Duration::from_secs(2),
            "200 were answered within {:?}",
            house.guard.clock().running().saturating_sub(began)
        );
        let refusals = house.guard.refusals();
        assert!(refusals.iter().all(|refusal| refusal.reason == "spend_limit_exceeded"), "{refusals:?}");
        assert_eq!(refusals.len(), 2, "what operators look for is not pushed out");
        let metrics = house.admin(Method::GET, "/metrics", None).await.body;
        let counted = "spendguard_rejections_total{limit=\"\",reason=\"invalid_api_key\"} 200";
        assert!(String::from_utf8_lossy(&metrics).contains(counted));
    });
}

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
         'gpt-4o-mini', 'gpt-4o-mini', '', 1, ?1, {columns})",
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

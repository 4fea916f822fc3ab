//! Many clients at once: none of them slows the others.

mod meters;
mod questions;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::json;

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

//! Hundreds of real requests against one small limit: it holds, and is used.

use std::collections::BTreeSet;
use std::rc::Rc;

use http::{Method, StatusCode};
use serde_json::json;
use spendguard::ledger::meter::Reading;

use crate::harness::{House, call, chat, client, run, true_cost_nano};

const HARD_NANO: u64 = 5_000_000;

#[test]
fn a_race_never_gets_past_the_limit_and_uses_it_up() {
    race("process");
}

#[test]
fn a_race_does_not_either_where_each_commit_waits_for_the_disk() {
    race("power");
}

#[test]
fn a_thousand_connections_at_once_do_not_get_past_a_cent() {
    run(async {
        let config = "[guard]\nwhen_tight = \"reject\"\nhold_wait = \"0s\"\n\
                      [[limit]]\nname = \"cent\"\nwindow = \"month\"\nhard = 0.01\n";
        let house = Rc::new(House::with(config).await);
        let gate = Rc::new(tokio::sync::Barrier::new(1_000));
        let clients = (0..1_000).map(|_| {
            let (house, gate) = (Rc::clone(&house), Rc::clone(&gate));
            tokio::task::spawn_local(async move {
                // A pool of its own is a connection of its own.
                let own = client(house.proxy_address);
                gate.wait().await;
                let bearer = format!("Bearer {}", house.key);
                let headers = [("authorization", bearer.as_str()), ("x-fake-completion-tokens", "50")];
                let body = chat(json!({ "max_completion_tokens": 50 })).to_string();
                call(&own, Method::POST, "/v1/chat/completions", &headers, body.into()).await.status
            })
        });
        let mut admitted = 0;
        for asked in clients.collect::<Vec<_>>() {
            match asked.await.unwrap() {
                StatusCode::OK => admitted += 1,
                StatusCode::TOO_MANY_REQUESTS => {}
                other => panic!("{other}"),
            }
        }
        house.settled().await;
        let spent = true_cost_nano(&house.fake);
        assert!(spent <= 10_000_000 && admitted > 100, "{spent} spent by {admitted}");
        assert_eq!(house.fake.served()["gpt-4o-mini"].requests, admitted);
        assert_eq!(house.meter("cent").await["settled"], format!("0.{spent:09}").trim_end_matches('0'));
    });
}

/// Limits within limits, which different keys reach in different order.
const NESTED: &str = "\
[guard]\nwhen_tight = \"reject\"\nhold_wait = \"0s\"\n\
[[project]]\nid = \"a\"\nname = \"A\"\n[[project]]\nid = \"b\"\nname = \"B\"\n\
[[limit]]\nname = \"all\"\nwindow = \"month\"\nhard = 0.003\n\
[[limit]]\nname = \"project\"\nper = \"project\"\nwindow = \"day\"\nhard = 0.002\n\
[[limit]]\nname = \"key\"\nper = \"key\"\nunit = \"tokens\"\nwindow = \"day\"\nhard = 2500\n\
[[limit]]\nname = \"user\"\nper = \"user\"\nunit = \"requests\"\nwindow = \"hour\"\nhard = 12\n";

#[test]
fn limits_within_limits_hold_in_whatever_order_they_trip() {
    run(async {
        let house = Rc::new(House::with(NESTED).await);
        let mut keys = Vec::new();
        for project in ["a", "a", "b", "b"] {
            let made = house.make_key(json!({ "name": "k", "project_id": project })).await;
            keys.push(made["value"].as_str().unwrap().to_owned());
        }
        let keys = Rc::new(keys);
        let clients = (0..96).map(|n| {
            let (house, keys) = (Rc::clone(&house), Rc::clone(&keys));
            tokio::task::spawn_local(async move {
                let bearer = format!("Bearer {}", keys[n % 4]);
                let headers = [("authorization", bearer.as_str()), ("x-fake-latency-ms", "3")];
                let mut refusals = Vec::new();
                for _ in 0..12 {
                    // Long ones meet the dollars first, short ones the requests.
                    let most = [20, 200, 60, 400][n % 4];
                    let mut more = json!({ "max_completion_tokens": most });
                    if n % 3 == 0 {
                        more["user"] = json!("somebody");
                    }
                    let body = chat(more).to_string();
                    let path = "/v1/chat/completions";
                    let answer = call(&house.proxy, Method::POST, path, &headers, body.into()).await;
                    if answer.status != StatusCode::OK {
                        refusals.push(answer.header("x-spendguard-limit").to_owned());
                    }
                }
                refusals
            })
        });
        let mut tripped = BTreeSet::new();
        for client in clients.collect::<Vec<_>>() {
            tripped.extend(client.await.unwrap());
        }
        house.settled().await;
        assert!(tripped.len() >= 3, "they tripped: {tripped:?}");
        for (limit, readings) in house.books.limits() {
            for reading in &readings {
                let (hard, meter) = (limit.hard.unwrap(), reading.meter);
                assert!(meter.settled <= hard && meter.held == 0, "{}: {meter:?} of {hard}", limit.name);
            }
            let sums = house.books.sums_from_entries(&limit.name).await.unwrap();
            let agree = |reading: &Reading| sums.get(&reading.subject) == Some(&reading.meter.settled);
            assert!(readings.iter().all(agree), "{}: {readings:?} and {sums:?}", limit.name);
        }
        assert!(true_cost_nano(&house.fake) <= 3_000_000);
    });
}

fn race(durability: &str) {
    run(async {
        let limit = "[[limit]]\nname = \"small\"\nwindow = \"month\"\nhard = 0.005\n";
        let config =
            format!("[guard]\nwhen_tight = \"reject\"\n[storage]\ndurability = \"{durability}\"\n{limit}");
        let house = Rc::new(House::with(&config).await);
        let (mut admitted, mut refused) = (0, 0);
        let mut tasks = Vec::new();
        for _ in 0..64 {
            let house = Rc::clone(&house);
            tasks.push(tokio::task::spawn_local(async move {
                let mut statuses = Vec::new();
                for _ in 0..8 {
                    let ordered = [("x-fake-completion-tokens", "50"), ("x-fake-latency-ms", "5")];
                    statuses.push(house.chat(&ordered, json!({ "max_completion_tokens": 50 })).await.status);
                }
                statuses
            }));
        }
        for task in tasks {
            for status in task.await.unwrap() {
                match status {
                    StatusCode::OK => admitted += 1,
                    StatusCode::TOO_MANY_REQUESTS => refused += 1,
                    other => panic!("{other}"),
                }
            }
        }
        house.settled().await;
        let spent = true_cost_nano(&house.fake);
        assert!(refused > 0 && admitted > 0, "{admitted} admitted, {refused} refused");
        assert!(spent <= HARD_NANO, "{spent} spent of {HARD_NANO}");
        assert!(spent * 100 >= HARD_NANO * 95, "{spent} spent of {HARD_NANO}: not used up");
        let meter = house.meter("small").await;
        assert_eq!(meter["held"], "0");
        let verified = house.admin(Method::GET, "/guard/v1/ledger/verify", None).await.json();
        assert_eq!(verified["ok"], true, "{verified}");
    });
}

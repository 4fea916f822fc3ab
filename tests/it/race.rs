//! Hundreds of real requests against one small limit: it holds, and is used.

use http::StatusCode;
use serde_json::json;

use crate::harness::{House, run, true_cost_nano};

const HARD_NANO: u64 = 5_000_000;

#[test]
fn a_race_never_gets_past_the_limit_and_uses_it_up() {
    race("process");
}

#[test]
fn a_race_does_not_either_where_each_commit_waits_for_the_disk() {
    race("power");
}

fn race(durability: &str) {
    run(async {
        let limit = "[[limit]]\nname = \"small\"\nwindow = \"month\"\nhard = 0.005\n";
        let config =
            format!("[guard]\nwhen_tight = \"reject\"\n[storage]\ndurability = \"{durability}\"\n{limit}");
        let house = std::rc::Rc::new(House::with(&config).await);
        let (mut admitted, mut refused) = (0, 0);
        let mut tasks = Vec::new();
        for _ in 0..64 {
            let house = std::rc::Rc::clone(&house);
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
        let verified = house.admin(http::Method::GET, "/guard/v1/ledger/verify", None).await.json();
        assert_eq!(verified["ok"], true, "{verified}");
    });
}

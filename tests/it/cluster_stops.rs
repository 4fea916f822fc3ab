//! Stops of guards that share a database: what one makes binds all, and what all spend counts.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::harness::run;
use crate::process::Serving;

const FUSE: &str = "[[fuse]]\nname = \"runaway\"\nper = \"organization\"\nusd = 0.05\nwithin = \"10m\"\n";

async fn stops(guard: &Serving) -> Vec<Value> {
    guard.ask(Method::GET, "/guard/v1/stops", None).await["data"].as_array().unwrap().clone()
}

/// Asks for what costs 0.006 dollars; returns the code of a refusal.
async fn spent(guard: &Serving, key: &str) -> String {
    let more = json!({ "max_completion_tokens": 10_000 });
    guard.chat(key, &[("x-fake-completion-tokens", "10000")], more).await.code()
}

#[test]
fn a_kill_switch_of_one_guard_binds_the_others_before_its_call_returns() {
    run(async {
        let cluster = Cluster::new("");
        let (a, b) = (cluster.serve(), cluster.serve());
        let key = a.make_key().await;
        for _ in 0..20 {
            assert_eq!(spent(&b, &key).await, "");
            a.ask(Method::PUT, "/guard/v1/kill-switches/default", Some(json!({}))).await;
            assert_eq!(spent(&b, &key).await, "kill_switch");
            b.ask(Method::DELETE, "/guard/v1/kill-switches/default", None).await;
            assert_eq!(spent(&a, &key).await, "");
        }
        a.ask(Method::PUT, "/guard/v1/kill-switches/organization", Some(json!({}))).await;
        b.process.kill();
        let c = cluster.serve();
        assert_eq!(spent(&c, &key).await, "kill_switch");
        c.verify().await;
    });
}

#[test]
fn what_guards_spend_together_blows_a_fuse_once_and_a_reset_on_one_lets_all_go_on() {
    run(async {
        let cluster = Cluster::new(FUSE);
        let guards = [cluster.serve(), cluster.serve()];
        let key = guards[0].make_key().await;
        let blown = async || {
            for asked in 0..100 {
                // Of the ten that fit, each guard has seen a half.
                if spent(&guards[asked % 2], &key).await == "fuse_blown" {
                    return asked;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            panic!("it never blew");
        };
        let first = blown().await;
        assert!((9..=25).contains(&first), "{first}");
        for guard in &guards {
            assert_eq!(spent(guard, &key).await, "fuse_blown");
            assert_eq!(stops(guard).await.len(), 1);
        }
        // Each guard sees once a second what the others have spent; what it sees later counts as spent later.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let reset = guards[1].ask(Method::POST, "/guard/v1/fuses/runaway/reset", None).await;
        assert_eq!(reset["data"].as_array().unwrap().len(), 1, "{reset:#}");
        assert_eq!(spent(&guards[0], &key).await, "");
        let second = blown().await;
        assert!((8..=25).contains(&second), "what was spent before the reset counts no more: {second}");
        tokio::time::sleep(Duration::from_secs(2)).await;
        let rows = guards[0].ask(Method::GET, "/v1/organization/audit_logs?limit=100", None).await;
        let blown = rows["data"].as_array().unwrap().iter().filter(|row| row["type"] == "fuse.blown").count();
        assert_eq!(blown, 2, "{rows:#}");
        let answer = guards[0].chat(&key, &[], json!({})).await;
        assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
        guards[0].verify().await;
    });
}

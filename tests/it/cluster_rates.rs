//! Rates over several guards on one PostgreSQL.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde_json::json;
use spendguard::clock::Clock;

use crate::cluster::Cluster;
use crate::harness::run;
use crate::process::Serving;

const RATES: &str = "[[limit]]\nname = \"rpm\"\nunit = \"requests\"\nwindow = \"minute\"\nhard = 60\n\
                     [[limit]]\nname = \"tpm\"\nper = \"key\"\nunit = \"tokens\"\nwindow = \"minute\"\nhard = 6000\n\
                     [guard]\nwhen_tight = \"reject\"\n";

/// Sends requests to all guards at once. Returns how many passed, and the code of the others.
async fn burst(guards: &[Serving], key: &Arc<str>, count: usize, output: u64) -> (usize, Vec<String>) {
    let ask = |number: usize| {
        let (guard, key) = (&guards[number % guards.len()], Arc::clone(key));
        // All are open at once.
        let slow: &[(&str, &str)] = &[("x-fake-latency-ms", "700")];
        async move { guard.chat(&key, slow, json!({ "max_completion_tokens": output })).await }
    };
    let answers = futures_util::future::join_all((0..count).map(ask)).await;
    let passed = answers.iter().filter(|answer| answer.status == StatusCode::OK).count();
    let refused = answers.iter().filter(|answer| answer.status == StatusCode::TOO_MANY_REQUESTS);
    (passed, refused.map(crate::harness::Answer::code).collect())
}

#[test]
fn three_guards_let_pass_what_one_rate_allows_and_no_more() {
    run(async {
        let cluster = Cluster::new(RATES);
        let guards: Vec<Serving> = (0..3).map(|_| cluster.serve()).collect();
        let key: Arc<str> = guards[0].make_key().await.into();
        let began = Clock::default();
        let (passed, codes) = burst(&guards, &key, 150, 1).await;
        // One more passes for each second.
        let most = 61 + usize::try_from(began.running().as_secs()).unwrap();
        assert!((60..=most).contains(&passed), "{passed} passed, {most} may");
        assert!(codes.iter().all(|code| code == "rate_limit_exceeded"), "{codes:?}");
    });
}

#[test]
fn tokens_that_one_guard_holds_are_missing_on_another_and_come_back_unused() {
    run(async {
        let cluster = Cluster::new(RATES);
        let guards: Vec<Serving> = (0..2).map(|_| cluster.serve()).collect();
        let key = guards[0].make_key().await;
        let large = json!({ "max_completion_tokens": 4_000 });
        let slow: &[(&str, &str)] = &[("x-fake-latency-ms", "2500")];
        let taken = || {
            let level = "SELECT COALESCE(MAX(CAST((taken - gone) / 60000000000 AS BIGINT)), 0) FROM rate \
                         WHERE limit_name = 'tpm'";
            cluster.postgres.ask(level).parse::<i64>().unwrap()
        };
        for round in 0..4 {
            let (one, other) = (&guards[round % 2], &guards[(round + 1) % 2]);
            let beside = async {
                while taken() < 3_000 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                other.chat(&key, &[], large.clone()).await
            };
            let (first, beside) = tokio::join!(one.chat(&key, slow, large.clone()), beside);
            assert_eq!(first.status, StatusCode::OK, "round {round}: {first:?}");
            assert_eq!(beside.code(), "rate_limit_exceeded", "round {round}: {beside:?}");
            // What was not used goes back with the next group.
            let began = Clock::default();
            while taken() > 1_000 {
                assert!(began.running() < Duration::from_secs(10), "what was not used is still taken");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
}

//! Many values of a tag: thousands, as many as may be, and on guards that share them.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::json;
use spendguard::clock::Clock;
use spendguard::ledger::meter::VALUES_MAX;

use crate::cluster::Cluster;
use crate::harness::{Answer, House, run};
use crate::process::Serving;

const DAYS: &str = "[tags]\nrun = [\"prompt_cache_key\"]\n\
    [[limit]]\nname = \"runs\"\nper = \"tag:run\"\nwindow = \"day\"\nhard = 1\n\
    [[limit]]\nname = \"all\"\nwindow = \"month\"\nhard = 100\n";

#[test]
fn thousands_of_values_have_meters_and_none_becomes_a_label() {
    run(async {
        let house = House::with(DAYS).await;
        for chunk in 0..30 {
            let asked = (0..100).map(|number| {
                let run = format!("secret-run-{}", chunk * 100 + number);
                house.chat(&[], json!({ "prompt_cache_key": run }))
            });
            for answer in futures_util::future::join_all(asked).await {
                assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
            }
        }
        house.settled().await;
        let shown = house.admin(Method::GET, "/guard/v1/limits/runs?limit=2", None).await.json();
        assert_eq!((&shown["meters_total"], shown["meters"].as_array().unwrap().len()), (&json!(3_000), 2));
        let metrics = house.admin(Method::GET, "/metrics", None).await;
        let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
        assert!(!metrics.contains("secret-run"), "{metrics}");
        assert!(metrics.contains("limit=\"runs\",subject=\"fullest_value\""), "{metrics}");
        let verified = house.admin(Method::GET, "/guard/v1/ledger/verify", None).await.json();
        assert_eq!(verified["ok"], true, "{verified}");
    });
}

async fn in_run(guard: &Serving, key: &str, run: &str) -> Answer {
    guard.chat(key, &[], json!({ "prompt_cache_key": run })).await
}

#[test]
fn guards_that_share_a_database_share_the_meters_of_runs() {
    run(async {
        let runs = "[[limit]]\nname = \"runs\"\nper = \"tag:run\"\nunit = \"requests\"\nwindow = \"total\"\nhard = 2\n";
        let cluster = Cluster::new(&format!("[tags]\nrun = [\"prompt_cache_key\"]\n{runs}"));
        let guards = [cluster.serve(), cluster.serve()];
        let keys = [guards[0].make_key().await, guards[0].make_key().await];
        for guard in &guards {
            assert_eq!(in_run(guard, &keys[0], "a").await.status, StatusCode::OK);
        }
        guards[0].written(2).await;
        for guard in &guards {
            let refused = in_run(guard, &keys[0], "a").await;
            assert_eq!(
                (refused.status, refused.code()),
                (StatusCode::TOO_MANY_REQUESTS, "project_spend_limit_exceeded".to_owned())
            );
        }
        assert_eq!(in_run(&guards[0], &keys[0], "b").await.status, StatusCode::OK);
        assert_eq!(in_run(&guards[1], &keys[1], "a").await.status, StatusCode::OK);
        guards[0].written(4).await;
        let rule = json!({ "per": "tag:run", "unit": "requests", "window": "day", "hard": "2" });
        let made = guards[1].ask(Method::PUT, "/guard/v1/limits/later", Some(rule)).await;
        let settled: Vec<_> =
            made["meters"].as_array().unwrap().iter().map(|meter| &meter["settled"]).collect();
        assert_eq!(settled.len(), 3, "{made}");
        assert!(settled.contains(&&json!("2")), "{made}");
        guards[0].verify().await;
    });
}

#[test]
fn a_key_with_as_many_values_as_may_be_is_refused_new_ones_and_other_keys_are_not() {
    run(async {
        let cluster = Cluster::new(DAYS);
        let guard = cluster.serve();
        let keys = [guard.make_key().await, guard.make_key().await];
        assert_eq!(in_run(&guard, &keys[0], "first").await.status, StatusCode::OK);
        guard.written(1).await;
        let others = VALUES_MAX - 1;
        cluster.postgres.ask(&format!(
            "INSERT INTO meter SELECT limit_name, split_part(subject, '/', 1) || '/run=other-' || n, start_s, end_s, 1, 0 \
             FROM meter, generate_series(1, {others}) AS n WHERE limit_name = 'runs'",
        ));
        let (clock, mut asked) = (Clock::default(), 0);
        let refused = loop {
            asked += 1;
            let answer = in_run(&guard, &keys[0], &format!("new-{asked}")).await;
            if answer.status != StatusCode::OK {
                break answer;
            }
            assert!(clock.running() < Duration::from_secs(60), "{asked} new values are let through");
            tokio::time::sleep(Duration::from_millis(500)).await;
        };
        let said = (refused.status, refused.code(), refused.header("x-should-retry").to_owned());
        assert_eq!(said, (StatusCode::SERVICE_UNAVAILABLE, "overloaded".to_owned(), "false".to_owned()));
        let text = refused.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(
            text.contains("values of the tag \"run\"") && text.contains("100,000 for each key"),
            "{text}"
        );
        for known in ["first", "other-7"] {
            assert_eq!(in_run(&guard, &keys[0], known).await.status, StatusCode::OK, "{known}");
        }
        assert_eq!(in_run(&guard, &keys[1], "new").await.status, StatusCode::OK, "another key");
        assert_eq!(guard.chat(&keys[0], &[], json!({})).await.status, StatusCode::OK, "without a value");
    });
}

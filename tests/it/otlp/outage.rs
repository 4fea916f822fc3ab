//! A collector that is slow, absent or refuses, a change of it, and the end of the guard.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::json;
use spendguard::clock::Clock;

use crate::harness::{House, run};
use crate::otlp::collector::{Collector, Reply};
use crate::process::{Place, Process};

/// The value of a series on `/metrics`.
async fn series(house: &House, name: &str) -> f64 {
    let metrics = house.admin(Method::GET, "/metrics", None).await;
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("{name}: {text}")).trim().parse().unwrap()
}

#[test]
fn a_collector_that_hangs_or_fails_delays_no_request_and_what_is_dropped_is_counted() {
    run(async {
        for reply in [Reply::Hangs, Reply::Refuses(500), Reply::Refuses(503)] {
            let collector = Collector::start().await;
            collector.reply.set(reply);
            let more = "queue = 4\ntimeout = \"5s\"\nmetrics_interval = \"0s\"\n[server]\ndrain = \"1s\"";
            let house = House::with(&collector.config(more)).await;
            house.chat(&[], json!({})).await;
            while collector.requests().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let clock = Clock::default();
            for _ in 0..50 {
                assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK);
            }
            assert!(clock.running() < Duration::from_secs(5), "{reply:?}: {:?}", clock.running());
            let state = |state: &str| format!("spendguard_otlp_spans_total{{state=\"{state}\"}}");
            if reply == Reply::Hangs {
                let dropped = series(&house, &state("dropped")).await;
                assert_eq!(dropped.to_string(), "46", "one is being sent, and four wait");
            } else {
                assert!(series(&house, "spendguard_otlp_failures_total{signal=\"traces\"}").await >= 1.0);
            }
            assert_eq!(series(&house, &state("exported")).await.to_string(), "0");
            let closing = Clock::default();
            house.close().await;
            assert!(closing.running() < Duration::from_secs(4), "{reply:?}: {:?}", closing.running());
        }
    });
}

/// Lets a request end while the collector refuses with a status; then it takes what comes.
async fn refused_once(house: &House, collector: &Collector, status: u16) {
    let before = collector.requests().len();
    collector.reply.set(Reply::Refuses(status));
    house.chat(&[], json!({})).await;
    while collector.requests().len() == before {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    collector.reply.set(Reply::Takes);
}

#[test]
fn what_may_be_repeated_is_repeated_and_what_may_not_is_given_up() {
    run(async {
        let collector = Collector::start().await;
        let house = House::with(&collector.config("metrics_interval = \"0s\"")).await;
        let mut taken = 0;
        for status in [429, 502, 503, 504] {
            let before = collector.requests().len();
            refused_once(&house, &collector, status).await;
            taken += 1;
            collector.has_spans(taken).await;
            let requests = collector.requests().split_off(before);
            let (last, refused) = requests.split_last().unwrap();
            assert!(!refused.is_empty() && refused.iter().all(|of| of.body == last.body), "{status}");
        }
        for (failed, status) in [400, 401, 404, 413, 500].into_iter().enumerate() {
            let before = collector.requests().len();
            refused_once(&house, &collector, status).await;
            house.chat(&[], json!({})).await;
            taken += 1;
            collector.has_spans(taken).await;
            assert_eq!(collector.requests().len(), before + 2, "{status}");
            let counted = series(&house, "spendguard_otlp_spans_total{state=\"failed\"}").await;
            assert_eq!(counted.to_string(), (failed + 1).to_string());
        }
    });
}

#[test]
fn the_end_of_the_guard_sends_what_waits() {
    run(async {
        let collector = Collector::start().await;
        let house = House::with(&collector.config("")).await;
        house.chat(&[], json!({})).await;
        house.close().await;
        assert_eq!(collector.spans().len(), 1);
        assert!(!collector.metrics().is_empty());
    });
}

#[test]
fn a_full_batch_is_sent_at_once() {
    run(async {
        let collector = Collector::start().await;
        let house = House::with(&collector.config("queue = 8\nmetrics_interval = \"0s\"")).await;
        for _ in 0..64 {
            house.chat(&[], json!({})).await;
        }
        collector.has_spans(64).await;
        assert_eq!(series(&house, "spendguard_otlp_spans_total{state=\"dropped\"}").await.to_string(), "0");
    });
}

#[test]
fn another_collector_is_in_force_after_a_reload_and_an_outage_is_logged_once() {
    run(async {
        let (_fake, fake) = Process::fake();
        let (first, second) = (Collector::start().await, Collector::start().await);
        first.reply.set(Reply::Refuses(500));
        let place = Place::new(&fake, &first.config(""));
        let guard = place.serve();
        let key = guard.make_key().await;
        for batch in 1..=3 {
            guard.chat(&key, &[], json!({})).await;
            while first.requests().len() < batch {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        let count = |event: &str| guard.process.log().matches(&format!("event={event} ")).count();
        assert_eq!((count("otlp_export_failed"), count("otlp_export_recovered")), (1, 0));
        first.reply.set(Reply::Takes);
        guard.chat(&key, &[], json!({})).await;
        first.has_spans(1).await;
        place.configure(&second.config(""));
        let mut asked = 0;
        while second.spans().is_empty() {
            guard.chat(&key, &[], json!({})).await;
            asked += 1;
            assert!(asked < 100);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let log = guard.process.log();
        assert!(
            log.contains("event=config_reloaded") && !log.contains("event=config_restart_needed"),
            "{log}"
        );
        assert_eq!((count("otlp_export_failed"), count("otlp_export_recovered")), (1, 1), "{log}");
        place.configure("");
        let reloads = || guard.process.log().matches("event=config_reloaded").count();
        while reloads() < 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let before = first.spans().len() + second.spans().len();
        guard.chat(&key, &[], json!({})).await;
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let after = first.spans().len() + second.spans().len();
        // A request from before the last reload may have waited for its batch.
        assert!(after <= before + 1 && after >= asked.min(before), "{before} {after}");
    });
}

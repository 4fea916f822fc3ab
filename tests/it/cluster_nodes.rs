//! What guards that are no more have left in a database that others share.

use std::time::Duration;

use http::StatusCode;
use serde_json::json;
use spendguard::clock::Clock;

use crate::cluster::{Cluster, ONE_DOLLAR};
use crate::harness::run;

#[test]
fn guards_that_ended_long_ago_are_forgotten_unless_something_of_them_is_held() {
    run(async {
        let cluster = Cluster::new(ONE_DOLLAR);
        let guard = cluster.serve();
        let ask = |statement: &str| cluster.postgres.ask(statement);
        for (epoch, state, days) in
            [(1, "left", 31), (2, "given_up", 31), (3, "given_up", 31), (4, "left", 29), (5, "given_up", 29)]
        {
            ask(&format!(
                "INSERT INTO node (epoch, name, version, since_ms, seen_ms, state) VALUES ({epoch}, 'old', '0.1.0', 1, \
                 (extract(epoch FROM now()) - {days} * 86400)::bigint * 1000, '{state}'); \
                 INSERT INTO lane (epoch, lane, state, rules_version, group_id) \
                 SELECT {epoch}, n, '{state}', 1, 0 FROM generate_series(0, 1) AS n"
            ));
        }
        ask("INSERT INTO hold (id, epoch, cost_nano, holds) VALUES (999999, 3, 1, 'not to be read')");
        // A guard that starts looks at once, others from time to time.
        let another = cluster.serve();
        let clock = Clock::default();
        let old = |of: &str| {
            ask(&format!("SELECT string_agg(DISTINCT epoch::text, ' ') FROM {of} WHERE epoch < 6"))
        };
        while old("node") != "3 4 5" {
            assert!(clock.running() < Duration::from_secs(20), "{} are known", old("node"));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(old("lane"), "3 4 5");
        assert_eq!(ask("SELECT count(*) FROM lane"), "10");
        let key = guard.make_key().await;
        for guard in [&guard, &another] {
            assert_eq!(guard.chat(&key, &[], json!({})).await.status, StatusCode::OK);
        }
    });
}

#[test]
fn holds_of_a_dead_guard_that_cannot_be_read_hide_no_other_and_are_logged_once() {
    run(async {
        let cluster = Cluster::new(ONE_DOLLAR);
        let victim = cluster.serve();
        cluster.postgres.ask("SELECT setval('entry_id', 1000)");
        let key = victim.make_key().await;
        let survivor = cluster.serve();
        let held = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert_eq!(cluster.postgres.ask("SELECT count(*) FROM hold"), "1");
            cluster.postgres.ask(
                "INSERT INTO hold (id, epoch, cost_nano, holds) SELECT n, epoch, 1, 'not to be read' FROM hold, \
                 generate_series(1, 300) AS n",
            );
            victim.process.signal("KILL");
        };
        let slow: &[(&str, &str)] = &[("x-fake-latency-ms", "3000")];
        let mut headers = http::HeaderMap::new();
        headers.insert("authorization", format!("Bearer {key}").parse().unwrap());
        for (name, value) in slow {
            headers.insert(*name, value.parse().unwrap());
        }
        let body = crate::harness::chat(json!({})).to_string().into();
        let asked = victim.proxy.send(http::Method::POST, "/v1/chat/completions", headers, body);
        let _ = tokio::join!(asked, held);
        let clock = Clock::default();
        let charged = || cluster.postgres.ask("SELECT count(*) FROM entry WHERE basis = 'assumed'");
        while charged() != "1" {
            assert!(clock.running() < Duration::from_secs(30), "the hold behind the others is not charged");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // Some looks later.
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(cluster.postgres.ask("SELECT count(*) FROM hold"), "300");
        assert_eq!(survivor.process.log().matches("open_hold_unreadable").count(), 300);
        assert_eq!(survivor.chat(&key, &[], json!({})).await.status, StatusCode::OK);
    });
}

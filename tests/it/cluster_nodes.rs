//! What guards that are no more have left in a database that others share.

use std::time::Duration;

use http::StatusCode;
use serde_json::json;
use spendguard::clock::Clock;

use crate::cluster::{Cluster, ONE_DOLLAR};
use crate::harness::run;
use crate::postgres::Postgres;

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

#[test]
fn a_guard_says_that_it_is_alive_whatever_its_upkeep_of_meters_and_months_waits_for() {
    run(async {
        let cluster = Cluster::new(&format!(
            "{ONE_DOLLAR}[[limit]]\nname = \"users\"\nper = \"user\"\nwindow = \"day\"\nhard = 9\n"
        ));
        let _guard = cluster.serve();
        // Before it looks for the first time: months that are to be removed, and what is in the way.
        cluster.with_past_months(1..3);
        cluster.with_all_pruned();
        let _locked = cluster.postgres.hold("LOCK TABLE meter, entry", 7);
        let (clock, mut longest) = (Clock::default(), 0.0_f64);
        while clock.running() < Duration::from_secs(6) {
            let silence = "SELECT extract(epoch FROM now()) * 1000 - seen_ms FROM node";
            longest = longest.max(cluster.postgres.ask(silence).parse().unwrap());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(longest < 3_500.0, "{longest} ms without a sign of life");
    });
}

/// A guard that joins is committed, and waits for a standby that is not there before it is answered.
const UNHEARD: &str = "CREATE FUNCTION unheard() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM \
                       set_config('synchronous_commit', 'on', true); RETURN NEW; END $$; CREATE TRIGGER fault BEFORE \
                       INSERT ON node FOR EACH ROW EXECUTE FUNCTION unheard()";

#[test]
fn a_guard_that_has_joined_again_without_an_answer_goes_on_though_its_lost_epoch_is_forgotten() {
    run(async {
        let cluster = Cluster::on(Postgres::with("-c fsync=off -c synchronous_commit=local"), ONE_DOLLAR);
        let guard = cluster.serve();
        let key = guard.make_key().await;
        cluster.postgres.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = 'nowhere'");
        cluster.postgres.sql("postgres", "SELECT pg_reload_conf()");
        let ask = |statement: &str| cluster.postgres.ask(statement);
        ask(UNHEARD);
        let lost = ask("SELECT epoch FROM node");
        ask("UPDATE lane SET state = 'given_up'; UPDATE node SET state = 'given_up'");
        let clock = Clock::default();
        let found = |what: &str| {
            loop {
                let pid = ask(&format!("SELECT pid FROM pg_stat_activity WHERE {what}"));
                if !pid.is_empty() {
                    return pid;
                }
                assert!(clock.running() < Duration::from_secs(30), "nothing waits: {what}");
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        let joining = found("query = 'COMMIT' AND wait_event = 'SyncRep'");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                ask(&format!("DELETE FROM lane WHERE epoch = {lost}; DELETE FROM node WHERE epoch = {lost}"))
            });
            found("query LIKE '%DELETE FROM lane%' AND wait_event_type = 'Lock'");
            ask(&format!("SELECT pg_terminate_backend({joining})"));
        });
        assert_eq!(ask(&format!("SELECT count(*) FROM node WHERE epoch = {lost}")), "0");
        while guard.chat(&key, &[], json!({})).await.status != StatusCode::OK {
            assert!(clock.running() < Duration::from_secs(50), "{}", guard.process.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
}

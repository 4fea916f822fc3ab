//! As many meters as clients name end users, on a database that guards share.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::json;
use spendguard::clock::Clock;
use spendguard::ledger::meter::METERS_MAX;

use crate::cluster::Cluster;
use crate::harness::{Answer, run};
use crate::process::Serving;

/// A limit of which clients name the subjects.
const PER_USER: &str = "[[limit]]\nname = \"users\"\nper = \"user\"\nwindow = \"month\"\nhard = 1\n";
/// What reads the meters of all limits.
const ALL_METERS: &str = "FROM meter WHERE end_s >";

async fn chat_of(guard: &Serving, key: &str, user: &str) -> Answer {
    guard.chat(key, &[], json!({ "model": "gpt-4o-mini", "user": user })).await
}

/// A guard, and a key of which one user has called once.
async fn called() -> (Cluster, Serving, String) {
    let cluster = Cluster::new("");
    let guard = cluster.serve();
    let key = guard.make_key().await;
    assert_eq!(chat_of(&guard, &key, "ann").await.status, StatusCode::OK);
    guard.written(1).await;
    (cluster, guard, key)
}

#[test]
fn rules_that_were_changed_are_read_again_without_a_meter_and_what_is_shown_has_a_bound() {
    run(async {
        let cluster = Cluster::new(PER_USER);
        let guards = [cluster.serve(), cluster.serve()];
        let key = guards[0].make_key().await;
        assert_eq!(chat_of(&guards[0], &key, "ann").await.status, StatusCode::OK);
        cluster.postgres.log_statements();
        let logged = |text: &str| cluster.postgres.logged(text);
        let (limits, meters) = ("FROM active_limit ORDER BY name", logged(ALL_METERS));
        let read = logged(limits);
        cluster.postgres.ask(
            "BEGIN; UPDATE rules SET version = version + 1; UPDATE lane SET rules_version = rules_version + 1; COMMIT",
        );
        let clock = Clock::default();
        while logged(limits) < read + guards.len() {
            assert!(clock.running() < Duration::from_secs(20), "the rules are not read again");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // What else a reading of the rules asks for.
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(logged(ALL_METERS) - meters, 0, "meters are read with the rules");
        for guard in &guards {
            let shown = guard.ask(Method::GET, "/guard/v1/limits/users", None).await;
            assert_eq!((&shown["meters_total"], &shown["meters"][0]["subject"]), (&json!(1), &json!("ann")));
        }
        assert!(logged(&format!("LIMIT {METERS_MAX}) AS shown")) > 0, "what is shown has no bound");
    });
}

#[test]
fn a_new_limit_shows_at_once_what_was_spent_before() {
    run(async {
        let (_cluster, guard, _) = called().await;
        let rule = json!({ "per": "user", "unit": "requests", "window": "month", "hard": "9" });
        let made = guard.ask(Method::PUT, "/guard/v1/limits/calls", Some(rule)).await;
        assert_eq!(
            (&made["meters_total"], &made["meters"][0]["settled"]),
            (&json!(1), &json!("1")),
            "{made}"
        );
    });
}

#[test]
fn a_limit_with_as_many_meters_as_may_be_refuses_new_users_on_every_guard() {
    run(async {
        let cluster = Cluster::new(PER_USER);
        let guards = [cluster.serve(), cluster.serve()];
        let key = guards[0].make_key().await;
        for guard in &guards {
            assert_eq!(chat_of(guard, &key, "ann").await.status, StatusCode::OK);
        }
        let others = METERS_MAX - 1;
        cluster.postgres.ask(&format!(
            "INSERT INTO meter SELECT limit_name, 'other-' || n, start_s, end_s, 1, 0 FROM meter, \
             generate_series(1, {others}) AS n WHERE limit_name = 'users'",
        ));
        let mut asked = 0;
        for guard in &guards {
            let clock = Clock::default();
            let refused = loop {
                asked += 1;
                let answer = chat_of(guard, &key, &format!("new-{asked}")).await;
                if answer.status != StatusCode::OK {
                    break answer;
                }
                assert!(clock.running() < Duration::from_secs(60), "{asked} new users are let through");
                tokio::time::sleep(Duration::from_millis(500)).await;
            };
            let said = (refused.status, refused.code(), refused.header("x-should-retry").to_owned());
            assert_eq!(said, (StatusCode::SERVICE_UNAVAILABLE, "overloaded".to_owned(), "false".to_owned()));
            assert!(
                refused.json()["error"]["message"].as_str().unwrap().contains("2,000,000"),
                "{refused:?}"
            );
        }
        let rows = || cluster.postgres.ask("SELECT count(*) FROM meter").parse::<usize>().unwrap();
        let before = rows();
        assert!(before <= METERS_MAX + asked, "{before} meters");
        for guard in &guards {
            for number in 0..10 {
                let answer = chat_of(guard, &key, &format!("late-{number}")).await;
                assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
            }
            for known in ["ann", "other-7"] {
                let answer = chat_of(guard, &key, known).await;
                assert_eq!(answer.status, StatusCode::OK, "{known} has a meter: {answer:?}");
            }
        }
        assert_eq!(rows(), before, "a request that is refused makes no meter");
        let settled = "SELECT settled > 1 AND held = 0 FROM meter WHERE subject = 'other-7'";
        let clock = Clock::default();
        while cluster.postgres.ask(settled) != "t" {
            assert!(clock.running() < Duration::from_secs(20), "what other-7 has spent is not written");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
}

#[test]
fn meters_are_left_for_later_without_a_warning_while_a_report_has_the_only_connection() {
    run(async {
        let cluster =
            Cluster::new(&format!("{PER_USER}[storage]\nconnections_max = 6\nconnect_timeout = \"1s\"\n"));
        let guard = cluster.serve();
        let locked = cluster.postgres.hold("LOCK TABLE rollup", 8);
        let waiting = async {
            while cluster.postgres.ask("SELECT count(*) FROM pg_locks WHERE NOT granted") == "0" {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            tokio::time::sleep(Duration::from_secs(4)).await;
            guard.process.log()
        };
        let (_, log) = tokio::join!(
            guard.ask(Method::GET, "/guard/v1/usage?group_by=user&since=2026-01-01", None),
            waiting
        );
        assert!(!log.contains("meters_not_counted"), "{log}");
        drop(locked);
    });
}

/// Each meter that is removed takes a while.
const SLOW: &str = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.002); RETURN \
                    OLD; END $$; CREATE TRIGGER slow BEFORE DELETE ON meter FOR EACH ROW EXECUTE FUNCTION slow()";

#[test]
fn a_limit_that_is_removed_keeps_no_request_waiting_for_its_meters_and_none_of_them_counts_again() {
    run(async {
        let (cluster, guard, key) = called().await;
        let path = "/guard/v1/limits/calls";
        let rule = json!({ "per": "user", "unit": "requests", "window": "month", "hard": "100000" });
        guard.ask(Method::PUT, path, Some(rule.clone())).await;
        let rows = || cluster.postgres.ask("SELECT count(*) FROM meter WHERE limit_name = 'calls'");
        let many = || {
            cluster.postgres.ask(
                "INSERT INTO meter SELECT limit_name, 'other-' || n, start_s, end_s, 1, 0 FROM meter, \
                 generate_series(1, 2500) AS n WHERE limit_name = 'calls' AND subject = 'ann'",
            )
        };
        many();
        cluster.postgres.ask(SLOW);
        let clock = Clock::default();
        let removing = async {
            guard.ask(Method::DELETE, path, None).await;
            clock.running()
        };
        let asking = async {
            let mut longest = Duration::ZERO;
            while clock.running() < Duration::from_secs(2) {
                let began = clock.running();
                assert_eq!(chat_of(&guard, &key, "ann").await.status, StatusCode::OK);
                longest = longest.max(clock.running().saturating_sub(began));
            }
            longest
        };
        let (removed, longest) = tokio::join!(removing, asking);
        assert!(removed.max(longest) < Duration::from_millis(1_500), "{removed:?}, a request {longest:?}");
        cluster.postgres.ask("DROP TRIGGER slow ON meter");
        let made = guard.ask(Method::PUT, path, Some(rule)).await;
        assert_eq!(
            (&made["meters_total"], &made["meters"][0]["subject"]),
            (&json!(1), &json!("ann")),
            "{made}"
        );
        assert_eq!(rows(), "1");
        guard.verify().await;
        many();
        guard.ask(Method::DELETE, path, None).await;
        guard.verify().await;
        let clock = Clock::default();
        while rows() != "0" {
            assert!(clock.running() < Duration::from_secs(40), "{} meters of no limit stay", rows());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
}

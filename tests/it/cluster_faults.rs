//! What a database does to its guards: it goes back, stops, freezes, refuses, and ends their
//! connections.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::json;
use spendguard::clock::Clock;

use crate::cluster::{Cluster, ONE_DOLLAR};
use crate::harness::run;
use crate::process::{Place, Serving, refused, served};

/// The tables of version 1, as the first preview made them.
const VERSION_1: [&str; 2] = [
    include_str!("../../src/store/postgres/schema/tables.sql"),
    include_str!("../../src/store/postgres/schema/cluster.sql"),
];

/// Asks until an answer has a status; panics after twenty seconds.
async fn until(guard: &Serving, key: &str, wanted: StatusCode) {
    let began = Clock::default();
    loop {
        let answer = guard.chat(key, &[], json!({})).await;
        if answer.status == wanted {
            return;
        }
        assert!(began.running() < Duration::from_secs(20), "{answer:?}, not {wanted}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[test]
fn a_guard_whose_database_lost_commits_admits_nothing_and_says_so() {
    run(async {
        let cluster = Cluster::new(ONE_DOLLAR);
        let (guard, key) = cluster.spending().await;
        cluster.postgres.crash();
        cluster.postgres.keep_copy();
        cluster.postgres.again();
        until(&guard, &key, StatusCode::OK).await;
        for _ in 0..5 {
            assert_eq!(guard.chat(&key, &[], json!({})).await.status, StatusCode::OK);
        }
        cluster.postgres.crash();
        cluster.postgres.put_copy_back();
        cluster.postgres.again();
        // It may be a second until it has a connection.
        for _ in 0..60 {
            let answer = guard.chat(&key, &[], json!({})).await;
            assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", guard.process.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(guard.process.log().contains("database_went_back"), "{}", guard.process.log());
        let another = cluster.serve();
        assert_eq!(another.chat(&key, &[], json!({})).await.status, StatusCode::OK);
    });
}

#[test]
fn an_ending_that_the_database_refuses_stays_held_and_is_in_the_way_of_nothing() {
    run(async {
        let cluster = Cluster::new(ONE_DOLLAR);
        let guard = cluster.serve();
        let key = guard.make_key().await;
        cluster.postgres.ask("ALTER TABLE entry ADD CONSTRAINT refused CHECK (model <> 'gpt-4o') NOT VALID");
        let ask = |number: usize| {
            let model = if number.is_multiple_of(5) { "gpt-4o" } else { "gpt-4o-mini" };
            guard.chat(&key, &[], json!({ "model": model, "max_completion_tokens": 10 }))
        };
        let answers = futures_util::future::join_all((0..40).map(ask)).await;
        assert!(answers.iter().all(|answer| answer.status == StatusCode::OK), "{answers:?}");
        let written = || cluster.postgres.ask("SELECT count(*) FROM entry WHERE kind = 'settle'");
        let began = Clock::default();
        while written() != "32" {
            assert!(began.running() < Duration::from_secs(20), "{} endings are written", written());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(cluster.postgres.ask("SELECT count(*) FROM hold"), "8");
        cluster.holds(&guard).await;
        // The last of them may be refused a moment later.
        while guard.process.log().matches("record_not_written").count() < 8 {
            assert!(began.running() < Duration::from_secs(20), "{}", guard.process.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(ask(1).await.status, StatusCode::OK);
    });
}

#[test]
fn an_outage_that_is_longer_than_the_timeout_of_guards_makes_none_give_up_another() {
    run(async {
        let cluster = Cluster::new(ONE_DOLLAR);
        let guards = [cluster.serve(), cluster.serve()];
        let key = guards[0].make_key().await;
        let slow: &[(&str, &str)] = &[("x-fake-latency-ms", "11000")];
        let running = guards.each_ref().map(|guard| guard.chat(&key, slow, json!({})));
        let outage = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            cluster.postgres.crash();
            tokio::time::sleep(Duration::from_secs(7)).await;
            cluster.postgres.again();
        };
        let (answers, ()) = tokio::join!(futures_util::future::join_all(running), outage);
        assert!(answers.iter().all(|answer| answer.status == StatusCode::OK), "{answers:?}");
        cluster.at_rest(&guards[0]).await;
        let (truth, settled, _) = cluster.truth(&guards[1]).await;
        assert_eq!(truth, settled);
        assert_eq!(cluster.postgres.ask("SELECT count(*) FROM entry WHERE basis = 'assumed'"), "0");
        assert_eq!(cluster.postgres.ask("SELECT count(*) FROM node WHERE state = 'alive'"), "2");
    });
}

/// A guard that waits a second for its database, and a key that has spent.
async fn impatient() -> (Cluster, Serving, String) {
    let quick = "[storage]\nconnect_timeout = \"1s\"\nstatement_timeout = \"1s\"\n";
    let cluster = Cluster::new(&format!("{ONE_DOLLAR}{quick}"));
    let guard = cluster.serve();
    let key = guard.make_key().await;
    until(&guard, &key, StatusCode::OK).await;
    (cluster, guard, key)
}

#[test]
fn a_database_that_does_not_answer_is_503_in_time_and_loses_nothing() {
    run(async {
        let (cluster, guard, key) = impatient().await;
        // The database ends a statement that waits too long; one that is frozen says nothing.
        for fault in ["locked", "frozen"] {
            let locked = (fault == "locked")
                .then(|| cluster.postgres.beside("BEGIN;LOCK TABLE spendguard.meter;SELECT pg_sleep(8)"));
            let locks = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted";
            while locked.is_some() && cluster.postgres.ask(locks) == "0" {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            if fault == "frozen" {
                cluster.postgres.signal("STOP");
            }
            let began = Clock::default();
            let answer = guard.chat(&key, &[], json!({})).await;
            assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{fault}: {answer:?}");
            assert!(began.running() < Duration::from_secs(8), "{fault}: {:?}", began.running());
            // Operators get an answer in time, too, whatever it says.
            guard.ask(http::Method::GET, "/guard/v1/nodes", None).await;
            assert!(began.running() < Duration::from_secs(18), "{fault}: {:?}", began.running());
            if fault == "frozen" {
                cluster.postgres.signal("CONT");
            }
            drop(locked);
            until(&guard, &key, StatusCode::OK).await;
        }
        cluster.at_rest(&guard).await;
        let (truth, settled, _) = cluster.truth(&guard).await;
        assert_eq!(truth, settled);
        guard.verify().await;
    });
}

/// Has the next commit of a hold take 6 s, which the database counts as no statement's time.
const SLOW_COMMIT: &str = "CREATE SEQUENCE commits; \
    CREATE FUNCTION commit_slowly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
    IF nextval('spendguard.commits') = 1 THEN PERFORM pg_sleep(6); END IF; RETURN NULL; END $$; \
    CREATE CONSTRAINT TRIGGER slowly AFTER INSERT ON hold DEFERRABLE INITIALLY DEFERRED \
    FOR EACH ROW EXECUTE FUNCTION commit_slowly()";

#[test]
fn a_commit_that_is_silent_is_503_in_time_and_its_hold_is_released_once_it_is_there() {
    run(async {
        let (cluster, guard, key) = impatient().await;
        cluster.at_rest(&guard).await;
        let (served_before, _) = served(&cluster.fake).await;
        cluster.postgres.ask(SLOW_COMMIT);
        let began = Clock::default();
        let answer = guard.chat(&key, &[], json!({})).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
        assert!(began.running() < Duration::from_secs(5), "{:?}", began.running());
        let committed = "SELECT count(*) FROM hold";
        assert_eq!(cluster.postgres.ask(committed), "0", "the commit has not ended yet");
        // It ends as committed: the hold is there, and nothing runs for it.
        until(&guard, &key, StatusCode::OK).await;
        cluster.at_rest(&guard).await;
        assert_eq!(served(&cluster.fake).await.0, served_before + 1);
        let released = "SELECT count(*) FROM entry WHERE kind = 'release'";
        assert_eq!(cluster.postgres.ask(released), "1", "the hold was committed, and released");
        let (truth, settled, _) = cluster.truth(&guard).await;
        assert_eq!(truth, settled);
        guard.verify().await;
    });
}

#[test]
fn connections_that_are_ended_at_any_moment_admit_nothing_twice_and_lose_no_ending() {
    run(async {
        let cluster = Cluster::new(ONE_DOLLAR);
        let guards = [cluster.serve(), cluster.serve()];
        let key = guards[0].make_key().await;
        let (clock, deadline) = (Clock::default(), Duration::from_secs(4));
        let client = |number: usize| {
            let (guard, key, clock) = (&guards[number % 2], &key, &clock);
            async move {
                let mut answered = 0;
                while clock.running() < deadline {
                    let answer = guard.chat(key, &[], json!({ "max_completion_tokens": 5 })).await;
                    match answer.status {
                        StatusCode::OK => answered += 1,
                        StatusCode::SERVICE_UNAVAILABLE => {}
                        status => panic!("{status}: {answer:?}"),
                    }
                }
                answered
            }
        };
        let work = futures_util::future::join_all((0..16).map(client));
        let ends = async {
            while clock.running() < deadline {
                cluster.postgres.ask(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'spendguard' \
                     AND pid <> pg_backend_pid() AND state <> 'idle'",
                );
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        };
        let (answered, ()) = tokio::join!(work, ends);
        let answered: u64 = answered.into_iter().sum();
        assert!(answered > 50, "{answered} were answered");
        until(&guards[0], &key, StatusCode::OK).await;
        until(&guards[1], &key, StatusCode::OK).await;
        cluster.at_rest(&guards[0]).await;
        let (truth, settled, _) = cluster.truth(&guards[0]).await;
        assert_eq!(truth, settled, "every answer is written once");
        guards[1].verify().await;
    });
}

#[test]
fn a_schema_of_an_older_version_is_brought_up_to_date_by_the_first_of_several_guards() {
    run(async {
        let cluster = Cluster::new(ONE_DOLLAR);
        cluster.postgres.sql("spendguard", "CREATE SCHEMA spendguard");
        for tables in VERSION_1 {
            cluster.postgres.ask(tables);
        }
        cluster.postgres.ask(
            "INSERT INTO node (name, version, since_ms, seen_ms, state) VALUES \
             ('old', '0.1.0', 1, CAST(extract(epoch FROM now()) * 1000 AS BIGINT), 'alive')",
        );
        let said = refused(cluster.command());
        assert!(said.contains("a guard named \"old\" of an older version"), "{said}");
        assert_eq!(cluster.postgres.ask("SELECT version FROM schema_version"), "1");
        cluster.postgres.ask("UPDATE node SET seen_ms = 1");
        let guards: Vec<Serving> = (0..2).map(|_| cluster.serve()).collect();
        let key = guards[0].make_key().await;
        for guard in &guards {
            assert_eq!(guard.chat(&key, &[], json!({})).await.status, StatusCode::OK);
        }
        assert_eq!(cluster.postgres.ask("SELECT version FROM schema_version"), "7");
        cluster.at_rest(&guards[1]).await;
        guards[1].verify().await;
    });
}

#[test]
fn a_connection_is_encrypted_and_a_certificate_that_is_not_for_it_is_refused_with_a_remedy() {
    run(async {
        let cluster = Cluster::new(ONE_DOLLAR);
        let made = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
        cluster.postgres.encrypt(&made.cert.pem(), &made.signing_key.serialize_pem());
        let trusted = cluster.place.folder.path().join("ca.pem");
        std::fs::write(&trusted, made.cert.pem()).unwrap();
        let url = |host: &str, more: &str| {
            cluster.postgres.url().replace("127.0.0.1", host) + "?sslmode=verify-full" + more
        };
        let command = |url: String| {
            let mut command = cluster.command();
            command.env("DATABASE_URL", url);
            command
        };
        let trusting = format!("&sslrootcert={}", trusted.display());
        for (host, more) in [("localhost", ""), ("127.0.0.1", &*trusting)] {
            let said = refused(command(url(host, more)));
            assert!(said.contains("certificate") && said.contains("sslrootcert="), "{said}");
        }
        let guard = Place::serve_by(command(url("localhost", &trusting)));
        let key = guard.make_key().await;
        assert_eq!(guard.chat(&key, &[], json!({})).await.status, StatusCode::OK);
        let plain = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                     WHERE datname = 'spendguard' AND pid <> pg_backend_pid() AND NOT ssl";
        assert_eq!(cluster.postgres.ask(plain), "0");
    });
}

#[test]
fn a_report_that_found_entries_locked_leaves_its_connection_usable() {
    run(async {
        let (cluster, guard, key) = impatient().await;
        let locked = cluster.postgres.hold("LOCK TABLE entry", 6);
        for _ in 0..2 {
            guard.ask(Method::GET, "/guard/v1/limits", None).await;
        }
        drop(locked);
        until(&guard, &key, StatusCode::OK).await;
        for _ in 0..4 {
            guard.verify().await;
        }
    });
}

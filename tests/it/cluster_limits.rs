//! Limits that come into force on a ledger with a long past, which several guards share.

use std::cell::Cell;
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use spendguard::clock::Clock;

use crate::cluster::Cluster;
use crate::harness::run;
use crate::process::Serving;

const CONFIG: &str =
    "[cluster]\nnode_timeout = \"5s\"\n[guard]\nhold_wait = \"0s\"\nwhen_tight = \"reject\"\n";

impl Cluster {
    /// Gives the ledger a past, as that many end users would have written it in this quarter of an
    /// hour, each by one request.
    fn add_past(&self, users: u64) {
        let tokens = "cached_input, cache_write, cache_write_12h, audio_input, audio_cached_input, image_input, \
                      image_cached_input, output, reasoning, audio_output, image_output";
        let zeros = "0, ".repeat(11);
        let names = "'default', 'key_past', 'user-' || id, '', '/v1/chat/completions', 'gpt-4o-mini', 'gpt-4o-mini', ''";
        let columns = "project, api_key, end_user, tags, endpoint, model, priced_as, served_model";
        let now_s = "CAST(floor(extract(epoch FROM now()) / 900) * 900 AS BIGINT)";
        let ids = format!("generate_series(nextval('entry_id'), nextval('entry_id') + {users}) AS ids (id)");
        self.postgres.ask(&format!(
            "INSERT INTO entry (id, kind, created_ms, admitted_ms, {columns}, tier, basis, cost_nano, tool_fees_nano, \
             held_nano, held_input, held_output, input, {tokens}, price_version, status, duration_ms, stream, disconnected) \
             SELECT id, 'settle', {now_s} * 1000, {now_s} * 1000, {names}, 'default', 'reported', id, 0, id, 0, 0, 0, \
             {zeros} 'past', 200, 0, 0, 0 FROM {ids}; \
             SELECT setval('entry_id', (SELECT max(id) FROM entry)); \
             INSERT INTO rollup (start_s, {columns}, requests, cost_nano, input, {tokens}, last_ms) \
             SELECT {now_s}, {columns}, 1, cost_nano, input, {tokens}, admitted_ms FROM entry \
             WHERE price_version = 'past' ON CONFLICT DO NOTHING"
        ));
    }

    /// What the meters of a limit lack of the sums and of the open holds, in nano-dollars.
    fn lacking(&self, limit: &str) -> String {
        self.postgres.ask(&format!(
            "SELECT (SELECT SUM(cost_nano) FROM rollup) - SUM(settled), \
             (SELECT COALESCE(SUM(cost_nano), 0) FROM hold) - SUM(held) FROM meter WHERE limit_name = '{limit}'"
        ))
    }
}

fn rule(per: &str) -> Value {
    json!({ "per": per, "unit": "usd", "window": "month", "hard": "100000", "soft": ["1"] })
}

/// Sends requests one after another, until it is stopped. Returns the longest time that one took.
async fn load(guard: &Serving, key: &str, stop: &Cell<bool>) -> Duration {
    let (clock, mut longest) = (Clock::default(), Duration::ZERO);
    while !stop.get() {
        let began = clock.running();
        let answer = guard.chat(key, &[("x-fake-completion-tokens", "100")], json!({ "user": "live" })).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        longest = longest.max(clock.running().saturating_sub(began));
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    longest
}

#[test]
fn requests_and_revocations_go_on_while_new_limits_learn_their_past_and_each_ending_is_counted_once() {
    run(async {
        let cluster = Cluster::new(CONFIG);
        let (a, b) = (cluster.serve(), cluster.serve());
        cluster.add_past(30_000);
        let key = a.make_key().await;
        let revoked = a.ask(Method::POST, "/guard/v1/keys", Some(json!({ "name": "revoked" }))).await;
        let (stop, clock) = (Cell::new(false), Clock::default());
        // These are open when the past begins to be added up, and end before and after that.
        let slow = async |ms: &str| a.chat(&key, &[("x-fake-latency-ms", ms)], json!({})).await.status;
        let changes = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let began = clock.running();
            let put = async |guard: &Serving, name: &str, per| {
                guard.ask(Method::PUT, &format!("/guard/v1/limits/{name}"), Some(rule(per))).await;
                // Before anything else is written, and while requests go on.
                for _ in 0..3 {
                    assert_eq!(cluster.lacking(name), "0|0", "{name}");
                }
                clock.running().saturating_sub(began)
            };
            let revoking = async {
                tokio::time::sleep(Duration::from_millis(500)).await;
                let began = clock.running();
                let id = revoked["id"].as_str().unwrap();
                b.ask(Method::DELETE, &format!("/guard/v1/keys/{id}"), None).await;
                let took = clock.running().saturating_sub(began);
                let answer = a.chat(revoked["value"].as_str().unwrap(), &[], json!({})).await;
                assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
                // A correction lands in the past that is being added up.
                let first = cluster.postgres.ask("SELECT min(id) FROM entry");
                let correction = json!({ "amount_usd": "0.5", "note": "more" });
                b.ask(Method::POST, &format!("/guard/v1/ledger/ent_{first}/adjust"), Some(correction)).await;
                took
            };
            let took = tokio::join!(put(&a, "all", "organization"), put(&b, "each", "project"), revoking);
            tokio::time::sleep(Duration::from_millis(500)).await;
            stop.set(true);
            took
        };
        let loads = futures_util::future::join_all((0..4).map(|at| {
            let guard = if at % 2 == 0 { &a } else { &b };
            load(guard, &key, &stop)
        }));
        let (longest, (all, each, revoking), statuses) =
            tokio::join!(loads, changes, futures_util::future::join_all(["1500", "3000", "6000"].map(slow)));
        assert_eq!(statuses, [StatusCode::OK; 3]);
        println!("limits {all:?} and {each:?}, a revocation {revoking:?}, requests {longest:?}");
        let least = all.min(each);
        assert!(least > Duration::from_millis(500), "the past is added up in {least:?}, which says nothing");
        assert!(longest.iter().all(|longest| *longest < least / 2), "{longest:?} of {least:?}");
        assert!(revoking < least / 2, "a revocation takes {revoking:?} of {least:?}");
        for limit in ["all", "each"] {
            cluster.at_rest(&a).await;
            assert_eq!(cluster.lacking(limit), "0|0", "{limit}");
        }
        b.verify().await;
    });
}

#[test]
fn what_was_written_while_a_past_was_added_up_is_added_without_keeping_changes_waiting() {
    run(async {
        let cluster = Cluster::new(CONFIG);
        let (a, b) = (cluster.serve(), cluster.serve());
        cluster.add_past(1_000);
        // The sum is of an instant before this lock, and is not done until it is released.
        let locked = cluster.postgres.hold("LOCK TABLE job", 60);
        let (clock, is_done) = (Clock::default(), Cell::new(false));
        let putting = async {
            a.ask(Method::PUT, "/guard/v1/limits/all", Some(rule("organization"))).await;
            is_done.set(true);
            clock.running()
        };
        let revoking = async {
            let waiting = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%SELECT hold_id FROM job%' AND \
                           wait_event_type = 'Lock'";
            while cluster.postgres.ask(waiting).is_empty() {
                assert!(clock.running() < Duration::from_secs(20), "nothing is added up");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            cluster.add_past(100_000);
            cluster
                .postgres
                .ask("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE mode = 'AccessExclusiveLock'");
            let (began, mut longest) = (clock.running(), Duration::ZERO);
            while !is_done.get() {
                let key = b.ask(Method::POST, "/guard/v1/keys", Some(json!({ "name": "short" }))).await;
                let path = format!("/guard/v1/keys/{}", key["id"].as_str().unwrap());
                let began = clock.running();
                b.ask(Method::DELETE, &path, None).await;
                longest = longest.max(clock.running().saturating_sub(began));
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            (began, longest)
        };
        let (ended, (began, longest)) = tokio::join!(putting, revoking);
        drop(locked);
        assert_eq!(cluster.lacking("all"), "0|0");
        let took = ended.saturating_sub(began);
        println!("the limit {took:?}, the longest revocation {longest:?}");
        assert!(took > Duration::from_secs(1), "the rest is added in {took:?}, which says nothing");
        assert!(longest < took / 4, "a revocation takes {longest:?} of {took:?}");
    });
}

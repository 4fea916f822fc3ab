//! Entries in PostgreSQL are in a partition for each month.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use spendguard::clock::Clock;

use crate::cluster::Cluster;
use crate::harness::run;
use crate::process::Serving;

pub(crate) const CONFIG: &str = "[[limit]]\nname = \"all\"\nwindow = \"total\"\nhard = 100\n\
                      [[limit]]\nname = \"users\"\nper = \"user\"\nunit = \"tokens\"\nwindow = \"month\"\nhard = 1000000\n\
                      [cluster]\nnode_timeout = \"5s\"\n[guard]\nhold_wait = \"0s\"\nwhen_tight = \"reject\"\n";

/// The partitions of entries, in the order of their names.
pub(crate) const PARTITIONS: &str = "SELECT string_agg(CAST(inhrelid AS regclass)::text, ' ' ORDER BY CAST(inhrelid AS regclass)::text) \
     FROM pg_inherits WHERE inhparent = CAST('entry' AS regclass)";

/// The name of the partition of a month that is so many months from now.
pub(crate) fn month(cluster: &Cluster, from_now: i32) -> String {
    let month = format!("date_trunc('month', now() AT TIME ZONE 'UTC') + interval '{from_now} months'");
    cluster.postgres.ask(&format!("SELECT 'entry_' || to_char({month}, 'YYYY_MM')"))
}

/// Waits until a statement has an answer; panics after twenty seconds.
pub(crate) async fn until(cluster: &Cluster, statement: &str, wanted: &str) {
    let began = Clock::default();
    while cluster.postgres.ask(statement) != wanted {
        assert!(
            began.running() < Duration::from_secs(20),
            "{statement}: {}, not {wanted}",
            cluster.postgres.ask(statement)
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What a ledger shows of its past.
async fn shown(guard: &Serving) -> Vec<Value> {
    let mut all = Vec::new();
    for path in [
        "/guard/v1/ledger?limit=1000",
        "/guard/v1/usage?group_by=user&since=2026-01-01",
        "/guard/v1/usage?group_by=day&since=2026-01-01",
        "/guard/v1/limits",
        "/guard/v1/credits",
    ] {
        let answer = guard.ask(Method::GET, path, None).await;
        assert!(answer.get("error").is_none(), "{path}: {answer}");
        all.push(answer);
    }
    all
}

impl Cluster {
    /// Makes the partitions of some months that are over.
    pub(crate) fn with_past_months(&self, months: std::ops::Range<i32>) {
        for ago in months {
            let start = |ago: i32| {
                let first =
                    format!("date_trunc('month', now() AT TIME ZONE 'UTC') - interval '{ago} months'");
                self.postgres.ask(&format!("SELECT CAST(extract(epoch FROM {first}) * 1000 AS BIGINT)"))
            };
            self.postgres.ask(&format!(
                "CREATE TABLE {} PARTITION OF entry FOR VALUES FROM ({}) TO ({})",
                month(self, -ago),
                start(ago),
                start(ago - 1)
            ));
        }
    }

    /// As if all that was admitted until now had been pruned.
    pub(crate) fn with_all_pruned(&self) {
        self.postgres.ask(
            "INSERT INTO pruned (id, before_s, entries, last_id, latest_ms, requests, cost_nano, tokens) \
             SELECT 1, CAST(extract(epoch FROM now()) AS BIGINT), 0, 0, 0, 0, 0, 0",
        );
    }

    /// Makes entries of this month and the next two be in the default partition, as if no guard had
    /// run for months.
    pub(crate) fn without_months(&self) -> [String; 3] {
        let names = [0, 1, 2].map(|from_now| month(self, from_now));
        let [now, next, later] = &names;
        self.postgres.ask(&format!(
            "BEGIN; ALTER TABLE entry DETACH PARTITION {now}; INSERT INTO entry SELECT * FROM {now}; DROP TABLE {now}; \
             DROP TABLE {next}; DROP TABLE {later}; COMMIT"
        ));
        names
    }

    /// Repeats the endings and sums of today in each of three months that are over, 90 to 150 days
    /// ago, while no guard runs. The next guard makes the meters of limits of them.
    pub(crate) fn repeat_in_the_past(&self) {
        let columns = |table: &str, but: &str| {
            self.postgres.ask(&format!(
                "SELECT string_agg(column_name, ', ') FROM information_schema.columns \
                 WHERE table_schema = 'spendguard' AND table_name = '{table}' AND column_name NOT IN ({but})"
            ))
        };
        let of_entry = columns("entry", "'id', 'created_ms', 'admitted_ms'");
        let of_sum = columns("rollup", "'start_s', 'last_ms'");
        for days in [90, 120, 150] {
            let (s, ms) = (days * 86_400, days * 86_400_000_i64);
            self.postgres.ask(&format!(
                "INSERT INTO rollup (start_s, last_ms, {of_sum}) SELECT start_s - {s}, last_ms - {ms}, {of_sum} \
                 FROM rollup WHERE start_s > extract(epoch FROM now()) - 86400; \
                 INSERT INTO entry (id, created_ms, admitted_ms, {of_entry}) SELECT nextval('entry_id'), \
                 created_ms - {ms}, admitted_ms - {ms}, {of_entry} FROM entry \
                 WHERE admitted_ms > (extract(epoch FROM now()) - 86400) * 1000 AND kind IN ('settle', 'release')"
            ));
        }
        self.postgres.ask("DELETE FROM active_limit; DELETE FROM meter");
    }
}

/// Three requests, of a key.
pub(crate) async fn spent(cluster: &Cluster, guard: &Serving) -> String {
    let key = guard.make_key().await;
    for user in ["anna", "ben", "anna"] {
        let answer = guard.chat(&key, &[], json!({ "user": user })).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    }
    cluster.at_rest(guard).await;
    key
}

/// Partitions as `PARTITIONS` lists them: the default one and these.
pub(crate) fn with_default(names: &[String]) -> String {
    let mut names: Vec<&str> = names.iter().map(String::as_str).chain(["entry_default"]).collect();
    names.sort_unstable();
    names.join(" ")
}

#[test]
fn months_are_made_before_they_begin_by_whichever_guard_finds_one_missing() {
    run(async {
        let cluster = Cluster::new(CONFIG);
        let guard = cluster.serve();
        let names = [0, 1, 2].map(|from_now| month(&cluster, from_now));
        assert_eq!(cluster.postgres.ask(PARTITIONS), with_default(&names));
        let key = spent(&cluster, &guard).await;
        let now = &names[0];
        assert_eq!(cluster.postgres.ask(&format!("SELECT count(*) FROM {now}")), "3");
        cluster.without_months();
        assert_eq!(guard.chat(&key, &[], json!({})).await.status, StatusCode::OK);
        cluster.at_rest(&guard).await;
        // Those without a month of their own are in the default partition, unless this guard has found that already.
        assert_eq!(cluster.postgres.ask("SELECT count(*) FROM entry"), "4");
        guard.verify().await;
        let before = shown(&guard).await;
        let others = [cluster.serve(), cluster.serve()];
        // While rows move, each is seen once.
        let began = Clock::default();
        while cluster.postgres.ask(PARTITIONS) != with_default(&names) {
            assert!(began.running() < Duration::from_secs(20), "{}", cluster.postgres.ask(PARTITIONS));
            for _ in 0..20 {
                assert_eq!(before, shown(&guard).await);
            }
        }
        assert_eq!(cluster.postgres.ask("SELECT count(*) FROM entry_default"), "0");
        assert_eq!(cluster.postgres.ask(&format!("SELECT count(*) FROM {now}")), "4");
        assert_eq!(before, shown(&others[0]).await);
        assert_eq!(guard.chat(&key, &[], json!({})).await.status, StatusCode::OK, "{}", guard.process.log());
        others[1].verify().await;
        for guard in others.iter().chain([&guard]) {
            assert!(!guard.process.log().contains("months_not_kept"), "{}", guard.process.log());
        }
    });
}

#[test]
fn an_entry_of_a_month_without_a_partition_counts_like_any_other() {
    run(async {
        let cluster = Cluster::new(CONFIG);
        let guard = cluster.serve();
        spent(&cluster, &guard).await;
        let settled = guard.meter("all").await.0;
        guard.stop();
        cluster.repeat_in_the_past();
        assert_eq!(cluster.postgres.ask("SELECT count(*) FROM entry_default"), "9");
        let guard = cluster.serve();
        assert_eq!(guard.meter("all").await.0, settled + settled + settled + settled);
        let usage = guard.ask(Method::GET, "/guard/v1/usage?group_by=user&since=2026-01-01", None).await;
        let rows = usage["data"].as_array().unwrap();
        assert_eq!(rows.iter().map(|row| row["requests"].as_u64().unwrap()).sum::<u64>(), 12, "{usage:#}");
        let ledger = guard.ask(Method::GET, "/guard/v1/ledger?kind=settle&limit=1000", None).await;
        assert_eq!(ledger["data"].as_array().unwrap().len(), 12, "{ledger:#}");
        guard.verify().await;
    });
}

#[test]
fn no_hold_ends_twice_and_no_id_is_there_twice_unnoticed() {
    run(async {
        let cluster = Cluster::new(CONFIG);
        let guard = cluster.serve();
        spent(&cluster, &guard).await;
        let columns = cluster.postgres.ask(
            "SELECT string_agg(column_name, ', ') FROM information_schema.columns WHERE table_name = 'entry' \
             AND table_schema = 'spendguard' AND column_name NOT IN ('id', 'admitted_ms')",
        );
        let again = |by_ms: i64| {
            format!(
                "INSERT INTO entry (id, admitted_ms, {columns}) SELECT id, admitted_ms - {by_ms}, {columns} FROM entry \
                 WHERE kind = 'settle' ORDER BY id LIMIT 1 ON CONFLICT DO NOTHING RETURNING id"
            )
        };
        // The second ending of a hold has the time of its admission, as the first has.
        assert_eq!(cluster.postgres.ask(&again(0)), "");
        // What no guard writes is seen.
        let id = cluster.postgres.ask(&again(40 * 86_400_000));
        let verified = guard.ask(Method::GET, "/guard/v1/ledger/verify", None).await;
        let said = format!("2 entries have the id ent_{id}");
        assert!(verified["ok"] == false && verified.to_string().contains(&said), "{verified:#}");
    });
}

#[test]
fn a_month_that_was_pruned_goes_and_what_stays_of_it_moves() {
    run(async {
        let cluster = Cluster::new(CONFIG);
        let guard = cluster.serve();
        let key = spent(&cluster, &guard).await;
        guard.stop();
        cluster.with_past_months(1..7);
        cluster.repeat_in_the_past();
        let guard = cluster.serve();
        let granted = guard.ask(Method::POST, "/guard/v1/credits", Some(json!({ "amount_usd": "5" }))).await;
        assert!(granted.get("error").is_none(), "{granted}");
        // As if it were one of the first of these months. Grants are never pruned.
        cluster.postgres.ask(
            "UPDATE entry SET admitted_ms = (SELECT min(admitted_ms) FROM entry) WHERE kind = 'grant'; \
             UPDATE entry SET created_ms = admitted_ms WHERE kind = 'grant'",
        );
        let before = guard.meter("all").await;
        // A long report is in the way; a guard that finds it there delays nothing.
        let report = cluster.postgres.hold("SELECT count(*) FROM entry", 8);
        let before_day = "SELECT to_char(now() AT TIME ZONE 'UTC' - interval '80 days', 'YYYY-MM-DD')";
        let prune = json!({ "before": cluster.postgres.ask(before_day) });
        let pruned = guard.ask(Method::POST, "/guard/v1/storage/prune", Some(prune)).await;
        assert_eq!(pruned["entries"], 9, "{pruned:#}");
        let all: Vec<String> = (-6..=2).map(|from_now| month(&cluster, from_now)).collect();
        // The last month that has something which was pruned is not known to be pruned to its end.
        let last = "SELECT 'entry_' || to_char(now() AT TIME ZONE 'UTC' - interval '90 days', 'YYYY_MM')";
        let last = cluster.postgres.ask(last);
        let left: Vec<String> = all.iter().filter(|name| **name >= last).cloned().collect();
        assert!(left.len() < all.len(), "{left:?}");
        let other = cluster.serve();
        let began = Clock::default();
        while began.running() < Duration::from_secs(2) {
            let asked = began.running();
            assert_eq!(other.chat(&key, &[], json!({})).await.status, StatusCode::OK);
            let took = began.running().saturating_sub(asked);
            assert!(took < Duration::from_secs(1), "{took:?}");
        }
        assert_eq!(cluster.postgres.ask(PARTITIONS), with_default(&all));
        drop(report);
        let last = cluster.serve();
        until(&cluster, PARTITIONS, &with_default(&left)).await;
        assert_eq!(cluster.postgres.ask("SELECT count(*), min(kind) FROM entry_default"), "1|grant");
        cluster.at_rest(&last).await;
        assert!(last.meter("all").await.0 > before.0, "what was pruned still counts");
        last.verify().await;
        for guard in [&guard, &other, &last] {
            assert!(!guard.process.log().contains("months_not_kept"), "{}", guard.process.log());
        }
    });
}

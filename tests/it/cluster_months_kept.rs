//! Partitions of entries that are made and removed while others are in the way.

use std::time::Duration;

use spendguard::clock::Clock;

use crate::cluster::Cluster;
use crate::cluster_months::{CONFIG, PARTITIONS, month, spent, until, with_default};
use crate::harness::run;
use crate::process::Serving;

/// Waits until a guard has logged a text; panics after twenty seconds.
async fn until_logged(guard: &Serving, text: &str) {
    let began = Clock::default();
    while !guard.process.log().contains(text) {
        assert!(began.running() < Duration::from_secs(20), "no {text}: {}", guard.process.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn entries_in_use_are_waited_for_once_however_many_months_were_pruned() {
    run(async {
        let cluster = Cluster::new(CONFIG);
        cluster.serve().stop();
        cluster.with_past_months(1..13);
        cluster.with_all_pruned();
        cluster.postgres.log_statements();
        let report = cluster.postgres.hold("SELECT count(*) FROM entry", 8);
        let guard = cluster.serve();
        tokio::time::sleep(Duration::from_secs(5)).await;
        let tried = "statement: LOCK TABLE ONLY entry IN ACCESS EXCLUSIVE MODE";
        assert_eq!(cluster.postgres.logged(tried), 1);
        drop(report);
        let _next = cluster.serve();
        let left = [0, 1, 2].map(|from_now| month(&cluster, from_now));
        until(&cluster, PARTITIONS, &with_default(&left)).await;
        assert!(!guard.process.log().contains("months_not_kept"), "{}", guard.process.log());
    });
}

#[test]
fn a_month_that_another_guard_removes_at_the_same_time_is_no_fault() {
    run(async {
        let cluster = Cluster::new(CONFIG);
        cluster.serve().stop();
        cluster.with_past_months(1..4);
        cluster.with_all_pruned();
        let guard = cluster.serve();
        let first = month(&cluster, -3);
        let removed = format!("ALTER TABLE entry DETACH PARTITION {first}; DROP TABLE {first}");
        drop(cluster.postgres.hold(&removed, 3));
        let next = cluster.serve();
        let left = [0, 1, 2].map(|from_now| month(&cluster, from_now));
        until(&cluster, PARTITIONS, &with_default(&left)).await;
        for guard in [&guard, &next] {
            assert!(!guard.process.log().contains("months_not_kept"), "{}", guard.process.log());
        }
    });
}

/// What `docs/many-guards.md` says to run to move a month, for one of these names instead of
/// November 2026.
fn move_as_documented(month: &str, next: &str) -> String {
    let documented = include_str!("../../docs/many-guards.md").split_once("```sql\nBEGIN;").unwrap().1;
    let statements = documented.split_once("```").unwrap().0;
    let day = |month: &str| month.replace("entry_", "").replace('_', "-") + "-01";
    let named = statements.replace("entry_2026_11", month);
    // Both at once: one of them may be what stands for the other.
    let dated = named.replace("2026-12-01", "{next}").replace("2026-11-01", &day(month));
    format!("BEGIN;{}", dated.replace("{next}", &day(next)))
}

#[test]
fn a_month_with_too_many_entries_to_move_stays_where_it_is_and_the_log_says_so() {
    run(async {
        let cluster = Cluster::new(CONFIG);
        let guard = cluster.serve();
        spent(&cluster, &guard).await;
        guard.stop();
        let [now, next, later] = cluster.without_months();
        let columns = cluster.postgres.ask(
            "SELECT string_agg(column_name, ', ') FROM information_schema.columns \
             WHERE table_schema = 'spendguard' AND table_name = 'entry' AND column_name <> 'id'",
        );
        cluster.postgres.ask(&format!(
            "INSERT INTO entry (id, {columns}) SELECT nextval('entry_id'), {columns} \
             FROM (SELECT * FROM entry LIMIT 1) AS one, generate_series(1, 25000)"
        ));
        let guard = cluster.serve();
        until(&cluster, PARTITIONS, &with_default(&[next.clone(), later.clone()])).await;
        until_logged(&guard, "months_not_kept").await;
        let log = guard.process.log();
        assert!(log.contains(&now) && log.contains("more than 20000 rows"), "{log}");
        assert_eq!(cluster.postgres.ask("SELECT count(*) FROM entry_default"), "25003");
        guard.stop();
        cluster.postgres.sql("spendguard", &move_as_documented(&now, &next));
        assert_eq!(cluster.postgres.ask(PARTITIONS), with_default(&[now.clone(), next, later]));
        assert_eq!(cluster.postgres.ask(&format!("SELECT count(*) FROM ONLY {now}")), "25003");
        assert_eq!(cluster.postgres.ask("SELECT count(*) FROM entry_default"), "0");
    });
}

#[test]
fn a_month_that_is_needed_soon_and_cannot_be_made_is_logged_and_a_later_one_is_not() {
    run(async {
        let cluster = Cluster::new(CONFIG);
        cluster.serve().stop();
        for (from_now, is_logged) in [(2, false), (1, true)] {
            cluster.postgres.ask(&format!("DROP TABLE {}", month(&cluster, from_now)));
            let report = cluster.postgres.hold("SELECT count(*) FROM entry", 6);
            let guard = cluster.serve();
            tokio::time::sleep(Duration::from_secs(4)).await;
            let log = guard.process.log();
            assert_eq!(log.contains("months_not_kept"), is_logged, "{log}");
            assert_eq!(log.contains(&month(&cluster, from_now)), is_logged, "{log}");
            drop(report);
        }
    });
}

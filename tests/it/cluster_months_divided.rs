//! Entries of version 3, in one table, are divided by months at the start of the next version.

use std::time::Duration;

use http::StatusCode;
use serde_json::json;

use crate::cluster::Cluster;
use crate::cluster_months::{CONFIG, spent};
use crate::harness::run;
use crate::process::refused;

/// The tables of version 3, as the previous preview made them.
const VERSION_3: [&str; 4] = [
    include_str!("../../src/store/postgres/schema/tables.sql"),
    include_str!("../../src/store/postgres/schema/cluster.sql"),
    include_str!("../../src/store/postgres/schema/rates.sql"),
    include_str!("../../src/store/postgres/schema/turns.sql"),
];

/// What entries hold.
const SUM: &str = "SELECT count(*), sum(hashtextextended(CAST(entry AS text), 0)) FROM entry";

/// A ledger of version 3 after some requests, on which a guard of it works, and a key.
async fn of_version_3() -> (Cluster, String) {
    let cluster = Cluster::new(CONFIG);
    // Rows as guards write them, put into tables of version 3.
    let guard = cluster.serve();
    let key = spent(&cluster, &guard).await;
    guard.stop();
    cluster.repeat_in_the_past();
    cluster.postgres.sql("spendguard", "ALTER SCHEMA spendguard RENAME TO made; CREATE SCHEMA spendguard");
    for tables in VERSION_3 {
        cluster.postgres.ask(tables);
    }
    // Version 3 has no such column yet.
    cluster.postgres.ask("ALTER TABLE made.object DROP COLUMN batch_input");
    let tables = cluster.postgres.sql(
        "spendguard",
        "SELECT tablename FROM pg_tables WHERE schemaname = 'made' AND tablename NOT LIKE 'entry\\_%' \
         AND tablename NOT IN ('job', 'stop')",
    );
    for table in tables.lines() {
        cluster.postgres.ask(&format!(
            "DELETE FROM {table}; INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM made.{table}"
        ));
    }
    cluster.postgres.ask(
        "UPDATE schema_version SET version = 3; SELECT setval('entry_id', (SELECT last_value FROM made.entry_id)); \
         INSERT INTO node (epoch, name, version, since_ms, seen_ms, state) VALUES \
         (7, 'old', '0.1.0', 1, CAST(extract(epoch FROM now()) * 1000 AS BIGINT) + 3600000, 'alive')",
    );
    (cluster, key)
}

impl Cluster {
    /// As if the guard of version 3 had been silent for long.
    fn without_old_guard(&self) {
        self.postgres.ask("UPDATE node SET seen_ms = 1 WHERE name = 'old'");
    }
}

#[test]
fn a_schema_with_one_table_of_entries_is_divided_and_says_the_same_as_before() {
    run(async {
        let (cluster, key) = of_version_3().await;
        cluster.without_old_guard();
        let before = cluster.postgres.ask(SUM);
        let guards = [cluster.serve(), cluster.serve()];
        assert_eq!(cluster.postgres.ask("SELECT version FROM schema_version"), "7");
        assert_eq!(cluster.postgres.ask(SUM), before, "each row is there as it was");
        assert_eq!(cluster.postgres.ask("SELECT count(*) FROM entry_default"), "0");
        let months = cluster.postgres.ask("SELECT count(DISTINCT tableoid) FROM entry");
        assert!(months.parse::<u32>().unwrap() >= 3, "{months} partitions have entries");
        for guard in &guards {
            assert_eq!(guard.chat(&key, &[], json!({})).await.status, StatusCode::OK);
        }
        cluster.at_rest(&guards[0]).await;
        guards[1].verify().await;
    });
}

#[test]
fn entries_are_not_divided_while_a_guard_of_version_3_runs() {
    run(async {
        let (cluster, key) = of_version_3().await;
        let before = cluster.postgres.ask(SUM);
        let said = refused(cluster.command());
        assert!(said.contains("a guard named \"old\" of an older version"), "{said}");
        assert_eq!(cluster.postgres.ask("SELECT version FROM schema_version"), "3");
        assert_eq!(cluster.postgres.ask(SUM), before);
        cluster.without_old_guard();
        let guard = cluster.serve();
        assert_eq!(guard.chat(&key, &[], json!({})).await.status, StatusCode::OK);
    });
}

#[test]
fn who_was_granted_rights_on_entries_has_them_once_they_are_divided() {
    run(async {
        let (cluster, _) = of_version_3().await;
        cluster.without_old_guard();
        cluster.postgres.ask(
            "CREATE ROLE \"Reader\"; CREATE ROLE lender; CREATE ROLE part; \
             GRANT USAGE ON SCHEMA spendguard TO \"Reader\", lender, part; \
             GRANT SELECT ON ALL TABLES IN SCHEMA spendguard TO \"Reader\"; \
             GRANT SELECT, UPDATE ON entry TO lender WITH GRANT OPTION; \
             GRANT SELECT (id, cost_nano) ON entry TO part; GRANT TRIGGER ON entry TO PUBLIC",
        );
        let rights = "SELECT string_agg(DISTINCT grantee || privilege_type || is_grantable, ' ') \
                      FROM information_schema.column_privileges WHERE table_name = 'entry' AND table_schema = 'spendguard'";
        let public = "SELECT string_agg(grantee || privilege_type || is_grantable, ' ' ORDER BY grantee, privilege_type) \
                      FROM information_schema.table_privileges WHERE table_name = 'entry' AND table_schema = 'spendguard'";
        let before = [rights, public].map(|statement| cluster.postgres.ask(statement));
        let _guard = cluster.serve();
        assert_eq!([rights, public].map(|statement| cluster.postgres.ask(statement)), before);
        let count = cluster.postgres.ask("SELECT count(*) FROM entry");
        for (role, columns) in [("\"Reader\"", "entry.*"), ("lender", "entry.*"), ("part", "id, cost_nano")] {
            let counted =
                format!("SET ROLE {role}; SELECT count(*) FROM (SELECT {columns} FROM entry) AS read");
            assert_eq!(cluster.postgres.ask(&counted), count, "{role}");
        }
    });
}

#[test]
fn a_view_on_entries_is_named_with_what_to_do_and_nothing_is_changed() {
    run(async {
        let (cluster, key) = of_version_3().await;
        cluster.without_old_guard();
        cluster.postgres.ask("CREATE VIEW of_finance AS SELECT api_key, cost_nano FROM entry");
        let before = cluster.postgres.ask(SUM);
        let said = refused(cluster.command());
        assert!(
            said.contains("view of_finance depends on table entry\n") && !said.contains("CASCADE"),
            "{said}"
        );
        assert!(said.contains("drop them, start this spendguard once more, and create them again"), "{said}");
        assert_eq!(cluster.postgres.ask("SELECT version FROM schema_version"), "3");
        assert_eq!(cluster.postgres.ask(SUM), before);
        cluster.postgres.ask("DROP VIEW of_finance");
        let guard = cluster.serve();
        assert_eq!(guard.chat(&key, &[], json!({})).await.status, StatusCode::OK);
        cluster.postgres.ask("CREATE VIEW of_finance AS SELECT api_key, cost_nano FROM entry");
        // It stays, whatever months come and go.
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_ne!(cluster.postgres.ask("SELECT count(*) FROM of_finance"), "0");
    });
}

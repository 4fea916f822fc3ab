//! Old entries are pruned, and everything that is asked of the past afterwards
//! says what it said before, or that its entries are gone.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{Method, StatusCode};
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::explain::{Rule, config, repeat_in_the_past, rules, traffic};
use crate::harness::{ADMIN_TOKEN, House, call, run};
use crate::process::{Place, Process, SPENDGUARD, Serving};

const DAY_S: i64 = 86_400;
const GROUPS: [&str; 7] = ["key", "project", "model", "user", "day", "endpoint", "tag"];

/// A guard with two years of history, and its limits.
struct Kept {
    place: Place,
    guard: Serving,
    rules: Vec<Rule>,
    _folder: tempfile::TempDir,
    _fake: Process,
}

async fn kept(more: &str) -> Kept {
    let house = House::with("[[project]]\nid = \"search\"\nname = \"Search\"\n").await;
    traffic(&house).await;
    let folder = house.close().await;
    let (fake_process, fake) = Process::fake();
    let rules = rules();
    let mut place = Place::new(&fake, &(config(&rules) + more));
    place.data = folder.path().join("data");
    repeat_in_the_past(&Connection::open(place.database()).unwrap());
    let guard = place.serve();
    Kept { place, guard, rules, _folder: folder, _fake: fake_process }
}

/// Everything that limits and usage lists say of the past, but for what names entries.
async fn said(guard: &Serving, rules: &[Rule]) -> BTreeMap<String, Value> {
    let mut said = BTreeMap::new();
    for Rule { name, .. } in rules {
        let mut explained = guard.ask(Method::GET, &format!("/guard/v1/limits/{name}/explain"), None).await;
        assert_eq!(explained["agrees"], true, "{explained:#}");
        for field in ["entries", "entries_total", "pruned"] {
            explained.as_object_mut().unwrap().remove(field);
        }
        said.insert(name.clone(), explained);
    }
    for by in GROUPS {
        let path = format!("/guard/v1/usage?group_by={by}&since=2020-01-01");
        said.insert(by.to_owned(), guard.ask(Method::GET, &path, None).await["data"].clone());
    }
    let path = "/v1/organization/costs?start_time=1700000000&limit=180&group_by=project_id";
    said.insert("costs".to_owned(), guard.ask(Method::GET, path, None).await);
    said
}

async fn prune(guard: &Serving, before_s: i64, dry_run: bool) -> Value {
    let body = json!({ "before": before_s.to_string(), "dry_run": dry_run });
    guard.ask(Method::POST, "/guard/v1/storage/prune", Some(body)).await
}

fn now_s() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn cli(guard: &Serving, arguments: &[&str]) -> (bool, String, String) {
    let done = std::process::Command::new(SPENDGUARD)
        .args(arguments)
        .args(["--admin-url", &format!("http://{}", guard.admin_address)])
        .env("SPENDGUARD_ADMIN_TOKEN", ADMIN_TOKEN)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (done.status.success(), text(done.stdout), text(done.stderr))
}

fn count(db: &Connection, sql: &str) -> i64 {
    db.query_row(sql, [], |row| row.get(0)).unwrap()
}

#[test]
fn after_pruning_limits_usage_and_verification_say_what_they_said_before_and_after_a_restart_too() {
    run(async {
        let Kept { place, guard, rules, _folder, _fake } = Box::pin(kept("")).await;
        let db = Connection::open(place.database()).unwrap();
        let before_s = (now_s() - 6 * DAY_S) / 900 * 900;
        let old = format!("SELECT COUNT(*) FROM entry WHERE admitted_ms < {before_s} * 1000");
        let (expected, oldest) = (said(&guard, &rules).await, count(&db, &old));
        assert!(oldest > 100, "{oldest}");
        let dry = prune(&guard, before_s, true).await;
        assert_eq!((&dry["entries"], &dry["before"]), (&json!(oldest), &json!(before_s)), "{dry}");
        assert_eq!(count(&db, &old), oldest, "a dry run prunes nothing");
        let done = prune(&guard, before_s, false).await;
        assert_eq!((&done["entries"], &done["has_more"]), (&json!(oldest), &json!(false)), "{done}");
        assert_eq!(count(&db, &old), 0);
        let metrics = call(&guard.admin, Method::GET, "/metrics", &[], bytes::Bytes::new()).await.body;
        let counted = format!("spendguard_storage_pruned_entries_total {oldest}\n");
        assert!(String::from_utf8_lossy(&metrics).contains(&counted), "{counted}");
        assert_eq!(said(&guard, &rules).await, expected);
        guard.verify().await;
        let verified = cli(&guard, &["ledger", "verify"]);
        assert!(verified.0 && verified.1.contains(&format!("{oldest} entries before")), "{verified:?}");
        let next = guard.ask(Method::GET, "/guard/v1/ledger?limit=1", None).await["data"][0]["id"].clone();
        let number = |id: &Value| id.as_str().unwrap()[4..].parse::<u64>().unwrap();
        let pruned_id = u64::try_from(count(&db, "SELECT last_id FROM pruned")).unwrap();
        guard.process.kill();
        let guard = place.serve();
        assert_eq!(said(&guard, &rules).await, expected);
        guard.verify().await;
        let key = guard.make_key().await;
        assert_eq!(guard.chat(&key, &[], json!({})).await.status, StatusCode::OK);
        let newest = guard.ask(Method::GET, "/guard/v1/ledger?limit=1", None).await["data"][0]["id"].clone();
        assert!(number(&newest) > pruned_id.max(number(&next)), "{newest} is given a second time");
    });
}

#[test]
fn what_was_pruned_is_named_where_its_entries_are_asked_for() {
    run(async {
        let limit = "[[limit]]\nname = \"all\"\nwindow = \"total\"\nhard = 1000000\n";
        let Kept { place, guard, _folder, _fake, .. } = Box::pin(kept(limit)).await;
        let db = Connection::open(place.database()).unwrap();
        let old = format!(
            "SELECT id FROM entry WHERE kind = 'settle' AND admitted_ms < {} * 1000",
            now_s() - 6 * DAY_S
        );
        let old = format!("ent_{}", count(&db, &old));
        prune(&guard, now_s() - 6 * DAY_S, false).await;
        let explained = guard.ask(Method::GET, "/guard/v1/limits/all/explain", None).await;
        let lost = explained["pruned"]["settled"].as_object().unwrap();
        assert!(!lost.is_empty() && explained["pruned"]["before"].is_i64(), "{explained:#}");
        let explained = cli(&guard, &["limits", "explain", "all"]);
        assert!(explained.0 && explained.1.contains("were pruned; of them are: "), "{explained:?}");
        let body = json!({ "amount_usd": "-0.5", "note": "too late" });
        let refused = guard.ask(Method::POST, &format!("/guard/v1/ledger/{old}/adjust"), Some(body)).await;
        let text = refused["error"]["message"].as_str().unwrap();
        assert!(text.contains("that entry was pruned: entries before 20"), "{refused}");
        let exported = cli(&guard, &["ledger", "export"]);
        assert!(exported.0 && exported.2.contains("were pruned and are not in this export"), "{exported:?}");
        let minutes =
            format!("/v1/organization/usage/completions?start_time={}&bucket_width=1m", now_s() - 9 * DAY_S);
        let refused = guard.ask(Method::GET, &minutes, None).await;
        assert!(refused["error"]["message"].as_str().unwrap().contains("were pruned"), "{refused}");
        let status = cli(&guard, &["storage", "status"]);
        assert!(
            status.0 && status.1.contains("their sums stay") && status.1.contains("reusable"),
            "{status:?}"
        );
    });
}

#[test]
fn entries_older_than_storage_keep_go_by_themselves_and_their_sums_stay() {
    run(async {
        let Kept { place, guard, _folder, _fake, .. } = Box::pin(kept("[storage]\nkeep = \"6d\"\n")).await;
        let db = Connection::open(place.database()).unwrap();
        let old =
            format!("SELECT COUNT(*) FROM entry WHERE admitted_ms < {} * 1000", now_s() - 6 * DAY_S - 900);
        let gone = async {
            while count(&db, &old) > 0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), gone).await.unwrap();
        assert!(count(&db, "SELECT COUNT(*) FROM entry") > 0);
        guard.verify().await;
        let storage = guard.ask(Method::GET, "/guard/v1/storage", None).await;
        assert_eq!(storage["keep_seconds"], 6 * DAY_S, "{storage}");
        assert!(
            storage["free_bytes"].is_u64() && storage["database_bytes"].as_u64() > Some(4_096),
            "{storage}"
        );
        assert!(storage["oldest_entry_at"].as_i64() >= Some(now_s() - 6 * DAY_S - 901), "{storage}");
    });
}

#[test]
fn a_day_that_is_none_or_yet_to_come_prunes_nothing() {
    run(async {
        let house = House::with("").await;
        assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK);
        house.settled().await;
        for before in ["2999-01-01", "tomorrow", "", "-"] {
            let body = json!({ "before": before });
            let refused = house.admin(Method::POST, "/guard/v1/storage/prune", Some(body)).await;
            assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{before}: {refused:?}");
        }
        // Entries of the last day stay, whatever is asked.
        let body = json!({ "before": now_s().to_string() });
        let done = house.admin(Method::POST, "/guard/v1/storage/prune", Some(body)).await.json();
        assert!(done["entries"] == 0 && done["before"].as_i64() <= Some(now_s() - DAY_S), "{done}");
        assert_eq!(house.entries().await.len(), 1);
    });
}

#[test]
fn a_ledger_whose_sums_are_gone_with_their_entries_pruned_is_damaged_and_not_begun_again() {
    run(async {
        let Kept { place, guard, _folder, _fake, .. } = Box::pin(kept("")).await;
        prune(&guard, now_s() - 6 * DAY_S, false).await;
        guard.process.kill();
        Connection::open(place.database()).unwrap().execute_batch("DROP TABLE rollup").unwrap();
        let lock = place.data.join("lock");
        std::fs::remove_file(lock).unwrap();
        let said = place.refused();
        assert!(
            said.contains("\"rollup\" is missing, and old entries that it summed up are pruned"),
            "{said}"
        );
    });
}

#[test]
fn sizes_and_free_space_are_metrics() {
    run(async {
        let house = House::with("").await;
        let metrics = house.admin(Method::GET, "/metrics", None).await;
        let text = String::from_utf8(metrics.body.to_vec()).unwrap();
        let gauge = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|value| value.parse::<f64>().ok()).unwrap_or_else(|| panic!("no {name}"))
        };
        let file = std::fs::metadata(house.folder.path().join("data/spendguard.db")).unwrap().len();
        let most = f64::from(u32::MAX);
        assert!((f64::from(u32::try_from(file).unwrap())..most).contains(&gauge("spendguard_storage_bytes")));
        assert!(gauge("spendguard_storage_free_bytes") > 0.0);
    });
}

#[test]
fn requests_go_on_while_a_large_ledger_is_pruned() {
    run(async {
        let Kept { guard, _folder, _fake, .. } = Box::pin(kept("")).await;
        let key = guard.make_key().await;
        let before_s = now_s() - 6 * DAY_S;
        let (done, ()) = tokio::join!(prune(&guard, before_s, false), async {
            for _ in 0..20 {
                let asked = guard.chat(&key, &[], json!({}));
                let answer = tokio::time::timeout(Duration::from_secs(2), asked).await;
                assert_eq!(answer.expect("it waits for no pruning").status, StatusCode::OK);
            }
        });
        assert!(done["entries"].as_i64() > Some(100), "{done}");
        guard.verify().await;
    });
}

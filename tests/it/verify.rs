//! `ledger verify` explains each kind of difference: what differs, by how much,
//! what that does to limits, and what to do about it.

use http::{Method, StatusCode};
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::harness::{ADMIN_TOKEN, House, chat, run};
use crate::process::{Place, Process, SPENDGUARD};

const LIMITS: &str = "[[limit]]\nname = \"m\"\nwindow = \"month\"\nhard = 10\nsoft = [0.00001]\n\
                      [[limit]]\nname = \"keys\"\nper = \"key\"\nunit = \"tokens\"\nwindow = \"day\"\nhard = 1000000\n";

/// A guard with two requests and a correction, whose books agree.
async fn kept() -> (House, Connection) {
    let house = House::with(LIMITS).await;
    for _ in 0..2 {
        assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK);
    }
    let id = house.entries().await.iter().find(|e| e["kind"] == "settle").unwrap()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let body = json!({ "amount_usd": "0.5", "note": "test" });
    let made = house.admin(Method::POST, &format!("/guard/v1/ledger/{id}/adjust"), Some(body)).await;
    assert_eq!(made.status, StatusCode::CREATED);
    let db = Connection::open(house.folder.path().join("data/spendguard.db")).unwrap();
    assert_eq!(differences(&house).await, Vec::<Value>::new());
    (house, db)
}

async fn differences(house: &House) -> Vec<Value> {
    let report = house.admin(Method::GET, "/guard/v1/ledger/verify", None).await.json();
    let differences = report["differences"].as_array().unwrap().clone();
    assert_eq!(report["ok"], differences.is_empty(), "{report:#}");
    differences
}

/// Forges something, and returns the one difference of a kind that is then
/// found, in words.
async fn found(kind: &str, sql: &str) -> String {
    let (house, db) = kept().await;
    assert!(db.execute(sql, []).unwrap() > 0, "{sql}");
    let all = differences(&house).await;
    let of_kind: Vec<_> = all.iter().filter(|difference| difference["kind"] == kind).collect();
    assert_eq!(of_kind.len(), 1, "{sql}: {all:#?}");
    for field in ["about", "what", "meaning", "mend"] {
        assert!(!of_kind[0][field].as_str().unwrap().is_empty(), "{field}");
    }
    format!("{} | {} | {}", of_kind[0]["what"], of_kind[0]["meaning"], of_kind[0]["mend"])
}

fn says(text: &str, all: &[&str]) {
    for part in all {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
}

#[test]
fn a_rollup_with_too_much_or_too_little_is_explained() {
    run(async {
        let text = found("rollup", "UPDATE rollup SET cost_nano = cost_nano + 250000000").await;
        says(
            &text,
            &["2 requests", "3 entries ent_", "0.25 USD too high", "refuse", "DROP TABLE rollup", "key key_"],
        );
        let text = found("rollup", "UPDATE rollup SET cost_nano = cost_nano - 250000000, requests = 1").await;
        says(&text, &["1 requests", "0.25 USD too low", "too much through", "1 requests too few"]);
        let text = found("rollup", r#"UPDATE rollup SET other_quantities = '{"file_search_calls":7}'"#).await;
        says(&text, &["tokens, 7 file_search_calls; its 3 entries", "no limit is affected"]);
        let text = found("rollup", "DELETE FROM rollup").await;
        says(&text, &["says 0 requests, 0 USD", "add up to 2 requests, 0.5"]);
        let text = found("rollup", "INSERT INTO rollup SELECT 900, project, 'ghost', end_user, tags, endpoint, model, priced_as, \
            served_model, requests, cost_nano, input, cached_input, cache_write, cache_write_12h, audio_input, \
            audio_cached_input, image_input, image_cached_input, output, reasoning, audio_output, image_output, last_ms, \
            other_quantities FROM rollup").await;
        says(&text, &["1970-01-01T00:15:00Z", "key ghost", "no entries", "add up to 0 requests"]);
    });
}

#[test]
fn rollups_that_are_dropped_as_advised_are_rebuilt() {
    run(async {
        let (house, db) = kept().await;
        let settled = house.meter("m").await["settled"].clone();
        db.execute("UPDATE rollup SET cost_nano = 7", []).unwrap();
        drop(db);
        let folder = house.close().await;
        let (_fake, fake) = Process::fake();
        let mut place = Place::new(&fake, LIMITS);
        place.data = folder.path().join("data");
        Connection::open(place.database()).unwrap().execute_batch("DROP TABLE rollup").unwrap();
        let guard = place.serve();
        guard.verify().await;
        assert_eq!(guard.meter("m").await.0.to_string(), settled.as_str().unwrap());
    });
}

#[test]
fn entries_that_cannot_be_true_are_explained() {
    run(async {
        let settled = "UPDATE entry SET {} WHERE id = (SELECT MIN(id) FROM entry WHERE kind = 'settle')";
        let with = |set: &str| settled.replace("{}", set);
        let text = found("entry", &with("kind = 'release', basis = ''")).await;
        says(&text, &["is a release, yet costs 0.0000", "no limit counts it", "backup"]);
        let text = found("entry", &with("basis = 'guessed'")).await;
        says(&text, &["entry.basis of entry 1 can't be read", "\\\"guessed\\\" is not known"]);
        let text = found("entry", &with("basis = ''")).await;
        says(&text, &["on what basis", "limits count"]);
        let text = found("entry", &with("basis = 'assumed', cost_nano = 3")).await;
        says(&text, &["charged its hold", "costs 0.000000003 USD where", "were held"]);
        let text = found("entry", &with("basis = 'assumed', cost_nano = 3, tier = 'batch'")).await;
        says(&text, &["charged its hold", "costs 0.000000003 USD where", "were held"]);
        let text = found("entry", &with("cost_nano = -5")).await;
        says(&text, &["costs -0.000000005 USD", "less than was spent"]);
        let text = found("entry", &with("tool_fees_nano = 1000000000")).await;
        says(&text, &["of which 1 USD are fees of tools"]);
        let text = found("entry", &with("kind = 'gift'")).await;
        says(&text, &["entry.kind of entry 1 can't be read", "\\\"gift\\\" is not known"]);
        let text = found("entry", "UPDATE entry SET input = 9 WHERE kind = 'adjust'").await;
        says(&text, &["is a correction of money, yet has 9 tokens"]);
        let text = found("entry", &with(r#"other_quantities = '{"wishes":1}'"#)).await;
        says(&text, &["the column other_quantities of", "\\\"wishes\\\" is not known"]);
        let text = found("entry", "UPDATE entry SET cost_nano = 9 WHERE kind = 'threshold'").await;
        says(&text, &["notes a threshold, yet costs"]);
    });
}

#[test]
fn a_correction_that_points_nowhere_is_explained() {
    run(async {
        let text = found("correction", "UPDATE entry SET corrects = 4711 WHERE kind = 'adjust'").await;
        says(&text, &["of 0.5 USD", "corrects ent_4711, which is not there", "-0.5 USD on a settled entry"]);
        let text = found("correction", "UPDATE entry SET corrects = NULL WHERE kind = 'adjust'").await;
        says(&text, &["corrects no entry"]);
        let text = found("correction", "UPDATE entry SET corrects = id WHERE kind = 'adjust'").await;
        says(&text, &["which is of kind adjust, not a settled request"]);
        let text = found(
            "correction",
            "UPDATE entry SET admitted_ms = admitted_ms - 86400000 WHERE kind = 'adjust'",
        )
        .await;
        says(&text, &["which is of key key_", "was admitted"]);
    });
}

#[test]
fn crossings_without_lines_and_lines_without_crossings_are_explained() {
    run(async {
        let text = found("crossing", "DELETE FROM entry WHERE kind = 'threshold'").await;
        says(&text, &["limit \\\"m\\\", org", "threshold 10000 of the window from", "no line of it"]);
        let (house, db) = kept().await;
        db.execute("DELETE FROM crossing", []).unwrap();
        let all = differences(&house).await;
        assert_eq!(all.len(), 2, "{all:#?}");
        says(&all[0].to_string(), &["is not noted as crossed", "second time"]);
        says(&all[1].to_string(), &["are settled, past $0.00001", "no alert was sent"]);
    });
}

#[test]
fn a_meter_that_is_not_the_sum_of_its_entries_is_explained() {
    run(async {
        let (house, db) = kept().await;
        // The entry and its rollup are changed alike, so that only memory differs.
        let by = "cost_nano = cost_nano + 1000000000";
        db.execute(&format!("UPDATE entry SET {by} WHERE kind = 'adjust'"), []).unwrap();
        db.execute(&format!("UPDATE rollup SET {by}"), []).unwrap();
        let all = differences(&house).await;
        assert_eq!(all.len(), 1, "{all:#?}");
        let settled = house.meter("m").await["settled"].clone();
        let text = all[0].to_string();
        says(
            &text,
            &[
                "limit \\\"m\\\", org",
                "the meter says $0.5",
                "entries add up to $1.5",
                "off by $1.00",
                "restart",
            ],
        );
        says(&text, &["lets so much too much through", settled.as_str().unwrap()]);
        // Entries of a subject that has no meter at all.
        db.execute("UPDATE entry SET api_key = 'key_ghost' WHERE kind <> 'threshold'", []).unwrap();
        db.execute("UPDATE rollup SET api_key = 'key_ghost'", []).unwrap();
        let all = differences(&house).await;
        let ghost =
            all.iter().find(|d| d["about"] == "keys key_ghost settled").unwrap_or_else(|| panic!("{all:#?}"));
        says(&ghost.to_string(), &["the meter says 0 tokens settled"]);
    });
}

#[test]
fn holds_that_no_request_owns_or_no_commit_wrote_are_explained() {
    run(async {
        let house = House::with(LIMITS).await;
        let forge = async {
            while house.guard.in_doubt().1 == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            house.guard.core().flush().await.unwrap();
            assert_eq!(differences(&house).await, Vec::<Value>::new(), "an open hold is none");
            let db = Connection::open(house.folder.path().join("data/spendguard.db")).unwrap();
            let (first, holds): (i64, String) = db
                .query_row("SELECT first_id, holds FROM hold_batch", [], |row| Ok((row.get(0)?, row.get(1)?)))
                .unwrap();
            // An entry without a request, of an id that has been given before.
            let orphan = holds.replace(&format!("\"id\":{first}"), "\"id\":0");
            db.execute("INSERT INTO hold_batch VALUES (0, ?1)", [&orphan]).unwrap();
            let all = differences(&house).await;
            assert_eq!(all.len(), 3, "the hold, and it on two meters: {all:#?}");
            says(
                &all[0].to_string(),
                &["hold ent_0 of 0.0", "no request that is running owns it", "next start would charge"],
            );
            says(&all[1].to_string(), &["held, its open holds add up to"]);
            db.execute("UPDATE hold_batch SET holds = 'nonsense' WHERE first_id = 0", []).unwrap();
            let all = differences(&house).await;
            assert_eq!(all.len(), 1, "{all:#?}");
            says(&all[0].to_string(), &["line 1 of hold_batch 0 is no hold", "refuses to start"]);
            db.execute("DELETE FROM hold_batch", []).unwrap();
            let all = differences(&house).await;
            says(
                &all[0].to_string(),
                &["belongs to a running request, and is not in the database", "forgotten"],
            );
            db.execute("INSERT INTO hold_batch VALUES (?1, ?2)", rusqlite::params![first, holds]).unwrap();
            assert_eq!(differences(&house).await, Vec::<Value>::new(), "all is as it was");
        };
        let ordered = [("x-fake-latency-ms", "2500")];
        let (answer, ()) = tokio::join!(house.chat(&ordered, json!({})), forge);
        assert_eq!(answer.status, StatusCode::OK);
        house.guard.core().flush().await.unwrap();
        let db = Connection::open(house.folder.path().join("data/spendguard.db")).unwrap();
        let row = "SELECT id, '{\"id\":' || id || ',\"at\":0,\"project\":\"\",\"key\":\"\",\"endpoint\":\"\",\"model\":\"\",\
                   \"cost\":0,\"input\":0,\"output\":0,\"tier\":\"default\",\"price\":\"\",\"stream\":false}' FROM entry \
                   WHERE kind = 'settle'";
        db.execute(&format!("INSERT INTO hold_batch {row}"), []).unwrap();
        let all = differences(&house).await;
        assert_eq!(all.len(), 1, "{all:#?}");
        says(&all[0].to_string(), &["is kept, though all its holds up to ent_", "the next start clears it"]);
    });
}

#[test]
fn traffic_is_no_difference() {
    run(async {
        let house = std::rc::Rc::new(House::with(LIMITS).await);
        let clients = (0..16).map(|n| {
            let house = std::rc::Rc::clone(&house);
            tokio::task::spawn_local(async move {
                for _ in 0..12 {
                    let ordered = [("x-fake-latency-ms", if n % 2 == 0 { "7" } else { "0" })];
                    let body = chat(json!({ "stream": n % 3 == 0 }));
                    assert_eq!(
                        house.post("/v1/chat/completions", &ordered, &body).await.status,
                        StatusCode::OK
                    );
                }
            })
        });
        let clients: Vec<_> = clients.collect();
        let mut looks = 0;
        while !clients.iter().all(tokio::task::JoinHandle::is_finished) {
            assert_eq!(differences(&house).await, Vec::<Value>::new());
            looks += 1;
        }
        for client in clients {
            client.await.unwrap();
        }
        assert!(looks > 3, "{looks}");
        assert_eq!(differences(&house).await, Vec::<Value>::new());
    });
}

/// Runs `spendguard ledger verify`; returns its exit code and what it prints.
fn cli(admin: &str, more: &[&str]) -> (Option<i32>, String, String) {
    let done = std::process::Command::new(SPENDGUARD)
        .args(["ledger", "verify", "--admin-url", &format!("http://{admin}")])
        .args(more)
        .env("SPENDGUARD_ADMIN_TOKEN", ADMIN_TOKEN)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (done.status.code(), text(done.stdout), text(done.stderr))
}

#[test]
fn the_command_says_it_in_words_and_in_json_and_exits_with_1() {
    run(async {
        let (_fake, fake) = Process::fake();
        let place = Place::new(&fake, LIMITS);
        let guard = place.serve();
        let key = guard.make_key().await;
        guard.chat(&key, &[], json!({})).await;
        guard.ask(Method::GET, "/guard/v1/ledger", None).await;
        let (code, out, _) = cli(&guard.admin_address, &[]);
        assert_eq!(code, Some(0), "{out}");
        says(&out, &["ok: ", "1 rollups, 0 open holds and 2 limits compared"]);
        guard.stop();
        let db = Connection::open(place.database()).unwrap();
        db.execute("UPDATE rollup SET cost_nano = cost_nano + 1000000000", []).unwrap();
        drop(db);
        let guard = place.serve();
        let (code, out, err) = cli(&guard.admin_address, &[]);
        assert_eq!(code, Some(1));
        // The meters were made from the rollup, so they differ from the entries too.
        says(
            &out,
            &[
                "rollup: ",
                "meter: limit \"m\"",
                "    means: ",
                "1 USD too high",
                "    mend:  ",
                "refuses so much too early",
            ],
        );
        says(&err, &["does not agree with itself"]);
        let (code, out, _) = cli(&guard.admin_address, &["--format", "json"]);
        let report: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(
            (code, &report["ok"], &report["differences"][0]["kind"]),
            (Some(1), &json!(false), &json!("rollup"))
        );
    });
}

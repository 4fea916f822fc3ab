//! Limits for each value of a tag: "no run may cost more than two dollars" without a key for each
//! run. Where the value comes from, whatever is in it, and how many there may be.

mod many;

use std::rc::Rc;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use spendguard::domain::Money;

use crate::alerts::Receiver;
use crate::batches::{self, CHAT, Client, line};
use crate::harness::{Answer, House, call, chat, client, run};
use crate::reload::serve;

/// Two dollars for each run, for ever; what does not fit is refused as it is.
pub(crate) const RUNS: &str = "[guard]\nwhen_tight = \"reject\"\nhold_wait = \"100ms\"\n\
    [[limit]]\nname = \"runs\"\nper = \"tag:run\"\nwindow = \"total\"\nhard = 2\n";
const SOURCES: &str = "[tags]\nrun = [\"x-spendguard-tags\", \"prompt_cache_key\", \"metadata.run_id\", \
    \"x-litellm-session-id\", \"safety_identifier\", \"user\"]\n";
/// Its output costs 30 dollars for a million tokens: 0.60 for this answer.
const DEAR: &str = "gpt-5.5";
const SIXTY_CENTS: (&str, &str) = ("x-fake-completion-tokens", "20000");

pub(crate) fn dear(more: Value) -> Value {
    let mut body = json!({ "model": DEAR, "max_completion_tokens": 20_000 });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    chat(body)
}

/// A request of sixty cents in a run of a key.
async fn in_run(house: &House, key: &str, run: &str) -> Answer {
    let (bearer, tags) = (format!("Bearer {key}"), format!("run={run}"));
    let headers = [("authorization", bearer.as_str()), ("x-spendguard-tags", tags.as_str()), SIXTY_CENTS];
    call(&house.proxy, Method::POST, CHAT, &headers, dear(json!({})).to_string().into()).await
}

async fn another_key(house: &House) -> String {
    house.make_key(json!({ "name": "other" })).await["value"].as_str().unwrap().to_owned()
}

/// The meters of a limit: whose, and what is settled.
async fn meters(house: &House, limit: &str) -> Vec<(String, Money)> {
    house.settled().await;
    let shown = house.admin(Method::GET, &format!("/guard/v1/limits/{limit}"), None).await.json();
    let meter = |meter: &Value| {
        let text = |field: &str| meter[field].as_str().unwrap().to_owned();
        (text("subject"), text("settled").parse().unwrap())
    };
    shown["meters"].as_array().unwrap().iter().map(meter).collect()
}

/// The subjects of a limit without the keys that they are in.
async fn values(house: &House, limit: &str) -> Vec<String> {
    let mut values: Vec<String> =
        meters(house, limit).await.iter().map(|(of, _)| of.split_once('/').unwrap().1.to_owned()).collect();
    values.sort();
    values
}

#[test]
fn a_run_at_its_limit_is_refused_and_other_runs_and_the_same_run_of_another_key_go_on() {
    run(async {
        let house = House::with(RUNS).await;
        let other = another_key(&house).await;
        for _ in 0..3 {
            assert_eq!(in_run(&house, &house.key, "nightly-7").await.status, StatusCode::OK);
        }
        let refused = in_run(&house, &house.key, "nightly-7").await;
        let said = (refused.status, refused.code(), refused.header("x-should-retry").to_owned());
        let final_one =
            (StatusCode::TOO_MANY_REQUESTS, "project_spend_limit_exceeded".to_owned(), "false".to_owned());
        assert_eq!(said, final_one, "{refused:?}");
        let error = refused.json()["error"].clone();
        assert_eq!(error["type"], "insufficient_quota");
        let text = error["message"].as_str().unwrap();
        assert!(text.contains("\"runs\" (for run=nightly-7 within this key, in total)"), "{text}");
        assert!(text.contains("it does not reset"), "{text}");
        assert_eq!(refused.header("x-spendguard-limit"), "runs");
        for (key, run) in [(&house.key, "nightly-8"), (&other, "nightly-7")] {
            assert_eq!(in_run(&house, key, run).await.status, StatusCode::OK, "{run}");
        }
        let spent: Vec<Money> =
            meters(&house, "runs").await.into_iter().map(|(_, settled)| settled).collect();
        let dollars = |text: &str| text.parse::<Money>().unwrap();
        assert_eq!(spent.len(), 3, "{spent:?}");
        assert!(spent.iter().filter(|spent| **spent > dollars("1.8") && **spent < dollars("2")).count() == 1);
        for what in ["/guard/v1/limits/runs/explain", "/guard/v1/ledger/verify"] {
            let found = house.admin(Method::GET, what, None).await.json();
            assert!(found["agrees"] == true || found["ok"] == true, "{found}");
        }
    });
}

#[test]
fn requests_of_one_run_that_race_for_a_dollar_never_pass_it_and_use_it_up() {
    run(async {
        let config = RUNS.replace("hard = 2", "hard = 1");
        let house = Rc::new(House::with(&config).await);
        let gate = Rc::new(tokio::sync::Barrier::new(300));
        let clients = (0..300).map(|number| {
            let (house, gate) = (Rc::clone(&house), Rc::clone(&gate));
            tokio::task::spawn_local(async move {
                let own = client(house.proxy_address);
                gate.wait().await;
                let (bearer, tags) = (format!("Bearer {}", house.key), format!("run=r{}", number / 250));
                let headers = [
                    ("authorization", bearer.as_str()),
                    ("x-spendguard-tags", tags.as_str()),
                    ("x-fake-completion-tokens", "300"),
                ];
                let body = dear(json!({ "max_completion_tokens": 300 })).to_string();
                call(&own, Method::POST, CHAT, &headers, body.into()).await.status
            })
        });
        for asked in clients.collect::<Vec<_>>() {
            let status = asked.await.unwrap();
            assert!(matches!(status, StatusCode::OK | StatusCode::TOO_MANY_REQUESTS), "{status}");
        }
        let spent = meters(&house, "runs").await;
        let [(raced, spent), (_, of_other)] = &spent[..] else { panic!("{spent:?}") };
        assert!(raced.ends_with("/run=r0"), "{raced}");
        assert!((950_000_000..=1_000_000_000).contains(&spent.nano()), "{spent} of a dollar");
        let served = house.fake.served()[DEAR];
        let truth = (served.prompt_tokens - served.cached_tokens) * 5_000
            + served.cached_tokens * 500
            + served.completion_tokens * 30_000;
        assert_eq!(u64::try_from(spent.nano() + of_other.nano()), Ok(truth));
    });
}

#[test]
fn the_value_comes_from_the_first_source_that_a_request_has() {
    run(async {
        let house = House::with(&format!("{SOURCES}{RUNS}")).await;
        let metadata = |id: &str| json!({ "run_id": id, "other": "x" });
        for (headers, more) in [
            (
                vec![("x-spendguard-tags", "run=own,team=t"), ("x-litellm-session-id", "h")],
                json!({ "user": "u" }),
            ),
            (
                vec![("x-litellm-session-id", "h")],
                json!({ "prompt_cache_key": "cache", "metadata": metadata("m") }),
            ),
            (vec![("x-litellm-session-id", "h")], json!({ "metadata": metadata("meta"), "user": "u" })),
            (vec![("x-litellm-session-id", "session")], json!({ "user": "u" })),
            (vec![("x-spendguard-tags", "team=t")], json!({ "safety_identifier": "safe", "user": "u" })),
            (vec![], json!({ "user": "just-a-user" })),
            (vec![], json!({ "metadata": { "run_id": null }, "prompt_cache_key": "" })),
        ] {
            assert_eq!(house.chat(&headers, more.clone()).await.status, StatusCode::OK, "{more}");
        }
        // Other endpoints with such fields, and one without a body.
        let input = json!({ "model": "gpt-4o-mini", "input": "hello", "metadata": metadata("of-responses") });
        assert_eq!(house.post("/v1/responses", &[], &input).await.status, StatusCode::OK);
        let vector = json!({ "model": "text-embedding-3-small", "input": "hello", "user": "of-embeddings" });
        assert_eq!(house.post("/v1/embeddings", &[], &vector).await.status, StatusCode::OK);
        let expected =
            ["cache", "just-a-user", "meta", "of-embeddings", "of-responses", "own", "safe", "session"];
        assert_eq!(values(&house, "runs").await, expected.map(|value| format!("run={value}")));
        // A tag like any other: of entries, and of usage.
        let entries = house.entries().await;
        let tagged = |run: &str| entries.iter().filter(|entry| entry["tags"]["run"] == run).count();
        assert_eq!((tagged("own"), tagged("meta"), tagged("safe")), (1, 1, 1));
        assert!(
            entries.iter().any(|entry| entry["tags"] == json!({ "run": "own", "team": "t" })),
            "{entries:?}"
        );
        let usage = house.admin(Method::GET, "/guard/v1/usage?group_by=tag", None).await.json();
        assert!(usage.to_string().contains(r#"{"tag":"run","value":"cache"}"#), "{usage}");
        let only = json!({ "window": "day", "hard": "0", "only": { "tag": { "run": ["bad"] } } });
        house.admin(Method::PUT, "/guard/v1/limits/bad", Some(only)).await;
        assert_eq!(
            house.chat(&[], json!({ "prompt_cache_key": "bad" })).await.status,
            StatusCode::TOO_MANY_REQUESTS
        );
    });
}

#[test]
fn a_tag_without_sources_of_its_own_comes_from_the_guards_own_header_alone() {
    run(async {
        let house = House::with(RUNS).await;
        let more = json!({ "prompt_cache_key": "p", "metadata": { "run": "m" }, "user": "u" });
        for headers in [&[("x-litellm-session-id", "h")][..], &[("x-spendguard-tags", "run=own")]] {
            assert_eq!(house.chat(headers, more.clone()).await.status, StatusCode::OK);
        }
        assert_eq!(values(&house, "runs").await, ["run=own"]);
    });
}

#[test]
fn a_request_without_a_value_counts_on_no_meter_and_a_limit_of_its_key_bounds_it() {
    run(async {
        let key =
            "[[limit]]\nname = \"key\"\nper = \"key\"\nunit = \"requests\"\nwindow = \"total\"\nhard = 2\n";
        let house = House::with(&format!("{}{key}", RUNS.replace("hard = 2", "hard = 0"))).await;
        for _ in 0..2 {
            assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK);
        }
        assert_eq!(house.chat(&[], json!({})).await.header("x-spendguard-limit"), "key");
        assert_eq!(values(&house, "runs").await, [""; 0]);
        assert_eq!(
            house.chat(&[("x-spendguard-tags", "run=a")], json!({})).await.status,
            StatusCode::TOO_MANY_REQUESTS
        );
    });
}

#[test]
fn what_can_be_no_value_is_refused_in_the_guards_own_header_and_hashed_elsewhere() {
    run(async {
        let house = House::with(&format!("{SOURCES}{}", RUNS.replace("hard = 2", "hard = 0.0005"))).await;
        let long = "x".repeat(65);
        for bad in [format!("run={long}"), "run=".to_owned(), "run=a,run=b".to_owned(), "run".to_owned()] {
            let refused = house.chat(&[("x-spendguard-tags", bad.as_str())], json!({})).await;
            assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{bad}");
        }
        let hostile = [
            json!(long),
            json!("\u{0}\n\u{7f}\u{85}"),
            json!(" spaces "),
            json!("key_1/run=a"),
            json!("<script>alert(1)</script>"),
            json!("\"'\\{}[],;=%00"),
            json!("日本語 ქართული 🏃"),
            json!("\u{202e}evil\u{200b}"),
            json!(7),
            json!({ "a": ["b"] }),
            json!("é".repeat(400)),
        ];
        for value in &hostile {
            for _ in 0..2 {
                let answer =
                    house.chat(&[], json!({ "prompt_cache_key": value, "max_completion_tokens": 50 })).await;
                assert_eq!(answer.status, StatusCode::OK, "{value}: {answer:?}");
            }
        }
        let found = values(&house, "runs").await;
        assert_eq!(found.len(), hostile.len(), "each has one meter, and no two the same: {found:?}");
        assert!(found.iter().all(|value| value.len() <= "run=".len() + 64), "{found:?}");
        // By sha256sum.
        assert!(found.contains(&"run=sha256:9537c5fdf120482f7d58d25e9ed583f5".to_owned()), "{found:?}");
        // None of them steps past its limit.
        for value in &hostile {
            let more = json!({ "prompt_cache_key": value, "max_completion_tokens": 1_000 });
            let refused = house.chat(&[], more).await;
            assert_eq!(refused.code(), "request_cost_exceeds_limit", "{value}");
        }
        let verified = house.admin(Method::GET, "/guard/v1/ledger/verify", None).await.json();
        assert_eq!(verified["ok"], true, "{verified}");
    });
}

#[test]
fn a_restart_and_a_limit_that_comes_later_count_what_a_run_has_spent() {
    run(async {
        let house = House::with(RUNS).await;
        for _ in 0..3 {
            assert_eq!(in_run(&house, &house.key, "a").await.status, StatusCode::OK);
        }
        assert_eq!(in_run(&house, &house.key, "b").await.status, StatusCode::OK);
        house.settled().await;
        let before = meters(&house, "runs").await;
        let key = house.key.clone();
        let folder = house.close().await;
        let house = House::reopened(folder, &format!("{RUNS}[server]\ndrain = \"1s\"\n")).await;
        assert_eq!(meters(&house, "runs").await, before);
        assert_eq!(in_run(&house, &key, "a").await.status, StatusCode::TOO_MANY_REQUESTS);
        let rule = json!({ "per": "tag:run", "unit": "requests", "window": "month", "hard": "1" });
        let made = house.admin(Method::PUT, "/guard/v1/limits/later", Some(rule)).await.json();
        assert_eq!((&made["per"], &made["meters_total"]), (&json!("tag:run"), &json!(2)), "{made}");
        assert_eq!(in_run(&house, &key, "b").await.header("x-spendguard-limit"), "later");
        assert_eq!(in_run(&house, &key, "c").await.status, StatusCode::OK);
    });
}

#[test]
fn a_reload_that_adds_a_limit_and_sources_counts_the_past_and_reads_the_new_sources() {
    run(async {
        let house = House::with("").await;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("guard.toml");
        std::fs::write(&file, "").unwrap();
        let running = serve(&file, &house.fake_url());
        let own = [("x-spendguard-tags", "run=a")];
        assert_eq!(running.chat(json!({}), &own).await.status, StatusCode::OK);
        let limit = "[[limit]]\nname = \"runs\"\nper = \"tag:run\"\nunit = \"requests\"\nwindow = \"day\"\nhard = 1\n";
        std::fs::write(&file, format!("[tags]\nrun = [\"x-spendguard-tags\", \"metadata.run\"]\n{limit}"))
            .unwrap();
        running.becomes_for(&own, StatusCode::TOO_MANY_REQUESTS).await;
        let in_body = json!({ "metadata": { "run": "a" } });
        assert_eq!(running.chat(in_body, &[]).await.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(running.chat(json!({ "metadata": { "run": "b" } }), &[]).await.status, StatusCode::OK);
    });
}

#[test]
fn a_key_asks_what_is_left_of_one_of_its_runs() {
    run(async {
        let house = House::with(RUNS).await;
        assert_eq!(in_run(&house, &house.key, "a").await.status, StatusCode::OK);
        house.settled().await;
        let bearer = format!("Bearer {}", house.key);
        let me = async |tags: &str| {
            let headers = [("authorization", bearer.as_str()), ("x-spendguard-tags", tags)];
            call(&house.proxy, Method::GET, "/v1/spendguard/me", &headers, "".into()).await
        };
        let limit = me("run=a").await.json()["limits"][0].clone();
        assert_eq!((&limit["name"], &limit["hard"]), (&json!("runs"), &json!("2")));
        assert!(limit["settled"].as_str().unwrap().starts_with("0.60"), "{limit}");
        assert_eq!(me("run=b").await.json()["limits"][0]["settled"], "0");
        assert_eq!(me("team=t").await.json()["limits"], json!([]));
        assert_eq!(me("run").await.status, StatusCode::BAD_REQUEST);
    });
}

#[test]
fn an_alert_names_the_run_and_its_key() {
    run(async {
        let receiver = Receiver::default();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("slack");
        std::fs::write(&file, receiver.listen().await).unwrap();
        let slack = format!("[[alerts.slack]]\nurl = {{ file = \"{}\" }}\n", file.display());
        let limits = RUNS.replace("hard = 2", "hard = 2\nsoft = [0.5]");
        let house = House::with(&format!("{limits}{slack}")).await;
        assert_eq!(in_run(&house, &house.key, "nightly").await.status, StatusCode::OK);
        let got = receiver.after(1).await;
        let text = got[0].1.to_string();
        assert!(text.contains("run=nightly of key \\\"test\\\""), "{text}");
        let alerts = house.admin(Method::GET, "/guard/v1/alerts", None).await.json();
        let subject = alerts["data"][0]["subject"].as_str().unwrap_or_default();
        assert!(subject.starts_with("key_") && subject.ends_with("/run=nightly"), "{alerts}");
    });
}

#[test]
fn a_batch_counts_on_the_one_value_of_its_lines_and_is_refused_with_several_under_a_cap() {
    run(async {
        let house = House::with(&format!("{SOURCES}{RUNS}")).await;
        let client = Client::of(&house);
        let in_run = |name: &str, run: Option<&str>| {
            let mut body = chat(json!({ "max_completion_tokens": 100 }));
            if let Some(run) = run {
                body["metadata"] = json!({ "run_id": run });
            }
            line(name, CHAT, &body)
        };
        client.begin(&[in_run("1", Some("a")), in_run("2", Some("a"))], &[batches::SHORT]).await;
        for lines in
            [[in_run("1", Some("a")), in_run("2", Some("b"))], [in_run("1", None), in_run("2", Some("b"))]]
        {
            let file = client.upload(&lines.concat()).await;
            let refused = client.create(&file, CHAT, &[]).await;
            assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{refused:?}");
            let text = refused.json()["error"]["message"].as_str().unwrap().to_owned();
            assert!(text.contains("\"runs\"") && text.contains("the tag \"run\""), "{text}");
            // The batch says for itself what it is of.
            let made =
                client.create(&file, CHAT, &[("x-spendguard-tags", "run=whole"), batches::LASTING]).await;
            assert_eq!(made.status, StatusCode::OK, "{made:?}");
        }
        let shown = house.admin(Method::GET, "/guard/v1/limits/runs", None).await.json();
        let subjects =
            shown["meters"].as_array().unwrap().iter().map(|meter| meter["subject"].as_str().unwrap());
        let subjects: Vec<&str> = subjects.map(|of| of.split_once('/').unwrap().1).collect();
        assert_eq!(subjects, ["run=a", "run=whole"]);
    });
}

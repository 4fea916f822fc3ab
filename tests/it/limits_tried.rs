//! Limits that are tried on the past: what they would have rejected is what a guard with them rejects.

use std::collections::BTreeMap;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::harness::{Answer, House, call, chat, run};

const GUARD: &str =
    "[guard]\nwhen_tight = \"reject\"\nhold_wait = \"0s\"\n[tags]\nrun = [\"prompt_cache_key\"]\n";
/// Each request is held at 0.006 dollars for its output, and a thousandth of that for its input. The
/// limits are in the order of their names: of several that reject a request, the first is named.
const LIMITS: &str = "\
[[limit]]\nname = \"all\"\nwindow = \"month\"\nhard = 0.0445\n\
[[limit]]\nname = \"ann\"\nper = \"user\"\nunit = \"output_tokens\"\nwindow = \"week\"\nhard = 20000\n\
[[limit]]\nname = \"keys\"\nper = \"key\"\nunit = \"requests\"\nwindow = \"day\"\nzone = \"Asia/Kathmandu\"\nhard = 10\n\
[[limit]]\nname = \"runs\"\nper = \"tag:run\"\nwindow = \"total\"\nhard = 0.0075\n\
[[limit]]\nname = \"shadow\"\nunit = \"requests\"\nwindow = \"day\"\nhard = 10\nmode = \"shadow\"\n";

/// The limits of a file as the API takes them.
fn rules(text: &str) -> Vec<Value> {
    let file: toml_edit::DocumentMut = text.parse().unwrap();
    let tables = file["limit"].as_array_of_tables().unwrap().iter();
    let value = |item: &toml_edit::Item| {
        let value = item.as_value().unwrap();
        // The API takes amounts as texts.
        value.as_str().map_or_else(|| json!(value.to_string().trim()), |text| json!(text))
    };
    tables.map(|table| table.iter().map(|(key, item)| (key.to_owned(), value(item))).collect()).collect()
}

async fn tried(house: &House, body: Value) -> Value {
    let answer = house.admin(Method::POST, "/guard/v1/limits/try", Some(body)).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()
}

/// The same requests on any guard, one after the other, of three keys; the answers.
async fn requests(house: &House) -> Vec<Answer> {
    let mut keys = Vec::new();
    for name in ["a", "b", "c"] {
        keys.push(house.make_key(json!({ "name": name })).await["value"].as_str().unwrap().to_owned());
    }
    let mut answers = Vec::new();
    for number in 0..48_usize {
        let mut more = json!({ "max_completion_tokens": 10_000 });
        if number % 3 != 1 {
            more["prompt_cache_key"] = format!("run-{}", number % 5).into();
        }
        if number % 4 == 0 {
            more["user"] = "ann".into();
        }
        let bearer = format!("Bearer {}", keys[number % 2 + usize::from(number > 40)]);
        let used = (number * 7 % 10_000).max(1) + 3_000;
        let used = used.to_string();
        let headers = [("authorization", bearer.as_str()), ("x-fake-completion-tokens", used.as_str())];
        let path = "/v1/chat/completions";
        answers.push(call(&house.proxy, Method::POST, path, &headers, chat(more).to_string().into()).await);
        house.settled().await;
    }
    answers
}

#[test]
fn a_trial_rejects_exactly_what_a_guard_with_these_limits_rejects() {
    run(async {
        let guarded = House::with(&format!("{GUARD}{LIMITS}")).await;
        let answers = requests(&guarded).await;
        let free = House::with(GUARD).await;
        let unlimited = requests(&free).await;
        assert!(unlimited.iter().all(|answer| answer.status == StatusCode::OK));
        let trial = tried(&free, json!({ "limits": rules(LIMITS) })).await;
        assert_eq!(trial["object"], "guard.limits_trial");
        // Which limit has refused which request, by its place.
        let mut expected: BTreeMap<String, u64> = BTreeMap::new();
        let (mut rejected, mut nano) = (0, 0);
        for (answer, cost) in answers.iter().zip(&unlimited) {
            if answer.status != StatusCode::OK {
                *expected.entry(answer.header("x-spendguard-limit").to_owned()).or_default() += 1;
                let cost: spendguard::domain::Money = cost.header("x-spendguard-cost-usd").parse().unwrap();
                (rejected, nano) = (rejected + 1, nano + cost.nano());
            }
        }
        assert!(expected.len() >= 4, "{expected:?}");
        let found: BTreeMap<String, u64> = trial["limits"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|of| of["name"] != "shadow")
            .map(|of| (of["name"].as_str().unwrap().to_owned(), of["rejected"].as_u64().unwrap()))
            .collect();
        assert_eq!(found, expected, "{trial}");
        assert_eq!((&trial["requests"], &trial["rejected"]), (&json!(48), &json!(rejected)), "{trial}");
        let usd = spendguard::domain::Money::from_nano(nano).to_string();
        assert_eq!(trial["rejected_usd"], usd);
        let metrics = guarded.admin(Method::GET, "/metrics", None).await;
        let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
        let would =
            metrics.lines().find(|line| line.starts_with("spendguard_would_reject_total{limit=\"shadow\"}"));
        let shadow = trial["limits"].as_array().unwrap().iter().find(|of| of["name"] == "shadow").unwrap();
        let would: f64 = would.unwrap().split(' ').next_back().unwrap().parse().unwrap();
        assert!(would > 0.0 && shadow["rejected"].as_f64() == Some(would), "{would}: {shadow}");
        for of in trial["limits"].as_array().unwrap() {
            let of_subjects = of["subjects"].as_array().unwrap().iter();
            let counts: u64 = of_subjects.map(|subject| subject["rejected"].as_u64().unwrap()).sum();
            assert_eq!(Some(counts), of["rejected"].as_u64(), "{of}");
        }
        // Nothing was changed by it.
        assert_eq!(free.admin(Method::GET, "/guard/v1/limits", None).await.json()["data"], json!([]));
    });
}

#[test]
fn spending_before_the_trial_counts_in_its_window() {
    run(async {
        let house = House::with("").await;
        for _ in 0..3 {
            house.chat(&[], json!({})).await;
        }
        house.guard.core().flush().await.unwrap();
        let db = rusqlite::Connection::open(house.folder.path().join("data/spendguard.db")).unwrap();
        db.execute_batch(
            "UPDATE entry SET admitted_ms = admitted_ms - 86400000, created_ms = created_ms - 86400000;
             UPDATE rollup SET start_s = start_s - 86400",
        )
        .unwrap();
        for _ in 0..2 {
            house.chat(&[], json!({})).await;
        }
        house.settled().await;
        let now_s = house.guard.clock().now_s();
        let calls =
            |hard: &str| json!([{ "name": "calls", "unit": "requests", "window": "total", "hard": hard }]);
        let today = tried(&house, json!({ "limits": calls("4"), "since": now_s - 3_600 })).await;
        assert_eq!((&today["requests"], &today["rejected"]), (&json!(2), &json!(1)), "{today}");
        let subject = &today["limits"][0]["subjects"][0];
        assert_eq!((&subject["subject"], &subject["peak"]), (&json!("org"), &json!("5")));
        assert_eq!(today["since"].as_i64().unwrap() % 900, 0);
        let all = tried(&house, json!({ "limits": calls("2") })).await;
        assert_eq!((&all["requests"], &all["rejected"]), (&json!(5), &json!(3)), "{all}");
        let until = json!({ "limits": calls("2"), "until": now_s - 3_600 });
        assert_eq!(tried(&house, until).await["requests"], 3);
    });
}

#[test]
fn what_can_not_be_tried_is_refused_with_its_field() {
    run(async {
        let house = House::with("").await;
        let one = json!({ "name": "a", "window": "day", "hard": "1" });
        let mut wrong = one.clone();
        wrong["per"] = "tag:".into();
        for (body, param) in [
            (json!({ "limits": [] }), "limits"),
            (json!({ "limits": [one, one] }), "limits"),
            (json!({ "limits": [wrong] }), "per"),
            (json!({ "limits": [one], "since": "soon" }), "since"),
            (json!({ "limits": [one], "since": 2_000_000_000, "until": 1_000_000_000 }), "since"),
        ] {
            let answer = house.admin(Method::POST, "/guard/v1/limits/try", Some(body.clone())).await;
            let error = answer.json()["error"].clone();
            assert_eq!(
                (answer.status, &error["param"]),
                (StatusCode::BAD_REQUEST, &json!(param)),
                "{body}: {error}"
            );
        }
        for body in [
            json!({}),
            json!({ "limits": [{ "window": "day" }] }),
            json!({ "limits": [{ "name": "a", "x": 1 }] }),
        ] {
            let answer = house.admin(Method::POST, "/guard/v1/limits/try", Some(body.clone())).await;
            assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{body}: {answer:?}");
        }
        let rate = json!({ "name": "pace", "unit": "requests", "window": "minute", "hard": "1" });
        let trial = tried(&house, json!({ "limits": [rate, one] })).await;
        assert_eq!((&trial["untried"], trial["limits"].as_array().unwrap().len()), (&json!(["pace"]), 1));
        let named = house
            .admin(Method::PUT, "/guard/v1/limits/try", Some(json!({ "window": "day", "hard": "1" })))
            .await;
        assert!(named.status.is_client_error(), "{named:?}");
    });
}

#[test]
fn a_trial_on_a_shared_database_reads_what_every_guard_has_written() {
    run(async {
        let cluster = Cluster::new("");
        let guards = [cluster.serve(), cluster.serve()];
        let key = guards[0].make_key().await;
        for guard in &guards {
            for _ in 0..2 {
                assert_eq!(guard.chat(&key, &[], json!({})).await.status, StatusCode::OK);
            }
        }
        guards[0].written(4).await;
        let limit =
            json!({ "name": "calls", "per": "key", "unit": "requests", "window": "month", "hard": "3" });
        let body = json!({ "limits": [limit] });
        for guard in &guards {
            let trial = guard.ask(Method::POST, "/guard/v1/limits/try", Some(body.clone())).await;
            assert_eq!((&trial["requests"], &trial["rejected"]), (&json!(4), &json!(1)), "{trial}");
        }
    });
}

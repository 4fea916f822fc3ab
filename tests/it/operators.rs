//! What operators do: keys, limits, corrections, proof, metrics, secrets.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{ADMIN_TOKEN, House, UPSTREAM_KEY, call, run};
use crate::process::{Place, Process};

#[test]
fn a_key_is_shown_once_and_a_revoked_one_is_refused_at_once() {
    run(async {
        let house = House::with("").await;
        let made = house.make_key(json!({ "name": "team-a" })).await;
        let (id, secret) = (made["id"].as_str().unwrap(), made["value"].as_str().unwrap());
        assert!(secret.starts_with("sk-guard-") && secret.len() == 55, "{secret}");
        let shown = house.admin(Method::GET, &format!("/guard/v1/keys/{id}"), None).await.json();
        assert_eq!((shown.get("value"), &shown["status"]), (None, &json!("active")));
        assert_eq!(shown["redacted_value"], format!("sk-guard-…{}", &secret[51..]));
        let bearer = format!("Bearer {secret}");
        let headers = [("authorization", bearer.as_str())];
        let models = || call(&house.proxy, Method::GET, "/v1/models", &headers, bytes::Bytes::new());
        assert_eq!(models().await.status, StatusCode::OK);
        let path = format!("/guard/v1/keys/{id}/rotate");
        let rotated = house.admin(Method::POST, &path, Some(json!({ "grace_seconds": 60 }))).await;
        assert_ne!(rotated.json()["value"], secret);
        assert_eq!(models().await.status, StatusCode::OK, "within its grace");
        house.admin(Method::DELETE, &format!("/guard/v1/keys/{id}"), None).await;
        assert_eq!(models().await.status, StatusCode::UNAUTHORIZED);
    });
}

#[test]
fn a_second_grace_within_the_first_is_refused_and_none_ends_the_first() {
    run(async {
        let house = House::with("").await;
        let made = house.make_key(json!({ "name": "team-a" })).await;
        let path = format!("/guard/v1/keys/{}/rotate", made["id"].as_str().unwrap());
        let rotate =
            |grace_s: i64| house.admin(Method::POST, &path, Some(json!({ "grace_seconds": grace_s })));
        let works = async |secret: &Value| {
            let bearer = format!("Bearer {}", secret.as_str().unwrap());
            let headers = [("authorization", bearer.as_str())];
            let answer = call(&house.proxy, Method::GET, "/v1/models", &headers, bytes::Bytes::new());
            answer.await.status == StatusCode::OK
        };
        let (first, second) = (made["value"].clone(), rotate(60).await.json()["value"].clone());
        let refused = rotate(60).await;
        assert_eq!(refused.status, StatusCode::CONFLICT, "{refused:?}");
        let message = refused.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains("is good until 20") && message.contains("without a grace"), "{message}");
        assert!(works(&first).await && works(&second).await, "what was promised is kept");
        let third = rotate(0).await.json()["value"].clone();
        assert!(!works(&first).await && !works(&second).await && works(&third).await);
    });
}

#[test]
fn an_imported_secret_may_be_any_printable_ascii() {
    run(async {
        let house = House::with("").await;
        house.make_key(json!({ "name": "legacy", "secret": "My API Key 1" })).await;
        let again = house.admin(
            Method::POST,
            "/guard/v1/keys",
            Some(json!({ "name": "x", "secret": "My API Key 1" })),
        );
        assert_eq!(again.await.status, StatusCode::CONFLICT);
        let wrong = house.admin(Method::POST, "/guard/v1/keys", Some(json!({ "nam": "x" }))).await;
        assert_eq!(
            (wrong.status.as_u16(), wrong.json()["error"]["type"].clone()),
            (422, json!("invalid_request_error"))
        );
    });
}

#[test]
fn a_limit_made_now_counts_what_its_window_already_holds() {
    run(async {
        let house = House::with("[[limit]]\nname = \"of-file\"\nwindow = \"day\"\nhard = 3\n").await;
        let cost = house.chat(&[], json!({})).await.header("x-spendguard-cost-usd").to_owned();
        let rule = json!({ "per": "key", "unit": "usd", "window": "month", "hard": 24, "soft": ["50%", "0.0000001"] });
        let put = house.admin(Method::PUT, "/guard/v1/limits/new", Some(rule.clone())).await;
        assert_eq!(put.status, StatusCode::OK, "{put:?}");
        assert_eq!(put.json()["hard"], "24");
        assert_eq!(put.json()["meters"][0]["settled"], cost.as_str());
        let crossed = house.admin(Method::GET, "/guard/v1/ledger?kind=threshold", None).await.json();
        assert_eq!(crossed["data"].as_array().unwrap().len(), 1, "{crossed}");
        let explained = house.admin(Method::GET, "/guard/v1/limits/new/explain", None).await.json();
        assert_eq!(
            (&explained["agrees"], &explained["entries_total"]),
            (&json!(true), &json!(1)),
            "{explained}"
        );
        let managed = house.admin(Method::PUT, "/guard/v1/limits/of-file", Some(rule)).await;
        assert_eq!(managed.status, StatusCode::CONFLICT);
        assert_eq!(
            house.admin(Method::DELETE, "/guard/v1/limits/new", None).await.status,
            StatusCode::NO_CONTENT
        );
        assert_eq!(
            house.admin(Method::GET, "/guard/v1/limits/new", None).await.status,
            StatusCode::NOT_FOUND
        );
    });
}

#[test]
fn a_correction_moves_the_meter_and_the_books_still_agree() {
    run(async {
        let house = House::with("[[limit]]\nname = \"m\"\nwindow = \"month\"\nhard = 10\n").await;
        house.chat(&[], json!({})).await;
        let id = house.entries().await[0]["id"].as_str().unwrap().to_owned();
        let body = json!({ "amount_usd": "1.23", "note": "billed twice" });
        let made = house.admin(Method::POST, &format!("/guard/v1/ledger/{id}/adjust"), Some(body)).await;
        assert_eq!((made.status, &made.json()["corrects"]), (StatusCode::CREATED, &json!(id)));
        let settled: spendguard::domain::Money =
            house.meter("m").await["settled"].as_str().unwrap().parse().unwrap();
        assert!(settled.nano() > 1_230_000_000);
        let verified = house.admin(Method::GET, "/guard/v1/ledger/verify", None).await.json();
        assert_eq!((&verified["ok"], &verified["entries"]), (&json!(true), &json!(2)), "{verified}");
        let db = rusqlite::Connection::open(house.folder.path().join("data/spendguard.db")).unwrap();
        db.execute("UPDATE entry SET cost_nano = cost_nano - 5", []).unwrap();
        let tampered = house.admin(Method::GET, "/guard/v1/ledger/verify", None).await.json();
        assert_eq!(tampered["ok"], false);
    });
}

#[test]
fn usage_adds_up_by_everything() {
    run(async {
        let house = House::with("").await;
        let tagged = [("x-spendguard-tags", "team=search")];
        let cost =
            house.chat(&tagged, json!({ "user": "ann" })).await.header("x-spendguard-cost-usd").to_owned();
        for by in ["key", "project", "model", "user", "day", "endpoint", "tag"] {
            let usage =
                house.admin(Method::GET, &format!("/guard/v1/usage?group_by={by}"), None).await.json();
            let group = &usage["data"][0];
            assert_eq!((&group["requests"], &group["cost_usd"]), (&json!(1), &json!(cost)), "{by} {usage}");
        }
        let bearer = format!("Bearer {}", house.key);
        let headers = [("authorization", bearer.as_str())];
        let me = call(&house.proxy, Method::GET, "/v1/spendguard/me", &headers, bytes::Bytes::new()).await;
        assert_eq!(me.json()["key"]["name"], "test");
    });
}

#[test]
fn a_key_sees_its_own_usage_by_day_and_model_and_no_others() {
    run(async {
        let house = House::with("[time]\nzone = \"Europe/Warsaw\"\n").await;
        let cost = house.chat(&[], json!({})).await.header("x-spendguard-cost-usd").to_owned();
        let image = json!({ "model": "gpt-image-2", "prompt": "a cat", "n": 2 });
        house.post("/v1/images/generations", &[], &image).await;
        let other = house.make_key(json!({ "name": "other" })).await;
        let usage = async |key: &str, query: &str| {
            let bearer = format!("Bearer {key}");
            let path = format!("/v1/spendguard/usage{query}");
            call(&house.proxy, Method::GET, &path, &[("authorization", &bearer)], bytes::Bytes::new()).await
        };
        let mine = usage(&house.key, "").await.json();
        assert_eq!((&mine["object"], &mine["requests"]), (&json!("guard.usage"), &json!(2)), "{mine}");
        let rows = mine["data"].as_array().unwrap();
        let of = |model: &str| rows.iter().find(|row| row["model"] == model).unwrap();
        assert_eq!(of("gpt-4o-mini")["cost_usd"], cost.as_str());
        assert_eq!(of("gpt-image-2")["usage"]["images"], 2);
        let now = jiff::Timestamp::from_second(house.guard.clock().now_s()).unwrap();
        let today = now.to_zoned(jiff::tz::TimeZone::get("Europe/Warsaw").unwrap()).date();
        assert_eq!(of("gpt-4o-mini")["day"], today.to_string());
        let others = usage(other["value"].as_str().unwrap(), "").await.json();
        assert_eq!((&others["requests"], &others["data"]), (&json!(0), &json!([])), "{others}");
        let before = usage(&house.key, "?since=2026-01-01&until=2026-02-01").await.json();
        assert_eq!(before["data"], json!([]), "{before}");
        for query in ["?since=soon", "?since=2020-01-01&until=2026-01-01", "?until=1e9"] {
            let wrong = usage(&house.key, query).await;
            assert_eq!(wrong.status, StatusCode::BAD_REQUEST, "{query} {wrong:?}");
        }
    });
}

#[test]
fn the_admin_api_wants_its_token() {
    run(async {
        let house = House::with("").await;
        for headers in
            [vec![], vec![("authorization", "Bearer wrong")], vec![("authorization", house.key.as_str())]]
        {
            let answer =
                call(&house.admin, Method::GET, "/guard/v1/keys", &headers, bytes::Bytes::new()).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        }
        assert_eq!(
            call(&house.admin, Method::GET, "/livez", &[], bytes::Bytes::new()).await.status,
            StatusCode::OK
        );
        assert_eq!(
            call(&house.admin, Method::GET, "/readyz", &[], bytes::Bytes::new()).await.status,
            StatusCode::OK
        );
    });
}

#[test]
fn secrets_are_in_no_answer_metric_or_file() {
    run(async {
        let house = House::with("[[limit]]\nname = \"m\"\nwindow = \"month\"\nhard = 10\n").await;
        house.chat(&[], json!({})).await;
        let mut seen = String::new();
        for path in ["/metrics", "/guard/v1/keys", "/guard/v1/ledger", "/guard/v1/config", "/guard/v1/limits"]
        {
            seen.push_str(&String::from_utf8_lossy(&house.admin(Method::GET, path, None).await.body));
        }
        assert!(seen.contains("spendguard_spend_usd_total"), "the metrics were read");
        let key = house.key.clone();
        let folder = house.close().await;
        for file in std::fs::read_dir(folder.path().join("data")).unwrap() {
            seen.push_str(&String::from_utf8_lossy(&std::fs::read(file.unwrap().path()).unwrap()));
        }
        for secret in [key.as_str(), UPSTREAM_KEY, ADMIN_TOKEN] {
            assert!(!seen.contains(secret), "{secret}");
        }
        assert!(!seen.contains("hello"), "prompts are not kept");
    });
}

#[test]
fn secrets_and_prompts_are_not_in_the_log() {
    run(async {
        let (_fake, address) = Process::fake();
        let place = Place::new(&address, "[[limit]]\nname = \"m\"\nwindow = \"month\"\nhard = 10\n");
        let guard = place.serve();
        let key = guard.make_key().await;
        let wrong = "sk-spg-0123456789abcdefghijklmnopqrstuvwxyz";
        assert_eq!(
            guard.chat(&key, &[("x-spendguard-tags", "team=a")], json!({})).await.status,
            StatusCode::OK
        );
        assert_eq!(guard.chat(wrong, &[], json!({})).await.status, StatusCode::UNAUTHORIZED);
        assert_eq!(guard.chat(&key, &[], json!({ "model": 7 })).await.status, StatusCode::BAD_REQUEST);
        let mut log = String::new();
        for _ in 0..500 {
            log = guard.process.log();
            if log.lines().filter(|line| line.contains("event=request_ended")).count() >= 3 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert_eq!(log.lines().filter(|line| line.contains("event=request_ended")).count(), 3, "{log}");
        for secret in [key.as_str(), wrong, ADMIN_TOKEN, "sk-upstream", "hello"] {
            assert!(!log.contains(secret), "{secret} is in {log}");
        }
    });
}

#[test]
fn metrics_come_as_prometheus_text_and_as_openmetrics() {
    run(async {
        let house = House::with("[[limit]]\nname = \"m\"\nwindow = \"month\"\nhard = 10\n").await;
        house.chat(&[], json!({})).await;
        let text =
            String::from_utf8_lossy(&house.admin(Method::GET, "/metrics", None).await.body).into_owned();
        assert!(text.contains("# TYPE spendguard_requests_total counter"));
        assert!(text.contains("spendguard_limit_hard{limit=\"m\",subject=\"org\",unit=\"usd\"} 10"));
        let accept = [("accept", "application/openmetrics-text; version=1.0.0")];
        let open = call(&house.admin, Method::GET, "/metrics", &accept, bytes::Bytes::new()).await;
        assert!(open.header("content-type").starts_with("application/openmetrics-text"));
        let open = String::from_utf8_lossy(&open.body).into_owned();
        assert!(open.contains("# TYPE spendguard_requests counter") && open.ends_with("# EOF\n"));
    });
}

//! Prepaid credit: granted, spent, used up, expired, and never overdrawn.

use std::rc::Rc;
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use spendguard::domain::Money;

use crate::harness::{House, call, client, run, true_cost_nano};
use crate::process::{Place, Process, Serving, served};

/// Small grants, and no request waits for room or gets less than it asked for.
const SMALL: &str = "[credit]\nminimum = 0.000001\nlow_balance = 0.0001\n\
                     [guard]\nwhen_tight = \"reject\"\nhold_wait = \"0s\"\n";

async fn grant(house: &House, body: Value) -> Value {
    let answer = house.admin(Method::POST, "/guard/v1/credits", Some(body)).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    answer.json()
}

async fn credits(house: &House) -> Value {
    house.admin(Method::GET, "/guard/v1/credits", None).await.json()
}

async fn books_agree(house: &House) {
    let report = house.admin(Method::GET, "/guard/v1/ledger/verify", None).await.json();
    assert_eq!(report["ok"], true, "{report:#}");
}

fn amount(value: &Value) -> i64 {
    value.as_str().unwrap().parse::<Money>().unwrap().nano()
}

#[test]
fn without_a_grant_no_credit_is_asked_for() {
    run(async {
        let house = House::with("").await;
        assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK);
        let shown = credits(&house).await;
        let zero = json!("0");
        for field in ["balance_usd", "granted_usd", "used_usd", "expired_usd", "held_usd"] {
            assert_eq!(shown[field], zero, "{shown}");
        }
        assert_eq!((&shown["grants"], &shown["mode"]), (&json!([]), &Value::Null));
    });
}

#[test]
fn credit_is_spent_and_then_refused_as_openai_does() {
    run(async {
        let house = House::with(SMALL).await;
        house.chat(&[], json!({})).await;
        let made = grant(&house, json!({ "amount_usd": "0.02", "note": "order 7" })).await;
        let metrics = house.admin(Method::GET, "/metrics", None).await;
        let zero = "{limit=\"prepaid credit\",reason=\"credit_balance_exhausted\"} 0";
        assert!(String::from_utf8_lossy(&metrics.body).contains(zero), "a counter is there before it counts");
        assert_eq!((&made["object"], &made["status"]), (&json!("guard.credit_grant"), &json!("active")));
        assert_eq!((&made["amount_usd"], &made["note"]), (&json!("0.02"), &json!("order 7")));
        let before = true_cost_nano(&house.fake);
        let costly = json!({ "max_completion_tokens": 10_000 });
        let answer = house.chat(&[("x-fake-completion-tokens", "9000")], costly.clone()).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let spent = i64::try_from(true_cost_nano(&house.fake) - before).unwrap();
        let shown = credits(&house).await;
        assert_eq!((amount(&shown["used_usd"]), &shown["held_usd"]), (spent, &json!("0")));
        assert_eq!(amount(&shown["balance_usd"]), 20_000_000 - spent);
        // What leaves the tightest room is said, be it a limit or credit.
        assert_eq!(answer.header("x-spendguard-remaining-usd"), shown["balance_usd"].as_str().unwrap());
        for _ in 0..2 {
            house.chat(&[("x-fake-completion-tokens", "9000")], costly.clone()).await;
        }
        let refused = house.chat(&[], costly).await;
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
        let error = &refused.json()["error"];
        assert_eq!(
            (&error["type"], &error["code"]),
            (&json!("insufficient_quota"), &json!("credit_balance_exhausted"))
        );
        assert!(error["message"].as_str().unwrap().starts_with("You exceeded your current quota"), "{error}");
        assert_eq!((refused.header("x-should-retry"), refused.header("retry-after")), ("false", ""));
        // More credit lets the next one through.
        grant(&house, json!({ "amount_usd": "1" })).await;
        assert_eq!(house.chat(&[], json!({ "max_completion_tokens": 10_000 })).await.status, StatusCode::OK);
        books_agree(&house).await;
    });
}

#[test]
fn a_grant_that_can_not_be_is_refused_and_changes_nothing() {
    run(async {
        let house = House::with("").await;
        let now_s = house.guard.clock().now_s();
        for (body, param) in [
            (json!({ "amount_usd": "4.99" }), json!("amount_usd")),
            (json!({ "amount_usd": "-5" }), json!("amount_usd")),
            (json!({ "amount_usd": "1000001" }), json!("amount_usd")),
            (json!({ "amount_usd": "five" }), json!("amount_usd")),
            (json!({ "amount_usd": "5.0000000001" }), json!("amount_usd")),
            (json!({ "amount_usd": "5", "expires_at": now_s }), json!("expires_at")),
            (json!({ "amount_usd": "5", "expires_at": -1 }), json!("expires_at")),
            (json!({ "amount_usd": "5", "expires_at": i64::MAX }), json!("expires_at")),
            (json!({ "amount_usd": "5", "expires_at": i64::MAX / 1_000 }), json!("expires_at")),
            (json!({ "amount_usd": "5", "note": "x".repeat(1_001) }), json!("note")),
            (json!({ "amount_usd": "5", "expires": 1 }), Value::Null),
            (json!({ "amount_usd": 5 }), Value::Null),
            (json!({ "note": "nothing" }), Value::Null),
        ] {
            let answer = house.admin(Method::POST, "/guard/v1/credits", Some(body.clone())).await;
            assert!(answer.status.is_client_error(), "{body}: {answer:?}");
            assert_eq!(answer.json()["error"]["param"], param, "{body}: {answer:?}");
        }
        assert_eq!(credits(&house).await["grants"], json!([]));
        assert!(house.entries().await.is_empty());
        grant(&house, json!({ "amount_usd": "5", "expires_at": now_s + 99 * 365 * 86_400 })).await;
        books_agree(&house).await;
    });
}

#[test]
fn credit_expires_and_what_was_left_is_lost() {
    run(async {
        let house = House::with(SMALL).await;
        let soon_s = house.guard.clock().now_s() + 2;
        grant(&house, json!({ "amount_usd": "1" })).await;
        grant(&house, json!({ "amount_usd": "0.5", "expires_at": soon_s })).await;
        house.chat(&[], json!({})).await;
        let shown = credits(&house).await;
        let used = amount(&shown["used_usd"]);
        assert_eq!(
            amount(&shown["grants"][0]["used_usd"]),
            used,
            "what expires first is spent first: {shown}"
        );
        assert_eq!(amount(&shown["balance_usd"]), 1_500_000_000 - used);
        while house.guard.clock().now_s() < soon_s {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let shown = credits(&house).await;
        assert_eq!(amount(&shown["expired_usd"]), 500_000_000 - used, "{shown}");
        assert_eq!((&shown["balance_usd"], &shown["grants"][0]["status"]), (&json!("1"), &json!("expired")));
        house.chat(&[], json!({})).await;
        let shown = credits(&house).await;
        assert_eq!(amount(&shown["grants"][1]["used_usd"]), used, "{shown}");
        books_agree(&house).await;
    });
}

#[test]
fn hundreds_at_once_never_spend_more_than_was_granted() {
    run(async {
        let house = Rc::new(House::with(SMALL).await);
        grant(&house, json!({ "amount_usd": "0.005" })).await;
        let clients = (0..300).map(|_| {
            let house = Rc::clone(&house);
            tokio::task::spawn_local(async move {
                let body = json!({ "max_completion_tokens": 50 });
                let answer = house.chat(&[("x-fake-completion-tokens", "50")], body).await;
                (answer.status, answer.code())
            })
        });
        let mut admitted = 0;
        for asked in clients.collect::<Vec<_>>() {
            let (status, code) = asked.await.unwrap();
            match (status, code.as_str()) {
                (StatusCode::OK, _) => admitted += 1,
                (StatusCode::TOO_MANY_REQUESTS, "spend_limit_held" | "credit_balance_exhausted") => {}
                other => panic!("{other:?}"),
            }
        }
        house.settled().await;
        let spent = i64::try_from(true_cost_nano(&house.fake)).unwrap();
        let shown = credits(&house).await;
        assert_eq!(amount(&shown["used_usd"]), spent);
        assert!(spent <= 5_000_000 && admitted > 50, "{spent} spent by {admitted}");
        books_agree(&house).await;
    });
}

#[test]
fn the_output_is_clamped_to_what_credit_affords() {
    run(async {
        let house = House::with("[credit]\nminimum = 0.000001\n").await;
        grant(&house, json!({ "amount_usd": "0.001" })).await;
        let answer = house.chat(&[], json!({ "max_completion_tokens": 10_000 })).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let clamped: i64 = answer.header("x-spendguard-clamped-output-tokens").parse().unwrap();
        assert!(clamped > 1_000 && clamped * 600 < 1_000_000, "{clamped}");
    });
}

#[test]
fn a_model_without_a_price_can_not_be_paid_by_credit() {
    run(async {
        let house = House::with("").await;
        let ask = json!({ "model": "nobody-knows-1" });
        assert_eq!(house.chat(&[], ask.clone()).await.status, StatusCode::OK);
        grant(&house, json!({ "amount_usd": "5" })).await;
        assert_eq!(house.chat(&[], ask).await.code(), "model_not_priced");
    });
}

#[test]
fn in_shadow_mode_credit_is_counted_and_no_request_refused() {
    run(async {
        let house = House::with("[credit]\nminimum = 0.000001\nmode = \"shadow\"\n").await;
        grant(&house, json!({ "amount_usd": "0.000001" })).await;
        assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK);
        let shown = credits(&house).await;
        assert_eq!(shown["mode"], "shadow");
        assert!(amount(&shown["balance_usd"]) < 0, "{shown}");
        let metrics = house.admin(Method::GET, "/metrics", None).await;
        let text = String::from_utf8_lossy(&metrics.body).into_owned();
        assert!(text.contains("spendguard_would_reject_total{limit=\"prepaid credit\"} 1"), "{text}");
        assert!(text.contains("spendguard_credit_balance_usd -0.0000"), "{text}");
    });
}

#[test]
fn a_key_sees_the_credit_that_it_depends_on() {
    run(async {
        let house = House::with("[[limit]]\nname = \"m\"\nwindow = \"month\"\nhard = 100\n").await;
        let ask = async |path: &str| {
            let bearer = format!("Bearer {}", house.key);
            call(&house.proxy, Method::GET, path, &[("authorization", &bearer)], bytes::Bytes::new())
                .await
                .json()
        };
        assert_eq!(ask("/v1/spendguard/me").await["credit_balance_usd"], Value::Null);
        assert_eq!(ask("/dashboard/billing/credit_grants").await["total_available"], 100.0);
        grant(&house, json!({ "amount_usd": "25", "note": "secret of the house" })).await;
        assert_eq!(ask("/v1/spendguard/me").await["credit_balance_usd"], "25");
        let grants = ask("/dashboard/billing/credit_grants").await;
        assert_eq!((&grants["total_granted"], &grants["total_available"]), (&json!(25.0), &json!(25.0)));
        assert_eq!(grants["grants"]["data"][0]["grant_amount"], 25.0);
        assert!(!grants.to_string().contains("secret of the house"));
        // A limit that leaves less is the one that counts.
        grant(&house, json!({ "amount_usd": "500" })).await;
        assert_eq!(ask("/dashboard/billing/credit_grants").await["total_available"], 100.0);
        let answer = house.chat(&[], json!({})).await;
        let cost: f64 = answer.header("x-spendguard-cost-usd").parse().unwrap();
        assert_eq!(ask("/dashboard/billing/credit_grants").await["total_used"], cost);
    });
}

#[test]
fn a_low_balance_and_a_refusal_alert_once_for_each_grant() {
    run(async {
        let house = House::with(SMALL).await;
        let kinds = async || {
            house.guard.core().flush().await.unwrap();
            let alerts = house.admin(Method::GET, "/guard/v1/alerts", None).await.json();
            let kinds: Vec<String> = alerts["data"]
                .as_array()
                .unwrap()
                .iter()
                .map(|alert| alert["kind"].as_str().unwrap().to_owned())
                .collect();
            kinds
        };
        grant(&house, json!({ "amount_usd": "0.0002" })).await;
        assert_eq!(kinds().await, Vec::<String>::new());
        for _ in 0..2 {
            house.chat(&[("x-fake-completion-tokens", "100")], json!({ "max_completion_tokens": 200 })).await;
        }
        assert_eq!(kinds().await, ["credit_low"]);
        for _ in 0..3 {
            let refused = house.chat(&[], json!({ "max_completion_tokens": 10_000 })).await;
            assert_eq!(refused.code(), "credit_balance_exhausted");
        }
        assert_eq!(kinds().await, ["credit_used_up", "credit_low"]);
        let lines: Vec<Value> =
            house.entries().await.into_iter().filter(|e| e["kind"] == "threshold").collect();
        assert_eq!(lines.len(), 2, "{lines:#?}");
        assert!(lines[1]["note"].as_str().unwrap().contains("are left, less than $0.0001"), "{lines:#?}");
        books_agree(&house).await;
    });
}

#[test]
fn grants_are_in_the_ledger_and_in_the_audit_log_and_what_is_forged_is_found() {
    run(async {
        let house = House::with("").await;
        let made = grant(&house, json!({ "amount_usd": "25", "note": "order 7" })).await;
        let entry = house.entries().await.remove(0);
        assert_eq!((&entry["kind"], &entry["cost_usd"]), (&json!("grant"), &json!("0")));
        assert_eq!(entry["note"], "prepaid credit: $25.00 granted: order 7");
        let logs = house.admin(Method::GET, "/v1/organization/audit_logs", None).await.json();
        let log = &logs["data"][0];
        assert_eq!(log["type"], "credit.granted", "{log}");
        assert!(log.to_string().contains(made["id"].as_str().unwrap()), "{log}");
        let db = rusqlite::Connection::open(house.folder.path().join("data/spendguard.db")).unwrap();
        for (sql, words) in [
            (
                "UPDATE credit_grant SET amount_nano = amount_nano * 2",
                ["$50.00 granted", "25 USD granted, grants"],
            ),
            ("DELETE FROM credit_grant", ["there is no such grant", "add up to 0"]),
        ] {
            assert_eq!(db.execute(sql, []).unwrap(), 1);
            let report = house.admin(Method::GET, "/guard/v1/ledger/verify", None).await.json();
            let text = report["differences"].to_string();
            assert!(words.iter().all(|word| text.contains(word)), "{sql}: {report:#}");
        }
    });
}

#[test]
fn a_mistaken_grant_is_taken_back_by_a_correction() {
    run(async {
        let house = House::with("").await;
        grant(&house, json!({ "amount_usd": "2500", "note": "a typing error" })).await;
        let id = house.entries().await[0]["id"].as_str().unwrap().to_owned();
        let adjust = async |id: &str, usd: &str| {
            let body = json!({ "amount_usd": usd, "note": "it was meant to be 25" });
            house.admin(Method::POST, &format!("/guard/v1/ledger/{id}/adjust"), Some(body)).await
        };
        let made = adjust(&id, "-2475").await;
        assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
        let made = made.json();
        assert_eq!(made["note"], "prepaid credit: $2475.00 taken back: it was meant to be 25");
        assert_eq!(made["corrects"], id, "{made}");
        let shown = credits(&house).await;
        let states: Vec<&Value> = [0, 1].map(|at| &shown["grants"][at]["status"]).into();
        assert_eq!(states, ["correction", "active"], "{shown}");
        assert_eq!(shown["grants"][0]["corrects"], shown["grants"][1]["id"], "{shown}");
        for (usd, status) in [("-26", 400), ("1000000", 400), ("1", 201), ("-1", 201)] {
            assert_eq!(adjust(&id.replace("ent_", "grant_"), usd).await.status.as_u16(), status, "{usd}");
        }
        let logs = house.admin(Method::GET, "/v1/organization/audit_logs", None).await.json();
        assert_eq!(logs["data"][0]["type"], "credit.adjusted", "{logs}");
        assert_eq!((&shown["balance_usd"], &shown["granted_usd"]), (&json!("25"), &json!("25")));
        assert_eq!(adjust("ent_9999", "-1").await.status, StatusCode::NOT_FOUND);
        books_agree(&house).await;
    });
}

#[test]
fn kill_9_forgets_no_grant_and_charges_what_was_open() {
    run(async {
        let (_fake, url) = Process::fake();
        let (place, upstream) = (Place::new(&url, SMALL), client(&url));
        let serving = place.serve();
        let key = serving.make_key().await;
        serving.chat(&key, &[], json!({})).await;
        let add = async |serving: &Serving, usd: &str| {
            let body = json!({ "amount_usd": usd });
            serving.ask(Method::POST, "/guard/v1/credits", Some(body)).await;
        };
        add(&serving, "0.01").await;
        add(&serving, "0.005").await;
        serving.chat(&key, &[], json!({})).await;
        // An ending that a kill -9 finds still unwritten is charged at its hold.
        serving.written(2).await;
        let hanging = [("x-fake-hang", "1")];
        let open = serving.chat(&key, &hanging, json!({ "max_completion_tokens": 20_000 }));
        // Held in memory it may still be unwritten; what has come to upstream is not.
        let arrived = async {
            while served(&upstream).await.0 < 3 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            () = arrived => {}
            answer = open => panic!("{answer:?}"),
        }
        let before = serving.ask(Method::GET, "/guard/v1/credits", None).await;
        assert_ne!(before["held_usd"], "0");
        serving.process.kill();
        let serving = place.serve();
        let after = serving.ask(Method::GET, "/guard/v1/credits", None).await;
        assert_eq!((&after["granted_usd"], &after["held_usd"]), (&json!("0.015"), &json!("0")));
        let charged = amount(&before["used_usd"]) + amount(&before["held_usd"]);
        assert_eq!(amount(&after["used_usd"]), charged, "{before} {after}");
        let refused = serving.chat(&key, &[], json!({ "max_completion_tokens": 20_000 })).await;
        assert_eq!(refused.code(), "credit_balance_exhausted");
        serving.verify().await;
    });
}

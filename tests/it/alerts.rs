//! Alerts: who gets them, how often, and what a channel that fails does to others.

mod addresses;
mod mail;
mod outage;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{House, run};

/// A place that takes what is posted to it, or refuses.
#[derive(Clone, Default)]
pub(crate) struct Receiver {
    pub(crate) got: Arc<Mutex<Vec<(String, Value)>>>,
    pub(crate) refuses: Arc<AtomicBool>,
}

impl Receiver {
    /// Starts to listen; returns where.
    pub(crate) async fn listen(&self) -> String {
        async fn take(State(to): State<Receiver>, headers: HeaderMap, body: String) -> StatusCode {
            let id = headers.get("webhook-id").map_or("", |id| id.to_str().unwrap()).to_owned();
            to.got.lock().unwrap().push((id, serde_json::from_str(&body).unwrap()));
            if to.refuses.load(Ordering::Relaxed) {
                StatusCode::INTERNAL_SERVER_ERROR
            } else {
                StatusCode::OK
            }
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = axum::Router::new().fallback(take).with_state(self.clone());
        // The test's own task; it ends with the test's runtime.
        tokio::task::spawn_local(async move { axum::serve(listener, router).await.unwrap() });
        format!("http://{address}/hook")
    }

    /// Waits until so much has come, and a little longer.
    pub(crate) async fn after(&self, count: usize) -> Vec<(String, Value)> {
        for _ in 0..500 {
            if self.got.lock().unwrap().len() >= count {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        self.got.lock().unwrap().clone()
    }
}

const LIMIT: &str = r#"
[[limit]]
name = "monthly"
window = "month"
soft = [0.000001]
hard = 0.01
"#;

/// A guard that tells `receivers`, and keeps their secret in a file.
pub(crate) async fn house(receivers: &[&Receiver], limits: &str) -> (House, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    let mut config = limits.to_owned();
    for receiver in receivers {
        let url = receiver.listen().await;
        config.push_str(&format!(
            "[[alerts.webhook]]\nurl = {url:?}\nsecret = {{ file = \"{}\" }}\n",
            secret.display()
        ));
    }
    (House::with(&config).await, folder)
}

async fn alerts(house: &House) -> Vec<Value> {
    let answer = house.admin(Method::GET, "/guard/v1/alerts", None).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()["data"].as_array().unwrap().clone()
}

#[test]
fn a_soft_threshold_is_sent_once_to_each_channel() {
    run(async {
        let (one, two) = (Receiver::default(), Receiver::default());
        let (house, _folder) = house(&[&one, &two], LIMIT).await;
        for _ in 0..3 {
            assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK);
        }
        for receiver in [&one, &two] {
            let got = receiver.after(1).await;
            assert_eq!(got.len(), 1, "{got:?}");
            assert_eq!(got[0].1["type"], "limit.soft");
            let data = &got[0].1["data"];
            assert_eq!((&data["limit"], &data["hard"]), (&json!("monthly"), &json!("0.01")), "{data}");
        }
        let listed = alerts(&house).await;
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0]["id"], one.after(1).await[0].0.as_str());
        for delivery in listed[0]["deliveries"].as_array().unwrap() {
            assert_eq!((&delivery["state"], &delivery["attempts"]), (&json!("sent"), &json!(1)));
        }
    });
}

#[test]
fn a_hard_limit_that_refuses_many_alerts_once_and_again_when_raised_and_hit() {
    run(async {
        let receiver = Receiver::default();
        let (house, _folder) = house(&[&receiver], "").await;
        for (hard, sent) in [("0.000001", 1), ("0.000002", 2)] {
            let rule = json!({ "window": "month", "hard": hard });
            let put = house.admin(Method::PUT, "/guard/v1/limits/tight", Some(rule)).await;
            assert_eq!(put.status, StatusCode::OK, "{put:?}");
            if hard == "0.000001" {
                // So that something is settled, and the next is over the cap for good.
                let open = json!({ "window": "month", "hard": "1" });
                house.admin(Method::PUT, "/guard/v1/limits/tight", Some(open)).await;
                assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK);
                let rule = json!({ "window": "month", "hard": hard });
                house.admin(Method::PUT, "/guard/v1/limits/tight", Some(rule)).await;
            }
            for _ in 0..5 {
                let refused = house.chat(&[], json!({})).await;
                assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS, "{refused:?}");
            }
            let got = receiver.after(sent).await;
            assert_eq!(got.len(), sent, "{got:?}");
            assert_eq!(got[sent - 1].1["type"], "limit.hard");
        }
        let verified = house.admin(Method::GET, "/guard/v1/ledger/verify", None).await.json();
        assert_eq!(verified["ok"], true, "{verified}");
    });
}

#[test]
fn a_channel_that_fails_is_tried_again_and_holds_up_no_other() {
    run(async {
        let (deaf, well) =
            (Receiver { refuses: Arc::new(true.into()), ..Receiver::default() }, Receiver::default());
        let (house, _folder) = house(&[&deaf, &well], LIMIT).await;
        assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK);
        assert_eq!(well.after(1).await.len(), 1);
        assert_eq!(deaf.after(1).await.len(), 1, "the next try is seconds away");
        let deliveries = alerts(&house).await[0]["deliveries"].clone();
        assert_eq!(deliveries[0]["state"], "waiting", "{deliveries}");
        assert!(deliveries[0]["error"].as_str().unwrap().contains("500"), "{deliveries}");
        assert!(deliveries[0]["next_attempt_at"].is_i64(), "{deliveries}");
        assert_eq!(deliveries[1]["state"], "sent", "{deliveries}");
        let tested = house.admin(Method::POST, "/guard/v1/alerts/test", None).await.json();
        assert_eq!(tested["data"][0]["state"], "failed", "{tested}");
        assert_eq!(tested["data"][1]["state"], "sent", "{tested}");
        let metrics = house.admin(Method::GET, "/metrics", None).await;
        let text = String::from_utf8(metrics.body.to_vec()).unwrap();
        assert!(text.contains(r#"spendguard_alerts_total{channel="webhook",state="failed"} 1"#), "{text}");
    });
}

#[test]
fn without_a_channel_alerts_are_listed_and_not_sent_later() {
    run(async {
        let (house, _folder) = house(&[], LIMIT).await;
        assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK);
        for _ in 0..100 {
            if !alerts(&house).await.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(alerts(&house).await[0]["deliveries"], json!([]));
        house.guard.core().flush().await.unwrap();
        let db = rusqlite::Connection::open(house.folder.path().join("data/spendguard.db")).unwrap();
        let unrouted = "SELECT count(*) FROM crossing WHERE is_routed = 0";
        assert_eq!(db.query_row(unrouted, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
    });
}

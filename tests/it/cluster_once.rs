//! What several guards do at the same time, and may be done once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, StatusCode};
use serde_json::json;

use crate::alerts::Receiver;
use crate::cluster::Cluster;
use crate::harness::{House, call, run};
use crate::objects::MAKERS;
use crate::objects::upstream::{self, Kept};
use crate::postgres::Postgres;

/// A limit whose thresholds are crossed one after the other.
pub(crate) const THRESHOLDS: &str = "[[limit]]\nname = \"steps\"\nwindow = \"month\"\nsoft = [0.000001, 0.000002, 0.000003]\n\
                          hard = 1\n";

/// A channel that takes connections and never answers; returns where it is.
async fn silent() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        let mut open = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            open.push(stream);
        }
    });
    format!("http://{address}/hook")
}

pub(crate) fn webhook(url: &str, folder: &tempfile::TempDir) -> String {
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    format!("[[alerts.webhook]]\nurl = {url:?}\nsecret = {{ file = \"{}\" }}\n", secret.display())
}

#[test]
fn a_guard_claims_the_message_that_it_sends_and_no_other() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let cluster = Cluster::new(&format!("{}{THRESHOLDS}", webhook(&silent().await, &folder)));
        let guard = cluster.serve();
        let key = guard.make_key().await;
        assert_eq!(guard.chat(&key, &[], json!({})).await.status, StatusCode::OK);
        let ask = |statement: &str| cluster.postgres.ask(statement);
        for _ in 0..500 {
            if ask("SELECT count(*) FROM delivery WHERE next_ms > extract(epoch FROM now()) * 1000") != "0" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(ask("SELECT count(*) FROM delivery WHERE state = 'waiting'"), "3");
        let claimed = ask("SELECT count(*) FROM delivery WHERE next_ms > extract(epoch FROM now()) * 1000");
        assert_eq!(claimed, "1");
    });
}

#[test]
fn a_guard_leaves_messages_for_a_channel_that_it_does_not_have_to_another() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let receiver = Receiver::default();
        let url = receiver.listen().await;
        receiver.refuses.store(true, std::sync::atomic::Ordering::Relaxed);
        let cluster = Cluster::new(&format!("{}{THRESHOLDS}", webhook(&url, &folder)));
        let guard = cluster.serve();
        let key = guard.make_key().await;
        assert_eq!(guard.chat(&key, &[], json!({})).await.status, StatusCode::OK);
        receiver.after(1).await;
        let states =
            || cluster.postgres.ask("SELECT state, count(*) FROM delivery GROUP BY state ORDER BY state");
        assert_eq!(states(), "waiting|3");
        cluster.place.configure(THRESHOLDS);
        let without = cluster.serve();
        let other = without.make_key().await;
        assert_eq!(without.chat(&other, &[], json!({})).await.status, StatusCode::OK);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(states(), "waiting|3");
    });
}

#[test]
fn a_minute_of_a_container_that_guards_use_at_once_is_charged_once() {
    run(async {
        let postgres = Postgres::start();
        let kept = Arc::new(Kept::default());
        let base_url = format!("http://{}/v1", upstream::serve(&kept).await);
        let a = House::sharing(&postgres, Some(&base_url), MAKERS).await;
        let b = House::sharing(&postgres, Some(&base_url), MAKERS).await;
        let bearer = format!("Bearer {}", a.key);
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        for round in 0..4 {
            let body = Bytes::from(json!({ "memory_limit": "1g" }).to_string());
            let made = call(&a.proxy, Method::POST, "/v1/containers", &headers, body).await;
            assert_eq!(made.status, StatusCode::OK, "{made:?}");
            let path = format!("/v1/containers/{}", made.json()["id"].as_str().unwrap());
            tokio::time::sleep(Duration::from_millis(1_100)).await;
            let used = join_all((0..12).map(|number| {
                let guard = if number % 2 == 0 { &a } else { &b };
                call(&guard.proxy, Method::GET, &path, &headers, Bytes::new())
            }));
            assert!(used.await.iter().all(|answer| answer.status == StatusCode::OK));
            a.settled().await;
            let charged = postgres.ask(
                "SELECT count(*), sum(cost_nano) FROM entry WHERE endpoint = '/v1/containers/{}' AND cost_nano > 0",
            );
            let rounds = round + 1;
            assert_eq!(
                charged,
                format!("{rounds}|{}", rounds * 1_500_000),
                "a minute of 1 GB for each round"
            );
        }
    });
}

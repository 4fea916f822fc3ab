//! What several guards do at the same time, and may be done once.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use spendguard::domain::Money;
use spendguard::domain::demand::Bound;
use spendguard::guard::{Denied, Ending, Reservation, ReserveRequest};
use spendguard::ledger::entry::{Attribution, Basis, Job};

use crate::accrual;
use crate::alerts::Receiver;
use crate::cluster::Cluster;
use crate::harness::{Answer, House, call, run};
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
        let a = House::sharing(&postgres, Some(&base_url), "").await;
        let b = House::sharing(&postgres, Some(&base_url), "").await;
        let bearer = format!("Bearer {}", a.key);
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        for round in 0..4 {
            let tools = json!([{ "type": "code_interpreter", "container": { "type": "auto" } }]);
            let body = json!({ "model": "gpt-5", "input": "go", "max_output_tokens": 50, "tools": tools });
            let body = Bytes::from(body.to_string());
            let made = call(&a.proxy, Method::POST, "/v1/responses", &headers, body).await;
            assert_eq!(made.status, StatusCode::OK, "{made:?}");
            let made = made.json();
            let path = format!("/v1/containers/{}", made["output"][2]["container_id"].as_str().unwrap());
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

/// Two guards that share a database, before one upstream.
async fn two_guards() -> (Postgres, House, House) {
    let postgres = Postgres::start();
    let a = House::sharing(&postgres, None, accrual::LIMIT).await;
    let b = House::sharing(&postgres, Some(&a.fake_url()), accrual::LIMIT).await;
    (postgres, a, b)
}

/// Sends a request of a key that another guard may have made.
async fn post(house: &House, key: &str, path: &str, body: Value) -> Answer {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    call(&house.proxy, Method::POST, path, &headers, body.to_string().into()).await
}

/// Adds six files to a store at once, by two guards in turns, with a key of the first.
async fn add_files_at_once([a, b]: [&House; 2], files: &str) {
    for number in 0..6 {
        accrual::knows_file(a, &format!("file-{number}")).await;
    }
    let added = join_all((0..6).map(|number| {
        let house = if number % 2 == 0 { a } else { b };
        post(house, &a.key, files, json!({ "file_id": format!("file-{number}") }))
    }));
    let added = added.await;
    assert!(added.iter().all(|answer| answer.status == StatusCode::OK), "{added:?}");
    a.guard.core().flush().await.unwrap();
    b.guard.core().flush().await.unwrap();
}

#[test]
fn files_that_guards_add_to_a_store_at_once_are_all_held_and_its_deletion_ends_it_once() {
    run(async {
        let (postgres, a, b) = two_guards().await;
        let bearer = format!("Bearer {}", a.key);
        let headers = [("authorization", bearer.as_str())];
        let store = post(&a, &a.key, "/v1/vector_stores", json!({ "name": "a" })).await.json();
        let store = format!("/v1/vector_stores/{}", store["id"].as_str().unwrap());
        let container = post(&b, &a.key, "/v1/containers", json!({ "name": "a" })).await.json();
        let container = format!("/v1/containers/{}", container["id"].as_str().unwrap());
        let files = format!("{store}/files");
        add_files_at_once([&a, &b], &files).await;
        let jobs = || postgres.ask("SELECT kind, count(*) FROM job GROUP BY kind ORDER BY kind");
        assert_eq!(jobs(), "container|1\nvector_store|1");
        // Six files of 64 MiB for a day, and 23 minutes.
        assert_eq!(a.meter("all").await["held"], "0.072");
        for path in [&store, &container] {
            let deleted = join_all(
                [&a, &b].map(|house| call(&house.proxy, Method::DELETE, path, &headers, Bytes::new())),
            );
            let deleted = deleted.await;
            assert!(deleted.iter().any(|answer| answer.status == StatusCode::OK), "{deleted:?}");
        }
        a.settled().await;
        assert_eq!((jobs().as_str(), a.meter("all").await["held"].as_str()), ("", Some("0")));
        let charged =
            "SELECT count(*), sum(cost_nano) FROM entry WHERE endpoint = '/v1/containers' AND cost_nano > 0";
        assert_eq!(postgres.ask(charged), "1|7500000", "five minutes, once");
    });
}

/// A hold of a request that was sent.
async fn sent(house: &House, nano: i64) -> Reservation {
    let bound = Bound { cost: Money::from_nano(nano), ..Bound::default() };
    for _ in 0..20 {
        let request = ReserveRequest {
            rules_version: house.guard.core().rules_version(),
            ..ReserveRequest::new(Arc::new(Attribution::default()), bound)
        };
        match house.guard.reserve(request).await {
            Ok(mut reservation) => {
                reservation.mark_sent();
                return reservation;
            }
            // Another guard has made its key meanwhile.
            Err(Denied::Outdated) => {}
            Err(denied) => panic!("{denied:?}"),
        }
    }
    panic!("the rules don't come to rest");
}

#[test]
fn of_guards_that_begin_the_job_of_an_object_at_once_one_does_and_the_hold_of_the_other_is_its_own() {
    run(async {
        let (postgres, a, b) = two_guards().await;
        for round in 0..8 {
            let (kind, object) = ("test".to_owned(), format!("object_{round}"));
            let job = Job { kind, object: object.clone(), deadline_s: i64::MAX, terms: String::new() };
            let (of_a, of_b) = (sent(&a, 3_000).await, sent(&b, 3_000).await);
            let begun = tokio::join!(a.guard.detach(of_a, job.clone()), b.guard.detach(of_b, job));
            let lost = match begun {
                (Ok(()), Err(lost)) | (Err(lost), Ok(())) => lost,
                begun => panic!("{begun:?}"),
            };
            assert_eq!(postgres.ask("SELECT count(*) FROM job"), "1");
            // As the hold of a request whose object can't be followed.
            lost.assume(Ending::default());
            let (job, _) = a.guard.resume_job("test", &object).await.unwrap().unwrap();
            job.release(Ending::default());
            a.settled().await;
            b.settled().await;
            assert_eq!(postgres.ask("SELECT count(*) FROM job"), "0");
        }
        assert_eq!(a.meter("all").await["held"], "0");
        let charged = postgres.ask("SELECT count(*), sum(cost_nano) FROM entry WHERE basis = 'assumed'");
        assert_eq!(charged, "8|24000", "each once");
    });
}

#[test]
fn files_that_guards_add_at_once_to_a_store_without_a_job_are_all_followed_by_one_job() {
    run(async {
        let (postgres, a, b) = two_guards().await;
        let store = post(&a, &a.key, "/v1/vector_stores", json!({ "name": "a" })).await.json();
        let store = store["id"].as_str().unwrap();
        let (job, _) = a.guard.resume_job("vector_store", store).await.unwrap().unwrap();
        job.release(Ending::default());
        a.guard.core().flush().await.unwrap();
        let files = format!("/v1/vector_stores/{store}/files");
        add_files_at_once([&a, &b], &files).await;
        assert_eq!(postgres.ask("SELECT count(*) FROM job WHERE kind = 'vector_store'"), "1");
        assert_eq!(postgres.ask("SELECT count(*) FROM hold"), "0");
        assert_eq!(postgres.ask("SELECT count(*) FROM entry WHERE basis = 'assumed'"), "0");
        let held: f64 = a.meter("all").await["held"].as_str().unwrap().parse().unwrap();
        // Some may have seen at upstream what others had added, and hold it twice.
        assert!((0.037_5..0.12).contains(&held), "six files of 64 MiB for a day: {held}");
    });
}

#[test]
fn an_object_that_is_deleted_while_another_guard_renews_its_hold_is_followed_no_further() {
    run(async {
        let (postgres, a, b) = two_guards().await;
        let bearer = format!("Bearer {}", a.key);
        let headers = [("authorization", bearer.as_str())];
        let renewed = Cell::new(0);
        for round in 0..40 {
            let made = post(&a, &a.key, "/v1/containers", json!({ "name": "a" })).await.json();
            let id = made["id"].as_str().unwrap();
            let renew = async {
                let next = sent(&b, 3_000).await;
                tokio::time::sleep(Duration::from_micros(300 * round)).await;
                let Some((last, open)) = b.guard.resume_job("container", id).await.unwrap() else {
                    return next.release(Ending::default());
                };
                let renewing = last.renew(Basis::Counted, Ending::default(), next, open.job.clone());
                match renewing.await {
                    Ok(settled) => {
                        renewed.set(renewed.get() + 1);
                        settled
                    }
                    Err(next) => next.release(Ending::default()),
                }
            };
            let path = format!("/v1/containers/{id}");
            let delete = call(&a.proxy, Method::DELETE, &path, &headers, Bytes::new());
            let (deleted, _) = tokio::join!(delete, renew);
            assert_eq!(deleted.status, StatusCode::OK, "{deleted:?}");
            a.settled().await;
            b.settled().await;
            let seen = format!("round {round}, {} renewed", renewed.get());
            assert_eq!(postgres.ask("SELECT count(*) FROM job"), "0", "{seen}");
            assert_eq!(a.meter("all").await["held"], "0", "{seen}");
        }
        assert!((1..40).contains(&renewed.get()), "{} renewed", renewed.get());
    });
}

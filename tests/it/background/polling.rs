//! The guard asks for the outcome of jobs that no client reads.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::json;
use spendguard::app::rules;
use spendguard::domain::Money;
use spendguard::domain::demand::Bound;
use spendguard::guard::ReserveRequest;
use spendguard::jobs::Poller;
use spendguard::ledger::entry::{Attribution, Job};
use spendguard::upstream::roots;
use tokio::sync::watch;

use super::{LASTING, LIMIT, SHORT, begun, body, booked, held, read, reported};
use crate::harness::{House, run};
use crate::scripted::{Reply, guard_before, response};

/// Waits until so many responses are booked, within so many seconds.
async fn booked_within(house: &House, count: usize, seconds: u64) -> Vec<(Money, String)> {
    for _ in 0..seconds * 10 {
        let booked = booked(house).await;
        if booked.len() >= count {
            return booked;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{:?} are booked", booked(house).await);
}

#[test]
fn a_response_that_no_client_reads_is_settled_and_jobs_are_a_metric() {
    run(async {
        let house = House::with(LIMIT).await;
        begun(&house, &[SHORT]).await;
        let lasting = begun(&house, &[LASTING]).await;
        assert_eq!(booked_within(&house, 1, 10).await, [reported(&house)]);
        let metrics = house.admin(http::Method::GET, "/metrics", None).await;
        let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
        assert!(metrics.contains("spendguard_jobs{kind=\"response\",state=\"open\"} 1"), "{metrics}");
        assert_eq!(read(&house, &lasting).await.json()["status"], "in_progress");
        assert!(held(&house).await > Money::ZERO);
    });
}

#[test]
fn a_drain_waits_for_no_job_and_one_that_upstream_does_not_know_at_once_is_not_given_up() {
    run(async {
        let first = House::with(LIMIT).await;
        begun(&first, &[LASTING]).await;
        let drained = tokio::time::timeout(Duration::from_secs(5), first.close());
        let folder = drained.await.expect("a drain waits for no job");
        // The fake of the next guard knows no such response. It is young: upstream may not know it yet.
        let next = House::reopened(folder, LIMIT).await;
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        assert!(held(&next).await > Money::ZERO);
        assert_eq!(booked(&next).await, []);
    });
}

#[test]
fn whatever_upstream_says_of_a_job_it_stays_held_until_its_end_is_seen() {
    run(async {
        let asked = Rc::new(Cell::new(0));
        let count = Rc::clone(&asked);
        let (house, _) = guard_before(LIMIT, move |path, _| {
            if path.ends_with("/responses") {
                return Reply::Json(json!({ "id": "resp_1", "object": "response", "status": "queued" }));
            }
            count.set(count.get() + 1);
            let status = |status: &str| json!({ "id": "resp_1", "object": "response", "status": status });
            match count.get() {
                1 => Reply::Error(404),
                2 => Reply::Error(500),
                3 => Reply::Json(status("on_holiday")),
                4 => Reply::Json(json!(["no object"])),
                5 => Reply::Error(401),
                6 => Reply::Json(status("in_progress")),
                _ => Reply::Json(response("gpt-4o-mini", 10, 20)),
            }
        })
        .await;
        house.post("/v1/responses", &[], &body(json!({}))).await;
        // The guard itself asks at its own pace; a client asks faster.
        for expected in [404, 500, 200, 200] {
            let answer = read(&house, "resp_1").await;
            assert_eq!(answer.status.as_u16(), expected, "{answer:?}");
            assert!(held(&house).await > Money::ZERO);
            assert_eq!(booked(&house).await, []);
        }
        while asked.get() < 6 {
            read(&house, "resp_1").await;
        }
        assert_eq!(read(&house, "resp_1").await.json()["status"], "completed");
        // 10 input tokens at 0.15 and 20 output tokens at 0.60 dollars a million.
        assert_eq!(booked(&house).await, [(Money::from_nano(13_500), "reported".to_owned())]);
    });
}

/// Has a hold of a job that began long ago, and that no guard has a key for, by the terms of one
/// that the fake began now.
async fn overdue(house: &House) {
    let begun = begun(house, &[LASTING]).await;
    let open = house.guard.find_job("response", &begun).await.unwrap().unwrap();
    let bound = Bound { cost: Money::from_nano(7_000), input_tokens: 1, output_tokens: 1 };
    let attribution = Attribution { endpoint: "/v1/responses".into(), ..Attribution::default() };
    let request = ReserveRequest {
        rules_version: house.guard.core().rules_version(),
        ..ReserveRequest::new(Arc::new(attribution), bound)
    };
    let mut reservation = house.guard.reserve(request).await.unwrap();
    reservation.mark_sent();
    let terms = open.job.terms.replace("\"is_own\":true", "\"is_own\":false");
    let other = Job { object: "resp_of_yesterday".to_owned(), deadline_s: 1, terms, ..open.job.clone() };
    house.guard.detach(reservation, other).await.unwrap();
}

#[test]
fn a_job_that_never_ends_is_charged_its_hold_some_time_after_its_deadline() {
    run(async {
        let house = House::with(LIMIT).await;
        overdue(&house).await;
        // Another poller than the guard's, which gives it up at once.
        let environment = [("OPENAI_API_KEY".to_owned(), "sk-x".to_owned())];
        let base = ("SPENDGUARD_UPSTREAM__BASE_URL".to_owned(), "http://127.0.0.1:9/v1".to_owned());
        let settings = spendguard::config::load(None, environment.into_iter().chain([base])).unwrap();
        let pools = rules::upstreams(&settings, None, 1, &roots());
        let (rules, _) = rules::of(&settings, pools).unwrap();
        let (_stop, stopping) = watch::channel(false);
        let rules = Arc::new(ArcSwap::from_pointee(rules));
        let poller = Poller::new(Arc::clone(&house.guard), rules, Duration::ZERO);
        tokio::task::spawn_local(poller.run(stopping));
        let booked = booked_within(&house, 1, 20).await;
        assert_eq!(booked, [(Money::from_nano(7_000), "assumed".to_owned())]);
        let entry = house.entries().await.into_iter().find(|entry| entry["cost_usd"] == "0.000007").unwrap();
        assert!(entry["note"].as_str().unwrap().contains("deadline"), "{entry}");
        assert!(held(&house).await > Money::ZERO, "the other goes on");
    });
}

#[test]
fn what_a_client_of_its_own_key_begins_is_settled_by_its_own_reads_alone() {
    run(async {
        let asked = Rc::new(Cell::new(0));
        let count = Rc::clone(&asked);
        let (house, _) =
            guard_before(&format!("{LIMIT}[keys]\nunknown = \"pass-through\"\n"), move |path, _| {
                if path.ends_with("/responses") {
                    return Reply::Json(json!({ "id": "resp_1", "object": "response", "status": "queued" }));
                }
                count.set(count.get() + 1);
                Reply::Json(response("gpt-4o-mini", 10, 20))
            })
            .await;
        let headers: [(&str, &str); 2] =
            [("authorization", "Bearer sk-of-the-client"), ("content-type", "application/json")];
        let request = bytes::Bytes::from(body(json!({})).to_string());
        let answer =
            crate::harness::call(&house.proxy, http::Method::POST, "/v1/responses", &headers, request).await;
        assert_eq!(answer.json()["status"], "queued", "{answer:?}");
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        assert_eq!(
            (asked.get(), booked(&house).await),
            (0, Vec::new()),
            "the guard's key is of another account"
        );
        let path = "/v1/responses/resp_1";
        crate::harness::call(&house.proxy, http::Method::GET, path, &headers[..1], bytes::Bytes::new()).await;
        assert_eq!(booked(&house).await, [(Money::from_nano(13_500), "reported".to_owned())]);
    });
}

//! What keys ask of the guard itself, and wrong keys: neither is at the cost of others.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::json;

use super::{ONE, ask, key};
use crate::harness::{House, call, run};

#[test]
fn what_a_key_asks_of_the_guard_itself_counts_on_rates() {
    run(async {
        let config =
            "[[limit]]\nname = \"rate\"\nper = \"key\"\nunit = \"requests\"\nwindow = \"minute\"\nhard = 4\n";
        let house = House::with(config).await;
        let bearer = format!("Bearer {}", house.key);
        let headers = [("authorization", bearer.as_str())];
        let today = "start_date=2026-11-01&end_date=2026-11-30";
        let paths =
            ["/v1/spendguard/me", "/dashboard/billing/subscription", "/v1/dashboard/billing/credit_grants"];
        let usage = format!("/v1/dashboard/billing/usage?{today}");
        for path in paths.into_iter().chain([usage.as_str()]) {
            let answer = call(&house.proxy, Method::GET, path, &headers, Bytes::new()).await;
            assert_eq!(answer.status, StatusCode::OK, "{path}");
            assert_eq!(answer.header("x-ratelimit-limit-requests"), "4");
        }
        let answer = call(&house.proxy, Method::GET, &usage, &headers, Bytes::new()).await;
        assert_eq!(
            (answer.status, answer.code()),
            (StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded".into())
        );
        assert_eq!(
            house.chat(&[], json!({})).await.status,
            StatusCode::TOO_MANY_REQUESTS,
            "they count together"
        );
    });
}

#[test]
fn a_key_has_so_many_questions_open_and_operators_wait_for_none_of_them() {
    run(async {
        let house = House::with("").await;
        assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK);
        let key = house.guard.ring().keys()[0].id.clone();
        let mut open = Vec::new();
        for _ in 0..6 {
            open.push(house.guard.question(&key).await.unwrap());
        }
        let bearer = format!("Bearer {}", house.key);
        let headers = [("authorization", bearer.as_str())];
        let me = async || call(&house.proxy, Method::GET, "/v1/spendguard/me", &headers, Bytes::new()).await;
        let refused = me().await;
        assert_eq!(
            (refused.status, refused.code()),
            (StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded".into())
        );
        assert_eq!((refused.header("retry-after"), refused.header("x-should-retry")), ("1", "true"));
        // One that waits is answered when another has been.
        let freed = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            open.pop();
        };
        let (waited, ()) = tokio::join!(me(), freed);
        assert_eq!(waited.status, StatusCode::OK);
        for number in 0..19 {
            open.push(house.guard.question(&format!("key_{number}").into()).await.unwrap());
        }
        assert!(house.guard.question(&"key_19".into()).await.is_none(), "there is a bound for all of them");
        drop(open);
        assert_eq!(me().await.status, StatusCode::OK);
        // A question that takes its time is answered by a reader of its own.
        let (send, received) = std::sync::mpsc::sync_channel::<()>(1);
        let slow = house.books.reports().occupy_keys(move || received.recv().unwrap());
        let operators = async {
            let began = house.guard.clock().running();
            let answer = house.admin(Method::GET, "/guard/v1/usage?group_by=key&since=0", None).await;
            assert_eq!(answer.status, StatusCode::OK);
            send.send(()).unwrap();
            house.guard.clock().running().saturating_sub(began)
        };
        let (slow, took) = tokio::join!(slow, operators);
        slow.unwrap();
        assert!(took < Duration::from_secs(5), "{took:?}");
    });
}

#[test]
fn a_keys_usage_is_its_own_whatever_its_project_was_and_of_a_year_at_most() {
    run(async {
        let house = House::with("[[project]]\nid = \"b\"\nname = \"B\"\n").await;
        let other = key(&house, "other").await;
        let id = house.guard.ring().keys().into_iter().find(|key| &*key.name == "test").unwrap().id.clone();
        for (key, count) in [(&house.key, 3), (&other, 2)] {
            for _ in 0..count {
                assert_eq!(ask(&house, key, ONE, 0).await.status, StatusCode::OK);
            }
        }
        let moved = house
            .admin(Method::PATCH, &format!("/guard/v1/keys/{id}"), Some(json!({ "project_id": "b" })))
            .await;
        assert_eq!(moved.status, StatusCode::OK, "{moved:?}");
        assert_eq!(ask(&house, &house.key, ONE, 0).await.status, StatusCode::OK);
        house.settled().await;
        let bearer = format!("Bearer {}", house.key);
        let usage = async |from: &str, to: &str| {
            let path = format!("/v1/dashboard/billing/usage?start_date={from}&end_date={to}");
            call(&house.proxy, Method::GET, &path, &[("authorization", &bearer)], Bytes::new()).await
        };
        let today = jiff::Zoned::now().with_time_zone(jiff::tz::TimeZone::UTC).date();
        let (from, to) = (today.yesterday().unwrap().to_string(), today.tomorrow().unwrap().to_string());
        let answer = usage(&from, &to).await.json();
        let spent = house.admin(Method::GET, "/guard/v1/usage?group_by=key&since=0", None).await.json();
        let own = spent["data"].as_array().unwrap().iter().find(|sum| sum["group"]["key_id"] == *id).unwrap();
        let usd: f64 = own["cost_usd"].as_str().unwrap().parse().unwrap();
        assert_eq!(own["requests"], 4);
        assert!((answer["total_usage"].as_f64().unwrap() - usd * 100.0).abs() < 1e-9, "{answer} and {own}");
        assert_eq!(usage("2025-01-01", "2026-01-02").await.status, StatusCode::OK, "366 days");
        assert_eq!(usage("2025-01-01", "2026-01-03").await.status, StatusCode::BAD_REQUEST);
    });
}

#[test]
fn wrong_keys_are_counted_apart_and_paced_and_good_ones_never_wait_for_them() {
    run(async {
        let house = Rc::new(House::with("[[limit]]\nname = \"none\"\nwindow = \"total\"\nhard = 0\n").await);
        assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::TOO_MANY_REQUESTS);
        let began = house.guard.clock().running();
        let clients = (0..10).map(|client| {
            let house = Rc::clone(&house);
            tokio::task::spawn_local(async move {
                for number in 0..20 {
                    let wrong = format!("sk-wrong-{client}-{number}");
                    let answer = ask(&house, &wrong, ONE, 0).await;
                    assert_eq!(
                        (answer.status, answer.code()),
                        (StatusCode::UNAUTHORIZED, "invalid_api_key".into())
                    );
                }
            })
        });
        let clients: Vec<_> = clients.collect();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let asked = house.guard.clock().running();
        assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::TOO_MANY_REQUESTS);
        assert!(
            house.guard.clock().running().saturating_sub(asked) < Duration::from_millis(900),
            "a good key waited {:?}",
            house.guard.clock().running().saturating_sub(asked)
        );
        for client in clients {
            client.await.unwrap();
        }
        // A hundred at once, then twenty a second.
        assert!(
            house.guard.clock().running().saturating_sub(began) > Duration::from_secs(2),
            "200 were answered within {:?}",
            house.guard.clock().running().saturating_sub(began)
        );
        let refusals = house.guard.rejections();
        assert!(refusals.iter().all(|refusal| refusal.reason == "spend_limit_exceeded"), "{refusals:?}");
        assert_eq!(refusals.len(), 2, "what operators look for is not pushed out");
        let metrics = house.admin(Method::GET, "/metrics", None).await.body;
        let counted = "spendguard_rejections_total{limit=\"\",reason=\"invalid_api_key\"} 200";
        assert!(String::from_utf8_lossy(&metrics).contains(counted));
    });
}

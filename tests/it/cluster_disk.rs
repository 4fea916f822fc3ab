//! The disk of the database is full, on a small tmpfs. Where none can be mounted the test says so
//! and is over.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::json;
use spendguard::clock::Clock;

use crate::cluster::{Cluster, ONE_DOLLAR};
use crate::disk::Disk;
use crate::harness::{call, run};
use crate::process::{Serving, served};

/// Asks until an answer has a status; panics after twenty seconds. Returns how many were answered
/// by 200 until then, with that one.
async fn until(guard: &Serving, key: &str, wanted: StatusCode) -> usize {
    let (began, mut answered) = (Clock::default(), 0);
    loop {
        let answer = guard.chat(key, &[], json!({ "max_completion_tokens": 5 })).await;
        if answer.status == StatusCode::OK {
            answered += 1;
        } else {
            let said = (answer.status, answer.code(), answer.header("x-should-retry").to_owned());
            let refused =
                (StatusCode::SERVICE_UNAVAILABLE, "ledger_unavailable".to_owned(), "true".to_owned());
            assert_eq!(said, refused, "{answer:?}");
        }
        if answer.status == wanted {
            return answered;
        }
        assert!(began.running() < Duration::from_secs(20), "{answer:?}, not {wanted}");
    }
}

#[test]
fn while_the_disk_of_the_database_is_full_what_is_answered_is_booked_and_nothing_is_lost() {
    run(async {
        let cluster = Cluster::new(ONE_DOLLAR);
        let place = cluster.postgres.place("small");
        let Some(disk) = Disk::mounted(&place, "size=64m,mode=777") else { return };
        cluster.postgres.move_to(&place);
        let guards = [cluster.serve(), cluster.serve()];
        let key = guards[0].make_key().await;
        let mut answered = until(&guards[0], &key, StatusCode::OK).await;
        answered += until(&guards[1], &key, StatusCode::OK).await;
        let slow: &[(&str, &str)] = &[("x-fake-latency-ms", "1500")];
        let running = guards.each_ref().map(|guard| guard.chat(&key, slow, json!({})));
        let full = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            disk.fill();
            let mut answered = 0;
            for guard in &guards {
                answered += until(guard, &key, StatusCode::SERVICE_UNAVAILABLE).await;
                let began = Clock::default();
                // A sign of life that finds room makes a guard try again, once a second.
                while call(&guard.proxy, Method::GET, "/readyz", &[], Bytes::new()).await.status
                    != StatusCode::SERVICE_UNAVAILABLE
                {
                    assert!(began.running() < Duration::from_secs(5), "{}", guard.process.log());
                    answered += until(guard, &key, StatusCode::SERVICE_UNAVAILABLE).await;
                }
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
            answered
        };
        let (ended, more) = tokio::join!(futures_util::future::join_all(running), full);
        assert!(ended.iter().all(|answer| answer.status == StatusCode::OK), "{ended:?}");
        answered += more + ended.len();
        assert!(guards[0].process.log().contains("No space left on device"), "the log says why");
        disk.free();
        for guard in &guards {
            answered += until(guard, &key, StatusCode::OK).await;
            assert_eq!(
                call(&guard.proxy, Method::GET, "/readyz", &[], Bytes::new()).await.status,
                StatusCode::OK
            );
        }
        cluster.at_rest(&guards[0]).await;
        let (truth, settled, _) = cluster.truth(&guards[1]).await;
        assert_eq!(truth, settled, "every ending was kept, and is written once");
        assert_eq!(
            served(&cluster.fake).await.0,
            u64::try_from(answered).unwrap(),
            "nothing else went upstream"
        );
        let written = "SELECT count(*), count(DISTINCT id) FROM entry WHERE kind = 'settle'";
        assert_eq!(cluster.postgres.ask(written), format!("{answered}|{answered}"));
        guards[1].verify().await;
    });
}

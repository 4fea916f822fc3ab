//! Jobs outlive the guard that began them: killed and started again, or one of several on a
//! shared database.

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use spendguard::domain::Money;

use super::body;
use crate::cluster::{Cluster, ONE_DOLLAR};
use crate::harness::{Answer, call, client, run};
use crate::process::{Place, Process, Serving, served};

async fn begun(guard: &Serving, key: &str, reads: &str) -> String {
    let bearer = format!("Bearer {key}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
        ("x-fake-background-reads", reads),
    ];
    let answer =
        call(&guard.proxy, Method::POST, "/v1/responses", &headers, body(json!({})).to_string().into()).await;
    assert_eq!(answer.json()["status"], "queued", "{answer:?}");
    answer.json()["id"].as_str().unwrap().to_owned()
}

async fn read(guard: &Serving, key: &str, id: &str) -> Answer {
    let bearer = format!("Bearer {key}");
    let path = format!("/v1/responses/{id}");
    call(&guard.proxy, Method::GET, &path, &[("authorization", &bearer)], Bytes::new()).await
}

/// How each response was settled.
async fn bases(guard: &Serving) -> Vec<String> {
    let entries = guard.ask(Method::GET, "/guard/v1/ledger?kind=settle&limit=1000", None).await;
    let entries = entries["data"].as_array().unwrap().iter();
    let of = entries.filter(|entry| entry["endpoint"] == "/v1/responses");
    of.map(|entry: &Value| entry["basis"].as_str().unwrap().to_owned()).collect()
}

/// Waits until so many responses are settled, within twenty seconds.
async fn settled(guard: &Serving, count: usize) -> Vec<String> {
    for _ in 0..200 {
        let bases = bases(guard).await;
        if bases.len() >= count {
            return bases;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("{:?} are settled", bases(guard).await);
}

#[test]
fn a_job_outlives_kill_9_and_is_settled_at_what_it_cost() {
    run(async {
        let (_fake, address) = Process::fake();
        let fake = client(&address);
        let place = Place::new(&address, ONE_DOLLAR.split("[cluster]").next().unwrap());
        let guard = place.serve();
        let key = guard.make_key().await;
        let id = begun(&guard, &key, "1").await;
        guard.process.kill();
        let guard = place.serve();
        assert!(guard.meter("all").await.1 > Money::ZERO, "it is not charged by the start, and counts");
        assert_eq!(settled(&guard, 1).await, ["reported"]);
        assert_eq!(guard.meter("all").await, (Money::from_nano(served(&fake).await.1), Money::ZERO));
        assert_eq!(read(&guard, &key, &id).await.json()["status"], "completed", "it is still its project's");
        guard.verify().await;
    });
}

#[test]
fn a_job_is_settled_once_by_whichever_guard_sees_its_end_and_outlives_the_one_that_began_it() {
    run(async {
        let cluster = Cluster::new(ONE_DOLLAR);
        let (one, other) = (cluster.serve(), cluster.serve());
        let key = one.make_key().await;
        let first = begun(&one, &key, "0").await;
        assert!(other.meter("all").await.1 > Money::ZERO);
        let readers = (0..4).flat_map(|_| [read(&one, &key, &first), read(&other, &key, &first)]);
        for answer in futures_util::future::join_all(readers).await {
            assert_eq!(answer.json()["status"], "completed", "{answer:?}");
        }
        assert_eq!(settled(&other, 1).await, ["reported"]);
        let (truth, settled_now, held) = cluster.truth(&other).await;
        assert_eq!((settled_now, held), (truth, 0));

        for reads in ["1", "1", "2"] {
            begun(&one, &key, reads).await;
        }
        one.process.kill();
        assert_eq!(settled(&other, 4).await, ["reported"; 4]);
        // Past the time at which the dead guard is given up.
        tokio::time::sleep(std::time::Duration::from_secs(6)).await;
        let (truth, settled_now, held) = cluster.truth(&other).await;
        assert_eq!((settled_now, held), (truth, 0));
        assert_eq!(bases(&other).await.len(), 4);
        other.verify().await;
    });
}

//! Limits for each value of a tag in sessions: the handshake's headers name it for all that is begun.

use http::StatusCode;
use serde_json::json;

use super::{by_hand, create, until};
use crate::harness::{House, run};
use crate::sockets::{next, say, settled};

const RUNS: &str =
    "[[limit]]\nname = \"runs\"\nper = \"tag:run\"\nunit = \"requests\"\nwindow = \"total\"\nhard = 1\n";

#[test]
fn each_response_of_a_session_counts_for_the_run_that_its_handshake_names() {
    run(async {
        let house = House::with(RUNS).await;
        for of in ["a", "b"] {
            let tags = format!("run={of}");
            let mut socket = by_hand(&house, &[("x-spendguard-tags", tags.as_str())]).await;
            say(&mut socket, &create(json!({}))).await;
            until(&mut socket, "response.done").await;
            say(&mut socket, &create(json!({}))).await;
            let error = next(&mut socket).await;
            assert_eq!(
                (&error["status"], &error["error"]["code"]),
                (&json!(429), &json!("project_spend_limit_exceeded")),
                "{error}"
            );
            assert!(error.to_string().contains(&format!("for run={of} within this key")), "{error}");
        }
        let runs: Vec<_> = settled(&house).await.iter().map(|entry| entry["tags"]["run"].clone()).collect();
        assert_eq!(runs, ["b", "a"]);
    });
}

#[test]
fn a_request_for_a_client_secret_takes_of_the_rate_of_its_run() {
    run(async {
        let house = House::with(&RUNS.replace("total", "minute")).await;
        let body = json!({ "session": { "type": "realtime", "model": "gpt-realtime" } });
        for (of, status) in
            [("a", StatusCode::OK), ("a", StatusCode::TOO_MANY_REQUESTS), ("b", StatusCode::OK)]
        {
            let tags = format!("run={of}");
            let headers = [("x-spendguard-tags", tags.as_str())];
            let answer = house.post("/v1/realtime/client_secrets", &headers, &body).await;
            assert_eq!(answer.status, status, "{of}: {answer:?}");
        }
    });
}

//! Limits for each value of a tag on a socket: each message is a request with a value of its own.

use serde_json::json;

use super::{create, opened, response, say, settled};
use crate::harness::{House, run};

const RUNS: &str = "[tags]\nrun = [\"metadata.run_id\", \"prompt_cache_key\", \"x-spendguard-tags\"]\n\
    [[limit]]\nname = \"runs\"\nper = \"tag:run\"\nunit = \"requests\"\nwindow = \"total\"\nhard = 1\n";

#[test]
fn each_message_on_a_socket_counts_for_the_run_that_it_names() {
    run(async {
        let house = House::with(RUNS).await;
        let mut socket = opened(&house, &[("x-spendguard-tags", "run=of-the-socket")]).await;
        for (more, expected) in [
            (json!({ "metadata": { "run_id": "a" } }), "response.completed"),
            (json!({ "prompt_cache_key": "b" }), "response.completed"),
            (json!({ "prompt_cache_key": "a" }), "error"),
            (json!({}), "response.completed"),
            (json!({}), "error"),
            (json!({ "metadata": { "run_id": "c" } }), "response.completed"),
        ] {
            say(&mut socket, &create(more.clone())).await;
            let events = response(&mut socket).await;
            let last = events.last().unwrap();
            assert_eq!(last["type"], expected, "{more}: {last}");
            if expected == "error" {
                let text = last.to_string();
                assert!(text.contains("project_spend_limit_exceeded") && text.contains("for run="), "{text}");
            }
        }
        let entries = settled(&house).await;
        let mut runs: Vec<_> = entries.iter().filter_map(|entry| entry["tags"]["run"].as_str()).collect();
        runs.sort_unstable();
        assert_eq!(runs, ["a", "b", "c", "of-the-socket"]);
    });
}

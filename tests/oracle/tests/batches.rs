//! Bills of batches that were computed by hand from the published prices.

use oracle::World;
use oracle::batch::{charges, most};
use serde_json::{Value, json};

fn chat(name: &str, model: &str) -> String {
    let body = json!({ "model": model, "max_completion_tokens": 100, "messages": [{ "role": "user", "content": "hello" }] });
    let line = json!({ "custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body });
    format!("{line}\n")
}

fn answered(name: &str, model: &str, usage: &Value) -> String {
    let body = json!({ "model": model, "service_tier": "default", "usage": usage });
    let response = json!({ "status_code": 200, "request_id": "req_1", "body": body });
    format!("{}\n", json!({ "id": "batch_req_1", "custom_id": name, "response": response, "error": null }))
}

fn charge(model: &str, usage: &Value) -> u128 {
    let charges = charges(&World::default(), &answered("a", model, usage)).expect("a known model");
    assert_eq!(charges.len(), 1);
    charges[0].1
}

fn responses(input: u64, cached: u64, output: u64) -> Value {
    json!({ "input_tokens": input, "input_tokens_details": { "cached_tokens": cached }, "output_tokens": output })
}

#[test]
fn a_batch_costs_at_most_the_sum_of_its_lines_at_batch_rates() {
    // 5 bytes, 4 tokens around the message, 3 before the answer. A cache write costs 1.25 and output 5 USD per million.
    let sol = 12 * 1_250_000 + 100 * 5_000_000;
    // 0.125 and 1 USD per million.
    let mini = 12 * 125_000 + 100 * 1_000_000;
    let world = World::default();
    assert_eq!(most(&world, &chat("a", "gpt-6.1-sol")), Some(sol));
    let mixed = [chat("a", "gpt-6.1-sol"), "\n".to_owned(), chat("b", "gpt-5-mini"), chat("c", "gpt-5-mini")];
    assert_eq!(most(&world, &mixed.concat()), Some(sol + 2 * mini));
    let at = |tier: &str| {
        chat("a", "gpt-5-mini").replace("\"model\"", &format!("\"service_tier\":\"{tier}\",\"model\""))
    };
    assert_eq!(most(&world, &at("flex")), Some(mini));
    // 0.45 and 3.6 USD per million.
    assert_eq!(most(&world, &at("priority")), Some(12 * 450_000 + 100 * 3_600_000));
    let regional = World { is_regional: true, ..World::default() };
    assert_eq!(most(&regional, &chat("a", "gpt-6.1-sol")), Some(sol * 11 / 10));
    let moderation =
        json!({ "custom_id": "m", "method": "POST", "url": "/v1/moderations", "body": { "input": "x" } });
    assert_eq!(most(&world, &moderation.to_string()), Some(0));
}

#[test]
fn a_file_that_is_no_batch_has_no_price() {
    let world = World::default();
    for line in ["{", "[]", &chat("a", "model-of-tomorrow"), &chat("a", "gpt-5").replace("/chat/", "/films/")]
    {
        assert_eq!(most(&world, &format!("{}{line}", chat("a", "gpt-5"))), None, "{line}");
    }
}

#[test]
fn an_answered_line_costs_what_it_used_at_batch_rates() {
    // 1, 0.05 and 5 USD per million.
    assert_eq!(
        charge("gpt-6.1-sol", &responses(1_000, 400, 20)),
        600 * 1_000_000 + 400 * 50_000 + 20 * 5_000_000
    );
    // As a chat, and as a dated snapshot: 2.5, 0.25 and 15 USD per million.
    let chat = json!({ "prompt_tokens": 100, "prompt_tokens_details": { "cached_tokens": 40 }, "completion_tokens": 7,
        "completion_tokens_details": null, "total_tokens": 107 });
    assert_eq!(charge("gpt-5.5-2026-04-23", &chat), 60 * 2_500_000 + 40 * 250_000 + 7 * 15_000_000);
    // Cached input of these models has no discount in batches.
    assert_eq!(charge("gpt-4o-mini", &responses(100, 40, 0)), 100 * 75_000);
    let embedded = json!({ "prompt_tokens": 9, "total_tokens": 9 });
    assert_eq!(charge("text-embedding-3-small", &embedded), 9 * 10_000);
    // No batch rates are published: the standard ones.
    assert_eq!(charge("gpt-4", &responses(10, 0, 1)), 10 * 30_000_000 + 60_000_000);
}

#[test]
fn what_is_written_to_the_cache_costs_by_how_long_it_is_kept() {
    let usage = json!({
        "input_tokens": 100, "output_tokens": 0,
        "input_tokens_details": {
            "cached_tokens": 10, "cache_write_tokens": 50,
            "cache_write_tokens_details": { "ttl_30m_tokens": 30, "ttl_12h_tokens": 20 },
        },
    });
    let expected = 40 * 1_000_000 + 10 * 50_000 + 30 * 1_250_000 + 20 * 2_500_000;
    assert_eq!(charge("gpt-6.1-sol", &usage), expected);
}

#[test]
fn a_line_costs_the_long_rates_by_its_own_prompt_and_not_by_the_sum_of_all() {
    let long = charge("gpt-6.1-sol", &responses(272_001, 0, 10));
    assert_eq!(long, 272_001 * 2_000_000 + 10 * 7_500_000);
    let lines = answered("a", "gpt-6.1-sol", &responses(200_000, 0, 0)).repeat(2);
    let charges = charges(&World::default(), &lines).expect("a known model");
    assert_eq!(charges.iter().map(|(_, cost)| cost).sum::<u128>(), 400_000 * 1_000_000);
}

#[test]
fn lines_that_were_refused_or_never_answered_cost_nothing() {
    let refused = json!({ "custom_id": "a", "error": null,
        "response": { "status_code": 400, "body": { "error": { "message": "no" } } } });
    let expired = json!({ "custom_id": "b", "response": null, "error": { "code": "batch_expired", "message": "late" } });
    let file = format!("{refused}\n{expired}\n{}", answered("c", "gpt-6.1-sol", &responses(1, 0, 0)));
    let expected = [("a", 0), ("b", 0), ("c", 1_000_000)].map(|(name, cost)| (name.to_owned(), cost));
    assert_eq!(charges(&World::default(), &file).expect("known lines"), expected);
}

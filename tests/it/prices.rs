//! What models cost: unknown versions, regions, limits that only show, sheets
//! that change.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};

use crate::harness::{House, run};

const NO_LIMIT: &str = "";
const ALERT_ONLY: &str = "[[limit]]\nname = \"m\"\nwindow = \"month\"\nsoft = [0.000001]\n";
const SHADOW: &str = "[[limit]]\nname = \"m\"\nwindow = \"month\"\nhard = 10\nmode = \"shadow\"\n";
const HARD: &str = "[[limit]]\nname = \"m\"\nwindow = \"month\"\nhard = 10\n";

/// The newest entry after a request for a model.
async fn entry_of(house: &House, model: &str) -> Value {
    let answer = house.chat(&[], json!({ "model": model, "max_tokens": 20 })).await;
    assert_eq!(answer.status, StatusCode::OK, "{model}: {}", answer.json());
    house.settled().await;
    house.guard.core().flush().await.unwrap();
    house.entries().await[0].clone()
}

/// What an entry cost, in millionths of the list price of gpt-5.6-sol: 5 dollars for a
/// million tokens in, half a dollar for those from a cache, 30 for a million out.
fn at_list_price(entry: &Value) -> i64 {
    let tokens = |class: &str| entry["usage"][class].as_i64().unwrap();
    let cached = tokens("cached_input_tokens");
    let input = 5_000 * (tokens("input_tokens") - cached) + 500 * cached;
    let list_nano = input + 30_000 * tokens("output_tokens");
    let cost = entry["cost_usd"].as_str().unwrap().parse::<spendguard::domain::Money>().unwrap();
    cost.nano() * 1_000_000 / list_nano
}

async fn cost_of(house: &House, model: &str) -> f64 {
    entry_of(house, model).await["cost_usd"].as_str().unwrap().parse().unwrap()
}

#[test]
fn an_unknown_version_of_a_known_family_is_charged_as_its_dearest() {
    run(async {
        let house = House::with(HARD).await;
        let dearest = at_list_price(&entry_of(&house, "gpt-5.6-sol").await);
        assert_eq!(dearest, 1_000_000);
        assert!(at_list_price(&entry_of(&house, "gpt-6.1-sol").await) < dearest);
        for unknown in ["gpt-6.2-sol", "gpt-6.2-sol-2026-12-01"] {
            let share = at_list_price(&entry_of(&house, unknown).await);
            assert_eq!(share, dearest, "{unknown}");
        }
        let refused = house.chat(&[], json!({ "model": "nobody-knows-1" })).await;
        assert_eq!(refused.code(), "model_not_priced");
        let strict = House::with(&format!("{HARD}[pricing]\nunknown_model = \"refuse\"\n")).await;
        assert_eq!(strict.chat(&[], json!({ "model": "gpt-6.2-sol" })).await.code(), "model_not_priced");
        let generous = House::with(&format!("{HARD}[pricing]\nunknown_model = \"dearest\"\n")).await;
        assert!(at_list_price(&entry_of(&generous, "nobody-knows-1").await) > dearest);
    });
}

#[test]
fn limits_that_only_show_count_a_model_without_a_price_as_the_dearest() {
    run(async {
        for limits in [ALERT_ONLY, SHADOW] {
            let house = House::with(limits).await;
            let known = cost_of(&house, "gpt-5.5-pro").await;
            assert!(cost_of(&house, "nobody-knows-1").await >= known, "{limits}");
            let settled: f64 = house.meter("m").await["settled"].as_str().unwrap().parse().unwrap();
            assert!(settled >= 2.0 * known, "{limits}: {settled}");
        }
        let house = House::with(NO_LIMIT).await;
        assert_eq!(entry_of(&house, "nobody-knows-1").await["cost_usd"], "0");
    });
}

#[test]
fn a_region_raises_what_requests_cost_and_is_named_in_the_version() {
    run(async {
        let plain = cost_of(&House::with(HARD).await, "gpt-6.1-sol").await;
        let house = House::with(&format!("{HARD}[pricing]\nregion = \"eu\"\n")).await;
        let entry = entry_of(&house, "gpt-6.1-sol").await;
        let raised: f64 = entry["cost_usd"].as_str().unwrap().parse().unwrap();
        assert!((raised / plain - 1.1).abs() < 1e-9, "{raised} is not 1.1 times {plain}");
        assert!(entry["price_version"].as_str().unwrap().ends_with("+eu"), "{entry}");
    });
}

fn sheet(as_of: &str) -> String {
    json!({ "as_of": as_of, "models": { "gpt-4o-mini": { "rates": { "standard": { "input": "1", "output": "1" } } } } })
        .to_string()
}

#[test]
fn a_price_sheet_that_changes_is_in_force_and_a_bad_one_never() {
    run(async {
        let house = House::with(NO_LIMIT).await;
        let path = house.folder.path().join("prices.json");
        std::fs::write(&path, sheet("2026-01-01")).unwrap();
        let file = house.folder.path().join("own.toml");
        std::fs::write(&file, format!("[pricing]\nsheet = {:?}\n", path.display().to_string())).unwrap();
        let running = crate::reload::serve(&file, &house.fake_url());
        let age = |text: &str| {
            let line =
                text.lines().find(|line| line.starts_with("spendguard_price_sheet_age_seconds")).unwrap();
            line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
        };
        let old = age(&running.metrics().await);
        std::fs::write(&path, sheet("2026-01-11")).unwrap();
        let mut newer = old;
        for _ in 0..100 {
            newer = age(&running.metrics().await);
            if newer < old - 800_000.0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(newer < old - 800_000.0, "ten days newer: {old} {newer}");
        std::fs::write(&path, "{}").unwrap();
        for _ in 0..100 {
            if running.metrics().await.contains("spendguard_config_reload_failures_total 1") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let metrics = running.metrics().await;
        assert!(metrics.contains("spendguard_config_reload_failures_total 1"));
        assert!((age(&metrics) - newer).abs() < 60.0, "the old sheet stays in force");
    });
}

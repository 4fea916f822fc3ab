//! The projections: from the days before to the days to come.

use std::sync::Arc;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use spendguard::books::forecast::Forecaster;
use tokio::sync::watch;

use crate::harness::{House, run};

const LIMITS: &str = r#"
[[limit]]
name = "yearly"
window = "year"
hard = 0.001
[[limit]]
name = "wide"
window = "year"
hard = 1000000
[[limit]]
name = "alerts-only"
window = "month"
soft = [1]
"#;

/// As if so much had been spent on each of the days before today.
fn spent_before(house: &House, days: i64, nano: i64) {
    let db = rusqlite::Connection::open(house.folder.path().join("data/spendguard.db")).unwrap();
    let today = house.guard.clock().now_s().div_euclid(86_400);
    for day in 1..=days {
        let start_s = (today - day) * 86_400 + 3_600;
        db.execute(
            "INSERT INTO rollup VALUES (?1, 'default', 'key_x', '', '', '', 'm', '', '', 1, ?2, 0, 0, 0, 0, 0, 0, 0, 0, \
             0, 0, 0, 0, 0, NULL)",
            (start_s, nano),
        )
        .unwrap();
    }
}

async fn alerts(house: &House) -> Vec<Value> {
    let answer = house.admin(Method::GET, "/guard/v1/alerts", None).await;
    answer.json()["data"].as_array().unwrap().clone()
}

#[test]
fn days_before_give_the_forecast_and_a_cap_that_will_be_reached_alerts_once() {
    run(async {
        let house = House::with(LIMITS).await;
        let shown = house.admin(Method::GET, "/guard/v1/forecast", None).await;
        assert_eq!(shown.status, StatusCode::OK, "{shown:?}");
        let shown = shown.json();
        assert_eq!(shown["month"]["expected"], Value::Null, "nothing is known yet: {shown}");
        assert_eq!(shown["limits"].as_array().unwrap().len(), 2, "{shown}");

        spent_before(&house, 8, 10_000_000_000);
        let now_s = house.guard.clock().now_s();
        for _ in 0..2 {
            let forecaster = Forecaster::new(Arc::clone(&house.books));
            let (_stop, stopping) = watch::channel(false);
            let looked = tokio::select! {
                () = forecaster.run(|| ("UTC".into(), true), stopping) => None,
                looked = forecaster.latest() => looked,
            };
            let looked = looked.unwrap();
            let [wide, yearly] = &looked.limits[..] else { panic!("{looked:?}") };
            let (wide, yearly) =
                if wide.limit.name.contains("wide") { (wide, yearly) } else { (yearly, wide) };
            let forecast = yearly.forecast.unwrap();
            assert_eq!(forecast.days, 8);
            // A thousandth of a dollar at ten dollars a day.
            let reached_s = forecast.reached_s.unwrap();
            assert!((now_s..now_s + 30).contains(&reached_s), "{reached_s} is not soon after {now_s}");
            assert_eq!(wide.forecast.unwrap().reached_s, None);
            assert!(looked.month.forecast.unwrap().expected > looked.month.settled);
        }
        house.guard.core().flush().await.unwrap();
        let sent = alerts(&house).await;
        assert_eq!(sent.len(), 1, "{sent:?}");
        assert_eq!((&sent[0]["kind"], &sent[0]["limit"]), (&json!("forecast"), &json!("yearly")));
    });
}

#[test]
fn a_few_days_are_too_few_to_wake_somebody() {
    run(async {
        let house = House::with(LIMITS).await;
        spent_before(&house, 6, 10_000_000_000);
        let forecaster = Forecaster::new(Arc::clone(&house.books));
        let (_stop, stopping) = watch::channel(false);
        let looked = tokio::select! {
            () = forecaster.run(|| ("UTC".into(), true), stopping) => None,
            looked = forecaster.latest() => looked,
        };
        assert!(looked.unwrap().limits.iter().any(|limit| limit.forecast.unwrap().reached_s.is_some()));
        house.guard.core().flush().await.unwrap();
        assert_eq!(alerts(&house).await.len(), 0);
    });
}

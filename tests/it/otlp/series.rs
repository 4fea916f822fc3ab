//! The metrics as a collector receives them.

use std::collections::BTreeMap;

use http::Method;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, Metric, NumberDataPoint};
use serde_json::json;

use crate::harness::{House, run};
use crate::otlp::collector::Collector;

/// Series in the form of Prometheus text, such as `name{label="value"}`, with their values.
pub(crate) type Series = BTreeMap<String, f64>;

fn labels(attributes: &[opentelemetry_proto::tonic::common::v1::KeyValue]) -> String {
    let pair = |key: &str| format!("{key}=\"{}\"", super::attribute(attributes, key));
    let pairs: Vec<_> = attributes.iter().map(|attribute| pair(&attribute.key)).collect();
    if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) }
}

fn numbers(name: &str, points: &[NumberDataPoint], series: &mut Series) {
    for point in points {
        let Some(Value::AsDouble(value)) = point.value else { panic!("{point:?}") };
        assert!(point.start_time_unix_nano < point.time_unix_nano, "{point:?}");
        series.insert(format!("{name}{}", labels(&point.attributes)), value);
    }
}

pub(crate) fn series_of(metrics: &[Metric]) -> Series {
    let mut series = Series::new();
    for metric in metrics {
        let name = &metric.name;
        match metric.data.as_ref().unwrap() {
            Data::Sum(sum) => {
                let cumulative = i32::from(AggregationTemporality::Cumulative);
                assert_eq!((sum.is_monotonic, sum.aggregation_temporality), (true, cumulative), "{name}");
                assert!(name.ends_with("_total"), "{name}");
                numbers(name, &sum.data_points, &mut series);
            }
            Data::Gauge(gauge) => numbers(name, &gauge.data_points, &mut series),
            Data::Histogram(histogram) => {
                for point in &histogram.data_points {
                    assert_eq!(point.bucket_counts.iter().sum::<u64>(), point.count, "{name}");
                    assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1, "{name}");
                    let count = point.count.to_string().parse().unwrap();
                    series.insert(format!("{name}_count{}", labels(&point.attributes)), count);
                }
            }
            other @ (Data::ExponentialHistogram(_) | Data::Summary(_)) => panic!("{other:?}"),
        }
    }
    series
}

#[test]
fn the_series_of_metrics_are_exported_under_their_names_and_with_their_values() {
    run(async {
        let collector = Collector::start().await;
        let limit = "metrics_interval = \"1h\"\n[[limit]]\nname = \"m\"\nwindow = \"month\"\nhard = 10\n";
        let house = House::with(&collector.config(limit)).await;
        house.chat(&[], json!({})).await;
        house.chat(&[], json!({ "model": 7 })).await;
        house.settled().await;
        let scraped = house.admin(Method::GET, "/metrics", None).await;
        // The last series are sent at the end.
        house.close().await;
        let exported = series_of(&collector.metrics());
        let text = String::from_utf8_lossy(&scraped.body).into_owned();
        let mut compared = 0;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            // What goes on between the two, and the parts of histograms that are checked above.
            let moves = ["_bucket", "_sum", "storage_", "_age_", "commit_seconds", "queue_entries", "otlp_"];
            if moves.iter().any(|part| name.contains(part)) {
                continue;
            }
            compared += 1;
            assert_eq!(exported.get(name).copied(), value.parse().ok(), "{name}");
        }
        assert!(compared > 15, "{text}");
        assert_eq!(
            exported["spendguard_limit_hard{limit=\"m\",subject=\"org\",unit=\"usd\"}"].to_string(),
            "10"
        );
    });
}

#[test]
fn metrics_are_exported_at_intervals_or_not_at_all() {
    run(async {
        let collector = Collector::start().await;
        let house = House::with(&collector.config("metrics_interval = \"1s\"")).await;
        let count = || collector.requests().iter().filter(|of| of.path == "/v1/metrics").count();
        for _ in 0..500 {
            if count() >= 2 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert!(count() >= 2);
        house.close().await;
        let other = Collector::start().await;
        let house = House::with(&other.config("metrics_interval = \"0s\"")).await;
        house.chat(&[], json!({})).await;
        house.close().await;
        assert_eq!(other.spans().len(), 1);
        assert!(other.requests().iter().all(|request| request.path == "/v1/traces"));
    });
}

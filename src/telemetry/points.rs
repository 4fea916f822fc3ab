//! The series of `/metrics` as OTLP has them, under the same names.
//!
//! Counters are cumulative sums from the start of the process, gauges are gauges, histograms are
//! cumulative with the same bounds. The rules are those of OpenTelemetry's page on compatibility
//! with Prometheus.

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum,
};
use prometheus::proto;

use crate::telemetry::wire::Attributes;

/// The interval that points are about, in Unix nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interval {
    pub(super) from_ns: u64,
    pub(super) to_ns: u64,
}

/// The series in parts of at most so many points, since collectors bound the size of a request.
pub(super) fn parts(families: &[proto::MetricFamily], of: Interval, points_max: usize) -> Vec<Vec<Metric>> {
    let mut parts: Vec<Vec<Metric>> = Vec::new();
    let mut room = 0;
    for family in families {
        let mut rest = family.get_metric();
        while !rest.is_empty() {
            if room == 0 {
                parts.push(Vec::new());
                room = points_max.max(1);
            }
            let (now, later) = rest.split_at(room.min(rest.len()));
            if let Some(part) = parts.last_mut() {
                part.extend(metric(family, now, of));
            }
            room -= now.len();
            rest = later;
        }
    }
    parts
}

fn metric(family: &proto::MetricFamily, series: &[proto::Metric], of: Interval) -> Option<Metric> {
    let temporality = AggregationTemporality::Cumulative.into();
    let numbers = |value: fn(&proto::Metric) -> f64| {
        series.iter().map(|series| number(series, value(series), of)).collect()
    };
    let data = match family.get_field_type() {
        proto::MetricType::COUNTER => Data::Sum(Sum {
            data_points: numbers(|series| series.get_counter().get_value()),
            aggregation_temporality: temporality,
            is_monotonic: true,
        }),
        proto::MetricType::GAUGE => {
            Data::Gauge(Gauge { data_points: numbers(|series| series.get_gauge().get_value()) })
        }
        proto::MetricType::HISTOGRAM => Data::Histogram(Histogram {
            data_points: series.iter().map(|series| histogram(series, of)).collect(),
            aggregation_temporality: temporality,
        }),
        // The guard has none of these.
        proto::MetricType::SUMMARY | proto::MetricType::UNTYPED => return None,
    };
    Some(Metric {
        name: family.name().to_owned(),
        description: family.help().to_owned(),
        unit: unit(family.name()).to_owned(),
        data: Some(data),
        ..Metric::default()
    })
}

/// The unit that a name ends in, as UCUM writes it.
fn unit(name: &str) -> &'static str {
    let name = name.strip_suffix("_total").unwrap_or(name);
    match name.rsplit('_').next() {
        Some("seconds") => "s",
        Some("bytes") => "By",
        Some("usd") => "{USD}",
        Some(_) | None => "",
    }
}

fn attributes(series: &proto::Metric) -> Vec<KeyValue> {
    let mut all = Attributes::default();
    for label in series.get_label() {
        all.text(label.name(), label.value());
    }
    all.into_wire()
}

fn number(series: &proto::Metric, value: f64, of: Interval) -> NumberDataPoint {
    NumberDataPoint {
        attributes: attributes(series),
        start_time_unix_nano: of.from_ns,
        time_unix_nano: of.to_ns,
        value: Some(Value::AsDouble(value)),
        ..NumberDataPoint::default()
    }
}

/// Prometheus counts what is up to a bound, OTLP what is between two; the last bucket of OTLP
/// has no upper bound.
fn histogram(series: &proto::Metric, of: Interval) -> HistogramDataPoint {
    let histogram = series.get_histogram();
    let buckets = histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite());
    let (mut explicit_bounds, mut bucket_counts, mut below) = (Vec::new(), Vec::new(), 0);
    for bucket in buckets {
        explicit_bounds.push(bucket.upper_bound());
        bucket_counts.push(bucket.cumulative_count().saturating_sub(below));
        below = bucket.cumulative_count();
    }
    bucket_counts.push(histogram.get_sample_count().saturating_sub(below));
    HistogramDataPoint {
        attributes: attributes(series),
        start_time_unix_nano: of.from_ns,
        time_unix_nano: of.to_ns,
        count: histogram.get_sample_count(),
        sum: Some(histogram.get_sample_sum()),
        bucket_counts,
        explicit_bounds,
        ..HistogramDataPoint::default()
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{CounterVec, Gauge as PromGauge, HistogramOpts, HistogramVec, Opts, Registry};

    use super::*;

    const OF: Interval = Interval { from_ns: 5, to_ns: 9 };

    fn gathered() -> Vec<proto::MetricFamily> {
        let registry = Registry::new();
        let usd = CounterVec::new(Opts::new("a_usd_total", "Dollars."), &["key"]).unwrap();
        let bytes = PromGauge::new("b_bytes", "Bytes.").unwrap();
        let opts = HistogramOpts::new("c_seconds", "Seconds.").buckets(vec![1.0, 2.0]);
        let seconds = HistogramVec::new(opts, &["phase"]).unwrap();
        registry.register(Box::new(usd.clone())).unwrap();
        registry.register(Box::new(bytes.clone())).unwrap();
        registry.register(Box::new(seconds.clone())).unwrap();
        usd.with_label_values(&["k"]).inc_by(1.5);
        usd.with_label_values(&["l"]).inc_by(2.5);
        bytes.set(-3.0);
        for value in [0.5, 1.0, 1.5, 7.0] {
            seconds.with_label_values(&["x"]).observe(value);
        }
        registry.gather()
    }

    /// By the page of OpenTelemetry on Prometheus, and the comments of `metrics.proto`.
    #[test]
    fn series_become_sums_gauges_and_histograms() {
        let all = parts(&gathered(), OF, 100).remove(0);
        let cumulative = i32::from(AggregationTemporality::Cumulative);
        let Some(Data::Sum(sum)) = &all[0].data else { panic!("{all:?}") };
        assert_eq!((all[0].name.as_str(), all[0].unit.as_str()), ("a_usd_total", "{USD}"));
        assert_eq!((sum.is_monotonic, sum.aggregation_temporality), (true, cumulative));
        let point = &sum.data_points[0];
        assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (5, 9));
        assert_eq!((&point.value, point.attributes[0].key.as_str()), (&Some(Value::AsDouble(1.5)), "key"));
        let Some(Data::Gauge(gauge)) = &all[1].data else { panic!("{all:?}") };
        assert_eq!((&gauge.data_points[0].value, all[1].unit.as_str()), (&Some(Value::AsDouble(-3.0)), "By"));
        let Some(Data::Histogram(histogram)) = &all[2].data else { panic!("{all:?}") };
        let point = &histogram.data_points[0];
        assert_eq!((point.count, point.sum, histogram.aggregation_temporality), (4, Some(10.0), cumulative));
        assert_eq!((&point.explicit_bounds, &point.bucket_counts), (&vec![1.0, 2.0], &vec![2, 1, 1]));
    }

    #[test]
    fn a_request_has_no_more_points_than_it_may() {
        let names = |points_max| {
            let parts = parts(&gathered(), OF, points_max);
            parts.iter().map(|part| part.iter().map(|of| of.name.clone()).collect()).collect::<Vec<Vec<_>>>()
        };
        let (usd, bytes, seconds) = ("a_usd_total", "b_bytes", "c_seconds");
        assert_eq!(names(1), [[usd], [usd], [bytes], [seconds]]);
        assert_eq!(names(3), [vec![usd, bytes], vec![seconds]]);
        assert_eq!(names(4), [[usd, bytes, seconds]]);
    }
}

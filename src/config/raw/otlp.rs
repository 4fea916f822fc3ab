//! The export to an OpenTelemetry collector, as written in the file.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::raw::SecretSource;

section! {
    /// The export to an OpenTelemetry collector, over OTLP/HTTP.
    Otlp {
        /// The collector's base URL; `/v1/traces` and `/v1/metrics` are appended. Nothing is
        /// exported without one.
        endpoint: Option<String> = None,
        /// Headers of each request to the collector; each value is a reference to a secret.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        headers: BTreeMap<String, SecretSource> = BTreeMap::new(),
        /// The part of the requests that has a span, such as `10%`. A client that sends a
        /// `traceparent` decides itself.
        traces_ratio: String = "100%".into(),
        /// The time between two exports of the metrics; `0s` for none.
        metrics_interval: String = "60s".into(),
        /// The time limit of one attempt to send.
        timeout: String = "10s".into(),
        /// Spans that may wait to be sent; further ones are dropped.
        queue: usize = 2_048,
    }
}

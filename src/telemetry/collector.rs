//! The collector: posts the messages of one signal, and repeats what may be repeated.
//!
//! By OTLP's specification an answer of 429, 502, 503 or 504, and a connection that failed, are
//! followed by another attempt, after `Retry-After` or growing waits; any other error is final.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::metrics::Metrics;
use crate::telemetry::stage::{Stage, ending};
use crate::telemetry::{Config, Parts};
use crate::upstream::{self, Upstream};

/// Attempts to send one message.
const ATTEMPTS_MAX: u32 = 5;
/// The wait before the second attempt; doubled for each that follows.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// The longest wait, also where the collector asks for more.
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(30);
/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// The most characters of a collector's own words in the log.
const WORDS_CHARS_MAX: usize = 200;

/// One of OTLP's signals.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signal {
    name: &'static str,
    path: &'static str,
}

/// Spans.
pub(super) const TRACES: Signal = Signal { name: "traces", path: "/v1/traces" };
/// Metrics.
pub(super) const METRICS: Signal = Signal { name: "metrics", path: "/v1/metrics" };

/// Where the messages of a signal are sent.
#[derive(Debug)]
pub(super) struct Collector {
    signal: Signal,
    to: Upstream,
    headers: HeaderMap,
    timeout: Duration,
    metrics: Arc<Metrics>,
    /// The stage of the export.
    pub(super) stages: watch::Receiver<Stage>,
    /// Whether the latest message was not taken as a whole.
    is_failing: bool,
}

/// Why an attempt failed.
#[derive(Debug)]
struct Failure {
    problem: String,
    /// Whether another attempt may help, and the wait that the collector asks for.
    again: Option<Option<Duration>>,
}

impl Collector {
    pub(super) fn new(
        config: &Config,
        signal: Signal,
        parts: &Parts,
        stages: watch::Receiver<Stage>,
    ) -> Self {
        let to = upstream::Config {
            base_url: config.endpoint.clone(),
            connect_timeout: config.timeout,
            response_timeout: config.timeout,
        };
        let mut headers = config.headers.clone();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static("spendguard"));
        Self {
            signal,
            to: Upstream::through(config.proxy.as_ref(), &to, &parts.roots),
            headers,
            timeout: config.timeout,
            metrics: Arc::clone(&parts.metrics),
            stages,
            is_failing: false,
        }
    }

    /// Sends a message; returns the answer, or `None` if the collector did not take it.
    pub(super) async fn send(&mut self, message: Vec<u8>) -> Option<Bytes> {
        let message = Bytes::from(message);
        let mut doubled = AGAIN_AFTER;
        for attempt in 1..=ATTEMPTS_MAX {
            let Failure { problem, again } = match self.attempt(message.clone()).await {
                Ok(answer) => return Some(answer),
                Err(failure) => failure,
            };
            self.failed(&problem);
            let wait = again?.unwrap_or_else(|| scattered(doubled)).min(AGAIN_AFTER_MAX);
            doubled = doubled.saturating_mul(2);
            if attempt == ATTEMPTS_MAX || *self.stages.borrow() == Stage::Ending {
                break;
            }
            tokio::select! {
                () = sleep(wait) => {}
                // A last attempt.
                () = ending(&mut self.stages) => {}
            }
        }
        None
    }

    async fn attempt(&self, message: Bytes) -> Result<Bytes, Failure> {
        let again = |problem: String| Failure { problem, again: Some(None) };
        let exchange = async {
            let sent = self.to.send(Method::POST, self.signal.path, self.headers.clone(), message).await;
            let (head, body) = sent.map_err(|error| again(error.to_string()))?.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            let body = body.map(http_body_util::Collected::to_bytes);
            if head.status.is_success() {
                return body.map_err(|error| again(error.to_string()));
            }
            let wait = may_repeat(head.status).then(|| retry_after(&head.headers));
            Err(Failure { problem: format!("it answered {}", head.status), again: wait })
        };
        let late = |_| Err(again(format!("no answer within {:?}", self.timeout)));
        timeout(self.timeout, exchange).await.unwrap_or_else(late)
    }

    /// Notes that a message was taken, except for a number of its spans or points.
    pub(super) fn took(&mut self, rejected: u64, words: &str) {
        if rejected > 0 {
            let words: String = words.chars().filter(|c| !c.is_control()).take(WORDS_CHARS_MAX).collect();
            return self.failed(&format!("it rejected {rejected}: {words}"));
        }
        if std::mem::take(&mut self.is_failing) {
            tracing::info!(
                event = "otlp_export_recovered",
                signal = self.signal.name,
                "the collector takes what is sent again"
            );
        }
    }

    /// Counts a failure, and logs the first of an outage.
    fn failed(&mut self, problem: &str) {
        self.metrics.export_failed(self.signal.name);
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::warn!(
                event = "otlp_export_failed", signal = self.signal.name, %problem,
                "the collector does not take what is sent"
            );
        }
    }
}

fn may_repeat(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

/// The wait that a collector asks for in seconds; a date is not read.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// A wait of half to all of a time, so that guards do not repeat in step.
fn scattered(wait: Duration) -> Duration {
    let half = wait / 2;
    let span_ms = u64::try_from(half.as_millis()).unwrap_or(0).saturating_add(1);
    half + Duration::from_millis(getrandom::u64().unwrap_or(0) % span_ms)
}

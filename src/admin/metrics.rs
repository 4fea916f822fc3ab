//! `/metrics`: Prometheus text, or `OpenMetrics` if the scraper asks for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use prometheus::proto::{MetricFamily, MetricType};
use prometheus::{Encoder as _, TextEncoder};

use crate::admin::error::ApiError;
use crate::admin::{Admin, InForce};
use crate::books::Books;
use crate::books::forecast::{Forecaster, Projection, Projections};
use crate::domain::limit::{Per, Unit};
use crate::domain::{Limit, Money, Window};
use crate::guard::Guard;
use crate::keys::Ring;
use crate::ledger::account::Balance;
use crate::ledger::forecast::Forecast;
use crate::ledger::meter::Reading;
use crate::metrics::{LimitSample, Metrics, dollars, float};
use crate::rulebook::Rulebook;
use crate::stops::Stops;
use crate::store::reports::Sizes;

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// How many meters of one limit get series of their own, the fullest first.
const SUBJECTS_MAX: usize = 1_000;

/// All series, those that mirror the ledger included.
#[derive(Clone, Debug)]
pub struct Series {
    /// Admission.
    pub guard: Arc<Guard>,
    /// Limits and credit.
    pub rulebook: Arc<Rulebook>,
    /// Questions about the past.
    pub books: Arc<Books>,
    /// Kill switches and fuses.
    pub stops: Arc<Stops>,
    /// Projections of spending.
    pub forecaster: Arc<Forecaster>,
    /// The part of the state that the configuration put in force.
    pub in_force: Arc<ArcSwap<InForce>>,
}

pub(crate) async fn metrics(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    match admin.visitor(&headers).await {
        Ok(Some(_)) => {}
        _ if admin.metrics_open => admin.guard.core().see_whole_lately().await,
        Ok(None) => return admin.refusal(&headers),
        Err(error) => return ApiError::from(error).into_response(),
    }
    let families = Series::of(&admin).gather().await;
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let open = accept.contains("application/openmetrics-text");
    let mut text = Vec::new();
    if TextEncoder::new().encode(&families, &mut text).is_err() {
        return ApiError::bad(None, "the metrics could not be written").into_response();
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    let (kind, text) = if open { (OPEN_METRICS, open_metrics(&families, &text)) } else { (TEXT, text) };
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// `OpenMetrics` names a family of counters without its `_total`, and says where
/// the text ends.
fn open_metrics(families: &[MetricFamily], text: &str) -> String {
    let counters: BTreeMap<&str, &str> = families
        .iter()
        .filter(|family| family.get_field_type() == MetricType::COUNTER)
        .filter_map(|family| Some((family.name(), family.name().strip_suffix("_total")?)))
        .collect();
    let mut open = String::with_capacity(text.len() + 6);
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        let comment = (words.next() == Some("#")).then(|| (words.next(), words.next(), words.next()));
        match comment {
            Some((Some(word), Some(name), rest)) => {
                let name = counters.get(name).copied().unwrap_or(name);
                open.push_str(&format!("# {word} {name} {}", rest.unwrap_or_default()));
            }
            Some(_) | None => open.push_str(line),
        }
        open.push('\n');
    }
    open.push_str("# EOF\n");
    open
}

impl Series {
    fn of(admin: &Admin) -> Self {
        let Admin { guard, rulebook, books, stops, forecaster, in_force, .. } = admin.clone();
        Self { guard, rulebook, books, stops, forecaster, in_force }
    }

    /// Reads them, of the whole ledger as it was seen last. It is called on one thread only.
    pub async fn gather(&self) -> Vec<MetricFamily> {
        let sizes = self.books.reports().sizes().await;
        // Without a pause from here on, so that no reader sees gauges that another one is setting.
        mirror(self, sizes);
        self.guard.metrics().gather()
    }

    /// The same after a look at the whole ledger.
    pub async fn gather_whole(&self) -> Vec<MetricFamily> {
        self.guard.core().see_whole().await;
        self.gather().await
    }
}

/// Sets the gauges that mirror the ledger, as of this scrape.
fn mirror(series: &Series, sizes: Sizes) {
    let Series { guard, rulebook, books, stops, forecaster, in_force } = series;
    let metrics = guard.metrics();
    let age_s = in_force.load().sheet.age_s(guard.clock().now_s());
    metrics.mirror(guard.in_doubt().0, guard.core().open_slots(), age_s);
    metrics.mirror_storage(sizes.database.saturating_add(sizes.log), sizes.free);
    metrics.mirror_waiting(guard.waiting());
    metrics.mirror_jobs(guard.open_jobs().iter().map(|(kind, sum)| (kind.as_str(), sum.count)));
    metrics.mirror_stops(stops.in_force().iter().map(|stop| stop.kind()));
    let mut samples = Vec::new();
    for of in guard.core().in_force() {
        metrics.in_force(&of.limit.name);
        let count_max = if is_named_by_clients(&of.limit.per) { 1 } else { SUBJECTS_MAX };
        samples.extend(samples_of(guard.ring(), &of.limit, &books.fullest(&of, count_max).readings));
    }
    metrics.mirror_limits(&samples);
    if let Some(projections) = forecaster.known() {
        mirror_projections(metrics, &projections);
    }
    metrics.mirror_credit(rulebook.credit_balance().map(Balance::left));
    let keys = guard.ring().keys();
    metrics.mirror_keys(keys.iter().map(|key| (&*key.id, &*key.name)));
}

fn mirror_projections(metrics: &Metrics, projections: &Projections) {
    if let Some(Forecast { low, expected, high, .. }) = projections.month.forecast {
        for (bound, amount) in [("low", low), ("expected", expected), ("high", high)] {
            metrics.mirror_forecast(bound, Money::from_nano(amount));
        }
    }
    let shown = projections.limits.iter().filter(|projection| !is_named_by_clients(&projection.limit.per));
    metrics.mirror_reached(shown.filter_map(|Projection { limit, subject, forecast, .. }| {
        Some(([&*limit.name, subject.label(), limit.unit.name()], forecast.as_ref()?.reached_s?))
    }));
}

/// Whether clients make up the subjects, which so are no labels.
const fn is_named_by_clients(per: &Per) -> bool {
    match per {
        Per::User | Per::Tag(_) => true,
        Per::Organization | Per::Project | Per::Key | Per::Model => false,
    }
}

/// A limit's series, and never a name that a client made up: of an end user, of a value of a tag,
/// of a key or model that upstream has yet to accept.
fn samples_of(ring: &Ring, limit: &Limit, fullest: &[Reading]) -> Vec<LimitSample> {
    let is_accepted = |reading: &&Reading| match &limit.per {
        Per::Key => ring.by_id(reading.subject.label()).is_some(),
        Per::Model => reading.meter.settled != 0,
        Per::Organization | Per::Project | Per::User | Per::Tag(_) => true,
    };
    let amount = |amount: i64| match limit.unit {
        Unit::Usd => dollars(Money::from_nano(amount)),
        Unit::Tokens | Unit::InputTokens | Unit::OutputTokens | Unit::Requests => float(amount),
    };
    let sample = |reading: &Reading| LimitSample {
        limit: limit.name.to_string(),
        subject: match &limit.per {
            Per::User => "fullest_user".to_owned(),
            Per::Tag(_) => "fullest_value".to_owned(),
            Per::Organization | Per::Project | Per::Key | Per::Model => reading.subject.label().to_owned(),
        },
        unit: limit.unit.name(),
        settled: amount(reading.meter.settled),
        held: amount(reading.meter.held),
        soft: limit.thresholds().first().map(|soft| amount(*soft)),
        hard: limit.hard.map(amount),
        reset_s: (limit.window != Window::Total).then(|| float(reading.span.end_s)),
    };
    fullest.iter().filter(is_accepted).map(sample).collect()
}

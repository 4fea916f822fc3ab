//! The shapes of the forecast.

use serde::Serialize;
use utoipa::ToSchema;

use crate::books::forecast::{Projection, Projections};
use crate::ledger::forecast::Forecast;

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Forecast)]
pub(crate) struct ProjectionsView {
    object: &'static str,
    created_at: i64,
    /// The calendar month of the organization, in dollars.
    month: ProjectionView,
    /// Each meter of each limit with a hard cap and a window of a week or longer.
    limits: Vec<LimitProjectionView>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Projection)]
struct ProjectionView {
    window_start: i64,
    resets_at: i64,
    unit: &'static str,
    settled: String,
    /// Absent until there is a complete day to forecast from.
    expected: Option<String>,
    /// The lower end of the likely range.
    low: Option<String>,
    /// The upper end of the likely range.
    high: Option<String>,
    days_of_history: usize,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LimitProjection)]
struct LimitProjectionView {
    limit: String,
    subject: String,
    hard: Option<String>,
    /// When the cap will be reached at the expected rate.
    reached_at: Option<i64>,
    #[serde(flatten)]
    projection: ProjectionView,
}

impl ProjectionsView {
    pub(crate) fn of(projections: &Projections) -> Self {
        Self {
            object: "guard.forecast",
            created_at: projections.at_s,
            month: ProjectionView::of(&projections.month),
            limits: projections.limits.iter().map(LimitProjectionView::of).collect(),
        }
    }
}

impl ProjectionView {
    fn of(projection: &Projection) -> Self {
        let Projection { limit, span, settled, forecast, .. } = projection;
        let amount = |of: fn(&Forecast) -> i64| forecast.as_ref().map(|f| limit.unit.decimal(of(f)));
        Self {
            window_start: span.start_s,
            resets_at: span.end_s,
            unit: limit.unit.name(),
            settled: limit.unit.decimal(*settled),
            expected: amount(|forecast| forecast.expected),
            low: amount(|forecast| forecast.low),
            high: amount(|forecast| forecast.high),
            days_of_history: forecast.map_or(0, |forecast| forecast.days),
        }
    }
}

impl LimitProjectionView {
    fn of(projection: &Projection) -> Self {
        let limit = &projection.limit;
        Self {
            limit: limit.name.to_string(),
            subject: projection.subject.label().to_owned(),
            hard: limit.hard.map(|hard| limit.unit.decimal(hard)),
            reached_at: projection.forecast.and_then(|forecast| forecast.reached_s),
            projection: ProjectionView::of(projection),
        }
    }
}

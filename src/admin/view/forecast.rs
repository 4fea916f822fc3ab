//! The shapes of what is likely to come.

use serde::Serialize;
use utoipa::ToSchema;

use crate::ledger::forecast::Forecast;
use crate::outlook::{Outlook, Prospect};

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Forecast)]
pub(crate) struct OutlookView {
    object: &'static str,
    created_at: i64,
    /// Of the whole organization, in dollars.
    month: ProspectView,
    /// Of each meter of each limit over days or longer.
    limits: Vec<LimitProspectView>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Prospect)]
struct ProspectView {
    window_start: i64,
    resets_at: i64,
    unit: &'static str,
    settled: String,
    /// Absent as long as there is no complete day to tell it by.
    expected: Option<String>,
    /// The lower end of what is likely.
    low: Option<String>,
    /// The upper end of what is likely.
    high: Option<String>,
    days_of_history: usize,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LimitProspect)]
struct LimitProspectView {
    limit: String,
    subject: String,
    hard: Option<String>,
    /// When the cap is reached if all goes as expected.
    reached_at: Option<i64>,
    #[serde(flatten)]
    prospect: ProspectView,
}

impl OutlookView {
    pub(crate) fn of(outlook: &Outlook) -> Self {
        Self {
            object: "guard.forecast",
            created_at: outlook.at_s,
            month: ProspectView::of(&outlook.month),
            limits: outlook.limits.iter().map(LimitProspectView::of).collect(),
        }
    }
}

impl ProspectView {
    fn of(prospect: &Prospect) -> Self {
        let Prospect { limit, span, settled, forecast, .. } = prospect;
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

impl LimitProspectView {
    fn of(prospect: &Prospect) -> Self {
        let limit = &prospect.limit;
        Self {
            limit: limit.name.to_string(),
            subject: prospect.subject.label().to_owned(),
            hard: limit.hard.map(|hard| limit.unit.decimal(hard)),
            reached_at: prospect.forecast.and_then(|forecast| forecast.reached_s),
            prospect: ProspectView::of(prospect),
        }
    }
}

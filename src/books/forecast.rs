//! The forecast: the amounts that this month and each limit are likely to reach.
//!
//! Looking back takes a pass over the sums of a month, so it is done from time to time in
//! the background, and each question gets the latest result.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use tokio::sync::watch;

use crate::books::Books;
use crate::domain::limit::{Mode, Only, Per, Source, Unit};
use crate::domain::{Limit, Span, Window};
use crate::ledger::calendar;
use crate::ledger::forecast::{DAYS_BACK, Forecast, ForecastInput, forecast};
use crate::ledger::meter::{Reading, Subject};
use crate::store::StoreError;

/// The age at which projections are refreshed.
const AGAIN_AFTER: Duration = Duration::from_secs(300);
/// The pause before a failed refresh is tried again.
const PAUSE: Duration = Duration::from_secs(5);
/// How many meters of one limit are projected, the fullest first.
const SUBJECTS_MAX: usize = 100;
/// The most days of a projected window.
const DAYS_MAX: usize = 366;
/// Complete days without which a forecast is too uncertain for an alert.
const ALERT_FROM_DAYS: usize = 7;

/// The projection of one window. Amounts are in the limit's unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Projection {
    /// The limit; for the organization's month, one without a name and a cap.
    pub limit: Arc<Limit>,
    /// The meter's subject.
    pub subject: Subject,
    /// Its window.
    pub span: Span,
    /// The amount settled so far.
    pub settled: i64,
    /// The forecast; `None` if there is no complete day to make it from.
    pub forecast: Option<Forecast>,
}

/// All projections, as of one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Projections {
    /// When it was made, in Unix seconds.
    pub at_s: i64,
    /// The organization's calendar month, in dollars.
    pub month: Projection,
    /// The limits with a cap and a window of a week or longer.
    pub limits: Vec<Projection>,
}

/// Makes projections from time to time.
#[derive(Debug)]
pub struct Forecaster {
    books: Arc<Books>,
    latest: watch::Sender<Option<Arc<Projections>>>,
}

impl Forecaster {
    /// A forecaster without projections yet.
    pub fn new(books: Arc<Books>) -> Self {
        Self { books, latest: watch::Sender::new(None) }
    }

    /// The latest projections; waits for the first.
    pub async fn latest(&self) -> Option<Arc<Projections>> {
        let mut latest = self.latest.subscribe();
        // Without projections it ends only with the forecaster.
        latest.wait_for(Option::is_some).await.ok()?.clone()
    }

    /// The latest projections, if there are any yet.
    pub fn known(&self) -> Option<Arc<Projections>> {
        self.latest.borrow().clone()
    }

    /// Makes projections until it is stopped. The settings of each refresh are the
    /// organization's time zone, and whether caps that will be reached are alerted.
    pub async fn run(&self, settings: impl Fn() -> (Arc<str>, bool) + Send, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            let (zone, alerts) = settings();
            let wait = match refresh(&self.books, &zone).await {
                Ok(projections) => {
                    if alerts {
                        for projection in &projections.limits {
                            self.note(projection);
                        }
                    }
                    self.latest.send_replace(Some(Arc::new(projections)));
                    AGAIN_AFTER
                }
                Err(error) => {
                    tracing::warn!(
                        event = "forecast_failed", %error,
                        "the past can't be read for a forecast"
                    );
                    PAUSE
                }
            };
            let _ = tokio::time::timeout(wait, stop.changed()).await;
        }
    }

    /// A cap that will be reached before its window ends is alerted, once.
    fn note(&self, projection: &Projection) {
        let Projection { limit, subject, span, settled, forecast } = projection;
        let (Some(forecast), Some(hard)) = (forecast, limit.hard) else { return };
        if forecast.days >= ALERT_FROM_DAYS && forecast.reached_s.is_some() && *settled < hard {
            self.books.core.note_ahead(limit, subject, *span, *settled);
        }
    }
}

/// Projects all limits and the organization's month.
async fn refresh(books: &Books, zone: &Arc<str>) -> Result<Projections, StoreError> {
    // The meters that other guards have used since.
    books.core.see_whole().await;
    let now_s = books.core.clock().now_s();
    let month = Arc::new(of_month(zone));
    let in_month = Days::of(&month, now_s);
    let is_long = |window| matches!(window, Window::Week | Window::Month | Window::Quarter | Window::Year);
    let limits =
        books.core.in_force().into_iter().filter(|of| of.limit.hard.is_some() && is_long(of.limit.window));
    let limits: Vec<(Days, Arc<Limit>, Vec<Reading>)> = limits
        .map(|of| {
            let fullest = books.fullest(&of, SUBJECTS_MAX).readings;
            (Days::of(&of.limit, now_s), of.limit, fullest)
        })
        .collect();
    let by_day = |limit: &Limit| Limit { window: Window::Day, ..limit.clone() };
    // A limit's meter knows its window's sum; the month's is added up of its days.
    let mut queries = vec![(by_day(&month), in_month.first_s().min(in_month.span.start_s))];
    queries.extend(limits.iter().map(|(days, limit, _)| (by_day(limit), days.first_s())));
    let mut pasts = books.reports.history(queries).await?.into_iter();
    let past = pasts.next().unwrap_or_default();
    let days = past.iter().filter(|((_, start_s), _)| in_month.span.contains(*start_s));
    let settled = days.map(|(_, sum)| *sum).fold(0, i64::saturating_add);
    let month = in_month.projection(&month, Subject::Organization, settled, &past);
    let mut projections = Vec::new();
    for ((days, limit, fullest), past) in limits.into_iter().zip(pasts) {
        for reading in fullest {
            projections.push(days.projection(&limit, reading.subject, reading.meter.settled, &past));
        }
    }
    Ok(Projections { at_s: now_s, month, limits: projections })
}

/// The organization's calendar month as a limit without a cap.
fn of_month(zone: &Arc<str>) -> Limit {
    Limit {
        name: "".into(),
        per: Per::Organization,
        only: Only::default(),
        unit: Unit::Usd,
        window: Window::Month,
        zone: Arc::clone(zone),
        soft: Vec::new(),
        hard: None,
        mode: Mode::Enforce,
        source: Source::File,
    }
}

/// A limit's days around now, in its time zone's calendar.
struct Days {
    now_s: i64,
    /// The limit's window.
    span: Span,
    /// Those looked back on, yesterday first.
    before: Vec<Span>,
    /// Today and those that follow, to the window's end.
    ahead: Vec<Span>,
}

impl Days {
    fn of(limit: &Limit, now_s: i64) -> Self {
        let zone = TimeZone::get(&limit.zone).unwrap_or(TimeZone::UTC);
        let day = |at_s| calendar::span(Window::Day, &zone, at_s);
        let span = calendar::span(limit.window, &zone, now_s);
        let today = day(now_s);
        let before = std::iter::successors(Some(today), |later| Some(day(later.start_s - 1)));
        let ahead =
            std::iter::successors(Some(today), |last| (last.end_s < span.end_s).then(|| day(last.end_s)));
        Self {
            now_s,
            span,
            before: before.skip(1).take(DAYS_BACK).collect(),
            ahead: ahead.take(DAYS_MAX).collect(),
        }
    }

    /// Where the first day starts that is looked back on.
    fn first_s(&self) -> i64 {
        self.before.last().map_or(self.now_s, |day| day.start_s)
    }

    fn projection(
        &self,
        limit: &Arc<Limit>,
        subject: Subject,
        settled: i64,
        past: &HashMap<(Subject, i64), i64>,
    ) -> Projection {
        let on = |day: &Span| past.get(&(subject.clone(), day.start_s)).copied().unwrap_or(0);
        let before: Vec<i64> = self.before.iter().map(on).collect();
        let known = ForecastInput {
            before: &before,
            settled,
            now_s: self.now_s,
            days: &self.ahead,
            hard: limit.hard,
        };
        let forecast = forecast(&known);
        Projection { limit: Arc::clone(limit), subject, span: self.span, settled, forecast }
    }
}

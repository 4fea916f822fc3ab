//! The outlook: what this month and each limit are likely to come to.
//!
//! Looking back takes a pass over the sums of a month, so it is done now and then
//! by itself, and whoever asks gets the latest.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use tokio::sync::watch;

use crate::domain::limit::{Mode, Only, Per, Source, Unit};
use crate::domain::{Limit, Span, Window};
use crate::guard::Guard;
use crate::ledger::calendar;
use crate::ledger::forecast::{DAYS_BACK, Forecast, Known, forecast};
use crate::ledger::meter::{Reading, Subject};
use crate::store::{StoreError, past};

/// How old an outlook gets.
const AGAIN_AFTER: Duration = Duration::from_secs(300);
/// Until one that failed is tried again.
const PAUSE: Duration = Duration::from_secs(5);
/// Meters of one limit that are looked at, the fullest first.
const SUBJECTS_MAX: usize = 100;
/// No window that is looked at has more days.
const DAYS_MAX: usize = 366;
/// Complete days without which a forecast is too rash to wake somebody.
const TOLD_FROM_DAYS: usize = 7;

/// What one window is likely to come to. Amounts are in the limit's unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prospect {
    /// The limit; for the organization's month, one without a name and a cap.
    pub limit: Arc<Limit>,
    /// Whose meter.
    pub subject: Subject,
    /// Its window.
    pub span: Span,
    /// What it has settled.
    pub settled: i64,
    /// What it will, unless there is no complete day to tell it by.
    pub forecast: Option<Forecast>,
}

/// Everything that is likely to come, as of one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// When it was made, in Unix seconds.
    pub at_s: i64,
    /// The organization's calendar month, in dollars.
    pub month: Prospect,
    /// The limits with a cap and a window of a week or longer.
    pub limits: Vec<Prospect>,
}

/// Makes an outlook now and then.
#[derive(Debug)]
pub struct Lookout {
    guard: Arc<Guard>,
    latest: watch::Sender<Option<Arc<Outlook>>>,
}

impl Lookout {
    /// A lookout that has not looked yet.
    pub fn new(guard: Arc<Guard>) -> Self {
        Self { guard, latest: watch::Sender::new(None) }
    }

    /// The latest outlook; waits for the first.
    pub async fn latest(&self) -> Option<Arc<Outlook>> {
        let mut latest = self.latest.subscribe();
        // It can't end without one but with the guard.
        latest.wait_for(Option::is_some).await.ok()?.clone()
    }

    /// The latest outlook, if there is one yet.
    pub fn known(&self) -> Option<Arc<Outlook>> {
        self.latest.borrow().clone()
    }

    /// Looks until it is stopped. The settings of each look are the organization's
    /// time zone, and whether caps that will be reached are told.
    pub async fn run(&self, settings: impl Fn() -> (Arc<str>, bool) + Send, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            let (zone, tells) = settings();
            let wait = match look(&self.guard, &zone).await {
                Ok(outlook) => {
                    if tells {
                        for prospect in &outlook.limits {
                            self.tell(prospect);
                        }
                    }
                    self.latest.send_replace(Some(Arc::new(outlook)));
                    AGAIN_AFTER
                }
                Err(error) => {
                    tracing::warn!(%error, "the past can't be read for a forecast");
                    PAUSE
                }
            };
            let _ = tokio::time::timeout(wait, stop.changed()).await;
        }
    }

    /// A cap that will be reached before its window ends is told, once.
    fn tell(&self, prospect: &Prospect) {
        let Prospect { limit, subject, span, settled, forecast } = prospect;
        let (Some(forecast), Some(hard)) = (forecast, limit.hard) else { return };
        if forecast.days >= TOLD_FROM_DAYS && forecast.reached_s.is_some() && *settled < hard {
            self.guard.note_ahead(limit, subject, *span, *settled);
        }
    }
}

/// Looks at all limits and at the organization's month.
async fn look(guard: &Guard, zone: &Arc<str>) -> Result<Outlook, StoreError> {
    let now_s = guard.clock().now_s();
    let month = Arc::new(of_month(zone));
    let in_month = Days::of(&month, now_s);
    let is_long = |window| matches!(window, Window::Week | Window::Month | Window::Quarter | Window::Year);
    let limits =
        guard.in_force().into_iter().filter(|of| of.limit.hard.is_some() && is_long(of.limit.window));
    let limits: Vec<(Days, Arc<Limit>, Vec<Reading>)> = limits
        .map(|of| {
            let fullest = guard.fullest(&of, SUBJECTS_MAX).readings;
            (Days::of(&of.limit, now_s), of.limit, fullest)
        })
        .collect();
    let by_day = |limit: &Limit| Limit { window: Window::Day, ..limit.clone() };
    // A limit's meter knows its window's sum; the month's is added up of its days.
    let mut wanted = vec![(by_day(&month), in_month.first_s().min(in_month.span.start_s))];
    wanted.extend(limits.iter().map(|(days, limit, _)| (by_day(limit), days.first_s())));
    let names = Arc::clone(guard.ring());
    let pasts = guard.read_long(move |db| {
        let wanted: Vec<(&Limit, i64)> = wanted.iter().map(|(limit, since_s)| (limit, *since_s)).collect();
        past::settled(db, &wanted, &*names)
    });
    let mut pasts = pasts.await?.into_iter();
    let past = pasts.next().unwrap_or_default();
    let days = past.iter().filter(|((_, start_s), _)| in_month.span.contains(*start_s));
    let settled = days.map(|(_, sum)| *sum).fold(0, i64::saturating_add);
    let month = in_month.prospect(&month, Subject::Organization, settled, &past);
    let mut prospects = Vec::new();
    for ((days, limit, fullest), past) in limits.into_iter().zip(pasts) {
        for reading in fullest {
            prospects.push(days.prospect(&limit, reading.subject, reading.meter.settled, &past));
        }
    }
    Ok(Outlook { at_s: now_s, month, limits: prospects })
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

    fn prospect(
        &self,
        limit: &Arc<Limit>,
        subject: Subject,
        settled: i64,
        past: &HashMap<(Subject, i64), i64>,
    ) -> Prospect {
        let on = |day: &Span| past.get(&(subject.clone(), day.start_s)).copied().unwrap_or(0);
        let before: Vec<i64> = self.before.iter().map(on).collect();
        let known =
            Known { before: &before, settled, now_s: self.now_s, days: &self.ahead, hard: limit.hard };
        let forecast = forecast(&known);
        Prospect { limit: Arc::clone(limit), subject, span: self.span, settled, forecast }
    }
}

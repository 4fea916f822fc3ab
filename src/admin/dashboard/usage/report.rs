//! The figures of the usage page, as its chart, its tables and its downloads show them.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::admin::dashboard::overview::total;
use crate::admin::dashboard::page::{ErrorPage, PageQuery, PageRequest, query_or_default};
use crate::admin::dashboard::usage::rows::{GroupLabel, UsageRow};
use crate::admin::dashboard::usage::selection::{Dimension, Selection, UsageQuery};
use crate::admin::dashboard::{Dashboard, figures, parts};
use crate::admin::usage::days;
use crate::domain::{Money, Span};
use crate::store::StoreError;
use crate::store::reports::{DailyUsage, GroupBy, UsageFilter, UsageSum};

/// Rows of the table; the rest is summed up in one.
const ROWS_MAX: usize = 100;
/// Groups that have a colour of their own in the chart; the rest share one.
pub(super) const SERIES_MAX: usize = 7;

/// A day and its sum.
pub(super) struct UsageDay {
    pub(super) date: Date,
    pub(super) sum: UsageSum,
    /// The spend of each series.
    pub(super) series: Vec<Money>,
}

/// All figures of the page.
pub(super) struct UsageReport {
    pub(super) total: UsageSum,
    pub(super) days: Vec<UsageDay>,
    /// The names of the chart's series, the costliest first; none where it has only one.
    pub(super) series: Vec<String>,
    pub(super) rows: Vec<UsageRow>,
}

impl UsageReport {
    /// What a query selects, and its figures.
    pub(super) async fn for_query(
        dashboard: &Dashboard,
        request: &PageRequest,
        query: PageQuery<UsageQuery>,
    ) -> Result<(Selection, Self), ErrorPage> {
        let zone = parts::zone(dashboard);
        let today = figures::date_of(dashboard.admin.guard.clock().now_s(), &zone);
        let selection = Selection::of(query_or_default(query), today);
        let report = Self::read(dashboard, request, &selection, &zone).await?;
        Ok((selection, report))
    }

    /// Reads the figures from the ledger.
    async fn read(
        dashboard: &Dashboard,
        request: &PageRequest,
        selection: &Selection,
        zone: &TimeZone,
    ) -> Result<Self, ErrorPage> {
        let start =
            |date: Date| date.to_zoned(zone.clone()).map_or(Timestamp::UNIX_EPOCH, |at| at.timestamp());
        let start_s = start(selection.first).as_second();
        let end_s = start(selection.last.tomorrow().unwrap_or(selection.last)).as_second();
        let span = Span { start_s, end_s };
        let spans = days(zone, start_s, end_s).unwrap_or_default();
        let usage = read_usage(dashboard, selection, span, spans.clone()).await;
        let usage = usage.map_err(|error| request.unavailable(&error))?;
        let dates = spans.iter().map(|span| figures::date_of(span.start_s, zone));
        let days: Vec<_> =
            dates.zip(usage.days).map(|(date, (sum, series))| UsageDay { date, sum, series }).collect();
        let name = |group: &[String]| name_of(dashboard, request, selection.by, &group.concat());
        let mut series: Vec<String> =
            usage.groups.iter().take(SERIES_MAX).map(|(group, _)| name(group)).collect();
        if usage.groups.len() > SERIES_MAX {
            series.push(request.words().the_rest.to_owned());
        }
        let rows: Vec<_> = match selection.by {
            Dimension::Day => {
                days.iter().map(|day| UsageRow { label: GroupLabel::Day(day.date), sum: day.sum }).collect()
            }
            Dimension::Model | Dimension::Key | Dimension::Project | Dimension::User => {
                let row = |(group, sum): &(Vec<String>, UsageSum)| UsageRow {
                    label: GroupLabel::Name(name(group)),
                    sum: *sum,
                };
                usage.groups.iter().map(row).collect()
            }
        };
        let total = total(days.iter().map(|day| &day.sum));
        Ok(Self { total, days, series, rows: shown_rows(request, selection, rows) })
    }
}

/// The rows in their order; beyond [`ROWS_MAX`] one row has the sum of the rest.
fn shown_rows(request: &PageRequest, selection: &Selection, rows: Vec<UsageRow>) -> Vec<UsageRow> {
    let count = if selection.by == Dimension::Day { rows.len() } else { ROWS_MAX };
    let (mut rows, others) = selection.sorting.first(rows, count);
    if !others.is_empty() {
        let sum = total(others.iter().map(|row| &row.sum));
        rows.push(UsageRow { label: GroupLabel::Name(request.words().the_rest.to_owned()), sum });
    }
    rows
}

fn name_of(dashboard: &Dashboard, request: &PageRequest, by: Dimension, group: &str) -> String {
    let ring = dashboard.admin.guard.ring();
    match by {
        Dimension::Key => ring.key_name(group).to_string(),
        Dimension::Project => ring.project_name(group).to_string(),
        Dimension::User if group.is_empty() => request.words().no_end_user.to_owned(),
        Dimension::Model | Dimension::User | Dimension::Day => group.to_owned(),
    }
}

async fn read_usage(
    dashboard: &Dashboard,
    selection: &Selection,
    span: Span,
    spans: Vec<Span>,
) -> Result<DailyUsage, StoreError> {
    let by = match selection.by {
        Dimension::Model => Some(GroupBy::Model),
        Dimension::Key => Some(GroupBy::Key),
        Dimension::User => Some(GroupBy::User),
        Dimension::Project => Some(GroupBy::Project),
        Dimension::Day => None,
    };
    let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let filter = UsageFilter { key: given(&selection.key), project: given(&selection.project) };
    dashboard.admin.books.reports().daily_usage(by, span, spans, SERIES_MAX, filter).await
}

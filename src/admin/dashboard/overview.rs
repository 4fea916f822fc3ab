//! Overview: this month's spend, the fullest limits, the last 30 days.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Extension, Router};
use jiff::tz::TimeZone;
use maud::{Markup, html};

use crate::admin::dashboard::chart::{self, Bar};
use crate::admin::dashboard::language::Lang;
use crate::admin::dashboard::page::{PageRequest, PageResult};
use crate::admin::dashboard::{Dashboard, figures, first_steps, names, parts, stops};
use crate::admin::limits::everything;
use crate::admin::usage::days;
use crate::domain::{Money, Span, Window};
use crate::ledger::calendar;
use crate::proxy::accrual::{CONTAINER, VECTOR_STORE};
use crate::proxy::background::RESPONSE;
use crate::proxy::batches::BATCH;
use crate::store::jobs::JobSum;
use crate::store::reports::{GroupBy, UsageFilter, UsageSum};

/// Days in the chart.
const DAYS: i64 = 30;
const DAY_S: i64 = 86_400;
/// Meters shown, the fullest first.
const METERS_MAX: usize = 6;
/// Keys and models named.
const TOP_MAX: usize = 5;

pub(super) fn routes() -> Router<Dashboard> {
    Router::new().route("/", get(show)).route("/first-steps", post(first_steps::skip))
}

/// The sums on this page.
struct Sums {
    days: Vec<(Span, UsageSum)>,
    month: UsageSum,
    keys: Vec<(Vec<String>, UsageSum)>,
    models: Vec<(Vec<String>, UsageSum)>,
}

async fn show(State(dashboard): State<Dashboard>, Extension(request): Extension<PageRequest>) -> PageResult {
    let (lang, words) = (request.lang, request.words());
    let zone = parts::zone(&dashboard);
    let now_s = dashboard.admin.guard.clock().now_s();
    let month = calendar::span(Window::Month, &zone, now_s);
    let sums = read(&dashboard, &request, &zone, month, now_s).await?;
    let today = sums.days.last().map(|(_, sum)| *sum).unwrap_or_default();
    let (held, open) = dashboard.admin.guard.in_doubt();
    let digits = figures::decimals(sums.month.cost);
    let (expected, range) = forecast(&dashboard, lang, digits);
    let requests = |sum: &UsageSum| figures::counted(lang, words.n_requests, sum.requests);
    let open = figures::counted(lang, words.n_open, u64::try_from(open).unwrap_or(u64::MAX));
    let body = html! {
        (parts::heading(words.overview, None, &parts::live_switch(lang)))
        (stops::banner(&dashboard, &request))
        (first_steps::card(&dashboard, &request))
        @if !dashboard.admin.guard.core().is_healthy() {
            p.notice.bad role="alert" { (words.ledger_unavailable) }
        }
        dl.tiles #tiles data-live {
            (parts::tile(words.this_month, &parts::money(lang, sums.month.cost, digits), &html! { (requests(&sums.month)) }))
            (parts::tile(words.today, &parts::money(lang, today.cost, digits), &html! { (requests(&today)) }))
            (parts::tile(words.month_forecast, &expected, &range))
            (parts::tile(words.held_now, &parts::money(lang, held, digits), &html! { (open) }))
        }
        section.card aria-labelledby="limits" {
            div.heading.small {
                h2 #limits { (words.limits) }
                a href="/limits" { (words.all_limits) }
            }
            div #gauges data-live { (gauges(&dashboard, &request)) }
        }
        div.jobs #jobs data-live { (jobs(lang, &dashboard.admin.guard.open_jobs())) }
        section.card aria-labelledby="days" {
            h2 #days { (words.last_days.replace("{n}", &DAYS.to_string())) }
            div #chart data-live {
                @if sums.days.iter().all(|(_, sum)| sum.requests == 0 && sum.cost == Money::ZERO) {
                    (parts::empty(words.no_usage, words.no_usage_how, &html! {}))
                } @else {
                    (day_chart(lang, words.spend_per_day, &sums.days, &zone))
                }
            }
        }
        div.columns #tops data-live {
            (top(lang, words.top_keys, "/usage?by=key", &sums.keys, |id| dashboard.admin.guard.ring().key_name(id).to_string()))
            (top(lang, words.top_models, "/usage?by=model", &sums.models, str::to_owned))
        }
    };
    Ok(request.page(words.overview, &body))
}

async fn read(
    dashboard: &Dashboard,
    request: &PageRequest,
    zone: &TimeZone,
    month: Span,
    now_s: i64,
) -> Result<Sums, crate::admin::dashboard::page::ErrorPage> {
    let until_s = now_s.saturating_add(1);
    let first = calendar::span(Window::Day, zone, now_s.saturating_sub((DAYS - 1) * DAY_S));
    let spans = days(zone, first.start_s, until_s).unwrap_or_default();
    let days = Span { start_s: first.start_s, end_s: until_s };
    let month = Span { end_s: until_s, ..month };
    let by = [(GroupBy::Day(spans.clone()), days), (GroupBy::Key, month), (GroupBy::Model, month)];
    let found = dashboard.admin.books.reports().usage(by, UsageFilter::default());
    let [days, keys, models] = found.await.map_err(|error| request.unavailable(&error))?;
    let month = total(keys.iter().map(|(_, sum)| sum));
    Ok(Sums { days: by_day(&spans, &days), month, keys, models })
}

/// The sum of all sums.
pub(super) fn total<'a>(sums: impl Iterator<Item = &'a UsageSum>) -> UsageSum {
    sums.fold(UsageSum::default(), |mut total, sum| {
        total.add(sum);
        total
    })
}

/// Every day with its sum, also those on which nothing was spent.
pub(super) fn by_day(spans: &[Span], sums: &[(Vec<String>, UsageSum)]) -> Vec<(Span, UsageSum)> {
    let of = |span: &Span| {
        let start = span.start_s.to_string();
        let found = sums.iter().find(|(group, _)| group.first() == Some(&start));
        (*span, found.map(|(_, sum)| *sum).unwrap_or_default())
    };
    spans.iter().map(of).collect()
}

/// The chart of days; each bar's title has its values.
pub(super) fn day_chart(lang: Lang, label: &str, days: &[(Span, UsageSum)], zone: &TimeZone) -> Markup {
    let bar = |(span, sum): &(Span, UsageSum)| {
        let date = figures::date_of(span.start_s, zone);
        let requests = figures::counted(lang, lang.words().n_requests, sum.requests);
        let cost = figures::money(lang, sum.cost, figures::decimals(sum.cost));
        Bar {
            label: figures::short_day(lang, date),
            parts: vec![sum.cost],
            title: format!("{}\n{cost}\n{requests}", figures::day(lang, date)),
        }
    };
    let bars: Vec<_> = days.iter().map(bar).collect();
    chart::bars(lang, label, &bars)
}

/// The month's expected spend, and its likely range.
fn forecast(dashboard: &Dashboard, lang: Lang, digits: usize) -> (Markup, Markup) {
    let words = lang.words();
    let Some(forecast) =
        dashboard.admin.forecaster.known().and_then(|projections| projections.month.forecast)
    else {
        return (html! { "–" }, html! { (words.no_forecast) });
    };
    let amount = |nano: i64| parts::money(lang, Money::from_nano(nano), digits);
    let range = html! { (words.forecast_range) " " (amount(forecast.low)) " – " (amount(forecast.high)) };
    (amount(forecast.expected), range)
}

fn gauges(dashboard: &Dashboard, request: &PageRequest) -> Markup {
    let (lang, words) = (request.lang, request.words());
    let limits = everything(&dashboard.admin);
    let counting = limits.iter().filter(|listed| listed.limit.window != Window::Request);
    let mut meters: Vec<_> = counting
        .flat_map(|listed| {
            let fullest = listed.fullest(&dashboard.admin, METERS_MAX).readings.into_iter();
            fullest.map(move |reading| (&listed.limit, reading))
        })
        .collect();
    let fullness = |limit: &crate::domain::Limit, used: i64| {
        let hard = limit.hard.or_else(|| limit.thresholds().last().copied()).unwrap_or(i64::MAX).max(1);
        i128::from(used) * 10_000 / i128::from(hard)
    };
    meters.sort_by_key(|(limit, reading)| {
        std::cmp::Reverse(fullness(limit, reading.meter.settled.saturating_add(reading.meter.held)))
    });
    meters.truncate(METERS_MAX);
    html! {
        @if limits.is_empty() {
            (parts::empty(words.no_limits, words.no_limits_how, &html! {
                @if request.may_change { a.button.primary href="/limits/new" { (words.new_limit) } }
            }))
        } @else if meters.is_empty() {
            p.muted { (words.nothing_counted) }
        } @else {
            ul.gauges {
                @for (limit, reading) in &meters {
                    li {
                        p.of {
                            strong { (names::name(&limit.name)) }
                            " · " (parts::subject(dashboard, lang, limit, &reading.subject))
                            " · " (figures::window(lang, limit.window))
                        }
                        (parts::meter(lang, limit, reading))
                    }
                }
            }
        }
    }
}

/// The jobs that run, if there are any.
fn jobs(lang: Lang, sums: &BTreeMap<String, JobSum>) -> Markup {
    let words = lang.words();
    let largest = sums.values().map(|sum| sum.held).max().unwrap_or(Money::ZERO);
    let digits = figures::decimals(largest);
    html! {
        @if !sums.is_empty() {
            section.card aria-labelledby="jobs-heading" {
                h2 #jobs-heading { (words.jobs) }
                ul {
                    @for (kind, sum) in sums {
                        li.said {
                            span {
                                strong { (job_kind(lang, kind)) } " · "
                                span.muted { (figures::counted(lang, words.n_jobs, sum.count)) }
                            }
                            span { span.muted { (words.held) } " " (parts::money(lang, sum.held, digits)) }
                        }
                    }
                }
            }
        }
    }
}

/// A kind of jobs, in words.
fn job_kind(lang: Lang, kind: &str) -> &str {
    match kind {
        RESPONSE => lang.words().background_responses,
        BATCH => lang.words().batches,
        CONTAINER => lang.words().containers,
        VECTOR_STORE => lang.words().vector_stores,
        other => other,
    }
}

fn top(
    lang: Lang,
    title: &str,
    more: &str,
    sums: &[(Vec<String>, UsageSum)],
    named: impl Fn(&str) -> String,
) -> Markup {
    let words = lang.words();
    let whole = total(sums.iter().map(|(_, sum)| sum)).cost;
    let digits = figures::decimals(whole);
    html! {
        section.card {
            div.heading.small { h2 { (title) } a href=(more) { (words.all_usage) } }
            @if sums.is_empty() {
                p.muted { (words.nothing_this_month) }
            } @else {
                ol.top {
                    @for (group, sum) in sums.iter().take(TOP_MAX) {
                        li {
                            div.said {
                                (names::name(&named(group.first().map_or("", String::as_str))))
                                (parts::money(lang, sum.cost, digits))
                            }
                            (chart::part(sum.cost.nano(), whole.nano()))
                        }
                    }
                }
            }
        }
    }
}

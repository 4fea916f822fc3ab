//! Usage: what was spent in some days, by whatever it is asked for.

use axum::extract::State;
use axum::routing::get;
use axum::{Extension, Router};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use maud::{Markup, html};
use serde::Deserialize;

use crate::admin::dashboard::chart;
use crate::admin::dashboard::overview::{by_day, day_chart, total};
use crate::admin::dashboard::page::{ErrorPage, PageQuery, PageRequest, PageResult, query_or_default};
use crate::admin::dashboard::{Dashboard, figures, names, parts};
use crate::admin::usage::days;
use crate::domain::Span;
use crate::store::reader::{self, GroupBy, UsageSum};

/// The longest stretch on one page.
const DAYS_MAX: i32 = 366;
const DAYS_DEFAULT: i64 = 30;
/// Rows of a table; the rest is summed up in one.
const ROWS_MAX: usize = 100;

pub(super) fn routes() -> Router<Dashboard> {
    Router::new().route("/usage", get(show))
}

#[derive(Debug, Default, Deserialize)]
struct UsageQuery {
    by: Option<String>,
    since: Option<String>,
    until: Option<String>,
    key: Option<String>,
    project: Option<String>,
}

/// By what the table is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Model,
    Key,
    Project,
    User,
    Day,
}

impl By {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Model, "model"),
        (Self::Key, "key"),
        (Self::Project, "project"),
        (Self::User, "user"),
        (Self::Day, "day"),
    ];

    fn name(self, request: &PageRequest) -> &'static str {
        let words = request.words();
        match self {
            Self::Model => words.model,
            Self::Key => words.key,
            Self::Project => words.project,
            Self::User => words.end_user,
            Self::Day => words.day,
        }
    }
}

/// What was asked for, made sound.
struct Question {
    by: By,
    first: Date,
    last: Date,
    /// The last day that may be asked for.
    today: Date,
    key: String,
    project: String,
    /// Whether the days asked for were none.
    mended: bool,
}

impl Question {
    fn of(wanted: UsageQuery, today: Date) -> Self {
        let date = |text: Option<String>| text.and_then(|text| text.parse::<Date>().ok());
        let asked = wanted.since.is_some() || wanted.until.is_some();
        let last = date(wanted.until);
        let earlier = |last: Date| last.checked_sub((DAYS_DEFAULT - 1).days()).unwrap_or(last);
        let first = date(wanted.since).or_else(|| last.map(earlier));
        let days = first.zip(Some(last.unwrap_or(today)));
        let sound = days
            .filter(|(first, last)| (0..DAYS_MAX).contains(&(*last - *first).get_days()) && *last <= today);
        let (first, last) = sound.unwrap_or((earlier(today), today));
        let by = By::ALL.into_iter().find(|(_, name)| Some(*name) == wanted.by.as_deref());
        Self {
            by: by.map_or(By::Model, |(by, _)| by),
            first,
            last,
            today,
            key: wanted.key.unwrap_or_default(),
            project: wanted.project.unwrap_or_default(),
            mended: asked && sound.is_none(),
        }
    }

    fn by_name(&self) -> &'static str {
        By::ALL.iter().find(|(by, _)| *by == self.by).map_or("model", |(_, name)| name)
    }

    fn link(&self, first: Date, last: Date, key: &str) -> String {
        let (first, last) = (first.to_string(), last.to_string());
        parts::link(
            "/usage",
            &[
                ("by", self.by_name()),
                ("since", &first),
                ("until", &last),
                ("key", key),
                ("project", &self.project),
            ],
        )
    }
}

/// What the ledger answers.
struct Found {
    days: Vec<(Span, UsageSum)>,
    groups: Vec<(String, UsageSum)>,
}

async fn show(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    wanted: PageQuery<UsageQuery>,
) -> PageResult {
    let (lang, words) = (request.lang, request.words());
    let zone = parts::zone(&dashboard);
    let today = figures::date_of(dashboard.admin.guard.clock().now_s(), &zone);
    let question = Question::of(query_or_default(wanted), today);
    let found = read(&dashboard, &request, &question, &zone).await?;
    let all = total(found.days.iter().map(|(_, sum)| sum));
    let digits = figures::decimals(all.cost);
    let number = |count| html! { (figures::number(lang, count)) };
    let body = html! {
        (parts::heading(words.usage, None, &html! {}))
        @if question.mended {
            p.notice.warn role="alert" { (words.bad_days.replace("{n}", &DAYS_MAX.to_string())) }
        }
        (filters(&dashboard, &request, &question))
        dl.tiles {
            (parts::tile(words.spend, &parts::money(lang, all.cost, digits), &html! {}))
            (parts::tile(words.requests, &number(all.requests), &html! {}))
            (parts::tile(words.input_tokens, &number(all.tokens.input_total()), &html! {
                (words.of_them_cached) " " (figures::number(lang, all.tokens.cached_total()))
            }))
            (parts::tile(words.output_tokens, &number(all.tokens.output_total()), &html! {
                (words.of_them_reasoning) " " (figures::number(lang, all.tokens.reasoning))
            }))
        }
        @if all == UsageSum::default() {
            (parts::empty(words.no_usage, words.no_usage_how, &html! {}))
        } @else {
            section.card {
                h2 { (words.spend_per_day) }
                (day_chart(lang, words.spend_per_day, &found.days, &zone))
            }
            section {
                h2 { (words.by_what.replace("{what}", question.by.name(&request))) }
                (table(&request, &question, &found.groups))
            }
        }
    };
    Ok(request.page(words.usage, &body))
}

async fn read(
    dashboard: &Dashboard,
    request: &PageRequest,
    question: &Question,
    zone: &TimeZone,
) -> Result<Found, ErrorPage> {
    let start = |date: Date| date.to_zoned(zone.clone()).map_or(Timestamp::UNIX_EPOCH, |at| at.timestamp());
    let since_s = start(question.first).as_second();
    let until_s = start(question.last.tomorrow().unwrap_or(question.last)).as_second();
    let spans = days(zone, since_s, until_s).unwrap_or_default();
    let by_days = GroupBy::Day(spans.clone());
    let by = match question.by {
        By::Model => GroupBy::Model,
        By::Key => GroupBy::Key,
        By::Project => GroupBy::Project,
        By::User => GroupBy::User,
        By::Day => by_days.clone(),
    };
    let (key, project) = (question.key.clone(), question.project.clone());
    let sums = dashboard.admin.guard.read(move |db| {
        let fits = |wanted: &str, id: &str| wanted.is_empty() || wanted == id;
        let keep = |in_project: &str, of_key: &str| fits(&project, in_project) && fits(&key, of_key);
        let span = Span { start_s: since_s, end_s: until_s };
        reader::usages(db, [(&by_days, span), (&by, span)], keep)
    });
    let [days, groups] = sums.await.map_err(|error| request.unavailable(&error))?;
    let ring = dashboard.admin.guard.ring();
    let named = |group: String| match question.by {
        By::Key => ring.key_name(&group).to_string(),
        By::Project => ring.project_name(&group).to_string(),
        By::User if group.is_empty() => request.words().no_end_user.to_owned(),
        By::Day => figures::day(request.lang, figures::date_of(group.parse().unwrap_or(0), zone)),
        By::Model | By::User => group,
    };
    let mut groups: Vec<_> = groups.into_iter().map(|(group, sum)| (named(group.concat()), sum)).collect();
    if question.by == By::Day {
        groups.reverse();
    }
    if groups.len() > ROWS_MAX && question.by != By::Day {
        let rest = total(groups.split_off(ROWS_MAX).iter().map(|(_, sum)| sum));
        groups.push((request.words().the_rest.to_owned(), rest));
    }
    Ok(Found { days: by_day(&spans, &days), groups })
}

fn filters(dashboard: &Dashboard, request: &PageRequest, question: &Question) -> Markup {
    let (lang, words) = (request.lang, request.words());
    let today = question.today;
    let back = |days: i64| today.checked_sub((days - 1).days()).unwrap_or(today);
    let last_month = today.first_of_month().yesterday().unwrap_or(today);
    let presets = [
        (figures::counted(lang, words.n_days, 7), back(7), today),
        (figures::counted(lang, words.n_days, 30), back(30), today),
        (words.this_month.to_owned(), today.first_of_month(), today),
        (words.last_month.to_owned(), last_month.first_of_month(), last_month),
    ];
    let projects = dashboard.admin.guard.ring().projects();
    let bys = By::ALL.map(|(by, value)| (value, by.name(request)));
    html! {
        nav.presets aria-label=(words.days) {
            @for (name, first, last) in &presets {
                a href=(question.link(*first, *last, &question.key))
                    aria-current=[(*first == question.first && *last == question.last).then_some("true")] { (name) }
            }
        }
        form.filters method="get" action="/usage" {
            div.field { label for="since" { (words.from_day) } input #since type="date" name="since" value=(question.first) max=(today); }
            div.field { label for="until" { (words.to_day) } input #until type="date" name="until" value=(question.last) max=(today); }
            div.field { label for="by" { (words.group_by) } select #by name="by" { (parts::options(question.by_name(), bys)) } }
            div.field {
                label for="project" { (words.project) }
                select #project name="project" {
                    option value="" { (words.all) }
                    (parts::options(&question.project, projects.iter().map(|project| (&*project.id, &*project.name))))
                }
            }
            @if !question.key.is_empty() {
                input type="hidden" name="key" value=(question.key);
            }
            button.button type="submit" { (words.apply) }
        }
        @if !question.key.is_empty() {
            p.chips {
                span.badge.grey { (words.key) ": " (names::name(&dashboard.admin.guard.ring().key_name(&question.key))) }
                a href=(question.link(question.first, question.last, "")) { (words.show_all) }
            }
        }
    }
}

fn table(request: &PageRequest, question: &Question, groups: &[(String, UsageSum)]) -> Markup {
    let (lang, words) = (request.lang, request.words());
    let whole = total(groups.iter().map(|(_, sum)| sum)).cost;
    let digits = figures::decimals(whole);
    html! {
        div.scroll tabindex="0" role="region" aria-label=(words.usage) {
            table {
                thead { tr {
                    th scope="col" { (question.by.name(request)) }
                    th.number scope="col" { (words.requests) }
                    th.number scope="col" { (words.input_tokens) }
                    th.number scope="col" { (words.output_tokens) }
                    th.number scope="col" { (words.spend) }
                    th.wide scope="col" { (words.share) }
                } }
                tbody {
                    @for (name, sum) in groups {
                        tr {
                            th scope="row" { (names::name(name)) }
                            td.number { (figures::number(lang, sum.requests)) }
                            td.number { (figures::number(lang, sum.tokens.input_total())) }
                            td.number { (figures::number(lang, sum.tokens.output_total())) }
                            td.number { (parts::money(lang, sum.cost, digits)) }
                            td.wide {
                                span.percent { (figures::percent(lang, sum.cost.nano(), whole.nano())) }
                                (chart::part(sum.cost.nano(), whole.nano()))
                            }
                        }
                    }
                }
            }
        }
    }
}

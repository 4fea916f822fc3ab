//! Usage: spend of some days by model, key, project, end user or day.

mod download;
mod report;
mod rows;
mod selection;

use axum::extract::State;
use axum::routing::get;
use axum::{Extension, Router};
use jiff::ToSpan as _;
use maud::{Markup, html};

use crate::admin::dashboard::chart::{self, Bar};
use crate::admin::dashboard::language::Lang;
use crate::admin::dashboard::page::{PageQuery, PageRequest, PageResult};
use crate::admin::dashboard::{Dashboard, figures, names, parts};
use crate::domain::{Class, Money};
use crate::store::reports::UsageSum;

use report::{UsageDay, UsageReport};
use rows::{GroupLabel, UsageRow};
use selection::{DAYS_MAX, Dimension, Selection, UsageQuery};

pub(super) fn routes() -> Router<Dashboard> {
    Router::new()
        .route("/usage", get(show))
        .route("/usage/groups.csv", get(download::groups))
        .route("/usage/days.csv", get(download::days))
}

async fn show(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    query: PageQuery<UsageQuery>,
) -> PageResult {
    let words = request.words();
    let (selection, report) = UsageReport::for_query(&dashboard, &request, query).await?;
    let body = html! {
        (parts::heading(words.usage, None, &html! {}))
        @if selection.has_bad_days {
            p.notice.warn role="alert" { (words.bad_days.replace("{n}", &DAYS_MAX.to_string())) }
        }
        (filters(&dashboard, &request, &selection))
        (tiles(request.lang, &report.total))
        @if report.total == UsageSum::default() {
            (parts::empty(words.no_usage, words.no_usage_how, &html! {}))
        } @else {
            (spend_per_day(&request, &selection, &report))
            section #groups {
                div.heading.small {
                    h2 { (words.totals) }
                    (download_link(&request, &selection, "/usage/groups.csv"))
                }
                (table(&request, &selection, &report))
            }
        }
    };
    Ok(request.page(words.usage, &body))
}

fn tiles(lang: Lang, total: &UsageSum) -> Markup {
    let words = lang.words();
    let number = |count| html! { (figures::number(lang, count)) };
    html! {
        dl.tiles {
            (parts::tile(words.spend, &parts::money(lang, total.cost, figures::decimals(total.cost)), &html! {}))
            (parts::tile(words.requests, &number(total.requests), &html! {}))
            (parts::tile(words.input_tokens, &number(total.quantities.input_tokens_total()), &html! {
                (words.of_them_cached) " " (figures::number(lang, total.quantities.cached_tokens_total()))
            }))
            (parts::tile(words.output_tokens, &number(total.quantities.output_tokens_total()), &html! {
                (words.of_them_reasoning) " " (figures::number(lang, total.quantities[Class::Reasoning]))
            }))
        }
    }
}

/// The chart of days, stacked by the dimension, and a table of the same values.
fn spend_per_day(request: &PageRequest, selection: &Selection, report: &UsageReport) -> Markup {
    let (lang, words) = (request.lang, request.words());
    let bars: Vec<_> = report.days.iter().map(|day| bar(lang, &report.series, day)).collect();
    html! {
        section.card {
            div.heading.small {
                h2 { (words.spend_per_day) }
                nav.presets aria-label=(words.group_by) {
                    @for by in Dimension::ALL {
                        a href=(selection.link_to_dimension(by))
                            aria-current=[(by == selection.by).then_some("true")] { (by.title(words)) }
                    }
                }
            }
            (chart::bars(lang, words.spend_per_day, &bars))
            (chart::legend(&report.series))
            details {
                summary { (words.values_per_day) }
                p { (download_link(request, selection, "/usage/days.csv")) }
                (days_table(request, report))
            }
        }
    }
}

/// The bar of a day; its title lists the values of all series.
fn bar(lang: Lang, series: &[String], day: &UsageDay) -> Bar {
    let amount = |cost: Money| figures::money(lang, cost, figures::decimals(cost));
    let requests = figures::counted(lang, lang.words().n_requests, day.sum.requests);
    let mut title = format!("{}\n{} · {requests}", figures::day(lang, day.date), amount(day.sum.cost));
    for (name, cost) in series.iter().zip(&day.series).filter(|(_, cost)| **cost != Money::ZERO) {
        title.push_str(&format!("\n{}: {}", names::cut(name), amount(*cost)));
    }
    let parts = if series.is_empty() { vec![day.sum.cost] } else { day.series.clone() };
    Bar { label: figures::short_day(lang, day.date), parts, title }
}

fn download_link(request: &PageRequest, selection: &Selection, path: &str) -> Markup {
    html! { a.button.small href=(selection.download(path)) download { (request.words().download_csv) } }
}

fn days_table(request: &PageRequest, report: &UsageReport) -> Markup {
    let (lang, words) = (request.lang, request.words());
    let digits = figures::decimals(report.total.cost);
    html! {
        div.scroll tabindex="0" role="region" aria-label=(words.values_per_day) {
            table #days {
                thead { tr {
                    th scope="col" { (words.day) } th.number scope="col" { (words.requests) }
                    th.number scope="col" { (words.total) }
                    @for name in &report.series { th.number scope="col" { (names::name(name)) } }
                } }
                tbody {
                    @for day in &report.days {
                        tr {
                            th scope="row" { (figures::day(lang, day.date)) }
                            td.number { (figures::number(lang, day.sum.requests)) }
                            td.number { (parts::money(lang, day.sum.cost, digits)) }
                            @for cost in day.series.iter().take(report.series.len()) {
                                td.number { (parts::money(lang, *cost, digits)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn filters(dashboard: &Dashboard, request: &PageRequest, selection: &Selection) -> Markup {
    let (lang, words) = (request.lang, request.words());
    let (ring, today) = (dashboard.admin.guard.ring(), selection.today);
    let back = |days: i64| today.checked_sub((days - 1).days()).unwrap_or(today);
    let last_month = today.first_of_month().yesterday().unwrap_or(today);
    let presets = [
        (figures::counted(lang, words.n_days, 7), back(7), today),
        (figures::counted(lang, words.n_days, 30), back(30), today),
        (words.this_month.to_owned(), today.first_of_month(), today),
        (words.last_month.to_owned(), last_month.first_of_month(), last_month),
    ];
    let projects = ring.projects();
    let kept = selection.sorting.query().into_iter().chain([("key", &*selection.key)]);
    html! {
        nav.presets aria-label=(words.days) {
            @for (name, first, last) in &presets {
                a href=(selection.link_to_days(*first, *last))
                    aria-current=[(*first == selection.first && *last == selection.last).then_some("true")] { (name) }
            }
        }
        form.filters method="get" action="/usage" {
            div.field { label for="since" { (words.from_day) } input #since type="date" name="since" value=(selection.first) max=(today); }
            div.field { label for="until" { (words.to_day) } input #until type="date" name="until" value=(selection.last) max=(today); }
            div.field {
                label for="project" { (words.project) }
                select #project name="project" {
                    option value="" { (words.all) }
                    (parts::options(&selection.project, projects.iter().map(|project| (&*project.id, &*project.name))))
                }
            }
            input type="hidden" name="by" value=(selection.by.name());
            @for (name, value) in kept.filter(|(_, value)| !value.is_empty()) {
                input type="hidden" name=(name) value=(value);
            }
            button.button type="submit" { (words.apply) }
        }
        @if !selection.key.is_empty() {
            p.chips {
                span.badge.grey { (words.key) ": " (names::name(&ring.key_name(&selection.key))) }
                a href=(selection.link_to_all_keys()) { (words.show_all) }
            }
        }
    }
}

fn table(request: &PageRequest, selection: &Selection, report: &UsageReport) -> Markup {
    let (lang, words) = (request.lang, request.words());
    let whole = report.total.cost;
    let digits = figures::decimals(whole);
    let number = |count| figures::number(lang, count);
    html! {
        div.scroll tabindex="0" role="region" aria-label=(words.totals) {
            table.cards.sortable {
                thead { tr {
                    (selection.sorting.headings(words, |sort, dir| selection.link_to_order(sort, dir) + "#groups"))
                } }
                tbody {
                    @for UsageRow { label, sum } in &report.rows {
                        tr {
                            th scope="row" {
                                @match label {
                                    GroupLabel::Name(name) => (names::name(name)),
                                    GroupLabel::Day(date) => (figures::day(lang, *date)),
                                }
                            }
                            td.number data-label=(words.requests) { (number(sum.requests)) }
                            td.number data-label=(words.input_tokens) { (number(sum.quantities.input_tokens_total())) }
                            td.number data-label=(words.output_tokens) { (number(sum.quantities.output_tokens_total())) }
                            td.number data-label=(words.spend) { (parts::money(lang, sum.cost, digits)) }
                            td.wide data-label=(words.share) { div {
                                span.percent { (figures::percent(lang, sum.cost.nano(), whole.nano())) }
                                (chart::part(sum.cost.nano(), whole.nano()))
                            } }
                        }
                    }
                }
            }
        }
    }
}

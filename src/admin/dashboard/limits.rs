//! Limits: those in force and their usage; removing one.
//!
//! Those of the configuration file are shown as its own and can't be changed
//! here; making and changing the others is `limit_form`'s.

use std::borrow::Cow;

use axum::extract::{Form, Query, State};
use axum::routing::get;
use axum::{Extension, Router};
use maud::{Markup, html};
use serde::Deserialize;

use crate::admin::dashboard::language::Lang;
use crate::admin::dashboard::page::{PageQuery, PageRequest, PageResult, query_or_default};
use crate::admin::dashboard::parts::Confirmation;
use crate::admin::dashboard::{Dashboard, figures, names, parts, see_other, stops};
use crate::admin::limits::{Listed, everything, named};
use crate::books::meters::Meters;
use crate::domain::limit::{Mode, Per, Soft, Source, Unit};
use crate::domain::{Limit, Window};
use crate::rulebook::limits::LimitError;
use crate::rulebook::rule::LimitRule;

/// Limits on one page.
const PAGE: usize = 30;
/// Meters of one limit, the fullest first.
const METERS_MAX: usize = 8;
/// Things that a limit is narrowed to, named one by one.
const ONLY_MAX: usize = 20;

pub(super) fn routes() -> Router<Dashboard> {
    Router::new().route("/limits", get(list)).route("/limits/remove", get(ask_remove).post(remove))
}

#[derive(Debug, Default, Deserialize)]
struct LimitListQuery {
    from: Option<usize>,
}

async fn list(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    query: PageQuery<LimitListQuery>,
) -> PageResult {
    let words = request.words();
    let from = query_or_default(query).from.unwrap_or(0);
    let limits = everything(&dashboard.admin);
    let at = |from: usize| parts::link("/limits", &[("from", &from.to_string())]);
    let (before, after) = parts::neighbours(from, PAGE, limits.len());
    let create = html! {
        @if request.may_change { a.button.primary href="/limits/new" { "+ " (words.new_limit) } }
    };
    let section =
        stops::section(&dashboard, &request).await.map_err(|error| stops::failed(&request, &error))?;
    let body = html! {
        (parts::heading(words.limits, Some(words.limits_lead), &html! { (parts::live_switch(request.lang)) (create) }))
        @if limits.is_empty() {
            (parts::empty(words.no_limits, words.no_limits_how, &create))
        } @else {
            @for listed in limits.iter().skip(from).take(PAGE) {
                (card(&dashboard, &request, listed))
            }
            (parts::pager(request.lang, before.map(at), after.map(at)))
        }
        (section)
    };
    Ok(request.page(words.limits, &body))
}

fn card(dashboard: &Dashboard, request: &PageRequest, listed: &Listed) -> Markup {
    let (lang, words, limit) = (request.lang, request.words(), &listed.limit);
    html! {
        article.card.limit {
            div.heading.small {
                div {
                    h2 { (names::name(&limit.name)) }
                    p.badges {
                        @if limit.mode == Mode::Shadow { (parts::badge("violet", words.shadow)) }
                        @if limit.source == Source::File { (parts::badge("grey", words.from_file)) }
                        @if limit.is_rate() { (parts::badge("blue", words.rate)) }
                    }
                }
                @if request.may_change && limit.source == Source::Api {
                    div.actions {
                        a.button.small href=(parts::link("/limits/edit", &[("name", &limit.name)])) {
                            (words.edit) span.unseen { " " (limit.name) }
                        }
                        a.button.small.danger href=(parts::link("/limits/remove", &[("name", &limit.name)])) {
                            (words.remove) span.unseen { " " (limit.name) }
                        }
                    }
                }
            }
            (rule(lang, limit))
            @if limit.is_rate() {
                p.muted { (words.rate_lead) }
            } @else if limit.window == Window::Request {
                p.muted { (words.request_lead) }
            } @else {
                div.stack id={ "meters-" (limit.name) } data-live { (meters(dashboard, lang, listed)) }
            }
        }
    }
}

/// The meters of a limit, the fullest first.
fn meters(dashboard: &Dashboard, lang: Lang, listed: &Listed) -> Markup {
    let (words, limit) = (lang.words(), &listed.limit);
    let Meters { readings, total } = listed.fullest(&dashboard.admin, METERS_MAX);
    let unlisted = total.saturating_sub(readings.len());
    html! {
        @if readings.is_empty() {
            p.muted { (words.nothing_counted) }
        } @else {
            ul.gauges {
                @for reading in &readings {
                    li {
                        @if limit.per != Per::Organization {
                            p.of { (parts::subject(dashboard, lang, limit, &reading.subject)) }
                        }
                        (parts::meter(lang, limit, reading))
                    }
                }
            }
            @if unlisted > 0 {
                p.muted { (figures::counted(lang, words.n_more, u64::try_from(unlisted).unwrap_or(0))) }
            }
        }
    }
}

/// The rule of a limit: its caps, its window, its unit, and its filters.
fn rule(lang: Lang, limit: &Limit) -> Markup {
    let words = lang.words();
    let text = LimitRule::of(limit);
    let only = &text.only;
    let tags: Vec<String> = only
        .tag
        .iter()
        .flat_map(|(tag, values)| values.iter().map(move |value| format!("{tag}={value}")))
        .collect();
    let narrowed: [(&str, &[String]); 4] = [
        (words.project, &only.project),
        (words.key, &only.key),
        (words.model, &only.model),
        (words.tags, &tags),
    ];
    html! {
        dl.rule {
            div { dt { (words.hard_limit) } dd {
                @match limit.hard {
                    Some(hard) => (parts::whole_amount(lang, limit.unit, hard)),
                    None => (words.none),
                }
            } }
            div { dt { (words.soft_limit) } dd {
                @if limit.soft.is_empty() { (words.none) } @else { (soft(lang, limit).join(" · ")) }
            } }
            div { dt { (words.window) } dd { (figures::window(lang, limit.window)) " · " (limit.zone) } }
            div { dt { (words.counted_per) } dd { (per(lang, &limit.per)) } }
            div { dt { (words.unit) } dd { (unit(lang, limit.unit)) } }
            @for (name, values) in narrowed.into_iter().filter(|(_, values)| !values.is_empty()) {
                div { dt { (words.only) ": " (name) } dd {
                    @for (at, value) in values.iter().take(ONLY_MAX).enumerate() {
                        @if at > 0 { ", " }
                        (names::name(value))
                    }
                    @if values.len() > ONLY_MAX { ", …" }
                } }
            }
        }
    }
}

/// The soft thresholds as they were written: amounts, or shares of the cap.
fn soft(lang: Lang, limit: &Limit) -> Vec<String> {
    let text = |soft: &Soft| match *soft {
        Soft::Amount(amount) => parts::whole_amount(lang, limit.unit, amount),
        Soft::Percent(percent) => figures::percent(lang, i64::from(percent), 100),
    };
    limit.soft.iter().map(text).collect()
}

/// For whom a limit counts separately, in words.
pub(super) fn per(lang: Lang, per: &Per) -> Cow<'static, str> {
    let words = lang.words();
    Cow::Borrowed(match per {
        Per::Organization => words.whole_organization,
        Per::Project => words.project,
        Per::Key => words.key,
        Per::User => words.end_user,
        Per::Model => words.model,
        Per::Tag(name) => return Cow::Owned(words.value_of_this_tag.replace("{tag}", name)),
    })
}

/// The name of a limit's unit.
pub(super) const fn unit(lang: Lang, unit: Unit) -> &'static str {
    let words = lang.words();
    match unit {
        Unit::Usd => words.us_dollars,
        Unit::Tokens => words.tokens,
        Unit::InputTokens => words.input_tokens,
        Unit::OutputTokens => words.output_tokens,
        Unit::Requests => words.requests,
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct LimitName {
    pub(super) name: String,
}

async fn ask_remove(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    Query(LimitName { name }): Query<LimitName>,
) -> PageResult {
    let words = request.words();
    let found = named(&dashboard.admin, &name).filter(|listed| listed.limit.source == Source::Api);
    let limit = found.ok_or_else(|| request.not_found())?.limit;
    let confirmation = Confirmation {
        title: words.remove_limit,
        action: "/limits/remove",
        back: "/limits",
        field: ("name", &limit.name),
        subject: html! { strong { (names::name(&limit.name)) } },
        consequence: words.remove_limit_lead,
        confirm: words.remove,
    };
    Ok(request.page(words.remove_limit, &parts::confirmation(&request, &confirmation)))
}

async fn remove(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    Form(LimitName { name }): Form<LimitName>,
) -> PageResult {
    match dashboard.admin.rulebook.remove_limit(&name, &request.actor).await {
        Ok(()) => Ok(see_other("/limits")),
        Err(LimitError::Store(error)) => Err(request.unavailable(&error)),
        Err(
            LimitError::NoSuchLimit(_)
            | LimitError::ManagedByFile(_)
            | LimitError::ManagedAsAlert(_)
            | LimitError::NoSuchAlert(_)
            | LimitError::TooManyAlerts(_)
            | LimitError::Random(_)
            | LimitError::Name(_)
            | LimitError::Rule(_),
        ) => Err(request.not_found()),
    }
}

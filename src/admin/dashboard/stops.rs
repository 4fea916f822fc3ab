//! What is stopped: fuses and kill switches, on the pages that list limits, keys and projects.

use std::sync::Arc;

use axum::extract::{Form, Query, State};
use axum::routing::get;
use axum::{Extension, Router};
use maud::{Markup, html};
use serde::Deserialize;

use crate::admin::dashboard::language::Lang;
use crate::admin::dashboard::page::{ErrorPage, PageRequest, PageResult};
use crate::admin::dashboard::parts::Confirmation;
use crate::admin::dashboard::{Dashboard, figures, names, parts, see_other};
use crate::domain::stop::Cause;
use crate::domain::{Fuse, Spender, SpenderKind, Stop};
use crate::stops::{Reading, StopError};

/// Spenders of a fuse that are shown, those that have spent the most.
const SPENDERS_MAX: usize = 5;
const MINUTE_MS: i64 = 60_000;

pub(super) fn routes() -> Router<Dashboard> {
    Router::new()
        .route("/limits/stop", get(ask_stop).post(stop))
        .route("/limits/allow", get(ask_allow).post(allow))
        .route("/limits/reset", get(ask_reset).post(reset))
}

/// What is stopped, for the first page.
pub(super) fn banner(dashboard: &Dashboard, request: &PageRequest) -> Markup {
    let words = request.words();
    let stops = dashboard.admin.stops.in_force();
    html! {
        @if !stops.is_empty() {
            div.notice.bad role="alert" {
                p { strong { (words.spending_stopped) } " " a href="/limits#stops" { (words.fuses) } }
                ul { @for stop in &stops { li { (said(dashboard, request.lang, stop)) } } }
            }
        }
    }
}

/// Whom a stop stops, and why.
fn said(dashboard: &Dashboard, lang: Lang, stop: &Stop) -> Markup {
    let words = lang.words();
    html! {
        strong { (named(dashboard, lang, &stop.spender)) } ": "
        @match &stop.cause {
            Cause::KillSwitch { note } => {
                (words.kill_switch) " (" (names::name(&stop.by)) ")"
                @if let Some(note) = note { ", " (names::name(note)) }
            }
            Cause::Fuse { name, spent, limit } => {
                (words.fuse) " " (names::name(name)) ", "
                (figures::exact(lang, *spent)) " > " (figures::exact(lang, *limit))
            }
        }
        ", " (words.since) " " (parts::time(lang, stop.since_ms.div_euclid(1_000)))
        @if let Some(until_ms) = stop.until_ms {
            ", " (words.cools_down) " " (parts::time(lang, until_ms.div_euclid(1_000)))
        }
    }
}

/// A spender by its name.
fn named(dashboard: &Dashboard, lang: Lang, spender: &Spender) -> Markup {
    let ring = dashboard.admin.guard.ring();
    match spender {
        Spender::Organization => html! { (lang.words().whole_organization) },
        Spender::Project(id) => names::name(&ring.project_name(id)),
        Spender::Key(id) => names::name(&ring.key_name(id)),
    }
}

/// A badge, if a stop is on a spender itself.
pub(super) fn badge(dashboard: &Dashboard, lang: Lang, spender: &Spender) -> Markup {
    let is_stopped = dashboard.admin.stops.in_force().iter().any(|stop| stop.spender == *spender);
    html! { @if is_stopped { " " (parts::badge("red", lang.words().stopped)) } }
}

/// What turns the kill switch of a spender on or off.
pub(super) fn switch(dashboard: &Dashboard, request: &PageRequest, spender: &Spender) -> Markup {
    let words = request.words();
    let is_on = dashboard.admin.guard.ring().stops().last(spender, None).is_some();
    let link = |path: &str| parts::link(path, &[("subject", spender.label())]);
    let of = || html! { span.unseen { " " (named(dashboard, request.lang, spender)) } };
    html! {
        @if is_on { a.button.small href=(link("/limits/allow")) { (words.allow_spending) (of()) } }
        @else { a.button.small.danger href=(link("/limits/stop")) { (words.stop_spending) (of()) } }
    }
}

/// The fuses and what is stopped, for the page of limits.
pub(super) async fn section(dashboard: &Dashboard, request: &PageRequest) -> Result<Markup, StopError> {
    let words = request.words();
    let (fuses, stops) = (dashboard.admin.stops.fuses(SPENDERS_MAX).await?, dashboard.admin.stops.in_force());
    Ok(html! {
        section.card #stops aria-labelledby="fuses" {
            div.heading.small {
                div { h2 #fuses { (words.fuses) } p.muted { (words.fuses_lead) } }
                @if request.may_change {
                    div.actions { (switch(dashboard, request, &Spender::Organization)) }
                }
            }
            @if !stops.is_empty() { ul.stack { @for stop in &stops { (stopped(dashboard, request, stop)) } } }
            @if fuses.is_empty() { p.muted { (words.no_fuses) } }
            @for (fuse, readings) in &fuses { (rule(dashboard, request.lang, fuse, readings)) }
        }
    })
}

/// A stop with what lifts it.
fn stopped(dashboard: &Dashboard, request: &PageRequest, stop: &Stop) -> Markup {
    let words = request.words();
    html! {
        li.notice.bad {
            p { (said(dashboard, request.lang, stop)) }
            @if request.may_change {
                div.actions {
                    @if stop.fuse().is_some() {
                        a.button.small href=(parts::link("/limits/reset", &[("id", &stop.id.to_string())])) {
                            (words.reset_fuse) span.unseen { " " (named(dashboard, request.lang, &stop.spender)) }
                        }
                    } @else {
                        (switch(dashboard, request, &stop.spender))
                    }
                }
            }
        }
    }
}

/// A fuse, and who has spent the most under it.
fn rule(dashboard: &Dashboard, lang: Lang, fuse: &Fuse, readings: &[Reading]) -> Markup {
    let words = lang.words();
    let per = match fuse.per {
        SpenderKind::Organization => words.whole_organization,
        SpenderKind::Project => words.project,
        SpenderKind::Key => words.key,
    };
    let minutes =
        |ms: i64| figures::counted(lang, words.n_minutes, u64::try_from(ms / MINUTE_MS).unwrap_or(0));
    html! {
        h3 { (names::name(&fuse.name)) }
        dl.rule {
            div { dt { (words.counted_per) } dd { (per) } }
            div { dt { (words.window) } dd { (minutes(fuse.within_ms)) } }
            @if let Some(usd) = fuse.usd { div { dt { (words.hard_limit) } dd { (figures::exact(lang, usd)) } } }
            @if let Some(times) = fuse.times_usual { div { dt { (words.times_usual) } dd { (times) "×" } } }
            div { dt { (words.cools_down) } dd {
                @match fuse.cool_down_ms { Some(ms) => (minutes(ms)), None => (words.never) }
            } }
        }
        @if !readings.is_empty() {
            ul {
                @for Reading { spender, spent, limit } in readings {
                    li {
                        (named(dashboard, lang, spender)) ": " strong { (figures::exact(lang, *spent)) }
                        @if let Some(limit) = limit { " / " (figures::exact(lang, *limit)) }
                    }
                }
            }
        }
    }
}

#[derive(Debug, Deserialize)]
struct Subject {
    subject: String,
}

/// The spender that a form names, and the page that lists it.
fn found(dashboard: &Dashboard, subject: &str) -> Option<(Spender, &'static str)> {
    let spender = dashboard.admin.stops.spender(subject).ok()?;
    let page = match spender.kind() {
        SpenderKind::Organization => "/limits",
        SpenderKind::Project => "/projects",
        SpenderKind::Key => "/keys",
    };
    Some((spender, page))
}

/// Asks whether spending is to be stopped or allowed again, by the title and the consequence of that.
fn confirm(
    dashboard: &Dashboard,
    request: &PageRequest,
    subject: &str,
    action: &str,
    [title, consequence]: [&str; 2],
) -> PageResult {
    let (spender, back) = found(dashboard, subject).ok_or_else(|| request.not_found())?;
    let confirmation = Confirmation {
        title,
        action,
        back,
        field: ("subject", subject),
        subject: html! { strong { (named(dashboard, request.lang, &spender)) } },
        consequence,
        confirm: title,
    };
    Ok(request.page(title, &parts::confirmation(request, &confirmation)))
}

async fn ask_stop(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    Query(Subject { subject }): Query<Subject>,
) -> PageResult {
    let words = request.words();
    confirm(&dashboard, &request, &subject, "/limits/stop", [words.stop_spending, words.stop_spending_lead])
}

async fn stop(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    Form(Subject { subject }): Form<Subject>,
) -> PageResult {
    let (_, back) = found(&dashboard, &subject).ok_or_else(|| request.not_found())?;
    let done = dashboard.admin.stops.switch_on(&subject, None, &request.actor).await;
    done.map(|_| see_other(back)).map_err(|error| failed(&request, &error))
}

async fn ask_allow(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    Query(Subject { subject }): Query<Subject>,
) -> PageResult {
    let words = request.words();
    confirm(
        &dashboard,
        &request,
        &subject,
        "/limits/allow",
        [words.allow_spending, words.allow_spending_lead],
    )
}

async fn allow(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    Form(Subject { subject }): Form<Subject>,
) -> PageResult {
    let (_, back) = found(&dashboard, &subject).ok_or_else(|| request.not_found())?;
    let done = dashboard.admin.stops.switch_off(&subject, &request.actor).await;
    done.map(|()| see_other(back)).map_err(|error| failed(&request, &error))
}

#[derive(Debug, Deserialize)]
struct StopId {
    id: u64,
}

/// A stop by a fuse that is in force.
fn blown(dashboard: &Dashboard, id: u64) -> Option<(Arc<Stop>, Arc<str>)> {
    let stop = dashboard.admin.stops.in_force().into_iter().find(|stop| stop.id == id)?;
    let fuse = Arc::clone(stop.fuse()?);
    Some((stop, fuse))
}

async fn ask_reset(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    Query(StopId { id }): Query<StopId>,
) -> PageResult {
    let words = request.words();
    let (stop, _) = blown(&dashboard, id).ok_or_else(|| request.not_found())?;
    let confirmation = Confirmation {
        title: words.reset_fuse,
        action: "/limits/reset",
        back: "/limits",
        field: ("id", &id.to_string()),
        subject: said(&dashboard, request.lang, &stop),
        consequence: words.reset_fuse_lead,
        confirm: words.reset_fuse,
    };
    Ok(request.page(words.reset_fuse, &parts::confirmation(&request, &confirmation)))
}

async fn reset(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    Form(StopId { id }): Form<StopId>,
) -> PageResult {
    let (stop, fuse) = blown(&dashboard, id).ok_or_else(|| request.not_found())?;
    let done = dashboard.admin.stops.reset(&fuse, Some(stop.spender.label()), &request.actor).await;
    done.map(|_| see_other("/limits")).map_err(|error| failed(&request, &error))
}

/// The page of a change that was not made.
pub(super) fn failed(request: &PageRequest, error: &StopError) -> ErrorPage {
    match error {
        StopError::Store(error) => request.unavailable(error),
        StopError::NoSuchSpender(_)
        | StopError::NotOn(_)
        | StopError::NoSuchFuse(_)
        | StopError::NotBlown { .. }
        | StopError::BadNote => request.not_found(),
    }
}

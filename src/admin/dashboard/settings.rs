//! Settings: the organization, alert channels, the language, how the guard is,
//! and the configuration in force.

use axum::extract::rejection::FormRejection;
use axum::extract::{Form, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Extension, Router};
use maud::{Markup, html};
use serde::Deserialize;

use crate::admin::dashboard::page::{self, ErrorPage, PageQuery, PageRequest, PageResult, query_or_default};
use crate::admin::dashboard::{Dashboard, figures, names, parts, see_other};
use crate::alerts::Listed;
use crate::directory::organization::RenameError;
use crate::domain::limit::Source;
use crate::store::outbox::Delivery;

pub(super) fn routes() -> Router<Dashboard> {
    Router::new()
        .route("/settings", get(show))
        .route("/settings/organization", post(rename))
        .route("/settings/test", post(test))
}

#[derive(Debug, Default, Deserialize)]
struct SettingsQuery {
    saved: Option<String>,
}

/// The result of a form on this page.
#[derive(Default)]
struct FormResult {
    saved: bool,
    /// A rejected name, and the error.
    name: Option<(String, &'static str)>,
    /// The channel that was tested, and the result.
    tested: Option<(String, Result<(), String>)>,
}

async fn show(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    query: PageQuery<SettingsQuery>,
) -> PageResult {
    let result = FormResult { saved: query_or_default(query).saved.is_some(), ..FormResult::default() };
    Ok(request.page(request.words().settings, &view(&dashboard, &request, &result).await?))
}

async fn view(
    dashboard: &Dashboard,
    request: &PageRequest,
    result: &FormResult,
) -> Result<Markup, ErrorPage> {
    let words = request.words();
    Ok(html! {
        (parts::heading(words.settings, None, &html! {}))
        @if result.saved { p.notice.good role="status" { (words.saved) } }
        section.card aria-labelledby="organization" {
            h2 #organization { (words.organization) }
            (organization(dashboard, request, result.name.as_ref()))
        }
        section.card aria-labelledby="channels" {
            h2 #channels { (words.alert_channels) }
            (channels(dashboard, request, result.tested.as_ref()).await?)
        }
        section.card {
            h2 { (words.language) }
            p.muted { (words.language_lead) }
            (page::languages(request.lang, "/settings"))
        }
        section.card {
            h2 { (words.this_guard) }
            (state(dashboard, request))
        }
        section.card {
            h2 { (words.in_force) }
            p.muted { (words.in_force_lead) }
            (configuration(dashboard, request))
        }
    })
}

/// The organization's name, to be changed unless the file gives it.
fn organization(
    dashboard: &Dashboard,
    request: &PageRequest,
    wrong: Option<&(String, &'static str)>,
) -> Markup {
    let words = request.words();
    let of_file = dashboard.admin.directory.organization_named_by() == Some(Source::File);
    if of_file || !request.may_change {
        return html! {
            p { strong { (names::name(&request.organization)) } " "
                @if of_file { (parts::badge("grey", words.from_file)) } }
            @if of_file { p.hint { (words.named_by_file) " " code { "[organization] name" } } }
        };
    }
    let typed = wrong.map_or(&*request.organization, |(typed, _)| typed);
    html! {
        form.row method="post" action="/settings/organization" {
            (request.csrf_field())
            div.field {
                label for="name" { (words.name) }
                input #name name="name" required maxlength="256" autocomplete="organization" value=(typed)
                    aria-invalid=[wrong.map(|_| "true")] aria-describedby="name-hint";
                @if let Some((_, problem)) = wrong {
                    p.notice.bad #name-hint role="alert" { (problem) }
                } @else {
                    p.hint #name-hint { (words.organization_hint) }
                }
            }
            button.button.primary type="submit" { (words.save_changes) }
        }
    }
}

#[derive(Debug, Default, Deserialize)]
struct NameForm {
    #[serde(default)]
    name: String,
}

async fn rename(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    sent: Result<Form<NameForm>, FormRejection>,
) -> PageResult {
    let words = request.words();
    let name = sent.map(|Form(sent)| sent.name.trim().to_owned()).unwrap_or_default();
    let problem = match dashboard.admin.directory.rename_organization(name.clone(), &request.actor).await {
        Ok(()) => return Ok(see_other("/settings?saved=name")),
        Err(RenameError::Store(error)) => return Err(request.unavailable(&error)),
        Err(RenameError::BadName) => words.bad_name,
        Err(RenameError::ManagedByFile) => words.named_by_file,
    };
    let result = FormResult { name: Some((name, problem)), ..FormResult::default() };
    let body = view(&dashboard, &request, &result).await?;
    Ok(request.with_status(StatusCode::UNPROCESSABLE_ENTITY, words.settings, &body))
}

/// The alert channels and the state of each.
async fn channels(
    dashboard: &Dashboard,
    request: &PageRequest,
    tested: Option<&(String, Result<(), String>)>,
) -> Result<Markup, ErrorPage> {
    let words = request.words();
    let listed = dashboard.admin.outbox.listed();
    let names: Vec<String> = listed.iter().map(|channel| channel.name.clone()).collect();
    let states = dashboard.admin.books.reports().channel_states(names);
    let states = states.await.map_err(|error| request.unavailable(&error))?;
    let found = tested.filter(|(name, _)| listed.iter().any(|channel| channel.name == *name));
    Ok(html! {
        p.muted {
            (words.alert_channels_lead) " "
            code { "[alerts.email]" } " · " code { "[[alerts.webhook]]" } " · " code { "[[alerts.slack]]" }
        }
        @if listed.is_empty() {
            (parts::empty(words.no_channels, words.no_channels_how, &html! {}))
        } @else {
            ul.list {
                @for (channel, (last, waiting)) in listed.iter().zip(&states) {
                    li.line {
                        (channel_state(request, channel, last.as_ref(), *waiting))
                        @if request.may_change { (test_button(request, channel)) }
                        @if let Some((_, outcome)) = found.filter(|(name, _)| *name == channel.name) {
                            (outcome_of_test(request, outcome))
                        }
                    }
                }
            }
        }
    })
}

fn channel_state(request: &PageRequest, channel: &Listed, last: Option<&Delivery>, waiting: u64) -> Markup {
    let (lang, words) = (request.lang, request.words());
    let kind = match channel.kind {
        "email" => words.email,
        "webhook" => words.webhook,
        _ => "Slack",
    };
    html! {
        div {
            p { strong { (kind) } " " (names::name(&channel.place)) }
            p.small.muted {
                code { (channel.name) }
                @if waiting > 0 { " · " (figures::counted(lang, words.n_waiting, waiting)) }
            }
        }
        div.state {
            @match last {
                None => (parts::badge("grey", words.nothing_sent)),
                Some(last) if last.state == "sent" => {
                    (parts::badge("green", words.delivered))
                    p.small.muted { (parts::time(lang, last.next_ms.div_euclid(1_000))) }
                },
                Some(last) => {
                    (parts::badge("red", words.not_delivered))
                    p.small lang="en" { (names::note(last.error.as_deref().unwrap_or_default())) }
                },
            }
        }
    }
}

fn test_button(request: &PageRequest, channel: &Listed) -> Markup {
    html! {
        form method="post" action="/settings/test" {
            (request.csrf_field())
            input type="hidden" name="channel" value=(channel.name);
            button.button.small type="submit" { (request.words().send_test) span.unseen { " " (channel.name) } }
        }
    }
}

fn outcome_of_test(request: &PageRequest, outcome: &Result<(), String>) -> Markup {
    let words = request.words();
    html! {
        @match outcome {
            Ok(()) => p.notice.good role="status" { (words.test_sent) },
            Err(error) => p.notice.bad role="alert" { (words.test_failed) " " span lang="en" { (names::note(error)) } },
        }
    }
}

#[derive(Debug, Deserialize)]
struct TestForm {
    channel: String,
}

async fn test(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    Form(TestForm { channel }): Form<TestForm>,
) -> PageResult {
    let outcome = dashboard.admin.outbox.test_one(&channel).await.ok_or_else(|| request.not_found())?;
    let result = FormResult { tested: Some((channel, outcome)), ..FormResult::default() };
    Ok(request.page(request.words().settings, &view(&dashboard, &request, &result).await?))
}

fn state(dashboard: &Dashboard, request: &PageRequest) -> Markup {
    let (lang, words) = (request.lang, request.words());
    let in_force = dashboard.admin.in_force.load();
    let guard = &dashboard.admin.guard;
    let (held, open) = guard.in_doubt();
    html! {
        dl.rule {
            div { dt { (words.version) } dd { (env!("CARGO_PKG_VERSION")) } }
            div { dt { (words.time_zone) } dd { (in_force.zone) } }
            div { dt { (words.prices_as_of) } dd {
                (figures::day(lang, figures::date_of(in_force.sheet.as_of_s(), &jiff::tz::TimeZone::UTC)))
            } }
            div { dt { (words.ledger) } dd {
                @if guard.core().is_healthy() { (parts::badge("green", words.ledger_sound)) }
                @else { (parts::badge("red", words.ledger_unavailable)) }
            } }
            div { dt { (words.held_now) } dd {
                (figures::exact(lang, held)) " · "
                (figures::counted(lang, words.n_open, u64::try_from(open).unwrap_or(u64::MAX)))
            } }
        }
    }
}

/// The configuration in force, as a file of it would be written.
fn configuration(dashboard: &Dashboard, request: &PageRequest) -> Markup {
    let in_force = dashboard.admin.in_force.load();
    html! {
        div.scroll tabindex="0" role="region" aria-label=(request.words().in_force) {
            pre lang="en" dir="ltr" { code { (in_force.text) } }
        }
    }
}

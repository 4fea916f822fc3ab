//! Settings: the organization, alert channels, the language, how the guard is,
//! and what configuration is in force.

use axum::extract::rejection::FormRejection;
use axum::extract::{Form, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Extension, Router};
use maud::{Markup, html};
use serde::Deserialize;

use crate::admin::dashboard::page::{self, Asked, Instead, Shown, Visit, asked};
use crate::admin::dashboard::{Desk, figures, names, parts, see_other};
use crate::alerts::Listed;
use crate::directory::organization::RenameError;
use crate::domain::limit::Source;
use crate::store::outbox::Delivery;

pub(super) fn routes() -> Router<Desk> {
    Router::new()
        .route("/settings", get(show))
        .route("/settings/organization", post(rename))
        .route("/settings/test", post(test))
}

#[derive(Debug, Default, Deserialize)]
struct Wanted {
    saved: Option<String>,
}

/// What came of what was asked for.
#[derive(Default)]
struct News {
    saved: bool,
    /// What was typed as a name, and what is wrong with it.
    name: Option<(String, &'static str)>,
    /// The channel that was tested, and what came of it.
    tested: Option<(String, Result<(), String>)>,
}

async fn show(State(desk): State<Desk>, Extension(visit): Extension<Visit>, wanted: Asked<Wanted>) -> Shown {
    let news = News { saved: asked(wanted).saved.is_some(), ..News::default() };
    Ok(visit.page(visit.words().settings, &view(&desk, &visit, &news).await?))
}

async fn view(desk: &Desk, visit: &Visit, news: &News) -> Result<Markup, Instead> {
    let words = visit.words();
    Ok(html! {
        (parts::heading(words.settings, None, &html! {}))
        @if news.saved { p.notice.good role="status" { (words.saved) } }
        section.card aria-labelledby="organization" {
            h2 #organization { (words.organization) }
            (organization(desk, visit, news.name.as_ref()))
        }
        section.card aria-labelledby="channels" {
            h2 #channels { (words.alert_channels) }
            (channels(desk, visit, news.tested.as_ref()).await?)
        }
        section.card {
            h2 { (words.language) }
            p.muted { (words.language_lead) }
            (page::languages(visit.lang, "/settings"))
        }
        section.card {
            h2 { (words.this_guard) }
            (state(desk, visit))
        }
        section.card {
            h2 { (words.in_force) }
            p.muted { (words.in_force_lead) }
            (configuration(desk, visit))
        }
    })
}

/// The organization's name, to be changed unless the file gives it.
fn organization(desk: &Desk, visit: &Visit, wrong: Option<&(String, &'static str)>) -> Markup {
    let words = visit.words();
    let of_file = desk.admin.directory.organization_named_by() == Some(Source::File);
    if of_file || !visit.may_change {
        return html! {
            p { strong { (names::name(&visit.organization)) } " "
                @if of_file { (parts::badge("grey", words.from_file)) } }
            @if of_file { p.hint { (words.named_by_file) " " code { "[organization] name" } } }
        };
    }
    let typed = wrong.map_or(&*visit.organization, |(typed, _)| typed);
    html! {
        form.row method="post" action="/settings/organization" {
            (visit.proof())
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
    State(desk): State<Desk>,
    Extension(visit): Extension<Visit>,
    sent: Result<Form<NameForm>, FormRejection>,
) -> Shown {
    let words = visit.words();
    let name = sent.map(|Form(sent)| sent.name.trim().to_owned()).unwrap_or_default();
    let problem = match desk.admin.directory.rename_organization(name.clone(), &visit.by).await {
        Ok(()) => return Ok(see_other("/settings?saved=name")),
        Err(RenameError::Store(error)) => return Err(visit.unavailable(&error)),
        Err(RenameError::BadName) => words.bad_name,
        Err(RenameError::ManagedByFile) => words.named_by_file,
    };
    let news = News { name: Some((name, problem)), ..News::default() };
    let body = view(&desk, &visit, &news).await?;
    Ok(visit.with_status(StatusCode::UNPROCESSABLE_ENTITY, words.settings, &body))
}

/// Where alerts go, and how that goes.
async fn channels(
    desk: &Desk,
    visit: &Visit,
    tested: Option<&(String, Result<(), String>)>,
) -> Result<Markup, Instead> {
    let words = visit.words();
    let listed = desk.admin.outbox.listed();
    let names: Vec<String> = listed.iter().map(|channel| channel.name.clone()).collect();
    let states = desk.admin.books.reports().channel_states(names);
    let states = states.await.map_err(|error| visit.unavailable(&error))?;
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
                        (channel_state(visit, channel, last.as_ref(), *waiting))
                        @if visit.may_change { (test_button(visit, channel)) }
                        @if let Some((_, outcome)) = found.filter(|(name, _)| *name == channel.name) {
                            (outcome_of_test(visit, outcome))
                        }
                    }
                }
            }
        }
    })
}

fn channel_state(visit: &Visit, channel: &Listed, last: Option<&Delivery>, waiting: u64) -> Markup {
    let (lang, words) = (visit.lang, visit.words());
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

fn test_button(visit: &Visit, channel: &Listed) -> Markup {
    html! {
        form method="post" action="/settings/test" {
            (visit.proof())
            input type="hidden" name="channel" value=(channel.name);
            button.button.small type="submit" { (visit.words().send_test) span.unseen { " " (channel.name) } }
        }
    }
}

fn outcome_of_test(visit: &Visit, outcome: &Result<(), String>) -> Markup {
    let words = visit.words();
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
    State(desk): State<Desk>,
    Extension(visit): Extension<Visit>,
    Form(TestForm { channel }): Form<TestForm>,
) -> Shown {
    let outcome = desk.admin.outbox.test_one(&channel).await.ok_or_else(|| visit.not_found())?;
    let news = News { tested: Some((channel, outcome)), ..News::default() };
    Ok(visit.page(visit.words().settings, &view(&desk, &visit, &news).await?))
}

fn state(desk: &Desk, visit: &Visit) -> Markup {
    let (lang, words) = (visit.lang, visit.words());
    let in_force = desk.admin.in_force.load();
    let guard = &desk.admin.guard;
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
fn configuration(desk: &Desk, visit: &Visit) -> Markup {
    let in_force = desk.admin.in_force.load();
    html! {
        div.scroll tabindex="0" role="region" aria-label=(visit.words().in_force) {
            pre lang="en" dir="ltr" { code { (in_force.text) } }
        }
    }
}

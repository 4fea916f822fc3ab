//! Projects: what each spends, a new one, another name, an end to one.

use std::collections::HashMap;

use axum::extract::rejection::FormRejection;
use axum::extract::{Form, Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Extension, Router};
use maud::{Markup, html};
use serde::Deserialize;

use crate::admin::dashboard::page::{Asked, Shown, Visit, asked};
use crate::admin::dashboard::parts::Question;
use crate::admin::dashboard::{Desk, figures, names, parts, see_other};
use crate::directory::keyring::KeyError;
use crate::domain::Money;
use crate::keys::Project;
use crate::store::reports::GroupBy;

/// Projects on one page.
const PAGE: usize = 50;

pub(super) fn routes() -> Router<Desk> {
    Router::new()
        .route("/projects", get(list).post(put))
        .route("/projects/new", get(new))
        .route("/projects/rename", get(ask_rename))
        .route("/projects/archive", get(ask_archive).post(archive))
}

#[derive(Debug, Default, Deserialize)]
struct Wanted {
    from: Option<usize>,
}

async fn list(State(desk): State<Desk>, Extension(visit): Extension<Visit>, wanted: Asked<Wanted>) -> Shown {
    let (lang, words) = (visit.lang, visit.words());
    let from = asked(wanted).from.unwrap_or(0);
    let mut projects = desk.admin.guard.ring().projects();
    // Those that are in use come first.
    projects.sort_by_key(|project| project.archived_s.is_some());
    let found = projects.len();
    let shown: Vec<_> = projects.into_iter().skip(from).take(PAGE).collect();
    let spent = parts::spent_this_month(&desk, &visit, GroupBy::Project).await?;
    let at = |from: usize| parts::link("/projects", &[("from", &from.to_string())]);
    let before = (from > 0).then(|| at(from.saturating_sub(PAGE)));
    let after = (found > from.saturating_add(PAGE)).then(|| at(from + PAGE));
    let create = html! {
        @if visit.may_change { a.button.primary href="/projects/new" { "+ " (words.create_project) } }
    };
    let body = html! {
        (parts::heading(words.projects, Some(words.projects_lead), &create))
        (table(&desk, &visit, &shown, &spent))
        (parts::pager(lang, before, after))
    };
    Ok(visit.page(words.projects, &body))
}

/// How many keys of each project may still be used.
fn keys_of(desk: &Desk) -> HashMap<String, u64> {
    let mut counts = HashMap::new();
    for key in desk.admin.guard.ring().keys().iter().filter(|key| key.revoked_s.is_none()) {
        *counts.entry(key.project.to_string()).or_default() += 1;
    }
    counts
}

fn table(desk: &Desk, visit: &Visit, projects: &[Project], spent: &HashMap<String, Money>) -> Markup {
    let (lang, words) = (visit.lang, visit.words());
    let keys = keys_of(desk);
    let cost = |project: &Project| spent.get(&*project.id).copied().unwrap_or_default();
    let digits = figures::decimals(projects.iter().map(&cost).max().unwrap_or_default());
    html! {
        div.scroll tabindex="0" role="region" aria-label=(words.projects) {
            table.cards {
                thead { tr {
                    th scope="col" { (words.name) } th scope="col" { (words.status) }
                    th scope="col" { (words.created) } th.number scope="col" { (words.api_keys) }
                    th.number scope="col" { (words.spend_this_month) } th scope="col" { span.unseen { (words.actions) } }
                } }
                tbody {
                    @for project in projects {
                        tr {
                            th scope="row" { (names::name(&project.name)) span.sub { code { (names::name(&project.id)) } } }
                            td data-label=(words.status) { (state(visit, project)) }
                            td data-label=(words.created) { (parts::date(lang, project.created_s)) }
                            td.number data-label=(words.api_keys) {
                                (figures::number(lang, keys.get(&*project.id).copied().unwrap_or(0)))
                            }
                            td.number data-label=(words.spend_this_month) {
                                a href=(parts::link("/usage", &[("project", &project.id)])) { (parts::money(lang, cost(project), digits)) }
                            }
                            td.actions { @if visit.may_change { (actions(visit, project)) } }
                        }
                    }
                }
            }
        }
    }
}

fn state(visit: &Visit, project: &Project) -> Markup {
    let words = visit.words();
    html! {
        @if project.archived_s.is_some() { (parts::badge("grey", words.archived)) }
        @else { (parts::badge("green", words.active)) }
        @if project.from_file { " " (parts::badge("grey", words.from_file)) }
    }
}

fn actions(visit: &Visit, project: &Project) -> Markup {
    let words = visit.words();
    let link = |path: &str| parts::link(path, &[("id", &project.id)]);
    html! {
        @if project.archived_s.is_none() {
            a.button.small href=(parts::link("/keys/new", &[("project", &project.id)])) {
                "+ " (words.key) span.unseen { " " (names::name(&project.name)) }
            }
            @if !project.from_file {
                " " a.button.small href=(link("/projects/rename")) {
                    (words.rename) span.unseen { " " (names::name(&project.name)) }
                }
                " " a.button.small.danger href=(link("/projects/archive")) {
                    (words.archive) span.unseen { " " (names::name(&project.name)) }
                }
            }
        }
    }
}

#[derive(Debug, Default, Deserialize)]
struct ProjectForm {
    /// Absent for a new one.
    #[serde(default)]
    id: String,
    #[serde(default)]
    name: String,
}

impl ProjectForm {
    const fn title(&self, visit: &Visit) -> &'static str {
        let words = visit.words();
        if self.id.is_empty() { words.create_project } else { words.rename_project }
    }
}

async fn new(Extension(visit): Extension<Visit>) -> Shown {
    let blank = ProjectForm::default();
    Ok(visit.page(blank.title(&visit), &form(&visit, &blank, None)))
}

#[derive(Debug, Deserialize)]
struct Which {
    id: String,
}

/// A project that can be changed here.
fn changeable(desk: &Desk, id: &str) -> Option<Project> {
    let project = desk.admin.guard.ring().project(id)?;
    Some(project).filter(|project| !project.from_file && project.archived_s.is_none())
}

async fn ask_rename(
    State(desk): State<Desk>,
    Extension(visit): Extension<Visit>,
    Query(Which { id }): Query<Which>,
) -> Shown {
    let project = changeable(&desk, &id).ok_or_else(|| visit.not_found())?;
    let known = ProjectForm { id, name: project.name.to_string() };
    Ok(visit.page(known.title(&visit), &form(&visit, &known, None)))
}

fn form(visit: &Visit, sent: &ProjectForm, problem: Option<&str>) -> Markup {
    let words = visit.words();
    html! {
        (parts::heading(sent.title(visit), None, &html! {}))
        form.card.narrow method="post" action="/projects" {
            (visit.proof())
            input type="hidden" name="id" value=(sent.id);
            @if let Some(problem) = problem { p.notice.bad role="alert" { (problem) } }
            div.field {
                label for="name" { (words.name) }
                input #name name="name" required maxlength="256" autocomplete="off" value=(sent.name) autofocus
                    aria-invalid=[problem.map(|_| "true")] aria-describedby="name-hint";
                p.hint #name-hint { (words.project_name_hint) }
            }
            div.actions {
                button.button.primary type="submit" {
                    @if sent.id.is_empty() { (words.create_project) } @else { (words.save_changes) }
                }
                a.button href="/projects" { (words.cancel) }
            }
        }
    }
}

async fn put(
    State(desk): State<Desk>,
    Extension(visit): Extension<Visit>,
    sent: Result<Form<ProjectForm>, FormRejection>,
) -> Shown {
    let sent = sent.map(|Form(sent)| sent).unwrap_or_default();
    let (name, directory) = (sent.name.trim().to_owned(), &desk.admin.directory);
    let done = if sent.id.is_empty() {
        directory.create_project(None, name, &visit.by).await
    } else {
        changeable(&desk, &sent.id).ok_or_else(|| visit.not_found())?;
        directory.rename_project(&sent.id, name, &visit.by).await
    };
    match done {
        Ok(_) => Ok(see_other("/projects")),
        Err(KeyError::BadName) => {
            let body = form(&visit, &sent, Some(visit.words().bad_name));
            Ok(visit.with_status(StatusCode::UNPROCESSABLE_ENTITY, sent.title(&visit), &body))
        }
        Err(KeyError::Store(error)) => Err(visit.unavailable(&error)),
        Err(_) => Err(visit.not_found()),
    }
}

async fn ask_archive(
    State(desk): State<Desk>,
    Extension(visit): Extension<Visit>,
    Query(Which { id }): Query<Which>,
) -> Shown {
    let (lang, words) = (visit.lang, visit.words());
    let project = changeable(&desk, &id).ok_or_else(|| visit.not_found())?;
    let keys = keys_of(&desk).get(&id).copied().unwrap_or(0);
    let question = Question {
        title: words.archive_project,
        action: "/projects/archive",
        back: "/projects",
        field: ("id", &id),
        what: html! { strong { (names::name(&project.name)) } " · " (figures::counted(lang, words.n_keys, keys)) },
        lead: words.archive_project_lead,
        yes: words.archive,
    };
    Ok(visit.page(words.archive_project, &parts::question(&visit, &question)))
}

async fn archive(
    State(desk): State<Desk>,
    Extension(visit): Extension<Visit>,
    Form(Which { id }): Form<Which>,
) -> Shown {
    match desk.admin.directory.archive_project(&id, &visit.by).await {
        Ok(_) => Ok(see_other("/projects")),
        Err(KeyError::Store(error)) => Err(visit.unavailable(&error)),
        Err(_) => Err(visit.not_found()),
    }
}

//! Projects: the list with each one's spend; creating, renaming and archiving.

use std::collections::HashMap;

use axum::extract::rejection::FormRejection;
use axum::extract::{Form, Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Extension, Router};
use maud::{Markup, html};
use serde::Deserialize;

use crate::admin::dashboard::page::{PageQuery, PageRequest, PageResult, query_or_default};
use crate::admin::dashboard::parts::Confirmation;
use crate::admin::dashboard::sort::{Column, Sorting, by_name};
use crate::admin::dashboard::{Dashboard, figures, names, parts, see_other, stops};
use crate::directory::keyring::KeyError;
use crate::domain::{Money, Spender};
use crate::keys::Project;
use crate::store::reports::GroupBy;

/// Projects on one page.
const PAGE: usize = 50;

pub(super) fn routes() -> Router<Dashboard> {
    Router::new()
        .route("/projects", get(list).post(put))
        .route("/projects/new", get(new))
        .route("/projects/rename", get(ask_rename))
        .route("/projects/archive", get(ask_archive).post(archive))
}

#[derive(Debug, Default, Deserialize)]
struct ProjectListQuery {
    from: Option<usize>,
    sort: Option<String>,
    dir: Option<String>,
}

/// A project as the list shows it.
struct ProjectRow {
    project: Project,
    keys: u64,
    spent: Money,
}

const COLUMNS: &[Column<ProjectRow>] = &[
    Column::text("name", |words| words.name, |a, b| by_name(&a.project.name, &b.project.name)),
    Column::fixed(|words| words.status, ""),
    Column::time("created", |words| words.created, |a, b| a.project.created_s.cmp(&b.project.created_s)),
    Column::number("keys", |words| words.api_keys, |a, b| a.keys.cmp(&b.keys)),
    Column::number("spend", |words| words.spend_this_month, |a, b| a.spent.cmp(&b.spent)),
];

async fn list(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    query: PageQuery<ProjectListQuery>,
) -> PageResult {
    let words = request.words();
    let ProjectListQuery { from, sort, dir } = query_or_default(query);
    let from = from.unwrap_or(0);
    let sorting = Sorting::of(COLUMNS, None, sort.as_deref(), dir.as_deref());
    let spent = parts::spent_this_month(&dashboard, &request, GroupBy::Project).await?;
    let keys = keys_of(&dashboard);
    let mut projects = dashboard.admin.guard.ring().projects();
    // Archived projects come last.
    projects.sort_by_key(|project| project.archived_s.is_some());
    let (before, after) = parts::neighbours(from, PAGE, projects.len());
    let row = |project: Project| ProjectRow {
        keys: keys.get(&*project.id).copied().unwrap_or(0),
        spent: spent.get(&*project.id).copied().unwrap_or_default(),
        project,
    };
    let rows = sorting.page(projects.into_iter().map(row).collect(), from, PAGE);
    let order = sorting.query();
    let at = |from: usize| parts::link("/projects", &[("from", &from.to_string()), order[0], order[1]]);
    let in_order = |sort: &str, dir: &str| parts::link("/projects", &[("sort", sort), ("dir", dir)]);
    let create = html! {
        @if request.may_change { a.button.primary href="/projects/new" { "+ " (words.create_project) } }
    };
    let body = html! {
        (parts::heading(words.projects, Some(words.projects_lead), &create))
        (table(&dashboard, &request, &rows, &sorting.headings(words, in_order)))
        (parts::pager(request.lang, before.map(at), after.map(at)))
    };
    Ok(request.page(words.projects, &body))
}

/// How many keys of each project may still be used.
fn keys_of(dashboard: &Dashboard) -> HashMap<String, u64> {
    let mut counts = HashMap::new();
    for key in dashboard.admin.guard.ring().keys().iter().filter(|key| key.revoked_s.is_none()) {
        *counts.entry(key.project.to_string()).or_default() += 1;
    }
    counts
}

fn table(dashboard: &Dashboard, request: &PageRequest, rows: &[ProjectRow], headings: &Markup) -> Markup {
    let (lang, words) = (request.lang, request.words());
    let digits = figures::decimals(rows.iter().map(|row| row.spent).max().unwrap_or_default());
    html! {
        div.scroll tabindex="0" role="region" aria-label=(words.projects) {
            table.cards.sortable {
                thead { tr { (headings) th scope="col" { span.unseen { (words.actions) } } } }
                tbody {
                    @for ProjectRow { project, keys, spent } in rows {
                        tr {
                            th scope="row" { (names::name(&project.name)) span.sub { code { (names::name(&project.id)) } } }
                            td data-label=(words.status) { (state(dashboard, request, project)) }
                            td data-label=(words.created) { (parts::date(lang, project.created_s)) }
                            td.number data-label=(words.api_keys) { (figures::number(lang, *keys)) }
                            td.number data-label=(words.spend_this_month) {
                                a href=(parts::link("/usage", &[("project", &project.id)])) { (parts::money(lang, *spent, digits)) }
                            }
                            td.actions { @if request.may_change { (actions(dashboard, request, project)) } }
                        }
                    }
                }
            }
        }
    }
}

fn state(dashboard: &Dashboard, request: &PageRequest, project: &Project) -> Markup {
    let (words, spender) = (request.words(), Spender::Project(project.id.clone()));
    html! {
        @if project.archived_s.is_some() { (parts::badge("grey", words.archived)) }
        @else { (parts::badge("green", words.active)) }
        @if project.from_file { " " (parts::badge("grey", words.from_file)) }
        (stops::badge(dashboard, request.lang, &spender))
    }
}

fn actions(dashboard: &Dashboard, request: &PageRequest, project: &Project) -> Markup {
    let words = request.words();
    let link = |path: &str| parts::link(path, &[("id", &project.id)]);
    html! {
        @if project.archived_s.is_none() {
            a.button.small href=(parts::link("/keys/new", &[("project", &project.id)])) {
                "+ " (words.key) span.unseen { " " (names::name(&project.name)) }
            }
            " " (stops::switch(dashboard, request, &Spender::Project(project.id.clone())))
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
    const fn title(&self, request: &PageRequest) -> &'static str {
        let words = request.words();
        if self.id.is_empty() { words.create_project } else { words.rename_project }
    }
}

async fn new(Extension(request): Extension<PageRequest>) -> PageResult {
    let blank = ProjectForm::default();
    Ok(request.page(blank.title(&request), &form(&request, &blank, None)))
}

#[derive(Debug, Deserialize)]
struct ProjectId {
    id: String,
}

/// A project that can be changed here.
fn changeable(dashboard: &Dashboard, id: &str) -> Option<Project> {
    let project = dashboard.admin.guard.ring().project(id)?;
    Some(project).filter(|project| !project.from_file && project.archived_s.is_none())
}

async fn ask_rename(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    Query(ProjectId { id }): Query<ProjectId>,
) -> PageResult {
    let project = changeable(&dashboard, &id).ok_or_else(|| request.not_found())?;
    let renamed = ProjectForm { id, name: project.name.to_string() };
    Ok(request.page(renamed.title(&request), &form(&request, &renamed, None)))
}

fn form(request: &PageRequest, sent: &ProjectForm, problem: Option<&str>) -> Markup {
    let words = request.words();
    html! {
        (parts::heading(sent.title(request), None, &html! {}))
        form.card.narrow method="post" action="/projects" {
            (request.csrf_field())
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
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    sent: Result<Form<ProjectForm>, FormRejection>,
) -> PageResult {
    let sent = sent.map(|Form(sent)| sent).unwrap_or_default();
    let (name, directory) = (sent.name.trim().to_owned(), &dashboard.admin.directory);
    let done = if sent.id.is_empty() {
        directory.create_project(None, name, &request.actor).await
    } else {
        changeable(&dashboard, &sent.id).ok_or_else(|| request.not_found())?;
        directory.rename_project(&sent.id, name, &request.actor).await
    };
    match done {
        Ok(_) => Ok(see_other("/projects")),
        Err(KeyError::BadName) => {
            let body = form(&request, &sent, Some(request.words().bad_name));
            Ok(request.with_status(StatusCode::UNPROCESSABLE_ENTITY, sent.title(&request), &body))
        }
        Err(KeyError::Store(error)) => Err(request.unavailable(&error)),
        Err(_) => Err(request.not_found()),
    }
}

async fn ask_archive(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    Query(ProjectId { id }): Query<ProjectId>,
) -> PageResult {
    let (lang, words) = (request.lang, request.words());
    let project = changeable(&dashboard, &id).ok_or_else(|| request.not_found())?;
    let keys = keys_of(&dashboard).get(&id).copied().unwrap_or(0);
    let confirmation = Confirmation {
        title: words.archive_project,
        action: "/projects/archive",
        back: "/projects",
        field: ("id", &id),
        subject: html! { strong { (names::name(&project.name)) } " · " (figures::counted(lang, words.n_keys, keys)) },
        consequence: words.archive_project_lead,
        confirm: words.archive,
    };
    Ok(request.page(words.archive_project, &parts::confirmation(&request, &confirmation)))
}

async fn archive(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    Form(ProjectId { id }): Form<ProjectId>,
) -> PageResult {
    match dashboard.admin.directory.archive_project(&id, &request.actor).await {
        Ok(_) => Ok(see_other("/projects")),
        Err(KeyError::Store(error)) => Err(request.unavailable(&error)),
        Err(_) => Err(request.not_found()),
    }
}

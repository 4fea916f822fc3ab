//! API keys: the list, creating a key whose secret is shown once, revoking one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::rejection::FormRejection;
use axum::extract::{Form, Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Extension, Router};
use maud::{Markup, html};
use serde::Deserialize;

use crate::admin::dashboard::page::{PageQuery, PageRequest, PageResult, query_or_default};
use crate::admin::dashboard::parts::Confirmation;
use crate::admin::dashboard::sort::{Column, Direction, Sorting, by_name};
use crate::admin::dashboard::{Dashboard, figures, names, parts, see_other, sockets, stops};
use crate::directory::keyring::{KeyError, NewKey};
use crate::domain::{Money, Spender};
use crate::keys::Key;
use crate::store::reports::GroupBy;

/// Keys on one page.
const PAGE: usize = 50;
const DAY_S: i64 = 86_400;
/// The lives that a new key may be given, in days.
const LIVES: [&str; 4] = ["7", "30", "90", "365"];

pub(super) fn routes() -> Router<Dashboard> {
    Router::new()
        .route("/keys", get(list).post(create))
        .route("/keys/new", get(new))
        .route("/keys/created", get(created))
        .route("/keys/revoke", get(ask_revoke).post(revoke))
}

#[derive(Debug, Default, Deserialize)]
struct KeyListQuery {
    q: Option<String>,
    from: Option<usize>,
    sort: Option<String>,
    dir: Option<String>,
}

/// A key as the list shows it.
struct KeyRow {
    key: Arc<Key>,
    project: Arc<str>,
    spent: Money,
}

impl KeyRow {
    fn used_ms(&self) -> i64 {
        self.key.last_used_ms.load(Ordering::Relaxed)
    }
}

const COLUMNS: &[Column<KeyRow>] = &[
    Column::text("name", |words| words.name, |a, b| by_name(&a.key.name, &b.key.name)),
    Column::fixed(|words| words.secret, ""),
    Column::text("project", |words| words.project, |a, b| by_name(&a.project, &b.project)),
    Column::fixed(|words| words.status, ""),
    Column::time("created", |words| words.created, |a, b| a.key.created_s.cmp(&b.key.created_s)),
    Column::time("used", |words| words.last_used, |a, b| a.used_ms().cmp(&b.used_ms())),
    Column::number("spend", |words| words.spend_this_month, |a, b| a.spent.cmp(&b.spent)),
];

/// The keys in which a search finds its text, newest first.
fn found(dashboard: &Dashboard, search: &str, spent: &HashMap<String, Money>) -> Vec<KeyRow> {
    let ring = dashboard.admin.guard.ring();
    let lower = search.to_lowercase();
    let matches = |key: &Key| {
        key.name.to_lowercase().contains(&lower) || *key.id == *search || key.redacted.ends_with(search)
    };
    let row = |key: Arc<Key>| KeyRow {
        project: ring.project_name(&key.project),
        spent: spent.get(&*key.id).copied().unwrap_or_default(),
        key,
    };
    ring.keys().into_iter().rev().filter(|key| matches(key)).map(row).collect()
}

async fn list(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    query: PageQuery<KeyListQuery>,
) -> PageResult {
    let (lang, words) = (request.lang, request.words());
    let KeyListQuery { q, from, sort, dir } = query_or_default(query);
    let (search, from) = (q.unwrap_or_default(), from.unwrap_or(0));
    let newest_first = Some(("created", Direction::Descending));
    let sorting = Sorting::of(COLUMNS, newest_first, sort.as_deref(), dir.as_deref());
    let spent = parts::spent_this_month(&dashboard, &request, GroupBy::Key).await?;
    let has_keys = dashboard.admin.guard.ring().any(|_| true);
    let rows = found(&dashboard, &search, &spent);
    let (before, after) = parts::neighbours(from, PAGE, rows.len());
    let rows = sorting.page(rows, from, PAGE);
    let order = sorting.query();
    let at = |from: usize| {
        parts::link("/keys", &[("q", &search), ("from", &from.to_string()), order[0], order[1]])
    };
    let in_order =
        |sort: &str, dir: &str| parts::link("/keys", &[("q", &search), ("sort", sort), ("dir", dir)]);
    let create = html! {
        @if request.may_change { a.button.primary href="/keys/new" { "+ " (words.create_key) } }
    };
    let body = html! {
        (parts::heading(words.api_keys, Some(words.api_keys_lead), &create))
        @if before.is_some() || after.is_some() || !search.is_empty() { (search_form(&request, &search, order)) }
        @if !has_keys {
            (parts::empty(words.no_keys, words.no_keys_how, &create))
        } @else if rows.is_empty() {
            (parts::empty(words.nothing_found, words.nothing_found_how, &html! { a.button href="/keys" { (words.show_all) } }))
        } @else {
            (table(&dashboard, &request, &rows, &sorting.headings(words, in_order)))
            (parts::pager(lang, before.map(at), after.map(at)))
        }
    };
    Ok(request.page(words.api_keys, &body))
}

fn search_form(request: &PageRequest, search: &str, order: [(&str, &str); 2]) -> Markup {
    let words = request.words();
    html! {
        form.filters method="get" action="/keys" role="search" {
            div.field {
                label for="q" { (words.search_keys) }
                input #q type="search" name="q" value=(search) maxlength="256";
            }
            @for (name, value) in order.into_iter().filter(|(_, value)| !value.is_empty()) {
                input type="hidden" name=(name) value=(value);
            }
            button.button type="submit" { (words.apply) }
        }
    }
}

fn table(dashboard: &Dashboard, request: &PageRequest, rows: &[KeyRow], headings: &Markup) -> Markup {
    let (lang, words) = (request.lang, request.words());
    let now_s = dashboard.admin.guard.clock().now_s();
    let open = sockets::counts(&dashboard.admin.guard.open_sockets());
    let digits = figures::decimals(rows.iter().map(|row| row.spent).max().unwrap_or_default());
    html! {
        div.scroll tabindex="0" role="region" aria-label=(words.api_keys) {
            table.cards.sortable {
                thead { tr { (headings) th scope="col" { span.unseen { (words.actions) } } } }
                tbody {
                    @for row in rows {
                        @let key = &row.key;
                        @let spender = Spender::Key(Arc::clone(&key.id));
                        tr {
                            th scope="row" { (names::name(&key.name)) }
                            td data-label=(words.secret) { code.secret { (names::name(&key.redacted)) } }
                            td data-label=(words.project) { (names::name(&row.project)) }
                            td data-label=(words.status) {
                                (parts::key_state(lang, key, now_s)) (stops::badge(dashboard, lang, &spender))
                                @if let Some(count) = open.get(&key.id) { span.sub { (sockets::link(lang, &key.id, *count)) } }
                            }
                            td data-label=(words.created) { (parts::date(lang, key.created_s)) }
                            td data-label=(words.last_used) {
                                @if row.used_ms() > 0 { (parts::time(lang, row.used_ms().div_euclid(1_000))) }
                                @else { span.muted { (words.never) } }
                            }
                            td.number data-label=(words.spend_this_month) {
                                a href=(parts::link("/usage", &[("key", &key.id)])) { (parts::money(lang, row.spent, digits)) }
                            }
                            td.actions {
                                @if request.may_change && key.revoked_s.is_none() {
                                    (stops::switch(dashboard, request, &spender)) " "
                                    a.button.small.danger href=(parts::link("/keys/revoke", &[("id", &key.id)])) {
                                        (words.revoke) span.unseen { " " (names::name(&key.name)) }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

#[derive(Debug, Default, Deserialize)]
struct NewForm {
    #[serde(default)]
    name: String,
    #[serde(default)]
    project: String,
    #[serde(default)]
    days: String,
    #[serde(default)]
    models: String,
}

/// The form, with the values of the query.
async fn new(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    filled_in: PageQuery<NewForm>,
) -> PageResult {
    Ok(request
        .page(request.words().create_key, &form(&dashboard, &request, &query_or_default(filled_in), None)))
}

fn form(dashboard: &Dashboard, request: &PageRequest, sent: &NewForm, problem: Option<&str>) -> Markup {
    let words = request.words();
    let projects = dashboard.admin.guard.ring().projects();
    let active = projects.iter().filter(|project| project.archived_s.is_none());
    let lives: Vec<_> = LIVES
        .iter()
        .map(|days| (*days, figures::counted(request.lang, words.n_days, days.parse().unwrap_or(0))))
        .collect();
    html! {
        (parts::heading(words.create_key, Some(words.create_key_lead), &html! {}))
        form.card.narrow method="post" action="/keys" {
            (request.csrf_field())
            @if let Some(problem) = problem { p.notice.bad role="alert" { (problem) } }
            div.field {
                label for="name" { (words.name) }
                input #name name="name" required maxlength="256" autocomplete="off" value=(sent.name) autofocus
                    aria-describedby="name-hint";
                p.hint #name-hint { (words.key_name_hint) }
            }
            div.field {
                label for="project" { (words.project) }
                select #project name="project" {
                    (parts::options(&sent.project, active.map(|project| (&*project.id, &*project.name))))
                }
            }
            div.field {
                label for="days" { (words.expires_after) }
                select #days name="days" {
                    option value="" { (words.no_expiry) }
                    (parts::options(&sent.days, lives.iter().map(|(days, text)| (*days, text.as_str()))))
                }
            }
            div.field {
                label for="models" { (words.models_allowed) }
                input #models name="models" autocomplete="off" value=(sent.models) placeholder="gpt-5*" maxlength="4096"
                    aria-describedby="models-hint";
                p.hint #models-hint { (words.models_allowed_hint) }
            }
            div.actions {
                button.button.primary type="submit" { (words.create_key) }
                a.button href="/keys" { (words.cancel) }
            }
        }
    }
}

async fn create(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    sent: Result<Form<NewForm>, FormRejection>,
) -> PageResult {
    let words = request.words();
    let sent = sent.map(|Form(sent)| sent).unwrap_or_default();
    let days: Option<i64> = LIVES.contains(&sent.days.as_str()).then(|| sent.days.parse().ok()).flatten();
    let key = NewKey {
        name: sent.name.trim().to_owned(),
        project: Some(sent.project.clone()).filter(|project| !project.is_empty()),
        expires_in_s: days.map(|days| days.saturating_mul(DAY_S)),
        models: sent.models.split([' ', ',']).filter(|model| !model.is_empty()).map(str::to_owned).collect(),
        secret: None,
    };
    let problem = match dashboard.admin.directory.create_key(key, &request.actor).await {
        Ok((key, secret)) => {
            let now_ms = dashboard.admin.guard.clock().now_ms();
            dashboard.sessions.keep(&request.session, Arc::clone(&key.id), secret, now_ms);
            return Ok(see_other(&parts::link("/keys/created", &[("id", &key.id)])));
        }
        Err(KeyError::BadName) => words.bad_name,
        Err(KeyError::NoSuchProject(_)) => words.no_such_project,
        Err(KeyError::Store(error)) => return Err(request.unavailable(&error)),
        Err(error) => {
            tracing::error!(event = "key_creation_failed", %error, "a key could not be created");
            words.not_done
        }
    };
    let body = form(&dashboard, &request, &sent, Some(problem));
    Ok(request.with_status(StatusCode::UNPROCESSABLE_ENTITY, words.create_key, &body))
}

#[derive(Debug, Deserialize)]
struct KeyId {
    id: String,
}

/// The secret of a new key, shown this once.
async fn created(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    Query(KeyId { id }): Query<KeyId>,
) -> PageResult {
    let words = request.words();
    let key = dashboard.admin.guard.ring().by_id(&id).ok_or_else(|| request.not_found())?;
    let Some(secret) = dashboard.sessions.take(&request.session, &id, dashboard.admin.guard.clock().now_ms())
    else {
        return Ok(see_other("/keys"));
    };
    let body = html! {
        (parts::heading(words.key_created, None, &html! {}))
        div.card.narrow {
            p { (words.key_created_lead) }
            p.notice.warn { (words.shown_once) }
            div.field {
                label for="secret" { (names::name(&key.name)) }
                div.copy {
                    input #secret.mono readonly value=(secret.expose()) data-select spellcheck="false" autocomplete="off";
                    button.button type="button" data-copy="secret" data-done=(words.copied) hidden { (words.copy) }
                }
                p.hint role="status" data-status {}
            }
            div.actions { a.button.primary href="/keys" { (words.done) } }
        }
    };
    Ok(request.page(words.key_created, &body))
}

async fn ask_revoke(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    Query(KeyId { id }): Query<KeyId>,
) -> PageResult {
    let words = request.words();
    let key = dashboard.admin.guard.ring().by_id(&id).ok_or_else(|| request.not_found())?;
    let confirmation = Confirmation {
        title: words.revoke_key,
        action: "/keys/revoke",
        back: "/keys",
        field: ("id", &key.id),
        subject: html! { strong { (names::name(&key.name)) } " " code.secret { (names::name(&key.redacted)) } },
        consequence: words.revoke_key_lead,
        confirm: words.revoke,
    };
    Ok(request.page(words.revoke_key, &parts::confirmation(&request, &confirmation)))
}

async fn revoke(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    Form(KeyId { id }): Form<KeyId>,
) -> PageResult {
    match dashboard.admin.directory.revoke_key(&id, &request.actor).await {
        Ok(_) => Ok(see_other("/keys")),
        Err(KeyError::Store(error)) => Err(request.unavailable(&error)),
        Err(_) => Err(request.not_found()),
    }
}

//! The audit log: every change with its operator and its time.

use axum::extract::State;
use axum::routing::get;
use axum::{Extension, Router};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::admin::dashboard::page::{PageQuery, PageRequest, PageResult, query_or_default};
use crate::admin::dashboard::{Dashboard, activity, figures, names, parts};
use crate::guard::audit::Actor;
use crate::store::records::{AuditFilter, AuditRow};

/// Changes on one page.
const PAGE: usize = 30;
/// Fields of one change that are named.
const FIELDS_MAX: usize = 20;

pub(super) fn routes() -> Router<Dashboard> {
    Router::new().route("/activity/audit", get(show))
}

#[derive(Debug, Default, Deserialize)]
struct AuditQuery {
    before: Option<i64>,
}

async fn show(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    query: PageQuery<AuditQuery>,
) -> PageResult {
    let words = request.words();
    let below = query_or_default(query).before;
    let filter = AuditFilter { below, count_max: PAGE + 1, ..AuditFilter::default() };
    let mut rows =
        dashboard.admin.directory.audit_log(filter).await.map_err(|error| request.unavailable(&error))?;
    let more = rows.len() > PAGE;
    rows.truncate(PAGE);
    let last = rows.last().map(|row| row.id).filter(|_| more);
    let older = last.map(|id| parts::link("/activity/audit", &[("before", &id.to_string())]));
    let newest = below.map(|_| "/activity/audit".to_owned());
    let body = html! {
        (parts::heading(words.activity, Some(words.audit_lead), &html! {}))
        (activity::tabs(&request))
        @if rows.is_empty() {
            (parts::empty(words.no_changes, words.no_changes_how, &html! {}))
        } @else {
            (table(&dashboard, &request, &rows))
        }
        (parts::pager(request.lang, newest, older))
    };
    Ok(request.page(words.audit_trail, &body))
}

fn table(dashboard: &Dashboard, request: &PageRequest, rows: &[AuditRow]) -> Markup {
    let (lang, words) = (request.lang, request.words());
    html! {
        div.scroll tabindex="0" role="region" aria-label=(words.audit_trail) {
            table.cards.trail {
                thead { tr {
                    th scope="col" { (words.time) } th scope="col" { (words.who) } th scope="col" { (words.what) }
                    th scope="col" { (words.before_after) }
                } }
                tbody {
                    @for row in rows {
                        tr title=(row.event) {
                            th scope="row" { (parts::event_time(lang, row.at_ms.div_euclid(1_000))) }
                            td data-label=(words.who) { div { (actor(request, row)) } }
                            td data-label=(words.what) { div { (what(dashboard, request, row)) } }
                            td data-label=(words.before_after) { (difference(request, row)) }
                        }
                    }
                }
            }
        }
    }
}

fn actor(request: &PageRequest, row: &AuditRow) -> Markup {
    let words = request.words();
    match row.actor.as_str() {
        id if id == Actor::configured().id => html! { (words.admin_token) },
        id if id == Actor::guard().id => html! { (words.this_guard) },
        _ => names::name(&row.actor_name),
    }
}

/// The change in words; the event's own name is in the row's title.
fn what(dashboard: &Dashboard, request: &PageRequest, row: &AuditRow) -> Markup {
    let (words, ring) = (request.words(), dashboard.admin.guard.ring());
    let (of, done) = row.event.rsplit_once('.').unwrap_or((&row.event, ""));
    let (tone, done) = match done {
        "created" | "granted" => ("green", words.was_created),
        "deleted" => ("red", words.was_removed),
        "archived" => ("grey", words.was_archived),
        "on" | "blown" => ("red", words.stopped),
        "off" | "reset" => ("green", words.allowed_again),
        "adjusted" => ("amber", words.kind_adjust),
        _ => ("blue", words.was_changed),
    };
    let named = |value: Option<&str>| value.and_then(name_in).unwrap_or_else(|| row.resource.clone());
    let resource = named(row.after.as_deref().or(row.before.as_deref()));
    let (kind, name) = match of {
        "api_key" => (words.key, ring.key_name(&row.resource).to_string()),
        "project" => (words.project, ring.project_name(&row.resource).to_string()),
        "limit" => (words.limit, row.resource.clone()),
        "tenant.admin_api_key" => (words.admin_key, resource),
        "service_account" => (words.service_account, resource),
        "spend_alert" => (words.spend_alert, resource),
        "model_permissions" => (words.model_permissions, ring.project_name(&row.resource).to_string()),
        "organization" => (words.organization, request.organization.to_string()),
        "credit" => (words.credit, row.resource.clone()),
        "ledger" => (words.ledger, row.resource.clone()),
        "kill_switch" => (words.kill_switch, row.resource.clone()),
        "fuse" => (words.fuse, row.resource.clone()),
        other => (other, resource),
    };
    html! { (parts::badge(tone, done)) " " (kind) span.sub { (names::name(&name)) } }
}

/// The name of the object in a change.
fn name_in(text: &str) -> Option<String> {
    let value: Value = serde_json::from_str(text).ok()?;
    value.get("name")?.as_str().map(str::to_owned)
}

/// The fields that changed.
fn difference(request: &PageRequest, row: &AuditRow) -> Markup {
    let object = |text: &Option<String>| {
        let value = text.as_deref().and_then(|text| serde_json::from_str::<Map<String, Value>>(text).ok());
        value.unwrap_or_default()
    };
    let (before, after) = (object(&row.before), object(&row.after));
    let mut fields: Vec<&String> = before.keys().chain(after.keys()).collect();
    fields.sort_unstable();
    fields.dedup();
    let was_there = row.before.is_some() && row.after.is_some();
    let differs = |field: &&&String| {
        let (was, is) = (before.get(**field), after.get(**field));
        was != is && (has_value(was) || has_value(is))
    };
    let fields: Vec<_> = fields.iter().filter(differs).collect();
    html! {
        ul.changes lang="en" {
            @for field in fields.iter().take(FIELDS_MAX) {
                li {
                    code { (field) } " "
                    @if was_there { (value(request, field, before.get(**field))) " → " (value(request, field, after.get(**field))) }
                    @else { (value(request, field, after.get(**field).or(before.get(**field)))) }
                }
            }
        }
    }
}

/// Whether a value is there and not empty.
fn has_value(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => false,
        Some(Value::Array(all)) => !all.is_empty(),
        Some(Value::Object(all)) => !all.is_empty(),
        Some(Value::Bool(_) | Value::Number(_) | Value::String(_)) => true,
    }
}

fn value(request: &PageRequest, field: &str, value: Option<&Value>) -> Markup {
    let Some(value) = value.filter(|value| has_value(Some(value))) else { return html! { "–" } };
    let instant = value.as_i64().filter(|_| field.ends_with("_at") || field.ends_with("_until"));
    match (instant, value) {
        (Some(at_s), _) if !figures::rfc3339(at_s).is_empty() => parts::time(request.lang, at_s),
        (_, Value::String(text)) => names::name(text),
        (_, other) => names::name(&other.to_string()),
    }
}

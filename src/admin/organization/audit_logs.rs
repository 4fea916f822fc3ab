//! Audit logs: every change of an operator, newest first.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value, json};
use utoipa::IntoParams;

use super::view::{ActorView, AuditView, NamedView};
use super::{Pairs, page_length};
use crate::admin::Admin;
use crate::admin::error::ApiError;
use crate::admin::extract::Query;
use crate::admin::view::List;
use crate::store::records::{AuditFilter, AuditRow};

const PREFIX: &str = "audit_log-";
/// The most values of one list of the query.
const VALUES_MAX: usize = 100;

fn number(id: &str, param: &'static str) -> Result<i64, ApiError> {
    let number = id.strip_prefix(PREFIX).and_then(|number| number.parse().ok());
    number.ok_or_else(|| ApiError::bad(Some(param), format!("{id:?} is no id of an audit log")))
}

/// Reads the filter of a query, and the length of a page.
fn filter(pairs: Pairs) -> Result<(AuditFilter, usize), ApiError> {
    let (mut filter, mut limit) = (AuditFilter::default(), None);
    for (name, value) in pairs {
        let seconds = || {
            let wrong = |_| ApiError::bad(Some("effective_at"), "use Unix seconds");
            value.parse::<i64>().map_err(wrong)
        };
        let later = |known: Option<i64>, s: i64| Some(known.map_or(s, |known| known.max(s)));
        let sooner = |known: Option<i64>, s: i64| Some(known.map_or(s, |known| known.min(s)));
        match name.strip_suffix("[]").unwrap_or(&name) {
            "event_types" => filter.events.push(value),
            "actor_ids" => filter.actors.push(value),
            "project_ids" => filter.projects.push(value),
            "resource_ids" => filter.resources.push(value),
            "effective_at[gte]" => filter.since_s = later(filter.since_s, seconds()?),
            "effective_at[gt]" => filter.since_s = later(filter.since_s, seconds()?.saturating_add(1)),
            "effective_at[lt]" => filter.until_s = sooner(filter.until_s, seconds()?),
            "effective_at[lte]" => filter.until_s = sooner(filter.until_s, seconds()?.saturating_add(1)),
            "after" => filter.below = Some(number(&value, "after")?),
            "before" => filter.above = Some(number(&value, "before")?),
            "limit" => {
                let wrong = |_| ApiError::bad(Some("limit"), "use 1 to 100");
                limit = Some(value.parse().map_err(wrong)?);
            }
            "tenant_only" if value == "false" => {}
            "tenant_only" => {
                return Err(ApiError::unsupported(Some("tenant_only"), "the guard has no tenants"));
            }
            "actor_emails" => {
                let why = "the guard has no users; use actor_ids, the ids of admin keys";
                return Err(ApiError::unsupported(Some("actor_emails"), why));
            }
            other => return Err(ApiError::bad(None, format!("there is no parameter {other:?}"))),
        }
    }
    let lists = [&filter.events, &filter.actors, &filter.projects, &filter.resources];
    if lists.iter().any(|list| list.len() > VALUES_MAX) {
        return Err(ApiError::bad(None, "give up to 100 values of one kind"));
    }
    if filter.below.is_some() && filter.above.is_some() {
        return Err(ApiError::bad(Some("before"), "give after or before, not both"));
    }
    let limit = page_length(limit)?;
    filter.count_max = limit + 1;
    Ok((filter, limit))
}

/// The query, for the OpenAPI document. A name may be repeated, so a request is read
/// as pairs and not into this struct.
#[expect(dead_code, reason = "only the document is made of it")]
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
struct AuditLogQuery {
    /// Unix seconds.
    #[param(rename = "effective_at[gt]")]
    after_s: Option<i64>,
    /// Unix seconds.
    #[param(rename = "effective_at[gte]")]
    since_s: Option<i64>,
    /// Unix seconds.
    #[param(rename = "effective_at[lt]")]
    before_s: Option<i64>,
    /// Unix seconds.
    #[param(rename = "effective_at[lte]")]
    until_s: Option<i64>,
    /// Such as `api_key.created`.
    #[param(max_items = 100)]
    event_types: Option<Vec<String>>,
    /// Only changes in these projects.
    #[param(max_items = 100)]
    project_ids: Option<Vec<String>>,
    /// Ids of admin keys, or `configured`.
    #[param(max_items = 100)]
    actor_ids: Option<Vec<String>>,
    /// Only changes of these objects.
    #[param(max_items = 100)]
    resource_ids: Option<Vec<String>>,
    /// The number of items in a page. Default: 20.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<usize>,
    /// The page begins after this id.
    after: Option<String>,
    /// The page ends before this id.
    before: Option<String>,
}

/// Lists the changes of operators, newest first.
#[utoipa::path(get, path = "/audit_logs", params(AuditLogQuery), responses((status = 200, body = List<AuditView>)))]
pub(super) async fn list(
    State(admin): State<Admin>,
    Query(pairs): Query<Pairs>,
) -> Result<Json<List<AuditView>>, ApiError> {
    let (filter, limit) = filter(pairs)?;
    let is_backward = filter.above.is_some();
    let mut rows = admin.directory.audit_log(filter).await?;
    let has_more = rows.len() > limit;
    if has_more && is_backward {
        rows.remove(0);
    }
    rows.truncate(limit);
    let views = rows.into_iter().map(|row| view(&admin, row)).collect();
    Ok(Json(List::new(views, has_more, |log: &AuditView| log.id.clone())))
}

fn view(admin: &Admin, row: AuditRow) -> AuditView {
    let value = |text: Option<String>| text.and_then(|text| serde_json::from_str::<Value>(&text).ok());
    let (before, after) = (value(row.before), value(row.after));
    let project =
        row.project.map(|id| NamedView { name: admin.guard.ring().project_name(&id).to_string(), id });
    AuditView {
        object: "organization.audit_log",
        id: format!("{PREFIX}{}", row.id),
        effective_at: row.at_ms.div_euclid(1_000),
        project,
        actor: ActorView { kind: "api_key", api_key: NamedView { id: row.actor, name: row.actor_name } },
        details: BTreeMap::from([(
            row.event.clone(),
            details(row.resource, before.as_ref(), after.as_ref()),
        )]),
        event: row.event,
        before,
        after,
    }
}

/// The details in OpenAI's form: the created object, or the changed fields with their new values.
fn details(resource: String, before: Option<&Value>, after: Option<&Value>) -> Value {
    let mut details = Map::from_iter([("id".to_owned(), Value::String(resource))]);
    match (before, after) {
        (None, Some(after)) => drop(details.insert("data".to_owned(), after.clone())),
        (Some(before), Some(Value::Object(after))) => {
            let changed = after.iter().filter(|(field, value)| before.get(field) != Some(value));
            let changed: Map<_, _> = changed.map(|(field, value)| (field.clone(), value.clone())).collect();
            details.insert("changes_requested".to_owned(), json!(changed));
        }
        _ => {}
    }
    Value::Object(details)
}

//! The organization as OpenAI's admin API has it, under `/v1/organization`.
//!
//! The objects made here are ordinary keys, projects and limits: these paths are
//! another way to them. A setting of OpenAI's that the guard can't apply is an
//! error that says so, never a success that does nothing.

mod admin_keys;
mod api_keys;
mod audit_logs;
mod model_permissions;
mod projects;
mod rate_limits;
mod service_accounts;
mod spend_alerts;
mod spend_limit;
mod usage;
mod usage_query;
mod usage_units;
mod usage_view;
mod view;

use axum::http::Uri;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::admin::Admin;
use crate::admin::error::ApiError;
use crate::admin::paging::{Paging, page_of};
use crate::admin::view::List;
use crate::domain::id;
use crate::keys::{KeyHash, Project};

/// The length of OpenAI's pages.
const PAGE_DEFAULT: usize = 20;
const PAGE_MAX: usize = 100;
/// The longest name of a limit.
const LIMIT_NAME_CHARS_MAX: usize = 64;
/// Enough of a hash to distinguish any two names.
const HASH_CHARS: usize = 20;

/// A query as it is written; a name may be repeated.
type Pairs = Vec<(String, String)>;

/// The routes, without what they are nested under.
pub(super) fn routes() -> OpenApiRouter<Admin> {
    // The organization has these, and each project has its own.
    let spending = || {
        OpenApiRouter::new()
            .routes(routes!(spend_limit::show, spend_limit::put, spend_limit::remove))
            .routes(routes!(spend_alerts::list, spend_alerts::create))
            .routes(routes!(spend_alerts::show, spend_alerts::change, spend_alerts::remove))
    };
    let project = spending()
        .routes(routes!(projects::show, projects::change))
        .routes(routes!(projects::archive))
        .routes(routes!(api_keys::list))
        .routes(routes!(api_keys::show, api_keys::change, api_keys::remove))
        .routes(routes!(service_accounts::list, service_accounts::create))
        .routes(routes!(service_accounts::show, service_accounts::change, service_accounts::remove))
        .routes(routes!(service_accounts::create_key))
        .routes(routes!(rate_limits::list))
        .routes(routes!(rate_limits::change))
        .routes(routes!(model_permissions::show, model_permissions::put, model_permissions::remove));
    spending()
        .routes(routes!(projects::list, projects::create))
        .nest("/projects/{project}", project)
        .routes(routes!(admin_keys::list, admin_keys::create))
        .routes(routes!(admin_keys::show, admin_keys::remove))
        .routes(routes!(usage::usage))
        .routes(routes!(usage::costs))
        .routes(routes!(audit_logs::list))
        .fallback(absent)
}

/// Answers a path that OpenAI may have here and the guard has not.
async fn absent(uri: Uri) -> ApiError {
    ApiError::not_found(format!(
        "spendguard has nothing at /v1/organization{}; it keeps projects, their keys, service accounts, limits and model permissions, \
         admin keys, usage, costs and audit logs",
        uri.path()
    ))
}

/// Selects a page of a list; its length is OpenAI's.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct PageQuery {
    /// The number of items in a page. Default: 20.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<usize>,
    /// The page begins after this id.
    after: Option<String>,
    /// The page ends before this id.
    before: Option<String>,
    /// `asc` or `desc`.
    #[param(pattern = "^(asc|desc)$")]
    order: Option<String>,
}

impl From<PageQuery> for Paging {
    fn from(PageQuery { limit, after, before, order }: PageQuery) -> Self {
        Self { limit, after, before, order }
    }
}

/// Returns a page of a list that is in memory; its length is OpenAI's.
fn page<T>(all: Vec<T>, paging: &Paging, id: impl Fn(&T) -> String) -> Result<List<T>, ApiError> {
    page_of(all, paging, page_length(paging.limit)?, id)
}

fn page_length(limit: Option<usize>) -> Result<usize, ApiError> {
    let limit = limit.unwrap_or(PAGE_DEFAULT);
    let fits = (1..=PAGE_MAX).contains(&limit);
    if fits { Ok(limit) } else { Err(ApiError::bad(Some("limit"), "use 1 to 100")) }
}

/// The scope that a path names: a project, or the organization if it names none.
#[derive(Debug, Deserialize)]
struct ScopePath {
    project: Option<String>,
}

/// Returns the scope if its project exists, archived or not.
fn known<'a>(admin: &Admin, scope: Option<&'a str>) -> Result<Option<&'a str>, ApiError> {
    scope.map(|id| project(admin, id)).transpose()?;
    Ok(scope)
}

/// Returns the scope if its project accepts changes.
fn active<'a>(admin: &Admin, scope: Option<&'a str>) -> Result<Option<&'a str>, ApiError> {
    scope.map(|id| active_project(admin, id)).transpose()?;
    Ok(scope)
}

/// The project of an id, archived or not.
fn project(admin: &Admin, id: &str) -> Result<Project, ApiError> {
    let found = admin.guard.ring().project(id);
    found.ok_or_else(|| ApiError::not_found(format!("there is no project {id:?}")))
}

/// The project of an id, if it accepts changes.
fn active_project(admin: &Admin, id: &str) -> Result<Project, ApiError> {
    let project = project(admin, id)?;
    if project.archived_s.is_some() {
        return Err(ApiError::conflict(format!("project {id:?} is archived")));
    }
    Ok(project)
}

/// The name of a limit that is about a project: made from its parts, or from a hash
/// where the parts don't fit into a name or could be mistaken for those of another
/// limit.
fn limit_name(project: &str, model: Option<&str>, what: &str) -> String {
    let of = model.map_or_else(|| project.to_owned(), |model| format!("{project}-{model}"));
    let name = format!("project-{of}-{what}");
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let is_plain = name.len() <= LIMIT_NAME_CHARS_MAX && name.chars().all(fits);
    if is_plain && (model.is_none() || !project.contains('-')) {
        return name;
    }
    // No id contains this character: names have no control characters.
    let all = format!("{project}\n{}", model.unwrap_or_default());
    format!("project-{}-{what}", id::base62(KeyHash::of(all.as_bytes()).0, HASH_CHARS))
}

/// A value that must be omitted or null.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
struct Absent(Option<serde_json::Value>);

impl Absent {
    fn refuse(&self, param: &'static str, why: &str) -> Result<(), ApiError> {
        if self.0.is_none() { Ok(()) } else { Err(ApiError::unsupported(Some(param), why)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_things_have_limits_of_one_name() {
        assert_eq!(limit_name("proj_aB1", None, "spend-limit"), "project-proj_aB1-spend-limit");
        assert_eq!(limit_name("proj_1", Some("gpt-4.1"), "rpm"), "project-proj_1-gpt-4.1-rpm");
        let long = "x".repeat(200);
        let all = [
            limit_name("a-b", Some("c"), "w"),
            limit_name("a", Some("b-c"), "w"),
            limit_name("ü", None, "w"),
            limit_name("ö", None, "w"),
            limit_name(&long, None, "w"),
            limit_name(&long, Some("c"), "w"),
        ];
        for (at, name) in all.iter().enumerate() {
            assert!(name.len() <= LIMIT_NAME_CHARS_MAX, "{name}");
            assert!(!all[..at].contains(name), "{name}");
        }
    }
}

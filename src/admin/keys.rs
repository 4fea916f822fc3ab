//! Keys and projects.

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Deserializer};

use crate::admin::Admin;
use crate::admin::error::ApiError;
use crate::admin::view::{KeyView, List, ProjectView};
use crate::domain::Secret;
use crate::guard::keyring::{KeyChange, NewKey};
use crate::guard::trail::Actor;

const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1_000;

type Body<T> = Result<Json<T>, JsonRejection>;

/// Where a page starts and how long it is.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Paging {
    pub(super) limit: Option<usize>,
    pub(super) after: Option<String>,
    pub(super) before: Option<String>,
    pub(super) order: Option<String>,
}

/// The wanted page of a list that is in memory, in the order of making.
fn page<T>(all: Vec<T>, paging: &Paging, id: impl Fn(&T) -> String) -> Result<List<T>, ApiError> {
    page_of(all, paging, page_length(paging.limit)?, id)
}

/// The same, of a length that is known.
pub(super) fn page_of<T>(
    mut all: Vec<T>,
    paging: &Paging,
    limit: usize,
    id: impl Fn(&T) -> String,
) -> Result<List<T>, ApiError> {
    let place = |all: &[T], wanted: &str, param| {
        let at = all.iter().position(|item| id(item) == *wanted);
        at.ok_or_else(|| ApiError::bad(Some(param), "there is nothing of that id"))
    };
    if !ascending(paging.order.as_deref(), true)? {
        all.reverse();
    }
    if let Some(after) = &paging.after {
        let at = place(&all, after, "after")?;
        all.drain(..=at);
    }
    if let Some(before) = &paging.before {
        // The page that ends there, not the first one.
        all.truncate(place(&all, before, "before")?);
        let start = all.len().saturating_sub(limit);
        all.drain(..start);
        return Ok(List::new(all, start > 0, id));
    }
    let has_more = all.len() > limit;
    all.truncate(limit);
    Ok(List::new(all, has_more, id))
}

pub(super) fn page_length(limit: Option<usize>) -> Result<usize, ApiError> {
    let limit = limit.unwrap_or(PAGE_DEFAULT);
    if (1..=PAGE_MAX).contains(&limit) {
        Ok(limit)
    } else {
        Err(ApiError::bad(Some("limit"), "use 1 to 1000"))
    }
}

pub(super) fn ascending(order: Option<&str>, default: bool) -> Result<bool, ApiError> {
    match order {
        None => Ok(default),
        Some("asc") => Ok(true),
        Some("desc") => Ok(false),
        Some(_) => Err(ApiError::bad(Some("order"), "use asc or desc")),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateKey {
    name: String,
    project_id: Option<String>,
    expires_in_seconds: Option<i64>,
    #[serde(default)]
    models: Vec<String>,
    secret: Option<String>,
}

pub(crate) async fn create(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    body: Body<CreateKey>,
) -> Result<(StatusCode, Json<KeyView>), ApiError> {
    let Json(body) = body?;
    positive(body.expires_in_seconds)?;
    let new = NewKey {
        name: body.name,
        project: body.project_id,
        expires_in_s: body.expires_in_seconds,
        models: body.models,
        secret: body.secret.map(Secret::new),
    };
    let (key, secret) = admin.guard.create_key(new, &by).await?;
    let view = KeyView::of(&key, admin.guard.clock().now_s()).with_value(&secret);
    Ok((StatusCode::CREATED, Json(view)))
}

pub(super) fn positive(seconds: Option<i64>) -> Result<(), ApiError> {
    if seconds.is_some_and(|seconds| seconds <= 0) {
        return Err(ApiError::bad(Some("expires_in_seconds"), "must be above zero"));
    }
    Ok(())
}

pub(crate) async fn list(
    State(admin): State<Admin>,
    paging: Result<Query<Paging>, QueryRejection>,
) -> Result<Json<List<KeyView>>, ApiError> {
    let Query(paging) = paging?;
    let now_s = admin.guard.clock().now_s();
    let keys = admin.guard.ring().keys().iter().map(|key| KeyView::of(key, now_s)).collect();
    Ok(Json(page(keys, &paging, |key| key.id.clone())?))
}

pub(crate) async fn show(
    State(admin): State<Admin>,
    Path(id): Path<String>,
) -> Result<Json<KeyView>, ApiError> {
    let key = admin
        .guard
        .ring()
        .by_id(&id)
        .ok_or_else(|| ApiError::not_found(format!("there is no key {id:?}")))?;
    Ok(Json(KeyView::of(&key, admin.guard.clock().now_s())))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangeKey {
    name: Option<String>,
    project_id: Option<String>,
    models: Option<Vec<String>>,
    /// Absent: as it is. Null: no end.
    #[serde(default, deserialize_with = "present")]
    expires_in_seconds: Option<Option<i64>>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<i64>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

pub(crate) async fn change(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path(id): Path<String>,
    body: Body<ChangeKey>,
) -> Result<Json<KeyView>, ApiError> {
    let Json(body) = body?;
    positive(body.expires_in_seconds.flatten())?;
    let change = KeyChange {
        name: body.name,
        project: body.project_id,
        models: body.models,
        expires_in_s: body.expires_in_seconds,
    };
    let key = admin.guard.change_key(&id, change, &by).await?;
    Ok(Json(KeyView::of(&key, admin.guard.clock().now_s())))
}

pub(crate) async fn revoke(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path(id): Path<String>,
) -> Result<Json<KeyView>, ApiError> {
    let key = admin.guard.revoke_key(&id, &by).await?;
    Ok(Json(KeyView::of(&key, admin.guard.clock().now_s())))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RotateKey {
    #[serde(default)]
    grace_seconds: i64,
}

pub(crate) async fn rotate(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path(id): Path<String>,
    body: axum::body::Bytes,
) -> Result<Json<KeyView>, ApiError> {
    let body: RotateKey = if body.is_empty() {
        RotateKey::default()
    } else {
        serde_json::from_slice(&body).map_err(|error| ApiError::bad(None, error.to_string()))?
    };
    let (key, secret) = admin.guard.rotate_key(&id, body.grace_seconds, &by).await?;
    Ok(Json(KeyView::of(&key, admin.guard.clock().now_s()).with_value(&secret)))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateProject {
    id: Option<String>,
    name: String,
}

pub(crate) async fn create_project(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    body: Body<CreateProject>,
) -> Result<(StatusCode, Json<ProjectView>), ApiError> {
    let Json(body) = body?;
    let project = admin.guard.create_project(body.id, body.name, &by).await?;
    Ok((StatusCode::CREATED, Json(ProjectView::of(&project))))
}

pub(crate) async fn projects(
    State(admin): State<Admin>,
    paging: Result<Query<Paging>, QueryRejection>,
) -> Result<Json<List<ProjectView>>, ApiError> {
    let Query(paging) = paging?;
    let projects = admin.guard.ring().projects().iter().map(ProjectView::of).collect();
    Ok(Json(page(projects, &paging, |project| project.id.clone())?))
}

pub(crate) async fn archive_project(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path(id): Path<String>,
) -> Result<Json<ProjectView>, ApiError> {
    let project = admin.guard.archive_project(&id, &by).await?;
    Ok(Json(ProjectView::of(&project)))
}

//! Keys and projects.

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use crate::admin::Admin;
use crate::admin::error::ApiError;
use crate::admin::extract::{Body, Path, Query, Raw, object};
use crate::admin::paging::{Paging, page};
use crate::admin::view::{KeyView, List, ProjectView};
use crate::directory::keyring::{KeyChange, NewKey};
use crate::domain::Secret;
use crate::guard::audit::Actor;

/// A hundred years.
const EXPIRES_S_MAX: i64 = 3_155_760_000;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateKey {
    #[schema(min_length = 1, max_length = 256, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    name: String,
    /// The id or name of its project. Default: the default project.
    project_id: Option<String>,
    /// Seconds from now. If omitted, the key does not expire.
    #[schema(minimum = 1, maximum = 3_155_760_000_i64)]
    expires_in_seconds: Option<i64>,
    /// Patterns of the models that it may use. If empty, all models.
    #[serde(default)]
    #[schema(max_items = 1000)]
    models: Vec<String>,
    /// If omitted, one is generated.
    #[schema(min_length = 8, max_length = 512, pattern = r"^[!-~]*$", write_only)]
    secret: Option<String>,
}

/// Creates a key. The answer is the only place where its secret is shown.
#[utoipa::path(post, path = "/keys", request_body = CreateKey, responses((status = 201, body = KeyView)))]
pub(crate) async fn create(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Body(body): Body<CreateKey>,
) -> Result<(StatusCode, Json<KeyView>), ApiError> {
    checked_lifetime(body.expires_in_seconds)?;
    let new = NewKey {
        name: body.name,
        project: body.project_id,
        expires_in_s: body.expires_in_seconds,
        models: body.models,
        secret: body.secret.map(Secret::new),
    };
    let (key, secret) = admin.directory.create_key(new, &by).await?;
    let view = KeyView::of(&key, admin.guard.clock().now_s()).with_value(&secret);
    Ok((StatusCode::CREATED, Json(view)))
}

pub(super) fn checked_lifetime(seconds: Option<i64>) -> Result<(), ApiError> {
    if seconds.is_some_and(|seconds| !(1..=EXPIRES_S_MAX).contains(&seconds)) {
        return Err(ApiError::bad(Some("expires_in_seconds"), "give 1 second to a hundred years"));
    }
    Ok(())
}

/// Lists keys, including revoked ones, in the order of creation.
#[utoipa::path(get, path = "/keys", params(Paging), responses((status = 200, body = List<KeyView>)))]
pub(crate) async fn list(
    State(admin): State<Admin>,
    Query(paging): Query<Paging>,
) -> Result<Json<List<KeyView>>, ApiError> {
    let now_s = admin.guard.clock().now_s();
    let keys = admin.guard.ring().keys().iter().map(|key| KeyView::of(key, now_s)).collect();
    Ok(Json(page(keys, &paging, |key| key.id.clone())?))
}

/// Shows a key.
#[utoipa::path(get, path = "/keys/{key}", responses((status = 200, body = KeyView)))]
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

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangeKey {
    #[schema(min_length = 1, max_length = 256, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    name: Option<String>,
    /// The id or name of its project.
    project_id: Option<String>,
    /// Patterns of the models that it may use. If empty, all models.
    #[schema(max_items = 1000)]
    models: Option<Vec<String>>,
    /// Seconds from now. Null: the key does not expire.
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 3_155_760_000_i64)]
    #[serde(default, deserialize_with = "present")]
    expires_in_seconds: Option<Option<i64>>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<i64>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Changes the given fields of a key.
#[utoipa::path(
    patch,
    path = "/keys/{key}",
    request_body = ChangeKey,
    responses((status = 200, body = KeyView)),
)]
pub(crate) async fn change(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path(id): Path<String>,
    Body(body): Body<ChangeKey>,
) -> Result<Json<KeyView>, ApiError> {
    checked_lifetime(body.expires_in_seconds.flatten())?;
    let change = KeyChange {
        name: body.name,
        project: body.project_id,
        models: body.models,
        expires_in_s: body.expires_in_seconds,
    };
    let key = admin.directory.change_key(&id, change, &by).await?;
    Ok(Json(KeyView::of(&key, admin.guard.clock().now_s())))
}

/// Revokes a key. No request is admitted with it once this is answered.
#[utoipa::path(delete, path = "/keys/{key}", responses((status = 200, body = KeyView)))]
pub(crate) async fn revoke(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path(id): Path<String>,
) -> Result<Json<KeyView>, ApiError> {
    let key = admin.directory.revoke_key(&id, &by).await?;
    Ok(Json(KeyView::of(&key, admin.guard.clock().now_s())))
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RotateKey {
    /// How long the old secret stays valid.
    #[schema(minimum = 0)]
    #[serde(default)]
    grace_seconds: i64,
}

/// Gives a key a new secret. The answer is the only place where it is shown.
#[utoipa::path(
    post,
    path = "/keys/{key}/rotate",
    request_body = Option<RotateKey>,
    responses((status = 200, body = KeyView)),
)]
pub(crate) async fn rotate(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path(id): Path<String>,
    Raw(body): Raw,
) -> Result<Json<KeyView>, ApiError> {
    let body = match body.trim_ascii() {
        b"" | b"null" => RotateKey::default(),
        body => object(body)?,
    };
    if body.grace_seconds < 0 {
        return Err(ApiError::bad(Some("grace_seconds"), "must not be negative"));
    }
    let (key, secret) = admin.directory.rotate_key(&id, body.grace_seconds, &by).await?;
    Ok(Json(KeyView::of(&key, admin.guard.clock().now_s()).with_value(&secret)))
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateProject {
    /// If omitted, one is generated.
    id: Option<String>,
    #[schema(min_length = 1, max_length = 256, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    name: String,
}

/// Creates a project.
#[utoipa::path(
    post,
    path = "/projects",
    request_body = CreateProject,
    responses((status = 201, body = ProjectView)),
)]
pub(crate) async fn create_project(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Body(body): Body<CreateProject>,
) -> Result<(StatusCode, Json<ProjectView>), ApiError> {
    let project = admin.directory.create_project(body.id, body.name, &by).await?;
    Ok((StatusCode::CREATED, Json(ProjectView::of(&project))))
}

/// Lists projects, including archived ones, in the order of creation.
#[utoipa::path(get, path = "/projects", params(Paging), responses((status = 200, body = List<ProjectView>)))]
pub(crate) async fn projects(
    State(admin): State<Admin>,
    Query(paging): Query<Paging>,
) -> Result<Json<List<ProjectView>>, ApiError> {
    let projects = admin.guard.ring().projects().iter().map(ProjectView::of).collect();
    Ok(Json(page(projects, &paging, |project| project.id.clone())?))
}

/// Archives a project. Its keys are refused from now on.
#[utoipa::path(post, path = "/projects/{project}/archive", responses((status = 200, body = ProjectView)))]
pub(crate) async fn archive_project(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path(id): Path<String>,
) -> Result<Json<ProjectView>, ApiError> {
    if admin.guard.ring().project(&id).is_none() {
        return Err(ApiError::not_found(format!("there is no project {id:?}")));
    }
    let project = admin.directory.archive_project(&id, &by).await?;
    Ok(Json(ProjectView::of(&project)))
}

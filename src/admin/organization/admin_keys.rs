//! Admin keys: additional tokens for the admin API.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::ToSchema;

use super::view::{AdminKeyView, DeletedView};
use super::{PageQuery, page};
use crate::admin::Admin;
use crate::admin::error::ApiError;
use crate::admin::extract::{Body, Path, Query};
use crate::admin::keys::checked_lifetime;
use crate::admin::view::List;
use crate::directory::admin_keys::{AdminKey, Role};
use crate::guard::audit::Actor;

/// Lists admin keys.
#[utoipa::path(
    get,
    path = "/admin_api_keys",
    params(PageQuery),
    responses((status = 200, body = List<AdminKeyView>)),
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    Query(query): Query<PageQuery>,
) -> Result<Json<List<AdminKeyView>>, ApiError> {
    let views = admin.directory.admin_keys().iter().map(|key| AdminKeyView::of(key)).collect();
    Ok(Json(page(views, &query.into(), |key: &AdminKeyView| key.id.clone())?))
}

#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = CreateAdminKey)]
#[serde(deny_unknown_fields)]
pub(crate) struct Create {
    #[schema(min_length = 1, max_length = 256, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    name: String,
    /// Seconds from now. If omitted, the key does not expire.
    #[schema(minimum = 1, maximum = 3_155_760_000_i64)]
    expires_in_seconds: Option<i64>,
    /// `full` or `read_only`. OpenAI has no such field.
    #[schema(pattern = "^(full|read_only)$")]
    role: Option<String>,
}

/// Creates an admin key. The answer is the only place where its value is shown.
#[utoipa::path(
    post,
    path = "/admin_api_keys",
    request_body = Create,
    responses((status = 200, body = AdminKeyView)),
)]
pub(super) async fn create(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Body(body): Body<Create>,
) -> Result<Json<AdminKeyView>, ApiError> {
    checked_lifetime(body.expires_in_seconds)?;
    let role = match body.role.as_deref() {
        None => Role::default(),
        Some(role) => {
            Role::named(role).ok_or_else(|| ApiError::bad(Some("role"), "use full or read_only"))?
        }
    };
    let made = admin.directory.create_admin_key(body.name, role, body.expires_in_seconds, &by).await?;
    Ok(Json(AdminKeyView::of(&made.0).with_value(&made.1)))
}

/// Shows an admin key.
#[utoipa::path(get, path = "/admin_api_keys/{key}", responses((status = 200, body = AdminKeyView)))]
pub(super) async fn show(
    State(admin): State<Admin>,
    Path(id): Path<String>,
) -> Result<Json<AdminKeyView>, ApiError> {
    let found = admin.directory.admin_keys().into_iter().find(|key: &Arc<AdminKey>| key.id == id);
    let key = found.ok_or_else(|| ApiError::not_found(format!("there is no admin key {id:?}")))?;
    Ok(Json(AdminKeyView::of(&key)))
}

/// Deletes an admin key. It is refused once this is answered.
#[utoipa::path(delete, path = "/admin_api_keys/{key}", responses((status = 200, body = DeletedView)))]
pub(super) async fn remove(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path(id): Path<String>,
) -> Result<Json<DeletedView>, ApiError> {
    admin.directory.delete_admin_key(&id, &by).await?;
    Ok(Json(DeletedView::of("organization.admin_api_key.deleted", Some(id))))
}

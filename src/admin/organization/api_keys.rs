//! The keys of a project. A key that was revoked is no longer there.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::view::{ApiKeyView, DeletedView};
use super::{page, project};
use crate::admin::Admin;
use crate::admin::error::ApiError;
use crate::admin::extract::{Body, Path, Query};
use crate::admin::keys::checked_lifetime;
use crate::admin::paging::Paging;
use crate::admin::view::List;
use crate::directory::keyring::KeyChange;
use crate::guard::audit::Actor;
use crate::keys::Key;
use crate::store::records::AccountRow;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ApiKeyQuery {
    /// The number of items in a page. Default: 20.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<usize>,
    /// The page begins after this id.
    after: Option<String>,
    /// `active`, `inactive` or `any`.
    #[param(pattern = "^(active|inactive|any)$")]
    owner_project_access: Option<String>,
}

fn owner<'a>(accounts: &'a [Arc<AccountRow>], key: &Key) -> Option<&'a AccountRow> {
    let owns = |account: &&Arc<AccountRow>| account.keys.iter().any(|id| **id == *key.id);
    accounts.iter().find(owns).map(AsRef::as_ref)
}

/// Lists the keys of a project that are not revoked.
#[utoipa::path(get, path = "/api_keys", params(ApiKeyQuery), responses((status = 200, body = List<ApiKeyView>)))]
pub(super) async fn list(
    State(admin): State<Admin>,
    Path(of): Path<String>,
    Query(query): Query<ApiKeyQuery>,
) -> Result<Json<List<ApiKeyView>>, ApiError> {
    project(&admin, &of)?;
    let accounts = admin.directory.accounts(&of);
    let mut keys = admin.guard.ring().keys();
    keys.retain(|key| *key.project == *of && key.revoked_s.is_none());
    match query.owner_project_access.as_deref() {
        None | Some("active" | "any") => {}
        // The owner of a key in a project has access to it.
        Some("inactive") => keys.clear(),
        Some(_) => return Err(ApiError::bad(Some("owner_project_access"), "use active, inactive or any")),
    }
    let paging = Paging { limit: query.limit, after: query.after, ..Paging::default() };
    let views = keys.iter().map(|key| ApiKeyView::of(key, owner(&accounts, key))).collect();
    Ok(Json(page(views, &paging, |key: &ApiKeyView| key.id.clone())?))
}

fn find(admin: &Admin, of: &str, id: &str) -> Result<Arc<Key>, ApiError> {
    project(admin, of)?;
    let found = admin.guard.ring().by_id(id).filter(|key| *key.project == *of && key.revoked_s.is_none());
    found.ok_or_else(|| ApiError::not_found(format!("there is no key {id:?} in project {of:?}")))
}

/// Shows a key of a project.
#[utoipa::path(get, path = "/api_keys/{key}", responses((status = 200, body = ApiKeyView)))]
pub(super) async fn show(
    State(admin): State<Admin>,
    Path((of, id)): Path<(String, String)>,
) -> Result<Json<ApiKeyView>, ApiError> {
    let key = find(&admin, &of, &id)?;
    Ok(Json(ApiKeyView::of(&key, owner(&admin.directory.accounts(&of), &key))))
}

#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ChangeApiKey)]
#[serde(deny_unknown_fields)]
pub(crate) struct Change {
    /// Must be empty: the guard's keys have no scopes.
    #[schema(max_items = 0)]
    scopes: Option<Vec<String>>,
    /// Seconds from now.
    #[schema(minimum = 1, maximum = 3_155_760_000_i64)]
    expires_in_seconds: Option<i64>,
}

/// Refuses scopes, which the guard's keys don't have; an empty list is accepted.
pub(super) fn no_scopes(scopes: Option<&[String]>) -> Result<(), ApiError> {
    if scopes.is_none_or(<[String]>::is_empty) {
        return Ok(());
    }
    let why = "the guard's keys have no scopes; narrow them by models, at /guard/v1/keys";
    Err(ApiError::unsupported(Some("scopes"), why))
}

/// Changes when a key expires.
#[utoipa::path(
    post,
    path = "/api_keys/{key}",
    request_body = Change,
    responses((status = 200, body = ApiKeyView)),
)]
pub(super) async fn change(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path((of, id)): Path<(String, String)>,
    Body(body): Body<Change>,
) -> Result<Json<ApiKeyView>, ApiError> {
    let key = find(&admin, &of, &id)?;
    no_scopes(body.scopes.as_deref())?;
    checked_lifetime(body.expires_in_seconds)?;
    if key.expires_s.is_some_and(|end_s| end_s <= admin.guard.clock().now_s()) {
        return Err(ApiError::conflict(format!("key {id:?} has expired; make a new one")));
    }
    let change = KeyChange { expires_in_s: body.expires_in_seconds.map(Some), ..KeyChange::default() };
    let key = admin.directory.change_key(&id, change, &by).await?;
    Ok(Json(ApiKeyView::of(&key, owner(&admin.directory.accounts(&of), &key))))
}

/// Revokes a key of a project.
#[utoipa::path(delete, path = "/api_keys/{key}", responses((status = 200, body = DeletedView)))]
pub(super) async fn remove(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path((of, id)): Path<(String, String)>,
) -> Result<Json<DeletedView>, ApiError> {
    find(&admin, &of, &id)?;
    admin.directory.revoke_key(&id, &by).await?;
    Ok(Json(DeletedView::of("organization.project.api_key.deleted", Some(id))))
}

//! Admin keys: further tokens for these paths and for the guard's own.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use serde::Deserialize;

use super::view::{AdminKeyView, DeletedView};
use super::{Asked, Body, page};
use crate::admin::Admin;
use crate::admin::error::ApiError;
use crate::admin::keys::{Paging, positive};
use crate::admin::view::List;
use crate::guard::admin_keys::{AdminKey, Role};
use crate::guard::trail::Actor;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    limit: Option<usize>,
    after: Option<String>,
    order: Option<String>,
}

pub(super) async fn list(
    State(admin): State<Admin>,
    wanted: Asked<Wanted>,
) -> Result<Json<List<AdminKeyView>>, ApiError> {
    let Query(Wanted { limit, after, order }) = wanted?;
    let paging = Paging { limit, after, order, ..Paging::default() };
    let views = admin.guard.admin_keys().iter().map(|key| AdminKeyView::of(key)).collect();
    Ok(Json(page(views, &paging, |key: &AdminKeyView| key.id.clone())?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Create {
    name: String,
    expires_in_seconds: Option<i64>,
    /// What OpenAI has not: `full`, or `read_only`.
    role: Option<String>,
}

pub(super) async fn create(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    body: Body<Create>,
) -> Result<Json<AdminKeyView>, ApiError> {
    let Json(body) = body?;
    positive(body.expires_in_seconds)?;
    let role = match body.role.as_deref() {
        None => Role::default(),
        Some(role) => {
            Role::named(role).ok_or_else(|| ApiError::bad(Some("role"), "use full or read_only"))?
        }
    };
    let made = admin.guard.create_admin_key(body.name, role, body.expires_in_seconds, &by).await?;
    Ok(Json(AdminKeyView::of(&made.0).with_value(&made.1)))
}

pub(super) async fn show(
    State(admin): State<Admin>,
    Path(id): Path<String>,
) -> Result<Json<AdminKeyView>, ApiError> {
    let found = admin.guard.admin_keys().into_iter().find(|key: &Arc<AdminKey>| key.id == id);
    let key = found.ok_or_else(|| ApiError::not_found(format!("there is no admin key {id:?}")))?;
    Ok(Json(AdminKeyView::of(&key)))
}

pub(super) async fn remove(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path(id): Path<String>,
) -> Result<Json<DeletedView>, ApiError> {
    admin.guard.delete_admin_key(&id, &by).await?;
    Ok(Json(DeletedView::of("organization.admin_api_key.deleted", Some(id))))
}

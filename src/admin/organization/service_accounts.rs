//! Service accounts: they own keys, and their keys go with them.

use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use serde::Deserialize;

use super::api_keys::no_scopes;
use super::view::{AccountView, DeletedView, NewAccountView, NewApiKeyView};
use super::{Asked, Body, active_project, page, project};
use crate::admin::Admin;
use crate::admin::error::ApiError;
use crate::admin::keys::{Paging, positive};
use crate::admin::view::List;
use crate::guard::trail::Actor;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    limit: Option<usize>,
    after: Option<String>,
}

pub(super) async fn list(
    State(admin): State<Admin>,
    Path(of): Path<String>,
    wanted: Asked<Wanted>,
) -> Result<Json<List<AccountView>>, ApiError> {
    let Query(Wanted { limit, after }) = wanted?;
    project(&admin, &of)?;
    let views = admin.guard.accounts(&of).iter().map(|account| AccountView::of(account)).collect();
    let paging = Paging { limit, after, ..Paging::default() };
    Ok(Json(page(views, &paging, |account: &AccountView| account.id.clone())?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Create {
    name: String,
    #[serde(rename = "create_service_account_only")]
    alone: Option<bool>,
    expires_in_seconds: Option<i64>,
}

pub(super) async fn create(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path(of): Path<String>,
    body: Body<Create>,
) -> Result<Json<NewAccountView>, ApiError> {
    let Json(body) = body?;
    active_project(&admin, &of)?;
    positive(body.expires_in_seconds)?;
    let alone = body.alone.unwrap_or(false);
    if alone && body.expires_in_seconds.is_some() {
        let problem = "an account without a key has none that expires";
        return Err(ApiError::bad(Some("expires_in_seconds"), problem));
    }
    let key = (!alone).then_some(body.expires_in_seconds);
    let (account, key) = admin.guard.create_account(&of, body.name, key, &by).await?;
    let api_key = key.map(|(key, secret)| NewApiKeyView::of(&key, &secret));
    Ok(Json(NewAccountView { account: AccountView::of(&account), api_key }))
}

pub(super) async fn show(
    State(admin): State<Admin>,
    Path((of, id)): Path<(String, String)>,
) -> Result<Json<AccountView>, ApiError> {
    project(&admin, &of)?;
    Ok(Json(AccountView::of(&*admin.guard.account(&of, &id)?)))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Change {
    name: Option<String>,
    role: Option<String>,
}

pub(super) async fn change(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path((of, id)): Path<(String, String)>,
    body: Body<Change>,
) -> Result<Json<AccountView>, ApiError> {
    let Json(body) = body?;
    active_project(&admin, &of)?;
    if body.role.is_some_and(|role| role != "member") {
        let why = "a service account of the guard is always a member: its keys can call, and change nothing";
        return Err(ApiError::unsupported(Some("role"), why));
    }
    let account = admin.guard.account(&of, &id)?;
    let Some(name) = body.name else { return Ok(Json(AccountView::of(&account))) };
    Ok(Json(AccountView::of(&*admin.guard.rename_account(&of, &id, name, &by).await?)))
}

pub(super) async fn remove(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path((of, id)): Path<(String, String)>,
) -> Result<Json<DeletedView>, ApiError> {
    project(&admin, &of)?;
    admin.guard.delete_account(&of, &id, &by).await?;
    Ok(Json(DeletedView::of("organization.project.service_account.deleted", Some(id))))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateKey {
    name: Option<String>,
    expires_in_seconds: Option<i64>,
    scopes: Option<Vec<String>>,
}

pub(super) async fn create_key(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path((of, id)): Path<(String, String)>,
    body: Body<CreateKey>,
) -> Result<Json<NewApiKeyView>, ApiError> {
    let Json(body) = body?;
    active_project(&admin, &of)?;
    no_scopes(body.scopes.as_deref())?;
    positive(body.expires_in_seconds)?;
    let made = admin.guard.create_account_key(&of, &id, body.name, body.expires_in_seconds, &by).await?;
    Ok(Json(NewApiKeyView::of(&made.0, &made.1)))
}

//! Service accounts: owners of keys, which are revoked with them.

use axum::extract::State;
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::ToSchema;

use super::api_keys::no_scopes;
use super::view::{AccountView, DeletedView, NewAccountView, NewApiKeyView};
use super::{PageQuery, active_project, page, project};
use crate::admin::Admin;
use crate::admin::error::ApiError;
use crate::admin::extract::{Body, Path, Query};
use crate::admin::keys::checked_lifetime;
use crate::admin::view::List;
use crate::guard::audit::Actor;

/// Lists the service accounts of a project.
#[utoipa::path(
    get,
    path = "/service_accounts",
    params(PageQuery),
    responses((status = 200, body = List<AccountView>)),
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    Path(of): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<List<AccountView>>, ApiError> {
    project(&admin, &of)?;
    let views = admin.directory.accounts(&of).iter().map(|account| AccountView::of(account)).collect();
    Ok(Json(page(views, &query.into(), |account: &AccountView| account.id.clone())?))
}

#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = CreateServiceAccount)]
#[serde(deny_unknown_fields)]
pub(crate) struct Create {
    #[schema(min_length = 1, max_length = 256, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    name: String,
    /// Whether to create the account without a key.
    #[serde(rename = "create_service_account_only")]
    alone: Option<bool>,
    /// Lifetime of its key: seconds from now.
    #[schema(minimum = 1, maximum = 3_155_760_000_i64)]
    expires_in_seconds: Option<i64>,
}

/// Creates a service account with a key. The answer is the only place where the key's value is shown.
#[utoipa::path(
    post,
    path = "/service_accounts",
    request_body = Create,
    responses((status = 200, body = NewAccountView)),
)]
pub(super) async fn create(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path(of): Path<String>,
    Body(body): Body<Create>,
) -> Result<Json<NewAccountView>, ApiError> {
    active_project(&admin, &of)?;
    checked_lifetime(body.expires_in_seconds)?;
    let alone = body.alone.unwrap_or(false);
    if alone && body.expires_in_seconds.is_some() {
        let problem = "expires_in_seconds needs a key: omit it, or create the account with a key";
        return Err(ApiError::bad(Some("expires_in_seconds"), problem));
    }
    let key = (!alone).then_some(body.expires_in_seconds);
    let (account, key) = admin.directory.create_account(&of, body.name, key, &by).await?;
    let api_key = key.map(|(key, secret)| NewApiKeyView::of(&key, &secret));
    Ok(Json(NewAccountView { account: AccountView::of(&account), api_key }))
}

/// Shows a service account.
#[utoipa::path(get, path = "/service_accounts/{account}", responses((status = 200, body = AccountView)))]
pub(super) async fn show(
    State(admin): State<Admin>,
    Path((of, id)): Path<(String, String)>,
) -> Result<Json<AccountView>, ApiError> {
    project(&admin, &of)?;
    Ok(Json(AccountView::of(&*admin.directory.account(&of, &id)?)))
}

#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ChangeServiceAccount)]
#[serde(deny_unknown_fields)]
pub(crate) struct Change {
    #[schema(min_length = 1, max_length = 256, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    name: Option<String>,
    /// `member`: its keys can call the API and change nothing.
    #[schema(pattern = "^member$")]
    role: Option<String>,
}

/// Renames a service account.
#[utoipa::path(
    post,
    path = "/service_accounts/{account}",
    request_body = Change,
    responses((status = 200, body = AccountView)),
)]
pub(super) async fn change(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path((of, id)): Path<(String, String)>,
    Body(body): Body<Change>,
) -> Result<Json<AccountView>, ApiError> {
    active_project(&admin, &of)?;
    if body.role.is_some_and(|role| role != "member") {
        let why =
            "a service account of the guard is always a member: its keys can call the API and change nothing";
        return Err(ApiError::unsupported(Some("role"), why));
    }
    let account = admin.directory.account(&of, &id)?;
    let Some(name) = body.name else { return Ok(Json(AccountView::of(&account))) };
    Ok(Json(AccountView::of(&*admin.directory.rename_account(&of, &id, name, &by).await?)))
}

/// Deletes a service account with its keys.
#[utoipa::path(delete, path = "/service_accounts/{account}", responses((status = 200, body = DeletedView)))]
pub(super) async fn remove(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path((of, id)): Path<(String, String)>,
) -> Result<Json<DeletedView>, ApiError> {
    project(&admin, &of)?;
    admin.directory.delete_account(&of, &id, &by).await?;
    Ok(Json(DeletedView::of("organization.project.service_account.deleted", Some(id))))
}

#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = CreateServiceAccountKey)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateKey {
    #[schema(min_length = 1, max_length = 256, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    name: Option<String>,
    /// Seconds from now. If omitted, the key does not expire.
    #[schema(minimum = 1, maximum = 3_155_760_000_i64)]
    expires_in_seconds: Option<i64>,
    /// Must be empty: the guard's keys have no scopes.
    #[schema(max_items = 0)]
    scopes: Option<Vec<String>>,
}

/// Creates another key of a service account. The answer is the only place where its value is shown.
#[utoipa::path(
    post,
    path = "/service_accounts/{account}/api_keys",
    request_body = CreateKey,
    responses((status = 200, body = NewApiKeyView)),
)]
pub(super) async fn create_key(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path((of, id)): Path<(String, String)>,
    Body(body): Body<CreateKey>,
) -> Result<Json<NewApiKeyView>, ApiError> {
    active_project(&admin, &of)?;
    no_scopes(body.scopes.as_deref())?;
    checked_lifetime(body.expires_in_seconds)?;
    let made = admin.directory.create_account_key(&of, &id, body.name, body.expires_in_seconds, &by).await?;
    Ok(Json(NewApiKeyView::of(&made.0, &made.1)))
}

//! Model permissions: the models that a project's keys may use.

use axum::extract::State;
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::ToSchema;

use super::view::{DeletedView, ModelPermissionsView};
use super::{active_project, project};
use crate::admin::Admin;
use crate::admin::error::ApiError;
use crate::admin::extract::{Body, Path};
use crate::guard::audit::Actor;
use crate::keys::ModelRule;

const MODELS_MAX: usize = 1_000;
const MODEL_CHARS_MAX: usize = 200;

#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = SetModelPermissions)]
#[serde(deny_unknown_fields)]
pub(crate) struct Update {
    /// `allow_list` or `deny_list`.
    #[schema(pattern = "^(allow_list|deny_list)$")]
    mode: String,
    /// Names of models, without patterns.
    #[schema(max_items = 1000)]
    model_ids: Vec<String>,
}

fn view(rule: ModelRule) -> Json<ModelPermissionsView> {
    let (object, mode) = ("project.model_permissions", ModelRule::mode(rule.denies));
    Json(ModelPermissionsView { object, mode, model_ids: rule.models })
}

fn none(of: &str) -> ApiError {
    ApiError::not_found(format!("project {of:?} has no model permissions: it may use every model"))
}

/// Shows which models the keys of a project may use.
#[utoipa::path(get, path = "/model_permissions", responses((status = 200, body = ModelPermissionsView)))]
pub(super) async fn show(
    State(admin): State<Admin>,
    Path(of): Path<String>,
) -> Result<Json<ModelPermissionsView>, ApiError> {
    project(&admin, &of)?;
    admin.guard.ring().model_rule(&of).map(view).ok_or_else(|| none(&of))
}

/// Sets which models the keys of a project may use.
#[utoipa::path(
    post,
    path = "/model_permissions",
    request_body = Update,
    responses((status = 200, body = ModelPermissionsView)),
)]
pub(super) async fn put(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path(of): Path<String>,
    Body(body): Body<Update>,
) -> Result<Json<ModelPermissionsView>, ApiError> {
    let Update { mode, model_ids: models } = body;
    active_project(&admin, &of)?;
    let named = [true, false].into_iter().find(|denies| ModelRule::mode(*denies) == mode);
    let denies = named.ok_or_else(|| ApiError::bad(Some("mode"), "use allow_list or deny_list"))?;
    let is_name = |model: &String| {
        let is_plain = |c: char| !c.is_control() && !c.is_whitespace() && c != '*';
        (1..=MODEL_CHARS_MAX).contains(&model.chars().count()) && model.chars().all(is_plain)
    };
    if models.len() > MODELS_MAX || !models.iter().all(is_name) {
        return Err(ApiError::bad(Some("model_ids"), "give up to 1000 names of models, without patterns"));
    }
    let rule = ModelRule { denies, models };
    admin.directory.put_model_rule(&of, Some(rule.clone()), &by).await?;
    Ok(view(rule))
}

/// Removes the model permissions of a project: its keys may use every model.
#[utoipa::path(delete, path = "/model_permissions", responses((status = 200, body = DeletedView)))]
pub(super) async fn remove(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path(of): Path<String>,
) -> Result<Json<DeletedView>, ApiError> {
    active_project(&admin, &of)?;
    if !admin.directory.put_model_rule(&of, None, &by).await? {
        return Err(none(&of));
    }
    Ok(Json(DeletedView::of("project.model_permissions.deleted", None)))
}

//! Projects.

use axum::extract::State;
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::view::ProjectView;
use super::{Absent, page, project};
use crate::admin::Admin;
use crate::admin::error::ApiError;
use crate::admin::extract::{Body, Path, Query};
use crate::admin::paging::Paging;
use crate::admin::view::List;
use crate::guard::audit::Actor;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ProjectQuery {
    /// The number of items in a page. Default: 20.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<usize>,
    /// The page begins after this id.
    after: Option<String>,
    /// Whether to include archived projects.
    #[serde(default)]
    include_archived: bool,
}

/// Lists projects.
#[utoipa::path(get, path = "/projects", params(ProjectQuery), responses((status = 200, body = List<ProjectView>)))]
pub(super) async fn list(
    State(admin): State<Admin>,
    Query(query): Query<ProjectQuery>,
) -> Result<Json<List<ProjectView>>, ApiError> {
    let mut projects = admin.guard.ring().projects();
    projects.retain(|project| query.include_archived || project.archived_s.is_none());
    let paging = Paging { limit: query.limit, after: query.after, ..Paging::default() };
    let views = projects.iter().map(ProjectView::of).collect();
    Ok(Json(page(views, &paging, |project: &ProjectView| project.id.clone())?))
}

#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ProjectFields)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fields {
    #[schema(required, value_type = String, min_length = 1, max_length = 256, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    name: Option<String>,
    #[schema(ignore)]
    #[serde(default)]
    external_key_id: Absent,
    #[schema(ignore)]
    #[serde(default)]
    geography: Absent,
    #[schema(ignore)]
    #[serde(default)]
    residency: Absent,
}

impl Fields {
    fn name(self) -> Result<String, ApiError> {
        self.external_key_id.refuse("external_key_id", "the guard does not encrypt with external keys")?;
        self.geography.refuse("geography", "the guard does not choose where OpenAI keeps data")?;
        self.residency.refuse("residency", "the guard does not choose where OpenAI keeps data")?;
        self.name.ok_or_else(|| ApiError::bad(Some("name"), "give a name"))
    }
}

/// Creates a project.
#[utoipa::path(
    post,
    path = "/projects",
    request_body = Fields,
    responses((status = 200, body = ProjectView)),
)]
pub(super) async fn create(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Body(body): Body<Fields>,
) -> Result<Json<ProjectView>, ApiError> {
    let name = body.name()?;
    Ok(Json(ProjectView::of(&admin.directory.create_project(None, name, &by).await?)))
}

/// Shows a project.
#[utoipa::path(get, path = "", responses((status = 200, body = ProjectView)))]
pub(super) async fn show(
    State(admin): State<Admin>,
    Path(id): Path<String>,
) -> Result<Json<ProjectView>, ApiError> {
    Ok(Json(ProjectView::of(&project(&admin, &id)?)))
}

/// Renames a project.
#[utoipa::path(post, path = "", request_body = Fields, responses((status = 200, body = ProjectView)))]
pub(super) async fn change(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path(id): Path<String>,
    Body(body): Body<Fields>,
) -> Result<Json<ProjectView>, ApiError> {
    project(&admin, &id)?;
    let name = body.name()?;
    Ok(Json(ProjectView::of(&admin.directory.rename_project(&id, name, &by).await?)))
}

/// Archives a project. Its keys are refused from now on.
#[utoipa::path(post, path = "/archive", responses((status = 200, body = ProjectView)))]
pub(super) async fn archive(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path(id): Path<String>,
) -> Result<Json<ProjectView>, ApiError> {
    project(&admin, &id)?;
    Ok(Json(ProjectView::of(&admin.directory.archive_project(&id, &by).await?)))
}

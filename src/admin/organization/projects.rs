//! Projects.

use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use serde::Deserialize;

use super::view::ProjectView;
use super::{Absent, Asked, Body, page, project};
use crate::admin::Admin;
use crate::admin::error::ApiError;
use crate::admin::keys::Paging;
use crate::admin::view::List;
use crate::guard::trail::Actor;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    limit: Option<usize>,
    after: Option<String>,
    #[serde(default)]
    include_archived: bool,
}

pub(super) async fn list(
    State(admin): State<Admin>,
    wanted: Asked<Wanted>,
) -> Result<Json<List<ProjectView>>, ApiError> {
    let Query(wanted) = wanted?;
    let mut projects = admin.guard.ring().projects();
    projects.retain(|project| wanted.include_archived || project.archived_s.is_none());
    let paging = Paging { limit: wanted.limit, after: wanted.after, ..Paging::default() };
    let views = projects.iter().map(ProjectView::of).collect();
    Ok(Json(page(views, &paging, |project: &ProjectView| project.id.clone())?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fields {
    name: Option<String>,
    #[serde(default)]
    external_key_id: Absent,
    #[serde(default)]
    geography: Absent,
    #[serde(default)]
    residency: Absent,
}

impl Fields {
    fn name(self) -> Result<String, ApiError> {
        self.external_key_id.refuse("external_key_id", "the guard encrypts nothing with keys of others")?;
        self.geography.refuse("geography", "the guard does not choose where OpenAI keeps data")?;
        self.residency.refuse("residency", "the guard does not choose where OpenAI keeps data")?;
        self.name.ok_or_else(|| ApiError::bad(Some("name"), "give a name"))
    }
}

pub(super) async fn create(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    body: Body<Fields>,
) -> Result<Json<ProjectView>, ApiError> {
    let name = body?.0.name()?;
    Ok(Json(ProjectView::of(&admin.guard.create_project(None, name, &by).await?)))
}

pub(super) async fn show(
    State(admin): State<Admin>,
    Path(id): Path<String>,
) -> Result<Json<ProjectView>, ApiError> {
    Ok(Json(ProjectView::of(&project(&admin, &id)?)))
}

pub(super) async fn change(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path(id): Path<String>,
    body: Body<Fields>,
) -> Result<Json<ProjectView>, ApiError> {
    project(&admin, &id)?;
    let name = body?.0.name()?;
    Ok(Json(ProjectView::of(&admin.guard.rename_project(&id, name, &by).await?)))
}

pub(super) async fn archive(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path(id): Path<String>,
) -> Result<Json<ProjectView>, ApiError> {
    project(&admin, &id)?;
    Ok(Json(ProjectView::of(&admin.guard.archive_project(&id, &by).await?)))
}

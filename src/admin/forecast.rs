//! The forecast.

use axum::Json;
use axum::extract::State;

use crate::admin::Admin;
use crate::admin::error::ApiError;
use crate::admin::view::forecast::ProjectionsView;

/// Projects the spending to the end of the month, and when caps will be reached.
#[utoipa::path(get, path = "/forecast", responses((status = 200, body = ProjectionsView)))]
pub(crate) async fn show(State(admin): State<Admin>) -> Result<Json<ProjectionsView>, ApiError> {
    let projections = admin.forecaster.latest().await;
    let projections = projections.ok_or_else(|| ApiError::not_found("the guard is ending"))?;
    Ok(Json(ProjectionsView::of(&projections)))
}

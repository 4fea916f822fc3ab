//! What is likely to come.

use axum::Json;
use axum::extract::State;

use crate::admin::Admin;
use crate::admin::error::ApiError;
use crate::admin::view::forecast::OutlookView;

/// Tells what is likely to be spent by the end of the month, and when caps will be reached.
#[utoipa::path(get, path = "/forecast", responses((status = 200, body = OutlookView)))]
pub(crate) async fn show(State(admin): State<Admin>) -> Result<Json<OutlookView>, ApiError> {
    let outlook = admin.lookout.latest().await;
    let outlook = outlook.ok_or_else(|| ApiError::not_found("the guard is ending"))?;
    Ok(Json(OutlookView::of(&outlook)))
}

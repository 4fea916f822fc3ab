//! The guards that share the database.

use axum::Json;
use axum::extract::State;

use crate::admin::Admin;
use crate::admin::error::ApiError;
use crate::admin::view::nodes::NodesView;

/// The most guards that are listed.
const NODES_MAX: u32 = 100;

/// Lists the guards that share the database: those that are alive first, then the latest others. The list is
/// empty where this guard has a database of its own.
#[utoipa::path(get, path = "/nodes", responses((status = 200, body = NodesView)))]
pub(crate) async fn list(State(admin): State<Admin>) -> Result<Json<NodesView>, ApiError> {
    let nodes = admin.books.reports().nodes(NODES_MAX).await?;
    Ok(Json(NodesView::of(nodes)))
}

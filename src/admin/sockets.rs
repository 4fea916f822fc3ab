//! The sockets of clients that are open on this guard.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::admin::Admin;
use crate::admin::error::ApiError;
use crate::admin::extract::Query;
use crate::admin::paging::{Paging, page_beside, page_length};
use crate::admin::view::List;
use crate::admin::view::sockets::SocketView;
use crate::guard::sockets::OpenSocket;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct SocketQuery {
    key_id: Option<String>,
    /// The number of items in a page. Default: 100.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// The page begins after this id.
    after: Option<String>,
    /// The page ends before this id.
    before: Option<String>,
    /// `asc` or `desc`.
    #[param(pattern = "^(asc|desc)$")]
    order: Option<String>,
}

/// Lists the sockets that are open on this guard, in the order in which they were opened. Guards that share a
/// database know only their own.
#[utoipa::path(get, path = "/sockets", params(SocketQuery), responses((status = 200, body = List<SocketView>)))]
pub(crate) async fn list(
    State(admin): State<Admin>,
    Query(query): Query<SocketQuery>,
) -> Result<Json<List<SocketView>>, ApiError> {
    let SocketQuery { key_id, limit, after, before, order } = query;
    let mut sockets = admin.guard.open_sockets();
    if let Some(key) = key_id {
        sockets.retain(|socket| *socket.key == *key);
    }
    let is_descending = order.as_deref() == Some("desc");
    // One that was closed since the last page leaves its place.
    let place = |sockets: &[Arc<OpenSocket>], id: &str| {
        let number = admin.guard.socket_number(id)?;
        let is_before = |socket: &Arc<OpenSocket>| {
            if is_descending { socket.number > number } else { socket.number < number }
        };
        let start = sockets.partition_point(is_before);
        let is_there = sockets.get(start).is_some_and(|socket| socket.number == number);
        Some(start..start + usize::from(is_there))
    };
    let length = page_length(limit)?;
    let paging = Paging { limit, after, before, order };
    let page = page_beside(sockets, &paging, length, |socket| socket.id.clone(), place)?;
    Ok(Json(page.map(|socket| SocketView::of(&socket))))
}

//! Alerts: what was sent, what is waiting, what failed; and a test of each channel.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::admin::Admin;
use crate::admin::error::ApiError;
use crate::admin::extract::Query;
use crate::admin::paging::page_length;
use crate::admin::view::List;
use crate::admin::view::alerts::{AlertView, TestView};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AlertQuery {
    /// The number of items in a page. Default: 100.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// The page begins after this id.
    after: Option<String>,
}

/// Lists alerts with their deliveries, newest first.
#[utoipa::path(get, path = "/alerts", params(AlertQuery), responses((status = 200, body = List<AlertView>)))]
pub(crate) async fn list(
    State(admin): State<Admin>,
    Query(query): Query<AlertQuery>,
) -> Result<Json<List<AlertView>>, ApiError> {
    let count = page_length(query.limit)?;
    let number = |id: &String| {
        let digits = id.strip_prefix("alert_").unwrap_or(id);
        digits.parse().map_err(|_| ApiError::bad(Some("after"), format!("{id:?} is no id of an alert")))
    };
    let before = query.after.as_ref().map(number).transpose()?;
    let mut found = admin.books.reports().alerts(before, count + 1).await?;
    let has_more = found.len() > count;
    found.truncate(count);
    let views = found.iter().map(|(alert, deliveries)| AlertView::of(alert, deliveries)).collect();
    Ok(Json(List::new(views, has_more, |alert: &AlertView| alert.id.clone())))
}

/// Sends a test message through every channel and returns the result of each.
#[utoipa::path(post, path = "/alerts/test", responses((status = 200, body = List<TestView>)))]
pub(crate) async fn test(State(admin): State<Admin>) -> Json<List<TestView>> {
    let results = admin.outbox.test().await;
    Json(List::whole(results.into_iter().map(|(channel, sent)| TestView::of(channel, sent)).collect()))
}

//! Alerts: what was told, what waits, what failed; and a test of each channel.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::Deserialize;

use crate::admin::Admin;
use crate::admin::error::ApiError;
use crate::admin::keys::page_length;
use crate::admin::view::List;
use crate::admin::view::alerts::{AlertView, TestView};
use crate::store::outbox;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    limit: Option<usize>,
    after: Option<String>,
}

pub(crate) async fn list(
    State(admin): State<Admin>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<List<AlertView>>, ApiError> {
    let Query(wanted) = wanted?;
    let count = page_length(wanted.limit)?;
    let number = |id: &String| {
        let digits = id.strip_prefix("alert_").unwrap_or(id);
        digits.parse().map_err(|_| ApiError::bad(Some("after"), format!("{id:?} is no id of an alert")))
    };
    let before = wanted.after.as_ref().map(number).transpose()?;
    let mut found = admin.guard.read(move |db| outbox::alerts(db, before, count + 1)).await?;
    let has_more = found.len() > count;
    found.truncate(count);
    let views = found.iter().map(|(alert, deliveries)| AlertView::of(alert, deliveries)).collect();
    Ok(Json(List::new(views, has_more, |alert: &AlertView| alert.id.clone())))
}

pub(crate) async fn test(State(admin): State<Admin>) -> Json<List<TestView>> {
    let results = admin.outbox.test().await;
    Json(List::whole(results.into_iter().map(|(channel, sent)| TestView::of(channel, sent)).collect()))
}

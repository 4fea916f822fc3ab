//! What is stopped: kill switches, and fuses that have blown.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::admin::Admin;
use crate::admin::error::ApiError;
use crate::admin::extract::{Path, Query, Raw, object};
use crate::admin::paging::{Paging, page};
use crate::admin::view::List;
use crate::admin::view::stops::{FuseView, StopView};
use crate::domain::Fuse;
use crate::guard::audit::Actor;
use crate::stops::Reading;

/// How many spenders of each fuse a list of fuses shows, those that have spent the most.
const SUBJECTS_LISTED_MAX: usize = 100;

/// Lists what is stopped, in the order in which it was.
#[utoipa::path(get, path = "/stops", params(Paging), responses((status = 200, body = List<StopView>)))]
pub(crate) async fn list(
    State(admin): State<Admin>,
    Query(paging): Query<Paging>,
) -> Result<Json<List<StopView>>, ApiError> {
    let stops = admin.stops.in_force().iter().map(|stop| StopView::of(stop)).collect();
    Ok(Json(page(stops, &paging, |stop: &StopView| stop.id.clone())?))
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct KillSwitch {
    /// Why, for other operators.
    #[schema(max_length = 1000, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    note: Option<String>,
}

/// Turns a kill switch on: requests of a key, a project or the organization that cost money are rejected
/// once this is answered. Turned on already, it gets the note.
#[utoipa::path(
    put,
    path = "/kill-switches/{subject}",
    request_body = Option<KillSwitch>,
    responses((status = 200, body = StopView)),
)]
pub(crate) async fn switch_on(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path(subject): Path<String>,
    Raw(body): Raw,
) -> Result<Json<StopView>, ApiError> {
    let KillSwitch { note } = optional(&body)?;
    Ok(Json(StopView::of(&*admin.stops.switch_on(&subject, note, &by).await?)))
}

/// Turns a kill switch off.
#[utoipa::path(delete, path = "/kill-switches/{subject}", responses((status = 204)))]
pub(crate) async fn switch_off(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path(subject): Path<String>,
) -> Result<StatusCode, ApiError> {
    admin.stops.switch_off(&subject, &by).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists the fuses of the configuration, each with those for whom it has blown and those who have spent
/// the most within its time.
#[utoipa::path(get, path = "/fuses", params(Paging), responses((status = 200, body = List<FuseView>)))]
pub(crate) async fn fuses(
    State(admin): State<Admin>,
    Query(paging): Query<Paging>,
) -> Result<Json<List<FuseView>>, ApiError> {
    let fuses = admin.stops.fuses(SUBJECTS_LISTED_MAX).await?;
    let stops = admin.stops.in_force();
    let view = |(fuse, readings): (Arc<Fuse>, Vec<Reading>)| {
        let of_fuse = stops.iter().filter(|stop| stop.fuse() == Some(&fuse.name));
        FuseView::of(&fuse, of_fuse.map(|stop| StopView::of(stop)).collect(), &readings)
    };
    let views = fuses.into_iter().map(view).collect();
    Ok(Json(page(views, &paging, |fuse: &FuseView| fuse.name.clone())?))
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FuseReset {
    /// `organization`, or the id of a project or key. Default: all for whom it has blown.
    subject: Option<String>,
}

/// Resets a fuse, and returns what was stopped by it. What was spent before counts no more for it.
#[utoipa::path(
    post,
    path = "/fuses/{fuse}/reset",
    request_body = Option<FuseReset>,
    responses((status = 200, body = List<StopView>)),
)]
pub(crate) async fn reset(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path(fuse): Path<String>,
    Raw(body): Raw,
) -> Result<Json<List<StopView>>, ApiError> {
    let FuseReset { subject } = optional(&body)?;
    let lifted = admin.stops.reset(&fuse, subject.as_deref(), &by).await?;
    let views = lifted.iter().map(|stop| StopView::of(stop)).collect();
    Ok(Json(List::new(views, false, |stop: &StopView| stop.id.clone())))
}

/// Reads an object that may be left out.
fn optional<T: Default + serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    if body.trim_ascii().is_empty() { Ok(T::default()) } else { object(body) }
}

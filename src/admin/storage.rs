//! The disk space that the ledger uses, and pruning.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::admin::Admin;
use crate::admin::error::ApiError;
use crate::admin::extract::Body;
use crate::admin::usage::instant_s;
use crate::admin::view::storage::{PruningView, StorageView};
use crate::books::retention::Progress;
use crate::guard::audit::Actor;
use crate::store::reports::PruneError;

/// How long one request prunes; a client repeats it for more.
const PRUNE_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pruning {
    /// Unix seconds, or a day such as `2026-01-01`: entries admitted before it are pruned, except those of
    /// the last 24 hours.
    #[schema(example = "2026-01-01")]
    before: String,
    /// Only counts the entries that would be pruned.
    #[serde(default)]
    dry_run: bool,
}

/// Shows the disk space that the ledger uses, how far back its entries reach, and the free space.
#[utoipa::path(get, path = "/storage", responses((status = 200, body = StorageView)))]
pub(crate) async fn show(State(admin): State<Admin>) -> Result<Json<StorageView>, ApiError> {
    let keep = admin.in_force.load().keep;
    Ok(Json(StorageView::of(&admin.books.reports().storage().await?, keep)))
}

/// Prunes old entries for at most ten seconds; their sums stay. Repeat while `has_more` is true.
#[utoipa::path(
    post,
    path = "/storage/prune",
    request_body = Pruning,
    responses((status = 200, body = PruningView)),
)]
pub(crate) async fn prune(
    State(admin): State<Admin>,
    Extension(actor): Extension<Actor>,
    Body(body): Body<Pruning>,
) -> Result<Json<PruningView>, ApiError> {
    let Pruning { before, dry_run } = body;
    let zone = Arc::clone(&admin.in_force.load().zone);
    let requested_s = instant_s(&before, &zone, "before")?;
    if requested_s > admin.guard.clock().now_s() {
        return Err(ApiError::bad(
            Some("before"),
            format!("{before:?} is in the future; nothing was pruned"),
        ));
    }
    let progress = if dry_run {
        let entries = admin.books.prunable(requested_s).await?;
        Progress { before_s: admin.books.prunable_before_s(requested_s), entries, has_more: false }
    } else {
        admin.books.prune(requested_s, PRUNE_MAX, &actor).await?
    };
    Ok(Json(PruningView::of(progress, dry_run)))
}

impl From<PruneError> for ApiError {
    fn from(error: PruneError) -> Self {
        match error {
            PruneError::Unlike { .. } => Self::conflict(error.to_string()),
            PruneError::Store(error) => error.into(),
        }
    }
}

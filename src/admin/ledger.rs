//! The ledger: its entries, corrections, and verification.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use crate::admin::Admin;
use crate::admin::error::ApiError;
use crate::admin::extract::{Body, Path, Query};
use crate::admin::paging::{ascending, page_length};
use crate::admin::usage::instant_s;
use crate::admin::view::verification::VerificationView;
use crate::admin::view::{EntryView, List};
use crate::domain::Money;
use crate::guard::audit::Actor;
use crate::ledger::entry::{Basis, Kind};
use crate::store::reports::EntryFilter;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct EntryQuery {
    key_id: Option<String>,
    project_id: Option<String>,
    /// Unix seconds, or a day such as `2026-11-01`.
    since: Option<String>,
    /// The exclusive end: Unix seconds, or a day such as `2026-11-01`.
    until: Option<String>,
    /// `reported`, `counted` or `assumed`.
    basis: Option<String>,
    kind: Option<String>,
    /// The number of items in a page. Default: 100.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// The page begins after this id.
    after: Option<String>,
    /// `asc` or `desc`.
    #[param(pattern = "^(asc|desc)$")]
    order: Option<String>,
}

/// The number of an entry's id, with or without its prefix.
fn number(id: &str, param: &'static str) -> Result<u64, ApiError> {
    let digits = id.strip_prefix("ent_").or_else(|| id.strip_prefix("grant_")).unwrap_or(id);
    digits.parse().map_err(|_| ApiError::bad(Some(param), format!("{id:?} is no id of an entry")))
}

/// Lists entries of the ledger, newest first.
#[utoipa::path(get, path = "/ledger", params(EntryQuery), responses((status = 200, body = List<EntryView>)))]
pub(crate) async fn list(
    State(admin): State<Admin>,
    Query(query): Query<EntryQuery>,
) -> Result<Json<List<EntryView>>, ApiError> {
    let count = page_length(query.limit)?;
    let zone = Arc::clone(&admin.in_force.load().zone);
    let time =
        |text: &Option<String>, param| text.as_deref().map(|text| instant_s(text, &zone, param)).transpose();
    let named = |text: &Option<String>, param| match text {
        Some(text) => Basis::named(text).map(Some).ok_or_else(|| ApiError::bad(Some(param), "no such basis")),
        None => Ok(None),
    };
    let kind = match &query.kind {
        Some(text) => Some(Kind::named(text).ok_or_else(|| ApiError::bad(Some("kind"), "no such kind"))?),
        None => None,
    };
    let filter = EntryFilter {
        since_s: time(&query.since, "since")?,
        until_s: time(&query.until, "until")?,
        basis: named(&query.basis, "basis")?,
        kind,
        after: query.after.as_deref().map(|id| number(id, "after")).transpose()?,
        ascending: ascending(query.order.as_deref(), false)?,
        count_max: count + 1,
        key: query.key_id,
        project: query.project_id,
        ..EntryFilter::default()
    };
    let mut entries = admin.books.reports().entries(filter).await?;
    let has_more = entries.len() > count;
    entries.truncate(count);
    let views = entries.iter().map(EntryView::of).collect();
    Ok(Json(List::new(views, has_more, |entry: &EntryView| entry.id.clone())))
}

/// The largest correction, so that a typing error can't distort the whole ledger.
const ADJUSTMENT_MAX: Money = Money::from_nano(1_000_000 * 1_000_000_000);

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Adjustment {
    /// The amount to add to the cost: a decimal text from minus one million to one million.
    #[schema(example = "-1.23")]
    amount_usd: String,
    /// The reason.
    #[schema(min_length = 1, max_length = 1000)]
    note: String,
}

/// Corrects an entry by a new one. Returns the new entry.
#[utoipa::path(
    post,
    path = "/ledger/{entry}/adjust",
    request_body = Adjustment,
    responses((status = 201, body = EntryView)),
)]
pub(crate) async fn adjust(
    State(admin): State<Admin>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
    Body(body): Body<Adjustment>,
) -> Result<(StatusCode, Json<EntryView>), ApiError> {
    let Adjustment { amount_usd, note } = body;
    let by: Money = amount_usd
        .parse()
        .map_err(|error| ApiError::bad(Some("amount_usd"), format!("{amount_usd:?} is {error}")))?;
    if by > ADJUSTMENT_MAX || by < -ADJUSTMENT_MAX {
        return Err(ApiError::bad(Some("amount_usd"), "a correction is at most a million dollars"));
    }
    if note.trim().is_empty() || note.chars().count() > 1_000 {
        return Err(ApiError::bad(Some("note"), "give the reason in 1 to 1000 characters"));
    }
    let entry = admin.books.adjust(number(&id, "id")?, by, note, &actor).await?;
    Ok((StatusCode::CREATED, Json(EntryView::of(&entry))))
}

/// Verifies the ledger: compares all that it stores twice, and explains each difference.
#[utoipa::path(get, path = "/ledger/verify", responses((status = 200, body = VerificationView)))]
pub(crate) async fn verify(State(admin): State<Admin>) -> Result<Json<VerificationView>, ApiError> {
    Ok(Json(VerificationView::of(admin.books.verify().await?)))
}

//! Limits: what is in force, what it has counted, and why.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};

use crate::admin::Admin;
use crate::admin::error::ApiError;
use crate::admin::extract::{Path, Raw, object};
use crate::admin::view::{
    ContributionView, EntryView, ExplainView, HoldView, LimitView, List, PrunedPartView,
};
use crate::domain::{Limit, Span};
use crate::guard::trail::Actor;
use crate::ledger::entry::{Entry, Hold, entry_id};
use crate::ledger::meter::{Reading, Subject};
use crate::store::rule::LimitRule;
use crate::store::{reader, retention};

/// Entries that an explanation names one by one.
const EXPLAINED_MAX: usize = 100;

/// Lists all limits that are in force, with their meters, by name.
#[utoipa::path(get, path = "/limits", responses((status = 200, body = List<LimitView>)))]
pub(crate) async fn list(State(admin): State<Admin>) -> Json<List<LimitView>> {
    let limits = everything(&admin).iter().map(|(limit, readings)| LimitView::of(limit, readings)).collect();
    Json(List::new(limits, false, |limit: &LimitView| limit.name.clone()))
}

/// Metered limits with their meters, and rates without.
pub(super) fn everything(admin: &Admin) -> Vec<(Arc<Limit>, Vec<Reading>)> {
    let mut limits = admin.guard.limits();
    limits.extend(admin.guard.throttle().limits().map(|limit| (Arc::clone(limit), Vec::new())));
    limits.sort_unstable_by(|a, b| a.0.name.cmp(&b.0.name));
    limits
}

fn find(admin: &Admin, name: &str) -> Result<(Arc<Limit>, Vec<Reading>), ApiError> {
    let found = everything(admin).into_iter().find(|(limit, _)| *limit.name == *name);
    found.ok_or_else(|| ApiError::not_found(format!("there is no limit {name:?}")))
}

/// Shows a limit with its meters.
#[utoipa::path(get, path = "/limits/{limit}", responses((status = 200, body = LimitView)))]
pub(crate) async fn show(
    State(admin): State<Admin>,
    Path(name): Path<String>,
) -> Result<Json<LimitView>, ApiError> {
    let (limit, readings) = find(&admin, &name)?;
    Ok(Json(LimitView::of(&limit, &readings)))
}

/// Sets a limit. It is in force once this is answered, and counts what its window already holds.
#[utoipa::path(
    put,
    path = "/limits/{limit}",
    request_body = LimitRule,
    responses((status = 200, body = LimitView)),
)]
pub(crate) async fn put(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path(name): Path<String>,
    Raw(body): Raw,
) -> Result<Json<LimitView>, ApiError> {
    let rule: LimitRule = object(&body)?;
    admin.guard.put_limit(&name, &rule, &by).await?;
    let (limit, readings) = find(&admin, &name)?;
    Ok(Json(LimitView::of(&limit, &readings)))
}

/// Removes a limit that was made through the API.
#[utoipa::path(delete, path = "/limits/{limit}", responses((status = 204)))]
pub(crate) async fn remove(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    admin.guard.remove_limit(&name, &by).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Explains a limit's numbers by the entries and holds that make them up.
#[utoipa::path(get, path = "/limits/{limit}/explain", responses((status = 200, body = ExplainView)))]
pub(crate) async fn explain(
    State(admin): State<Admin>,
    Path(name): Path<String>,
) -> Result<Json<ExplainView>, ApiError> {
    find(&admin, &name)?;
    let sums = admin.guard.sums_from_entries(&name).await?;
    let (limit, readings) = find(&admin, &name)?;
    let holds = admin.guard.holds_on(&name);
    let now_ms = admin.guard.clock().now_ms();
    let hold = |(hold, subject, amount): (Arc<Hold>, String, i64)| HoldView {
        id: entry_id(hold.id),
        key_id: hold.attribution.key.to_string(),
        subject,
        amount: limit.unit.decimal(amount),
        admitted_at: hold.admitted_ms.div_euclid(1_000),
        age_ms: now_ms.saturating_sub(hold.admitted_ms),
    };
    let settled =
        |reading: &Reading| sums.get(&reading.subject).copied().unwrap_or(0) == reading.meter.settled;
    let agrees = readings.iter().all(settled);
    let span = readings.first().map(|reading| reading.span);
    let (entries, entries_total) = contributions(&admin, &limit, span).await?;
    let pruned = pruned(&admin, &limit, span).await?;
    Ok(Json(ExplainView {
        agrees,
        entries,
        entries_total,
        pruned,
        settled_from_entries: sums
            .iter()
            .map(|(subject, amount)| (subject.label().to_owned(), limit.unit.decimal(*amount)))
            .collect(),
        holds: holds.into_iter().map(hold).collect(),
        limit: LimitView::of(&limit, &readings),
    }))
}

/// What of a window's sums has no entries any more.
async fn pruned(
    admin: &Admin,
    limit: &Arc<Limit>,
    span: Option<Span>,
) -> Result<Option<PrunedPartView>, ApiError> {
    let Some(span) = span else { return Ok(None) };
    let (ring, of) = (Arc::clone(admin.guard.ring()), Arc::clone(limit));
    let found = admin.guard.read_long(move |db| retention::pruned_of(db, &of, span, &*ring)).await?;
    Ok(found.map(|(before, sums)| {
        let amount = |(subject, sum): (Subject, i64)| (subject.label().to_owned(), limit.unit.decimal(sum));
        PrunedPartView { before, settled: sums.into_iter().map(amount).collect() }
    }))
}

async fn contributions(
    admin: &Admin,
    limit: &Arc<Limit>,
    span: Option<Span>,
) -> Result<(Vec<ContributionView>, usize), ApiError> {
    let Some(span) = span else { return Ok((Vec::new(), 0)) };
    let (ring, of) = (Arc::clone(admin.guard.ring()), Arc::clone(limit));
    let found =
        admin.guard.read_long(move |db| reader::counted(db, &of, span, EXPLAINED_MAX, &*ring)).await?;
    let view = |(subject, entry): (Subject, Entry)| ContributionView {
        subject: subject.label().to_owned(),
        amount: limit.unit.decimal(entry.amount(limit.unit)),
        entry: EntryView::of(&entry),
    };
    let (newest, count) = found;
    Ok((newest.into_iter().map(view).collect(), count))
}

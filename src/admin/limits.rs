//! Limits: those in force, what they have counted, and from which entries.

use std::collections::HashSet;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::admin::Admin;
use crate::admin::error::ApiError;
use crate::admin::extract::{Path, Query, Raw, object};
use crate::admin::paging::{Paging, page, page_length};
use crate::admin::view::explain::{ContributionView, ExplainView, HoldView, PrunedPartView};
use crate::admin::view::{EntryView, LimitView, List};
use crate::books::meters::Meters;
use crate::domain::{Limit, Span};
use crate::guard::audit::Actor;
use crate::ledger::entry::{Entry, Hold, entry_id};
use crate::ledger::meter::Subject;
use crate::ledger::walk::InForce;
use crate::rulebook::rule::LimitRule;

/// How many entries an explanation lists.
const EXPLAINED_MAX: usize = 100;
/// How many open holds an explanation lists.
const HOLDS_MAX: usize = 1_000;
/// How many meters of each limit a list of limits shows, the fullest first.
const METERS_LISTED_MAX: usize = 100;

/// Lists limits that are in force, by name, with the fullest of their meters.
#[utoipa::path(get, path = "/limits", params(Paging), responses((status = 200, body = List<LimitView>)))]
pub(crate) async fn list(
    State(admin): State<Admin>,
    Query(paging): Query<Paging>,
) -> Result<Json<List<LimitView>>, ApiError> {
    let limits = page(everything(&admin), &paging, |listed: &Listed| listed.limit.name.to_string())?;
    Ok(Json(limits.map(|listed| {
        let mut meters = listed.fullest(&admin, METERS_LISTED_MAX);
        meters.readings.sort_unstable_by(|a, b| a.subject.cmp(&b.subject));
        LimitView::of(&listed.limit, &meters)
    })))
}

/// A limit that is in force, metered or a rate.
pub(super) struct Listed {
    pub(super) limit: Arc<Limit>,
    /// A rate has no meters.
    metered: Option<InForce>,
}

impl Listed {
    /// Its fullest meters, the fullest first.
    pub(super) fn fullest(&self, admin: &Admin, count_max: usize) -> Meters {
        self.metered.as_ref().map(|of| admin.books.fullest(of, count_max)).unwrap_or_default()
    }

    /// A page of its meters, by subject.
    fn page(&self, admin: &Admin, paging: &MeterPaging) -> Result<Meters, ApiError> {
        let count_max = page_length(paging.limit)?;
        let page = |of| admin.books.meters_after(of, paging.after.as_deref(), count_max);
        Ok(self.metered.as_ref().map(page).unwrap_or_default())
    }
}

/// All limits that are in force, by name.
pub(super) fn everything(admin: &Admin) -> Vec<Listed> {
    let metered = admin.guard.core().in_force().into_iter();
    let metered = metered.map(|of| Listed { limit: Arc::clone(&of.limit), metered: Some(of) });
    let throttle = admin.guard.rates();
    let rates = throttle.limits().map(|limit| Listed { limit: Arc::clone(limit), metered: None });
    let mut limits: Vec<Listed> = metered.chain(rates).collect();
    limits.sort_unstable_by(|a, b| a.limit.name.cmp(&b.limit.name));
    limits
}

/// The limit of that name, if it is in force.
pub(super) fn named(admin: &Admin, name: &str) -> Option<Listed> {
    everything(admin).into_iter().find(|listed| *listed.limit.name == *name)
}

fn find(admin: &Admin, name: &str) -> Result<Listed, ApiError> {
    named(admin, name).ok_or_else(|| ApiError::not_found(format!("there is no limit {name:?}")))
}

/// Which of a limit's meters are shown.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct MeterPaging {
    /// The number of meters. Default: 100.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// The page of meters begins after this subject.
    after: Option<String>,
}

/// Shows a limit with a page of its meters, by subject.
#[utoipa::path(get, path = "/limits/{limit}", params(MeterPaging), responses((status = 200, body = LimitView)))]
pub(crate) async fn show(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    Query(paging): Query<MeterPaging>,
) -> Result<Json<LimitView>, ApiError> {
    let listed = find(&admin, &name)?;
    Ok(Json(LimitView::of(&listed.limit, &listed.page(&admin, &paging)?)))
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
    admin.rulebook.put_limit(&name, &rule, &by).await?;
    admin.guard.core().see_whole().await;
    let listed = find(&admin, &name)?;
    Ok(Json(LimitView::of(&listed.limit, &listed.page(&admin, &MeterPaging::default())?)))
}

/// Removes a limit that was made through the API.
#[utoipa::path(delete, path = "/limits/{limit}", responses((status = 204)))]
pub(crate) async fn remove(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    admin.rulebook.remove_limit(&name, &by).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Explains a limit's numbers by the entries and holds that make them up: those of a
/// page of its meters, by subject, and the newest entries of all.
#[utoipa::path(
    get,
    path = "/limits/{limit}/explain",
    params(MeterPaging),
    responses((status = 200, body = ExplainView)),
)]
pub(crate) async fn explain(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    Query(paging): Query<MeterPaging>,
) -> Result<Json<ExplainView>, ApiError> {
    find(&admin, &name)?;
    let sums = admin.books.sums_from_entries(&name).await?;
    let listed = find(&admin, &name)?;
    let (limit, meters) = (&listed.limit, listed.page(&admin, &paging)?);
    let shown: HashSet<&str> = meters.readings.iter().map(|reading| reading.subject.label()).collect();
    let mut holds = admin.guard.holds_on(&name);
    let holds_total = holds.len();
    holds.retain(|(_, subject, _)| shown.contains(&**subject));
    holds.sort_unstable_by_key(|(hold, ..)| hold.id);
    holds.truncate(HOLDS_MAX);
    let now_ms = admin.guard.clock().now_ms();
    let hold = |(hold, subject, amount): (Arc<Hold>, String, i64)| HoldView {
        id: entry_id(hold.id),
        key_id: hold.attribution.key.to_string(),
        subject,
        amount: limit.unit.decimal(amount),
        admitted_at: hold.admitted_ms.div_euclid(1_000),
        age_ms: now_ms.saturating_sub(hold.admitted_ms),
    };
    let (mut agrees, mut span) = (true, None);
    if let Some(of) = &listed.metered {
        admin.books.each_meter(of, |subject, window, meter| {
            span = Some(window);
            agrees &= sums.get(subject).copied().unwrap_or(0) == meter.settled;
        });
    }
    let (entries, entries_total) = contributions(&admin, limit, span).await?;
    let pruned = pruned(&admin, limit, span, &shown).await?;
    let of_page = sums.iter().filter(|(subject, _)| shown.contains(subject.label()));
    Ok(Json(ExplainView {
        agrees,
        entries,
        entries_total,
        pruned,
        settled_from_entries: of_page
            .map(|(subject, amount)| (subject.label().to_owned(), limit.unit.decimal(*amount)))
            .collect(),
        holds: holds.into_iter().map(hold).collect(),
        holds_total,
        limit: LimitView::of(limit, &meters),
    }))
}

/// The part of the sums of the shown meters whose entries were pruned.
async fn pruned(
    admin: &Admin,
    limit: &Arc<Limit>,
    span: Option<Span>,
    shown: &HashSet<&str>,
) -> Result<Option<PrunedPartView>, ApiError> {
    let Some(span) = span else { return Ok(None) };
    let found = admin.books.reports().pruned_of(Arc::clone(limit), span).await?;
    Ok(found.map(|(before, sums)| {
        let of_page = sums.into_iter().filter(|(subject, _)| shown.contains(subject.label()));
        let amount = |(subject, sum): (Subject, i64)| (subject.label().to_owned(), limit.unit.decimal(sum));
        PrunedPartView { before, settled: of_page.map(amount).collect() }
    }))
}

async fn contributions(
    admin: &Admin,
    limit: &Arc<Limit>,
    span: Option<Span>,
) -> Result<(Vec<ContributionView>, usize), ApiError> {
    let Some(span) = span else { return Ok((Vec::new(), 0)) };
    let found = admin.books.reports().counted(Arc::clone(limit), span, EXPLAINED_MAX).await?;
    let view = |(subject, entry): (Subject, Entry)| ContributionView {
        subject: subject.label().to_owned(),
        amount: limit.unit.decimal(entry.amount(limit.unit)),
        entry: EntryView::of(&entry),
    };
    let (newest, count) = found;
    Ok((newest.into_iter().map(view).collect(), count))
}

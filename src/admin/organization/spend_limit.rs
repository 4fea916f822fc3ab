//! Spend limits: a monthly hard cap in dollars, of the organization or a project.
//!
//! Each is the limit of one name, like any other limit made through the API.

use axum::extract::State;
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::ToSchema;

use super::view::{DeletedView, EnforcementView, SpendLimitView};
use super::{ScopePath, active, known, limit_name};
use crate::admin::Admin;
use crate::admin::error::ApiError;
use crate::admin::extract::{Body, Path};
use crate::admin::limits::named;
use crate::domain::limit::Mode;
use crate::domain::{Limit, Money};
use crate::guard::audit::Actor;
use crate::ledger::meter::Reading;
use crate::rulebook::rule::LimitRule;
use crate::rulebook::spend_alerts::monthly;

const NANO_PER_CENT: i64 = 10_000_000;
pub(super) const CURRENCY: &str = "USD";
pub(super) const INTERVAL: &str = "month";

/// A whole number of cents as money.
pub(super) fn money(cents: i64) -> Result<Money, ApiError> {
    let nano = Some(cents).filter(|cents| *cents >= 1).and_then(|cents| cents.checked_mul(NANO_PER_CENT));
    let wrong = || ApiError::bad(Some("threshold_amount"), "give 1 to 922337203685 cents");
    nano.map(Money::from_nano).ok_or_else(wrong)
}

/// Money as a whole number of cents, if it is one.
pub(super) fn cents(money: Money) -> Option<i64> {
    (money.nano() % NANO_PER_CENT == 0).then(|| money.cents())
}

/// Accepts what OpenAI has too: dollars per month.
pub(super) fn check(currency: &str, interval: &str) -> Result<(), ApiError> {
    if currency != CURRENCY {
        return Err(ApiError::bad(Some("currency"), "use USD"));
    }
    if interval != INTERVAL {
        return Err(ApiError::bad(Some("interval"), "use month"));
    }
    Ok(())
}

#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = SetSpendLimit)]
#[serde(deny_unknown_fields)]
pub(crate) struct Update {
    /// In cents.
    #[schema(minimum = 1, maximum = 922_337_203_685_i64)]
    threshold_amount: i64,
    /// `USD`.
    #[schema(pattern = "^USD$")]
    currency: String,
    /// `month`.
    #[schema(pattern = "^month$")]
    interval: String,
}

fn name(project: Option<&str>) -> String {
    let organization = || "organization-spend-limit".to_owned();
    project.map_or_else(organization, |project| limit_name(project, None, "spend-limit"))
}

/// The limit of that name, if it exists and is a spend limit.
fn find(admin: &Admin, project: Option<&str>) -> Result<Option<(LimitRule, Limit, Vec<Reading>)>, ApiError> {
    let name = name(project);
    let Some(listed) = named(admin, &name) else { return Ok(None) };
    // It belongs to the organization or to one project: it has one meter.
    let (limit, readings) = (&listed.limit, listed.fullest(admin, 1).readings);
    let (rule, plain) = (LimitRule::of(limit), monthly(project, None, None));
    let is_spend_limit = rule.hard.is_some()
        && (&rule.per, &rule.only, &rule.unit, &rule.window)
            == (&plain.per, &plain.only, &plain.unit, &plain.window);
    if !is_spend_limit {
        let message = format!("limit {name:?} is no monthly cap in dollars; see /guard/v1/limits/{name}");
        return Err(ApiError::conflict(message));
    }
    Ok(Some((rule, limit.as_ref().clone(), readings)))
}

fn look(admin: &Admin, project: Option<&str>) -> Result<Json<SpendLimitView>, ApiError> {
    let none = || ApiError::not_found("there is no spend limit");
    let (_, limit, readings) = find(admin, project)?.ok_or_else(none)?;
    let hard = Money::from_nano(limit.hard.unwrap_or_default());
    let inexact =
        || ApiError::conflict(format!("limit {:?} is not a whole number of cents: {hard}", limit.name));
    let spent = |reading: &Reading| reading.meter.settled >= hard.nano();
    let is_enforcing = limit.mode == Mode::Enforce && readings.iter().any(spent);
    Ok(Json(SpendLimitView {
        object: if project.is_some() { "project.spend_limit" } else { "organization.spend_limit" },
        threshold_amount: cents(hard).ok_or_else(inexact)?,
        currency: CURRENCY,
        interval: INTERVAL,
        enforcement: EnforcementView { status: if is_enforcing { "enforcing" } else { "inactive" } },
    }))
}

/// Shows the monthly hard limit.
#[utoipa::path(get, path = "/spend_limit", responses((status = 200, body = SpendLimitView)))]
pub(super) async fn show(
    State(admin): State<Admin>,
    Path(ScopePath { project }): Path<ScopePath>,
) -> Result<Json<SpendLimitView>, ApiError> {
    look(&admin, known(&admin, project.as_deref())?)
}

/// Sets the monthly hard limit. It is in force once this is answered.
#[utoipa::path(
    post,
    path = "/spend_limit",
    request_body = Update,
    responses((status = 200, body = SpendLimitView)),
)]
pub(super) async fn put(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path(ScopePath { project }): Path<ScopePath>,
    Body(body): Body<Update>,
) -> Result<Json<SpendLimitView>, ApiError> {
    let scope = active(&admin, project.as_deref())?;
    check(&body.currency, &body.interval)?;
    let hard = money(body.threshold_amount)?;
    let plain = monthly(scope, None, Some(hard));
    // Thresholds and a zone that an operator set elsewhere stay.
    let rule = match find(&admin, scope)? {
        Some((rule, ..)) => LimitRule { hard: plain.hard, mode: plain.mode, ..rule },
        None => plain,
    };
    admin.rulebook.put_limit(&name(scope), &rule, &by).await?;
    admin.guard.core().see_whole().await;
    look(&admin, scope)
}

/// Removes the monthly hard limit.
#[utoipa::path(delete, path = "/spend_limit", responses((status = 200, body = DeletedView)))]
pub(super) async fn remove(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path(ScopePath { project }): Path<ScopePath>,
) -> Result<Json<DeletedView>, ApiError> {
    let scope = known(&admin, project.as_deref())?;
    find(&admin, scope)?.ok_or_else(|| ApiError::not_found("there is no spend limit"))?;
    admin.rulebook.remove_limit(&name(scope), &by).await?;
    let object =
        if scope.is_some() { "project.spend_limit.deleted" } else { "organization.spend_limit.deleted" };
    Ok(Json(DeletedView::of(object, None)))
}

//! Spend alerts: monthly thresholds in dollars, of the organization or a project.

use axum::extract::State;
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::ToSchema;

use super::spend_limit::{CURRENCY, INTERVAL, cents, check, money};
use super::view::{DeletedView, SpendAlertView};
use super::{PageQuery, ScopePath, active, known, page};
use crate::admin::Admin;
use crate::admin::error::ApiError;
use crate::admin::extract::{Body, Path, Query};
use crate::admin::view::List;
use crate::alerts;
use crate::domain::Money;
use crate::guard::audit::Actor;
use crate::rulebook::spend_alerts::SpendAlert;
use crate::store::outbox::NO_EMAIL;
use crate::store::records::Channel;

const RECIPIENTS_MAX: usize = 100;
/// The longest address that e-mail allows.
const ADDRESS_CHARS_MAX: usize = 254;
const PREFIX_CHARS_MAX: usize = 200;

#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = SetSpendAlert, example = json!({
    "threshold_amount": 10_000, "currency": "USD", "interval": "month",
    "notification_channel": { "type": "email", "recipients": ["finance@example.com"] }
}))]
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
    notification_channel: Channel,
}

impl Update {
    fn checked(self) -> Result<(Money, Channel), ApiError> {
        check(&self.currency, &self.interval)?;
        let channel = self.notification_channel;
        if channel.kind != "email" {
            return Err(ApiError::bad(Some("notification_channel.type"), "use email"));
        }
        let is_plain = |text: &str| !text.chars().any(char::is_control);
        let is_address =
            |text: &String| text.chars().count() <= ADDRESS_CHARS_MAX && alerts::is_address(text);
        let fits = (1..=RECIPIENTS_MAX).contains(&channel.recipients.len());
        if !fits || !channel.recipients.iter().all(is_address) {
            let problem = "give 1 to 100 e-mail addresses";
            return Err(ApiError::bad(Some("notification_channel.recipients"), problem));
        }
        // It becomes part of a header of an e-mail.
        let prefix = channel.subject_prefix.as_deref().unwrap_or_default();
        if !is_plain(prefix) || prefix.chars().count() > PREFIX_CHARS_MAX {
            let problem = "use up to 200 characters, and no control characters";
            return Err(ApiError::bad(Some("notification_channel.subject_prefix"), problem));
        }
        Ok((money(self.threshold_amount)?, channel))
    }
}

fn view(alert: SpendAlert, project: Option<&str>) -> SpendAlertView {
    SpendAlertView {
        object: if project.is_some() { "project.spend_alert" } else { "organization.spend_alert" },
        id: alert.id,
        // Only this path creates or changes it, and it takes cents.
        threshold_amount: cents(alert.threshold).unwrap_or_else(|| alert.threshold.cents()),
        currency: CURRENCY,
        interval: INTERVAL,
        notification_channel: alert.channel,
    }
}

/// Logged, since OpenAI's shape has no field for it.
fn warn_without_email(admin: &Admin, id: &str) {
    if !admin.outbox.has_email() {
        tracing::warn!(event = "spend_alert_without_email", spend_alert = id, "{NO_EMAIL}");
    }
}

/// An alert in a path, and its scope.
#[derive(Debug, Deserialize)]
pub(crate) struct One {
    project: Option<String>,
    alert: String,
}

/// Lists spend alerts.
#[utoipa::path(
    get,
    path = "/spend_alerts",
    params(PageQuery),
    responses((status = 200, body = List<SpendAlertView>)),
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    Path(ScopePath { project }): Path<ScopePath>,
    Query(query): Query<PageQuery>,
) -> Result<Json<List<SpendAlertView>>, ApiError> {
    let scope = known(&admin, project.as_deref())?;
    let alerts = admin.rulebook.spend_alerts(scope).await;
    let views = alerts.into_iter().map(|alert| view(alert, scope)).collect();
    Ok(Json(page(views, &query.into(), |alert: &SpendAlertView| alert.id.clone())?))
}

/// Creates a spend alert.
#[utoipa::path(
    post,
    path = "/spend_alerts",
    request_body = Update,
    responses((status = 200, body = SpendAlertView)),
)]
pub(super) async fn create(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path(ScopePath { project }): Path<ScopePath>,
    Body(body): Body<Update>,
) -> Result<Json<SpendAlertView>, ApiError> {
    let scope = active(&admin, project.as_deref())?;
    let (threshold, channel) = body.checked()?;
    let alert = admin.rulebook.create_spend_alert(scope, threshold, channel, &by).await?;
    warn_without_email(&admin, &alert.id);
    Ok(Json(view(alert, scope)))
}

/// Shows a spend alert.
#[utoipa::path(get, path = "/spend_alerts/{alert}", responses((status = 200, body = SpendAlertView)))]
pub(super) async fn show(
    State(admin): State<Admin>,
    Path(One { project, alert: id }): Path<One>,
) -> Result<Json<SpendAlertView>, ApiError> {
    let scope = known(&admin, project.as_deref())?;
    let found = admin.rulebook.spend_alerts(scope).await.into_iter().find(|alert| alert.id == id);
    let alert = found.ok_or_else(|| ApiError::not_found(format!("there is no spend alert {id:?}")))?;
    Ok(Json(view(alert, scope)))
}

/// Changes a spend alert.
#[utoipa::path(
    post,
    path = "/spend_alerts/{alert}",
    request_body = Update,
    responses((status = 200, body = SpendAlertView)),
)]
pub(super) async fn change(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path(One { project, alert: id }): Path<One>,
    Body(body): Body<Update>,
) -> Result<Json<SpendAlertView>, ApiError> {
    let scope = active(&admin, project.as_deref())?;
    let (threshold, channel) = body.checked()?;
    let alert = admin.rulebook.change_spend_alert(scope, &id, threshold, channel, &by).await?;
    warn_without_email(&admin, &alert.id);
    Ok(Json(view(alert, scope)))
}

/// Deletes a spend alert.
#[utoipa::path(delete, path = "/spend_alerts/{alert}", responses((status = 200, body = DeletedView)))]
pub(super) async fn remove(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path(One { project, alert: id }): Path<One>,
) -> Result<Json<DeletedView>, ApiError> {
    let scope = known(&admin, project.as_deref())?;
    admin.rulebook.delete_spend_alert(scope, &id, &by).await?;
    let object =
        if scope.is_some() { "project.spend_alert.deleted" } else { "organization.spend_alert.deleted" };
    Ok(Json(DeletedView::of(object, Some(id))))
}

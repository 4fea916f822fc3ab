//! Spend alerts: monthly thresholds in dollars, of the organization or a project.

use axum::extract::{Path, State};
use axum::{Extension, Json};
use serde::Deserialize;

use super::spend_limit::{CURRENCY, INTERVAL, cents, check, money};
use super::view::{DeletedView, SpendAlertView};
use super::{Asked, Body, active_project, page, project};
use crate::admin::Admin;
use crate::admin::error::ApiError;
use crate::admin::keys::Paging;
use crate::admin::view::List;
use crate::domain::Money;
use crate::guard::spend_alerts::SpendAlert;
use crate::guard::trail::Actor;
use crate::store::organization::Channel;

const RECIPIENTS_MAX: usize = 100;
/// The longest address that mail knows.
const ADDRESS_CHARS_MAX: usize = 254;
const PREFIX_CHARS_MAX: usize = 200;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    threshold_amount: i64,
    currency: String,
    interval: String,
    notification_channel: Channel,
}

impl Wanted {
    fn checked(self) -> Result<(Money, Channel), ApiError> {
        check(&self.currency, &self.interval)?;
        let channel = self.notification_channel;
        if channel.kind != "email" {
            return Err(ApiError::bad(Some("notification_channel.type"), "use email"));
        }
        let is_plain = |text: &str| !text.chars().any(char::is_control);
        let is_address = |text: &String| {
            let (name, host) = text.rsplit_once('@').unwrap_or_default();
            let has_parts = !name.is_empty() && !host.is_empty() && !text.contains(char::is_whitespace);
            has_parts && is_plain(text) && text.chars().count() <= ADDRESS_CHARS_MAX
        };
        let fits = (1..=RECIPIENTS_MAX).contains(&channel.recipients.len());
        if !fits || !channel.recipients.iter().all(is_address) {
            let problem = "give 1 to 100 e-mail addresses";
            return Err(ApiError::bad(Some("notification_channel.recipients"), problem));
        }
        // It becomes part of a line of a mail's head.
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
        // Nothing but this path makes or changes it, and this one takes cents.
        threshold_amount: cents(alert.threshold).unwrap_or_else(|| alert.threshold.cents()),
        currency: CURRENCY,
        interval: INTERVAL,
        notification_channel: alert.channel,
    }
}

async fn all(
    admin: &Admin,
    project: Option<&str>,
    paging: Asked<Paging>,
) -> Result<Json<List<SpendAlertView>>, ApiError> {
    let axum::extract::Query(paging) = paging?;
    let alerts = admin.guard.spend_alerts(project).await;
    let views = alerts.into_iter().map(|alert| view(alert, project)).collect();
    Ok(Json(page(views, &paging, |alert: &SpendAlertView| alert.id.clone())?))
}

async fn one(admin: &Admin, project: Option<&str>, id: &str) -> Result<Json<SpendAlertView>, ApiError> {
    let found = admin.guard.spend_alerts(project).await.into_iter().find(|alert| alert.id == id);
    let alert = found.ok_or_else(|| ApiError::not_found(format!("there is no spend alert {id:?}")))?;
    Ok(Json(view(alert, project)))
}

async fn make(
    admin: &Admin,
    project: Option<&str>,
    body: Body<Wanted>,
    by: &Actor,
) -> Result<Json<SpendAlertView>, ApiError> {
    let (threshold, channel) = body?.0.checked()?;
    let alert = admin.guard.create_spend_alert(project, threshold, channel, by).await?;
    Ok(Json(view(alert, project)))
}

async fn set(
    admin: &Admin,
    project: Option<&str>,
    id: &str,
    body: Body<Wanted>,
    by: &Actor,
) -> Result<Json<SpendAlertView>, ApiError> {
    let (threshold, channel) = body?.0.checked()?;
    let alert = admin.guard.change_spend_alert(project, id, threshold, channel, by).await?;
    Ok(Json(view(alert, project)))
}

async fn unset(
    admin: &Admin,
    project: Option<&str>,
    id: String,
    by: &Actor,
) -> Result<Json<DeletedView>, ApiError> {
    admin.guard.delete_spend_alert(project, &id, by).await?;
    let object =
        if project.is_some() { "project.spend_alert.deleted" } else { "organization.spend_alert.deleted" };
    Ok(Json(DeletedView::of(object, Some(id))))
}

pub(super) async fn list(
    State(admin): State<Admin>,
    paging: Asked<Paging>,
) -> Result<Json<List<SpendAlertView>>, ApiError> {
    all(&admin, None, paging).await
}

pub(super) async fn create(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    body: Body<Wanted>,
) -> Result<Json<SpendAlertView>, ApiError> {
    make(&admin, None, body, &by).await
}

pub(super) async fn show(
    State(admin): State<Admin>,
    Path(id): Path<String>,
) -> Result<Json<SpendAlertView>, ApiError> {
    one(&admin, None, &id).await
}

pub(super) async fn change(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path(id): Path<String>,
    body: Body<Wanted>,
) -> Result<Json<SpendAlertView>, ApiError> {
    set(&admin, None, &id, body, &by).await
}

pub(super) async fn remove(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path(id): Path<String>,
) -> Result<Json<DeletedView>, ApiError> {
    unset(&admin, None, id, &by).await
}

pub(super) async fn list_project(
    State(admin): State<Admin>,
    Path(of): Path<String>,
    paging: Asked<Paging>,
) -> Result<Json<List<SpendAlertView>>, ApiError> {
    project(&admin, &of)?;
    all(&admin, Some(&of), paging).await
}

pub(super) async fn create_project(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path(of): Path<String>,
    body: Body<Wanted>,
) -> Result<Json<SpendAlertView>, ApiError> {
    active_project(&admin, &of)?;
    make(&admin, Some(&of), body, &by).await
}

pub(super) async fn show_project(
    State(admin): State<Admin>,
    Path((of, id)): Path<(String, String)>,
) -> Result<Json<SpendAlertView>, ApiError> {
    project(&admin, &of)?;
    one(&admin, Some(&of), &id).await
}

pub(super) async fn change_project(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path((of, id)): Path<(String, String)>,
    body: Body<Wanted>,
) -> Result<Json<SpendAlertView>, ApiError> {
    active_project(&admin, &of)?;
    set(&admin, Some(&of), &id, body, &by).await
}

pub(super) async fn remove_project(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path((of, id)): Path<(String, String)>,
) -> Result<Json<DeletedView>, ApiError> {
    project(&admin, &of)?;
    unset(&admin, Some(&of), id, &by).await
}

//! Usage: what was spent, by key, project, model and so on.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::admin::Admin;
use crate::admin::error::ApiError;
use crate::admin::extract::Query;
use crate::admin::view::{List, UsageGroupView, UsageView};
use crate::domain::{Span, Window};
use crate::ledger::calendar;
use crate::store::reports::{GroupBy, UsageFilter, UsageSum};

/// The most days that one request may ask for.
const DAYS_MAX: usize = 3_700;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct GroupedUsageQuery {
    /// `key`, `project`, `model`, `user`, `day`, `endpoint` or `tag`. Default: `key`.
    #[param(pattern = "^(key|project|model|user|day|endpoint|tag)$")]
    group_by: Option<String>,
    /// Unix seconds, or a day such as `2026-11-01`. Default: the start of this month.
    since: Option<String>,
    /// The exclusive end: Unix seconds, or a day such as `2026-11-01`. Default: now.
    until: Option<String>,
    key_id: Option<String>,
    project_id: Option<String>,
}

/// Reads Unix seconds, or a day in a time zone.
pub(super) fn instant_s(text: &str, zone: &str, param: &'static str) -> Result<i64, ApiError> {
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    let zone = TimeZone::get(zone).unwrap_or(TimeZone::UTC);
    let start = text.parse::<Date>().ok().and_then(|date| date.to_zoned(zone).ok());
    let wrong = || ApiError::bad(Some(param), "use Unix seconds or a day such as 2026-11-01");
    start.map(|start| start.timestamp().as_second()).ok_or_else(wrong)
}

/// Sums up what was spent, by `group_by`.
#[utoipa::path(get, path = "/usage", params(GroupedUsageQuery), responses((status = 200, body = List<UsageGroupView>)))]
pub(crate) async fn usage(
    State(admin): State<Admin>,
    Query(query): Query<GroupedUsageQuery>,
) -> Result<Json<List<UsageGroupView>>, ApiError> {
    let zone_name = Arc::clone(&admin.in_force.load().zone);
    let zone = TimeZone::get(&zone_name).unwrap_or(TimeZone::UTC);
    let now_s = admin.guard.clock().now_s();
    let month = calendar::span(Window::Month, &zone, now_s);
    let time = |text: &Option<String>, param, default| match text {
        Some(text) => instant_s(text, &zone_name, param),
        None => Ok(default),
    };
    let since_s = time(&query.since, "since", month.start_s)?;
    let until_s = time(&query.until, "until", now_s.saturating_add(1))?;
    let by = group_by(query.group_by.as_deref().unwrap_or("key"), &zone, since_s, until_s)?;
    let filter = UsageFilter { key: query.key_id, project: query.project_id };
    let span = Span { start_s: since_s, end_s: until_s };
    let [sums] = admin.books.reports().usage([(by.clone(), span)], filter).await?;
    let groups = sums.into_iter().map(|(group, sum)| view(&admin, &by, &zone, &group, &sum)).collect();
    Ok(Json(List::whole(groups)))
}

fn group_by(name: &str, zone: &TimeZone, since_s: i64, until_s: i64) -> Result<GroupBy, ApiError> {
    Ok(match name {
        "key" => GroupBy::Key,
        "project" => GroupBy::Project,
        "model" => GroupBy::Model,
        "user" => GroupBy::User,
        "endpoint" => GroupBy::Endpoint,
        "tag" => GroupBy::Tag,
        "day" => GroupBy::Day(days(zone, since_s, until_s)?),
        _ => {
            return Err(ApiError::bad(
                Some("group_by"),
                "use key, project, model, user, day, endpoint or tag",
            ));
        }
    })
}

pub(super) fn days(zone: &TimeZone, since_s: i64, until_s: i64) -> Result<Vec<Span>, ApiError> {
    let mut days = Vec::new();
    let mut at_s = since_s;
    while at_s < until_s {
        if days.len() == DAYS_MAX {
            return Err(ApiError::bad(Some("since"), "ask for ten years at most"));
        }
        let day = calendar::span(Window::Day, zone, at_s);
        days.push(day);
        at_s = day.end_s;
    }
    Ok(days)
}

fn view(admin: &Admin, by: &GroupBy, zone: &TimeZone, group: &[String], sum: &UsageSum) -> UsageGroupView {
    let first = group.first().cloned().unwrap_or_default();
    let ring = admin.guard.ring();
    let group: BTreeMap<&'static str, String> = match by {
        GroupBy::Key => [("key_name", ring.key_name(&first).to_string()), ("key_id", first)].into(),
        GroupBy::Project => {
            [("project_name", ring.project_name(&first).to_string()), ("project_id", first)].into()
        }
        GroupBy::Model => [("model", first)].into(),
        GroupBy::User => [("end_user", first)].into(),
        GroupBy::Endpoint => [("endpoint", first)].into(),
        GroupBy::Tag => [("tag", first), ("value", group.get(1).cloned().unwrap_or_default())].into(),
        GroupBy::Day(_) => {
            let start = first.parse().ok().and_then(|s| Timestamp::from_second(s).ok());
            let day = start.map(|start| start.to_zoned(zone.clone()).date().to_string());
            [("day", day.unwrap_or(first))].into()
        }
    };
    UsageGroupView {
        group,
        requests: sum.requests,
        usage: UsageView::of(&sum.quantities),
        cost_usd: sum.cost.to_string(),
    }
}

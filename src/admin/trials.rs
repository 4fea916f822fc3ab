//! Limits that are tried on the past, before they are in force.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::Method;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use utoipa::openapi::schema::Type;
use utoipa::openapi::{ObjectBuilder, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::admin::Admin;
use crate::admin::error::ApiError;
use crate::admin::extract::Body;
use crate::admin::usage::instant_s;
use crate::books::trial::{TrialError, Tried};
use crate::domain::{Limit, Span};
use crate::ledger::trial::{OutcomeOfLimit, OutcomeOfSubject, Rejected};
use crate::rulebook::rule::LimitRule;

/// The route, at which a read-only admin key may ask as well: nothing is changed.
const PATH: &str = "/guard/v1/limits/try";
/// The past that is tried by default, in seconds.
pub(super) const TRIED_S: i64 = 30 * 86_400;
/// The most limits of one trial.
const LIMITS_MAX: usize = 1_000;
/// The subjects of a limit that are shown, those with the most rejections first.
pub(super) const SUBJECTS_SHOWN: usize = 20;

/// Whether a request tries limits.
pub(super) fn is_trial(request: &Request) -> bool {
    request.method() == Method::POST && request.uri().path() == PATH
}

/// The text form of a limit, with its name.
struct NamedRule(String, LimitRule);

impl ToSchema for NamedRule {}

impl PartialSchema for NamedRule {
    fn schema() -> RefOr<Schema> {
        let mut schema = LimitRule::schema();
        if let RefOr::T(Schema::Object(rule)) = &mut schema {
            let name = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[A-Za-z0-9._-]{1,64}$"));
            rule.properties.insert("name".to_owned(), name.into());
            rule.required.push("name".to_owned());
        }
        schema
    }
}

impl<'de> Deserialize<'de> for NamedRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        // Apart from its name it is read as it stands: of an amount every digit counts.
        let mut fields = BTreeMap::<String, Box<RawValue>>::deserialize(deserializer)?;
        let name = fields.remove("name").ok_or_else(|| D::Error::missing_field("name"))?;
        let name = serde_json::from_str(name.get()).map_err(D::Error::custom)?;
        let rule = serde_json::to_string(&fields).map_err(D::Error::custom)?;
        Ok(Self(name, serde_json::from_str(&rule).map_err(D::Error::custom)?))
    }
}

/// A moment, as a number of Unix seconds or as text.
#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
enum Moment {
    Seconds(i64),
    Text(String),
}

/// Limits to try, and the past to try them on.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LimitsToTry)]
pub(crate) struct LimitsToTry {
    /// Limits as they are set, each with its name.
    #[schema(value_type = Vec<NamedRule>, min_items = 1, max_items = 1000)]
    limits: Vec<NamedRule>,
    /// Unix seconds, or a day such as `2026-11-01`. Default: thirty days ago.
    #[schema(value_type = Option<Moment>)]
    since: Option<Moment>,
    /// The exclusive end, in the same form. Default: now.
    #[schema(value_type = Option<Moment>)]
    until: Option<Moment>,
}

/// What limits would have rejected.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LimitsTrial)]
pub(crate) struct TrialView {
    object: &'static str,
    /// The start of what was tried: a quarter of an hour, and not before the entries that are kept.
    since: i64,
    until: i64,
    /// The requests that were tried.
    requests: u64,
    /// Those that would have been rejected.
    rejected: u64,
    /// What these have cost.
    rejected_usd: String,
    /// Those of them whose model has no price, under a cap in dollars.
    unpriced: u64,
    limits: Vec<TriedLimitView>,
    /// Limits that were not tried: rates are kept by a bucket, not by the ledger.
    untried: Vec<String>,
}

/// What one limit would have rejected; in shadow mode, what it would have reported.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TriedLimit)]
struct TriedLimitView {
    name: String,
    rejected: u64,
    rejected_usd: String,
    first_at: Option<i64>,
    last_at: Option<i64>,
    /// The twenty with the most rejections.
    subjects: Vec<TriedSubjectView>,
    /// How many there are in all.
    subjects_total: usize,
}

/// What a limit would have rejected of one subject.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TriedSubject)]
struct TriedSubjectView {
    subject: String,
    rejected: u64,
    rejected_usd: String,
    first_at: Option<i64>,
    /// The most that its meter would have come to with a rejected request, in the limit's unit.
    peak: String,
}

/// Tries limits on the past: which requests they would have rejected. Changes nothing; a read-only admin key may ask.
#[utoipa::path(
    post,
    path = "/limits/try",
    request_body = LimitsToTry,
    responses((status = 200, body = TrialView)),
)]
pub(crate) async fn try_limits(
    State(admin): State<Admin>,
    Body(LimitsToTry { limits, since, until }): Body<LimitsToTry>,
) -> Result<Json<TrialView>, ApiError> {
    let zone = Arc::clone(&admin.in_force.load().zone);
    let now_s = admin.guard.clock().now_s();
    let moment = |of: Option<Moment>, param, default_s| match of {
        None => Ok(default_s),
        Some(Moment::Seconds(at_s)) => Ok(at_s),
        Some(Moment::Text(text)) => instant_s(&text, &zone, param),
    };
    let since_s = moment(since, "since", now_s.saturating_sub(TRIED_S))?;
    let until_s = moment(until, "until", now_s.saturating_add(1))?;
    if since_s >= until_s {
        return Err(ApiError::bad(Some("since"), "the time that limits are tried from is before its end"));
    }
    let rules: Vec<(String, LimitRule)> =
        limits.into_iter().map(|NamedRule(name, rule)| (name, rule)).collect();
    let mut names = HashSet::new();
    if rules.is_empty() || rules.len() > LIMITS_MAX {
        return Err(ApiError::bad(Some("limits"), format!("give 1 to {LIMITS_MAX} limits")));
    }
    if let Some((name, _)) = rules.iter().find(|(name, _)| !names.insert(name)) {
        return Err(ApiError::bad(
            Some("limits"),
            format!("two limits are named {name:?}; names are unique"),
        ));
    }
    let limits = admin.rulebook.limits_to_try(&rules, &zone)?;
    let (rates, limits): (Vec<_>, Vec<_>) = limits.into_iter().partition(|limit| limit.is_rate());
    let tried = admin.books.try_limits(&limits, Span { start_s: since_s, end_s: until_s }).await?;
    Ok(Json(TrialView::of(tried, &rates)))
}

impl From<TrialError> for ApiError {
    fn from(error: TrialError) -> Self {
        match error {
            TrialError::TooMany => Self::bad(Some("since"), error.to_string()),
            TrialError::Store(error) => error.into(),
        }
    }
}

/// The subjects of a limit with the most rejections, by label.
pub(super) fn most_rejected(of: &OutcomeOfLimit) -> Vec<(&String, &OutcomeOfSubject)> {
    let mut subjects: Vec<_> = of.subjects.iter().collect();
    subjects.sort_unstable_by(|(a, one), (b, other)| {
        other.rejected.count.cmp(&one.rejected.count).then_with(|| a.cmp(b))
    });
    subjects.truncate(SUBJECTS_SHOWN);
    subjects
}

fn first_s(of: &Rejected) -> Option<i64> {
    of.span_ms.map(|(first, _)| first.div_euclid(1_000))
}

impl TrialView {
    fn of(Tried { span, outcome }: Tried, rates: &[Arc<Limit>]) -> Self {
        Self {
            object: "guard.limits_trial",
            since: span.start_s,
            until: span.end_s,
            requests: outcome.requests,
            rejected: outcome.rejected.count,
            rejected_usd: outcome.rejected.cost.to_string(),
            unpriced: outcome.unpriced,
            limits: outcome.limits.iter().map(TriedLimitView::of).collect(),
            untried: rates.iter().map(|limit| limit.name.to_string()).collect(),
        }
    }
}

impl TriedLimitView {
    fn of(of: &OutcomeOfLimit) -> Self {
        let subject = |(label, found): (&String, &OutcomeOfSubject)| TriedSubjectView {
            subject: label.clone(),
            rejected: found.rejected.count,
            rejected_usd: found.rejected.cost.to_string(),
            first_at: first_s(&found.rejected),
            peak: of.limit.unit.decimal(found.peak),
        };
        Self {
            name: of.limit.name.to_string(),
            rejected: of.rejected.count,
            rejected_usd: of.rejected.cost.to_string(),
            first_at: first_s(&of.rejected),
            last_at: of.rejected.span_ms.map(|(_, last)| last.div_euclid(1_000)),
            subjects: most_rejected(of).into_iter().map(subject).collect(),
            subjects_total: of.subjects.len(),
        }
    }
}

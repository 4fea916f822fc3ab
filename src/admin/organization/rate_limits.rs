//! Rate limits: how much a project may use of a model in a minute or a day.
//!
//! Each number is a limit of its own. OpenAI lists them for every model; the guard
//! lists those that an operator has set.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::view::RateLimitView;
use super::{active_project, limit_name, project};
use crate::admin::Admin;
use crate::admin::error::ApiError;
use crate::admin::extract::{Body, Path, Query};
use crate::admin::limits::{Listed, everything};
use crate::admin::paging::{Paging, page};
use crate::admin::view::List;
use crate::domain::limit::Source;
use crate::guard::audit::{Actor, Change};
use crate::rulebook::rule::{LimitRule, OnlyRule};

const MODEL_CHARS_MAX: usize = 200;
const PREFIX: &str = "rl-";

/// A number of a rate limit: its field, the unit and window of its limit, and the
/// suffix of its limit's name.
struct Number {
    field: &'static str,
    unit: &'static str,
    window: &'static str,
    called: &'static str,
}

const NUMBERS: [Number; 3] = [
    Number { field: "max_requests_per_1_minute", unit: "requests", window: "minute", called: "rpm" },
    Number { field: "max_tokens_per_1_minute", unit: "tokens", window: "minute", called: "tpm" },
    Number { field: "max_requests_per_1_day", unit: "requests", window: "day", called: "rpd" },
];

fn rule(number: &Number, project: &str, model: &str, hard: i64) -> LimitRule {
    let only =
        OnlyRule { project: vec![project.to_owned()], model: vec![model.to_owned()], ..OnlyRule::default() };
    LimitRule {
        per: "project".to_owned(),
        only,
        unit: number.unit.to_owned(),
        window: number.window.to_owned(),
        zone: None,
        soft: Vec::new(),
        hard: Some(hard.to_string()),
        mode: "enforce".to_owned(),
    }
}

/// The numbers that are set for a project, by model, in the order of [`NUMBERS`].
fn set_for(admin: &Admin, project: &str) -> BTreeMap<String, [Option<i64>; 3]> {
    let mut found: BTreeMap<String, [Option<i64>; 3]> = BTreeMap::new();
    for Listed { limit, .. } in everything(admin) {
        let ([model], Some(hard)) = (&*limit.only.models, limit.hard) else { continue };
        if limit.source != Source::Api {
            continue;
        }
        let written = LimitRule { zone: None, ..LimitRule::of(&limit) };
        for (at, number) in NUMBERS.iter().enumerate() {
            let is_named = *limit.name == *limit_name(project, Some(model.as_str()), number.called);
            if is_named && written == rule(number, project, model.as_str(), hard) {
                found.entry(model.to_string()).or_default()[at] = Some(hard);
            }
        }
    }
    found
}

fn view(model: &str, [requests, tokens, requests_a_day]: [Option<i64>; 3]) -> RateLimitView {
    RateLimitView {
        object: "project.rate_limit",
        id: format!("{PREFIX}{model}"),
        model: model.to_owned(),
        max_requests_per_1_minute: requests,
        max_tokens_per_1_minute: tokens,
        max_requests_per_1_day: requests_a_day,
    }
}

/// Lists the rate limits that are set for a project, by model.
#[utoipa::path(
    get,
    path = "/rate_limits",
    params(Paging),
    responses((status = 200, body = List<RateLimitView>)),
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    Path(of): Path<String>,
    Query(paging): Query<Paging>,
) -> Result<Json<List<RateLimitView>>, ApiError> {
    project(&admin, &of)?;
    let views = set_for(&admin, &of).iter().map(|(model, numbers)| view(model, *numbers)).collect();
    Ok(Json(page(views, &paging, |rate: &RateLimitView| rate.id.clone())?))
}

#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = SetRateLimit)]
#[serde(deny_unknown_fields)]
pub(crate) struct Update {
    #[schema(minimum = 0)]
    max_requests_per_1_minute: Option<i64>,
    #[schema(minimum = 0)]
    max_tokens_per_1_minute: Option<i64>,
    #[schema(minimum = 0)]
    max_requests_per_1_day: Option<i64>,
    #[schema(ignore)]
    max_images_per_1_minute: Option<i64>,
    #[schema(ignore)]
    max_audio_megabytes_per_1_minute: Option<i64>,
    #[schema(ignore)]
    batch_1_day_max_input_tokens: Option<i64>,
}

impl Update {
    fn numbers(&self) -> Result<[Option<i64>; 3], ApiError> {
        for (field, value) in [
            ("max_images_per_1_minute", self.max_images_per_1_minute),
            ("max_audio_megabytes_per_1_minute", self.max_audio_megabytes_per_1_minute),
            ("batch_1_day_max_input_tokens", self.batch_1_day_max_input_tokens),
        ] {
            if value.is_some() {
                let why = format!("the guard limits requests and tokens; it can't enforce {field}");
                return Err(ApiError::unsupported(Some(field), why));
            }
        }
        let numbers =
            [self.max_requests_per_1_minute, self.max_tokens_per_1_minute, self.max_requests_per_1_day];
        if let Some((_, number)) =
            numbers.iter().zip(&NUMBERS).find(|(value, _)| value.is_some_and(|n| n < 0))
        {
            return Err(ApiError::bad(Some(number.field), "must not be negative"));
        }
        if numbers.iter().all(Option::is_none) {
            return Err(ApiError::bad(
                None,
                "give max_requests_per_1_minute, max_tokens_per_1_minute or both",
            ));
        }
        Ok(numbers)
    }
}

/// The model of a rate limit's id.
fn model_of(id: &str) -> Result<&str, ApiError> {
    let is_name = |model: &&str| {
        let is_plain = |c: char| !c.is_control() && !c.is_whitespace() && c != '*';
        (1..=MODEL_CHARS_MAX).contains(&model.chars().count()) && model.chars().all(is_plain)
    };
    let wrong =
        || ApiError::not_found(format!("there is no rate limit {id:?}; use {PREFIX} and a model's name"));
    id.strip_prefix(PREFIX).filter(is_name).ok_or_else(wrong)
}

fn said(numbers: &[Option<i64>; 3]) -> Option<Value> {
    let given = NUMBERS.iter().zip(numbers).filter_map(|(number, value)| Some((number.field, (*value)?)));
    let given: BTreeMap<&str, i64> = given.collect();
    (!given.is_empty()).then(|| json!(given))
}

/// Sets how much a project may use of a model. Omitted numbers stay as they are.
#[utoipa::path(
    post,
    path = "/rate_limits/{rate}",
    request_body = Update,
    responses((status = 200, body = RateLimitView)),
)]
pub(super) async fn change(
    State(admin): State<Admin>,
    Extension(by): Extension<Actor>,
    Path((of, id)): Path<(String, String)>,
    Body(body): Body<Update>,
) -> Result<Json<RateLimitView>, ApiError> {
    active_project(&admin, &of)?;
    let model = model_of(&id)?;
    let numbers = body.numbers()?;
    let before = set_for(&admin, &of).remove(model).unwrap_or_default();
    let mut after = before;
    let mut rules = Vec::new();
    for (at, number) in NUMBERS.iter().enumerate() {
        let Some(hard) = numbers[at] else { continue };
        after[at] = Some(hard);
        rules.push((limit_name(&of, Some(model), number.called), rule(number, &of, model, hard)));
    }
    let (before, after_said) = (said(&before), said(&after));
    let change = Change {
        event: "rate_limit.updated",
        resource: id.clone(),
        project: Some(of.clone()),
        before,
        after: after_said,
    };
    admin.rulebook.put_limits(&rules, change, &by).await?;
    Ok(Json(view(model, after)))
}

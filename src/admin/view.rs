//! The shapes of the admin API: the only types that are serialised for it.
//!
//! Money is exact decimal text in dollars, times are Unix seconds.

pub(crate) mod alerts;
pub(crate) mod credits;
pub(crate) mod explain;
pub(crate) mod forecast;
pub(crate) mod nodes;
pub(crate) mod sockets;
pub(crate) mod stops;
pub(crate) mod storage;
pub(crate) mod verification;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use serde::Serialize;
use utoipa::ToSchema;

use crate::books::meters::Meters;
use crate::domain::{Class, Limit, Quantities, Secret, Span, Window};
use crate::keys::{Key, Project};
use crate::ledger::entry::{Basis, Entry, entry_id};
use crate::ledger::meter::Reading;
use crate::rulebook::rule::{LimitRule, OnlyRule};

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct List<T> {
    object: &'static str,
    data: Vec<T>,
    /// The id of the first item in `data`; null if `data` is empty or its items have no ids.
    first_id: Option<String>,
    /// The id of the last item in `data`.
    last_id: Option<String>,
    /// Whether there are more items after this page.
    has_more: bool,
}

impl<T> List<T> {
    pub(crate) fn new(data: Vec<T>, has_more: bool, id: impl Fn(&T) -> String) -> Self {
        let (first_id, last_id) = (data.first().map(&id), data.last().map(&id));
        Self { object: "list", data, first_id, last_id, has_more }
    }

    /// The same list of other items.
    pub(crate) fn map<U>(self, of: impl FnMut(T) -> U) -> List<U> {
        let Self { object, data, first_id, last_id, has_more } = self;
        List { object, data: data.into_iter().map(of).collect(), first_id, last_id, has_more }
    }

    /// A list with all items, which have no ids.
    pub(crate) fn whole(data: Vec<T>) -> Self {
        Self { object: "list", data, first_id: None, last_id: None, has_more: false }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Key)]
pub(crate) struct KeyView {
    object: &'static str,
    pub(crate) id: String,
    name: String,
    project_id: String,
    /// Its first and last characters only.
    redacted_value: String,
    /// The secret: only in the answer to creating or rotating the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    /// Patterns of the models that it may use. If empty, all models.
    models: Vec<String>,
    created_at: i64,
    expires_at: Option<i64>,
    last_used_at: Option<i64>,
    /// `active`, `expired` or `revoked`.
    status: &'static str,
    /// Whether it is a client's own OpenAI key, which the guard forwards.
    pass_through: bool,
}

impl KeyView {
    pub(crate) fn of(key: &Key, now_s: i64) -> Self {
        let expired = key.expires_s.is_some_and(|end_s| end_s <= now_s);
        let used_ms = key.last_used_ms.load(Ordering::Relaxed);
        Self {
            object: "guard.key",
            id: key.id.to_string(),
            name: key.name.to_string(),
            project_id: key.project.to_string(),
            redacted_value: key.redacted.to_string(),
            value: None,
            models: key.models.iter().map(ToString::to_string).collect(),
            created_at: key.created_s,
            expires_at: key.expires_s,
            last_used_at: (used_ms > 0).then(|| used_ms.div_euclid(1_000)),
            status: if key.revoked_s.is_some() {
                "revoked"
            } else if expired {
                "expired"
            } else {
                "active"
            },
            pass_through: key.pass_through,
        }
    }

    /// The same with the secret, which is shown only once.
    pub(crate) fn with_value(self, secret: &Secret) -> Self {
        Self { value: Some(secret.expose().to_owned()), ..self }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Project)]
pub(crate) struct ProjectView {
    object: &'static str,
    pub(crate) id: String,
    name: String,
    created_at: i64,
    archived_at: Option<i64>,
    /// `active` or `archived`.
    status: &'static str,
    /// `file` if it is defined in the configuration file and can only be changed there, else `api`.
    source: &'static str,
}

impl ProjectView {
    pub(crate) fn of(project: &Project) -> Self {
        Self {
            object: "guard.project",
            id: project.id.to_string(),
            name: project.name.to_string(),
            created_at: project.created_s,
            archived_at: project.archived_s,
            status: if project.archived_s.is_some() { "archived" } else { "active" },
            source: if project.from_file { "file" } else { "api" },
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Limit)]
pub(crate) struct LimitView {
    object: &'static str,
    pub(crate) name: String,
    /// `organization`, `project`, `key`, `user` or `model`.
    per: String,
    /// The requests that it applies to.
    only: OnlyRule,
    /// What is counted: `usd`, `tokens`, `input_tokens`, `output_tokens` or `requests`.
    unit: String,
    /// `minute` to `total`, or `request`.
    window: String,
    /// IANA time zone of its window.
    zone: Option<String>,
    /// Amounts, or shares of `hard` such as `50%`, that alert.
    soft: Vec<String>,
    /// The cap; null if it only alerts.
    hard: Option<String>,
    /// `enforce`, or `shadow`: counted, never refused.
    mode: String,
    /// `file` if it is defined in the configuration file and can only be changed there, else `api`.
    source: &'static str,
    /// The meters of the current window: in a list of limits the fullest, else a page of
    /// them, by subject.
    meters: Vec<MeterView>,
    /// The number of meters, shown or not.
    meters_total: usize,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Meter)]
pub(crate) struct MeterView {
    /// The subject: `org`, the id of a project or key, a user or a model.
    pub(crate) subject: String,
    /// The cost of requests that have ended.
    settled: String,
    /// The most that running requests may cost.
    held: String,
    /// The rest of the cap; null if the limit has no cap.
    remaining: Option<String>,
    /// Null if the window has no start.
    window_start: Option<i64>,
    /// Null if the window has no end.
    resets_at: Option<i64>,
}

impl LimitView {
    pub(crate) fn of(limit: &Limit, shown: &Meters) -> Self {
        let LimitRule { per, only, unit, window, zone, soft, hard, mode } = LimitRule::of(limit);
        let meters = shown.readings.iter().map(|reading| MeterView::of(limit, reading)).collect();
        let meters_total = shown.total;
        let (object, name, source) = ("guard.limit", limit.name.to_string(), limit.source.name());
        Self { object, name, per, only, unit, window, zone, soft, hard, mode, source, meters, meters_total }
    }
}

impl MeterView {
    pub(crate) fn of(limit: &Limit, reading: &Reading) -> Self {
        let decimal = |amount: i64| limit.unit.decimal(amount);
        let meter = reading.meter;
        let left = |hard: i64| hard.saturating_sub(meter.settled).saturating_sub(meter.held).max(0);
        let Span { start_s, end_s } = reading.span;
        let bounded = limit.window != Window::Total;
        Self {
            subject: reading.subject.label().to_owned(),
            settled: decimal(meter.settled),
            held: decimal(meter.held),
            remaining: limit.hard.map(|hard| decimal(left(hard))),
            window_start: bounded.then_some(start_s),
            resets_at: bounded.then_some(end_s),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Usage)]
pub(crate) struct UsageView {
    input_tokens: u64,
    cached_input_tokens: u64,
    cache_write_tokens: u64,
    output_tokens: u64,
    reasoning_tokens: u64,
    total_tokens: u64,
    /// The other classes that are not zero, such as `image_output_tokens` or `images`.
    #[serde(flatten)]
    other: BTreeMap<String, u64>,
}

impl UsageView {
    pub(crate) fn of(used: &Quantities) -> Self {
        let shown = [Class::Input, Class::CachedInput, Class::CacheWrite, Class::Output, Class::Reasoning];
        let unit = |class: Class| if class.is_token() { "_tokens" } else { "" };
        let name = |(class, count): (Class, u64)| (format!("{}{}", class.name(), unit(class)), count);
        Self {
            input_tokens: used.input_tokens_total(),
            cached_input_tokens: used.cached_tokens_total(),
            cache_write_tokens: used[Class::CacheWrite].saturating_add(used[Class::CacheWrite12h]),
            output_tokens: used.output_tokens_total(),
            reasoning_tokens: used[Class::Reasoning],
            total_tokens: used.tokens_total(),
            other: used.non_zero().filter(|(class, _)| !shown.contains(class)).map(name).collect(),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Entry)]
pub(crate) struct EntryView {
    object: &'static str,
    pub(crate) id: String,
    /// When the request ended.
    created_at: i64,
    /// When the request was admitted: it counts in the window of that time.
    admitted_at: i64,
    /// `settle`, `release` or `adjust`.
    kind: &'static str,
    key_id: String,
    project_id: String,
    /// From the `safety_identifier` or `user` field of the request.
    end_user: Option<String>,
    tags: BTreeMap<String, String>,
    endpoint: String,
    /// The model that was requested; `*` if only OpenAI knew it, from a stored prompt.
    model: String,
    /// The model of the image generation tool, if the tool may have been called; `*gpt-image*` if only OpenAI
    /// knew it.
    image_model: Option<String>,
    /// The model that answered.
    served_model: Option<String>,
    service_tier: &'static str,
    /// The answer's HTTP status; 0 if there was none.
    status: u16,
    /// How the cost is known: `reported` by OpenAI, `counted` by the guard, or `assumed` to be
    /// the hold.
    basis: Option<&'static str>,
    cost_usd: String,
    /// The part of the cost that is for hosted tools.
    tool_fees_usd: String,
    /// The amount that was held for it.
    held_usd: String,
    /// Of an `adjust` entry with the basis `assumed` it is what is taken back: another guard had
    /// charged the hold, and a `settle` entry that corrects the same one has what the request used.
    usage: UsageView,
    /// The version of the price sheet.
    price_version: String,
    /// OpenAI's id of the object that was created.
    object_id: Option<String>,
    upstream_request_id: Option<String>,
    duration_ms: u64,
    /// Time to the first token.
    ttft_ms: Option<u64>,
    stream: bool,
    /// Whether the client disconnected before the end.
    disconnected: bool,
    /// The id of the entry that it corrects.
    corrects: Option<String>,
    /// Why it was corrected.
    note: Option<String>,
}

impl EntryView {
    pub(crate) fn of(entry: &Entry) -> Self {
        let of = &entry.attribution;
        Self {
            object: "guard.entry",
            id: entry_id(entry.id),
            created_at: entry.created_ms.div_euclid(1_000),
            admitted_at: entry.admitted_ms.div_euclid(1_000),
            kind: entry.kind.name(),
            key_id: of.key.to_string(),
            project_id: of.project.to_string(),
            end_user: of.end_user.as_deref().map(str::to_owned),
            tags: of.tags.as_ref().clone(),
            endpoint: of.endpoint.to_string(),
            model: of.model.to_string(),
            image_model: of.image_model.as_deref().map(str::to_owned),
            served_model: entry.served_model.as_deref().map(str::to_owned),
            service_tier: entry.tier.name(),
            status: entry.status,
            basis: entry.basis.map(Basis::name),
            cost_usd: entry.cost.to_string(),
            tool_fees_usd: entry.tool_fees.to_string(),
            held_usd: entry.held.cost.to_string(),
            usage: UsageView::of(&entry.quantities),
            price_version: entry.price_version.to_string(),
            object_id: entry.object_id.clone(),
            upstream_request_id: entry.upstream_request_id.clone(),
            duration_ms: entry.duration_ms,
            ttft_ms: entry.ttft_ms,
            stream: entry.stream,
            disconnected: entry.disconnected,
            corrects: entry.corrects.map(entry_id),
            note: entry.note.clone(),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UsageGroup)]
pub(crate) struct UsageGroupView {
    /// The group: `key_id` and `key_name`, `day`, and so on.
    pub(crate) group: BTreeMap<&'static str, String>,
    pub(crate) requests: u64,
    pub(crate) usage: UsageView,
    pub(crate) cost_usd: String,
}

//! The shapes of the admin API: the only types that are serialised for it.
//!
//! Money is exact decimal text in dollars, times are Unix seconds.

pub(crate) mod alerts;
pub(crate) mod forecast;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{Limit, Secret, Span, Tokens, Window};
use crate::keys::{Key, Project};
use crate::ledger::entry::{Basis, Entry, entry_id};
use crate::ledger::meter::Reading;
use crate::store::rule::{LimitRule, OnlyRule};
use crate::store::verify::{Difference, Report};

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct List<T> {
    object: &'static str,
    data: Vec<T>,
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
}

impl<T> List<T> {
    pub(crate) fn new(data: Vec<T>, has_more: bool, id: impl Fn(&T) -> String) -> Self {
        let (first_id, last_id) = (data.first().map(&id), data.last().map(&id));
        Self { object: "list", data, first_id, last_id, has_more }
    }

    /// All there is, of things without ids.
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
    redacted_value: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    models: Vec<String>,
    created_at: i64,
    expires_at: Option<i64>,
    last_used_at: Option<i64>,
    status: &'static str,
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

    /// The same with the secret, which is shown this once.
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
    status: &'static str,
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
    per: String,
    only: OnlyRule,
    unit: String,
    window: String,
    zone: Option<String>,
    soft: Vec<String>,
    hard: Option<String>,
    mode: String,
    source: &'static str,
    meters: Vec<MeterView>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Meter)]
pub(crate) struct MeterView {
    pub(crate) subject: String,
    settled: String,
    held: String,
    remaining: Option<String>,
    window_start: Option<i64>,
    resets_at: Option<i64>,
}

impl LimitView {
    pub(crate) fn of(limit: &Limit, readings: &[Reading]) -> Self {
        let LimitRule { per, only, unit, window, zone, soft, hard, mode } = LimitRule::of(limit);
        let meters = readings.iter().map(|reading| MeterView::of(limit, reading)).collect();
        let (object, name, source) = ("guard.limit", limit.name.to_string(), limit.source.name());
        Self { object, name, per, only, unit, window, zone, soft, hard, mode, source, meters }
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
    /// The other classes, those that are not zero.
    #[serde(flatten)]
    other: BTreeMap<String, u64>,
}

impl UsageView {
    pub(crate) fn of(tokens: &Tokens) -> Self {
        let shown = ["input", "cached_input", "cache_write", "output", "reasoning"];
        let rare = |(class, count): &(&'static str, u64)| *count > 0 && !shown.contains(class);
        let name = |(class, count): (&str, u64)| (format!("{class}_tokens"), count);
        Self {
            input_tokens: tokens.input_total(),
            cached_input_tokens: tokens.cached_total(),
            cache_write_tokens: tokens.cache_write.saturating_add(tokens.cache_write_12h),
            output_tokens: tokens.output_total(),
            reasoning_tokens: tokens.reasoning,
            total_tokens: tokens.total(),
            other: tokens.classes().into_iter().filter(rare).map(name).collect(),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Entry)]
pub(crate) struct EntryView {
    object: &'static str,
    pub(crate) id: String,
    created_at: i64,
    admitted_at: i64,
    kind: &'static str,
    key_id: String,
    project_id: String,
    end_user: Option<String>,
    tags: BTreeMap<String, String>,
    endpoint: String,
    model: String,
    served_model: Option<String>,
    service_tier: &'static str,
    status: u16,
    basis: Option<&'static str>,
    cost_usd: String,
    tool_fees_usd: String,
    held_usd: String,
    usage: UsageView,
    price_version: String,
    object_id: Option<String>,
    upstream_request_id: Option<String>,
    duration_ms: u64,
    ttft_ms: Option<u64>,
    stream: bool,
    disconnected: bool,
    corrects: Option<String>,
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
            served_model: entry.served_model.as_deref().map(str::to_owned),
            service_tier: entry.tier.name(),
            status: entry.status,
            basis: entry.basis.map(Basis::name),
            cost_usd: entry.cost.to_string(),
            tool_fees_usd: entry.tool_fees.to_string(),
            held_usd: entry.held.cost.to_string(),
            usage: UsageView::of(&entry.tokens),
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
#[schema(as = Hold)]
pub(crate) struct HoldView {
    pub(crate) id: String,
    pub(crate) key_id: String,
    pub(crate) subject: String,
    pub(crate) amount: String,
    pub(crate) admitted_at: i64,
    pub(crate) age_ms: i64,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Explanation)]
pub(crate) struct ExplainView {
    #[serde(flatten)]
    pub(crate) limit: LimitView,
    /// The newest entries of the window, with what each adds.
    pub(crate) entries: Vec<ContributionView>,
    pub(crate) entries_total: usize,
    /// By subject, the sum of all entries of the window.
    pub(crate) settled_from_entries: BTreeMap<String, String>,
    pub(crate) holds: Vec<HoldView>,
    /// Whether the meters say the same as the entries.
    pub(crate) agrees: bool,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Contribution)]
pub(crate) struct ContributionView {
    pub(crate) subject: String,
    pub(crate) amount: String,
    #[serde(flatten)]
    pub(crate) entry: EntryView,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UsageGroup)]
pub(crate) struct UsageGroupView {
    pub(crate) group: BTreeMap<&'static str, String>,
    pub(crate) requests: u64,
    pub(crate) usage: UsageView,
    pub(crate) cost_usd: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Verification)]
pub(crate) struct VerificationView {
    object: &'static str,
    ok: bool,
    entries: u64,
    rollups: u64,
    holds: u64,
    meters: usize,
    differences: Vec<DifferenceView>,
    /// How many more there are than are listed.
    differences_unlisted: u64,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Difference)]
struct DifferenceView {
    kind: &'static str,
    about: String,
    what: String,
    meaning: String,
    mend: String,
}

impl VerificationView {
    pub(crate) fn of(report: Report) -> Self {
        let view = |Difference { kind, about, what, meaning, mend }| DifferenceView {
            kind,
            about,
            what,
            meaning,
            mend,
        };
        Self {
            object: "guard.verification",
            ok: report.differences.is_empty(),
            entries: report.entries,
            rollups: report.rollups,
            holds: report.holds,
            meters: report.limits,
            differences: report.differences.into_iter().map(view).collect(),
            differences_unlisted: report.unnamed,
        }
    }
}

//! The shapes of stops and fuses.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::stop::Cause;
use crate::domain::{Fuse, Money, Stop};
use crate::stops::Reading;

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Stop)]
pub(crate) struct StopView {
    object: &'static str,
    pub(crate) id: String,
    /// `organization`, or the id of the project or key that is stopped.
    subject: String,
    /// `kill_switch` or `fuse`.
    #[schema(pattern = "^(kill_switch|fuse)$")]
    kind: &'static str,
    /// The name of the fuse that has blown.
    fuse: Option<String>,
    /// What the operator had to say.
    note: Option<String>,
    /// The name of the operator, or of the fuse.
    by: String,
    since: i64,
    /// When it ends by itself.
    until: Option<i64>,
    /// What was spent within the time of the fuse when it blew.
    spent_usd: Option<String>,
    /// What may be spent in that time.
    limit_usd: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Fuse)]
pub(crate) struct FuseView {
    object: &'static str,
    pub(crate) name: String,
    /// `organization`, `project` or `key`.
    #[schema(pattern = "^(organization|project|key)$")]
    per: &'static str,
    only: FuseOnlyView,
    /// Blows if more is spent.
    usd: Option<String>,
    /// Blows if so many times the usual amount is spent.
    times_usual: Option<u32>,
    /// Below this, no multiple of the usual amount blows it.
    usd_min: String,
    within_seconds: i64,
    /// How long it stays blown; null: until it is reset.
    cool_down_seconds: Option<i64>,
    /// Those for whom it has blown.
    stops: Vec<StopView>,
    /// Those who have spent the most within its time.
    subjects: Vec<FuseSubjectView>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FuseOnly)]
struct FuseOnlyView {
    /// Project ids or names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    project: Vec<String>,
    /// Key ids or names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    key: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FuseSubject)]
struct FuseSubjectView {
    subject: String,
    /// Since the fuse was last reset at most.
    spent_usd: String,
    /// What may be spent; null while there is no day from which the usual amount is known.
    limit_usd: Option<String>,
}

impl StopView {
    pub(crate) fn of(stop: &Stop) -> Self {
        let (note, amounts) = match &stop.cause {
            Cause::KillSwitch { note } => (note.clone(), None),
            Cause::Fuse { spent, limit, .. } => (None, Some((spent.to_string(), limit.to_string()))),
        };
        let (spent_usd, limit_usd) = amounts.unzip();
        Self {
            object: "guard.stop",
            id: format!("stop_{}", stop.id),
            subject: stop.spender.label().to_owned(),
            kind: stop.kind(),
            fuse: stop.fuse().map(ToString::to_string),
            note,
            by: stop.by.clone(),
            since: stop.since_ms.div_euclid(1_000),
            until: stop.until_ms.map(|until_ms| until_ms.div_euclid(1_000)),
            spent_usd,
            limit_usd,
        }
    }
}

impl FuseView {
    pub(crate) fn of(fuse: &Fuse, stops: Vec<StopView>, readings: &[Reading]) -> Self {
        let amount = |amount: Money| amount.to_string();
        let subject = |reading: &Reading| FuseSubjectView {
            subject: reading.spender.label().to_owned(),
            spent_usd: amount(reading.spent),
            limit_usd: reading.limit.map(amount),
        };
        Self {
            object: "guard.fuse",
            name: fuse.name.to_string(),
            per: fuse.per.name(),
            only: FuseOnlyView { project: fuse.projects.clone(), key: fuse.keys.clone() },
            usd: fuse.usd.map(amount),
            times_usual: fuse.times_usual,
            usd_min: amount(fuse.usd_min),
            within_seconds: fuse.within_ms.div_euclid(1_000),
            cool_down_seconds: fuse.cool_down_ms.map(|ms| ms.div_euclid(1_000)),
            stops,
            subjects: readings.iter().map(subject).collect(),
        }
    }
}

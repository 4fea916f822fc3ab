//! The shapes of the explanation of a limit.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::view::{EntryView, LimitView};

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Hold)]
pub(crate) struct HoldView {
    pub(crate) id: String,
    pub(crate) key_id: String,
    /// The subject of the meter.
    pub(crate) subject: String,
    /// In the limit's unit.
    pub(crate) amount: String,
    pub(crate) admitted_at: i64,
    pub(crate) age_ms: i64,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Explanation)]
pub(crate) struct ExplainView {
    #[serde(flatten)]
    pub(crate) limit: LimitView,
    /// The newest entries of the window, with the amount that each adds.
    pub(crate) entries: Vec<ContributionView>,
    /// The number of entries, listed or not, without those that were pruned.
    pub(crate) entries_total: usize,
    /// For each shown meter, by subject: the sum of all entries of the window, including those that were
    /// pruned.
    pub(crate) settled_from_entries: BTreeMap<String, String>,
    /// The part of it whose entries were pruned; null if none were.
    pub(crate) pruned: Option<PrunedPartView>,
    /// The holds of running requests on the shown meters, the oldest first.
    pub(crate) holds: Vec<HoldView>,
    /// The number of running requests with a hold on it, listed or not.
    pub(crate) holds_total: usize,
    /// Whether all meters agree with the entries.
    pub(crate) agrees: bool,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PrunedPart)]
pub(crate) struct PrunedPartView {
    /// Entries admitted before this time were pruned.
    pub(crate) before: i64,
    /// By subject, the sum of the pruned entries of the window, in the limit's unit: a part of
    /// `settled_from_entries`.
    pub(crate) settled: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Contribution)]
pub(crate) struct ContributionView {
    pub(crate) subject: String,
    /// In the limit's unit.
    pub(crate) amount: String,
    #[serde(flatten)]
    pub(crate) entry: EntryView,
}

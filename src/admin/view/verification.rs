//! The shape of a verification.

use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::view::storage::PrunedView;
use crate::store::reports::{Difference, Report};

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Verification)]
pub(crate) struct VerificationView {
    object: &'static str,
    /// Whether nothing differs.
    ok: bool,
    /// The number of entries read.
    entries: u64,
    rollups: u64,
    /// The pruned entries, whose sums were compared in total only; null if nothing was pruned.
    pruned: Option<PrunedView>,
    holds: u64,
    meters: usize,
    differences: Vec<DifferenceView>,
    /// The number of differences that are not listed.
    differences_unlisted: u64,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Difference)]
struct DifferenceView {
    kind: &'static str,
    /// The object that it is about.
    about: String,
    /// The stored value and the expected one.
    what: String,
    meaning: String,
    /// What to do about it.
    #[serde(rename = "mend")]
    remedy: String,
}

impl VerificationView {
    pub(crate) fn of(report: Report) -> Self {
        let view = |Difference { kind, about, what, meaning, remedy }| DifferenceView {
            kind,
            about,
            what,
            meaning,
            remedy,
        };
        Self {
            object: "guard.verification",
            ok: report.differences.is_empty(),
            entries: report.entries,
            rollups: report.rollups,
            pruned: report.pruned.as_ref().map(PrunedView::of),
            holds: report.holds,
            meters: report.limits,
            differences: report.differences.into_iter().map(view).collect(),
            differences_unlisted: report.unnamed,
        }
    }
}

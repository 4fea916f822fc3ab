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
    /// How many were read.
    entries: u64,
    rollups: u64,
    /// What was pruned, whose sums could only be compared all together; null while nothing was.
    pruned: Option<PrunedView>,
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
    /// What it is about.
    about: String,
    /// What is said, and what should be.
    what: String,
    meaning: String,
    /// What to do.
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
            pruned: report.pruned.as_ref().map(PrunedView::of),
            holds: report.holds,
            meters: report.limits,
            differences: report.differences.into_iter().map(view).collect(),
            differences_unlisted: report.unnamed,
        }
    }
}

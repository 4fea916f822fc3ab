//! Limits that are tried on the past before they are in force.
//!
//! The past is read in pages, and each is decided on a thread for work that takes time, so that no
//! request waits for a trial, whatever its length.

use std::sync::Arc;

use crate::books::Books;
use crate::domain::{Limit, Span};
use crate::ledger::trial::{Outcome, Trial};
use crate::store::StoreError;
use crate::store::reports::{AdmittedAfter, quarter_start_s};

/// Entries that are read at once.
const PAGE: usize = 5_000;
/// The most entries of one trial: a minute or two.
pub const ENTRIES_MAX: usize = 5_000_000;

/// Why limits were not tried.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// There are too many entries in the span.
    #[error("there are more than {ENTRIES_MAX} entries since then; choose a later time")]
    TooMany,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A trial, and the span that was tried: from the start of a quarter of an hour, and not from before
/// the entries that are kept.
#[derive(Debug)]
pub struct Tried {
    /// The span, in Unix seconds.
    pub span: Span,
    /// What was found.
    pub outcome: Outcome,
}

impl Books {
    /// What limits would have rejected of the requests of a span; one trial at a time.
    pub async fn try_limits(&self, limits: &[Arc<Limit>], span: Span) -> Result<Tried, TrialError> {
        let _alone = self.trials.lock().await;
        let kept_since_s = self.reports.pruned().await?.map_or(i64::MIN, |pruned| pruned.before_s);
        let since_s = quarter_start_s(span.start_s).max(kept_since_s);
        let span = Span { start_s: since_s, end_s: span.end_s.max(since_s) };
        let pasts = self.reports.settled_before(limits.to_vec(), since_s).await?;
        let mut trial = Trial::new(limits, pasts, since_s.saturating_mul(1_000));
        let mut after = AdmittedAfter { ms: since_s.saturating_mul(1_000), id: 0 };
        let mut read = 0;
        loop {
            let page = self.reports.admitted(after, span.end_s, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = AdmittedAfter { ms: last.admitted_ms, id: last.id };
            let is_last = page.len() < PAGE;
            read += page.len();
            if read > ENTRIES_MAX {
                return Err(TrialError::TooMany);
            }
            let work = move || {
                trial.take(page);
                trial
            };
            trial = self.core.blocking(work).await?;
            if is_last {
                break;
            }
        }
        // A limit may have as many meters as there are end users.
        let outcome = self.core.blocking(move || trial.finish()).await?;
        Ok(Tried { span, outcome })
    }
}

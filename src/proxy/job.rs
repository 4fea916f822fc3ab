//! Jobs, as all kinds of them are found and ended; what goes wrong is logged.

use std::fmt::Display;
use std::sync::Arc;

use crate::guard::{Guard, Reservation, Settled};
use crate::ledger::entry::OpenJob;
use crate::store::StoreError;

/// The job of an object, if one runs.
pub(super) async fn find(
    guard: &Guard,
    kind: &str,
    object: &str,
) -> Result<Option<Arc<OpenJob>>, StoreError> {
    guard.find_job(kind, object).await.inspect_err(|error| {
        tracing::warn!(
            event = "job_not_found", kind, %error,
            "the database can't say whether an object is a job; if it is one, it is settled later"
        );
    })
}

/// Resumes the hold of a job that has ended, to be ended without waiting for anything: no client that
/// leaves may come between. `None` if no such job runs, or it can't be resumed now.
pub(super) async fn resume(
    guard: &Arc<Guard>,
    kind: &str,
    object: &str,
) -> Option<(Reservation, Arc<OpenJob>)> {
    guard.resume_job(kind, object).await.unwrap_or_else(|error| {
        tracing::warn!(
            event = "job_not_settled", kind, %error,
            "a job that has ended can't be settled now; it stays held, and is settled later"
        );
        None
    })
}

/// Logs how a job was ended.
pub(super) fn log_ended(kind: &str, object: &str, settled: &Settled) {
    let basis = settled.basis.map_or("released", |basis| basis.name());
    tracing::info!(event = "job_ended", kind, object, basis, usd = %settled.cost, "a job has ended");
}

/// Logs that the terms of a job that has ended say nothing of its cost.
pub(super) fn log_unusable(open: &OpenJob, error: &dyn Display) {
    tracing::error!(
        event = "job_terms_unusable", entry = open.hold.id, %error,
        "a job has ended and can't be priced, so its hold is charged"
    );
}

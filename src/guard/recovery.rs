//! Recovery: of the holds that the last run left open, those of requests are charged before
//! anything is admitted; those of jobs stay open.

use crate::domain::Money;
use crate::ledger::entry::{Entry, Life, OpenJob};
use crate::store::records::Names;
use crate::store::{Store, StoreError};

/// Settles the holds of requests that were open at a crash in full. Returns the holds of
/// jobs, and the next id.
pub fn charge_unfinished(
    store: &Store,
    names: &dyn Names,
    now_ms: i64,
) -> Result<(Vec<OpenJob>, u64), StoreError> {
    let (holds, next_id) = store.unfinished(names)?;
    let (mut entries, mut jobs) = (Vec::new(), Vec::new());
    for (hold, life) in holds {
        match life {
            Life::Request => {
                entries.push(Entry::assumed(&hold, now_ms, "the guard ended before the request did"));
            }
            Life::Job(job) => jobs.push(OpenJob { hold, job }),
        }
    }
    let total: Money = entries.iter().map(|entry| entry.cost).sum();
    store.end_unfinished(&entries)?;
    if !entries.is_empty() {
        tracing::warn!(
            event = "open_holds_charged",
            holds = entries.len(),
            usd = %total,
            "requests were open when the last run ended; their holds are charged in full"
        );
    }
    Ok((jobs, next_id))
}

//! Recovery: the holds that the last run left open are charged before anything is admitted.

use std::sync::Arc;

use crate::domain::{Class, Money};
use crate::ledger::entry::{Basis, Entry, Hold, Kind};
use crate::store::records::Names;
use crate::store::{Store, StoreError};

/// Settles the holds that were open at a crash in full; returns the next id.
pub fn charge_unfinished(store: &Store, names: &dyn Names, now_ms: i64) -> Result<u64, StoreError> {
    let (holds, next_id) = store.unfinished(names)?;
    let total: Money = holds.iter().map(|hold| hold.bound.cost).sum();
    let entries: Vec<Entry> = holds.iter().map(|hold| assumed(hold, now_ms)).collect();
    store.end_unfinished(&entries)?;
    if !entries.is_empty() {
        tracing::warn!(
            holds = entries.len(),
            usd = %total,
            "requests were open when the last run ended; their holds are charged in full"
        );
    }
    Ok(next_id)
}

fn assumed(hold: &Hold, now_ms: i64) -> Entry {
    let bound = hold.bound;
    Entry {
        id: hold.id,
        kind: Kind::Settle,
        created_ms: now_ms,
        admitted_ms: hold.admitted_ms,
        attribution: Arc::clone(&hold.attribution),
        held: bound,
        cost: bound.cost,
        tool_fees: Money::ZERO,
        quantities: [(Class::Input, bound.input_tokens), (Class::Output, bound.output_tokens)].into(),
        basis: Some(Basis::Assumed),
        served_model: None,
        tier: hold.tier,
        price_version: Arc::clone(&hold.price_version),
        status: 0,
        upstream_request_id: None,
        object_id: None,
        duration_ms: 0,
        ttft_ms: None,
        stream: hold.stream,
        disconnected: false,
        corrects: None,
        note: Some("the guard ended before the request did".to_owned()),
    }
}

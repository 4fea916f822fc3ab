//! The holds of a batch that is to be made, and how they end or go on as jobs.

use http::HeaderMap;

use crate::domain::demand::Tier;
use crate::guard::{Ending, Guard, Reservation};
use crate::ledger::entry::{Basis, Job};
use crate::proxy::batches::terms::{BatchTerms, object};
use crate::proxy::bill::Exchange;

/// The kind of the jobs of batches.
pub const BATCH: &str = "batch";
/// How long after its admission a batch must have ended, in seconds. OpenAI lets one run for a
/// day, and what it has by then takes a while to be written; three days are ours.
const DEADLINE_S: i64 = 3 * 86_400;

/// The holds of a batch that is to be made.
pub(super) struct Holds {
    /// One for each model.
    pub(super) groups: Vec<(Reservation, BatchTerms)>,
    /// That of a batch whose lines cost nothing.
    pub(super) free: Option<Reservation>,
    /// Headers of the answer about rates.
    pub(super) rates: HeaderMap,
}

impl Holds {
    pub(super) fn reservations(&self) -> impl Iterator<Item = &Reservation> {
        self.groups.iter().map(|(reservation, _)| reservation).chain(&self.free)
    }

    fn into_reservations(self) -> impl Iterator<Item = Reservation> {
        self.groups.into_iter().map(|(reservation, _)| reservation).chain(self.free)
    }

    /// Upstream has made nothing.
    pub(super) fn release(self, exchange: &Exchange) {
        for reservation in self.into_reservations() {
            reservation.release(exchange.clone().ending());
        }
    }

    /// It is not known what upstream has made.
    pub(super) fn assume(self, exchange: &Exchange, note: &'static str) {
        for reservation in self.into_reservations() {
            let ending = Ending { note: Some(note), tier: Tier::Batch, ..exchange.clone().ending() };
            reservation.assume(ending);
        }
    }

    /// Leaves each to a job of the batch that upstream has made. Where that can't be written, it
    /// is charged.
    pub(super) async fn follow(self, guard: &Guard, id: &str, exchange: &Exchange) {
        for (reservation, mut terms) in self.groups {
            terms.request_id.clone_from(&exchange.request_id);
            let admitted_s = reservation.hold().admitted_ms.div_euclid(1_000);
            let refused = match terms.text() {
                Some(text) => {
                    let (object, deadline_s) =
                        (object(id, terms.place), admitted_s.saturating_add(DEADLINE_S));
                    let job = Job { kind: BATCH.to_owned(), object, deadline_s, terms: text };
                    guard.detach(reservation, job).await
                }
                None => Err(reservation),
            };
            if let Err(reservation) = refused {
                tracing::error!(
                    event = "job_not_written",
                    entry = reservation.hold().id,
                    "a batch can't be followed, so its hold is charged"
                );
                let note = Some("a batch that could not be followed");
                reservation.assume(Ending { note, tier: Tier::Batch, ..exchange.clone().ending() });
            }
        }
        if let Some(free) = self.free {
            free.settle(Basis::Reported, exchange.clone().ending());
        }
    }
}

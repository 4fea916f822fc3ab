//! The guard: what admits spending and ends it.
//!
//! `core` has the ledger and its journal. Around it is what a request needs on its way:
//! its reservation, its wait for room, the rates, the index of objects, and the bounds
//! that keep one client from slowing the others.

mod alert_facts;
pub mod audit;
mod core;
mod job_claims;
pub mod jobs;
pub mod objects;
mod offload;
mod pace;
pub mod recovery;
pub mod rejections;
pub mod reservation;
mod self_service;
pub mod sockets;
pub mod waiting;
mod write_log;
mod wrong_keys;

use std::sync::Arc;

use crate::clock::Clock;
use crate::domain::{Limit, Money, Stop};
use crate::keys::Ring;
pub use crate::ledger::ReserveRequest;
use crate::ledger::denial::Denial;
use crate::ledger::entry::{Attribution, Hold, OpenJob};
use crate::ledger::meter::Reading;
use crate::ledger::waiting::Turn;
use crate::ledger::{Headroom, NotAdmitted};
use crate::metrics::Metrics;
use crate::store::records::Names;
use crate::store::{NotReserved, Reports, StoreError};
use crate::throttle::Throttle;

pub use self::core::{Core, NotPaced};
pub use job_claims::UnderWay;
use objects::Objects;
pub use pace::{RateCheck, Standing};
pub use reservation::{Ending, Reservation, Settled, TokenCounts};
pub use self_service::Question;
pub use write_log::{News, WriteLog};

/// What requests are admitted by. Shared by all of them.
#[derive(Debug)]
pub struct Guard {
    core: Arc<Core>,
    ring: Arc<Ring>,
    reports: Reports,
    objects: Objects,
    jobs: Arc<job_claims::Jobs>,
    polled: jobs::Polled,
    offload: offload::Turns,
    self_service: self_service::Open,
    wrong_keys: wrong_keys::Pace,
    rejections: rejections::Recent,
    sockets: Arc<sockets::Sockets>,
}

/// Why a request was not admitted.
#[derive(Debug)]
pub enum Denied {
    /// A limit rejects it.
    ByLimit(Denial),
    /// Its model has no price, and a dollar cap applies.
    Unpriced(Arc<str>),
    /// The ledger can't be written, so nothing may be spent.
    Unavailable,
    /// As many requests are open as may be.
    Full,
    /// The rules have changed since it was prepared: another guard may have revoked its key.
    Outdated,
}

impl From<NotReserved> for Denied {
    fn from(refused: NotReserved) -> Self {
        match refused {
            NotReserved::NotAdmitted(refused) => refused.into(),
            NotReserved::Outdated => Self::Outdated,
            NotReserved::Unavailable => Self::Unavailable,
        }
    }
}

impl From<NotAdmitted> for Denied {
    fn from(refused: NotAdmitted) -> Self {
        match refused {
            NotAdmitted::ByLimit(denial) => Self::ByLimit(denial),
            NotAdmitted::Unpriced(model) => Self::Unpriced(model),
        }
    }
}

impl Names for Ring {
    fn project(&self, id: &str) -> Arc<str> {
        self.project_name(id)
    }
    fn key(&self, id: &str) -> Arc<str> {
        self.key_name(id)
    }
}

impl Guard {
    /// A guard on a core, for the keys of a ring, with the holds of the jobs that run.
    pub fn new(core: Arc<Core>, ring: Arc<Ring>, reports: Reports, jobs: Vec<OpenJob>) -> Self {
        let jobs = Arc::new(job_claims::Jobs::of(jobs, core.clock().running()));
        Self {
            core,
            ring,
            reports,
            objects: Objects::default(),
            jobs,
            polled: jobs::Polled::default(),
            offload: offload::Turns::default(),
            self_service: self_service::Open::default(),
            wrong_keys: wrong_keys::Pace::default(),
            rejections: rejections::Recent::default(),
            sockets: Arc::default(),
        }
    }

    /// Reserves the bound on every matching meter, or says why not. Requests that wait
    /// for room on one of them are served first.
    ///
    /// When it returns a reservation, the hold is in the database.
    pub async fn reserve(self: &Arc<Self>, request: ReserveRequest) -> Result<Reservation, Denied> {
        self.reserve_in_turn(request, Turn::Newcomer).await
    }

    /// The same for a request whose turn it may be.
    pub async fn reserve_in_turn(
        self: &Arc<Self>,
        request: ReserveRequest,
        turn: Turn,
    ) -> Result<Reservation, Denied> {
        let slot = self.core.slot().await.map_err(|error| {
            if matches!(error, StoreError::Full) { Denied::Full } else { Denied::Unavailable }
        })?;
        let reservation = |hold, slot| Reservation::new(Arc::clone(self), hold, slot);
        let (reservation, admission) = self.core.admit(request, turn, slot, reservation).await?;
        for limit in &admission.would_reject {
            tracing::info!(
                event = "shadow_limit_exceeded", limit = %limit.name,
                "a limit in shadow mode would have refused this request"
            );
        }
        self.core.note_shadow(&admission.would_reject);
        Ok(reservation)
    }

    /// What the limits leave for a request of this attribution.
    pub fn headroom(&self, of: &Attribution, client_cap: Option<Money>) -> Headroom {
        self.core.ledger().headroom(of, client_cap, self.clock().now_ms())
    }

    /// The limits that a request of this attribution counts on, rates aside.
    pub fn matching(&self, of: &Attribution) -> Vec<(Arc<Limit>, Reading)> {
        let ledger = self.core.ledger();
        ledger
            .matching(of, self.clock().now_ms())
            .map(|(limit, reading)| (Arc::clone(limit), reading))
            .collect()
    }

    /// The open holds on one limit's current meters: hold, subject, amount.
    pub fn holds_on(&self, limit: &str) -> Vec<(Arc<Hold>, String, i64)> {
        let on_it = self.core.ledger().holds_on(limit, self.clock().now_ms());
        on_it.into_iter().map(|(hold, subject, amount)| (hold, subject.label().to_owned(), amount)).collect()
    }

    /// Money held for open requests, and how many there are.
    pub fn in_doubt(&self) -> (Money, usize) {
        self.core.in_doubt()
    }

    /// The ledger with its journal.
    pub fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<Clock> {
        self.core.clock()
    }

    /// The metrics.
    pub fn metrics(&self) -> &Arc<Metrics> {
        self.core.metrics()
    }

    /// The key ring, to be read; changes go through the directory.
    pub fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    /// The stop that a key of a project is under now; of several the one that lasts longest. Another
    /// guard may have lifted one a moment ago, and who is refused for it causes no group that would
    /// find that out; so the rules are looked for first.
    pub async fn stop_on(&self, project: &Arc<str>, key: &Arc<str>) -> Option<Arc<Stop>> {
        let stops = self.ring.stops();
        let find = || if stops.is_empty() { None } else { stops.on(project, key, self.clock().now_ms()) };
        let found = find();
        if found.is_none() || !self.core.is_shared() {
            return found;
        }
        // Boxed, so that requests of those who are not stopped don't have its size.
        Box::pin(self.core.look_for_rules()).await;
        find()
    }

    /// The rates in force.
    pub fn rates(&self) -> arc_swap::Guard<Arc<Throttle>> {
        self.core.rates().load()
    }
}

/// A guard on an empty ledger in a folder, for tests of its parts.
#[cfg(test)]
pub(crate) fn opened(folder: &std::path::Path) -> (Arc<Guard>, crate::store::BackgroundWriter) {
    use crate::store::{Durability, Engine, Store};

    let store = Store::open(folder, Durability::Process).unwrap();
    let log = WriteLog::new(Arc::default(), Arc::default(), Arc::default());
    let ring = Arc::new(Ring::default());
    let names: Arc<dyn Names> = Arc::<Ring>::clone(&ring);
    let (Engine { journal, reports, .. }, writer) = store.start(10, log, names).unwrap();
    let ledger = Arc::new(crate::ledger::locked::LockedLedger::new(crate::ledger::Ledger::new(1)));
    let core = Core::new(ledger, journal, Arc::default(), Arc::default(), Arc::default());
    (Arc::new(Guard::new(Arc::new(core), ring, reports, Vec::new())), writer)
}

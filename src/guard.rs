//! The guard: one ledger, its database, its clock, and the rules in force.
//!
//! Everything that admits, ends or corrects spending goes through here, and in
//! one order: decide under the lock, apply, hand the fact to the writer while
//! still under the lock, so that the database's order is the ledger's order.

mod accounts;
mod adjust;
pub mod admin_keys;
mod aside;
pub mod audit;
pub mod credit;
pub mod days;
pub mod keyring;
pub mod limits;
mod marks;
pub mod meters;
pub mod models;
pub mod names;
pub mod objects;
pub mod observe;
pub mod organization;
mod pace;
mod reading;
pub mod recovery;
pub mod refused;
pub mod reservation;
pub mod retention;
pub mod self_service;
pub mod spend_alerts;
mod stored_key;
pub mod trail;
pub mod waiting;
mod wrong_keys;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::domain::demand::{Bound, Tier};
use crate::domain::{Limit, Money};
use crate::guard::waiting::Locked;
use crate::keys::Ring;
use crate::ledger::denial::Denial;
use crate::ledger::entry::{Attribution, Hold};
use crate::ledger::meter::Reading;
use crate::ledger::waiting::Turn;
use crate::ledger::{Admission, Ask, Headroom, Ledger};
use crate::metrics::Metrics;
use crate::store::rows::Names;
use crate::store::{Reader, StoreError, Writer, Written};
use crate::sync::unpoisoned;
use crate::throttle::Throttle;

pub use adjust::AdjustError;
pub use limits::LimitError;
pub use pace::{Paced, Standing};
pub use reservation::{Ending, Reservation, Settled};

/// One ledger with everything around it. Shared by all requests.
#[derive(Debug)]
pub struct Guard {
    /// A std lock: it is held for a few map operations and never across an
    /// await, so a thread never parks with it.
    ledger: Mutex<Ledger>,
    throttle: ArcSwap<Throttle>,
    writer: Writer,
    reader: Reader,
    /// A second connection, for what may take seconds: nobody else waits for it.
    long_reader: Reader,
    /// A third, for what keys ask about themselves: operators don't wait for them.
    key_reader: Reader,
    self_service: self_service::Open,
    wrong_keys: wrong_keys::Pace,
    ring: Arc<Ring>,
    clock: Arc<Clock>,
    metrics: Arc<Metrics>,
    /// The rules as they were written; the lock makes changes one at a time.
    book: tokio::sync::Mutex<limits::Book>,
    /// Names of keys and projects that limits write, to be looked up when they are given.
    written_names: ArcSwap<HashSet<(names::Named, String)>>,
    /// Makes changes of keys and projects one at a time.
    ring_changes: tokio::sync::Mutex<()>,
    seen: marks::Seen,
    /// Told whenever a meter has come to a mark.
    marks: Arc<Notify>,
    /// Those who may change things beside the holder of the configured token.
    admin_keys: admin_keys::AdminKeys,
    accounts: accounts::Accounts,
    /// Makes grants of prepaid credit one at a time.
    grants: tokio::sync::Mutex<()>,
    /// Makes verifying one at a time: it reads every entry.
    verifying: Arc<tokio::sync::Mutex<()>>,
    /// Makes pruning one at a time.
    pruning: tokio::sync::Mutex<()>,
    /// Makes corrections of entries one at a time.
    corrections: tokio::sync::Mutex<()>,
    aside: aside::Turns,
    organization: organization::Organization,
    refused: refused::Remembered,
    objects: objects::Objects,
}

/// A request that wants to spend.
#[derive(Clone, Debug)]
pub struct Order {
    /// For whom.
    pub attribution: Arc<Attribution>,
    /// What it may cost.
    pub bound: Bound,
    /// Whether that is known; without a price no dollar cap may apply.
    pub is_priced: bool,
    /// What the client itself allows it to cost.
    pub client_cap: Option<Money>,
    /// The tier asked for.
    pub tier: Tier,
    /// Version of the price sheet pinned to it.
    pub price_version: Arc<str>,
    /// Whether the answer is a stream.
    pub stream: bool,
}

/// Why a request was not admitted.
#[derive(Debug)]
pub enum Refused {
    /// A limit says no.
    Denied(Denial),
    /// Its model has no price, and a dollar cap applies.
    Unpriced(Arc<str>),
    /// The ledger can't be written, so nothing may be spent.
    Unavailable,
    /// As many requests are open as may be.
    Full,
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
    /// Reserves the bound on every matching meter, or says why not. Those who wait
    /// for room on one of them are served first.
    ///
    /// When it returns a reservation, the hold is in the database.
    pub async fn reserve(self: &Arc<Self>, order: Order) -> Result<Reservation, Refused> {
        self.reserve_in_turn(order, Turn::Newcomer).await
    }

    /// The same for a request whose turn it may be.
    pub async fn reserve_in_turn(self: &Arc<Self>, order: Order, turn: Turn) -> Result<Reservation, Refused> {
        let slot = self.writer.slot().await.map_err(|error| {
            if matches!(error, StoreError::Full) { Refused::Full } else { Refused::Unavailable }
        })?;
        let (hold, admission, answer) = self.admit(order, turn)?;
        let reservation = Reservation::new(Arc::clone(self), hold, slot);
        for limit in &admission.would_reject {
            self.metrics.would_have_rejected(&limit.name);
            tracing::info!(limit = %limit.name, "a limit in shadow mode would have refused this request");
        }
        // Dropped unsent, the reservation releases its hold.
        if self.writer.written(answer).await { Ok(reservation) } else { Err(Refused::Unavailable) }
    }

    /// Decides, applies, and hands the hold to the writer, all under the lock.
    fn admit(&self, order: Order, turn: Turn) -> Result<(Arc<Hold>, Admission, Written), Refused> {
        let mut ledger = self.ledger();
        let admitted_ms = self.clock.now_ms();
        let ask = Ask {
            attribution: &order.attribution,
            bound: order.bound,
            client_cap: order.client_cap,
            at_ms: admitted_ms,
            unwritten: self.writer.unwritten(ledger.freed()),
            turn,
        };
        let admission = match ledger.decide(&ask) {
            Ok(admission) => admission,
            Err(denial) => {
                // There is room where others wait: a window has begun, or the first of
                // them needs more.
                if let Some(place) = denial.place().filter(|_| denial.is_queued_only()) {
                    ledger.queues().call(&place);
                }
                if matches!(denial, Denial::TooManyMeters(_)) {
                    ledger.make_room(&order.attribution, admitted_ms);
                }
                return Err(Refused::Denied(denial));
            }
        };
        // Asked here, since a cap may have come into force a moment ago.
        if !order.is_priced && ledger.needs_price(&order.attribution, admitted_ms) {
            return Err(Refused::Unpriced(Arc::clone(&order.attribution.model)));
        }
        let hold = Arc::new(Hold {
            id: ledger.take_id(),
            admitted_ms,
            attribution: order.attribution,
            bound: order.bound,
            tier: order.tier,
            price_version: order.price_version,
            stream: order.stream,
        });
        ledger.apply_hold(&hold);
        if let Turn::Ticket(ticket) = turn {
            ledger.queues().leave(ticket);
        }
        let answer = self.writer.push_hold(Arc::clone(&hold), admission.leans);
        Ok((hold, admission, answer))
    }

    /// What the limits leave for a request of this attribution.
    pub fn headroom(&self, of: &Attribution, client_cap: Option<Money>) -> Headroom {
        self.ledger().headroom(of, client_cap, self.clock.now_ms())
    }

    /// The limits that a request of this attribution counts on, rates aside.
    pub fn matching(&self, of: &Attribution) -> Vec<(Arc<Limit>, Reading)> {
        let ledger = self.ledger();
        ledger
            .matching(of, self.clock.now_ms())
            .map(|(limit, reading)| (Arc::clone(limit), reading))
            .collect()
    }

    /// The open holds on one limit's current meters: hold, subject, amount.
    pub fn holds_on(&self, limit: &str) -> Vec<(Arc<Hold>, String, i64)> {
        let on_it = self.ledger().holds_on(limit, self.clock.now_ms());
        on_it.into_iter().map(|(hold, subject, amount)| (hold, subject.label().to_owned(), amount)).collect()
    }

    /// Money held for open requests, and how many there are.
    pub fn in_doubt(&self) -> (Money, usize) {
        let ledger = self.ledger();
        (ledger.in_doubt(), ledger.open())
    }

    /// Told whenever there is something new to tell operators.
    pub fn marks(&self) -> &Arc<Notify> {
        &self.marks
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<Clock> {
        &self.clock
    }

    /// The metrics.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The key ring, to be read; changes go through the guard.
    pub fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    /// The rates in force.
    pub fn throttle(&self) -> arc_swap::Guard<Arc<Throttle>> {
        self.throttle.load()
    }

    /// Slots taken in the writer's queue.
    pub fn queued(&self) -> usize {
        self.writer.taken()
    }

    /// Whether the ledger can be written, as of the last attempt.
    pub fn is_healthy(&self) -> bool {
        self.writer.is_healthy()
    }

    fn ledger(&self) -> Locked<'_> {
        Locked::new(unpoisoned(self.ledger.lock()))
    }
}

//! Requests that wait for room, first come, first served.
//!
//! A request waits at one place: the meter, or the prepaid credit, that stands
//! in its way. When something ends there, the first in that queue is called and
//! tries again; when it leaves, for whatever reason, the next one is called. So
//! each ending wakes one request, and no call is lost. The order is that of the
//! tickets, which a request keeps when another meter turns out to be in its way.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::task::Waker;

use foldhash::quality::RandomState;

use crate::domain::limit::Mode;
use crate::ledger::Ledger;
use crate::ledger::meter::{Metered, Subject};

/// Requests of one key that may wait at once.
pub const WAITING_PER_KEY_MAX: usize = 1_024;
/// Requests that may wait at once in all; each keeps its body in memory.
pub const WAITING_MAX: usize = 8_192;

/// Where a request waits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// At a meter, in whatever window.
    Meter {
        /// The limit's name.
        limit: Arc<str>,
        /// The meter's subject.
        subject: Subject,
    },
    /// At the prepaid credit.
    Credit,
}

/// The place of a request in the order of waiting requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Turn {
    /// It has just arrived: all requests that wait for the same room are before it.
    #[default]
    Newcomer,
    /// It waits with this ticket: those with a lower one are before it.
    Ticket(u64),
    /// It has waited as long as it may, and takes what room there is.
    Last,
}

/// The queues of a ledger.
#[derive(Debug, Default)]
pub struct Queues {
    places: HashMap<Place, BTreeSet<u64>, RandomState>,
    waiting: HashMap<u64, Waiting, RandomState>,
    of_key: HashMap<Arc<str>, usize, RandomState>,
    last_ticket: u64,
    /// The wakers to call once the ledger is unlocked.
    called: Vec<Waker>,
}

#[derive(Debug)]
struct Waiting {
    place: Place,
    key: Arc<str>,
    waker: Waker,
}

impl Queues {
    /// Whether no request waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many requests wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// A ticket for a request that may have to wait: each is behind those before.
    pub fn ticket(&mut self) -> u64 {
        self.last_ticket += 1;
        self.last_ticket
    }

    /// Queues a ticket at a place; `false` if too many of the key's requests wait,
    /// or too many in all. `waker` is woken whenever the turn has come.
    pub fn join(&mut self, ticket: u64, place: Place, key: &Arc<str>, waker: Waker) -> bool {
        let of_key = self.of_key.get(key).copied().unwrap_or(0);
        if of_key >= WAITING_PER_KEY_MAX || self.waiting.len() >= WAITING_MAX {
            return false;
        }
        self.of_key.insert(Arc::clone(key), of_key + 1);
        self.places.entry(place.clone()).or_default().insert(ticket);
        self.waiting.insert(ticket, Waiting { place, key: Arc::clone(key), waker });
        true
    }

    /// Moves a ticket to another place. Its turn where it was is the next one's.
    pub fn move_to(&mut self, ticket: u64, place: Place) {
        let Some(waiting) = self.waiting.get_mut(&ticket) else { return };
        let before = std::mem::replace(&mut waiting.place, place.clone());
        self.places.entry(place).or_default().insert(ticket);
        self.take_away(ticket, &before);
    }

    /// Gives a ticket back, and calls the next one. Nothing happens to one that
    /// was given back before.
    pub fn leave(&mut self, ticket: u64) {
        let Some(Waiting { place, key, .. }) = self.waiting.remove(&ticket) else { return };
        if let Some(count) = self.of_key.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.of_key.remove(&key);
            }
        }
        self.take_away(ticket, &place);
    }

    fn take_away(&mut self, ticket: u64, place: &Place) {
        let Some(queue) = self.places.get_mut(place) else { return };
        queue.remove(&ticket);
        if queue.is_empty() {
            self.places.remove(place);
        }
        self.call(place);
    }

    /// Calls the first one at a place: it may find room there now.
    pub fn call(&mut self, place: &Place) {
        let first = self.places.get(place).and_then(BTreeSet::first);
        let waiting = first.and_then(|ticket| self.waiting.get(ticket));
        self.called.extend(waiting.map(|waiting| waiting.waker.clone()));
    }

    /// Calls the first one at every place: the rules have changed.
    pub fn call_all(&mut self) {
        let firsts = self.places.values().filter_map(BTreeSet::first);
        let waiting = firsts.filter_map(|ticket| self.waiting.get(ticket));
        self.called.extend(waiting.map(|waiting| waiting.waker.clone()));
    }

    /// Whether another request is to be served before one at a place.
    pub fn is_behind(&self, turn: Turn, place: &Place) -> bool {
        let first = || self.places.get(place).and_then(BTreeSet::first);
        match turn {
            Turn::Newcomer => first().is_some(),
            Turn::Ticket(ticket) => first().is_some_and(|first| *first < ticket),
            Turn::Last => false,
        }
    }

    /// The wakers called since, to be woken outside the ledger's lock.
    pub fn take_called(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.called)
    }
}

impl Ledger {
    /// The queues of waiting requests.
    pub fn queues(&mut self) -> &mut Queues {
        &mut self.queues
    }

    /// Whether another request waits for room on a meter and is to be served first.
    pub(super) fn is_behind(&self, metered: &Metered, subject: &Subject, turn: Turn) -> bool {
        if self.queues.is_empty() || metered.limit.mode != Mode::Enforce {
            return false;
        }
        self.queues.is_behind(turn, &place(metered, subject))
    }
}

/// Where requests wait for room on a meter.
pub(super) fn place(metered: &Metered, subject: &Subject) -> Place {
    Place::Meter { limit: Arc::clone(&metered.limit.name), subject: subject.clone() }
}

#[cfg(test)]
mod tests;

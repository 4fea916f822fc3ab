//! Admission: requests and endings on the ledger, one after the other.
//!
//! An engine gathers those of a moment into a group and calls [`Ledger::admit`] or
//! [`Ledger::end`] for each, in their order: under one lock, or inside a transaction of
//! its own on the rows that it has locked. It writes the records that come out before any
//! request of the group goes upstream.

use std::sync::Arc;

use crate::domain::demand::{Bound, Tier};
use crate::domain::limit::{Mode, Unit};
use crate::domain::{Limit, Money, Window};
use crate::ledger::Ledger;
use crate::ledger::denial::{Blocked, Denial};
use crate::ledger::entry::{Amounts, Attribution, Crossing, Entry, Hold, reserved};
use crate::ledger::meter::{Meter, Metered, Reading, Subject};
use crate::ledger::waiting::Turn;

/// A request that wants to spend.
#[derive(Clone, Debug)]
pub struct ReserveRequest {
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
    /// The version of the rules that it was prepared with: keys, limits, projects.
    pub rules_version: i64,
}

impl ReserveRequest {
    /// A request of a known price: unstreamed, at the default tier, without a cap of its
    /// own, and of no version of the price sheet.
    pub fn new(attribution: Arc<Attribution>, bound: Bound) -> Self {
        let (tier, price_version) = (Tier::default(), Arc::default());
        Self {
            attribution,
            bound,
            is_priced: true,
            client_cap: None,
            tier,
            price_version,
            stream: false,
            rules_version: 0,
        }
    }
}

/// What else decides whether a request is admitted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Circumstances {
    /// When it is decided, in Unix milliseconds.
    pub at_ms: i64,
    /// Room that was released by endings which are not in the database yet.
    pub unwritten_releases: Amounts,
    /// Whose turn it is, where others wait.
    pub turn: Turn,
}

/// How a request was admitted.
#[derive(Debug, Default)]
pub struct Admission {
    /// Whether it may need room that was released by unwritten endings: then its hold must
    /// not be written ahead of them, as a crash that loses them takes the room back.
    pub depends_on_unwritten: bool,
    /// Limits in shadow mode that would have refused it.
    pub would_reject: Vec<Arc<Limit>>,
}

/// Why a request was not admitted.
#[derive(Debug)]
pub enum NotAdmitted {
    /// A limit rejects it.
    ByLimit(Denial),
    /// Its model has no price, and a dollar cap applies.
    Unpriced(Arc<str>),
}

/// What an ending has changed.
#[derive(Debug)]
pub struct Ended {
    /// The soft thresholds that it crossed.
    pub crossings: Vec<Crossing>,
    /// What the tightest dollar limit leaves then; `None` without one.
    pub left: Option<Money>,
}

impl Admission {
    /// Notes a limit in shadow mode, once for all of its meters.
    fn note_shadow(&mut self, limit: Option<&Arc<Limit>>) {
        let last = self.would_reject.last();
        let new = limit.filter(|limit| last.is_none_or(|last| !Arc::ptr_eq(last, limit)));
        self.would_reject.extend(new.cloned());
    }
}

impl Ledger {
    /// Admits a request and applies its hold, or says why not.
    pub fn admit(
        &mut self,
        request: ReserveRequest,
        circumstances: &Circumstances,
    ) -> Result<(Arc<Hold>, Admission), NotAdmitted> {
        let admission = match self.decide(&request, circumstances) {
            Ok(admission) => admission,
            Err(denial) => {
                // There is room where others wait: a window has begun, or the first of
                // them needs more.
                if let Some(place) = denial.place().filter(|_| denial.is_queued_only()) {
                    self.queues.call(&place);
                }
                if matches!(denial, Denial::TooManyMeters(_)) {
                    self.make_room(&request.attribution, circumstances.at_ms);
                }
                return Err(NotAdmitted::ByLimit(denial));
            }
        };
        // Asked here, since a cap may have come into force a moment ago.
        if !request.is_priced && self.needs_price(&request.attribution, circumstances.at_ms) {
            return Err(NotAdmitted::Unpriced(Arc::clone(&request.attribution.model)));
        }
        let hold = Arc::new(Hold {
            id: self.take_id(),
            admitted_ms: circumstances.at_ms,
            attribution: request.attribution,
            bound: request.bound,
            tier: request.tier,
            price_version: request.price_version,
            stream: request.stream,
        });
        self.apply_hold(&hold);
        if let Turn::Ticket(ticket) = circumstances.turn {
            self.queues.leave(ticket);
        }
        Ok((hold, admission))
    }

    /// Ends a hold by its entry.
    pub fn end(&mut self, entry: &Entry) -> Ended {
        let crossings = self.apply(entry);
        let left = self.headroom(&entry.attribution, None, entry.created_ms).cost;
        Ended { crossings, left }
    }

    /// Whether a request may reserve its bound on every matching meter.
    ///
    /// All meters decide in this one call. Of several denials the most final
    /// is returned, so that no request waits for a limit that will not yield.
    pub fn decide(
        &self,
        request: &ReserveRequest,
        circumstances: &Circumstances,
    ) -> Result<Admission, Denial> {
        let ReserveRequest { attribution, bound, client_cap, .. } = request;
        if let Some(cap) = client_cap.filter(|cap| bound.cost > *cap) {
            return Err(Denial::OverClientCap { cap, needed: bound.cost });
        }
        let mut admission = Admission::default();
        let mut worst: Option<Denial> = None;
        let mut crowded = None;
        let credit =
            self.credit_verdict(bound.cost, circumstances).map(|(mode, verdict)| (mode, Unit::Usd, verdict));
        let verdicts = self.reached(attribution).flat_map(|metered| {
            if self.has_no_meter_for(metered, attribution, circumstances.at_ms.div_euclid(1_000)) {
                crowded = Some(&metered.limit);
            }
            let subjects = metered.subjects(attribution);
            subjects.map(move |subject| {
                (metered.limit.mode, metered.limit.unit, self.verdict(metered, subject, bound, circumstances))
            })
        });
        for (mode, unit, verdict) in verdicts.chain(credit) {
            match (mode, verdict) {
                (Mode::Enforce, Ok(left)) => {
                    admission.depends_on_unwritten |= left < circumstances.unwritten_releases[unit.index()];
                }
                (Mode::Shadow, Ok(_)) => {}
                (Mode::Shadow, Err(denial)) => admission.note_shadow(denial.limit()),
                (Mode::Enforce, Err(denial)) => {
                    if worst.as_ref().is_none_or(|known| denial.outweighs(known)) {
                        worst = Some(denial);
                    }
                }
            }
        }
        let worst = worst.or_else(|| crowded.map(|limit| Denial::TooManyMeters(Arc::clone(limit))));
        worst.map_or(Ok(admission), Err)
    }

    /// Whether a request needs a meter that there is none of and no room for. Of a limit whose
    /// meters are rows, those that a request needs are made and loaded before it is decided, unless
    /// there are as many as there may be.
    fn has_no_meter_for(&self, metered: &Metered, of: &Attribution, at_s: i64) -> bool {
        if self.is_shared() {
            metered.limit.window != Window::Request && metered.lacks_meter(of, at_s)
        } else {
            metered.lacks_room(of, at_s)
        }
    }

    /// What one limit would have left on a meter, or why it would refuse.
    fn verdict(
        &self,
        metered: &Metered,
        subject: Subject,
        bound: &Bound,
        circumstances: &Circumstances,
    ) -> Result<i64, Denial> {
        let Some(hard) = metered.limit.hard else { return Ok(i64::MAX) };
        let needed = reserved(bound, metered.limit.unit);
        let Reading { subject, span, meter } =
            metered.reading(subject, circumstances.at_ms.div_euclid(1_000));
        let blocked = |kind: fn(Box<Blocked>) -> Denial| {
            let limit = Arc::clone(&metered.limit);
            let Meter { settled, held } = meter;
            Err(kind(Box::new(Blocked {
                limit,
                subject: subject.clone(),
                span,
                hard,
                settled,
                held,
                needed,
            })))
        };
        // A hard cap of zero blocks everything, even what costs nothing.
        if hard == 0 || (needed > 0 && meter.settled >= hard) {
            return blocked(Denial::Exhausted);
        }
        let left = hard.saturating_sub(meter.settled).saturating_sub(meter.held).saturating_sub(needed);
        if needed == 0 || (left >= 0 && !self.is_behind(metered, &subject, circumstances.turn)) {
            return Ok(left);
        }
        if left >= 0 {
            return blocked(Denial::Held);
        }
        if needed > hard {
            return blocked(Denial::TooLarge);
        }
        if meter.settled.saturating_add(needed) > hard {
            return blocked(Denial::Exhausted);
        }
        blocked(Denial::Held)
    }
}

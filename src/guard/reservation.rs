//! A reservation: a value that must end, and ends once on every path.
//!
//! Not yet sent, it releases its hold when dropped: nothing was spent. Once
//! sent, silence is charged: dropped, it settles at the hold. It owns a slot in
//! the writer's queue, so that its ending can be written even from `Drop`.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::demand::Tier;
use crate::domain::{Class, Money, Quantities};
use crate::guard::job_claims::JobClaim;
use crate::guard::{Guard, RateCheck};
use crate::ledger::entry::{Attribution, Basis, Entry, Hold, Job, Kind, OpenJob};
use crate::metrics::RequestLabels;
use crate::store::{Journal, Slot};
use crate::throttle::RateCost;

/// A hold that is in the database and has not ended.
#[derive(Debug)]
#[must_use = "a reservation that is dropped after it was sent is settled in full"]
pub struct Reservation {
    guard: Arc<Guard>,
    hold: Arc<Hold>,
    /// Taken by the one ending.
    slot: Option<Slot>,
    sent: bool,
    /// By the guard's running time; `None` if that was another request's, or another run's.
    admitted_at: Option<Duration>,
    rate_check: Option<RateCheck>,
    /// The job that the hold is for, or will be.
    job: Option<JobClaim>,
}

/// How a request ended, as far as it is known.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    /// What it cost, hosted tools included.
    pub cost: Money,
    /// The hosted tools' part of it.
    pub tool_fees: Money,
    /// What was used.
    pub quantities: Quantities,
    /// The model that answered.
    pub served_model: Option<Arc<str>>,
    /// The tier it was served at.
    pub tier: Tier,
    /// Upstream's status; 0 if there was no answer.
    pub status: u16,
    /// Upstream's request id.
    pub upstream_request_id: Option<String>,
    /// Id of the object that upstream made.
    pub object_id: Option<String>,
    /// From admission to the first byte of the body.
    pub ttft: Option<Duration>,
    /// Whether the client went away before the end.
    pub disconnected: bool,
    /// Whether the answer ended because of its output bound.
    pub is_at_output_bound: bool,
    /// Whether it made no picture, though its image tool may have been held for.
    pub made_no_picture: bool,
    /// What there is to say of it.
    pub note: Option<&'static str>,
}

/// What the ending of a hold came to.
#[derive(Clone, Debug)]
pub struct Settled {
    /// What was charged.
    pub cost: Money,
    /// How the cost is known; `None` if the hold was released.
    pub basis: Option<Basis>,
    /// The model that answered.
    pub served_model: Option<Arc<str>>,
    /// The tokens that were charged.
    pub tokens: TokenCounts,
    /// What the tightest dollar limit leaves now; `None` without one.
    pub remaining: Option<Money>,
}

impl Settled {
    fn of(entry: &Entry) -> Self {
        Self {
            cost: entry.cost,
            basis: entry.basis,
            served_model: entry.served_model.clone(),
            tokens: TokenCounts::of(&entry.quantities),
            remaining: None,
        }
    }
}

/// Tokens of a request, in the sums that people ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenCounts {
    /// All input.
    pub input: u64,
    /// The input that came from a cache.
    pub cached_input: u64,
    /// All output.
    pub output: u64,
    /// The output that was spent on reasoning.
    pub reasoning: u64,
}

impl TokenCounts {
    fn of(quantities: &Quantities) -> Self {
        Self {
            input: quantities.input_tokens_total(),
            cached_input: quantities.cached_tokens_total(),
            output: quantities.output_tokens_total(),
            reasoning: quantities[Class::Reasoning],
        }
    }
}

impl Reservation {
    pub(super) fn new(guard: Arc<Guard>, hold: Arc<Hold>, slot: Slot) -> Self {
        let admitted_at = Some(guard.clock().running());
        Self { guard, hold, slot: Some(slot), sent: false, admitted_at, rate_check: None, job: None }
    }

    /// The hold of a job: the request that began it was sent.
    pub(super) fn resumed(guard: Arc<Guard>, hold: Arc<Hold>, slot: Slot, job: JobClaim) -> Self {
        let (slot, job) = (Some(slot), Some(job));
        Self { guard, hold, slot, sent: true, admitted_at: None, rate_check: None, job }
    }

    /// Whether the hold is that of a job, or becomes it.
    pub(super) fn is_of_job(&self) -> bool {
        self.job.is_some()
    }

    /// Takes charge of the claim to a job, released once the ending of the hold is queued.
    pub(super) fn claim(&mut self, job: JobClaim) {
        self.job = Some(job);
    }

    /// Releases the claim: the hold stays that of its request.
    pub(super) fn release_claim(&mut self) {
        self.job = None;
    }

    /// Leaves the hold to the job that is claimed, and returns the claim. What the request took
    /// of its rates stays taken.
    pub(super) fn leave_to_job(mut self) -> Option<JobClaim> {
        if let Some(check) = self.rate_check.take() {
            check.end(RateCost::of(&self.hold.bound.quantities()));
        }
        self.slot = None;
        self.job.take()
    }

    /// The hold.
    pub fn hold(&self) -> &Arc<Hold> {
        &self.hold
    }

    /// Time since admission.
    pub fn age(&self) -> Duration {
        let by_wall = || {
            let age_ms = self.guard.clock().now_ms().saturating_sub(self.hold.admitted_ms);
            Duration::from_millis(u64::try_from(age_ms).unwrap_or(0))
        };
        self.admitted_at.map_or_else(by_wall, |at| self.guard.clock().running().saturating_sub(at))
    }

    /// Takes charge of what the request took of its rates: at its end, what it did not use
    /// is given back.
    pub fn pace(&mut self, rate_check: RateCheck) {
        self.rate_check = Some(rate_check);
    }

    /// Says that bytes of the request may have reached upstream: from now on
    /// silence is charged.
    pub fn mark_sent(&mut self) {
        self.sent = true;
    }

    /// Replaces the hold by the real cost.
    pub fn settle(mut self, basis: Basis, ending: Ending) -> Settled {
        self.end(Kind::Settle, Some(basis), ending)
    }

    /// Charges the whole hold, or the ending's cost if that is more: the request was
    /// sent, and what it used is unknown.
    pub fn assume(mut self, ending: Ending) -> Settled {
        let charged = self.held(ending);
        self.end(Kind::Settle, Some(Basis::Assumed), charged)
    }

    /// Settles the hold of a job, which goes on with that of another reservation, in one step.
    ///
    /// The other reservation is returned where another guard has ended the hold, or nothing can be
    /// written now; then nothing was settled here. Where this is cancelled, the job has one of both
    /// holds, and the other one is charged when this guard ends.
    pub async fn renew(
        mut self,
        basis: Basis,
        ending: Ending,
        mut next: Self,
        job: Job,
    ) -> Result<Settled, Self> {
        let entry = Box::new(self.entry(Kind::Settle, Some(basis), ending));
        let settled = Settled::of(&entry);
        let (Some(slot), Some(next_slot)) = (self.slot.take(), next.slot.take()) else { return Err(next) };
        if let Some(check) = next.rate_check.take() {
            check.end(RateCost::of(&next.hold.bound.quantities()));
        }
        let (hold, is_sent) = (Arc::clone(&next.hold), next.sent);
        drop(next);
        let renewed = (Arc::clone(&hold), job.clone());
        let answer = self.guard.core.renew(entry.clone(), &self.hold, renewed, slot);
        if let Some(answer) = answer
            && !answer.await.unwrap_or(false)
        {
            let mut back = Self::new(Arc::clone(&self.guard), hold, next_slot);
            back.sent = is_sent;
            return Err(back);
        }
        self.observe(&entry);
        self.leave_to(OpenJob { hold, job });
        Ok(settled)
    }

    /// Leaves the hold to its job again: it goes on.
    pub fn leave_again(mut self, job: Job) {
        self.slot = None;
        let hold = Arc::clone(&self.hold);
        self.leave_to(OpenJob { hold, job });
    }

    /// Leaves a job to the memory of the embedded engine; the shared one has its row.
    fn leave_to(&mut self, open: OpenJob) {
        if let (Some(claim), Journal::Embedded(_)) = (self.job.take(), self.guard.core.journal()) {
            claim.leave(open, self.guard.clock().running());
        }
    }

    /// Drops the hold: upstream did no work that it bills.
    pub fn release(mut self, ending: Ending) -> Settled {
        let free =
            Ending { cost: Money::ZERO, tool_fees: Money::ZERO, quantities: Quantities::default(), ..ending };
        self.end(Kind::Release, None, free)
    }

    fn held(&self, ending: Ending) -> Ending {
        let bound = self.hold.bound;
        let mut quantities = bound.quantities();
        // What was asked for in other units than tokens.
        quantities += ending.quantities;
        Ending { cost: bound.cost.max(ending.cost), quantities, ..ending }
    }

    fn end(&mut self, kind: Kind, basis: Option<Basis>, ending: Ending) -> Settled {
        let is_at_output_bound = ending.is_at_output_bound;
        let entry = Box::new(self.entry(kind, basis, ending));
        self.observe(&entry);
        if is_at_output_bound {
            self.guard.metrics().hit_output_bound(model_label(&entry));
        }
        if let Some(rate_check) = self.rate_check.take() {
            rate_check.end(RateCost::of(&entry.quantities));
        }
        let mut settled = Settled::of(&entry);
        let of_job = self.job.is_some().then_some(&self.hold);
        settled.remaining = self.guard.core.end(entry, of_job, self.slot.take());
        self.job = None;
        settled
    }

    /// For whom and what it counts in the end: on the image tool's model only if that
    /// may have run.
    fn attribution(&self, made_no_picture: bool) -> Arc<Attribution> {
        let of = &self.hold.attribution;
        if of.image_model.is_none() || !made_no_picture {
            return Arc::clone(of);
        }
        Arc::new(Attribution { image_model: None, ..Attribution::clone(of) })
    }

    fn entry(&self, kind: Kind, basis: Option<Basis>, ending: Ending) -> Entry {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Entry {
            attribution: self.attribution(ending.made_no_picture),
            cost: ending.cost,
            tool_fees: ending.tool_fees,
            quantities: ending.quantities,
            basis,
            served_model: ending.served_model,
            tier: ending.tier,
            status: ending.status,
            upstream_request_id: ending.upstream_request_id,
            object_id: ending.object_id,
            duration_ms: ms(self.age()),
            ttft_ms: ending.ttft.map(ms),
            disconnected: ending.disconnected,
            note: ending.note.map(str::to_owned),
            ..Entry::ending(&self.hold, kind, self.guard.clock().now_ms())
        }
    }

    fn observe(&self, entry: &Entry) {
        let of = &entry.attribution;
        // A key that upstream has not accepted may be made up, and is no label.
        let is_accepted = (200..300).contains(&entry.status) || self.guard.ring.by_id(&of.key).is_some();
        let key = if is_accepted { &*of.key } else { "" };
        let labels = RequestLabels { project: &of.project, key, endpoint: &of.endpoint };
        let metrics = self.guard.metrics();
        if let Some(basis) = entry.basis.filter(|_| !of.model.is_empty() || entry.cost > Money::ZERO) {
            metrics.settled(labels, model_label(entry), basis.name(), entry.cost, &entry.quantities);
        }
        let over = entry.cost - entry.held.cost;
        if over > Money::ZERO {
            metrics.overran(over);
            tracing::warn!(event = "hold_overrun", entry = entry.id, over = %over, "a cost overran its hold");
        }
    }
}

/// The label of an entry's model: the name of its price, never the client's.
fn model_label(entry: &Entry) -> &str {
    entry.attribution.priced_as.as_deref().unwrap_or("other")
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.slot.is_none() {
            return;
        }
        let ending = Ending { tier: self.hold.tier, ..Ending::default() };
        if self.sent {
            let charged = self.held(ending);
            self.end(Kind::Settle, Some(Basis::Assumed), charged);
        } else {
            self.end(Kind::Release, None, ending);
        }
    }
}

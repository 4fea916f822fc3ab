//! Admission: fit a request into its limits, or say why it can't be.
//!
//! The bound first, which costs nothing; if it does not fit, the input counted
//! exactly; then the output clamped to what is affordable; then a short wait for
//! other requests' holds to end; and only then no.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::domain::demand::{Bound, Tier};
use crate::domain::{Demand, Money};
use crate::guard::{Guard, Order, Refused, Reservation};
use crate::ledger::denial::Denial;
use crate::ledger::entry::Attribution;
use crate::pricing::bound::{BoundInputs, affordable_output, bound};
use crate::pricing::count::{self, Encoding};
use crate::pricing::sheet::Price;
use crate::proxy::refuse::Refusal;

/// No request is worth more. As many as may be open at once, with such holds,
/// are still far from what an amount can be.
const COST_MAX: Money = Money::from_nano(100_000 * 1_000_000_000);
const TOKENS_MAX: u64 = 1 << 40;

/// Bodies up to this size are counted where they are. A larger one is handed to
/// another thread, so that others on this one need not wait.
const COUNTED_HERE_BYTES_MAX: usize = 4 * 1024;

/// How tight admissions are handled.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Whether the output may be clamped to what is affordable.
    pub clamp: bool,
    /// The least output tokens that a clamped answer is worth.
    pub clamp_output_min: u64,
    /// How long to wait for other requests' holds to end.
    pub hold_wait: Duration,
    /// Hosted tool calls of a request that doesn't bound them.
    pub tool_calls_max: u64,
    /// The tier that upstream serves when a request names none.
    pub default_tier: Tier,
}

/// A metered request that wants in.
#[derive(Debug)]
pub struct Candidate<'a> {
    /// For whom.
    pub attribution: Arc<Attribution>,
    /// What it asks for.
    pub demand: &'a Demand,
    /// The price that bounds it.
    pub price: &'a Price,
    /// Whether the price counts; without one only tokens are bounded.
    pub priced: bool,
    /// The price of the image tool's model.
    pub image_price: Option<&'a Price>,
    /// Version of the price sheet.
    pub price_version: Arc<str>,
    /// What the client allows it to cost.
    pub client_cap: Option<Money>,
    /// The body as it came.
    pub body: &'a Bytes,
    /// Whether its endpoint has a field that bounds the output.
    pub clampable: bool,
    /// The tokenizer of its model, if it is published.
    pub encoding: Option<Encoding>,
}

/// A request that is in.
#[derive(Debug)]
pub struct Admitted {
    /// Its hold.
    pub reservation: Reservation,
    /// The output that it was clamped to.
    pub clamped: Option<u64>,
}

/// Admits a candidate, or says why not.
pub async fn admit(
    guard: &Arc<Guard>,
    config: Config,
    candidate: &Candidate<'_>,
) -> Result<Admitted, Refusal> {
    let mut attempt = Attempt { guard, config, candidate, input_tokens: None };
    let first = match attempt.reserve(None).await? {
        Ok(reservation) => return Ok(Admitted { reservation, clamped: None }),
        Err(denial) => denial,
    };
    if is_hopeless(&first) {
        return Err(Refusal::denied(first));
    }
    attempt.count_input().await?;
    let until = guard.clock().running() + config.hold_wait;
    loop {
        let room = guard.room();
        tokio::pin!(room);
        // Registered before the attempt, so that no ending in between is missed.
        room.as_mut().enable();
        let denial = match attempt.fit().await? {
            Ok(admitted) => return Ok(admitted),
            Err(denial) => denial,
        };
        let left = until.saturating_sub(guard.clock().running());
        if !denial.is_held() || left.is_zero() {
            return Err(Refusal::denied(denial));
        }
        // Whether told or timed out, the next attempt decides.
        let _ = tokio::time::timeout(left, room).await;
    }
}

/// Whether no smaller request could pass either, so that counting exactly would
/// only cost time.
fn is_hopeless(denial: &Denial) -> bool {
    match denial {
        Denial::Exhausted(blocked) => blocked.settled >= blocked.hard,
        Denial::NoCredit(short) => short.balance <= Money::ZERO,
        Denial::TooManyMeters => true,
        Denial::Held(_) | Denial::CreditHeld(_) | Denial::TooLarge(_) | Denial::OverClientCap { .. } => false,
    }
}

struct Attempt<'a> {
    guard: &'a Arc<Guard>,
    config: Config,
    candidate: &'a Candidate<'a>,
    /// The exact input, once counted.
    input_tokens: Option<u64>,
}

impl Attempt<'_> {
    /// Tries the request as asked, then with as much output as is affordable.
    async fn fit(&self) -> Result<Result<Admitted, Denial>, Refusal> {
        let denial = match self.reserve(None).await? {
            Ok(reservation) => return Ok(Ok(Admitted { reservation, clamped: None })),
            Err(denial) => denial,
        };
        let Some(output) = self.affordable() else { return Ok(Err(denial)) };
        let reserved = self.reserve(Some(output)).await?;
        Ok(reserved.map(|reservation| Admitted { reservation, clamped: Some(output) }))
    }

    /// The output to clamp to; `None` if clamping can't help.
    fn affordable(&self) -> Option<u64> {
        let Candidate { demand, price, image_price, .. } = *self.candidate;
        let floor = self.config.clamp_output_min.max(1);
        let full = self.bound(None);
        let asked = full.output_tokens / demand.choices.max(1);
        if !self.config.clamp || !self.candidate.clampable || demand.echo || asked <= floor {
            return None;
        }
        let headroom = self.guard.headroom(&self.candidate.attribution, self.candidate.client_cap);
        let per_choice = |tokens: i64| u64::try_from(tokens).unwrap_or(0) / demand.choices.max(1);
        let input = i64::try_from(full.input_tokens).unwrap_or(i64::MAX);
        let by_cost = headroom
            .cost
            .filter(|_| self.candidate.priced)
            .map(|cost| affordable_output(price, image_price, demand, self.inputs(None), cost));
        let by_tokens = headroom.tokens.map(|tokens| per_choice(tokens.saturating_sub(input)));
        let by_output = headroom.output_tokens.map(per_choice);
        let affordable = [by_cost, by_tokens, by_output].into_iter().flatten().min()?;
        // At the least the floor is tried, so that the denial is about the
        // smallest request that would be worth sending.
        (affordable < asked).then(|| affordable.max(floor))
    }

    fn inputs(&self, output_max: Option<u64>) -> BoundInputs {
        BoundInputs {
            input_tokens: self.input_tokens,
            output_max,
            tool_calls_max: self.config.tool_calls_max,
            project_tier: self.config.default_tier,
        }
    }

    fn bound(&self, output_max: Option<u64>) -> Bound {
        let Candidate { demand, price, image_price, priced, .. } = *self.candidate;
        let bound = bound(price, image_price, demand, self.inputs(output_max));
        if priced { bound } else { Bound { cost: Money::ZERO, ..bound } }
    }

    async fn reserve(&self, output_max: Option<u64>) -> Result<Result<Reservation, Denial>, Refusal> {
        let candidate = self.candidate;
        let bound = self.bound(output_max);
        let tokens = bound.input_tokens.saturating_add(bound.output_tokens);
        if bound.cost > COST_MAX || tokens > TOKENS_MAX {
            let message = "The most that this request can cost is beyond reason; ask for less output or fewer tool calls.";
            return Err(Refusal::Invalid(message.to_owned(), None));
        }
        let order = Order {
            attribution: Arc::clone(&candidate.attribution),
            bound,
            is_priced: candidate.priced,
            client_cap: candidate.client_cap,
            tier: candidate.demand.tier.unwrap_or(self.config.default_tier),
            price_version: Arc::clone(&candidate.price_version),
            stream: candidate.demand.stream,
        };
        match self.guard.reserve(order).await {
            Ok(reservation) => Ok(Ok(reservation)),
            Err(Refused::Denied(denial)) => Ok(Err(denial)),
            Err(refused) => Err(refused.into()),
        }
    }

    /// Counts the input exactly, where the model's tokenizer is known.
    async fn count_input(&mut self) -> Result<(), Refusal> {
        let Some(encoding) = self.candidate.encoding else { return Ok(()) };
        let body = self.candidate.body.clone();
        let skippable = self.candidate.demand.media.inline_bytes;
        let is_quick = body.len() <= COUNTED_HERE_BYTES_MAX && count::is_loaded(encoding);
        let counted =
            move || std::str::from_utf8(&body).ok().map(|text| count::body_upper(encoding, text, skippable));
        self.input_tokens = if is_quick {
            counted()
        } else {
            tokio::task::spawn_blocking(counted).await.map_err(|_| Refusal::LedgerUnavailable)?
        };
        Ok(())
    }
}

//! Admission: fits a request into its limits, or returns why it does not fit.
//!
//! The bound first, which costs nothing. The input is counted exactly where its
//! bytes would hold more than a twentieth of what is left. If the request does not
//! fit, its output and its hosted calls are clamped to what is affordable; then it
//! waits for a short time for other requests' holds to end; and only then it is
//! refused.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::domain::demand::Bound;
use crate::domain::{Demand, Money};
use crate::guard::waiting::Wait;
use crate::guard::{Denied, Guard, Reservation, ReserveRequest, Standing};
use crate::ledger::Headroom;
use crate::ledger::denial::Denial;
use crate::ledger::entry::Attribution;
use crate::ledger::waiting::Turn;
use crate::pricing::bound::{
    BoundInputs, affordable_output, bound, loose_cost, output_per_choice, reads_unseen,
};
use crate::pricing::count::Encoding;
use crate::pricing::plan::Policy;
use crate::pricing::sheet::Price;
use crate::protocol::openai::operation::Operation;
use crate::proxy::count::{Countable, Counter};
use crate::proxy::permit::Permit;
use crate::proxy::refuse::Refusal;

/// The largest hold of a request. Even the maximum number of open requests with
/// such holds is far from the largest amount.
pub(super) const COST_MAX: Money = Money::from_nano(100_000 * 1_000_000_000);
const TOKENS_MAX: u64 = 1 << 40;
/// Text is counted exactly where its bytes would hold more than this part of
/// what is left.
pub(super) const COUNTED_PART: u32 = 20;
/// The part of the requested output that clamping hosted calls leaves, unless not
/// even one call would fit.
const OUTPUT_PART: u64 = 4;

/// How tight admissions are handled.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Whether the output may be clamped to what is affordable.
    pub clamp: bool,
    /// The least output tokens that a clamped answer is worth.
    pub clamp_output_min: u64,
    /// How long to wait for other requests' holds to end.
    pub hold_wait: Duration,
    /// The bounds that are written into requests that leave their cost open.
    pub policy: Policy,
    /// Whether stored prompts may be used under a cap, with a hold for all that
    /// such a prompt may contain.
    pub stored_prompts: bool,
}

/// A metered request that asks for admission.
#[derive(Debug)]
pub struct Candidate<'a> {
    /// The subjects that it is counted for.
    pub attribution: Arc<Attribution>,
    /// Its demand.
    pub demand: &'a Demand,
    /// The price that bounds it.
    pub price: &'a Price,
    /// Whether it has a price; without one only tokens are bounded.
    pub priced: bool,
    /// The price of the image tool's model.
    pub image_price: Option<&'a Price>,
    /// Version of the price sheet.
    pub price_version: Arc<str>,
    /// The client's own maximum.
    pub client_cap: Option<Money>,
    /// The standing of its limits when it arrived.
    pub standing: Standing,
    /// Its operation.
    pub operation: &'static Operation,
    /// The body as received.
    pub body: &'a Bytes,
    /// Whether the client left the number of hosted calls open.
    pub calls_open: bool,
    /// The inputs of its bound before anything is counted.
    pub inputs: BoundInputs,
    /// The tokenizer of its model, if it is published.
    pub encoding: Option<Encoding>,
    /// Counts what can't be counted here.
    pub counter: Counter<'a>,
    /// Whether its caller may still ask for it.
    pub permit: Permit<'a>,
}

impl<'a> Candidate<'a> {
    /// The parts of it that are counted.
    pub(super) fn countable(&self) -> Countable<'a> {
        let Self { operation, demand, body, price, encoding, .. } = *self;
        Countable { operation, demand, body, price, encoding }
    }
}

/// An admitted request.
#[derive(Debug)]
pub struct Admitted {
    /// Its hold.
    pub reservation: Reservation,
    /// The inputs of its bound when it was admitted.
    pub inputs: BoundInputs,
    /// The output for each choice that it was clamped to.
    pub clamped_output: Option<u64>,
    /// The hosted calls that it was clamped to.
    pub clamped_calls: Option<u64>,
}

/// Admits a candidate, or returns why not.
pub async fn admit(
    guard: &Arc<Guard>,
    config: Config,
    candidate: &Candidate<'_>,
) -> Result<Admitted, Refusal> {
    let mut attempt = AdmissionAttempt { guard, config, candidate, inputs: candidate.inputs, counted: false };
    let key = &candidate.attribution.key;
    // From before its input is counted, so that it keeps its place among others.
    let wait = attempt.holds_much().then(|| guard.wait(key, config.hold_wait));
    if wait.is_some() {
        attempt.count_input().await;
    }
    let turn = wait.as_ref().map_or(Turn::Newcomer, Wait::turn);
    let first = match attempt.reserve(attempt.inputs, turn).await? {
        Ok(reservation) => return Ok(attempt.admitted(reservation, attempt.inputs)),
        Err(denial) => denial,
    };
    if is_hopeless(&first) {
        return Err(Refusal::denied(first));
    }
    let wait = wait.unwrap_or_else(|| guard.wait(key, config.hold_wait));
    // Boxed, so that requests that fit at once don't have its size.
    Box::pin(attempt.wait_until_it_fits(wait)).await
}

/// Whether no smaller request could pass either, so that counting exactly would
/// only cost time.
pub(super) fn is_hopeless(denial: &Denial) -> bool {
    match denial {
        Denial::Exhausted(blocked) => blocked.settled >= blocked.hard,
        Denial::NoCredit(short) => short.balance <= Money::ZERO,
        Denial::TooManyMeters(_) => true,
        Denial::Held(_) | Denial::CreditHeld(_) | Denial::TooLarge(_) | Denial::OverClientCap { .. } => false,
    }
}

struct AdmissionAttempt<'a> {
    guard: &'a Arc<Guard>,
    config: Config,
    candidate: &'a Candidate<'a>,
    /// The inputs of its bound so far.
    inputs: BoundInputs,
    /// Whether its input has been counted, as far as it can be.
    counted: bool,
}

impl AdmissionAttempt<'_> {
    /// Counts the request, and tries it until it fits or need wait no longer.
    async fn wait_until_it_fits(mut self, mut wait: Wait) -> Result<Admitted, Refusal> {
        self.count_input().await;
        loop {
            match self.fit(wait.turn()).await? {
                Ok(admitted) => return Ok(admitted),
                Err(denial) => wait.after(denial).await.map_err(Refusal::denied)?,
            }
        }
    }

    /// Tries the request as asked, then clamped to what is affordable.
    async fn fit(&self, turn: Turn) -> Result<Result<Admitted, Denial>, Refusal> {
        let denial = match self.reserve(self.inputs, turn).await? {
            Ok(reservation) => return Ok(Ok(self.admitted(reservation, self.inputs))),
            Err(denial) => denial,
        };
        let Some(clamped) = self.clamped() else { return Ok(Err(denial)) };
        let reserved = self.reserve(clamped, turn).await?;
        Ok(reserved.map(|reservation| self.admitted(reservation, clamped)))
    }

    fn admitted(&self, reservation: Reservation, inputs: BoundInputs) -> Admitted {
        let requested = &self.candidate.inputs;
        let clamped_output = inputs.output_max.filter(|_| inputs.output_max != requested.output_max);
        let clamped_calls = (inputs.tool_calls != requested.tool_calls).then_some(inputs.tool_calls);
        Admitted { reservation, inputs, clamped_output, clamped_calls }
    }

    /// Whether the text's bytes or the context would hold a good part of what is left.
    fn holds_much(&self) -> bool {
        let Candidate { price, demand, standing, .. } = *self.candidate;
        let Some(left) = standing.left.cost else { return false };
        let part = left.nano() / i64::from(COUNTED_PART);
        let unseen =
            || reads_unseen(price, demand, self.inputs) && self.bound(self.inputs).cost.nano() > part;
        loose_cost(price, demand, self.inputs).nano() > part || unseen()
    }

    /// The headroom of its limits now.
    fn headroom(&self) -> Headroom {
        self.guard.headroom(&self.candidate.attribution, self.candidate.client_cap)
    }

    /// The output and the hosted calls to clamp to; `None` if that can't help.
    ///
    /// Calls are given up only where less than a quarter of the output would be
    /// left with all of them.
    fn clamped(&self) -> Option<BoundInputs> {
        let demand = self.candidate.demand;
        if !self.config.clamp {
            return None;
        }
        let floor = self.config.clamp_output_min.max(1);
        let requested = output_per_choice(self.candidate.price, demand, self.inputs.output_max);
        let mut left = self.headroom();
        if self.candidate.calls_open {
            // Calls that the client did not ask for leave room for its next request.
            left.cost =
                left.cost.map(|cost| Money::from_nano(cost.nano() / 2).max(self.one_call(left, floor)));
        }
        let with_calls = self.with_calls(left, (requested / OUTPUT_PART).max(floor).min(requested));
        // Beside a prediction OpenAI takes no output bound.
        let takes_bound = self.candidate.operation.output_field.is_some() && demand.prediction_bytes == 0;
        let can_clamp = takes_bound && !demand.echo && requested > floor;
        let output = can_clamp.then(|| self.affordable(left, with_calls, requested)).flatten();
        // At the least the floor is tried, so that the denial is about the
        // smallest request that would be worth sending.
        let output = output.filter(|output| *output < requested).map(|output| output.max(floor));
        let clamped = BoundInputs { output_max: output.or(with_calls.output_max), ..with_calls };
        let changed = output.is_some() || clamped.tool_calls != self.inputs.tool_calls;
        changed.then_some(clamped)
    }

    /// The cost of the smallest request with one hosted call, if it fits.
    fn one_call(&self, left: Headroom, output: u64) -> Money {
        let cost = self.bound(BoundInputs { tool_calls: 1, output_max: Some(output), ..self.inputs }).cost;
        left.cost.map_or(cost, |left| cost.min(left))
    }

    /// The most hosted calls, one at least, with which `output` tokens fit.
    fn with_calls(&self, left: Headroom, output: u64) -> BoundInputs {
        let demand = self.candidate.demand;
        let with = |tool_calls| BoundInputs { tool_calls, ..self.inputs };
        if !demand.tools.loops || !self.candidate.operation.has_tool_calls_max {
            return self.inputs;
        }
        let fits = |calls| self.fits(left, BoundInputs { output_max: Some(output), ..with(calls) });
        let (mut most, mut least) = (self.inputs.tool_calls.max(1), 1);
        while least < most {
            let middle = least + (most - least).div_ceil(2);
            if fits(middle) { least = middle } else { most = middle - 1 }
        }
        with(least)
    }

    fn fits(&self, left: Headroom, inputs: BoundInputs) -> bool {
        let bound = self.bound(inputs);
        let amount = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
        let all = bound.input_tokens.saturating_add(bound.output_tokens);
        left.cost.is_none_or(|left| bound.cost <= left)
            && left.tokens.is_none_or(|left| amount(all) <= left)
            && left.input_tokens.is_none_or(|left| amount(bound.input_tokens) <= left)
            && left.output_tokens.is_none_or(|left| amount(bound.output_tokens) <= left)
    }

    /// The most output per choice that fits; `None` if nothing bounds it.
    fn affordable(&self, left: Headroom, inputs: BoundInputs, requested: u64) -> Option<u64> {
        let Candidate { demand, price, image_price, .. } = *self.candidate;
        // The parts of a bound other than the output that may be shortened.
        let rest = self.bound(BoundInputs { output_max: Some(0), ..inputs });
        let amount = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
        let (input, beside) = (amount(rest.input_tokens), amount(rest.output_tokens));
        let per_choice =
            |tokens: i64| u64::try_from(tokens.saturating_sub(beside)).unwrap_or(0) / demand.choices.max(1);
        let by_cost = left
            .cost
            .filter(|_| self.candidate.priced)
            .map(|cost| affordable_output(price, image_price, demand, inputs, cost));
        let by_tokens = left.tokens.map(|tokens| per_choice(tokens.saturating_sub(input)));
        let by_output = left.output_tokens.map(per_choice);
        [by_cost, by_tokens, by_output].into_iter().flatten().min().map(|output| output.min(requested))
    }

    fn bound(&self, inputs: BoundInputs) -> Bound {
        let Candidate { demand, price, image_price, priced, .. } = *self.candidate;
        let bound = bound(price, image_price, demand, inputs);
        if priced { bound } else { Bound { cost: Money::ZERO, ..bound } }
    }

    async fn reserve(&self, inputs: BoundInputs, turn: Turn) -> Result<Result<Reservation, Denial>, Refusal> {
        let candidate = self.candidate;
        let bound = self.bound(inputs);
        let tokens = bound.input_tokens.saturating_add(bound.output_tokens);
        if bound.cost > COST_MAX || tokens > TOKENS_MAX {
            let message =
                "The most that this request can cost is too large; ask for less output or fewer tool calls.";
            return Err(Refusal::Invalid(message.to_owned(), None));
        }
        let request = ReserveRequest {
            is_priced: candidate.priced,
            client_cap: candidate.client_cap,
            tier: candidate.demand.tier.unwrap_or(self.config.policy.project_tier),
            price_version: Arc::clone(&candidate.price_version),
            stream: candidate.demand.stream,
            ..ReserveRequest::new(Arc::clone(&candidate.attribution), bound)
        };
        let attempt = |request| self.guard.reserve_in_turn(request, turn);
        match candidate.permit.ask(request, attempt).await? {
            Ok(reservation) => Ok(Ok(reservation)),
            Err(Denied::ByLimit(denial)) => Ok(Err(denial)),
            Err(refused) => Err(refused.into()),
        }
    }

    /// Counts the input exactly, as far as it can be counted, once.
    async fn count_input(&mut self) {
        if std::mem::replace(&mut self.counted, true) {
            return;
        }
        let room = self.headroom().cost;
        // Boxed, so that requests that need no count don't have its size.
        Box::pin(self.candidate.counter.count(self.candidate.countable(), room, &mut self.inputs)).await;
    }
}

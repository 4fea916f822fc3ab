//! Rate limits on tokens: a request takes the most tokens that it may use, after it was
//! counted by rate limits on requests.
//!
//! If its bytes would take too much, its text is counted first. An output that the
//! client left open is shortened to what a whole minute has, since a larger request
//! would be refused however long it waits.

use std::sync::Arc;

use crate::guard::{Guard, RateCheck};
use crate::pricing::bound::{bound, output_per_choice, reads_unseen};
use crate::proxy::admit::{COUNTED_PART, Candidate, Config};
use crate::proxy::refuse::Refusal;
use crate::throttle::{Largest, RateCost};

/// Takes a candidate's tokens from its rate limits, and makes it smaller if needed and possible.
pub(super) async fn pace(
    guard: &Arc<Guard>,
    config: Config,
    candidate: &mut Candidate<'_>,
    rate_check: RateCheck,
) -> Result<RateCheck, Refusal> {
    let largest = candidate.standing.largest;
    if largest != Largest::default() {
        if is_to_count(candidate, largest) {
            Box::pin(candidate.counter.count(candidate.countable(), None, &mut candidate.inputs)).await;
        }
        if config.clamp {
            shorten(candidate, largest, config.clamp_output_min.max(1));
        }
    }
    Ok(guard.pace_tokens(rate_check, &candidate.attribution, || take(candidate)).await?)
}

/// Whether the exact count may let it pass that its bytes would not. Upstream is asked only
/// if the request could not pass at all otherwise.
fn is_to_count(candidate: &Candidate<'_>, largest: Largest) -> bool {
    let Candidate { demand, price, inputs, encoding, .. } = *candidate;
    let RateCost { tokens, input_tokens, .. } = take(candidate);
    let most = [largest.tokens, largest.input_tokens].into_iter().flatten().min();
    let is_much = most.is_some_and(|most| input_tokens > most / u64::from(COUNTED_PART));
    let is_too_much = largest.tokens.is_some_and(|most| tokens > most)
        || largest.input_tokens.is_some_and(|most| input_tokens > most);
    is_too_much || (is_much && encoding.is_some() && !reads_unseen(price, demand, inputs))
}

/// Shortens an open output so that the request fits into a minute, down to `floor` tokens.
fn shorten(candidate: &mut Candidate<'_>, largest: Largest, floor: u64) {
    let demand = candidate.demand;
    let is_open = demand.output_max.is_none()
        && candidate.operation.output_field.is_some()
        && demand.prediction_bytes == 0;
    let tokens = take(candidate);
    let by_tokens = largest.tokens.map(|most| most.saturating_sub(tokens.input_tokens));
    let Some(room) = [by_tokens, largest.output_tokens].into_iter().flatten().min() else { return };
    if is_open && !demand.echo && tokens.output_tokens > room {
        let written = output_per_choice(candidate.price, demand, candidate.inputs.output_max);
        let beside = tokens.output_tokens.saturating_sub(written.saturating_mul(demand.choices.max(1)));
        let each = room.saturating_sub(beside) / demand.choices.max(1);
        candidate.inputs.output_max = Some(each.max(floor));
    }
}

/// The most tokens that a candidate may use.
fn take(candidate: &Candidate<'_>) -> RateCost {
    let Candidate { price, image_price, demand, inputs, .. } = *candidate;
    RateCost::of(&bound(price, image_price, demand, inputs).quantities())
}

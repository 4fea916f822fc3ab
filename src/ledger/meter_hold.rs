//! Applies one record to one meter.

use crate::domain::Window;
use crate::ledger::entry::{Crossing, Hold, reserved};
use crate::ledger::meter::{Meter, Metered, Subject};

/// A hold's part on one meter.
#[derive(Clone, Debug)]
pub(super) struct MeterHold {
    pub(super) slot: u32,
    pub(super) subject: Subject,
    pub(super) start_s: i64,
    pub(super) amount: i64,
}

/// A request's parts on its meters of one limit.
pub(super) fn meter_holds_of<'a>(
    metered: &'a Metered,
    hold: &'a Hold,
) -> impl Iterator<Item = MeterHold> + 'a {
    let start_s = metered.span(hold.admitted_ms.div_euclid(1_000)).start_s;
    let amount = reserved(&hold.bound, metered.limit.unit);
    let is_metered = metered.limit.window != Window::Request;
    let subjects = is_metered.then(|| metered.subjects(&hold.attribution));
    let of = move |subject| MeterHold { slot: metered.slot, subject, start_s, amount };
    subjects.into_iter().flatten().map(of)
}

/// Holds a request's amount on its meters of one limit.
pub(super) fn hold_on(metered: &mut Metered, hold: &Hold, meter_holds: &mut Vec<MeterHold>) {
    let first = meter_holds.len();
    meter_holds.extend(meter_holds_of(metered, hold));
    for MeterHold { subject, start_s, amount, .. } in &meter_holds[first..] {
        let meter = metered.meters.made((subject.clone(), *start_s));
        meter.held = meter.held.saturating_add(*amount);
    }
}

/// Replaces a hold on its meter by the real amount.
pub(super) fn end_on(
    metered: &mut Metered,
    meter_hold: &MeterHold,
    amount: i64,
    at_ms: i64,
    crossings: &mut Vec<Crossing>,
) {
    let Metered { limit, thresholds, meters, .. } = metered;
    let place = (meter_hold.subject.clone(), meter_hold.start_s);
    let meter = meters.made(place.clone());
    meter.held = meter.held.saturating_sub(meter_hold.amount);
    let before = meter.settled;
    meter.settled = before.saturating_add(amount);
    let after = *meter;
    // A request that cost nothing leaves no meter behind.
    if after == Meter::default() {
        meters.remove(&place);
    }
    let passed = passed(thresholds, before, after.settled);
    crossings.extend(passed.map(|t| {
        Crossing::soft(limit, meter_hold.subject.label(), t, meter_hold.start_s, after.settled, at_ms)
    }));
}

/// Adds to a meter's settled amount and notes the thresholds it goes past.
pub(super) fn settle_on(
    metered: &mut Metered,
    subject: &Subject,
    start_s: i64,
    amount: i64,
    at_ms: i64,
    crossings: &mut Vec<Crossing>,
) {
    let Metered { limit, thresholds, meters, .. } = metered;
    let Some(meter) = meters.get_mut(&(subject.clone(), start_s)) else { return };
    let before = meter.settled;
    meter.settled = before.saturating_add(amount);
    let passed = passed(thresholds, before, meter.settled);
    crossings
        .extend(passed.map(|t| Crossing::soft(limit, subject.label(), t, start_s, meter.settled, at_ms)));
}

/// The thresholds that lie between what was settled before and what is now.
fn passed(thresholds: &[i64], before: i64, after: i64) -> impl Iterator<Item = i64> {
    thresholds.iter().copied().filter(move |threshold| before < *threshold && *threshold <= after)
}

/// The thresholds that a meter has already passed.
pub(super) fn behind<'a>(
    metered: &'a Metered,
    (subject, start_s): &'a (Subject, i64),
    settled: i64,
    at_ms: i64,
) -> impl Iterator<Item = Crossing> + 'a {
    let below = metered.thresholds.iter().filter(move |t| **t <= settled);
    below.map(move |t| Crossing::soft(&metered.limit, subject.label(), *t, *start_s, settled, at_ms))
}

//! A group of calls: what it wants, and what the ledger decides of it.

mod decided;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::ledger::Ledger;
use crate::ledger::entry::Entry;
use crate::ledger::shared::MeterKey;
use crate::store::postgres::calls::{AdmittedHold, Call, Correction, NotReserved, Queue, Reserve};
use crate::store::postgres::session::{Need, Rows, Wants};
use crate::throttle::shared::BucketKey;
use crate::throttle::{Bucket, RateCost};

pub(super) use self::decided::{Decided, Outcomes};

/// Ids that the ending of a hold takes which another guard has charged.
const LATE_MAX: usize = 2;

/// The calls of one transaction.
pub(super) struct Group {
    /// Its number in the order of taking.
    number: u64,
    calls: Vec<Call>,
}

impl Group {
    pub(super) fn new(number: u64, calls: Vec<Call>) -> Self {
        Self { number, calls }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// A group for each of its calls, in their order.
    pub(super) fn each_alone(self) -> impl Iterator<Item = Self> {
        let number = self.number;
        self.calls.into_iter().map(move |call| Self { number, calls: vec![call] })
    }

    /// How many calls it has.
    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    /// Discards what is left of it: the database would refuse it again and again. A hold whose
    /// ending this is stays held until this guard ends, and is then charged in full. Returns the
    /// holds of dead guards that could not be charged.
    pub(super) fn discard(self, error: &(dyn std::error::Error + 'static)) -> Vec<u64> {
        let mut not_charged = Vec::new();
        for call in self.calls {
            let Some(record) = call.record() else { continue };
            if let Call::Charge(hold) = &call {
                not_charged.push(hold.id);
            }
            tracing::error!(
                event = "record_not_written", record, %error,
                "the database refuses a record, which is discarded; a hold whose ending it is stays held"
            );
            drop(refused(call));
        }
        not_charged
    }

    /// What must be locked and read before it is decided.
    pub(super) fn wants(&self, ledger: &Ledger) -> Wants {
        let (mut asked, mut meters, mut past) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let mut ids = 0;
        let mut rates = BTreeSet::new();
        let (mut orphans, mut jobs, mut corrected) = (Vec::new(), Vec::new(), BTreeSet::new());
        let holds = self.calls.iter().filter_map(Call::hold_of_job).map(|hold| hold.id).collect();
        for call in &self.calls {
            match call {
                Call::Reserve(reserve) => {
                    ledger.meters_of(&reserve.request.attribution, reserve.at_ms, &mut asked);
                    ids += 1;
                }
                Call::Take(take) => rates.extend(take.takes.iter().map(|take| take.key.clone())),
                Call::GiveBack(backs, _) => rates.extend(backs.iter().map(|back| back.key.clone())),
                Call::End(entry, _) | Call::EndJob(entry, ..) if ledger.charged(entry.id).is_some() => {
                    let of =
                        [ledger.charged(entry.id).map(|hold| &hold.attribution), Some(&entry.attribution)];
                    for attribution in of.into_iter().flatten() {
                        ledger.meters_of(attribution, entry.admitted_ms, &mut past);
                    }
                    ids += LATE_MAX;
                    corrected.insert(entry.id);
                }
                Call::End(entry, _) => drop(ledger.meters_of_hold(entry.id, &mut meters)),
                Call::EndJob(_, hold, ..) => {
                    if !ledger.meters_of_hold(hold.id, &mut meters) {
                        ledger.meters_of(&hold.attribution, hold.admitted_ms, &mut meters);
                    }
                    jobs.push(hold.id);
                }
                Call::Charge(hold) => {
                    ledger.meters_of(&hold.attribution, hold.admitted_ms, &mut meters);
                    orphans.push(hold.id);
                }
                Call::Correct(correction) => {
                    let Entry { attribution, admitted_ms, .. } = &correction.entry;
                    ledger.meters_of(attribution, *admitted_ms, &mut past);
                    corrected.extend(correction.entry.corrects);
                    ids += 1;
                }
                Call::Crossings(..) | Call::Job(..) | Call::Objects(..) | Call::Flush(_) => {}
            }
        }
        let mut wanted: BTreeMap<MeterKey, Need> = past.into_iter().map(|key| (key, Need::IfThere)).collect();
        // A request is refused where there are too many; what was held is written in any case.
        for (keys, may_be_full) in [(asked, true), (meters, false)] {
            wanted.extend(keys.into_iter().map(|key| {
                let need = match ledger.has_meter(&key) {
                    true => Need::Known,
                    false if may_be_full && ledger.is_full(&key) => Need::IfThere,
                    false => Need::New,
                };
                (key, need)
            }));
        }
        let summed_from_s =
            self.calls.iter().filter_map(Call::admitted_ms).min().map(|at_ms| at_ms.div_euclid(1_000));
        let credit = ledger.account().is_some();
        let (meters, rates) = (wanted.into_iter().collect(), rates.into_iter().collect());
        let corrected = corrected.into_iter().collect();
        let rules_version = ledger.rules_version();
        Wants { rules_version, meters, orphans, jobs, holds, credit, rates, corrected, ids, summed_from_s }
    }

    /// Decides every call on the rows that it wanted; `None` if a meter lacks its row.
    pub(super) fn decide(&self, ledger: &mut Ledger, wants: &Wants, rows: &Rows) -> Option<Decided<'_>> {
        let mut is_whole = true;
        ledger.forget_many_meters();
        for ((key, need), row) in wants.meters.iter().zip(&rows.meters) {
            if let Some(meter) = row {
                ledger.load_meter(key, *meter);
            } else {
                ledger.forget_meter(key);
                is_whole &= *need == Need::IfThere;
            }
        }
        if !is_whole {
            return None;
        }
        if let Some(segments) = &rows.credit {
            ledger.load_credit(segments);
        }
        ledger.give_ids(rows.ids.iter().copied());
        let (booked, buckets, made) = (rows.booked.clone(), rows.rates.clone(), rows.made.clone());
        let mut decided = Decided { booked, buckets, made, ..Decided::default() };
        self.calls.iter().for_each(|call| decided.take(ledger, call, rows));
        decided.writes.credit = rows.credit.is_some().then(|| ledger.credit_segments()).flatten();
        let changed = wants.meters.iter().zip(&rows.meters).filter_map(|((key, _), row)| {
            let meter = ledger.meter(key)?;
            row.is_some_and(|row| row != meter).then(|| (key.clone(), meter))
        });
        decided.writes.meters = changed.collect();
        let is_changed = |(key, bucket): &(BucketKey, Bucket)| rows.rates.get(key) != Some(bucket);
        decided.writes.rates = std::mem::take(&mut decided.buckets).into_iter().filter(is_changed).collect();
        Some(decided)
    }

    /// Answers all calls, now that they are written.
    pub(super) fn answer(self, outcomes: Outcomes, queue: &Arc<Queue>) {
        let Outcomes { requests, rates, corrections, jobs } = outcomes;
        let (mut requests, mut rates, mut corrections, mut jobs) =
            (requests.into_iter(), rates.into_iter(), corrections.into_iter(), jobs.into_iter());
        for call in self.calls {
            match call {
                Call::Reserve(reserve) => {
                    let Some(outcome) = requests.next() else { continue };
                    let Reserve { slot, answer, at_ms, .. } = *reserve;
                    let _ = answer.send(match outcome {
                        Ok((hold, admission)) => {
                            Ok(AdmittedHold::new(hold, admission, slot, Arc::clone(queue), at_ms))
                        }
                        Err(not_reserved) => Err(not_reserved),
                    });
                }
                Call::Take(take) => {
                    let Some(outcome) = rates.next() else { continue };
                    // Its caller may have gone.
                    if let Err(Ok(Ok(mut rate_check))) = take.answer.send(outcome) {
                        let unused = rate_check.receipt.end(RateCost::default(), Duration::ZERO);
                        queue.give_back(unused);
                    }
                }
                Call::Correct(correction) => {
                    let Correction { answer, .. } = *correction;
                    // Dropped, it answers that nothing is written.
                    if let Some(Some(entry)) = corrections.next() {
                        let _ = answer.send(entry);
                    }
                }
                Call::Job(_, _, ack) => acknowledge(ack, jobs.next() == Some(true)),
                Call::EndJob(_, _, Some(renewed), _) => {
                    acknowledge(renewed.ack, jobs.next() == Some(true));
                }
                Call::Objects(_, Some(ack)) => acknowledge(ack, true),
                Call::Flush(ack) => drop(ack.send(self.number)),
                Call::Objects(_, None)
                | Call::End(..)
                | Call::EndJob(_, _, None, _)
                | Call::Charge(_)
                | Call::Crossings(..)
                | Call::GiveBack(..) => {}
            }
        }
    }

    /// Refuses every call that a task waits for and that need not be written; the others stay.
    pub(super) fn refuse(&mut self) {
        let calls = std::mem::take(&mut self.calls);
        self.calls = calls.into_iter().filter_map(refused).collect();
    }
}

/// Refuses a call, unless it is written in the end.
pub(super) fn refused(call: Call) -> Option<Call> {
    match call {
        Call::Reserve(reserve) => {
            let _ = reserve.answer.send(Err(NotReserved::Unavailable));
            None
        }
        Call::Take(take) => {
            let _ = take.answer.send(Err(NotReserved::Unavailable));
            None
        }
        // It stays the hold of its request.
        Call::Job(_, _, ack) => {
            acknowledge(ack, false);
            None
        }
        // Its hold stays that of the job.
        Call::EndJob(_, _, Some(renewed), _) => {
            acknowledge(renewed.ack, false);
            None
        }
        // Upstream has made them, whether that can be written or not.
        Call::Objects(changes, ack) => {
            if let Some(ack) = ack {
                acknowledge(ack, false);
            }
            Some(Call::Objects(changes, None))
        }
        // Dropped, they answer that nothing is written; the next look at what dead guards have
        // left finds a hold again; and a bucket is full again within a minute.
        Call::Correct(_) | Call::Flush(_) | Call::Charge(_) | Call::GiveBack(..) => None,
        Call::End(..) | Call::EndJob(_, _, None, _) | Call::Crossings(..) => Some(call),
    }
}

fn acknowledge(ack: oneshot::Sender<bool>, is_written: bool) {
    // The caller may have gone.
    let _ = ack.send(is_written);
}

//! A group of calls: what it wants, and what the ledger decides of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::domain::Money;
use crate::ledger::entry::{Amounts, Crossing, Entry, Hold};
use crate::ledger::shared::{MeterKey, TakenHold};
use crate::ledger::{Admission, Circumstances, Ledger};
use crate::store::postgres::calls::{AdmittedHold, Call, Correction, NotReserved, Queue, Reserve};
use crate::store::postgres::session::{Need, Rows, Wants, Writes};

/// What has become of the calls of a group, in the ledger and not yet in the database.
#[derive(Default)]
pub(super) struct Decided<'a> {
    pub(super) writes: Writes<'a>,
    /// For each request, in their order.
    outcomes: Vec<Result<(Arc<Hold>, Admission), NotReserved>>,
    /// The holds that ended.
    taken: Vec<TakenHold>,
    /// Those that another guard has charged before.
    late: Vec<u64>,
}

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

    /// What must be locked and read before it is decided.
    pub(super) fn wants(&self, ledger: &Ledger) -> Wants {
        let (mut meters, mut past, mut ids) = (BTreeSet::new(), BTreeSet::new(), 0);
        let mut orphans = Vec::new();
        for call in &self.calls {
            match call {
                Call::Reserve(reserve) => {
                    ledger.meters_of(&reserve.request.attribution, reserve.at_ms, &mut meters);
                    ids += 1;
                }
                Call::End(entry, _) if ledger.charged(entry.id).is_some() => {
                    ledger.meters_of(&entry.attribution, entry.admitted_ms, &mut past);
                    ids += 1;
                }
                Call::End(entry, _) => drop(ledger.meters_of_hold(entry.id, &mut meters)),
                Call::Charge(hold) => {
                    ledger.meters_of(&hold.attribution, hold.admitted_ms, &mut meters);
                    orphans.push(hold.id);
                }
                Call::Correct(correction) => {
                    let Entry { attribution, admitted_ms, .. } = &correction.entry;
                    ledger.meters_of(attribution, *admitted_ms, &mut past);
                    ids += 1;
                }
                Call::Crossings(..) | Call::Job(..) | Call::Objects(..) | Call::Flush(_) => {}
            }
        }
        let mut wanted: BTreeMap<MeterKey, Need> = past.into_iter().map(|key| (key, Need::IfThere)).collect();
        wanted.extend(meters.into_iter().map(|key| {
            let need = if ledger.has_meter(&key) { Need::Known } else { Need::New };
            (key, need)
        }));
        let summed_from_s =
            self.calls.iter().filter_map(admitted_ms).min().map(|at_ms| at_ms.div_euclid(1_000));
        let credit = ledger.account().is_some();
        let meters = wanted.into_iter().collect();
        Wants { rules_version: ledger.rules_version(), meters, orphans, credit, ids, summed_from_s }
    }

    /// Decides every call on the rows that it wanted; `None` if a meter lacks its row.
    pub(super) fn decide(&self, ledger: &mut Ledger, wants: &Wants, rows: &Rows) -> Option<Decided<'_>> {
        let mut is_whole = true;
        ledger.forget_many_meters();
        for ((key, need), row) in wants.meters.iter().zip(&rows.meters) {
            match row {
                Some(meter) => ledger.load_meter(key, *meter),
                None if *need == Need::IfThere => {}
                None => {
                    ledger.forget_meter(key);
                    is_whole = false;
                }
            }
        }
        if !is_whole {
            return None;
        }
        if let Some(segments) = &rows.credit {
            ledger.load_credit(segments);
        }
        ledger.give_ids(rows.ids.iter().copied());
        let mut decided = Decided::default();
        self.calls.iter().for_each(|call| decided.take(ledger, call, rows));
        decided.writes.credit = rows.credit.is_some().then(|| ledger.credit_segments()).flatten();
        let changed = wants.meters.iter().zip(&rows.meters).filter_map(|((key, _), row)| {
            let meter = ledger.meter(key)?;
            row.is_some_and(|row| row != meter).then(|| (key.clone(), meter))
        });
        decided.writes.meters = changed.collect();
        Some(decided)
    }

    /// Answers all calls, now that they are written.
    pub(super) fn answer(self, outcomes: Outcomes, queue: &Arc<Queue>) {
        let (mut requests, mut corrections) =
            (outcomes.requests.into_iter(), outcomes.corrections.into_iter());
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
                Call::Correct(correction) => {
                    let Correction { answer, .. } = *correction;
                    if let Some(entry) = corrections.next() {
                        let _ = answer.send(entry);
                    }
                }
                Call::Job(_, _, ack) | Call::Objects(_, Some(ack)) => acknowledge(ack, true),
                Call::Flush(ack) => drop(ack.send(self.number)),
                Call::Objects(_, None) | Call::End(..) | Call::Charge(_) | Call::Crossings(..) => {}
            }
        }
    }

    /// Refuses every call that a task waits for and that need not be written; the others stay.
    pub(super) fn refuse(&mut self) {
        let calls = std::mem::take(&mut self.calls);
        self.calls = calls.into_iter().filter_map(refused).collect();
    }
}

/// When the request was admitted that a call ends or corrects, in Unix milliseconds.
fn admitted_ms(call: &Call) -> Option<i64> {
    match call {
        Call::End(entry, _) => Some(entry.admitted_ms),
        Call::Charge(hold) => Some(hold.admitted_ms),
        Call::Correct(correction) => Some(correction.entry.admitted_ms),
        Call::Reserve(_) | Call::Crossings(..) | Call::Job(..) | Call::Objects(..) | Call::Flush(_) => None,
    }
}

/// Refuses a call, unless it is written in the end.
pub(super) fn refused(call: Call) -> Option<Call> {
    match call {
        Call::Reserve(reserve) => {
            let _ = reserve.answer.send(Err(NotReserved::Unavailable));
            None
        }
        // It stays the hold of its request.
        Call::Job(_, _, ack) => {
            acknowledge(ack, false);
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
        // left finds a hold again.
        Call::Correct(_) | Call::Flush(_) | Call::Charge(_) => None,
        Call::End(..) | Call::Crossings(..) => Some(call),
    }
}

fn acknowledge(ack: oneshot::Sender<bool>, is_written: bool) {
    // The caller may have gone.
    let _ = ack.send(is_written);
}

/// What is answered once a group is written.
pub(super) struct Outcomes {
    requests: Vec<Result<(Arc<Hold>, Admission), NotReserved>>,
    corrections: Vec<Entry>,
}

impl<'a> Decided<'a> {
    fn take(&mut self, ledger: &mut Ledger, call: &'a Call, rows: &Rows) {
        match call {
            Call::Reserve(reserve) => {
                let Reserve { request, rules_version, at_ms, turn, .. } = &**reserve;
                // Its key may be revoked by now.
                if *rules_version < rows.rules_version {
                    return self.outcomes.push(Err(NotReserved::Outdated));
                }
                let unwritten_releases = Amounts::default();
                let circumstances = Circumstances { at_ms: *at_ms, unwritten_releases, turn: *turn };
                let outcome = ledger.admit(request.clone(), &circumstances);
                if let Ok((hold, _)) = &outcome {
                    self.writes.holds.push(Arc::clone(hold));
                }
                self.outcomes.push(outcome.map_err(NotReserved::NotAdmitted));
            }
            Call::End(entry, _) if ledger.charged(entry.id).is_some() => self.end_late(ledger, entry),
            Call::End(entry, _) => {
                self.taken.extend(ledger.copy_of_hold(entry.id));
                self.writes.crossings.extend(ledger.end(entry).crossings);
                self.writes.ended.push(entry.id);
                self.writes.entries.push(entry);
            }
            Call::Charge(hold) => {
                let is_open = rows.orphans.contains(&hold.id) && !self.writes.ended.contains(&hold.id);
                if is_open {
                    let entry = Entry::assumed(hold, rows.now_ms, "the guard ended before the request did");
                    ledger.adopt_hold(hold);
                    self.writes.crossings.extend(ledger.end(&entry).crossings);
                    self.writes.ended.push(hold.id);
                    self.writes.charges.push(entry);
                }
            }
            Call::Correct(correction) => {
                let entry = Entry { id: ledger.take_id(), ..correction.entry.clone() };
                self.writes.crossings.extend(ledger.apply(&entry));
                self.writes.audited.push((correction.audited)(&entry));
                self.writes.corrections.push(entry);
            }
            Call::Crossings(crossings, _) => self.writes.crossings.extend(crossings.iter().cloned()),
            Call::Job(hold, job, _) => self.writes.jobs.push((hold, job)),
            Call::Objects(changes, _) => self.writes.objects.push(changes),
            Call::Flush(_) => {}
        }
    }

    /// Corrects what another guard has charged for a hold of this one.
    fn end_late(&mut self, ledger: &mut Ledger, ending: &Entry) {
        let Some(hold) = ledger.charged(ending.id) else { return };
        let correction = Entry::late(ending, hold.bound.cost);
        self.late.push(ending.id);
        if correction.cost != Money::ZERO {
            let correction = Entry { id: ledger.take_id(), ..correction };
            self.writes.crossings.extend(ledger.apply(&correction));
            self.writes.charges.push(correction);
        }
    }

    /// Forgets in the ledger what is written now.
    pub(super) fn written(&self, ledger: &mut Ledger) {
        self.late.iter().for_each(|id| ledger.forget_charged(*id));
    }

    /// What is answered once it is written.
    pub(super) fn outcomes(self) -> Outcomes {
        Outcomes { requests: self.outcomes, corrections: self.writes.corrections }
    }

    /// Takes it out of the ledger, since it was not written.
    pub(super) fn undo(self, ledger: &mut Ledger) {
        for hold in &self.writes.holds {
            ledger.forget_hold(hold.id);
        }
        self.taken.into_iter().for_each(|hold| ledger.put_back(hold));
        // What was raised in it was not written either.
        ledger.forget_credit_marks();
    }

    /// The crossings that it may write.
    pub(super) fn crossings(&self) -> &[Crossing] {
        &self.writes.crossings
    }
}

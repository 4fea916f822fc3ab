//! What the ledger decides of the calls of a group, and what is written of it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::domain::Money;
use crate::ledger::entry::{Amounts, Entry, Hold};
use crate::ledger::shared::RowCount;
use crate::ledger::{Admission, Circumstances, Ledger};
use crate::store::postgres::calls::{Call, Correction, NotReserved, Renewed, Reserve, Taking};
use crate::store::postgres::session::{Rows, Writes};
use crate::throttle;
use crate::throttle::shared::Buckets;

/// What has become of the calls of a group, in the ledger and not yet in the database.
#[derive(Default)]
pub(in crate::store::postgres) struct Decided<'a> {
    pub(in crate::store::postgres) writes: Writes<'a>,
    /// For each request, in their order.
    pub(super) outcomes: Vec<Result<(Arc<Hold>, Admission), NotReserved>>,
    /// For each that takes from the rates, in their order.
    pub(super) taken_rates: Vec<Result<Taking, NotReserved>>,
    /// For each correction, in their order; `None` is not made.
    pub(super) corrections: Vec<Option<Entry>>,
    /// What the entries that it corrects come to with their corrections.
    pub(super) booked: HashMap<u64, Money>,
    /// The buckets of rates that it has locked.
    pub(super) buckets: Buckets,
    /// The holds that ended.
    pub(super) taken: Vec<Arc<Hold>>,
    /// Those that another guard has charged before.
    pub(super) late: Vec<u64>,
    /// The rows of meters that it has made.
    pub(super) made: Vec<RowCount>,
    /// For each hold that is to be that of a job, in their order: whether it is.
    pub(super) jobs: Vec<bool>,
}

/// What is answered once a group is written.
pub(in crate::store::postgres) struct Outcomes {
    pub(super) requests: Vec<Result<(Arc<Hold>, Admission), NotReserved>>,
    pub(super) rates: Vec<Result<Taking, NotReserved>>,
    pub(super) corrections: Vec<Option<Entry>>,
    pub(super) jobs: Vec<bool>,
}

impl<'a> Decided<'a> {
    pub(super) fn take(&mut self, ledger: &mut Ledger, call: &'a Call, rows: &Rows) {
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
            Call::Take(take) => {
                let outcome = if take.rules_version < rows.rules_version {
                    Err(NotReserved::Outdated)
                } else {
                    Ok(throttle::shared::take(&take.takes, &mut self.buckets, rows.now()))
                };
                self.taken_rates.push(outcome);
            }
            Call::GiveBack(backs, _) => {
                for back in backs {
                    back.to(&mut self.buckets, rows.now());
                }
            }
            Call::End(entry, _) | Call::EndJob(entry, ..) if ledger.charged(entry.id).is_some() => {
                self.end_late(ledger, entry);
                // Its next hold stays its request's.
                self.jobs.extend(matches!(call, Call::EndJob(_, _, Some(_), _)).then_some(false));
            }
            Call::End(entry, _) => {
                self.taken.extend(ledger.hold(entry.id).cloned());
                self.end(ledger, entry);
            }
            Call::EndJob(entry, hold, None, _) => drop(self.end_of_job(ledger, (entry, hold), rows)),
            Call::EndJob(entry, hold, Some(renewed), _) => {
                self.renew(ledger, (entry, hold), renewed, rows);
            }
            Call::Charge(hold) => self.charge(ledger, hold, rows),
            Call::Correct(correction) => {
                self.correct(ledger, correction);
            }
            Call::Crossings(crossings, _) => self.writes.crossings.extend(crossings.iter().cloned()),
            Call::Job(hold, job, _) => {
                // Another guard may have charged it, and then it goes on as its request's.
                let is_open = is_open(ledger, hold, rows);
                if is_open {
                    self.writes.jobs.push((hold, job));
                }
                self.jobs.push(is_open);
            }
            Call::Objects(changes, _) => self.writes.objects.push(changes),
            Call::Flush(_) => {}
        }
    }

    /// Charges a hold of a guard that is no more.
    fn charge(&mut self, ledger: &mut Ledger, hold: &Arc<Hold>, rows: &Rows) {
        if rows.orphans.contains(&hold.id) && !self.writes.ended.contains(&hold.id) {
            let entry = Entry::assumed(hold, rows.now_ms, "the guard ended before the request did");
            ledger.put_back(hold);
            self.writes.crossings.extend(ledger.end(&entry).crossings);
            self.writes.ended.push(hold.id);
            self.writes.charges.push(entry);
        }
    }

    /// Ends the hold of a job that goes on with another one. Without that it goes on as it is.
    fn renew(
        &mut self,
        ledger: &mut Ledger,
        ending: (&'a Entry, &Arc<Hold>),
        renewed: &'a Renewed,
        rows: &Rows,
    ) {
        let is_renewed = is_open(ledger, &renewed.hold, rows) && self.end_of_job(ledger, ending, rows);
        if is_renewed {
            self.writes.jobs.push((&renewed.hold, &renewed.job));
        }
        self.jobs.push(is_renewed);
    }

    fn end(&mut self, ledger: &mut Ledger, entry: &'a Entry) {
        self.writes.crossings.extend(ledger.end(entry).crossings);
        // Its request may have gone while the row of its job was being written.
        self.writes.jobs.retain(|(hold, _)| hold.id != entry.id);
        self.writes.ended.push(entry.id);
        self.writes.entries.push(entry);
    }

    /// Ends the hold of a job: one that is in no guard's memory, but for the time in which its row
    /// is being written. What another guard has ended stays as it is; returns whether this was first.
    fn end_of_job(
        &mut self,
        ledger: &mut Ledger,
        (entry, hold): (&'a Entry, &Arc<Hold>),
        rows: &Rows,
    ) -> bool {
        if let Some(known) = ledger.hold(hold.id).cloned() {
            self.taken.push(known);
        } else if rows.jobs.contains(&hold.id) && !self.writes.ended.contains(&hold.id) {
            ledger.put_back(hold);
        } else {
            return false;
        }
        self.end(ledger, entry);
        true
    }

    /// Corrects an entry, unless that and its corrections would come to less than nothing: what it was
    /// when the operator asked may have been corrected since.
    fn correct(&mut self, ledger: &mut Ledger, correction: &Correction) {
        let Entry { corrects, cost, .. } = correction.entry;
        if let Some(booked) = corrects.and_then(|id| self.booked.get_mut(&id)) {
            if cost < Money::ZERO && *booked + cost < Money::ZERO {
                return self.corrections.push(None);
            }
            *booked = *booked + cost;
        }
        let entry = Entry { id: ledger.take_id(), ..correction.entry.clone() };
        self.writes.crossings.extend(ledger.apply(&entry));
        self.writes.audited.push((correction.audited)(&entry));
        self.writes.corrections.push(entry.clone());
        self.corrections.push(Some(entry));
    }

    /// Corrects what another guard has charged for a hold of this one, and what operators have
    /// corrected of that meanwhile.
    fn end_late(&mut self, ledger: &mut Ledger, ending: &Entry) {
        let Some(hold) = ledger.charged(ending.id) else { return };
        // It may have been pruned.
        let booked = self.booked.get(&ending.id).copied().unwrap_or(hold.bound.cost);
        let corrections = Entry::late(ending, hold, booked);
        self.late.push(ending.id);
        // The row of its job, if it was one's.
        self.writes.ended.push(ending.id);
        for correction in corrections {
            let correction = Entry { id: ledger.take_id(), ..correction };
            self.writes.crossings.extend(ledger.apply(&correction));
            self.writes.charges.push(correction);
            self.booked.insert(ending.id, Money::ZERO);
        }
    }

    /// Notes in the ledger what is written now.
    pub(in crate::store::postgres) fn written(&self, ledger: &mut Ledger) {
        ledger.note_made(&self.made);
        self.late.iter().for_each(|id| ledger.forget_charged(*id));
        // From now on any guard may end it, by its row.
        self.writes.jobs.iter().for_each(|(hold, _)| ledger.forget_hold(hold.id));
    }

    /// What is answered once it is written.
    pub(in crate::store::postgres) fn outcomes(self) -> Outcomes {
        Outcomes {
            requests: self.outcomes,
            rates: self.taken_rates,
            corrections: self.corrections,
            jobs: self.jobs,
        }
    }

    /// Takes it out of the ledger, since it was not written. If the guard has joined again
    /// since it was decided, `kept` are the holds that no other guard has charged meanwhile.
    pub(in crate::store::postgres) fn undo(self, ledger: &mut Ledger, kept: Option<&HashSet<u64>>) {
        for hold in &self.writes.holds {
            ledger.forget_hold(hold.id);
        }
        for hold in &self.taken {
            match kept {
                Some(kept) if !kept.contains(&hold.id) => ledger.note_charged(hold),
                _ => ledger.put_back(hold),
            }
        }
        // What was raised in it was not written either.
        ledger.forget_credit_marks();
    }
}

/// Whether a hold that is to be that of a job is open. Its row is locked: an ending that another
/// lane has decided meanwhile comes behind the job, and removes it.
fn is_open(ledger: &Ledger, hold: &Hold, rows: &Rows) -> bool {
    ledger.hold(hold.id).is_some() && rows.holds.contains(&hold.id)
}

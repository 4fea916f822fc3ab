//! A look at a guard: what must hold at each event.

use spendguard::domain::Money;
use spendguard::domain::limit::Mode;
use spendguard::guard::Guard;
use spendguard::startup::Opened;

use super::{AUDIT, State, World};
use crate::account::{Bill, locked};
use crate::covered::Excused;

impl World {
    /// Every meter: nothing is admitted past a cap, and all that upstream bills
    /// is covered.
    pub(super) fn look(
        &self,
        state: &mut State,
        Opened { rulebook, books, guard, .. }: &Opened,
        is_changing: bool,
    ) {
        let excused = self.look_at_jobs(state, guard, is_changing);
        let mut covered = None;
        for (limit, readings) in books.limits() {
            for reading in readings {
                let meter = reading.meter;
                let total = meter.settled + meter.held;
                let subject = reading.subject.label().to_owned();
                if &*limit.name == AUDIT {
                    covered = Some(total);
                }
                let key = (limit.name.to_string(), subject, reading.span.start_s);
                let known = state.totals.get(&key).copied();
                let peak = known.map_or(total, |(_, peak, _)| peak.max(total));
                state.totals.insert(key, (total, peak, meter.held));
                let Some(hard) = limit.hard.filter(|_| limit.mode == Mode::Enforce) else { continue };
                // What another life, with other limits, has settled in a window that
                // comes now is only looked at.
                let held = known.map(|(.., held)| held);
                let known = known.map(|(last, ..)| last);
                // What jobs hold that were begun under other limits is looked at, too.
                let first = if self.jobs.are_begun { total } else { meter.settled };
                let most = known.unwrap_or(first).max(hard);
                // Where an assumption is broken, one request may overrun its hold, and jobs are booked past
                // the caps where that is documented; then nothing more is admitted.
                let is_kept = self.is_sound() && !state.is_overbooked;
                let is_admitted = is_kept || held.is_some_and(|held| meter.held > held);
                if (!is_changing && total > most && is_admitted) || meter.held < 0 {
                    let text = format!("{}: {meter:?} of {hard}, after {known:?}", limit.name);
                    self.fail(state, text);
                }
            }
        }
        // Corrections may take what was never there.
        let is_kept = !self.corrects && self.is_sound() && !state.is_overbooked;
        let credit = rulebook.credit_balance().filter(|_| is_kept);
        if credit.is_some_and(|balance| balance.available < Money::ZERO) {
            self.fail(state, format!("credit is overdrawn: {credit:?}"));
        }
        let billed = (self.account.pico() - excused.pico).div_ceil(1_000);
        let covered = covered.filter(|_| !self.cancels && !is_changing && self.is_sound());
        if covered.is_some_and(|covered| u128::try_from(covered).unwrap() < billed) {
            let sum = |bills: &[Bill]| bills.iter().map(Bill::pico).sum::<u128>();
            let bills = self.account.bills().into_iter().map(|(name, bills)| (sum(&bills), name));
            let dearest = bills.max().map(|(_, name)| name);
            let story = self.account.all_most().remove(&dearest.clone().unwrap_or_default());
            let text = format!(
                "upstream bills {billed} nano-dollars, the ledger covers {covered:?}; the dearest is {dearest:?}: {story:?}"
            );
            self.fail(state, text);
        }
    }

    /// Each job by itself: what upstream bills is covered by its own entries and holds. Returns what is
    /// excused.
    fn look_at_jobs(&self, state: &mut State, guard: &Guard, is_changing: bool) -> Excused {
        if !self.jobs.are_begun {
            return Excused::default();
        }
        let mut covered = locked(&self.covered);
        covered.look(guard);
        let mut faults = Vec::new();
        let excused = covered.compare(&self.account, |fault| faults.push(fault));
        drop(covered);
        state.is_overbooked |= excused.is_overbooked;
        for fault in faults.into_iter().filter(|_| !is_changing && self.is_sound()) {
            self.fail(state, fault);
        }
        excused
    }
}

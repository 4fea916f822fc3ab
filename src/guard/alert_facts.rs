//! Marks that no entry brings about: hard limits that refuse requests, caps that
//! will be reached. Each is a fact once for its window, however often it is seen.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use crate::domain::{Limit, Span, Window};
use crate::guard::Core;
use crate::ledger::Ledger;
use crate::ledger::denial::{Blocked, Denial};
use crate::ledger::entry::{Crossing, Mark};
use crate::ledger::meter::Subject;
use crate::sync::unpoisoned;

/// How many are remembered. The database knows them all, so forgetting some
/// costs a write that changes nothing.
const SEEN_MAX: usize = 10_000;

/// The marks that have been noted.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<HashSet<FactKey>>);

/// What makes a mark unique.
#[derive(Debug, PartialEq, Eq, Hash)]
struct FactKey {
    limit: String,
    subject: Subject,
    mark: Mark,
    hard: i64,
    start_s: i64,
}

impl Core {
    /// Notes that a request was refused, where a meter or the credit is nearly used up: not
    /// because one request asks for much, and not where others' holds are in the way.
    pub fn note_denial(&self, denial: &Denial) {
        match denial {
            Denial::Exhausted(blocked) => self.note_hit(blocked),
            Denial::NoCredit(_) => self.note_credit(Ledger::used_up),
            Denial::Held(_)
            | Denial::TooLarge(_)
            | Denial::OverClientCap { .. }
            | Denial::CreditHeld(_)
            | Denial::TooManyMeters(_) => {}
        }
    }

    fn note_hit(&self, blocked: &Blocked) {
        let Blocked { limit, subject, span, settled, .. } = blocked;
        if limit.window != Window::Request && blocked.is_nearly_used_up() {
            self.note(Mark::Hard, limit, subject, *span, *settled);
        }
    }

    /// Notes what a look at the account of prepaid credit finds. With no slot free, the
    /// next look notes it.
    pub fn note_credit(&self, look: fn(&mut Ledger, i64) -> Vec<Crossing>) {
        if let Some(slot) = self.free_operators_slot() {
            let _ = self.transition(slot, look);
        }
    }

    /// Notes that a cap is likely to be reached before its window ends.
    pub fn note_ahead(&self, limit: &Arc<Limit>, subject: &Subject, span: Span, settled: i64) {
        self.note(Mark::Forecast, limit, subject, span, settled);
    }

    fn note(&self, mark: Mark, limit: &Arc<Limit>, subject: &Subject, span: Span, settled: i64) {
        let Some(hard) = limit.hard else { return };
        let (name, start_s) = (limit.name.to_string(), span.start_s);
        let seen = FactKey { limit: name, subject: subject.clone(), mark, hard, start_s };
        let slot = {
            let mut all = unpoisoned(self.recent.0.lock());
            if all.contains(&seen) {
                return;
            }
            // With none free, whoever sees it next notes it.
            let Some(slot) = self.free_operators_slot() else { return };
            if all.len() >= SEEN_MAX {
                all.clear();
            }
            all.insert(seen);
            slot
        };
        let _ = self.transition(slot, |ledger, at_ms| {
            vec![Crossing {
                id: ledger.take_id(),
                mark,
                limit: Arc::clone(limit),
                subject: subject.label().to_owned(),
                threshold: hard,
                window_start_s: span.start_s,
                settled,
                at_ms,
            }]
        });
    }
}

//! Crossings that no entry causes: caps that refuse requests, credit that is used up, caps
//! that will be reached.

use std::sync::Arc;

use crate::domain::{Limit, Span, Window};
use crate::guard::Core;
use crate::guard::alert_facts::FactKey;
use crate::ledger::Ledger;
use crate::ledger::denial::{Blocked, Denial};
use crate::ledger::entry::{AlertKind, Crossing};
use crate::ledger::meter::Subject;

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
            self.note(AlertKind::Hard, limit, subject, *span, *settled);
        }
    }

    /// Notes what a look at the account of prepaid credit finds. With no slot free, the
    /// next look notes it.
    pub fn note_credit(&self, look: fn(&mut Ledger, i64) -> Vec<Crossing>) {
        if let Some(slot) = self.free_operators_slot() {
            self.transition(slot, look);
        }
    }

    /// Notes that a cap is likely to be reached before its window ends.
    pub fn note_ahead(&self, limit: &Arc<Limit>, subject: &Subject, span: Span, settled: i64) {
        self.note(AlertKind::Forecast, limit, subject, span, settled);
    }

    fn note(&self, mark: AlertKind, limit: &Arc<Limit>, subject: &Subject, span: Span, settled: i64) {
        let Some(hard) = limit.hard else { return };
        let (name, start_s) = (limit.name.to_string(), span.start_s);
        let seen = FactKey { limit: name, subject: subject.clone(), mark, hard, start_s };
        // With no slot free, the next look notes it.
        let Some(slot) = self.recent.claim(seen, || self.free_operators_slot()) else { return };
        self.transition(slot, |ledger, at_ms| {
            vec![Crossing {
                id: ledger.take_id(),
                mark,
                limit: Arc::clone(limit),
                subject: subject.label().to_owned(),
                threshold: hard,
                window_start_s: span.start_s,
                ends_s: None,
                settled,
                at_ms,
            }]
        });
    }
}

//! Hard limits that refuse requests: a fact once for each window, however many
//! requests are refused.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use crate::domain::Window;
use crate::guard::Guard;
use crate::ledger::denial::Blocked;
use crate::ledger::meter::Subject;

/// How many are remembered. The database knows them all, so forgetting some
/// costs a write that changes nothing.
const HITS_MAX: usize = 10_000;

/// The meters whose hard cap has been told: limit, subject, cap, window's start.
#[derive(Debug, Default)]
pub(super) struct Hits(Mutex<HashSet<(String, Subject, i64, i64)>>);

impl Guard {
    /// Notes that a request was refused, since a hard cap leaves no room for it.
    pub fn note_hit(&self, blocked: &Blocked) {
        if blocked.limit.window == Window::Request {
            return;
        }
        let hit =
            (blocked.limit.name.to_string(), blocked.subject.clone(), blocked.hard, blocked.span.start_s);
        let slot = {
            let mut hits = self.hits.0.lock().unwrap_or_else(PoisonError::into_inner);
            if hits.contains(&hit) {
                return;
            }
            // With none free, the next request that is refused tells it.
            let Some(slot) = self.writer.free_operators_slot() else { return };
            if hits.len() >= HITS_MAX {
                hits.clear();
            }
            hits.insert(hit);
            slot
        };
        let mut ledger = self.ledger();
        let crossing = ledger.hit(blocked, self.clock.now_ms());
        self.writer.push_passed(vec![crossing], slot);
    }
}

//! What happens in a world, and the first thing that is wrong with it.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::sync::unpoisoned;

/// The last events that a failure is reported with.
const SHOWN: usize = 60;

/// The events of a world.
pub(super) struct Log {
    began: Instant,
    is_loud: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last: VecDeque<String>,
    /// Of all events: two runs of a seed must come to the same.
    digest: u64,
    fault: Option<String>,
    is_calm: bool,
}

/// The simulated time.
pub(super) fn now() -> Instant {
    tokio::time::sleep(Duration::ZERO).deadline()
}

impl Log {
    pub(super) fn new(is_loud: bool) -> Self {
        Self { began: now(), is_loud, state: Mutex::default() }
    }

    /// Time since the world began.
    pub(super) fn elapsed(&self) -> Duration {
        now() - self.began
    }

    /// Notes an event.
    pub(super) fn note(&self, what: &str) {
        let line = format!("{:>7} {what}", self.elapsed().as_millis());
        if self.is_loud {
            println!("{line}");
        }
        let mut state = unpoisoned(self.state.lock());
        for byte in line.bytes() {
            state.digest = (state.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
        if state.fault.is_none() {
            state.last.push_back(line);
            if state.last.len() > SHOWN {
                state.last.pop_front();
            }
        }
    }

    /// Checks what must hold. Only the first fault is kept, with the events before it.
    pub(super) fn check(&self, is_so: bool, why: impl FnOnce() -> String) {
        if is_so {
            return;
        }
        let why = why();
        self.note(&format!("FAULT {why}"));
        let mut state = unpoisoned(self.state.lock());
        if state.fault.is_none() {
            let events: Vec<String> = state.last.iter().cloned().collect();
            state.fault = Some(format!("{why}\n  {}", events.join("\n  ")));
        }
    }

    /// The first fault, and the digest of all events.
    pub(super) fn outcome(&self) -> (Option<String>, u64) {
        let state = unpoisoned(self.state.lock());
        (state.fault.clone(), state.digest)
    }

    /// Faults are over.
    pub(super) fn calm(&self) {
        self.note("faults are over");
        unpoisoned(self.state.lock()).is_calm = true;
    }

    /// Whether faults are over.
    pub(super) fn is_calm(&self) -> bool {
        unpoisoned(self.state.lock()).is_calm
    }

    /// Whether something is wrong.
    pub(super) fn has_failed(&self) -> bool {
        unpoisoned(self.state.lock()).fault.is_some()
    }
}

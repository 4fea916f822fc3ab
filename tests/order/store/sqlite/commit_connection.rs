//! A commit connection that writes into a list, and fails on demand.

use std::sync::Arc;

use spendguard::domain::demand::{Bound, Tier};
use spendguard::domain::limit::{Mode, Only, Per, Source, Unit};
use spendguard::domain::{Limit, Window};
use spendguard::ledger::entry::{Basis, Entry, Hold, Kind};
use spendguard::ledger::meter::Subject;

pub(crate) const AT_MS: i64 = 1_790_000_000_000;
pub(crate) const EVERYBODY: Subject = Subject::Organization;

pub(crate) struct PendingWrite {
    pub(crate) id: u64,
    pub(crate) written: shuttle::sync::mpsc::Sender<bool>,
}

pub(crate) enum Record {
    Ending(u64),
    /// A hold that depends on the endings before it.
    Write(PendingWrite),
    /// An ending of which only the amount matters.
    Spent(i64),
    /// Receives what was spent before it.
    Work(Box<dyn FnOnce(i64) + Send>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Hold(u64),
    Ending(u64),
}

#[derive(Default)]
pub(crate) struct CommitConnection {
    written: Vec<Written>,
    spent: i64,
    backlog: Vec<u64>,
    /// So many more times it fails.
    failures: usize,
    is_broken: bool,
}

impl CommitConnection {
    pub(crate) fn sound() -> Self {
        Self::default()
    }

    pub(crate) fn failing(failures: usize) -> Self {
        Self { failures, ..Self::default() }
    }

    pub(crate) fn written(&self) -> Vec<Written> {
        self.written.clone()
    }

    pub(crate) fn is_clear(&self) -> bool {
        self.backlog.is_empty()
    }

    pub(crate) fn is_healthy(&self) -> bool {
        !self.is_broken
    }

    pub(crate) fn probe(&mut self) {
        self.is_broken = self.failures > 0;
        self.failures = self.failures.saturating_sub(1);
    }

    pub(crate) fn write(&mut self, mut holds: Vec<PendingWrite>, records: Vec<Record>) {
        for record in records {
            match record {
                Record::Ending(id) => self.backlog.push(id),
                Record::Write(waiting) => holds.push(waiting),
                Record::Spent(cost) => self.spent += cost,
                Record::Work(work) => work(self.spent),
            }
        }
        if holds.is_empty() && self.backlog.is_empty() {
            return;
        }
        self.probe();
        if !self.is_broken {
            self.written.extend(holds.iter().map(|waiting| Written::Hold(waiting.id)));
            self.written.extend(self.backlog.drain(..).map(Written::Ending));
        }
        for waiting in holds {
            waiting.written.send(!self.is_broken).unwrap();
        }
    }
}

pub(crate) fn limit() -> Arc<Limit> {
    Arc::new(Limit {
        name: "new".into(),
        per: Per::Organization,
        only: Only::default(),
        unit: Unit::Usd,
        window: Window::Month,
        zone: "UTC".into(),
        soft: Vec::new(),
        hard: Some(1_000),
        mode: Mode::Enforce,
        source: Source::Api,
    })
}

/// A hold of nothing, to be filled in.
pub(crate) fn hold(id: u64) -> Hold {
    Hold {
        id,
        admitted_ms: AT_MS,
        attribution: Arc::default(),
        bound: Bound::default(),
        tier: Tier::default(),
        price_version: "".into(),
        stream: false,
    }
}

/// An entry of nothing, to be filled in.
pub(crate) fn entry(id: u64, kind: Kind) -> Entry {
    Entry {
        basis: Some(Basis::Reported),
        status: 200,
        note: None,
        ..Entry::note(id, kind, AT_MS, String::new())
    }
}

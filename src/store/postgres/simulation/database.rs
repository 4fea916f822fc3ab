//! The simulated database: its tables, its connections, and what befalls them.
//!
//! Work that was sent is done by the database itself, whether its client waits for it or is
//! gone. Locks are kept until a transaction ends, and one whose connection was lost ends when
//! that is noticed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use crate::store::postgres::simulation::chance::Chance;
use crate::store::postgres::simulation::log::Log;
use crate::store::postgres::simulation::oracle::Oracle;
use crate::store::postgres::simulation::plan::{IDLE_MAX, Plan, STATEMENT_TIMEOUT};
use crate::store::postgres::simulation::rows::{Locks, Place, Row};
use crate::store::postgres::simulation::tables::Tables;
use crate::sync::unpoisoned;

/// Why a transaction has ended before its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Its connection is gone.
    Lost,
    /// It was rolled back.
    RolledBack(&'static str),
}

/// What a message loses with its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Nothing,
    /// It does not arrive.
    Request,
    /// Its answer does not.
    Answer,
}

/// A connection, as the database sees it.
#[derive(Default)]
pub(super) struct Backend {
    /// What it is doing, by the number of the call.
    running: BTreeMap<u64, AbortHandle>,
    calls: u64,
    /// Whether a transaction is open.
    pub(super) is_open: bool,
    pub(super) lane: Option<(usize, i64)>,
    /// Places of meters that it has inserted, with the ends of their windows.
    pub(super) inserted: BTreeMap<Place, i64>,
}

/// What changes.
pub(super) struct State {
    pub(super) tables: Tables,
    pub(super) oracle: Oracle,
    pub(super) locks: Locks,
    pub(super) backends: BTreeMap<u64, Backend>,
    last_backend: u64,
    is_up: bool,
    /// What a standby has, which lacks the last commits.
    standby: Option<Tables>,
}

/// The database.
pub(super) struct Database {
    pub(super) log: Arc<Log>,
    pub(super) plan: Plan,
    chance: Mutex<Chance>,
    state: Mutex<State>,
    tasks: TaskTracker,
}

impl Database {
    pub(super) fn new(log: Arc<Log>, plan: Plan, chance: Chance, mut tables: Tables) -> Self {
        tables.rules.version = 1;
        let mut oracle = Oracle::default();
        oracle.sum_up(&tables);
        let state = State {
            tables,
            oracle,
            locks: Locks::default(),
            backends: BTreeMap::new(),
            last_backend: 0,
            is_up: true,
            standby: None,
        };
        let (chance, state) = (Mutex::new(chance), Mutex::new(state));
        Self { log, plan, chance, state, tasks: TaskTracker::new() }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        unpoisoned(self.state.lock())
    }

    pub(super) fn draw<T>(&self, of: impl FnOnce(&mut Chance) -> T) -> T {
        let mut chance = unpoisoned(self.chance.lock());
        of(&mut chance)
    }

    /// A time of up to so many milliseconds.
    pub(super) fn delay(&self, most_ms: u64) -> Duration {
        Duration::from_millis(self.draw(|chance| chance.within(0, most_ms)))
    }

    /// Its time, in Unix milliseconds.
    pub(super) fn now_ms(&self) -> i64 {
        self.plan.base_ms + i64::try_from(self.log.elapsed().as_millis()).unwrap_or_default()
    }

    pub(super) fn now_s(&self) -> i64 {
        self.now_ms().div_euclid(1_000)
    }

    /// Whether faults are over.
    pub(super) fn is_calm(&self) -> bool {
        self.log.is_calm()
    }

    /// Runs what is neither a guard's nor the database's.
    pub(super) fn beside(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// A new connection; `None` while it is down.
    pub(super) fn accept(&self) -> Option<u64> {
        let mut state = self.state();
        if !state.is_up {
            return None;
        }
        state.last_backend += 1;
        let id = state.last_backend;
        state.backends.insert(id, Backend::default());
        Some(id)
    }

    /// Sends work to a connection. `way` is passed there and back.
    pub(super) fn send<T, W>(
        self: &Arc<Self>,
        id: u64,
        way: impl Fn() -> W + Send + 'static,
        work: impl Future<Output = T> + Send + 'static,
    ) -> oneshot::Receiver<T>
    where
        T: Send + 'static,
        W: Future<Output = ()> + Send,
    {
        let (reply, answer) = oneshot::channel();
        let loss = self.loss();
        let (there, back) = (self.delay(self.plan.slow_ms), self.delay(self.plan.slow_ms));
        let mut state = self.state();
        let Some(backend) = state.backends.get_mut(&id) else { return answer };
        backend.calls += 1;
        let (call, database) = (backend.calls, Arc::clone(self));
        let task = self.tasks.spawn(async move {
            sleep(there).await;
            way().await;
            if loss == Loss::Request {
                database.log.note(&format!("connection {id} is lost before a request arrives"));
                database.forget_call(id, call);
                return;
            }
            let done = work.await;
            database.forget_call(id, call);
            sleep(back).await;
            way().await;
            if loss == Loss::Answer {
                database.log.note(&format!("connection {id} is lost with an answer"));
                return;
            }
            let _ = reply.send(done);
        });
        backend.running.insert(call, task.abort_handle());
        answer
    }

    fn loss(&self) -> Loss {
        if self.is_calm() || self.plan.lost == 0 {
            return Loss::Nothing;
        }
        self.draw(|chance| match chance.within(0, 999) {
            at if at >= self.plan.lost => Loss::Nothing,
            at if at % 2 == 0 => Loss::Request,
            _ => Loss::Answer,
        })
    }

    /// Whether an error rolls a transaction back now.
    pub(super) fn has_error(&self) -> bool {
        !self.is_calm() && self.draw(|chance| chance.within(0, 999) < self.plan.errors)
    }

    /// A call has ended; a transaction that then pauses for too long is ended.
    fn forget_call(self: &Arc<Self>, id: u64, call: u64) {
        let mut state = self.state();
        let Some(backend) = state.backends.get_mut(&id) else { return };
        backend.running.remove(&call);
        if !backend.is_open {
            return;
        }
        drop(state);
        let database = Arc::clone(self);
        self.tasks.spawn(async move {
            sleep(IDLE_MAX).await;
            let is_idle = {
                let state = database.state();
                let is_last = |of: &Backend| of.is_open && of.calls == call && of.running.is_empty();
                state.backends.get(&id).is_some_and(is_last)
            };
            if is_idle {
                database.log.note(&format!("connection {id} has paused for too long"));
                database.end(id);
            }
        });
    }

    /// The client of a connection is gone, which is noticed some time later.
    pub(super) fn abandon(self: &Arc<Self>, id: u64) {
        let (wait, database) = (self.delay(self.plan.notice_ms), Arc::clone(self));
        self.tasks.spawn(async move {
            sleep(wait).await;
            while database.state().backends.get(&id).is_some_and(|of| !of.running.is_empty()) {
                sleep(Duration::from_millis(20)).await;
            }
            database.end(id);
        });
    }

    /// Ends a connection with its transaction.
    fn end(&self, id: u64) {
        self.roll_back(id);
        self.state().backends.remove(&id);
    }

    pub(super) fn begin(&self, id: u64) -> Result<(), Ended> {
        let mut state = self.state();
        let backend = state.backends.get_mut(&id).ok_or(Ended::Lost)?;
        (backend.is_open, backend.lane) = (true, None);
        Ok(())
    }

    /// Ends a transaction: nothing of it is left, and its rows are free.
    pub(super) fn roll_back(&self, id: u64) {
        let mut state = self.state();
        if let Some(backend) = state.backends.get_mut(&id) {
            backend.inserted.clear();
            (backend.is_open, backend.lane) = (false, None);
        }
        state.locks.release(id);
    }

    /// Locks a row, and waits for it as long as a statement may.
    pub(super) async fn lock(&self, id: u64, row: Row) -> Result<(), Ended> {
        let grant = {
            let mut state = self.state();
            if !state.backends.get(&id).is_some_and(|of| of.is_open) {
                return Err(Ended::Lost);
            }
            match state.locks.lock(id, &row) {
                Ok(None) => return Ok(()),
                Ok(Some(grant)) => grant,
                Err(out_of_order) => {
                    self.log.check(false, || out_of_order);
                    return Err(Ended::RolledBack("a deadlock"));
                }
            }
        };
        match timeout(STATEMENT_TIMEOUT, grant).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Ended::Lost),
            Err(_) => Err(Ended::RolledBack("a row was waited for too long")),
        }
    }

    /// Waits until no other transaction has locked a row, as long as a statement may.
    pub(super) async fn wait_for(&self, id: u64, row: &Row) -> Result<(), Ended> {
        let freed = async {
            while self.state().locks.is_locked_by_other(id, row) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(STATEMENT_TIMEOUT, freed)
            .await
            .map_err(|_| Ended::RolledBack("a row was waited for too long"))
    }

    /// Runs a transaction's part; what fails is rolled back.
    pub(super) async fn part<T>(
        &self,
        id: u64,
        work: impl Future<Output = Result<T, Ended>>,
    ) -> Result<T, Ended> {
        let done = work.await;
        if done.is_err() {
            self.roll_back(id);
        }
        done
    }

    /// It stops at once, and starts again later. Open transactions are gone.
    pub(super) fn crash(&self) {
        self.log.note("the database crashes");
        let mut state = self.state();
        state.is_up = false;
        for backend in std::mem::take(&mut state.backends).into_values() {
            backend.running.into_values().for_each(|task| task.abort());
        }
        state.locks.clear();
    }

    pub(super) fn start(&self) {
        self.log.note("the database is there again");
        self.state().is_up = true;
    }

    /// From here on a standby gets no commits.
    pub(super) fn detach_standby(&self) {
        let mut state = self.state();
        state.standby = Some(state.tables.clone());
    }

    /// The standby takes over. To be called while the database is down.
    pub(super) fn promote(&self) {
        let mut state = self.state();
        if let Some(standby) = state.standby.take() {
            self.log.note("a standby without the last commits takes over");
            state.tables = standby;
            state.oracle.went_back = true;
        }
    }
}

//! A lane: one connection that admits and writes groups, one after the other.
//!
//! A group is opened, decided by the ledger, and committed; then its calls are answered.
//! What is not known to be committed is not answered, and decided again only once it is
//! known not to be. Endings are kept until they are written; what the database refuses to
//! write is written without it.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

use crate::ledger::entry::Crossing;
use crate::store::DatabaseError;
use crate::store::postgres::group::{Decided, Group, Outcomes};
use crate::store::postgres::session::{Failure, Rows, Session, Wants};
use crate::store::postgres::shared::Shared;

/// How often a group is attempted again before its requests are refused.
const ATTEMPTS: usize = 2;
/// How often the rules may have changed before its requests are refused.
const RENEWALS: usize = 20;
/// How long calls gather for the guard's next lane while one waits for the rows of its group. What it
/// waits for may not be in the way of the next.
const GATHER_MAX: Duration = Duration::from_millis(20);
/// The wait between attempts to connect.
const RECONNECT_AFTER: Duration = Duration::from_millis(100);

/// One connection with what it needs to admit groups.
pub(super) struct Lane<S> {
    session: S,
    shared: Arc<Shared>,
    /// Whether it is this lane's turn to take calls, until its group has its rows.
    turn: Option<OwnedMutexGuard<()>>,
    /// Ids that were given out and not used.
    spare_ids: Vec<u64>,
    /// The rules that they were given out under.
    rules_version: i64,
    /// The last group that was begun.
    group: i64,
    /// The last group that is known to be committed.
    committed: i64,
    /// Whether it was logged, since then, that groups can't be written.
    is_noted: bool,
}

/// Why an attempt at a group has not written it.
enum Setback {
    /// The rules are newer than those in memory.
    Outdated(i64),
    /// It is known not to be written.
    Failed(Failure),
}

/// What to do with a group after a setback.
enum Next {
    /// It is attempted again.
    Again,
    /// Its requests are refused; what else is in it is attempted again later.
    Refuse,
    /// The same, on a new connection.
    Reconnect,
    /// The database refuses a record that it writes.
    Divide(DatabaseError),
}

impl<S: Session> Lane<S> {
    pub(super) fn new(session: S, shared: Arc<Shared>) -> Self {
        let (turn, spare_ids, rules_version, group, committed, is_noted) = (None, Vec::new(), 0, 0, 0, false);
        Self { session, shared, turn, spare_ids, rules_version, group, committed, is_noted }
    }

    /// Admits and writes until the queue is closed and empty.
    pub(super) async fn run(mut self) {
        loop {
            self.turn = None;
            self.turn = Some(self.shared.queue.turn().await);
            let Some((number, calls)) = self.shared.queue.next().await else { return };
            self.serve(Group::new(number, calls)).await;
            self.shared.queue.done(number);
        }
    }

    /// Writes a group, however long that takes; its requests are refused once it takes long.
    async fn serve(&mut self, mut group: Group) {
        let (mut attempts, mut renewals) = (0, 0);
        let mut stuck = None;
        while !group.is_empty() {
            let setback = match self.attempt(&group).await {
                Ok(outcomes) => {
                    self.shared.note_success();
                    return group.answer(outcomes, &self.shared.queue);
                }
                Err(setback) => setback,
            };
            let is_patient = match setback {
                Setback::Outdated(_) => {
                    renewals += 1;
                    renewals <= RENEWALS
                }
                Setback::Failed(_) => {
                    attempts += 1;
                    attempts <= ATTEMPTS
                }
            };
            match self.after(setback, is_patient).await {
                Next::Again => {}
                next @ (Next::Refuse | Next::Reconnect) => {
                    group.refuse();
                    stuck.get_or_insert_with(|| self.shared.stuck());
                    self.shared.refuse_waiting();
                    tokio::time::sleep(RECONNECT_AFTER).await;
                    if matches!(next, Next::Reconnect) {
                        self.reconnected().await;
                    }
                }
                Next::Divide(error) if group.len() == 1 => {
                    return self.shared.note_refused(&group.discard(&*error));
                }
                Next::Divide(_) => {
                    drop(stuck);
                    for alone in group.each_alone() {
                        Box::pin(self.serve(alone)).await;
                    }
                    return;
                }
            }
        }
    }

    /// Makes the lane usable again after a setback of a group, which is attempted again at once if
    /// there were few so far.
    async fn after(&mut self, setback: Setback, is_patient: bool) -> Next {
        match setback {
            Setback::Outdated(version) => {
                let is_refreshed = self.refreshed(version).await;
                if is_refreshed && is_patient { Next::Again } else { Next::Refuse }
            }
            Setback::Failed(Failure::Refused(error)) => Next::Divide(error),
            Setback::Failed(Failure::GoneBack) => {
                self.shared.note_gone_back();
                Next::Refuse
            }
            Setback::Failed(Failure::Conflict(error)) if is_patient => {
                tracing::debug!(event = "group_rolled_back", %error, "a group was rolled back; it is decided again");
                Next::Again
            }
            Setback::Failed(Failure::Conflict(error) | Failure::RolledBack(error)) => {
                if !std::mem::replace(&mut self.is_noted, true) {
                    tracing::warn!(
                        event = "group_not_written", %error,
                        "a group of requests and endings can't be written; its requests are refused, and its endings \
                         are tried again until they are written"
                    );
                }
                Next::Refuse
            }
            Setback::Failed(Failure::Disconnected(error) | Failure::Unknown(error)) => {
                // A connection that was idle may be gone without the database being so.
                if is_patient && self.session.reconnect().await.is_ok() {
                    return Next::Again;
                }
                self.shared.note_failure(&*error);
                Next::Reconnect
            }
            Setback::Failed(Failure::GivenUp) => {
                let is_alive = self.rejoined().await;
                if is_alive && is_patient { Next::Again } else { Next::Refuse }
            }
        }
    }

    /// Opens, decides and commits a group once.
    async fn attempt(&mut self, group: &Group) -> Result<Outcomes, Setback> {
        let wants = self.wants(group);
        self.shared.observer.committing();
        let rows = self.open(&wants).await.map_err(Setback::Failed)?;
        self.shared.observer.at_ms(rows.now_ms);
        match self.decide(group, &wants, &rows) {
            Ok(Some(decided)) => self.commit(decided).await,
            // A row is missing that was there before: the next attempt makes it.
            Ok(None) => {
                self.roll_back().await?;
                Box::pin(self.attempt(group)).await
            }
            Err(outdated) => {
                self.roll_back().await?;
                Err(outdated)
            }
        }
    }

    /// Opens a group, and leaves the turn to the next lane: on a limit that all count on, it has
    /// to wait for this one anyway, and its group grows meanwhile.
    async fn open(&mut self, wants: &Wants) -> Result<Rows, Failure> {
        let turn = self.turn.take();
        let mut opening = pin!(self.session.open(wants));
        if let Ok(rows) = tokio::time::timeout(GATHER_MAX, &mut opening).await {
            return rows;
        }
        drop(turn);
        opening.await
    }

    fn wants(&mut self, group: &Group) -> Wants {
        let mut wants = group.wants(&self.shared.ledger());
        // An id that was given out under older rules may be that of a hold which a grant counts
        // as earlier.
        if wants.rules_version != self.rules_version {
            self.rules_version = wants.rules_version;
            self.spare_ids.clear();
        }
        wants.ids = wants.ids.saturating_sub(self.spare_ids.len());
        wants
    }

    /// Decides a group, if the rules are those of the rows; `None` if a row is missing.
    fn decide<'a>(
        &mut self,
        group: &'a Group,
        wants: &Wants,
        rows: &Rows,
    ) -> Result<Option<Decided<'a>>, Setback> {
        let mut ledger = self.shared.ledger();
        // No change is committed while the lane is locked, and no group but its own: memory
        // can't be ahead.
        if ledger.rules_version() > rows.rules_version || self.committed > rows.group {
            return Err(Setback::Failed(Failure::GoneBack));
        }
        // All: they may have been replaced since the rows were named.
        let in_memory = [wants.rules_version, ledger.rules_version(), self.shared.rules_version()];
        if in_memory.iter().any(|version| *version != rows.rules_version) {
            return Err(Setback::Outdated(rows.rules_version));
        }
        ledger.give_ids(self.spare_ids.drain(..));
        let decided = group.decide(&mut ledger, wants, rows);
        self.spare_ids = ledger.take_back_ids();
        Ok(decided)
    }

    async fn commit(&mut self, mut decided: Decided<'_>) -> Result<Outcomes, Setback> {
        self.group += 1;
        decided.writes.group = self.group;
        let failure = match self.session.commit(&decided.writes).await {
            Ok(new) => {
                return Ok(self.committed(decided, &new));
            }
            Err(failure) => failure,
        };
        let failure = if let Failure::Unknown(error) = failure {
            if self.reconnected().await >= self.group {
                let crossings = std::mem::take(&mut decided.writes.crossings);
                return Ok(self.committed(decided, &crossings));
            }
            Failure::Conflict(error)
        } else {
            failure
        };
        let mut ledger = self.shared.ledger();
        decided.undo(&mut ledger, self.shared.kept_since(self.session.epoch()).as_deref());
        Err(Setback::Failed(failure))
    }

    /// Puts a group that is committed in force, with those of its crossings that may be new.
    fn committed(&mut self, decided: Decided<'_>, crossings: &[Crossing]) -> Outcomes {
        (self.committed, self.is_noted) = (self.group, false);
        self.shared.observer.committed();
        for crossing in crossings {
            self.shared.observer.crossed(crossing);
        }
        decided.written(&mut self.shared.ledger());
        decided.outcomes()
    }

    async fn roll_back(&mut self) -> Result<(), Setback> {
        self.session.roll_back().await.map_err(Setback::Failed)
    }

    /// Reads the rules again, on a thread of its own.
    async fn refreshed(&mut self, version: i64) -> bool {
        let shared = Arc::clone(&self.shared);
        self.session.aside(move || shared.refresh(version)).await.unwrap_or(false)
    }

    /// Joins again with the guard, and counts groups from the start; `false` if it can't yet.
    async fn rejoined(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut next = shared.rejoining.lock().await;
        if self.session.epoch() == shared.epoch() {
            let Ok(epoch) = next.epoch() else { return false };
            match self.session.rejoin(epoch).await {
                Ok(kept) => shared.note_rejoined(&mut next, kept),
                Err(failure) => shared.note(&failure),
            }
        }
        if self.session.epoch() == shared.epoch() {
            return false;
        }
        self.session.set_epoch(shared.epoch());
        (self.group, self.committed, self.spare_ids) = (0, 0, Vec::new());
        true
    }

    /// Connects again, however long that takes. Returns the last group that is committed.
    async fn reconnected(&mut self) -> i64 {
        loop {
            match self.session.reconnect().await {
                Ok(group) => return group,
                Err(failure) => {
                    self.shared.note(&failure);
                    // Its row is gone, and all that it knew.
                    if matches!(failure, Failure::GoneBack) {
                        return 0;
                    }
                }
            }
            self.shared.refuse_waiting();
            tokio::time::sleep(RECONNECT_AFTER).await;
        }
    }
}

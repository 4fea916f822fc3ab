//! A lane: one connection that admits and writes groups, one after the other.
//!
//! A group is opened, decided by the ledger, and committed; then its calls are answered.
//! What is not known to be committed is not answered, and decided again only once it is
//! known not to be. Endings are kept until they are written.

use std::sync::Arc;
use std::time::Duration;

use crate::store::postgres::group::{Decided, Group, Outcomes};
use crate::store::postgres::session::{Failure, Rows, Session, Wants};
use crate::store::postgres::shared::Shared;

/// How often a group that was rolled back is decided again before its requests are refused.
const ATTEMPTS: usize = 2;
/// The wait between attempts to connect.
const RECONNECT_AFTER: Duration = Duration::from_millis(100);

/// One connection with what it needs to admit groups.
pub(super) struct Lane<S> {
    session: S,
    shared: Arc<Shared>,
    /// Ids that were given out and not used.
    spare_ids: Vec<u64>,
    /// The rules that they were given out under.
    rules_version: i64,
    /// The last group that was begun.
    group: i64,
}

/// Why an attempt at a group has not written it.
enum Setback {
    /// The rules are newer than those in memory.
    Outdated(i64),
    /// The database knows less than this guard has seen of it.
    GoneBack,
    /// It is known not to be written.
    Failed(Failure),
}

impl<S: Session> Lane<S> {
    pub(super) fn new(session: S, shared: Arc<Shared>) -> Self {
        Self { session, shared, spare_ids: Vec::new(), rules_version: 0, group: 0 }
    }

    /// Admits and writes until the queue is closed and empty.
    pub(super) async fn run(mut self) {
        while let Some((number, calls)) = self.shared.queue.next().await {
            self.serve(Group::new(number, calls)).await;
            self.shared.queue.done(number);
        }
    }

    /// Writes a group, however long that takes; its requests are refused once it takes long.
    async fn serve(&mut self, mut group: Group) {
        let mut attempts = 0;
        while !group.is_empty() {
            let setback = match self.attempt(&group).await {
                Ok(outcomes) => {
                    self.shared.note_success();
                    return group.answer(outcomes, &self.shared.queue);
                }
                Err(setback) => setback,
            };
            match setback {
                Setback::Outdated(version) => {
                    if !self.refreshed(version).await {
                        group.refuse();
                        tokio::time::sleep(RECONNECT_AFTER).await;
                    }
                }
                Setback::GoneBack => {
                    self.shared.note_gone_back();
                    group.refuse();
                    tokio::time::sleep(RECONNECT_AFTER).await;
                }
                // Another group was in the way.
                Setback::Failed(Failure::RolledBack(error)) if attempts < ATTEMPTS => {
                    attempts += 1;
                    tracing::debug!(event = "group_rolled_back", %error, "a group was rolled back; it is decided again");
                }
                // A connection that was idle may be gone without the database being so.
                Setback::Failed(Failure::Disconnected(error)) if attempts < ATTEMPTS => {
                    attempts += 1;
                    if self.session.reconnect().await.is_err() {
                        attempts = ATTEMPTS;
                        self.shared.note_failure(&*error);
                    }
                }
                Setback::Failed(Failure::GivenUp) if attempts < ATTEMPTS => {
                    attempts += 1;
                    self.rejoined().await;
                }
                Setback::Failed(failure) => {
                    group.refuse();
                    self.shared.refuse_requests();
                    self.recover(failure).await;
                    tokio::time::sleep(RECONNECT_AFTER).await;
                }
            }
        }
    }

    /// Opens, decides and commits a group once.
    async fn attempt(&mut self, group: &Group) -> Result<Outcomes, Setback> {
        let wants = self.wants(group);
        self.shared.observer.committing();
        let rows = self.session.open(&wants).await.map_err(Setback::Failed)?;
        self.shared.observer.at_ms(rows.now_ms);
        match self.decide(group, &wants, &rows) {
            Ok(Some(decided)) => self.commit(decided).await,
            // A row is missing that was there before: the next attempt makes it.
            Ok(None) => {
                self.give_up().await?;
                Box::pin(self.attempt(group)).await
            }
            Err(outdated) => {
                self.give_up().await?;
                Err(outdated)
            }
        }
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
        // No change is committed while the lane is locked, so memory can't be ahead.
        if ledger.rules_version() > rows.rules_version {
            return Err(Setback::GoneBack);
        }
        // All: they may have been replaced since the rows were named, or be distrusted.
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
                self.shared.observer.committed();
                for crossing in &new {
                    self.shared.observer.crossed(crossing);
                }
                decided.written(&mut self.shared.ledger());
                return Ok(decided.outcomes());
            }
            Err(failure) => failure,
        };
        let Failure::Unknown(error) = failure else {
            decided.undo(&mut self.shared.ledger());
            return Err(Setback::Failed(failure));
        };
        self.shared.note_failure(&*error);
        if self.reconnected().await >= self.group {
            self.shared.observer.committed();
            for crossing in decided.crossings() {
                self.shared.observer.crossed(crossing);
            }
            decided.written(&mut self.shared.ledger());
            return Ok(decided.outcomes());
        }
        decided.undo(&mut self.shared.ledger());
        Err(Setback::Failed(Failure::RolledBack(error)))
    }

    async fn give_up(&mut self) -> Result<(), Setback> {
        self.session.roll_back().await.map_err(Setback::Failed)
    }

    /// Reads the rules again, on a thread of its own.
    async fn refreshed(&self, version: i64) -> bool {
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || shared.refresh(version)).await.unwrap_or(false)
    }

    /// Makes the connection usable again.
    async fn recover(&mut self, failure: Failure) {
        match failure {
            Failure::RolledBack(error) => self.shared.note_failure(&*error),
            Failure::Disconnected(error) | Failure::Unknown(error) => {
                self.shared.note_failure(&*error);
                self.reconnected().await;
            }
            Failure::GivenUp => self.rejoined().await,
        }
    }

    /// Joins again with the guard, and counts groups from the start.
    async fn rejoined(&mut self) {
        let shared = Arc::clone(&self.shared);
        let _one_at_a_time = shared.rejoining.lock().await;
        if self.session.epoch() == shared.epoch() {
            match self.session.rejoin().await {
                Ok((epoch, kept)) => shared.note_rejoined(epoch, &kept),
                Err(Failure::RolledBack(error) | Failure::Disconnected(error) | Failure::Unknown(error)) => {
                    return shared.note_failure(&*error);
                }
                Err(Failure::GivenUp) => return,
            }
        }
        self.session.set_epoch(shared.epoch());
        (self.group, self.spare_ids) = (0, Vec::new());
    }

    /// Connects again, however long that takes. Returns the last group that is committed.
    async fn reconnected(&mut self) -> i64 {
        loop {
            match self.session.reconnect().await {
                Ok(group) => return group,
                // Its row is gone, and all that it knew.
                Err(Failure::GivenUp) => self.shared.note_gone_back(),
                Err(Failure::RolledBack(error) | Failure::Disconnected(error) | Failure::Unknown(error)) => {
                    self.shared.note_failure(&*error);
                }
            }
            self.shared.refuse_requests();
            tokio::time::sleep(RECONNECT_AFTER).await;
        }
    }
}

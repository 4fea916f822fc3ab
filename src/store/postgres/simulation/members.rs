//! The guards of the database, on its side: who is alive, and what a dead one has left.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::time::sleep;

use crate::ledger::entry::{Attribution, Hold, OpenJob};
use crate::store::postgres::simulation::database::{Database, Ended};
use crate::store::postgres::simulation::plan::{METER_AGE_S, NODE_TIMEOUT_MS};
use crate::store::postgres::simulation::rows::Row;
use crate::store::postgres::simulation::tables::State;

/// Holds of dead guards that are handed out at once.
const CHARGED_MAX: usize = 128;

/// What a guard learns by saying that it is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Alive(i64),
    Ended,
}

/// What came of an attempt to join again.
#[derive(Debug)]
pub(super) enum Rejoined {
    With(HashSet<u64>),
    Taken,
    Unknown,
}

impl Database {
    /// Joins as a guard; `false` if one of that name is alive.
    pub(super) async fn join(self: Arc<Self>, id: u64, name: usize, epoch: i64) -> Result<bool, Ended> {
        self.begin(id)?;
        let work = async {
            self.lock(id, Row::Rules).await?;
            let alive = {
                let state = self.state();
                let is_alive = |node: &usize| {
                    let node = &state.tables.nodes[*node];
                    node.name == name && node.state == State::Alive
                };
                let known = (0..state.tables.nodes.len()).find(is_alive);
                known.map(|node| (node, state.tables.nodes[node].seen_ms))
            };
            if let Some((node, seen_ms)) = alive {
                if self.now_ms() - seen_ms < NODE_TIMEOUT_MS {
                    return Ok(false);
                }
                self.lock_node(id, node).await?;
            }
            self.commit_of(id)?;
            let now_ms = self.now_ms();
            let mut state = self.state();
            if let Some((node, _)) = alive {
                state.tables.close(node);
            }
            state.tables.make(name, epoch, now_ms);
            self.log.note(&format!("guard {name} joins as node {}", state.tables.nodes.len() - 1));
            Ok(true)
        };
        let joined = self.part(id, work).await;
        self.roll_back(id);
        joined
    }

    /// Locks a guard's row and its lanes.
    async fn lock_node(&self, id: u64, node: usize) -> Result<(), Ended> {
        self.lock(id, Row::Node(node)).await?;
        let lanes: Vec<i64> = self
            .state()
            .tables
            .lanes
            .range((node, 0)..=(node, i64::MAX))
            .map(|((_, lane), _)| *lane)
            .collect();
        for lane in lanes {
            self.lock(id, Row::Lane(node, lane)).await?;
        }
        sleep(self.delay(self.plan.slow_ms / 4)).await;
        Ok(())
    }

    /// Whether a transaction can still commit.
    fn commit_of(&self, id: u64) -> Result<(), Ended> {
        if self.has_error() {
            return Err(Ended::RolledBack("an error at random"));
        }
        let is_open = self.state().backends.get(&id).is_some_and(|of| of.is_open);
        if is_open { Ok(()) } else { Err(Ended::Lost) }
    }

    /// Joins again as a new epoch, and takes back the holds of the lost one that no other has
    /// charged.
    pub(super) async fn rejoin(
        self: Arc<Self>,
        id: u64,
        name: usize,
        lost: i64,
        new: i64,
    ) -> Result<Rejoined, Ended> {
        self.begin(id)?;
        let work = async {
            self.lock(id, Row::Rules).await?;
            let (lost_node, new_node) = {
                let state = self.state();
                (state.tables.node(lost), state.tables.node(new))
            };
            if lost_node.is_none() && new_node.is_none() {
                return Ok(Rejoined::Unknown);
            }
            let is_other = |at: usize| Some(at) != lost_node && Some(at) != new_node;
            let is_taken = self
                .state()
                .tables
                .nodes
                .iter()
                .enumerate()
                .any(|(at, node)| node.name == name && node.state == State::Alive && is_other(at));
            if is_taken {
                return Ok(Rejoined::Taken);
            }
            if let Some(node) = new_node {
                return Ok(Rejoined::With(self.holds_of(node).collect()));
            }
            let Some(lost_node) = lost_node else { return Ok(Rejoined::Unknown) };
            self.lock_node(id, lost_node).await?;
            for hold in self.holds_of(lost_node) {
                self.lock(id, Row::Hold(hold)).await?;
            }
            self.commit_of(id)?;
            let now_ms = self.now_ms();
            let mut state = self.state();
            state.tables.close(lost_node);
            state.tables.make(name, new, now_ms);
            let node = state.tables.nodes.len() - 1;
            let own = state.tables.holds.values_mut().filter(|row| row.node == lost_node);
            own.for_each(|row| row.node = node);
            drop(state);
            let kept: HashSet<u64> = self.holds_of(node).collect();
            self.log.note(&format!("node {lost_node} joins again as {node} with {} holds", kept.len()));
            Ok(Rejoined::With(kept))
        };
        let rejoined = self.part(id, work).await;
        self.roll_back(id);
        rejoined
    }

    fn holds_of(&self, node: usize) -> impl Iterator<Item = u64> + use<> {
        let state = self.state();
        let own: Vec<u64> =
            state.tables.holds.iter().filter(|(_, row)| row.node == node).map(|(id, _)| *id).collect();
        own.into_iter()
    }

    /// Says that a guard is alive.
    pub(super) async fn say_alive(self: Arc<Self>, id: u64, epoch: i64) -> Result<Known, Ended> {
        self.begin(id)?;
        let work = async {
            let Some(node) = self.state().tables.node(epoch) else { return Ok(Known::Ended) };
            self.lock(id, Row::Node(node)).await?;
            let now_ms = self.now_ms();
            let mut state = self.state();
            let Some(row) = state.tables.nodes.get_mut(node).filter(|row| row.epoch == epoch) else {
                return Ok(Known::Ended);
            };
            if row.state != State::Alive {
                return Ok(Known::Ended);
            }
            row.seen_ms = now_ms;
            Ok(Known::Alive(now_ms))
        };
        let known = self.part(id, work).await;
        self.roll_back(id);
        known
    }

    /// Gives up the guards that have said nothing for too long.
    pub(super) async fn give_up_dead(self: Arc<Self>, id: u64, own: i64) -> Result<(), Ended> {
        let is_dead = |node: usize| {
            let state = self.state();
            let row = &state.tables.nodes[node];
            row.state == State::Alive && row.epoch != own && row.seen_ms < self.now_ms() - NODE_TIMEOUT_MS
        };
        let count = self.state().tables.nodes.len();
        for node in 0..count {
            if !is_dead(node) {
                continue;
            }
            self.begin(id)?;
            let work = async {
                self.lock(id, Row::Rules).await?;
                self.lock(id, Row::Node(node)).await?;
                // It may have said something meanwhile.
                if !is_dead(node) {
                    return Ok(());
                }
                self.lock_node(id, node).await?;
                self.commit_of(id)?;
                self.state().tables.close(node);
                self.log.note(&format!("node {node} is given up"));
                Ok(())
            };
            let given_up = self.part(id, work).await;
            self.roll_back(id);
            given_up?;
        }
        Ok(())
    }

    /// Leaves: everything of this guard has ended.
    pub(super) async fn leave(self: Arc<Self>, id: u64, epoch: i64) -> Result<(), Ended> {
        self.begin(id)?;
        let work = async {
            self.lock(id, Row::Rules).await?;
            let Some(node) = self.state().tables.node(epoch) else { return Ok(()) };
            self.lock_node(id, node).await?;
            self.commit_of(id)?;
            self.state().tables.close(node);
            self.log.note(&format!("node {node} has left"));
            Ok(())
        };
        let left = self.part(id, work).await;
        self.roll_back(id);
        left
    }

    /// Some open holds of guards that are no more, read from their rows.
    pub(super) fn orphaned(&self) -> Vec<Hold> {
        let state = self.state();
        let is_orphaned = |node: usize| state.tables.nodes[node].state != State::Alive;
        let rows = state.tables.holds.values();
        let rows = rows.filter(|row| is_orphaned(row.node)).take(CHARGED_MAX);
        rows.map(|row| read(&row.hold)).collect()
    }

    /// The jobs, read from their rows.
    pub(super) fn jobs(&self) -> Vec<OpenJob> {
        self.state().tables.jobs.values().map(read_job).collect()
    }

    /// The job of an object, read from its row.
    pub(super) fn find_job(&self, kind: &str, object: &str) -> Option<OpenJob> {
        self.state().tables.job(kind, object).map(read_job)
    }

    /// Removes meters of windows that are long over and on which nothing is held, and one of a limit
    /// that is gone.
    pub(super) fn remove_old_meters(&self) {
        let before_s = self.now_s() - METER_AGE_S;
        let state = &mut *self.state();
        state.tables.meters.retain(|place, row| {
            let is_old = row.end_s < before_s && row.meter.held == 0;
            !is_old || state.locks.is_locked(&Row::Meter(place.clone()))
        });
        let limits = &state.tables.rules.limits;
        let gone = state.tables.meters.keys().find(|place| !limits.contains_key(&place.limit)).cloned();
        if let Some(place) = gone {
            state.tables.meters.remove(&place);
        }
    }
}

fn read(hold: &Hold) -> Hold {
    Hold { attribution: Arc::new(Attribution::clone(&hold.attribution)), ..hold.clone() }
}

fn read_job(open: &OpenJob) -> OpenJob {
    OpenJob { hold: Arc::new(read(&open.hold)), job: open.job.clone() }
}

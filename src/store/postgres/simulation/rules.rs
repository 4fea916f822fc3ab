//! Changes of the rules, on the database's side: each is one transaction that no group
//! overlaps.

use std::sync::Arc;

use tokio::time::sleep;

use crate::domain::{Limit, Money};
use crate::ledger::account::{Account, Grant, Segment};
use crate::ledger::entry::Crossing;
use crate::store::postgres::simulation::database::{Database, Ended};
use crate::store::postgres::simulation::rows::Row;
use crate::store::postgres::simulation::sums::Sums;
use crate::store::postgres::simulation::tables::{MeterRow, Rules, Tables, mark};

/// One change.
#[derive(Clone, Debug)]
pub(super) enum RuleChange {
    /// A limit has this cap from now on.
    Cap(Arc<str>, i64),
    /// A limit is new.
    Add(Arc<Limit>),
    /// A limit is gone.
    Remove(Arc<str>),
    /// A key is revoked.
    Revoke(usize),
    /// Credit is granted, in nano-dollars.
    Grant(i64),
}

/// What a guard reads of the rules, at one instant.
#[derive(Clone, Debug)]
pub(super) struct RulesRead {
    pub(super) rules: Rules,
    pub(super) now_ms: i64,
    pub(super) account: Option<Account>,
}

impl Database {
    /// The version of the rules.
    pub(super) fn rules_version(&self) -> i64 {
        self.state().tables.rules.version
    }

    /// The rules.
    pub(super) fn read_rules(&self) -> RulesRead {
        let (now_ms, state) = (self.now_ms(), self.state());
        RulesRead { rules: state.tables.rules.clone(), now_ms, account: state.tables.account() }
    }

    /// Begins a change: locks the rules. Returns their version.
    pub(super) async fn begin_change(self: Arc<Self>, id: u64) -> Result<i64, Ended> {
        self.begin(id)?;
        self.part(id, async {
            self.lock(id, Row::Rules).await?;
            Ok(self.rules_version())
        })
        .await
    }

    /// Locks all lanes: then no group is open on any guard.
    pub(super) async fn still(self: Arc<Self>, id: u64) -> Result<(), Ended> {
        self.part(id, async {
            let lanes: Vec<(usize, i64)> = {
                let state = self.state();
                let alive = state.tables.lanes.iter().filter(|(_, row)| row.is_alive);
                alive.map(|(lane, _)| *lane).collect()
            };
            for (node, lane) in lanes {
                self.lock(id, Row::Lane(node, lane)).await?;
            }
            Ok(())
        })
        .await
    }

    /// Writes a change and commits it, with the new version in every lane.
    pub(super) async fn change(self: Arc<Self>, id: u64, change: RuleChange) -> Result<(), Ended> {
        let work = async {
            sleep(self.delay(self.plan.slow_ms)).await;
            if self.has_error() {
                return Err(Ended::RolledBack("an error at random"));
            }
            let (now_ms, now_s) = (self.now_ms(), self.now_s());
            let state = &mut *self.state();
            if !state.backends.get(&id).is_some_and(|of| of.is_open) {
                return Err(Ended::Lost);
            }
            self.log.note(&format!("rules {} are changed: {change:?}", state.tables.rules.version));
            apply(&mut state.tables, &change, now_ms);
            let version = state.tables.rules.version + 1;
            state.tables.rules.version = version;
            let alive = state.tables.lanes.values_mut().filter(|row| row.is_alive);
            alive.for_each(|row| row.rules_version = version);
            state.oracle.sum_up(&state.tables);
            if !state.oracle.went_back {
                state.oracle.check_sums(&state.tables, now_s, &self.log);
            }
            Ok(())
        };
        let changed = self.part(id, work).await;
        self.roll_back(id);
        changed
    }
}

fn apply(tables: &mut Tables, change: &RuleChange, now_ms: i64) {
    match change {
        RuleChange::Cap(name, hard) => {
            if let Some(limit) = tables.rules.limits.get_mut(name) {
                *limit = Arc::new(Limit { hard: Some(*hard), ..Limit::clone(limit) });
            }
        }
        RuleChange::Add(limit) => {
            tables.rules.limits.insert(Arc::clone(&limit.name), Arc::clone(limit));
            let sums = Sums::of(tables);
            for (place, meter, end_s) in sums.of_limit(&limit.name) {
                tables.meters.insert(place.clone(), MeterRow { end_s, meter });
                for threshold in limit.thresholds().into_iter().filter(|of| *of <= meter.settled) {
                    let subject = place.subject.label();
                    let crossing =
                        Crossing::soft(limit, subject, threshold, place.start_s, meter.settled, now_ms);
                    tables.marks.insert(mark(&crossing));
                }
            }
        }
        RuleChange::Remove(name) => {
            tables.rules.limits.remove(name);
            tables.meters.retain(|place, _| place.limit != *name);
        }
        RuleChange::Revoke(key) => drop(tables.rules.revoked.insert(*key)),
        RuleChange::Grant(nano) => {
            let id = tables.id();
            let amount = Money::from_nano(*nano);
            let grant = Grant {
                id,
                amount,
                note: String::new(),
                created_ms: now_ms,
                expires_s: None,
                corrects: None,
            };
            tables.rules.grants.push(Arc::new(grant));
            let first = Segment { end_ms: i64::MAX, ..Segment::default() };
            let segments = tables.credit.get_or_insert_with(|| vec![first]);
            segments[0].granted += nano;
        }
    }
}

//! Changes of the rules, on the database's side: each is one transaction that no group
//! overlaps.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::time::sleep;

use crate::domain::{Limit, Money};
use crate::ledger::account::{Account, Grant, Segment};
use crate::ledger::entry::Crossing;
use crate::ledger::meter::Meter;
use crate::store::postgres::past::{Pasts, Seen};
use crate::store::postgres::simulation::database::{Database, Ended};
use crate::store::postgres::simulation::rows::Row;
use crate::store::postgres::simulation::sums::Sums;
use crate::store::postgres::simulation::tables::{MeterRow, Rules, Tables, mark};

/// One change.
#[derive(Clone, Debug)]
pub(super) enum RuleChange {
    /// Nothing is changed but the version.
    Mark,
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

    /// What a limit has settled in all windows, at this instant, which is after a mark.
    pub(super) fn learn(&self, limit: &Arc<Limit>, mark: u64) -> Pasts {
        let tables = &self.state().tables;
        let mut rules = tables.rules.clone();
        rules.limits.insert(Arc::clone(&limit.name), Arc::clone(limit));
        let sums = Sums::by(&rules, tables);
        let settled = sums.of_limit(&limit.name).filter(|(_, meter, _)| meter.settled != 0);
        let past = settled.map(|(place, meter, _)| ((place.subject.clone(), place.start_s), meter.settled));
        let added = tables.entries.range(mark + 1..).map(|(id, _)| *id).collect();
        let seen = Seen { added, open: open_up_to(tables, mark) };
        Pasts::new(mark, seen, [(Arc::clone(limit), i64::MIN, past.collect())])
    }

    /// Catches up with this instant, which is after a later mark, and goes on from that.
    pub(super) fn go_on(&self, mut pasts: Pasts, mark: u64) -> Pasts {
        let tables = &self.state().tables;
        catch_up(tables, &mut pasts);
        pasts.go_on_from(mark, open_up_to(tables, mark));
        pasts
    }

    /// Adds what was written since.
    pub(super) fn catch_up(&self, pasts: &mut Pasts) {
        catch_up(&self.state().tables, pasts);
    }

    /// Writes a change and commits it, with the new version in every lane. Returns an id that was
    /// given out in it. `pasts` has what a new limit has settled.
    pub(super) async fn change(
        self: Arc<Self>,
        id: u64,
        change: RuleChange,
        mut pasts: Pasts,
    ) -> Result<u64, Ended> {
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
            let given = state.tables.id();
            catch_up(&state.tables, &mut pasts);
            apply(&mut state.tables, &change, pasts, now_ms);
            let version = state.tables.rules.version + 1;
            state.tables.rules.version = version;
            let alive = state.tables.lanes.values_mut().filter(|row| row.is_alive);
            alive.for_each(|row| row.rules_version = version);
            state.oracle.sum_up(&state.tables);
            if !state.oracle.went_back {
                state.oracle.check_sums(&state.tables, now_s, &self.log);
            }
            Ok(given)
        };
        let changed = self.part(id, work).await;
        self.roll_back(id);
        changed
    }
}

fn open_up_to(tables: &Tables, mark: u64) -> HashSet<u64> {
    tables.open().map(|hold| hold.id).filter(|id| *id <= mark).collect()
}

fn catch_up(tables: &Tables, pasts: &mut Pasts) {
    for id in pasts.sought(tables.entries.range(pasts.mark() + 1..).map(|(id, _)| *id)) {
        if let Some(entry) = tables.entries.get(&id) {
            pasts.add(entry);
        }
    }
}

fn apply(tables: &mut Tables, change: &RuleChange, mut pasts: Pasts, now_ms: i64) {
    match change {
        RuleChange::Mark => {}
        RuleChange::Cap(name, hard) => {
            if let Some(limit) = tables.rules.limits.get_mut(name) {
                *limit = Arc::new(Limit { hard: Some(*hard), ..Limit::clone(limit) });
            }
        }
        RuleChange::Add(limit) => {
            tables.rules.limits.insert(Arc::clone(&limit.name), Arc::clone(limit));
            tables.meters.retain(|place, _| place.limit != limit.name);
            let sums = Sums::of(tables);
            let past = pasts.take(limit, i64::MIN).unwrap_or_default();
            for (place, Meter { held, .. }, end_s) in sums.of_limit(&limit.name) {
                let settled = past.get(&(place.subject.clone(), place.start_s)).copied().unwrap_or_default();
                let meter = Meter { settled, held };
                tables.meters.insert(place.clone(), MeterRow { end_s, meter });
                for threshold in limit.thresholds().into_iter().filter(|of| *of <= meter.settled) {
                    let subject = place.subject.label();
                    let crossing =
                        Crossing::soft(limit, subject, threshold, place.start_s, meter.settled, now_ms);
                    tables.marks.insert(mark(&crossing));
                }
            }
        }
        // Its meters are removed later.
        RuleChange::Remove(name) => drop(tables.rules.limits.remove(name)),
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

//! The tables of the simulated database, as they are committed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::domain::Limit;
use crate::ledger::account::{Account, Grant, Segment};
use crate::ledger::entry::{Crossing, Entry, Hold, Job, OpenJob};
use crate::ledger::meter::Meter;
use crate::ledger::shared::MeterKey;
use crate::store::postgres::nodes::LANES;
use crate::store::postgres::session::Writes;
use crate::store::postgres::simulation::rows::Place;
use crate::throttle::shared::Buckets;

/// What all guards go by.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    pub(super) version: i64,
    pub(super) limits: BTreeMap<Arc<str>, Arc<Limit>>,
    pub(super) revoked: BTreeSet<usize>,
    pub(super) grants: Vec<Arc<Grant>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Alive,
    /// Given up by another, or left by itself.
    Ended,
}

/// One start of a guard. Its place in the table stands for its epoch, which is random.
#[derive(Clone, Debug)]
pub(super) struct NodeRow {
    pub(super) name: usize,
    pub(super) epoch: i64,
    pub(super) seen_ms: i64,
    pub(super) state: State,
}

#[derive(Clone, Debug)]
pub(super) struct LaneRow {
    pub(super) is_alive: bool,
    pub(super) rules_version: i64,
    pub(super) group: i64,
}

/// The hold of a request.
#[derive(Clone, Debug)]
pub(super) struct HoldRow {
    pub(super) hold: Arc<Hold>,
    /// The guard that runs its request.
    pub(super) node: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct MeterRow {
    pub(super) end_s: i64,
    pub(super) meter: Meter,
}

/// By what crossings are unique.
pub(super) type Mark = (&'static str, Arc<str>, String, i64, i64);

#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    pub(super) rules: Rules,
    pub(super) nodes: Vec<NodeRow>,
    pub(super) lanes: BTreeMap<(usize, i64), LaneRow>,
    pub(super) holds: BTreeMap<u64, HoldRow>,
    /// The jobs, by their holds. There is one of an object at the most.
    pub(super) jobs: BTreeMap<u64, OpenJob>,
    pub(super) meters: BTreeMap<Place, MeterRow>,
    pub(super) credit: Option<Vec<Segment>>,
    pub(super) rates: Buckets,
    pub(super) entries: BTreeMap<u64, Entry>,
    pub(super) marks: BTreeSet<Mark>,
    pub(super) last_id: u64,
}

/// What a group writes, as it is sent.
#[derive(Clone, Debug)]
pub(super) struct Written {
    pub(super) group: i64,
    pub(super) holds: Vec<Arc<Hold>>,
    pub(super) ended: Vec<u64>,
    pub(super) jobs: Vec<OpenJob>,
    /// Endings of its own holds and of others, and corrections.
    pub(super) entries: Vec<Entry>,
    pub(super) crossings: Vec<Crossing>,
    pub(super) meters: Vec<(MeterKey, Meter)>,
    pub(super) credit: Option<Vec<Segment>>,
    pub(super) rates: Buckets,
}

impl Written {
    pub(super) fn of(writes: &Writes<'_>) -> Self {
        let entries = writes.entries.iter().copied().chain(&writes.charges).chain(&writes.corrections);
        Self {
            group: writes.group,
            holds: writes.holds.clone(),
            ended: writes.ended.clone(),
            jobs: writes.jobs.iter().map(|of| job_row(*of)).collect(),
            entries: entries.cloned().collect(),
            crossings: writes.crossings.clone(),
            meters: writes.meters.clone(),
            credit: writes.credit.clone(),
            rates: writes.rates.clone(),
        }
    }

    /// Whether the database would refuse one of its records.
    pub(super) fn is_refused(&self) -> bool {
        self.holds.iter().any(|hold| &*hold.attribution.model == REFUSED)
            || self.entries.iter().any(|entry| entry.status == REFUSED_STATUS)
    }

    pub(super) fn shown(&self) -> String {
        let holds: Vec<u64> = self.holds.iter().map(|hold| hold.id).collect();
        let entries: Vec<String> = self
            .entries
            .iter()
            .map(|entry| {
                let of = entry.corrects.map_or(String::new(), |id| format!(" of {id}"));
                format!("{} {}{of} {}", entry.kind.name(), entry.id, entry.cost.nano())
            })
            .collect();
        let jobs = self.jobs.iter().map(|open| format!(" {} of {}", open.job.object, open.hold.id));
        format!("group {}: holds {holds:?}, entries {entries:?}{}", self.group, jobs.collect::<String>())
    }
}

fn job_row((hold, job): (&Arc<Hold>, &Job)) -> OpenJob {
    OpenJob { hold: Arc::clone(hold), job: job.clone() }
}

/// The model of requests whose holds are refused, and the status of endings that are.
pub(super) const REFUSED: &str = "refused";
pub(super) const REFUSED_STATUS: u16 = 599;

pub(super) fn mark(of: &Crossing) -> Mark {
    (of.mark.name(), Arc::clone(&of.limit.name), of.subject.clone(), of.threshold, of.window_start_s)
}

impl Tables {
    pub(super) fn id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// The place of an epoch among the nodes.
    pub(super) fn node(&self, epoch: i64) -> Option<usize> {
        self.nodes.iter().position(|node| node.epoch == epoch)
    }

    /// Makes a guard that is alive, with its lanes.
    pub(super) fn make(&mut self, name: usize, epoch: i64, now_ms: i64) {
        let (node, rules_version) = (self.nodes.len(), self.rules.version);
        self.nodes.push(NodeRow { name, epoch, seen_ms: now_ms, state: State::Alive });
        for lane in LANES {
            self.lanes.insert((node, lane), LaneRow { is_alive: true, rules_version, group: 0 });
        }
    }

    /// Closes a guard's lanes.
    pub(super) fn close(&mut self, node: usize) {
        self.lanes.range_mut((node, 0)..=(node, i64::MAX)).for_each(|(_, lane)| lane.is_alive = false);
        self.nodes[node].state = State::Ended;
    }

    /// The open holds, of requests and of jobs.
    pub(super) fn open(&self) -> impl Iterator<Item = &Arc<Hold>> {
        self.holds.values().map(|row| &row.hold).chain(self.jobs.values().map(|open| &open.hold))
    }

    /// Whether a hold is open.
    pub(super) fn is_open(&self, id: u64) -> bool {
        self.holds.contains_key(&id) || self.jobs.contains_key(&id)
    }

    /// The job of an object.
    pub(super) fn job(&self, kind: &str, object: &str) -> Option<&OpenJob> {
        self.jobs.values().find(|open| open.job.kind == kind && open.job.object == object)
    }

    /// Whether an object would have two jobs.
    pub(super) fn has_second_job(&self, written: &Written) -> bool {
        written.jobs.iter().any(|OpenJob { job, .. }| {
            self.job(&job.kind, &job.object).is_some_and(|known| !written.ended.contains(&known.hold.id))
        })
    }

    /// Writes a group. Returns the crossings that are new.
    pub(super) fn write(&mut self, lane: (usize, i64), written: &Written) -> Vec<Crossing> {
        if let Some(row) = self.lanes.get_mut(&lane) {
            row.group = written.group;
        }
        for hold in &written.holds {
            self.holds.insert(hold.id, HoldRow { hold: Arc::clone(hold), node: lane.0 });
        }
        for id in &written.ended {
            self.holds.remove(id);
            self.jobs.remove(id);
        }
        for open in &written.jobs {
            self.holds.remove(&open.hold.id);
            self.jobs.insert(open.hold.id, open.clone());
        }
        self.entries.extend(written.entries.iter().map(|entry| (entry.id, entry.clone())));
        for (key, meter) in &written.meters {
            if let Some(row) = self.meters.get_mut(&Place::from(key)) {
                row.meter = *meter;
            }
        }
        if written.credit.is_some() {
            self.credit.clone_from(&written.credit);
        }
        self.rates.extend(written.rates.iter().map(|(key, bucket)| (key.clone(), bucket.clone())));
        let mut new = Vec::new();
        for crossing in &written.crossings {
            let id = self.id();
            if self.marks.insert(mark(crossing)) {
                let crossing = Crossing { id, ..crossing.clone() };
                self.entries.insert(id, crossing.entry());
                new.push(crossing);
            }
        }
        new
    }

    /// Prepaid credit, if any was granted.
    pub(super) fn account(&self) -> Option<Account> {
        let mut account = Account::new(self.rules.grants.first()?.id);
        self.rules.grants.iter().for_each(|grant| account.add(Arc::clone(grant)));
        account.restore_segments(self.credit.as_deref().unwrap_or_default());
        Some(account)
    }
}

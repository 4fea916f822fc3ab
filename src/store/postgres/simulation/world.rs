//! A world: guards that live and die, a database that fails, and what is left in the end.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::domain::Money;
use crate::domain::demand::Bound;
use crate::ledger::entry::Kind;
use crate::store::postgres::simulation::chance::Chance;
use crate::store::postgres::simulation::clients::{self, KEYS};
use crate::store::postgres::simulation::connection::Link;
use crate::store::postgres::simulation::database::Database;
use crate::store::postgres::simulation::guard::Guard;
use crate::store::postgres::simulation::log::Log;
use crate::store::postgres::simulation::operators;
use crate::store::postgres::simulation::oracle::{Asked, BY_OPERATOR};
use crate::store::postgres::simulation::periods;
use crate::store::postgres::simulation::plan::Plan;
use crate::store::postgres::simulation::tables::Tables;
use crate::store::postgres::simulation::upkeep;

/// How long there are faults.
const WORK: Duration = Duration::from_secs(40);
/// Clients of a guard that make and use objects.
const OBJECT_CLIENTS: usize = 2;
/// How long everything may take to end afterwards.
const REST_MAX: Duration = Duration::from_secs(150);

/// What a world came to.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) fault: Option<String>,
    pub(super) digest: u64,
    pub(super) groups: u64,
    pub(super) admitted: u64,
}

struct World {
    database: Arc<Database>,
    links: Vec<Arc<Link>>,
    /// The guards that live now, by name.
    guards: Mutex<Vec<Option<Arc<Guard>>>>,
}

/// Runs the world of a seed.
pub(super) async fn run(seed: u64, is_loud: bool) -> Outcome {
    let mut chance = Chance::new(seed);
    let log = Arc::new(Log::new(is_loud));
    let mut plan = Plan::draw(&mut chance);
    // Of their own, so that the worlds without objects stay as they are.
    let mut of_objects = Chance::new(!seed);
    plan.objects = of_objects.percent(50);
    log.note(&format!("{plan:?}"));
    let mut tables = Tables::default();
    for limit in &plan.limits {
        tables.rules.limits.insert(Arc::clone(&limit.name), Arc::clone(limit));
    }
    let guards = plan.guards;
    let database = Arc::new(Database::new(Arc::clone(&log), plan, chance.fork(), tables));
    let links = (0..guards).map(|_| Arc::default()).collect();
    let guards = Mutex::new(vec![None; guards]);
    let world = Arc::new(World { database, links, guards });
    world.live(&mut chance, of_objects).await;
    let (fault, digest) = log.outcome();
    let state = world.database.state();
    Outcome { fault, digest, groups: state.oracle.groups, admitted: state.oracle.admitted }
}

impl World {
    async fn live(self: &Arc<Self>, chance: &mut Chance, mut of_objects: Chance) {
        let plan = &self.database.plan;
        let mut tasks = tokio::task::JoinSet::new();
        for name in 0..plan.guards {
            tasks.spawn(Arc::clone(self).life(name, chance.fork(), of_objects.fork()));
        }
        if plan.outages {
            tasks.spawn(Arc::clone(self).weather(chance.fork()));
        }
        if plan.changes {
            tasks.spawn(Arc::clone(self).operate(chance.fork()));
        }
        if plan.goes_back {
            tasks.spawn(Arc::clone(self).go_back(chance.fork()));
        }
        sleep(WORK).await;
        self.database.log.calm();
        self.links.iter().for_each(|link| link.join());
        self.database.state().oracle.end_objects(self.database.now_ms());
        let log = &self.database.log;
        let ended = timeout(REST_MAX, async { while tasks.join_next().await.is_some() {} }).await;
        log.check(ended.is_ok(), || "not all guards start".to_owned());
        if self.database.state().oracle.went_back || log.has_failed() {
            return;
        }
        self.rest().await;
        self.settle_up().await;
    }

    /// The lives of a guard, one after the other.
    async fn life(self: Arc<Self>, name: usize, mut chance: Chance, mut of_objects: Chance) {
        let Database { plan, log, .. } = &*self.database;
        loop {
            let guard = loop {
                match Guard::start(&self.database, name, &self.links[name]).await {
                    Ok(guard) => break guard,
                    Err(_) => sleep(Duration::from_millis(500)).await,
                }
            };
            guard.run(upkeep::run(Arc::clone(&guard)));
            for _ in 0..plan.clients {
                guard.run(clients::run(Arc::clone(&guard), chance.fork()));
            }
            for _ in 0..if plan.objects { OBJECT_CLIENTS } else { 0 } {
                guard.run(periods::run(Arc::clone(&guard), of_objects.fork()));
            }
            self.guards.lock().unwrap()[name] = Some(Arc::clone(&guard));
            let mut left_s = if plan.kills { chance.within(2, 40) } else { u64::MAX };
            while left_s > 0 {
                if self.database.is_calm() {
                    return;
                }
                sleep(Duration::from_millis(chance.within(800, 1_200))).await;
                left_s -= 1;
                if plan.stops && chance.percent(6) {
                    log.note(&format!("guard {name} is stopped"));
                    guard.switch.stop();
                    sleep(Duration::from_millis(chance.within(100, 12_000))).await;
                    log.note(&format!("guard {name} goes on"));
                    guard.switch.go_on();
                }
            }
            self.guards.lock().unwrap()[name] = None;
            if chance.percent(40) {
                guard.leave().await;
            } else {
                guard.kill();
            }
            drop(guard);
            sleep(Duration::from_millis(chance.within(0, 9_000))).await;
        }
    }

    /// Crashes of the database, and cuts of the network.
    async fn weather(self: Arc<Self>, mut chance: Chance) {
        loop {
            sleep(Duration::from_millis(chance.within(500, 12_000))).await;
            if self.database.is_calm() {
                return;
            }
            let time = Duration::from_millis(chance.one(&[50, 800, 2_500, 5_000, 9_000]));
            if chance.percent(40) {
                self.database.crash();
                sleep(time).await;
                self.database.start();
            } else {
                let all = chance.percent(30);
                let one = usize::try_from(chance.within(0, 99)).unwrap() % self.links.len();
                self.database
                    .log
                    .note(&format!("the network of guard {one} (all: {all}) is cut for {time:?}"));
                let cut = self.links.iter().enumerate().filter(|(at, _)| all || *at == one);
                cut.for_each(|(_, link)| link.cut(time));
            }
        }
    }

    /// A standby takes over that lacks the last commits.
    async fn go_back(self: Arc<Self>, mut chance: Chance) {
        sleep(Duration::from_millis(chance.within(5_000, 30_000))).await;
        self.database.detach_standby();
        sleep(Duration::from_millis(chance.within(20, 3_000))).await;
        self.database.crash();
        self.database.promote();
        sleep(Duration::from_millis(chance.within(20, 3_000))).await;
        self.database.start();
    }

    async fn operate(self: Arc<Self>, mut chance: Chance) {
        loop {
            sleep(Duration::from_millis(chance.within(300, 6_000))).await;
            if self.database.is_calm() {
                return;
            }
            let one = usize::try_from(chance.within(0, 99)).unwrap() % self.links.len();
            let guard = self.guards.lock().unwrap()[one].clone();
            if let Some(guard) = guard {
                let change = operators::draw(&guard, &mut chance);
                guard.run(operators::change(Arc::clone(&guard), change));
            }
        }
    }

    fn alive(&self) -> Vec<Arc<Guard>> {
        self.guards.lock().unwrap().iter().flatten().cloned().collect()
    }

    /// Waits until every hold has ended.
    async fn rest(&self) {
        let rested = timeout(REST_MAX, async {
            let mut quiet = 0;
            while quiet < 20 {
                sleep(Duration::from_millis(200)).await;
                quiet = if self.open().is_empty() { quiet + 1 } else { 0 };
            }
        });
        let rested = rested.await;
        let log = &self.database.log;
        log.check(rested.is_ok(), || format!("holds don't end: {:?}", self.open()));
        for guard in self.alive() {
            let flushed = timeout(Duration::from_secs(20), guard.shared.flush()).await;
            log.check(matches!(flushed, Ok(Ok(()))), || {
                format!("guard {} can't write what is queued: {flushed:?}", guard.name)
            });
            let open = guard.parts.ledger.lock().holds().map(|hold| hold.id).collect::<Vec<_>>();
            let state = self.database.state();
            // A request that has waited for long may be admitted meanwhile.
            let is_left =
                open.iter().any(|id| !state.tables.is_open(*id) && !state.oracle.unwritable.contains(id));
            drop(state);
            log.check(!is_left, || format!("guard {} remembers holds that have ended: {open:?}", guard.name));
        }
    }

    /// Holds that are open, but for those whose ending is refused.
    fn open(&self) -> Vec<u64> {
        let state = self.database.state();
        let open = state.tables.open().map(|hold| hold.id);
        open.filter(|id| !state.oracle.unwritable.contains(id)).collect()
    }

    /// Looks at what is left: requests pass, and the books are upstream's.
    async fn settle_up(&self) {
        let log = &self.database.log;
        for guard in self.alive() {
            log.check(guard.shared.is_healthy(), || format!("guard {} is not healthy", guard.name));
            self.last_request(&guard).await;
        }
        self.rest().await;
        let now_s = self.database.now_s();
        let state = &mut *self.database.state();
        state.oracle.sum_up(&state.tables);
        state.oracle.check_sums(&state.tables, now_s, log);
        state.oracle.check_raised(&state.tables, log);
        state.oracle.check_objects(&state.tables, log);
        for (name, asked) in state.oracle.asked.iter().filter(|(_, asked)| asked.object.is_none()) {
            let Some(hold) = asked.hold.filter(|hold| !state.oracle.unwritable.contains(hold)) else {
                continue;
            };
            let of = state.tables.entries.values().filter(|entry| {
                let is_by_operator = entry.note.as_deref() == Some(BY_OPERATOR);
                !is_by_operator && (entry.id == hold || entry.corrects == Some(hold))
            });
            let (mut booked, mut tokens, mut requests) = (0, 0, 0);
            for entry in of {
                // The guard corrects by taking back all that was charged, and settling once more.
                let sign = if entry.kind == Kind::Adjust { -1 } else { 1 };
                booked += entry.cost.nano();
                tokens += sign * i64::try_from(entry.quantities.tokens_total()).unwrap();
                requests += if entry.kind == Kind::Release { 0 } else { sign };
            }
            if let Some((real, is_settled)) = asked.ended.filter(|_| !asked.is_orphan) {
                log.check((tokens, requests) == (real, i64::from(is_settled)), || {
                    format!("request {name} (hold {hold}) has {tokens} tokens of {real}, and counts {requests} times")
                });
            }
            let is_exact = booked == asked.truth;
            log.check(is_exact || (asked.is_orphan && booked > asked.truth), || {
                format!("request {name} (hold {hold}) cost {}, booked are {booked}", asked.truth)
            });
        }
    }

    /// A small request passes, if there is room.
    async fn last_request(&self, guard: &Arc<Guard>) {
        let (at_ms, name) = (guard.parts.now_ms(), u64::MAX - u64::try_from(guard.name).unwrap());
        let found = {
            let state = &mut *self.database.state();
            let revoked = &state.tables.rules.revoked;
            let key = (0..usize::try_from(KEYS).unwrap()).find(|key| {
                let of = clients::attribution(*key, name, "gpt");
                let room = state.oracle.room(&of, at_ms, &state.tables);
                !revoked.contains(key) && room.is_some_and(|room| room >= 1)
            });
            let Some(key) = key else { return };
            state.oracle.asked.insert(name, Asked::new(guard.name, key));
            key
        };
        let of = clients::attribution(found, name, "gpt");
        let bound = Bound { cost: Money::from_nano(1), input_tokens: 1, output_tokens: 1 };
        let reserving = clients::reserve(guard, &of, bound, found, name);
        let admitted = timeout(Duration::from_secs(20), reserving).await;
        self.database.log.check(matches!(admitted, Ok(Some(_))), || {
            format!("guard {} refuses a request of key {found} that there is room for", guard.name)
        });
    }
}

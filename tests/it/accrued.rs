//! Containers, vector stores and searches as they are drawn, over days of simulated time, before an upstream that bills
//! them as the oracle says.

mod clients;
mod world;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use http::{Method, StatusCode};
use oracle::Chance;
use oracle::hosted::upstream::{Habits, Upstream};
use oracle::hosted::{Container, storage_pico};

use spendguard::ledger::entry::Entry;

use crate::harness::Answer;
use clients::Client;
use world::{Delays, World};

/// Scenes that are drawn; `BILLED_SEEDS=5000+20000` draws others.
const SCENES: u64 = 12;
const CLIENTS: usize = 3;
/// How often it is checked what is covered, in seconds: in scenes of hours, and in those of days.
const LOOK_S: [u64; 2] = [10, 60];
/// Seconds after which storage without room is booked, with some for the looks themselves.
const OVER_LIMIT_S: i64 = 3_600 + 200;
/// How long after its presumed end it is asked for a container, at the latest: a minute, and what is left of another.
const ASKED_AFTER_S: i64 = 120;
const DAY_S: i64 = oracle::hosted::DAY_S;
/// A MiB and day, to which each entry of storage is rounded up, in byte-seconds.
const MIB_DAY: u128 = (1 << 20) * 86_400;

/// A world with its clients.
struct Scene {
    seed: u64,
    world: World,
    ends_s: i64,
    is_long: bool,
    /// What each key may spend, in nano-dollars.
    hard: i128,
    delays: Delays,
    answers: RefCell<Vec<String>>,
}

impl Scene {
    async fn draw(seed: u64) -> Rc<Self> {
        let mut chance = Chance::of_seed(seed);
        let is_long = chance.percent(25);
        let cents = chance.one(&[100_000, 100_000, 200, 40, 10, 2]);
        let delays = Delays { before_s: chance.one(&[0, 0, 3]), after_s: chance.one(&[0, 0, 3]) };
        let config = format!(
            "[guard]\nhold_wait = \"{}\"\n[endpoints]\nshared_objects = true\n\
             [[limit]]\nname = \"each\"\nwindow = \"total\"\nper = \"key\"\nhard = {}.{:02}\n",
            chance.one(&["0s", "2s"]),
            cents / 100,
            cents % 100,
        );
        let oracle = Upstream::new(Habits::draw(&mut chance), chance.clone());
        let world = World::start(&config, CLIENTS, delays, oracle).await;
        let lasts_s = if is_long { chance.within(20, 40) * 3_600 } else { chance.within(1_000, 7_000) };
        let ends_s = world.now_s() + i64::try_from(lasts_s).unwrap();
        let hard = i128::from(cents) * 10_000_000;
        Rc::new(Self { seed, world, ends_s, is_long, hard, delays, answers: RefCell::default() })
    }

    fn look(&self) -> Duration {
        Duration::from_secs(LOOK_S[usize::from(self.is_long)])
    }

    /// How long after something has happened the guard may get to know it, in seconds.
    fn late_s(&self) -> i64 {
        i64::try_from(self.delays.before_s + self.delays.after_s).unwrap()
    }

    fn goes_on(&self) -> bool {
        self.world.now_s() < self.ends_s
    }

    fn is_tight(&self) -> bool {
        self.hard < 1_000_000_000_000
    }

    /// What the limit of a client leaves, in nano-dollars.
    fn room(&self, client: usize) -> i128 {
        let meter = self.world.meter(client);
        self.hard - i128::from(meter.settled) - i128::from(meter.held)
    }

    /// Notes the answer of a request, which has no cap of its own or may be refused by it.
    fn answered(&self, what: &str, is_uncapped: bool, answer: &Answer) {
        let code = answer.code();
        self.answers.borrow_mut().push(format!("{} {what} -> {} {code}", self.world.now_s(), answer.status));
        let is_too_dear = is_uncapped && code == "request_cost_exceeds_limit";
        let is_refused = is_too_dear || answer.status == StatusCode::TOO_MANY_REQUESTS;
        self.expect(self.is_tight() || !is_refused, || format!("refused with ample room: {answer:?}"));
    }

    fn expect(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            let oracle = self.world.oracle();
            let story = oracle.story.join("\n");
            let answers = self.answers.borrow().join("\n");
            panic!("seed {}: {}\n{:?}\n{story}\n\n{answers}", self.seed, what(), oracle.habits);
        }
    }

    /// Checks that what upstream has billed each client is settled or held.
    fn check(&self, when: &str) {
        let now_s = self.world.now_s();
        for client in 0..CLIENTS {
            let owner = format!("k{client}");
            let (due, is_without_stores, late, storage) = {
                let oracle = self.world.oracle();
                let stores = || oracle.stores.values().filter(|(of, _)| *of == owner);
                let late = stores()
                    .map(|(_, store)| store.charge_pico(now_s) - store.charge_pico(now_s - OVER_LIMIT_S));
                // A day from the time at which the request was admitted.
                let held_s = DAY_S - self.late_s() - 10;
                let storage = oracle.storage_held_pico(&owner, now_s, held_s);
                (oracle.charge_pico(&owner, now_s), stores().next().is_none(), late.sum::<u128>(), storage)
            };
            let meter = self.world.meter(client);
            let covered = u128::try_from(meter.settled + meter.held).unwrap() * 1_000;
            // Storage without room is booked each hour.
            let is_late = self.is_tight() && due <= covered + late;
            self.expect(due <= covered || is_late, || {
                format!("{when}, {now_s}: {owner} is billed {due}, and {covered} is covered: {meter:?}, late {late}")
            });
            let is_held = u128::try_from(meter.held).unwrap() * 1_000 >= storage;
            self.expect(self.is_tight() || is_held, || {
                format!("{when}, {now_s}: {owner} stores for {storage} a day: {meter:?}")
            });
            let is_within = self.hard >= i128::from(meter.settled) + i128::from(meter.held);
            self.expect(is_within || !is_without_stores, || {
                format!("{when}: {owner} is over its limit: {meter:?}")
            });
        }
    }

    /// Waits until nothing is held any more, and nothing runs.
    async fn rest(&self) {
        let until_s = self.world.now_s() + 4 * DAY_S;
        while (0..CLIENTS).any(|client| self.world.meter(client).held > 0) {
            let meters = || (0..CLIENTS).map(|client| self.world.meter(client)).collect::<Vec<_>>();
            self.expect(self.world.now_s() < until_s, || format!("something is held still: {:?}", meters()));
            self.check("at rest");
            tokio::time::sleep(self.look()).await;
        }
        tokio::time::sleep(Duration::from_secs(2 * 3_600)).await;
    }

    /// Compares what is booked for each object, and for each client beside these, with its bill.
    async fn settle(&self) {
        for client in 0..CLIENTS {
            let entries = self.world.entries(client).await;
            let owner = format!("k{client}");
            for bill in self.bills(&owner) {
                let of =
                    entries.iter().filter(|entry| bill.object.is_none() || entry.object_id == bill.object);
                let is_object = |entry: &&Entry| {
                    bill.object.is_some()
                        || !["/v1/containers", "/v1/vector_stores"].contains(&&*entry.attribution.endpoint)
                        || entry.object_id.is_none()
                };
                let of: Vec<&Entry> = of.filter(is_object).collect();
                let booked: u128 = of.iter().map(|entry| pico(entry)).sum();
                let roundings = u128::try_from(of.len()).unwrap() * bill.rounding;
                let is_right = bill.due <= booked && booked <= bill.most + roundings;
                self.expect(is_right, || {
                    let lines: Vec<_> = of.iter().map(|entry| shown(entry)).collect();
                    format!(
                        "{owner}: {booked} is booked, and rounded by {roundings}: {bill:?}\n{}",
                        lines.join("\n")
                    )
                });
            }
        }
    }

    /// What a client is billed in the end, object by object, and then the rest.
    fn bills(&self, owner: &str) -> Vec<FinalBill> {
        let oracle = self.world.oracle();
        let (end_s, late_s) = (i64::MAX / 2, self.late_s());
        let mut rest = FinalBill {
            due: oracle.searched_pico(owner),
            most: oracle.searched_pico(owner),
            ..FinalBill::default()
        };
        let mut bills = Vec::new();
        for (id, (_, container)) in oracle.containers.iter().filter(|(_, (of, _))| of == owner) {
            let due = container.charge_pico(end_s);
            if oracle.lost.contains(id) {
                rest.due += due;
                let minutes = u64::try_from(container.idle_s / 60).unwrap();
                rest.most += held_minutes(minutes) * container.memory.session_pico() / 20;
                continue;
            }
            let is_shown = oracle.habits.shows_expired && oracle.habits.shows_activity;
            let most = self.most_minutes(container, is_shown) * container.memory.session_pico() / 20;
            bills.push(FinalBill { object: Some(id.clone()), due, most, rounding: 0 });
        }
        for (id, (_, store)) in oracle.stores.iter().filter(|(_, (of, _))| of == owner) {
            // One that expired is noticed by the look of a day.
            let deleted_s = store.deleted_s.filter(|at_s| *at_s <= store.end_s()).map(|at_s| at_s + late_s);
            let until_s = deleted_s.unwrap_or(store.end_s().saturating_add(DAY_S + 3_600));
            let due = store.charge_pico(end_s);
            // Without room, a smaller hold takes the place of a larger one only when that is over.
            let most =
                if self.is_tight() { store.booked_most_pico(until_s) } else { store.booked_pico(until_s) };
            bills.push(FinalBill {
                object: Some(id.clone()),
                due,
                most,
                rounding: storage_pico(MIB_DAY) + 1_000,
            });
        }
        bills.push(rest);
        bills
    }

    /// The most minutes of a container that are booked: what is read may be used by it, and an end that is not shown
    /// is seen later. So is one after which it is named before upstream is asked for it, and which the answer denies.
    fn most_minutes(&self, container: &Container, is_shown: bool) -> u128 {
        let is_deleted = container.deleted_s.is_some_and(|at_s| at_s <= container.end_s());
        let read = Container { active_s: container.touched_s, ..container.clone() };
        let until_asked = container.end_s()..read.end_s() + ASKED_AFTER_S;
        let is_named_late = container.named_s.iter().any(|at_s| until_asked.contains(at_s));
        let late = u128::from(self.late_s() > 0)
            + if is_shown || is_deleted { 0 } else { 5 }
            + if is_named_late { 2 } else { 0 };
        read.minutes(i64::MAX / 2) + late
    }
}

/// The minutes of a container that the guard documents to hold before it is made: three more than it may be idle,
/// within bounds.
fn held_minutes(idle_minutes: u64) -> u128 {
    (idle_minutes + 3).clamp(5, 23).into()
}

/// What something costs in the end, in picodollars.
#[derive(Debug, Default)]
struct FinalBill {
    /// Its id; none of what is no object.
    object: Option<String>,
    /// What OpenAI charges.
    due: u128,
    /// The most that the guard documents to book, beside the rounding of each entry.
    most: u128,
    rounding: u128,
}

fn pico(entry: &Entry) -> u128 {
    u128::try_from(entry.cost.nano()).unwrap() * 1_000
}

fn shown(entry: &Entry) -> String {
    let Entry { created_ms, kind, cost, object_id, basis, note, .. } = entry;
    format!("{} {kind:?} {cost} {object_id:?} {basis:?} {note:?}", created_ms / 1_000)
}

async fn play(seed: u64) {
    let scene = Scene::draw(seed).await;
    let mut chance = Chance::of_seed(!seed);
    let clients = (0..CLIENTS).map(|number| {
        let chance = Chance::of_seed(chance.within(0, u64::MAX - 1));
        tokio::task::spawn_local(Client::new(&scene, number, chance).run())
    });
    let clients: Vec<_> = clients.collect();
    while scene.goes_on() {
        tokio::time::sleep(scene.look()).await;
        scene.check("at a look");
    }
    for client in clients {
        client.await.unwrap();
    }
    scene.rest().await;
    scene.settle().await;
    let scene = Rc::into_inner(scene).unwrap();
    scene.world.close().await;
}

/// Runs something in simulated time, which passes when nothing else is to be done.
fn simulated<F: Future<Output = ()>>(test: F) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

fn seeds() -> std::ops::Range<u64> {
    let asked = std::env::var("BILLED_SEEDS").ok();
    let asked = asked.as_deref().map(|text| text.split_once('+').unwrap());
    let (from, count) =
        asked.map_or((0, SCENES), |(from, count)| (from.parse().unwrap(), count.parse().unwrap()));
    from..from + count
}

#[test]
fn what_accrues_is_covered_at_each_instant_and_booked_as_it_was_billed() {
    for seed in seeds() {
        simulated(play(seed));
    }
}

const LIMIT: &str = "[endpoints]\nshared_objects = true\n[[limit]]\nname = \"each\"\nwindow = \"total\"\nper = \"key\"\nhard = 1\n";

/// A guard before an upstream that fails nothing, and draws from these bytes.
async fn plain(delays: Delays, bytes: &[u8]) -> World {
    let habits =
        Habits { reads_are_uses: true, shows_expired: true, shows_activity: true, failures: 0, lost: 0 };
    World::start(LIMIT, 1, delays, Upstream::new(habits, Chance::of_bytes(bytes))).await
}

/// Found by a drawn scene: a minute was booked that it had not lived, before upstream was asked for its end.
#[test]
fn a_container_that_is_not_used_costs_its_idle_life_however_late_its_first_answer_is() {
    simulated(async {
        let world = plain(Delays { before_s: 0, after_s: 2 }, &[2; 64]).await;
        let body = r#"{"name":"k0","expires_after":{"anchor":"last_active_at","minutes":10}}"#;
        let made = world.ask(0, (Method::POST, "/v1/containers"), &[], body.into()).await;
        assert_eq!(made.status, StatusCode::OK, "{made:?}");
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        let booked: Vec<u128> = world.entries(0).await.iter().map(pico).collect();
        // Ten minutes at 0.0015 dollars.
        assert_eq!(booked, [15_000_000_000]);
        world.close().await;
    });
}

/// Found by a drawn scene: what upstream says was believed a minute after the request, not after its answer.
#[test]
fn a_store_that_takes_long_to_be_made_stays_held_until_upstream_knows_its_files() {
    simulated(async {
        // It is made 40 seconds after the request, of a file of 64 MiB, and what is said of it is 43 seconds old.
        // Later requests take no time.
        let world = plain(Delays { before_s: 40, after_s: 0 }, &[163; 6]).await;
        let body = r#"{"name":"k0","file_ids":["file-1"]}"#;
        let made = world.ask(0, (Method::POST, "/v1/vector_stores"), &[], body.into()).await;
        assert_eq!(made.status, StatusCode::OK, "{made:?}");
        tokio::time::sleep(Duration::from_secs(300)).await;
        assert_eq!(world.meter(0).held, 6_250_000);
        world.close().await;
    });
}

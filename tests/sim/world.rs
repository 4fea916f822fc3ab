//! One world: a guard that dies and rises, its clients, and upstream.
//!
//! The guard's code is the real one, down to the database's files. Simulated are
//! time, connections, and the failures. At every read and write of the guard its
//! meters are looked at, and it may die there: then its files are copied as they
//! are, which is what kill -9 leaves, and another guard starts on the copy.

mod look;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use oracle::prices::Tier;
use oracle::world::{Broken, TextCount};
use spendguard::config::Settings;
use spendguard::startup::Opened;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::account::{Account, DrawnBill, locked};
use crate::chance::Chance;
use crate::clients::Statuses;
use crate::covered::Covered;
use crate::jobs::Plan;
use crate::life::{Life, copied};
use crate::outcome::Outcome;
use crate::wire::{End, Scissors, connection, now};

/// The limit without a cap that everything counts on.
pub(crate) const AUDIT: &str = "audit";

/// How many of the clients ask on sockets, and how many speak in realtime sessions, in some worlds.
const TALKERS: usize = 2;
const SPEAKERS: usize = 2;

/// What a seed makes.
pub(crate) struct World {
    pub(crate) account: Arc<Account>,
    /// What the ledger has for each job.
    pub(crate) covered: Mutex<Covered>,
    pub(crate) tasks: TaskTracker,
    /// Notified when the guard dies.
    pub(crate) died: Notify,
    /// How far the wall clock is off, in milliseconds.
    pub(crate) clock_off_ms: Arc<AtomicI64>,
    /// Whether the disk fails, and how.
    pub(crate) disk: Arc<AtomicU64>,
    /// Whether a client that leaves takes its answer with it.
    pub(crate) cancels: bool,
    /// Whether operators correct entries.
    pub(crate) corrects: bool,
    /// Whether they grant credit.
    pub(crate) is_prepaid: bool,
    /// How many requests in a hundred are of any kind; the others are plain.
    pub(crate) drawn_percent: u64,
    /// How much larger amounts are than plain requests need.
    pub(crate) scale: u64,
    /// What is done about jobs.
    pub(crate) jobs: Plan,
    /// Whether operators turn kill switches on, and have fuses.
    pub(crate) has_stops: bool,
    /// How many clients ask on sockets.
    pub(crate) talkers: usize,
    /// How many speak in realtime sessions.
    pub(crate) speakers: usize,
    /// What of that which the guard assumes of upstream does not hold.
    broken: Option<Broken>,
    keys: OnceLock<[String; 2]>,
    resting: AtomicBool,
    is_loud: bool,
    began: Instant,
    state: Mutex<State>,
}

struct State {
    chance: Chance,
    life: Option<Life>,
    lives: u64,
    deaths: Vec<Instant>,
    links: Vec<Scissors>,
    folder: PathBuf,
    events: u64,
    dies_at: Option<u64>,
    settings: Option<Settings>,
    /// The rules are being changed: meters may come, and be past their caps.
    is_changing: bool,
    /// Whether jobs were booked past the caps, as is documented.
    is_overbooked: bool,
    /// Of each meter, its last total, the largest since the rules changed, and
    /// what was held.
    totals: BTreeMap<(String, String, i64), (i64, i64, i64)>,
    statuses: Statuses,
    overruns: u64,
    cuts: u64,
    trace: DefaultHasher,
    fault: Option<String>,
}

impl World {
    pub(crate) fn new(seed: u64, folder: PathBuf, is_loud: bool) -> Arc<Self> {
        let mut chance = Chance::new(seed);
        let state = State {
            chance: chance.fork(),
            life: None,
            lives: 0,
            deaths: Vec::new(),
            links: Vec::new(),
            folder,
            events: 0,
            dies_at: None,
            settings: None,
            is_changing: true,
            is_overbooked: false,
            totals: BTreeMap::new(),
            statuses: Statuses::new(),
            overruns: 0,
            cuts: 0,
            trace: DefaultHasher::new(),
            fault: None,
        };
        let broken = (seed % 5 == 4).then(|| chance.one(&Broken::ALL));
        let mut upstream = oracle::World { broken, ..oracle::World::furnished() };
        upstream.is_regional = chance.percent(20);
        upstream.project_tier = chance.one(&[Tier::Standard, Tier::Standard, Tier::Priority]);
        // Each text is of words that are a token each; so a count of it is exact.
        upstream.assumed.text = TextCount::Pieces;
        // What no cap bounds makes one hosted call, which every configuration holds.
        upstream.assumed.calls_max = 1;
        // Where an assumption is broken, requests get as far as that shows.
        let jobs = Plan::of(seed);
        let scale = if broken.is_some() { 2_000 } else { chance.one(&[1, 100, 2_000]) };
        let scale = jobs.scale.unwrap_or(scale);
        let has_sockets = seed % 5 == 1 || seed % 5 == 3;
        Arc::new(Self {
            account: Arc::new(Account::new(upstream, jobs.outage)),
            covered: Mutex::default(),
            has_stops: seed % 3 == 1 && !jobs.are_begun,
            jobs,
            talkers: if has_sockets { TALKERS } else { 0 },
            // A session needs more than plain requests.
            speakers: if has_sockets && scale > 1 { SPEAKERS } else { 0 },
            drawn_percent: if scale == 1 { chance.one(&[0, 20]) } else { 60 },
            scale,
            broken,
            tasks: TaskTracker::new(),
            died: Notify::new(),
            clock_off_ms: Arc::default(),
            disk: Arc::default(),
            cancels: chance.percent(25),
            corrects: !seed.is_multiple_of(2),
            is_prepaid: seed.is_multiple_of(3),
            keys: OnceLock::new(),
            resting: AtomicBool::new(false),
            is_loud,
            began: now(),
            state: Mutex::new(state),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn fork(&self) -> Chance {
        self.state().chance.fork()
    }

    pub(crate) fn keys(&self) -> &[String; 2] {
        self.keys.get().unwrap()
    }

    pub(crate) fn set_keys(&self, keys: [String; 2]) {
        self.keys.set(keys).unwrap();
    }

    /// Where the present guard's files are.
    pub(crate) fn folder(&self) -> PathBuf {
        self.state().folder.clone()
    }

    /// The guard that lives, if one does.
    pub(crate) fn opened(&self) -> Option<Opened> {
        self.state().life.as_ref().map(|life| life.opened.clone())
    }

    pub(crate) fn with_life<T>(&self, work: impl FnOnce(&Life) -> T) -> Option<T> {
        self.state().life.as_ref().map(work)
    }

    /// The number of the next life.
    pub(crate) fn next_life(&self) -> u64 {
        self.state().lives + 1
    }

    pub(crate) fn begin(&self, mut life: Life) {
        life.ask_for_jobs(&self.tasks);
        if self.has_stops {
            life.watch(&self.tasks);
        }
        let mut state = self.state();
        state.lives += 1;
        state.life = Some(life);
    }

    /// When the wall clock of the present guard had the time of the world's beginning.
    pub(crate) fn clock_began(&self) -> Instant {
        if self.jobs.are_begun { self.began } else { now() }
    }

    /// The longest pause between two looks of the writer, in milliseconds.
    pub(crate) fn step_max_ms(&self) -> u64 {
        if self.jobs.are_begun && self.is_resting() { 1_000 } else { 25 * self.jobs.pace.min(20) }
    }

    /// Says that no new work is begun.
    pub(crate) fn rest(&self) {
        self.resting.store(true, Ordering::Relaxed);
        self.state().dies_at = None;
    }

    pub(crate) fn is_resting(&self) -> bool {
        self.resting.load(Ordering::Relaxed) || self.state().fault.is_some()
    }

    /// Lets the guard die so many events from now.
    pub(crate) fn die_after(&self, events: u64) {
        let mut state = self.state();
        state.dies_at = Some(state.events + events);
    }

    /// Says that rules are being changed, or that they have been.
    pub(crate) fn changing(&self, is_changing: bool) {
        let mut state = self.state();
        state.is_changing = is_changing;
        if let Some(opened) = state.life.as_ref().map(|life| life.opened.clone()) {
            state.totals.clear();
            self.look(&mut state, &opened, true);
        }
    }

    /// The settings in force.
    pub(crate) fn settings(&self) -> Option<Settings> {
        self.state().settings.clone()
    }

    pub(crate) fn put_settings(&self, settings: Settings) {
        self.state().settings = Some(settings);
    }

    /// A connection to the guard, if it lives.
    pub(crate) fn dial_guard(self: &Arc<Self>) -> Option<End> {
        let life = self.state().lives;
        let (guards, others, scissors) = self.connection(life);
        let mut state = self.state();
        state.links.push(scissors);
        state.life.as_ref()?.serve(guards, &self.tasks);
        Some(others)
    }

    /// A connection between the guard of that life and somebody else.
    pub(crate) fn connection(self: &Arc<Self>, life: u64) -> (End, End, Scissors) {
        let world = Arc::downgrade(self);
        let watch = Arc::new(move || {
            if let Some(world) = world.upgrade() {
                world.event(life);
            }
        });
        connection(&mut self.fork(), watch)
    }

    /// A connection from the guard of that life to upstream.
    pub(crate) fn dial_upstream(self: &Arc<Self>, life: u64) -> Option<End> {
        let mut chance = self.fork();
        let lives = |state: &State| state.lives == life && state.life.is_some();
        if !lives(&self.state()) || chance.percent(2) {
            return None;
        }
        let (guards, others, scissors) = self.connection(life);
        self.state().links.push(scissors.clone());
        self.tasks.spawn(crate::openai::serve(others, Arc::clone(&self.account), chance.fork()));
        if chance.percent(10) {
            // A cable is pulled.
            let after = Duration::from_millis(chance.within(0, 20_000));
            self.tasks.spawn(async move {
                tokio::time::sleep(after).await;
                scissors.cut();
            });
        }
        Some(guards)
    }

    /// The guard has read or written: look at it, and maybe let it die.
    fn event(&self, life: u64) {
        let mut state = self.state();
        let Some(opened) = state.life.as_ref().map(|life| life.opened.clone()) else { return };
        if state.lives != life {
            return;
        }
        state.events += 1;
        self.see_stops(&opened);
        let is_changing = state.is_changing;
        self.look(&mut state, &opened, is_changing);
        if state.dies_at.is_some_and(|at| at <= state.events) {
            state.dies_at = None;
            self.die(&mut state);
        }
    }

    /// Lets the guard die: its files stay as they are, its connections are cut.
    pub(crate) fn die_now(&self) {
        let mut state = self.state();
        if state.life.is_some() {
            self.die(&mut state);
        }
    }

    fn die(&self, state: &mut State) {
        let next = state.folder.with_extension(state.lives.to_string());
        copied(&state.folder, &next);
        state.folder = next;
        if std::mem::replace(&mut state.is_changing, false) {
            state.totals.clear();
        }
        // A death undoes the last endings: there may be what was held before them, and no more.
        // A meter shows that when its window comes, if the clock was set back.
        for (last, peak, _) in state.totals.values_mut() {
            *last = *peak;
        }
        if let Some(life) = state.life.take() {
            life.end();
        }
        state.links.drain(..).for_each(|link| link.cut());
        state.deaths.push(now());
        self.tell(state, "the guard dies");
        self.died.notify_one();
    }

    /// When guards died.
    pub(crate) fn deaths(&self) -> Vec<Instant> {
        self.state().deaths.clone()
    }

    /// Looks at what is stopped now.
    pub(crate) fn look_at_stops(&self) {
        if let Some(opened) = self.opened() {
            self.see_stops(&opened);
        }
    }

    fn see_stops(&self, Opened { stops, guard, .. }: &Opened) {
        if self.has_stops {
            locked(&self.account.stopped).look(&stops.in_force(), guard.clock().now_ms());
        }
    }

    /// Looks at the guard now.
    pub(crate) fn look_now(&self) {
        let mut state = self.state();
        if let Some(opened) = state.life.as_ref().map(|life| life.opened.clone()) {
            self.look(&mut state, &opened, false);
        }
    }

    fn fail(&self, state: &mut State, text: String) {
        self.tell(state, &format!("FAULT {text}"));
        state.fault.get_or_insert(text);
    }

    /// Whether upstream keeps to what the guard assumes of it.
    pub(crate) const fn is_sound(&self) -> bool {
        self.broken.is_none()
    }

    /// Whether the guard sees that the assumption is broken where no usage is reported:
    /// hosted calls are events of a stream.
    pub(crate) fn is_seen(&self, bill: &DrawnBill) -> bool {
        self.broken == Some(Broken::Calls) && bill.is_stream
    }

    /// Notes a cost that was more than its hold.
    pub(crate) fn overran(&self) {
        self.state().overruns += 1;
    }

    /// Notes a stream that the guard cut.
    pub(crate) fn cut(&self) {
        self.state().cuts += 1;
    }

    /// Notes a fault unless something holds.
    pub(crate) fn check(&self, holds: bool, text: impl FnOnce() -> String) {
        if !holds {
            self.fail(&mut self.state(), text());
        }
    }

    /// Says what happened; a world that is run again must say the same.
    pub(crate) fn trace(&self, text: &str) {
        self.tell(&mut self.state(), text);
    }

    fn tell(&self, state: &mut State, text: &str) {
        let line = format!("{:?} {text}", now().duration_since(self.began));
        line.hash(&mut state.trace);
        if self.is_loud {
            println!("{line}");
        }
    }

    pub(crate) fn noted(&self, status: u16) {
        *self.state().statuses.entry(status).or_default() += 1;
    }

    pub(crate) fn outcome(&self) -> Outcome {
        let state = self.state();
        Outcome {
            fault: state.fault.clone(),
            lives: state.lives,
            events: state.events,
            requests: state.statuses.values().sum(),
            statuses: state.statuses.clone(),
            jobs: self.account.jobs(),
            overruns: state.overruns,
            cuts: state.cuts,
            digest: state.trace.finish(),
        }
    }
}

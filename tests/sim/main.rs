//! Simulated worlds, each from a seed: what must always hold holds in all.
//!
//!     cargo test --test sim                    # as many as CI runs
//!     cargo test --test sim -- --seeds 5000    # as many as you like; --from 300 begins there
//!     cargo test --test sim -- --seed 17       # one, saying what happens
//!     cargo test --test sim -- --until-fault   # no more worlds than it takes to find one that fails
//!
//! Requests are plain ones, or of any kind that the oracle draws; what they cost is
//! the oracle's charge. In every fifth world upstream breaks what the guard assumes.
//!
//! A world that fails names its seed. The first ones are run twice, since a failure
//! that doesn't come again could not be looked into.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]
#![expect(clippy::print_stdout, reason = "it is its own harness")]

mod account;
mod answers;
mod background;
mod batches;
mod chance;
mod clients;
mod containers;
mod covered;
mod drawn;
mod files;
mod frames;
mod jobs;
mod life;
mod openai;
mod operators;
mod outcome;
mod realtime;
mod seen;
mod settled;
mod sockets;
mod speakers;
mod stops;
mod stores;
mod talkers;
mod wire;
mod world;

use std::cell::Cell;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use spendguard::directory::keyring::NewKey;
use spendguard::guard::audit::Actor;
use spendguard::pricing::count::{self, Encoding};
use spendguard::startup::Opened;
use tokio::time::{sleep, timeout, timeout_at};
use tokio_util::task::TaskTracker;

use crate::account::locked;
use crate::chance::Chance;
use crate::life::{Life, audit};
use crate::outcome::Outcome;
use crate::world::World;

/// Seeds that are run if none are asked for.
const SEEDS: u64 = 70;
/// Seeds below this one are run twice.
const TWICE: u64 = 10;
const CLIENTS: usize = 8;
/// Clients that begin jobs, in some worlds.
const JOB_CLIENTS: usize = 6;
const WORK: Duration = Duration::from_secs(60);
/// Longer than any wait that a request is allowed.
const REST_MAX: Duration = Duration::from_secs(200);
/// Longer than any job lasts, once the last ones are left: a vector store is kept for a day and expires after another, the
/// guard looks at one once a day, and asks for some time after a deadline.
const JOBS_MAX: Duration = Duration::from_secs(3 * 86_400 + 1_200);
/// How much longer a guard is dead in a slow world, at the most: 40 seconds.
const DOWN_FACTOR_MAX: u64 = 20;

thread_local! {
    /// Panics on this thread, in whatever task: each world has one thread.
    static PANICS: Cell<u64> = const { Cell::new(0) };
}

fn main() -> ExitCode {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.set(PANICS.get() + 1);
        report(panic);
    }));
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        Some(arguments.get(at + 1).and_then(|text| text.parse::<u64>().ok()).expect("a number"))
    };
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    if has("--list") {
        // As `cargo nextest` asks, once for those that are run and once for those
        // that are not.
        if !has("--ignored") {
            println!("worlds: test");
        }
        return ExitCode::SUCCESS;
    }
    // Else the first to count would do so on a real thread.
    for encoding in [Encoding::O200k, Encoding::Cl100k] {
        count::text(encoding, "");
    }
    if let Some(seed) = number("--seed") {
        let outcome = run(seed, true);
        println!("{outcome:#?}");
        return if outcome.fault.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let seeds = number("--seeds").unwrap_or(SEEDS);
    let first = number("--from").unwrap_or(0);
    run_all(first, first + seeds, if has("--until-fault") { Until::Fault } else { Until::End })
}

/// How far worlds are run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    End,
    Fault,
}

fn run_all(first: u64, end: u64, until: Until) -> ExitCode {
    let next = AtomicU64::new(first);
    let work = || {
        let mut outcomes = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return outcomes;
            }
            let outcome = checked(seed);
            if until == Until::Fault && outcome.fault.is_some() {
                next.store(end, Ordering::Relaxed);
            }
            outcomes.push((seed, outcome));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let outcomes: Vec<(u64, Outcome)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(|(_, outcome)| of(outcome)).sum::<u64>();
    let with = |status| outcomes.iter().filter_map(|(_, o)| o.statuses.get(&status)).sum::<u64>();
    println!(
        "{} worlds, {} lives, {} events looked at, {} answers: {} of 200, {} of 429, {} of 5xx; {} jobs; {} overruns, {} streams cut",
        outcomes.len(),
        sum(|o| o.lives),
        sum(|o| o.events),
        sum(|o| o.requests),
        with(200),
        with(429),
        with(500) + with(502) + with(503) + with(504),
        sum(|o| o.jobs),
        sum(|o| o.overruns),
        sum(|o| o.cuts),
    );
    let failed: Vec<_> = outcomes.iter().filter(|(_, outcome)| outcome.fault.is_some()).collect();
    for (seed, outcome) in &failed {
        println!("seed {seed}: {}", outcome.fault.as_deref().unwrap_or_default());
        println!("  again: cargo test --test sim -- --seed {seed}");
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a seed; some twice, which must come to the same.
fn checked(seed: u64) -> Outcome {
    let mut outcome = run(seed, false);
    if seed < TWICE && outcome.fault.is_none() {
        let again = run(seed, false);
        if again.digest != outcome.digest {
            outcome.fault = Some("it went another way the second time".to_owned());
        }
    }
    outcome
}

fn run(seed: u64, is_loud: bool) -> Outcome {
    // Memory, where there is a folder of it: the disk is simulated anyway.
    let memory = std::path::Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let folder = folder.unwrap();
    // Timers are looked at only when nothing else is to be done: else it would
    // depend on how often the runtime has gone round.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .event_interval(u32::MAX)
        .global_queue_interval(u32::MAX)
        .build()
        .unwrap();
    PANICS.set(0);
    runtime.block_on(async {
        let world = World::new(seed, folder.path().join("data"), is_loud);
        scenario(&world).await;
        world.check(PANICS.get() == 0, || "something panicked".to_owned());
        world.outcome()
    })
}

async fn scenario(world: &Arc<World>) {
    let mut chance = world.fork();
    let base_ms = operators::eve_ms(&mut chance);
    let day = jiff::Timestamp::from_millisecond(base_ms).unwrap();
    world.account.set_time(containers::UnixTime::from(base_ms, wire::now()));
    world.account.set_date(day.strftime("%Y-%m-%d").to_string());
    let settings = operators::settings(&mut chance, world);
    let life = Life::start(world, &settings, base_ms).await;
    world.put_settings(settings);
    let new = || NewKey { name: "k".to_owned(), ..NewKey::default() };
    let make = async || life.opened.directory.create_key(new(), &Actor::guard()).await;
    let mut keys = [make().await.unwrap(), make().await.unwrap()];
    // Ids are drawn by lot, and when a page of an index is full depends on their order.
    keys.sort_by(|(a, _), (b, _)| a.id.cmp(&b.id));
    locked(&world.account.stopped).set_keys(keys.iter().map(|(key, _)| key.id.to_string()));
    world.set_keys(keys.map(|(_, secret)| secret.expose().to_owned()));
    world.begin(life);
    world.changing(false);
    let others = TaskTracker::new();
    for name in 0..CLIENTS {
        let chance = chance.fork();
        let world = Arc::clone(world);
        if name < world.talkers {
            others.spawn(talkers::run(world, name, chance));
        } else if name < world.talkers + world.speakers {
            others.spawn(speakers::run(world, name, chance));
        } else {
            others.spawn(clients::run(world, name, chance));
        }
    }
    if world.jobs.are_begun {
        for name in 0..JOB_CLIENTS {
            others.spawn(jobs::run(Arc::clone(world), name, chance.fork()));
        }
    }
    others.spawn(operators::run(Arc::clone(world), chance.fork()));
    let end = wire::now() + WORK * u32::try_from(world.jobs.pace).unwrap();
    while timeout_at(end, world.died.notified()).await.is_ok() {
        rise(world, &mut chance, base_ms).await;
    }
    world.rest();
    if world.opened().is_none() {
        // It died at the last instant.
        rise(world, &mut chance, base_ms).await;
    }
    others.close();
    let _ = timeout(REST_MAX, others.wait()).await;
    jobs::tidy(world, chance.fork()).await;
    rest(world).await;
}

/// The next life, on what the last one left.
async fn rise(world: &Arc<World>, chance: &mut Chance, base_ms: i64) {
    sleep(Duration::from_millis(chance.within(1, 2_000) * world.jobs.pace.min(DOWN_FACTOR_MAX))).await;
    world.disk.store(life::SOUND, Ordering::Relaxed);
    // With the same limits as before, a death must not bring the books past them.
    let same = world.settings().filter(|_| chance.percent(70));
    let is_same = same.is_some();
    let settings = same.unwrap_or_else(|| operators::settings(chance, world));
    let life = Life::start(world, &settings, base_ms).await;
    stops::check_start(world, &life.opened);
    audit(world, &life.opened).await;
    // It read on real threads; from a new instant on, order is the seed's again.
    sleep(Duration::from_millis(1)).await;
    world.put_settings(settings);
    let jobs = jobs_of(&life.opened);
    let open = u64::try_from(life.opened.guard.in_doubt().1).unwrap();
    world.check(open == jobs, || format!("a guard starts with {open} open holds, of which {jobs} are jobs"));
    world.begin(life);
    if is_same {
        world.look_now();
    } else {
        world.changing(false);
    }
    world.trace("the guard rises");
}

/// How many jobs run.
fn jobs_of(opened: &Opened) -> u64 {
    opened.guard.open_jobs().values().map(|jobs| jobs.count).sum()
}

/// Lets everything end, and looks at what is left.
async fn rest(world: &Arc<World>) {
    let opened = world.opened().unwrap();
    let Opened { guard, books, .. } = &opened;
    let beside = world.with_life(Life::beside).unwrap();
    beside.close();
    let is_over = timeout(REST_MAX, beside.wait()).await.is_ok();
    world.check(is_over, || "sockets or answers outlive their clients".to_owned());
    let ended = async {
        while jobs_of(&opened) > 0 {
            sleep(Duration::from_secs(1)).await;
        }
    };
    let ended = timeout(JOBS_MAX, ended).await;
    world.check(ended.is_ok(), || format!("jobs are left open: {:?}", guard.open_jobs()));
    let rested = async {
        while guard.in_doubt().1 > 0 {
            sleep(Duration::from_millis(100)).await;
        }
    };
    let rested = timeout(REST_MAX, rested).await;
    world.check(rested.is_ok(), || format!("a hold outlives its request: {:?}", guard.in_doubt()));
    for (limit, readings) in books.limits() {
        let held = readings.iter().any(|reading| reading.meter.held != 0);
        world.check(!held, || format!("{}: something is held without a request: {readings:?}", limit.name));
    }
    audit(world, &opened).await;
    let begun = locked(&world.account.stopped).faults.first().cloned();
    world.check(begun.is_none(), || begun.unwrap_or_default());
    settled::settle_up(world, &opened.reports).await;
}

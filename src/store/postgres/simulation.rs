//! Worlds of several guards on one database that is slow, cut off, crashes, or loses answers.
//!
//!     cargo test --lib simulation
//!     SPENDGUARD_TEST_SEEDS=2000 cargo test --lib simulation
//!     SPENDGUARD_TEST_SEED=17 cargo test --lib simulation -- --nocapture
//!
//! The lanes, groups, queues and ledgers are the real ones; behind the seam `Session` there
//! is a database that is written from the contract of the seam. A seed decides everything.

#[path = "../../../tests/sim/chance.rs"]
mod chance;
mod clients;
mod connection;
mod database;
mod groups;
mod guard;
mod log;
mod members;
mod operators;
mod oracle;
mod periods;
mod plan;
mod rows;
mod rules;
mod session;
mod sums;
mod switch;
mod tables;
mod upkeep;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

use self::world::Outcome;

/// Seeds that are run if none are asked for.
const SEEDS: u64 = 200;
/// Seeds below this one are run twice.
const TWICE: u64 = 4;

fn run(seed: u64, is_loud: bool) -> Outcome {
    // Timers are looked at only when nothing else is to be done: else it would depend on how
    // often the runtime has gone round.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .event_interval(u32::MAX)
        .global_queue_interval(u32::MAX)
        .build()
        .unwrap();
    runtime.block_on(world::run(seed, is_loud))
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs seeds on all cores until one fails.
fn run_until_fault(seeds: u64) -> (u64, Vec<(u64, String)>) {
    let (next, groups, admitted) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let work = || {
        let mut faults = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return faults;
            }
            let outcome = run(seed, false);
            groups.fetch_add(outcome.groups, Ordering::Relaxed);
            admitted.fetch_add(outcome.admitted, Ordering::Relaxed);
            let mut fault = outcome.fault;
            if seed < TWICE && fault.is_none() && run(seed, false).digest != outcome.digest {
                fault = Some("it went another way the second time".to_owned());
            }
            if let Some(fault) = fault {
                next.store(seeds, Ordering::Relaxed);
                faults.push((seed, fault));
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let faults = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    println!("{seeds} worlds, {groups:?} groups, {admitted:?} requests admitted");
    (groups.into_inner(), faults)
}

#[test]
fn several_guards_on_one_database_keep_every_limit() {
    if let Some(seed) = number("SPENDGUARD_TEST_SEED") {
        let outcome = run(seed, true);
        assert!(outcome.fault.is_none(), "seed {seed}: {}", outcome.fault.unwrap_or_default());
        return;
    }
    let seeds = number("SPENDGUARD_TEST_SEEDS").unwrap_or(SEEDS);
    let (groups, faults) = run_until_fault(seeds);
    let shown: Vec<String> = faults
        .iter()
        .map(|(seed, fault)| format!("seed {seed}: {fault}\n  again: SPENDGUARD_TEST_SEED={seed}"))
        .collect();
    assert!(faults.is_empty(), "{}", shown.join("\n"));
    assert!(groups > 10 * seeds, "there were only {groups} groups");
}

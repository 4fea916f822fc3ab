//! Guards on one PostgreSQL: throughput, latency and CPU time, beside the embedded engine.
//!
//! `cargo build --release && cargo bench --profile measure --bench cluster -- --seconds 5`
//! (`--only "PostgreSQL 1 hot"` for one row)
//!
//! Each row is some guards with one limit that all requests count on ("hot"), or with a limit
//! for each key and a key for each guard ("disjoint"). First 64 connections ask as fast as they
//! can, spread over the guards; then 500 requests are due each second, and their latency counts
//! from then. The latency that the guard adds is that without what the same load takes at the
//! upstream alone. Clients, upstream, guards and PostgreSQL share one machine. Rounds are taken
//! by turns; medians are printed.

#![expect(clippy::unwrap_used, reason = "a benchmark that can't go on has failed")]
#![expect(clippy::print_stdout, reason = "its rows are what it is for")]

#[path = "support/asking.rs"]
mod asking;
#[expect(dead_code, reason = "tests do more with it")]
#[path = "../tests/it/postgres.rs"]
mod postgres;
#[path = "support/running.rs"]
mod running;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use http_body_util::BodyExt as _;
use serde_json::json;
use spendguard::clock::Clock;
use spendguard::upstream::Upstream;
use tokio_util::task::TaskTracker;

use self::asking::{argument, client};
use self::postgres::Postgres;
use self::running::Running;

const TOKEN: &str = "cluster-admin-token-0123456789abc";
const ROUNDS: usize = 3;
const CONNECTIONS: usize = 64;
const RATE_MS: u64 = 2;
const HOT: &str = "[[limit]]\nname = \"org-month\"\nwindow = \"month\"\nhard = 1000000\n";
const DISJOINT: &str = "[[limit]]\nname = \"key-month\"\nper = \"key\"\nwindow = \"month\"\nhard = 1000000\n";

/// How the guards of a row count, and on what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Setup {
    engine: &'static str,
    guards: usize,
    limit: &'static str,
}

/// What was measured of a row in one round.
#[derive(Clone, Copy, Debug, Default)]
struct Measured {
    per_second: u64,
    guards_cpu_us: u64,
    postgres_cpu_us: u64,
    group: u64,
    p50_us: u64,
    p99_us: u64,
}

async fn ask(client: &Upstream, method: Method, path: &str, key: &str, body: Bytes) -> (u16, Bytes) {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {key}")).unwrap());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("x-fake-completion-tokens", HeaderValue::from_static("1"));
    let Ok(answer) = client.send(method, path, headers, body).await else { return (0, Bytes::new()) };
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.map(http_body_util::Collected::to_bytes);
    body.map_or((0, Bytes::new()), |body| (status, body))
}

fn chat() -> Bytes {
    let messages = [json!({ "role": "user", "content": "Why did my bill go up in March? ".repeat(10) })];
    Bytes::from(json!({ "model": "gpt-4o-mini", "max_tokens": 200, "messages": messages }).to_string())
}

fn secret(guard: usize) -> String {
    format!("sk-cluster-{guard}-0123456789")
}

/// Asks as fast as it can on all connections; returns how many answers came each second.
async fn closed(places: &[(Upstream, String)], clock: &Arc<Clock>, seconds: u64) -> u64 {
    let (answered, clients) = (Arc::new(AtomicU64::new(0)), TaskTracker::new());
    let began = clock.running();
    let until = began + Duration::from_secs(seconds);
    for number in 0..CONNECTIONS {
        let (place, key) = places[number % places.len()].clone();
        let (answered, clock, body) = (Arc::clone(&answered), Arc::clone(clock), chat());
        clients.spawn(async move {
            while clock.running() < until {
                let (status, _) = ask(&place, Method::POST, "/v1/chat/completions", &key, body.clone()).await;
                assert_eq!(status, 200);
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    clients.close();
    clients.wait().await;
    let took_ms = u64::try_from(clock.running().saturating_sub(began).as_millis()).unwrap();
    answered.load(Ordering::Relaxed) * 1_000 / took_ms
}

/// The latencies of a load that is due at a steady rate, sorted, in microseconds.
async fn steady(places: &[(Upstream, String)], seconds: u64) -> Vec<u64> {
    let (took, requests) = (Arc::new(Mutex::new(Vec::new())), TaskTracker::new());
    let mut tick = tokio::time::interval(Duration::from_millis(RATE_MS));
    for number in 0..seconds * 1_000 / RATE_MS {
        let due = tick.tick().await;
        let (place, key) = places[usize::try_from(number).unwrap() % places.len()].clone();
        let (body, took) = (chat(), Arc::clone(&took));
        requests.spawn(async move {
            let (status, _) = ask(&place, Method::POST, "/v1/chat/completions", &key, body).await;
            assert_eq!(status, 200);
            took.lock().unwrap().push(u64::try_from(due.elapsed().as_micros()).unwrap());
        });
    }
    requests.close();
    requests.wait().await;
    let mut took = std::mem::take(&mut *took.lock().unwrap());
    took.sort_unstable();
    took
}

/// CPU time of a process and of those it has waited for, in microseconds.
fn cpu_us(pid: &str) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> =
        stat.rsplit_once(") ").map_or_else(Vec::new, |(_, rest)| rest.split(' ').collect());
    let ticks = fields.iter().skip(11).take(4).filter_map(|field| field.parse::<u64>().ok());
    ticks.sum::<u64>() * 10_000
}

/// How many groups a guard has committed.
async fn groups(guard: &Running) -> u64 {
    let (_, text) = ask(&client(&guard.admin), Method::GET, "/metrics", TOKEN, Bytes::new()).await;
    let text = String::from_utf8(text.to_vec()).unwrap();
    let line = text.lines().find(|line| line.starts_with("spendguard_ledger_commit_seconds_count"));
    line.and_then(|line| line.rsplit(' ').next()).map_or(0, |count| count.parse().unwrap_or(0))
}

async fn measure(setup: Setup, upstream: &str, alone: &[u64], clock: &Arc<Clock>, seconds: u64) -> Measured {
    let folder = tempfile::tempdir().unwrap();
    let postgres = (setup.engine == "PostgreSQL").then(|| Postgres::with(""));
    let config = if setup.limit == "hot" { HOT } else { DISJOINT };
    let start = |number: usize| {
        let place = folder.path().join(number.to_string());
        std::fs::create_dir(&place).unwrap();
        let mut command = running::guard(&place, config, TOKEN, upstream);
        if let Some(postgres) = &postgres {
            command.env_remove("SPENDGUARD_STORAGE__PATH");
            command.env("DATABASE_URL", postgres.url()).env("SPENDGUARD_STORAGE__URL__ENV", "DATABASE_URL");
        }
        Running::of(command)
    };
    let guards: Vec<Running> = (0..setup.guards).map(start).collect();
    let mut places = Vec::new();
    for (number, guard) in guards.iter().enumerate() {
        let made = json!({ "name": format!("key {number}"), "secret": secret(number) }).to_string();
        let (status, _) =
            ask(&client(&guard.admin), Method::POST, "/guard/v1/keys", TOKEN, made.into()).await;
        assert_eq!(status, 201);
        places.push((client(&guard.proxy), secret(number)));
    }
    closed(&places, clock, 1).await;
    let server = postgres.as_ref().map(Postgres::pids).unwrap_or_default();
    let cpu = || {
        let guards: u64 = guards.iter().map(|guard| guard.cpu_ticks() * 10_000).sum();
        (guards, server.iter().map(|pid| cpu_us(pid)).sum::<u64>())
    };
    let mut committed = 0;
    for guard in &guards {
        committed += groups(guard).await;
    }
    let before = cpu();
    let per_second = closed(&places, clock, seconds).await;
    let after = cpu();
    let answered = per_second * seconds;
    let mut committed_then = 0;
    for guard in &guards {
        committed_then += groups(guard).await;
    }
    let took = steady(&places, seconds).await;
    let at = |of: &[u64], share: usize| of[of.len() * share / 1_000];
    Measured {
        per_second,
        guards_cpu_us: (after.0 - before.0) / answered.max(1),
        postgres_cpu_us: (after.1 - before.1) / answered.max(1),
        group: answered * 10 / (committed_then - committed).max(1),
        p50_us: at(&took, 500).saturating_sub(at(alone, 500)),
        p99_us: at(&took, 990).saturating_sub(at(alone, 990)),
    }
}

fn median(of: impl Iterator<Item = u64>) -> u64 {
    let mut of: Vec<u64> = of.collect();
    of.sort_unstable();
    of[of.len() / 2]
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let Some(seconds) = argument("--seconds").map(|text| text.parse().expect("a whole number")) else {
        println!("no guard runs without --seconds");
        return;
    };
    let clock = Arc::new(Clock::default());
    let upstream = asking::fake();
    let shared = |guards, limit| Setup { engine: "PostgreSQL", guards, limit };
    let embedded = |limit| Setup { engine: "embedded", guards: 1, limit };
    let setups = ["hot", "disjoint"]
        .map(|limit| [embedded(limit), shared(1, limit), shared(2, limit), shared(3, limit)]);
    let only = argument("--only");
    let is_wanted = |setup: &Setup| {
        let name = format!("{} {} {}", setup.engine, setup.guards, setup.limit);
        only.as_ref().is_none_or(|only| *only == name)
    };
    let setups: Vec<Setup> = setups.into_iter().flatten().filter(is_wanted).collect();
    let mut rounds = vec![Vec::new(); setups.len()];
    for _ in 0..ROUNDS {
        let alone = steady(&[(client(&upstream), "sk-upstream".to_owned())], seconds).await;
        for (setup, measured) in setups.iter().zip(&mut rounds) {
            measured.push(measure(*setup, &format!("{upstream}/v1"), &alone, &clock, seconds).await);
        }
    }
    println!(
        "| engine | guards | limit | requests/s at 64 | CPU µs a request, guards | PostgreSQL | requests a group | \
         added p50 at 500/s, µs | added p99 |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for (setup, measured) in setups.iter().zip(&rounds) {
        let of = |field: fn(&Measured) -> u64| median(measured.iter().map(field));
        let group = of(|measured| measured.group);
        println!(
            "| {} | {} | {} | {} | {} | {} | {}.{} | {} | {} |",
            setup.engine,
            setup.guards,
            setup.limit,
            of(|measured| measured.per_second),
            of(|measured| measured.guards_cpu_us),
            of(|measured| measured.postgres_cpu_us),
            group / 10,
            group % 10,
            of(|measured| measured.p50_us),
            of(|measured| measured.p99_us),
        );
    }
}

//! What open jobs cost: requests beside 10,000 background responses that go on, and their polling.
//!
//! `cargo build --release && cargo bench --profile measure --bench jobs -- --seconds 20`
//!
//! One guard has the jobs and another has none. CPU time is that of the guard's process: first
//! while nothing but polling is to be done, then for requests of 16 connections as fast as they can,
//! at both guards in turns. Clients and upstream are threads of this process, on the same machine.

#![expect(clippy::unwrap_used, reason = "a benchmark that can't go on has failed")]
#![expect(clippy::print_stdout, reason = "its rows are what it is for")]

#[path = "support/asking.rs"]
mod asking;
#[path = "support/keyed.rs"]
mod keyed;
#[path = "support/running.rs"]
mod running;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use spendguard::clock::Clock;
use spendguard::upstream::Upstream;
use tokio_util::task::TaskTracker;

use self::asking::{argument, client};
use self::running::Running;

const TOKEN: &str = "jobs-admin-token-0123456789abcdef";
const SECRET: &str = "sk-jobs-0123456789";
const JOBS: u64 = 10_000;
const CONNECTIONS: usize = 16;
const TURNS: u64 = 10;

async fn ask(client: &Upstream, path: &str, key: &str, body: &Value) -> u16 {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {key}")).unwrap());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // A background response goes on for as long as anybody asks.
    headers.insert("x-fake-background-reads", HeaderValue::from_static("1000000000"));
    let answer = client.send(Method::POST, path, headers, Bytes::from(body.to_string())).await.unwrap();
    let status = answer.status().as_u16();
    answer.into_body().collect().await.unwrap();
    status
}

/// Sends so many requests on 16 connections, or as many as a time allows; returns how many.
async fn load(
    guard: &Running,
    path: &'static str,
    body: Value,
    count: u64,
    (clock, until): (&Arc<Clock>, Duration),
) -> u64 {
    let (left, sent, clients) =
        (Arc::new(AtomicU64::new(count)), Arc::new(AtomicU64::new(0)), TaskTracker::new());
    for _ in 0..CONNECTIONS {
        let (left, sent, clock, body) =
            (Arc::clone(&left), Arc::clone(&sent), Arc::clone(clock), body.clone());
        let client = client(&guard.proxy);
        clients.spawn(async move {
            let take = |left: u64| left.checked_sub(1);
            while clock.running() < until
                && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
            {
                assert_eq!(ask(&client, path, SECRET, &body).await, 200);
                sent.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    clients.close();
    clients.wait().await;
    sent.load(Ordering::Relaxed)
}

/// CPU time of requests for a second, in nanoseconds each.
async fn request_ns(guard: &Running, clock: &Arc<Clock>) -> u64 {
    let chat = json!({ "model": "gpt-5-mini", "max_completion_tokens": 100,
        "messages": [{ "role": "user", "content": "Why did my bill go up in March? ".repeat(10) }] });
    let (before, until) = (guard.cpu_ticks(), clock.running() + Duration::from_secs(1));
    let sent = load(guard, "/v1/chat/completions", chat, u64::MAX, (clock, until)).await;
    (guard.cpu_ticks() - before) * 10_000_000 / sent
}

/// The share of a core that a guard takes on its own, in thousandths.
async fn idle_share(guard: &Running, seconds: u64) -> u64 {
    let before = guard.cpu_ticks();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    (guard.cpu_ticks() - before) * 10 / seconds
}

fn tenths(thousandths: u64) -> String {
    format!("{}.{}", thousandths / 10, thousandths % 10)
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let Some(seconds) = argument("--seconds").map(|text| text.parse().expect("a whole number")) else {
        println!("there are no jobs without --seconds");
        return;
    };
    let clock = Arc::new(Clock::default());
    let upstream = format!("{}/v1", asking::fake());
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (without, with) = (
        keyed::guard(folders[0].path(), &upstream, TOKEN, SECRET).await,
        keyed::guard(folders[1].path(), &upstream, TOKEN, SECRET).await,
    );
    let begin =
        json!({ "model": "gpt-5-mini", "input": "hello", "background": true, "max_output_tokens": 100 });
    assert_eq!(load(&with, "/v1/responses", begin, JOBS, (&clock, Duration::MAX)).await, JOBS);
    // Until then a job is asked for more often than once a minute.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let idle = [idle_share(&without, seconds).await, idle_share(&with, seconds).await];
    println!("| | CPU of an idle guard, % of a core | CPU of a request, µs |\n|---|---|---|");
    let (mut took, mut ratios) = ([Vec::new(), Vec::new()], Vec::new());
    for turn in 0..=TURNS {
        let (none, some) = (request_ns(&without, &clock).await, request_ns(&with, &clock).await);
        // The first turn warms up.
        if turn > 0 {
            took[0].push(none);
            took[1].push(some);
            ratios.push(some * 1_000 / none);
        }
    }
    for of in took.iter_mut().chain([&mut ratios]) {
        of.sort_unstable();
    }
    for ((name, idle), took) in ["no jobs".to_owned(), format!("{JOBS} jobs")].iter().zip(idle).zip(&took) {
        println!("| {name} | {} | {} |", tenths(idle), tenths(took[took.len() / 2] / 100));
    }
    let of = |share: usize| {
        let ratio = ratios[ratios.len() * share / 4];
        format!("{}.{:03}", ratio / 1_000, ratio % 1_000)
    };
    println!(
        "\nA request beside the jobs takes {} of one without them ({} to {} in the middle half of {TURNS} turns).",
        of(2),
        of(1),
        of(3)
    );
}

//! Whether one client slows the others: 500 requests a second of one key, alone
//! and beside what others do.
//!
//! `cargo build --release && cargo bench --profile measure --bench crowd -- --seconds 20`
//! (`--only scrape` for one row)
//!
//! Each row puts something on the guard for as long as it is measured: a thousand
//! connections of a key that has come to its limit, scrapes and lists of 300,000
//! meters, new limits over 300,000 sums, 34 MiB of text against a small budget,
//! questions of keys about their spending, wrong keys. The load is steady: a
//! request is due every 2 ms, and its latency counts from then. The clients that
//! crowd have a thread of their own.
//!
//! Clients, upstream and guard share one machine, so that a crowd takes processor
//! time from the steady load wherever it goes. So the steady load is measured beside
//! the same crowd at another guard, too: what is more than that is the guard's doing.

#![expect(clippy::unwrap_used, reason = "a benchmark that can't go on has failed")]
#![expect(clippy::print_stdout, reason = "its rows are what it is for")]

#[path = "support/asking.rs"]
mod asking;
#[path = "support/running.rs"]
mod running;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
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

const TOKEN: &str = "crowd-admin-token-0123456789abcdef";
const SUMS: i64 = 300_000;
const RATE_MS: u64 = 2;
const LIMITS: &str = "
[guard]\nwhen_tight = \"reject\"
[[limit]]\nname = \"org-month\"\nwindow = \"month\"\nhard = 1000000
[[limit]]\nname = \"users\"\nper = \"user\"\nwindow = \"month\"\nhard = 1000\n
[[limit]]\nname = \"tight\"\nonly = { key = [\"tight\"] }\nwindow = \"total\"\nhard = 5
[[limit]]\nname = \"poor\"\nonly = { key = [\"poor\"] }\nwindow = \"total\"\nhard = 0.001\n";
/// What crowds, by its name, and how many connections do it.
const CROWDS: [(&str, usize); 6] =
    [("waiting", 1_000), ("scrape", 1), ("limit", 1), ("text", 4), ("questions", 40), ("wrong-keys", 100)];

/// Sends a request and reads its answer; 0 for one that broke off.
async fn ask(
    client: &Upstream,
    method: Method,
    path: &str,
    key: &str,
    latency: &'static str,
    body: Bytes,
) -> u16 {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {key}")).unwrap());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("x-fake-latency-ms", HeaderValue::from_static(latency));
    headers.insert("x-fake-completion-tokens", HeaderValue::from_static("1"));
    let Ok(answer) = client.send(method, path, headers, body).await else { return 0 };
    let status = answer.status().as_u16();
    if answer.into_body().collect().await.is_ok() { status } else { 0 }
}

fn chat(model: &str, tokens: u64, text: &str) -> Bytes {
    let messages = [json!({ "role": "user", "content": text })];
    Bytes::from(json!({ "model": model, "max_tokens": tokens, "messages": messages }).to_string())
}

fn secret(name: &str) -> String {
    format!("sk-crowd-{name}-0123456789")
}

/// What one connection of a crowd does, again and again.
async fn crowd(what: &str, number: usize, proxy: &Upstream, admin: &Upstream, text: &Bytes) -> u16 {
    let path = "/v1/chat/completions";
    let (get, none) = (Method::GET, Bytes::new());
    match what {
        "waiting" => {
            ask(proxy, Method::POST, path, &secret("tight"), "50", chat("gpt-4o", 16_000, "hello")).await
        }
        "text" => ask(proxy, Method::POST, path, &secret("poor"), "0", text.clone()).await,
        "questions" => {
            let path = "/v1/dashboard/billing/usage?start_date=2026-06-01&end_date=2026-12-31";
            ask(proxy, get, path, &secret("steady"), "0", none).await
        }
        "wrong-keys" => {
            ask(proxy, Method::POST, path, &format!("sk-wrong-{number}"), "0", chat("gpt-4o", 9, "")).await
        }
        "scrape" => {
            let listed = ask(admin, get.clone(), "/guard/v1/limits", TOKEN, "0", none.clone()).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            listed.min(ask(admin, get, "/metrics", TOKEN, "0", none).await)
        }
        _ => {
            let path = "/guard/v1/limits/new";
            let rule = json!({ "per": "user", "unit": "usd", "window": "month", "hard": "1000" }).to_string();
            let put = ask(admin, Method::PUT, path, TOKEN, "0", rule.into()).await;
            ask(admin, Method::DELETE, path, TOKEN, "0", none).await;
            put
        }
    }
}

/// Lets a crowd do its part on a thread of its own until it is stopped;
/// returns how its requests were answered.
fn crowding(
    what: &'static str,
    count: usize,
    guard: &Running,
    stop: Arc<AtomicBool>,
) -> std::thread::JoinHandle<Value> {
    let (proxy, admin) = (guard.proxy.clone(), guard.admin.clone());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let statuses = Arc::new(Mutex::new(std::collections::BTreeMap::<u16, u64>::new()));
        let text = if what == "text" {
            chat("gpt-4o", 100, &"plain words and no end of them. ".repeat(1_114_112))
        } else {
            Bytes::new()
        };
        runtime.block_on(async {
            let clients = TaskTracker::new();
            for number in 0..count {
                let (stop, statuses, text) = (Arc::clone(&stop), Arc::clone(&statuses), text.clone());
                let (proxy, admin) = (client(&proxy), client(&admin));
                clients.spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        let status = crowd(what, number, &proxy, &admin, &text).await;
                        *statuses.lock().unwrap().entry(status).or_default() += 1;
                    }
                });
            }
            clients.close();
            let _ = tokio::time::timeout(Duration::from_secs(20), clients.wait()).await;
        });
        json!(*statuses.lock().unwrap())
    })
}

/// The latencies of a steady load, sorted, in microseconds.
async fn steady(guard: &Running, clock: &Clock, seconds: u64) -> Vec<u64> {
    let proxy = Arc::new(client(&guard.proxy));
    let (took, wrong) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU64::new(0)));
    let requests = TaskTracker::new();
    let body = chat("gpt-4o-mini", 200, &"Why did my bill go up in March? ".repeat(10));
    let mut tick = tokio::time::interval(Duration::from_millis(RATE_MS));
    let began = clock.running();
    for _ in 0..seconds * 1_000 / RATE_MS {
        let due = tick.tick().await;
        let (proxy, body, took, wrong) =
            (Arc::clone(&proxy), body.clone(), Arc::clone(&took), Arc::clone(&wrong));
        requests.spawn(async move {
            let status =
                ask(&proxy, Method::POST, "/v1/chat/completions", &secret("steady"), "0", body).await;
            wrong.fetch_add(u64::from(status != 200), Ordering::Relaxed);
            took.lock().unwrap().push(u64::try_from(due.elapsed().as_micros()).unwrap());
        });
    }
    requests.close();
    requests.wait().await;
    assert_eq!(wrong.load(Ordering::Relaxed), 0, "of the steady load, some were refused");
    assert!(clock.running().saturating_sub(began).as_secs() >= seconds.saturating_sub(1));
    let mut took = std::mem::take(&mut *took.lock().unwrap());
    took.sort_unstable();
    took
}

/// The latencies of the steady load at a guard while a crowd is at one, the CPU time of
/// that one, and how the crowd was answered.
async fn crowded(
    guard: &Running,
    (what, count, crowded): (&'static str, usize, &Running),
    clock: &Clock,
    seconds: u64,
) -> (Vec<u64>, u64, Value) {
    let stop = Arc::new(AtomicBool::new(false));
    let others = crowding(what, count, crowded, Arc::clone(&stop));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let cpu_ticks = crowded.cpu_ticks();
    let took = steady(guard, clock, seconds).await;
    let cpu_ms = (crowded.cpu_ticks() - cpu_ticks) * 10;
    stop.store(true, Ordering::Relaxed);
    (took, cpu_ms, tokio::task::spawn_blocking(|| others.join().unwrap()).await.unwrap())
}

/// Writes what many end users have spent, while no guard runs.
fn fill(folder: &Path, now_s: i64) {
    let mut db = rusqlite::Connection::open(folder.join("data/spendguard.db")).unwrap();
    let tx = db.transaction().unwrap();
    let zeros = "0, ".repeat(12) + "0, NULL";
    let sql = format!(
        "INSERT INTO rollup VALUES (?1, 'default', 'key_past', 'user-' || ?2, '', '/v1/chat/completions', \
         'gpt-4o-mini', 'gpt-4o-mini', '', 1, ?2, {zeros})"
    );
    let mut insert = tx.prepare(&sql).unwrap();
    for user in 1..=SUMS {
        insert.execute([now_s.div_euclid(900) * 900, user]).unwrap();
    }
    drop(insert);
    tx.commit().unwrap();
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let Some(seconds) = argument("--seconds").map(|text| text.parse().expect("a whole number")) else {
        println!("there is no crowd without --seconds");
        return;
    };
    let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::default());
    let upstream = format!("{}/v1", asking::fake());
    let guard = Running::of(running::guard(folder.path(), LIMITS, TOKEN, &upstream));
    for name in ["steady", "tight", "poor"] {
        let made = json!({ "name": name, "secret": secret(name) }).to_string();
        assert_eq!(
            ask(&client(&guard.admin), Method::POST, "/guard/v1/keys", TOKEN, "0", made.into()).await,
            201
        );
    }
    drop(guard);
    fill(folder.path(), clock.now_s());
    let other_folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(other_folder.path().join("data")).unwrap();
    for file in ["spendguard.db", "spendguard.db-wal"] {
        let _ =
            std::fs::copy(folder.path().join("data").join(file), other_folder.path().join("data").join(file));
    }
    let guard = Running::of(running::guard(folder.path(), LIMITS, TOKEN, &upstream));
    let other = Running::of(running::guard(other_folder.path(), LIMITS, TOKEN, &upstream));
    steady(&guard, &clock, 2).await;
    println!(
        "| beside | p50 alone, µs | p99 alone | p99 beside it at another guard | p50 beside | p99 beside | p99 by alone | by that | CPU ms | answers |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let only = argument("--only");
    for (what, count) in
        CROWDS.into_iter().filter(|(what, _)| only.as_deref().is_none_or(|only| only == *what))
    {
        let alone = steady(&guard, &clock, seconds).await;
        let (elsewhere, ..) = crowded(&guard, (what, count, &other), &clock, seconds).await;
        let (beside, cpu_ms, answers) = crowded(&guard, (what, count, &guard), &clock, seconds).await;
        let at = |of: &[u64], share: usize| of[of.len() * share / 1_000];
        let (p99, p99_elsewhere, p99_beside) = (at(&alone, 990), at(&elsewhere, 990), at(&beside, 990));
        let by = |of: u64| format!("{}.{:02}", p99_beside / of, p99_beside * 100 / of % 100);
        println!(
            "| {what} | {} | {p99} | {p99_elsewhere} | {} | {p99_beside} | {} | {} | {cpu_ms} | {answers} |",
            at(&alone, 500),
            at(&beside, 500),
            by(p99),
            by(p99_elsewhere),
        );
    }
}

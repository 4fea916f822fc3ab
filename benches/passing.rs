//! What passes as it comes, beside a bare pass-through: files that are uploaded, and speech.
//!
//! `cargo build --release && cargo bench --profile measure --bench passing -- --rounds 10`
//!
//! Uploads: a file of 100 MB, as it is and as the lines of a batch, which the guard scans. CPU time
//! and memory are those of the proxy's process. Speech: how long after its request the first byte of
//! a raw sound is there, one request at a time, at upstream itself, the pass-through and the guard
//! in turns. Client and upstream are threads of this process, on the same machine.

#![expect(clippy::unwrap_used, reason = "a benchmark that can't go on has failed")]
#![expect(clippy::print_stdout, reason = "its rows are what it is for")]

#[path = "support/asking.rs"]
mod asking;
#[path = "support/figures.rs"]
mod figures;
#[path = "support/keyed.rs"]
mod keyed;
#[path = "support/pass_through.rs"]
mod pass_through;
#[path = "support/running.rs"]
mod running;

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use http_body_util::BodyExt as _;
use serde_json::json;
use spendguard::clock::Clock;
use spendguard::upstream::Upstream;

use self::asking::{argument, client};
use self::figures::{median, ratio};
use self::running::Running;

const TOKEN: &str = "passing-admin-token-0123456789abcdef";
const SECRET: &str = "sk-passing-0123456789";
const FILE_BYTES: usize = 100_000_000;
/// Lines of a file: as many as a batch may have, of 2 kB each.
const LINES: usize = 50_000;
/// Sounds that are asked for in a round, each of a second.
const SOUNDS: usize = 200;

impl Running {
    /// Forgets how much memory it has had; returns how much it has, in KiB.
    fn begin_peak_kib(&self) -> u64 {
        std::fs::write(format!("{}/clear_refs", self.proc()), "5").unwrap();
        self.peak_kib()
    }

    /// The most memory since then, in KiB.
    fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("{}/status", self.proc())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

fn headers(content_type: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {SECRET}")).unwrap());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert("x-fake-speech-ms", HeaderValue::from_static("1000"));
    headers
}

/// The form that uploads a file for a purpose.
fn form(purpose: &str) -> Bytes {
    let mut form = format!(
        "--b7\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\n{purpose}\r\n\
         --b7\r\nContent-Disposition: form-data; name=\"file\"; filename=\"in.jsonl\"\r\n\r\n"
    );
    let words = "Say in plain words why the bill went up in March, please. ";
    let line = |text: &str| {
        let messages = [json!({ "role": "user", "content": text })];
        let body = json!({ "model": "gpt-5-mini", "max_completion_tokens": 100, "messages": messages });
        json!({ "custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": body }).to_string()
    };
    let text: String = words.chars().cycle().take(FILE_BYTES / LINES - line("").len() - 1).collect();
    form += &format!("{}\n", line(&text)).repeat(LINES);
    form += "\r\n--b7--\r\n";
    form.into()
}

async fn upload(client: &Upstream, form: &Bytes) {
    let headers = headers("multipart/form-data; boundary=b7");
    let answer = client.send(Method::POST, "/v1/files", headers, form.clone()).await.unwrap();
    let status = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
}

/// How long the first byte of a sound takes, in microseconds.
async fn first_byte(client: &Upstream, clock: &Clock) -> u64 {
    let body =
        json!({ "model": "gpt-4o-mini-tts", "voice": "alloy", "input": "hello", "response_format": "wav" });
    let began = clock.running();
    let answer =
        client.send(Method::POST, "/v1/audio/speech", headers("application/json"), body.to_string().into());
    let answer = answer.await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.status());
    let mut sound = answer.into_body();
    while !sound.frame().await.expect("a sound").unwrap().is_data() {}
    let took = clock.running().saturating_sub(began);
    sound.collect().await.unwrap();
    u64::try_from(took.as_micros()).unwrap()
}

async fn uploads(proxies: [(&'static str, &Running, &'static str); 3], clock: &Clock, rounds: usize) {
    let mut rows = proxies.map(|_| (Vec::new(), Vec::new(), Vec::new()));
    let forms = proxies.map(|(.., purpose)| form(purpose));
    for round in 0..=rounds {
        for ((row, form), (_, proxy, _)) in rows.iter_mut().zip(&forms).zip(proxies) {
            let client = client(&proxy.proxy);
            let (began, before, idle_kib) = (clock.running(), proxy.cpu_ticks(), proxy.begin_peak_kib());
            // Ticks are hundredths of a second.
            for _ in 0..4 {
                upload(&client, form).await;
            }
            // The first round warms up.
            if round > 0 {
                row.0.push((proxy.cpu_ticks() - before) * 10 / 4);
                row.1.push(proxy.peak_kib() - idle_kib);
                row.2.push(u64::try_from(clock.running().saturating_sub(began).as_millis() / 4).unwrap());
            }
        }
    }
    let figures =
        rows.map(|(cpu_ms, kib, wall_ms)| (median(cpu_ms), kib.into_iter().max().unwrap(), median(wall_ms)));
    println!(
        "\n| an upload of 100 MB | CPU ms | by the pass-through | most memory above idle, KiB | took ms |\n|---|---|---|---|---|"
    );
    for ((name, ..), (cpu_ms, kib, wall_ms)) in proxies.iter().zip(figures) {
        println!("| {name} | {cpu_ms} | {} | {kib} | {wall_ms} |", ratio(cpu_ms, figures[0].0));
    }
    let scan_ms = figures[2].0.saturating_sub(figures[1].0).max(1);
    println!(
        "\nA scan takes {scan_ms} ms of CPU more than passing: {} MB a second on one core.",
        100_000 / scan_ms
    );
}

async fn speech(places: [(&'static str, &str); 3], clock: &Clock, rounds: usize) {
    let clients = places.map(|(_, address)| client(address));
    let mut took = places.map(|_| Vec::new());
    for sound in 0..SOUNDS * (rounds + 1) {
        for (client, took) in clients.iter().zip(&mut took) {
            let first = first_byte(client, clock).await;
            if sound >= SOUNDS {
                took.push(first);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    println!("\n| first byte of speech | p50 µs | p99 µs |\n|---|---|---|");
    for ((name, _), mut took) in places.into_iter().zip(took) {
        took.sort_unstable();
        println!("| {name} | {} | {} |", took[took.len() / 2], took[took.len() * 99 / 100]);
    }
}

fn main() {
    pass_through::serve_if_asked();
    let Some(rounds) = argument("--rounds").map(|text| text.parse().expect("a whole number")) else {
        println!("nothing passes without --rounds");
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(measure(rounds));
}

async fn measure(rounds: usize) {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::default());
    let origin = asking::fake();
    let upstream = format!("{origin}/v1");
    let guard = keyed::guard(folder.path(), &upstream, TOKEN, SECRET).await;
    let bare = Running::of(pass_through::command(&upstream));
    speech(
        [("upstream itself", &*origin), ("pass-through", &*bare.proxy), ("spendguard", &*guard.proxy)],
        &clock,
        rounds,
    )
    .await;
    let proxies = [
        ("pass-through", &bare, "user_data"),
        ("spendguard", &guard, "user_data"),
        ("spendguard, as the lines of a batch", &guard, "batch"),
    ];
    uploads(proxies, &clock, rounds).await;
}

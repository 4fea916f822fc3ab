//! A steady mixed load on the release binary, for a given time.
//!
//! `cargo build --release && cargo bench --profile measure --bench soak -- --minutes 60`
//!
//! Each second brings the same mix: plain answers, streams short and long,
//! clients that hang up, requests that a limit or upstream refuses. A row a
//! minute says how the guard fares; at the end its ledger is compared with what
//! upstream has served, to the nano-dollar. It fails where anything went wrong.

#![expect(clippy::unwrap_used, reason = "a benchmark that can't go on has failed")]
#![expect(clippy::print_stdout, reason = "its rows are what it is for")]

#[path = "support/running.rs"]
mod running;

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use spendguard::clock::Clock;
use spendguard::domain::Money;
use spendguard::fake_openai::{self, Fake};
use spendguard::upstream::{Config, Upstream, roots};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use self::running::Running;

/// Nano-dollars per token of gpt-4o-mini (input, cached input, output), as
/// `config/prices.json` has them: whole numbers, so that nothing is rounded.
const EXACT: (&str, [u64; 3]) = ("gpt-4o-mini", [150, 75, 600]);
const TOKEN: &str = "soak-admin-token-0123456789abcdef";
const OPEN_MAX: usize = 4_000;

/// What happened in a minute.
#[derive(Debug, Default)]
struct Minute {
    answered: u64,
    refused: u64,
    failed_upstream: u64,
    left: u64,
    latencies_us: Vec<u64>,
    wrong: Vec<String>,
}

/// What a request is meant to be.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Plain,
    ShortStream,
    LongStream,
    Leaves,
    OverLimit,
    UpstreamFails,
    Unreported,
}

/// One in a hundred of each second's requests.
fn kind_of(number: u64) -> Kind {
    match number % 100 {
        0 => Kind::LongStream,
        1..=12 => Kind::ShortStream,
        13..=17 => Kind::Leaves,
        18..=24 => Kind::OverLimit,
        25..=27 => Kind::UpstreamFails,
        28..=29 => Kind::Unreported,
        _ => Kind::Plain,
    }
}

struct Soak {
    proxy: Upstream,
    clock: Clock,
    keys: Vec<String>,
    spent_key: String,
    minute: Mutex<Minute>,
}

impl Soak {
    async fn one(&self, number: u64) {
        let kind = kind_of(number);
        let at = usize::try_from(number).unwrap() % self.keys.len();
        let key = if matches!(kind, Kind::OverLimit) { &self.spent_key } else { &self.keys[at] };
        let orders: &[(&str, &str)] = match kind {
            Kind::Plain | Kind::OverLimit => &[],
            Kind::ShortStream => &[("x-fake-chunks", "20"), ("x-fake-chunk-delay-ms", "10")],
            Kind::LongStream => &[("x-fake-chunks", "100"), ("x-fake-chunk-delay-ms", "100")],
            Kind::Leaves => &[("x-fake-chunks", "50"), ("x-fake-chunk-delay-ms", "10")],
            Kind::UpstreamFails => &[("x-fake-status", "500")],
            Kind::Unreported => &[("x-fake-no-usage", "1")],
        };
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {key}")).unwrap());
        for (name, value) in orders {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let streams = matches!(kind, Kind::ShortStream | Kind::LongStream | Kind::Leaves);
        let model = if matches!(kind, Kind::Unreported) { "gpt-4o" } else { EXACT.0 };
        let text = "Why did my bill go up in March? ".repeat(usize::try_from(1 + number % 40).unwrap());
        let body = json!({
            "model": model, "stream": streams, "max_tokens": 200,
            "messages": [{ "role": "user", "content": text }],
        });
        let began = self.clock.running();
        let sent =
            self.proxy.send(Method::POST, "/chat/completions", headers, Bytes::from(body.to_string())).await;
        let answer = match sent {
            Ok(answer) => answer,
            Err(error) => return self.note(|minute| minute.wrong.push(format!("{kind:?}: {error}"))),
        };
        let status = answer.status();
        let mut body = answer.into_body();
        if matches!(kind, Kind::Leaves) {
            let _ = body.frame().await;
            return self.note(|minute| minute.left += 1);
        }
        let read = body.collect().await.map(http_body_util::Collected::to_bytes);
        let took = self.clock.running().saturating_sub(began);
        let expected = match kind {
            Kind::OverLimit => StatusCode::TOO_MANY_REQUESTS,
            Kind::UpstreamFails => StatusCode::INTERNAL_SERVER_ERROR,
            Kind::Plain | Kind::ShortStream | Kind::LongStream | Kind::Leaves | Kind::Unreported => {
                StatusCode::OK
            }
        };
        let whole = read.as_ref().is_ok_and(|bytes| !streams || bytes.ends_with(b"data: [DONE]\n\n"));
        self.note(|minute| match kind {
            _ if status != expected || !whole => minute.wrong.push(format!("{kind:?}: {status}, {read:?}")),
            Kind::OverLimit => minute.refused += 1,
            Kind::UpstreamFails => minute.failed_upstream += 1,
            Kind::Plain => {
                minute.answered += 1;
                minute.latencies_us.push(u64::try_from(took.as_micros()).unwrap());
            }
            Kind::ShortStream | Kind::LongStream | Kind::Leaves | Kind::Unreported => minute.answered += 1,
        });
    }

    fn note(&self, change: impl FnOnce(&mut Minute)) {
        change(&mut self.minute.lock().unwrap());
    }
}

const LIMITS: &str = "
[[limit]]\nname = \"org-month\"\nwindow = \"month\"\nsoft = [\"50%\"]\nhard = 1000000
[[limit]]\nname = \"project-day\"\nper = \"project\"\nwindow = \"day\"\nhard = 1000000
[[limit]]\nname = \"key-tokens-hour\"\nper = \"key\"\nunit = \"tokens\"\nwindow = \"hour\"\nhard = 1000000000000
[[limit]]\nname = \"spent\"\nonly = { key = [\"spent\"] }\nunit = \"requests\"\nwindow = \"total\"\nhard = 0
";

impl Running {
    /// Resident memory in MiB, open files, and CPU seconds until now.
    fn figures(&self) -> (u64, usize, u64) {
        let proc = self.proc();
        let status = std::fs::read_to_string(format!("{proc}/status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kib: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
        (kib / 1024, std::fs::read_dir(format!("{proc}/fd")).unwrap().count(), self.cpu_ticks() / 100)
    }

    /// What the admin API says.
    async fn ask(&self, method: Method, path: &str, body: &Value) -> Value {
        let headers = HeaderMap::from_iter([
            (AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {TOKEN}")).unwrap()),
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        ]);
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        // Millions of entries take a while to verify.
        let client = client(&self.admin, Duration::from_secs(900));
        let answer = client.send(method, path, headers, body).await.unwrap();
        serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap()
    }

    async fn key(&self, name: &str) -> String {
        let secret = format!("sk-soak-{name}-0123456789");
        let made = json!({ "name": name, "secret": secret });
        assert_eq!(self.ask(Method::POST, "/guard/v1/keys", &made).await["name"], name);
        secret
    }
}

fn client(url: &str, wait: Duration) -> Upstream {
    let config = Config { base_url: url.parse().unwrap(), connect_timeout: wait, response_timeout: wait };
    Upstream::new(&config, &roots())
}

fn row(minute: u64, of: &mut Minute, guard: &Running, cpu_before: &mut u64) {
    of.latencies_us.sort_unstable();
    let at = |share: usize| of.latencies_us.get(of.latencies_us.len() * share / 1_000).copied().unwrap_or(0);
    let (mib, files, cpu) = guard.figures();
    let requests = of.answered + of.refused + of.failed_upstream + of.left;
    println!(
        "| {minute} | {requests} | {} | {} | {} | {} | {} | {} | {mib} | {files} | {} | {} |",
        of.answered,
        of.refused,
        of.failed_upstream,
        of.left,
        at(500),
        at(990),
        cpu - *cpu_before,
        of.wrong.len()
    );
    for wrong in of.wrong.iter().take(3) {
        println!("<!-- {} -->", wrong.chars().take(300).collect::<String>());
    }
    *cpu_before = cpu;
}

fn number(name: &str, default: u64) -> u64 {
    let arguments: Vec<String> = std::env::args().collect();
    let at = arguments.iter().position(|argument| argument == name);
    at.map_or(default, |at| arguments[at + 1].parse().expect("a whole number"))
}

async fn load(soak: &Arc<Soak>, guard: &Running, minutes: u64, rate: u64) -> u64 {
    let requests = TaskTracker::new();
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    let (mut asked, mut cpu, mut wrong, mut printed) = (0, 0, 0, 0);
    let began = soak.clock.running();
    println!(
        "| minute | requests | answered | refused | failed | left | p50 µs | p99 µs | RSS MiB | files | CPU s | wrong |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    loop {
        tick.tick().await;
        let run = soak.clock.running().saturating_sub(began);
        let minute = run.as_secs() / 60;
        if minute > printed {
            let mut of = std::mem::take(&mut *soak.minute.lock().unwrap());
            wrong += u64::try_from(of.wrong.len()).unwrap();
            row(minute, &mut of, guard, &mut cpu);
            printed = minute;
        }
        if minute >= minutes {
            break;
        }
        let due = u64::try_from(run.as_millis()).unwrap() * rate / 1_000;
        while asked < due && requests.len() < OPEN_MAX {
            let soak = Arc::clone(soak);
            requests.spawn(async move { soak.one(asked).await });
            asked += 1;
        }
    }
    requests.close();
    requests.wait().await;
    println!("{asked} requests were sent");
    wrong
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    if !std::env::args().any(|argument| argument == "--minutes") {
        println!("nothing is soaked without --minutes");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let listener = spendguard::net::bind("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
    let upstream = format!("http://{}/v1", listener.local_addr().unwrap());
    let (_stop, stop) = watch::channel(false);
    let fake = Arc::new(Fake::default());
    let serving = TaskTracker::new();
    serving.spawn(fake_openai::serve(listener, Arc::clone(&fake), stop));
    let guard = Running::of(running::guard(folder.path(), LIMITS, TOKEN, &upstream));
    let mut keys = Vec::new();
    for number in 0..20 {
        keys.push(guard.key(&format!("program-{number}")).await);
    }
    let soak = Arc::new(Soak {
        proxy: client(&format!("{}/v1", guard.proxy), Duration::from_secs(30)),
        clock: Clock::default(),
        keys,
        spent_key: guard.key("spent").await,
        minute: Mutex::default(),
    });
    let wrong = load(&soak, &guard, number("--minutes", 60), number("--rate", 1_000)).await;
    // Streams whose clients left are still being read to their ends.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let served = fake.served()[EXACT.0];
    let [input, cached, output] = EXACT.1;
    let truth = (served.prompt_tokens - served.cached_tokens) * input
        + served.cached_tokens * cached
        + served.completion_tokens * output;
    let usage = guard.ask(Method::GET, "/guard/v1/usage?group_by=model&since=0", &Value::Null).await;
    let sums = usage["data"].as_array().unwrap();
    let sum = sums.iter().find(|sum| sum["group"]["model"] == EXACT.0).unwrap();
    let booked: Money = sum["cost_usd"].as_str().unwrap().parse().unwrap();
    println!("upstream served {served:?}: {truth} nano-dollars; the ledger has {} of them", booked.nano());
    let verified = guard.ask(Method::GET, "/guard/v1/ledger/verify", &Value::Null).await;
    println!("verify: {verified}");
    assert_eq!(wrong, 0, "some answers were wrong");
    assert_eq!(verified["differences"], json!([]), "the ledger differs from itself");
    assert_eq!(u64::try_from(booked.nano()).unwrap(), truth, "the ledger differs from upstream");
}

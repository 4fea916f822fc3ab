//! What one request takes, counted: allocations, and calls to the system. Times vary from run to run, so
//! a cost that grows is seen here first.
//!
//! Requests come one after the other over one connection, as a chat completion of a kilobyte under
//! three limits. Client and upstream are threads that allocate nothing while it is counted. If a
//! bound is passed, the message has all figures; `benches/RESULTS.md`, "Counts of a request", has those
//! of today.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::alloc::System;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use spendguard::app::App;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Both tests count what the whole process does, or are the load of another one.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const TOKEN: &str = "counts-admin-token-0123456789abcdef";
const KEY: &str = "sk-counts-0123456789";
const WARM_UP: usize = 200;
/// The bounds of system calls are of so many requests.
const COUNTED: usize = 1_000;

/// Allocations of one request and its ending, growth of what was allocated included: 58 or 59.
const ALLOCATIONS_MAX: usize = 62;
/// Calls of a thousand requests that read from the network, write to it, and wait for it: 6,000 to 6,600.
const NETWORK_CALLS_MAX: usize = 7_000;
/// Calls for the database: 9,050 for a thousand holds that are committed one by one, and 13 for each
/// commit of endings, of which there are more on a slow machine.
const HOLD_CALLS_MAX: usize = 9_700;
const ENDINGS_CALLS_MAX: usize = 16;

const LIMITS: &str = r#"
[[limit]]
name = "org-month"
window = "month"
soft = ["50%", "80%"]
hard = 100000000

[[limit]]
name = "project-day"
per = "project"
window = "day"
hard = 50000000

[[limit]]
name = "key-tokens-hour"
per = "key"
unit = "tokens"
window = "hour"
hard = 1000000000000
"#;

const ANSWER: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1795000000,"model":"gpt-4o-mini","choices":[{"index":0,"message":{"role":"assistant","content":"Hello to all the world."},"finish_reason":"stop"}],"usage":{"prompt_tokens":220,"completion_tokens":20,"total_tokens":240}}"#;

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads one message into a buffer: its head, and as many bytes as that announces. Returns their
/// number; 0 if the connection has ended.
fn read_message(stream: &mut TcpStream, buffer: &mut [u8]) -> usize {
    let (mut read, mut length) = (0, None);
    loop {
        let more = stream.read(&mut buffer[read..]).unwrap();
        if more == 0 {
            return 0;
        }
        read += more;
        length = length.or_else(|| whole_length(&buffer[..read]));
        if length.is_some_and(|length| read >= length) {
            return read;
        }
    }
}

/// The length of a message with its head, once that is there.
fn whole_length(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let name = b"content-length:";
    let is_it = |line: &&[u8]| line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    let line = bytes[..head].split(|byte| *byte == b'\n').find(is_it)?;
    let digits = std::str::from_utf8(&line[name.len()..]).ok()?;
    Some(head + digits.trim().parse::<usize>().ok()?)
}

/// An upstream that gives the same answer to every request, on threads of its own.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req_1\r\ncontent-length: {}\r\n\r\n",
        ANSWER.len()
    );
    let answer = [head.as_bytes(), ANSWER.as_bytes()].concat();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, answer) = (stream.unwrap(), answer.clone());
            std::thread::spawn(move || {
                let mut buffer = [0; 16_384];
                while read_message(&mut stream, &mut buffer) > 0 {
                    stream.write_all(&answer).unwrap();
                }
            });
        }
    });
    address
}

/// A client with one connection.
struct Client {
    stream: TcpStream,
    request: Vec<u8>,
    buffer: [u8; 16_384],
}

impl Client {
    fn of(proxy: SocketAddr) -> Self {
        let text =
            "Answer in plain words, cite the invoice line, and say so when you do not know. ".repeat(10);
        let body = format!(
            r#"{{"model":"gpt-4o-mini","messages":[{{"role":"system","content":"{text}"}},{{"role":"user","content":"Why did my bill go up in March?"}}]}}"#
        );
        let stream = TcpStream::connect(proxy).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, request: posted("/v1/chat/completions", KEY, &body), buffer: [0; 16_384] }
    }

    fn ask(&mut self, times: usize) {
        for _ in 0..times {
            self.stream.write_all(&self.request).unwrap();
            let read = read_message(&mut self.stream, &mut self.buffer);
            assert!(
                self.buffer.starts_with(b"HTTP/1.1 200 "),
                "{}",
                String::from_utf8_lossy(&self.buffer[..read])
            );
        }
    }
}

fn posted(path: &str, bearer: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {bearer}\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Makes the key.
fn make_key(admin: SocketAddr) {
    let mut stream = TcpStream::connect(admin).unwrap();
    let body = format!(r#"{{"name":"counts","secret":"{KEY}"}}"#);
    stream.write_all(&posted("/guard/v1/keys", TOKEN, &body)).unwrap();
    let mut buffer = [0; 16_384];
    let read = read_message(&mut stream, &mut buffer);
    assert!(buffer.starts_with(b"HTTP/1.1 201 "), "{}", String::from_utf8_lossy(&buffer[..read]));
}

/// Commits of the ledger so far.
fn commits(admin: SocketAddr) -> usize {
    let mut stream = TcpStream::connect(admin).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let count =
        lines.find_map(|line| line.strip_prefix("spendguard_ledger_commit_seconds_count ")?.parse().ok());
    count.unwrap()
}

fn environment(folder: &Path, upstream: SocketAddr) -> Vec<(String, String)> {
    let set = |key: &str, value: String| (format!("SPENDGUARD_{key}"), value);
    vec![
        set("SERVER__LISTEN", "127.0.0.1:0".into()),
        set("ADMIN__LISTEN", "127.0.0.1:0".into()),
        set("STORAGE__PATH", folder.join("data").display().to_string()),
        set("UPSTREAM__BASE_URL", format!("http://{upstream}/v1")),
        set("ADMIN_TOKEN", TOKEN.into()),
        ("OPENAI_API_KEY".into(), "sk-upstream".into()),
    ]
}

#[test]
fn a_request_makes_no_more_allocations_than_it_did() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("spendguard.toml");
    std::fs::write(&file, LIMITS).unwrap();
    let settings = spendguard::config::load(Some(&file), environment(folder.path(), upstream())).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let app = runtime.block_on(App::start(settings, None)).unwrap();
    make_key(app.admin);
    let mut client = Client::of(app.proxy);
    client.ask(WARM_UP);
    let region = Region::new(ALLOCATOR);
    client.ask(COUNTED);
    let counted = region.change();
    let (allocations, grown) = (counted.allocations / COUNTED, counted.reallocations / COUNTED);
    let bytes = counted.bytes_allocated / COUNTED;
    let figures = format!("{allocations} allocations of {bytes} bytes in all, {grown} grown in place");
    assert!(allocations + grown <= ALLOCATIONS_MAX, "{figures}");
    runtime.block_on(app.shut_down());
}

/// A guard in a process of its own, whose system calls are counted by `strace`.
struct Traced {
    process: Child,
    proxy: SocketAddr,
    admin: SocketAddr,
}

impl Traced {
    fn start(folder: &Path, counts: &Path) -> Self {
        let file = folder.join("spendguard.toml");
        std::fs::write(&file, LIMITS).unwrap();
        let mut process = Command::new("strace")
            .args(["-f", "-c", "-o", counts.to_str().unwrap(), env!("CARGO_BIN_EXE_spendguard")])
            .args(["serve", "--config", file.to_str().unwrap()])
            .envs(environment(folder, upstream()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let listening = lines.filter(|line| line.contains("listening"));
        let addresses: Vec<SocketAddr> = listening
            .filter_map(|line| line.rsplit(' ').next()?.trim_start_matches("http://").parse().ok())
            .take(2)
            .collect();
        let [proxy, admin] = addresses[..] else { panic!("the guard did not start: {addresses:?}") };
        Self { process, proxy, admin }
    }
}

impl Drop for Traced {
    /// Ends it, which writes the counts.
    fn drop(&mut self) {
        let children = format!("/proc/{0}/task/{0}/children", self.process.id());
        let guard = std::fs::read_to_string(children).unwrap_or_default();
        let _ = Command::new("kill").arg(guard.trim()).status();
        let _ = self.process.wait();
    }
}

/// Calls by their names, and commits, of a run with so many requests.
fn traced(requests: usize) -> (BTreeMap<String, usize>, usize) {
    let folder = tempfile::tempdir().unwrap();
    let counts = folder.path().join("counts");
    let guard = Traced::start(folder.path(), &counts);
    make_key(guard.admin);
    Client::of(guard.proxy).ask(requests);
    let commits = commits(guard.admin);
    drop(guard);
    // `% time     seconds  usecs/call     calls    errors syscall`
    let text = std::fs::read_to_string(counts).unwrap();
    let row = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        Some(((*fields.last()?).to_owned(), fields.get(3)?.parse().ok()?))
    };
    (text.lines().filter_map(row).filter(|(name, _)| name != "total").collect(), commits)
}

fn can_trace() -> bool {
    let traced = Command::new("strace").args(["-o", "/dev/null", "true"]).status();
    traced.is_ok_and(|status| status.success())
}

#[test]
fn a_request_makes_no_more_system_calls_than_it_did_where_tracing_is_allowed() {
    let _alone = alone();
    if !can_trace() {
        return;
    }
    let (before, few) = traced(WARM_UP);
    let (after, many) = traced(WARM_UP + COUNTED);
    let calls = |name: &&str| {
        let count = |of: &BTreeMap<String, usize>| of.get(*name).copied().unwrap_or(0);
        count(&after).saturating_sub(count(&before))
    };
    let network: usize = ["recvfrom", "writev", "epoll_wait"].iter().map(calls).sum();
    let database: usize = ["pwrite64", "pread64", "fcntl"].iter().map(calls).sum();
    // Each request has a commit of its hold; the others are of endings.
    let endings = (many - few).saturating_sub(COUNTED);
    let figures = format!(
        "{network} calls for the network and {database} for the database of {COUNTED} holds and {endings} \
         commits of endings, in all {after:?} instead of {before:?}"
    );
    assert!(network <= NETWORK_CALLS_MAX, "{figures}");
    assert!(database <= HOLD_CALLS_MAX + endings * ENDINGS_CALLS_MAX, "{figures}");
}

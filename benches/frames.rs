//! Events on sockets of `/v1/responses`, beside a bare tunnel; and responses on sockets, beside those
//! over HTTP.
//!
//! `cargo build --release && cargo bench --profile measure --bench frames -- --rounds 5`
//!
//! Events: 10,000 a second in all on 50 sockets. An upstream on a thread of this process puts the time
//! into each, and another thread compares it when the event is there. CPU time is that of the process of
//! the guard or the tunnel, which copies bytes. Responses: one after the other, 20 at the same time, from the
//! built-in fake of OpenAI.

#![expect(clippy::unwrap_used, reason = "a benchmark that can't go on has failed")]
#![expect(clippy::print_stdout, reason = "its rows are what it is for")]

#[path = "support/asking.rs"]
mod asking;
#[path = "support/figures.rs"]
mod figures;
#[path = "support/keyed.rs"]
mod keyed;
#[path = "support/running.rs"]
mod running;
#[path = "support/tunnel.rs"]
mod tunnel;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{SinkExt as _, StreamExt as _};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use spendguard::clock::Clock;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::MissedTickBehavior;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_util::task::TaskTracker;

use self::asking::{argument, client};
use self::figures::{median, ratio};
use self::running::Running;

const TOKEN: &str = "frames-admin-token-0123456789abcdef";
const SECRET: &str = "sk-frames-0123456789";
/// 10,000 events a second, for four seconds.
const SOCKETS: u32 = 50;
const EVENTS: u64 = 800;
const BETWEEN: Duration = Duration::from_millis(5);
/// Responses of a round, and how many are asked for at the same time.
const RESPONSES: usize = 2_000;
const AT_ONCE: usize = 20;

type Socket = WebSocketStream<TcpStream>;

/// An upstream whose events say when they were sent, in nanoseconds of the clock; returns its origin.
fn stamping(clock: Arc<Clock>) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (listener, sockets) = (TcpListener::from_std(listener).unwrap(), TaskTracker::new());
            let mut number = 0;
            while let Ok((stream, _)) = listener.accept().await {
                let clock = Arc::clone(&clock);
                // The sockets take turns, so that no burst of events is measured.
                let offset = BETWEEN * number / SOCKETS;
                number = (number + 1) % SOCKETS;
                sockets.spawn(async move { stamped(stream, &clock, offset).await });
            }
        });
    });
    origin
}

/// Answers each message on a socket with a response of many events.
async fn stamped(stream: TcpStream, clock: &Clock, offset: Duration) {
    stream.set_nodelay(true).unwrap();
    let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
    while let Some(Ok(Message::Text(_))) = socket.next().await {
        let response = |status| json!({ "id": "resp_1", "model": "gpt-5-mini", "status": status });
        tokio::time::sleep(offset).await;
        let mut pace = tokio::time::interval(BETWEEN);
        pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let begun = json!({ "type": "response.created", "response": response("in_progress") });
        socket.send(Message::text(begun.to_string())).await.unwrap();
        for number in 0..EVENTS {
            pace.tick().await;
            let at = clock.running().as_nanos();
            let event = format!(
                r#"{{"type":"response.output_text.delta","sequence_number":{number},"item_id":"msg_1","output_index":0,"content_index":0,"delta":" word","obfuscation":"{at:032}"}}"#
            );
            if socket.send(Message::text(event)).await.is_err() {
                return;
            }
        }
        let mut done = response("completed");
        done["usage"] = json!({ "input_tokens": 10, "output_tokens": EVENTS, "total_tokens": EVENTS + 10 });
        let done = json!({ "type": "response.completed", "response": done });
        socket.send(Message::text(done.to_string())).await.unwrap();
    }
}

async fn opened(origin: &str) -> Socket {
    let address = origin.trim_start_matches("http://");
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut request = format!("ws://{address}/v1/responses").into_client_request().unwrap();
    request.headers_mut().insert(AUTHORIZATION, bearer(SECRET));
    tokio_tungstenite::client_async(request, stream).await.unwrap().0
}

fn bearer(secret: &str) -> HeaderValue {
    HeaderValue::from_str(&format!("Bearer {secret}")).unwrap()
}

fn create() -> Value {
    json!({ "type": "response.create", "model": "gpt-5-mini", "input": "hello", "max_output_tokens": 1_000 })
}

/// How long each event of a response has taken, in nanoseconds.
async fn events(socket: &mut Socket, clock: &Clock) -> Vec<u64> {
    let mut took = Vec::new();
    socket.send(Message::text(create().to_string())).await.unwrap();
    while let Some(Ok(Message::Text(text))) = socket.next().await {
        let now = clock.running().as_nanos();
        if let Some((_, rest)) = text.split_once(r#""obfuscation":""#) {
            let sent: u128 = rest.trim_end_matches(r#""}"#).parse().unwrap();
            took.push(u64::try_from(now - sent).unwrap());
        } else if text.contains("response.completed") {
            return took;
        }
        assert!(!text.contains(r#""type":"error""#), "{text}");
    }
    panic!("the socket was closed before its response had ended");
}

async fn beside_a_tunnel(proxies: [(&'static str, &Running); 2], clock: &Clock, rounds: usize) {
    let mut rows = proxies.map(|_| (Vec::new(), Vec::new(), Vec::new()));
    for round in 0..=rounds {
        for (row, (_, proxy)) in rows.iter_mut().zip(proxies) {
            let mut sockets = join_all((0..SOCKETS).map(|_| opened(&proxy.proxy))).await;
            let before = proxy.cpu_ticks();
            let took = join_all(sockets.iter_mut().map(|socket| events(socket, clock))).await;
            let ticks = proxy.cpu_ticks() - before;
            let mut took = took.concat();
            took.sort_unstable();
            // The first round warms up.
            if round > 0 {
                row.0.push(ticks * 10_000_000 / u64::try_from(took.len()).unwrap());
                row.1.push(took[took.len() / 2] / 1_000);
                row.2.push(took[took.len() * 99 / 100] / 1_000);
            }
        }
    }
    println!(
        "\n| 10,000 events a second on 50 sockets | CPU ns an event | by the tunnel | p50 µs | p99 µs |"
    );
    println!("|---|---|---|---|---|");
    let mut tunnel = None;
    for ((name, _), (cpu, p50, p99)) in proxies.into_iter().zip(rows) {
        let cpu = median(cpu);
        let by = ratio(cpu, *tunnel.get_or_insert(cpu));
        println!("| {name} | {cpu} | {by} | {} | {} |", median(p50), median(p99));
    }
}

/// Asks for so many responses on each of some sockets.
async fn on_sockets(guard: &Running, each: usize) {
    let asked = (0..AT_ONCE).map(|_| async {
        let mut socket = opened(&guard.proxy).await;
        for _ in 0..each {
            socket.send(Message::text(create().to_string())).await.unwrap();
            loop {
                let text = socket.next().await.unwrap().unwrap().into_text().unwrap();
                if text.contains("response.completed") {
                    break;
                }
                assert!(!text.contains(r#""type":"error""#), "{text}");
            }
        }
    });
    join_all(asked).await;
}

async fn over_http(guard: &Running, each: usize) {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, bearer(SECRET));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let (client, headers) = (client(&guard.proxy), &headers);
    let mut body = create();
    body.as_object_mut().unwrap().remove("type");
    body["stream"] = json!(true);
    let body = body.to_string();
    let asked = (0..AT_ONCE).map(|_| async {
        for _ in 0..each {
            let answer = client.send(Method::POST, "/v1/responses", headers.clone(), body.clone().into());
            let answer = answer.await.unwrap().into_body().collect().await.unwrap().to_bytes();
            assert!(String::from_utf8_lossy(&answer).contains("response.completed"));
        }
    });
    join_all(asked).await;
}

async fn beside_http(guard: &Running, rounds: usize) {
    let (mut sockets, mut http) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let each = RESPONSES / AT_ONCE;
        let before = guard.cpu_ticks();
        on_sockets(guard, each).await;
        let between = guard.cpu_ticks();
        over_http(guard, each).await;
        if round > 0 {
            sockets.push((between - before) * 10_000 / u64::try_from(RESPONSES).unwrap());
            http.push((guard.cpu_ticks() - between) * 10_000 / u64::try_from(RESPONSES).unwrap());
        }
    }
    let (sockets, http) = (median(sockets), median(http));
    println!("\n| a response of the fake | CPU µs | by HTTP |\n|---|---|---|");
    println!("| over HTTP, an event stream | {http} | 1.00 |");
    println!("| on a socket | {sockets} | {} |", ratio(sockets, http));
}

fn main() {
    tunnel::serve_if_asked();
    let Some(rounds) = argument("--rounds").map(|text| text.parse().expect("a whole number")) else {
        println!("nothing is sent without --rounds");
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(measure(rounds));
}

async fn measure(rounds: usize) {
    let clock = Arc::new(Clock::default());
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let origin = stamping(Arc::clone(&clock));
    let before_stamps = keyed::guard(folder.path(), &format!("{origin}/v1"), TOKEN, SECRET).await;
    let tunnel = Running::of(tunnel::command(&origin));
    beside_a_tunnel([("bare tunnel", &tunnel), ("spendguard", &before_stamps)], &clock, rounds).await;
    let before_fake = keyed::guard(other.path(), &format!("{}/v1", asking::fake()), TOKEN, SECRET).await;
    beside_http(&before_fake, rounds).await;
}

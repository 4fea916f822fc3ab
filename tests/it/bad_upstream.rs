//! An upstream that breaks the rules: holds end, and what was sent is charged.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::attack::Target;
use crate::harness::{House, UPSTREAM_KEY, chat, run};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
const SSE: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n";

/// What upstream says: once, and then again and again.
#[derive(Clone, Default)]
pub(crate) struct Script {
    once: Vec<u8>,
    again: Vec<u8>,
    /// Whether it answers as soon as the head is there.
    early: bool,
    /// Whether it keeps the connection open when it has said all.
    stays: bool,
}

/// Says this and keeps the connection open.
pub(crate) fn says_and_stays(once: impl Into<Vec<u8>>) -> Script {
    Script { stays: true, ..says(once) }
}

pub(crate) fn says(once: impl Into<Vec<u8>>) -> Script {
    Script { once: once.into(), ..Script::default() }
}

fn goes_on(once: impl Into<Vec<u8>>, again: impl Into<Vec<u8>>) -> Script {
    Script { once: once.into(), again: again.into(), ..Script::default() }
}

async fn play(mut stream: TcpStream, script: Script, bytes_sent: Arc<AtomicUsize>) {
    let (mut asked, mut part) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        match stream.read(&mut part).await {
            Ok(count @ 1..) => asked.extend_from_slice(&part[..count]),
            _ => return,
        }
        let text = String::from_utf8_lossy(&asked);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if script.early || body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
            break;
        }
    }
    let _ = stream.write_all(&script.once).await;
    while !script.again.is_empty() && stream.write_all(&script.again).await.is_ok() {
        bytes_sent.fetch_add(script.again.len(), Ordering::Relaxed);
    }
    if script.stays {
        std::future::pending::<()>().await;
    }
}

/// A guard before an upstream that plays a script to everybody.
pub(crate) async fn before(script: Script, config: &str) -> (House, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    let bytes_sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&bytes_sent);
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::task::spawn_local(play(stream, script.clone(), Arc::clone(&counted)));
        }
    });
    (House::in_front_of(Some(&base_url), Some(UPSTREAM_KEY), config).await, bytes_sent)
}

/// Asks once; returns the answer's status, and the entry's kind and basis.
async fn ending(script: Script) -> (u16, String) {
    let (house, _) = before(script, "").await;
    let answer = house.chat(&[], json!({ "max_completion_tokens": 500 })).await;
    house.settled().await;
    let entries = house.entries().await;
    assert_eq!(entries.len(), 1, "{entries:?}");
    // There are many, one after the other.
    house.close().await;
    let entry = &entries[0];
    let text = |field: &str| entry[field].as_str().unwrap_or("none").to_owned();
    let end = if entry["cost_usd"] == entry["held_usd"] { "held" } else { "less" };
    let end = if entry["cost_usd"] == "0" { "free" } else { end };
    (answer.status.as_u16(), format!("{} {} {end}", text("kind"), text("basis")))
}

fn with_length(head: &str, length: usize, body: &str) -> String {
    format!("{head}Content-Length: {length}\r\n\r\n{body}")
}

/// Each case: what upstream says, the client's status, and the hold's end.
async fn check(cases: Vec<(&str, Script, u16, &str)>) {
    for (name, script, status, end) in cases {
        assert_eq!(ending(script).await, (status, end.to_owned()), "{name}");
    }
}

const CHARGED: &str = "settle assumed held";
const REPORTED: &str = "settle reported less";
const COUNTED: &str = "settle counted less";

fn usage() -> String {
    let usage = json!({ "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15 });
    json!({ "id": "x", "model": "gpt-4o-mini", "choices": [], "usage": usage }).to_string()
}

#[test]
fn whatever_head_upstream_sends_the_hold_ends_and_what_was_sent_is_charged() {
    run(async {
        let good = with_length(OK, usage().len(), &usage());
        let refused = "HTTP/1.1 429 Too Many\r\nContent-Length: 2\r\n\r\n{}";
        let early = |answer: &str| Script { early: true, ..says(answer) };
        let hints = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n";
        let switched = "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n{}";
        check(vec![
            ("as it should be", says(good.clone()), 200, REPORTED),
            ("200 before the body is there", early(&good), 200, REPORTED),
            ("429 before the body is there", early(refused), 429, "release none free"),
            ("nothing", says(""), 502, CHARGED),
            ("garbage", says("\x01\x02garbage\r\n\r\n"), 502, CHARGED),
            ("half a head", says("HTTP/1.1 200 OK\r\nContent-"), 502, CHARGED),
            ("endless headers", goes_on(OK, "X-A: b\r\n".repeat(1_000)), 502, CHARGED),
            ("an endless header", goes_on(format!("{OK}X-A: "), "a".repeat(10_000)), 502, CHARGED),
            ("100, 103, then 200", says(format!("{hints}{good}")), 200, REPORTED),
            ("another protocol", says(switched), 502, CHARGED),
        ])
        .await;
    });
}

#[test]
fn whatever_body_upstream_sends_the_hold_ends_and_what_was_sent_is_charged() {
    run(async {
        let usage = usage();
        let encoded = |head: &str, encoding: &str, body: &str| {
            says(with_length(&format!("{head}Content-Encoding: {encoding}\r\n"), body.len(), body))
        };
        let chunked = |text: &str| says(format!("{OK}Transfer-Encoding: chunked\r\n\r\n{text}\r\n{usage}"));
        let two = with_length(&format!("{OK}Content-Length: 1\r\n"), usage.len(), &usage);
        check(vec![
            ("less than announced", says(with_length(OK, usage.len() + 9, &usage)), 502, CHARGED),
            ("more than announced", says(with_length(OK, usage.len() - 9, &usage)), 200, COUNTED),
            ("two lengths", says(two), 502, CHARGED),
            ("no length", says(format!("{OK}\r\n{usage}")), 200, REPORTED),
            ("half a chunk", chunked("fff"), 502, CHARGED),
            ("no chunk", chunked("xyz"), 502, CHARGED),
            ("compressed", encoded(OK, "gzip", "\x1f\x08garbage"), 200, CHARGED),
            ("a compressed stream", encoded(SSE, "br", "\x1f\x08garbage"), 200, CHARGED),
            ("identity", encoded(OK, "identity", &usage), 200, REPORTED),
            ("not JSON", says(with_length(OK, 5, "hello")), 200, COUNTED),
        ])
        .await;
    });
}

#[test]
fn an_upstream_that_refuses_on_the_head_of_a_large_body_is_believed() {
    run(async {
        let refusal = "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
        let (house, _) = before(Script { early: true, ..says(refusal) }, "").await;
        for _ in 0..5 {
            let body = chat(json!({ "metadata": { "long": "x".repeat(8 << 20) } }));
            let answer = house.post("/v1/chat/completions", &[], &body).await;
            house.settled().await;
            let entry = &house.entries().await[0];
            // Whether the refusal or the reset comes first is the network's choice.
            let end = (answer.status.as_u16(), entry["kind"].as_str().unwrap());
            assert!([(413, "release"), (502, "settle")].contains(&end), "{end:?} {entry}");
        }
    });
}

#[test]
fn an_answer_without_an_end_is_cut_off_and_charged() {
    run(async {
        let chunk = [b"100000\r\n".as_slice(), &vec![b' '; 1 << 20], b"\r\n"].concat();
        let endless =
            |head: &str| goes_on(format!("{head}Transfer-Encoding: chunked\r\n\r\n"), chunk.clone());
        let (house, bytes_sent) = before(endless(OK), "").await;
        let answer = house.chat(&[], json!({})).await;
        house.settled().await;
        assert_eq!((answer.status.as_u16(), &house.entries().await[0]["basis"]), (502, &json!("assumed")));
        assert!(bytes_sent.load(Ordering::Relaxed) < 300 << 20);
        // An event without an end is passed on, and nothing of it is kept for long.
        let config = "[guard]\non_disconnect = \"cancel\"\n";
        let (house, bytes_sent) = before(endless(SSE), config).await;
        let target = Target::from(&house);
        let mut stream = target.connect().await;
        let body = chat(json!({ "stream": true })).to_string();
        let head = format!("Content-Length: {}\r\n", body.len());
        let request = target.request("POST /v1/chat/completions", &head, &body);
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut part = vec![0; 1 << 20];
        while bytes_sent.load(Ordering::Relaxed) < 100 << 20 {
            let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut part)).await;
            assert!(read.unwrap().unwrap() > 0);
        }
        drop(stream);
        house.settled().await;
        assert_ne!(house.entries().await[0]["cost_usd"], "0");
    });
}

//! Files pass as streams: no memory for the whole, and an end at any moment.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use spendguard::domain::usage::ContainerMemory;
use spendguard::domain::{Money, ObjectKind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::arrived;
use crate::accrual::{booked, counted, held, knows};
use crate::batches::{CHAT, Client, LIMIT, SOL, chat, meter};
use crate::harness::{House, call, client, run};
use crate::process::{Place, Process};

const MIB: usize = 1 << 20;

/// A form whose file is sent in pieces, on a connection of its own.
struct Sending {
    stream: TcpStream,
    /// What is behind the file.
    behind: String,
}

impl Sending {
    /// Sends all that is before a file of that length.
    async fn begin(address: impl tokio::net::ToSocketAddrs, key: &str, length: usize, more: &str) -> Self {
        Self::begin_for("user_data", address, key, length, more).await
    }

    async fn begin_for(
        purpose: &'static str,
        address: impl tokio::net::ToSocketAddrs,
        key: &str,
        length: usize,
        more: &str,
    ) -> Self {
        Self::begin_at(("/v1/files", ("purpose", purpose)), address, key, length, more).await
    }

    /// The same of a form for a path, with a field behind the file.
    async fn begin_at(
        (path, (field, value)): (&str, (&str, &str)),
        address: impl tokio::net::ToSocketAddrs,
        key: &str,
        length: usize,
        more: &str,
    ) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let before = "--b7\r\nContent-Disposition: form-data; name=\"file\"; filename=\"in.jsonl\"\r\n\r\n";
        let behind = format!(
            "\r\n--b7\r\nContent-Disposition: form-data; name=\"{field}\"\r\n\r\n{value}\r\n--b7--\r\n"
        );
        let length = before.len() + length + behind.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: guard\r\nauthorization: Bearer {key}\r\nconnection: close\r\n{more}\
             content-type: multipart/form-data; boundary=b7\r\ncontent-length: {length}\r\n\r\n{before}"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        Self { stream, behind }
    }

    async fn send(&mut self, piece: &[u8]) {
        self.stream.write_all(piece).await.unwrap();
    }

    /// Sends the end of the form; returns status and body of the answer.
    async fn end(mut self) -> (u16, Value) {
        let behind = std::mem::take(&mut self.behind);
        self.send(behind.as_bytes()).await;
        answer(&mut self.stream).await
    }
}

/// Status and body of the answer, which ends with the connection.
async fn answer(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> (u16, Value) {
    let mut text = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut text));
    // What came before a reset counts.
    let _ = read.await.expect("an answer");
    let text = String::from_utf8_lossy(&text).into_owned();
    let status = text.split(' ').nth(1).unwrap_or_else(|| panic!("no answer: {text:?}")).parse().unwrap();
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let json = body.find('{').zip(body.rfind('}')).map_or("", |(from, to)| &body[from..=to]);
    (status, serde_json::from_str(json).unwrap_or(Value::Null))
}

/// The most memory that a process has had, in KiB.
fn peak_kib(process: &Process) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_file_of_100_mib_takes_no_more_memory_than_20_mib() {
    run(async {
        let (_fake, address) = Process::fake();
        let fake = client(&address);
        let place = Place::new(&address, LIMIT);
        let guard = place.serve();
        let key = guard.make_key().await;
        let proxy = guard.process.address("proxy listening");
        let line = chat("a", SOL);
        for (purpose, pieces) in [("batch", 1), ("user_data", 1), ("user_data", 100)] {
            let before = peak_kib(&guard.process);
            let piece = line.repeat(MIB.div_ceil(line.len()));
            let mut sending = Sending::begin_for(purpose, &proxy, &key, pieces * piece.len(), "").await;
            for _ in 0..pieces {
                sending.send(piece.as_bytes()).await;
            }
            let (status, made) = sending.end().await;
            assert_eq!((status, &made["bytes"]), (200, &json!(pieces * piece.len())), "{made}");
            let grown = peak_kib(&guard.process) - before;
            assert!(pieces == 1 || grown <= 20 << 10, "{grown} KiB");
        }
        let files = call(&fake, Method::GET, "/__files", &[], Bytes::new()).await.json();
        assert_eq!(files.as_array().unwrap().len(), 3);
    });
}

#[test]
fn a_file_for_a_container_passes_in_the_same_way_and_one_that_names_a_file_of_others_is_not_completed() {
    run(async {
        let (_fake, address) = Process::fake();
        let place = Place::new(&address, LIMIT);
        let guard = place.serve();
        let key = guard.make_key().await;
        let (bearer, proxy) = (format!("Bearer {key}"), guard.process.address("proxy listening"));
        let ask = async |method, path: &str, body: Value| {
            let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
            let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
            call(&client(&proxy), method, path, &headers, body).await.json()
        };
        let made = ask(Method::POST, "/v1/containers", json!({ "name": "a" })).await;
        let files = format!("/v1/containers/{}/files", made["id"].as_str().unwrap());
        let piece = vec![b'x'; MIB];
        let before = peak_kib(&guard.process);
        for (field, value, expected) in [("file_id", "file-of-others", 404), ("name", "data.csv", 200)] {
            let of = (&*files, (field, value));
            let mut sending = Sending::begin_at(of, proxy.as_str(), &key, 100 * MIB, "").await;
            for _ in 0..100 {
                sending.send(&piece).await;
            }
            let (status, answer) = sending.end().await;
            assert_eq!(status, expected, "{answer}");
            let listed = ask(Method::GET, &files, Value::Null).await;
            assert_eq!(
                listed["data"].as_array().map(Vec::len),
                Some(usize::from(expected == 200)),
                "{listed}"
            );
        }
        let grown = peak_kib(&guard.process) - before;
        assert!(grown <= 20 << 10, "{grown} KiB");
    });
}

#[test]
fn a_file_that_is_slow_to_arrive_in_a_container_pays_for_its_life_until_it_is_there() {
    run(async {
        let house = House::with(LIMIT).await;
        let created =
            call(&house.fake_direct, Method::POST, "/v1/containers", &[], Bytes::from_static(b"{}")).await;
        let id = created.json()["id"].as_str().unwrap().to_owned();
        // A response has paid for its life, up to a minute before the file has arrived.
        let used_s = house.guard.clock().now_s() - 59;
        knows(&house, ObjectKind::Container, &id, |known| {
            known.container_memory = Some(ContainerMemory::G1);
            (known.idle_s, known.used_s) = (1_200, used_s);
        })
        .await;
        let path = format!("/v1/containers/{id}/files");
        let of = (&*path, ("name", "data.csv"));
        let mut sending = Sending::begin_at(of, house.proxy_address, &house.key, 2, "").await;
        sending.send(b"x").await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(held(&house).await, "0.03", "all that a use may add");
        sending.send(b"x").await;
        let (status, answer) = sending.end().await;
        assert_eq!(status, 200, "{answer}");
        // Two minutes that have begun, at 0.0015 dollars.
        assert_eq!(booked(&house, "/v1/containers/{}/files").await, [counted("0.003")]);
        assert_eq!(held(&house).await, "0");
    });
}

#[test]
fn a_line_that_is_larger_than_a_request_passes_and_is_refused_as_part_of_a_batch() {
    run(async {
        let house = House::with(&format!("[server]\nrequest_body_max = \"1MiB\"\n{LIMIT}")).await;
        let whole = chat("a", SOL);
        let (head, tail) = whole.split_once("hello").unwrap();
        let piece = "x".repeat(MIB);
        let length = 2 * whole.len() + 100 * MIB - "hello".len();
        let mut sending = Sending::begin_for("batch", house.proxy_address, &house.key, length, "").await;
        sending.send(chat("b", SOL).as_bytes()).await;
        sending.send(head.as_bytes()).await;
        for _ in 0..100 {
            sending.send(piece.as_bytes()).await;
        }
        sending.send(tail.as_bytes()).await;
        let (status, made) = sending.end().await;
        assert_eq!((status, &made["bytes"]), (200, &json!(length)), "{made}");
        let refused = Client::of(&house).create(made["id"].as_str().unwrap(), CHAT, &[]).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{refused:?}");
        let text = refused.json()["error"]["message"].as_str().unwrap().to_lowercase();
        assert!(text.contains("line 2"), "{text}");
        assert_eq!(meter(&house, "all").await, (Money::ZERO, Money::ZERO));
    });
}

#[test]
fn a_file_that_is_larger_than_openai_takes_is_refused_before_it_is_sent() {
    run(async {
        let house = House::with(LIMIT).await;
        let mut sending = Sending::begin(house.proxy_address, &house.key, 600 * MIB, "").await;
        let (status, refused) = answer(&mut sending.stream).await;
        assert_eq!((status, &refused["error"]["type"]), (413, &json!("invalid_request_error")), "{refused}");
        assert_eq!(arrived(&house).await.len(), 0);
    });
}

#[test]
fn a_client_that_breaks_off_leaves_nothing_held_no_object_and_a_guard_that_serves() {
    run(async {
        let house = House::with(LIMIT).await;
        let line = chat("a", SOL);
        for purpose in ["batch", "user_data"] {
            let mut sending = Sending::begin_for(purpose, house.proxy_address, &house.key, MIB, "").await;
            sending.send(line.repeat(1_000).as_bytes()).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            drop(sending);
        }
        let client = Client::of(&house);
        let file = client.upload(&line).await;
        let files = arrived(&house).await;
        assert_eq!(files.len(), 1, "{files:?}");
        assert_eq!(meter(&house, "all").await, (Money::ZERO, Money::ZERO));
        let listed = client.get("/v1/files").await.json();
        assert_eq!(listed["data"].as_array().unwrap().len(), 1);
        assert_eq!(client.create(&file, CHAT, &[]).await.status, StatusCode::OK);
    });
}

#[test]
fn an_early_error_of_upstream_reaches_a_client_that_is_still_sending() {
    run(async {
        let house = House::with(LIMIT).await;
        // A key that upstream refuses is the guard's fault, not the client's.
        for (upstream, expected) in [(413, 413), (401, 502)] {
            let more = format!("x-fake-early-status: {upstream}\r\n");
            let mut sending = Sending::begin(house.proxy_address, &house.key, 64 * MIB, &more).await;
            let (mut reader, mut writer) = sending.stream.split();
            let writing = async {
                let piece = vec![0; MIB];
                for _ in 0..64 {
                    if writer.write_all(&piece).await.is_err() {
                        break;
                    }
                }
                std::future::pending::<()>().await;
            };
            let (status, refused) = tokio::select! {
                answer = answer(&mut reader) => answer,
                () = writing => unreachable!(),
            };
            assert_eq!(status, expected, "{refused}");
            assert!(refused["error"]["message"].is_string(), "{refused}");
        }
        assert_eq!(arrived(&house).await.len(), 0);
    });
}

#[test]
fn an_upload_that_is_slow_keeps_no_other_request_waiting() {
    run(async {
        let house = House::with(LIMIT).await;
        let mut slow = Vec::new();
        for _ in 0..50 {
            slow.push(Sending::begin(house.proxy_address, &house.key, MIB, "").await);
        }
        let quick = tokio::time::timeout(Duration::from_secs(5), house.chat(&[], json!({})));
        assert_eq!(quick.await.expect("it does not wait").status, StatusCode::OK);
        for mut sending in slow {
            sending.send(&vec![b'x'; MIB]).await;
            assert_eq!(sending.end().await.0, 200);
        }
    });
}

//! Hostile clients over HTTP/1.1 and TLS: slow ones, silent ones, many, large.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::json;
use socket2::SockRef;
use spendguard::upstream::{Config, Upstream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::attack::{Real, Target, sockets};
use crate::harness::{House, call, chat, run};
use crate::network::{certificate, trusting};

/// A time limit for heads that makes a test short.
const HASTY: &str = "[server]\nheader_timeout = \"500ms\"\n";
const KIB_PER_IDLE_CONNECTION: u64 = 12;

/// Whether the other side ends a connection, within ten seconds.
async fn is_let_go(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await.is_ok()
}

/// Writes `bytes` one at a time, until the other side has had enough.
async fn trickle(mut stream: TcpStream, bytes: Vec<u8>, pause: Duration) -> usize {
    for (sent, byte) in bytes.iter().enumerate() {
        // What comes meanwhile is an answer, or the end.
        let ended = async { while let Ok(1..) = stream.read(&mut [0; 1_024]).await {} };
        if timeout(pause, ended).await.is_ok() || stream.write_all(&[*byte]).await.is_err() {
            return sent;
        }
    }
    bytes.len()
}

#[test]
fn heads_that_come_byte_by_byte_are_cut_off_and_no_client_waits_for_them() {
    run(async {
        let house = House::with(HASTY).await;
        let target = Target::from(&house);
        target
            .beside(async {
                let mut slow = tokio::task::JoinSet::new();
                for number in 0..300 {
                    let (mut stream, head) = (target.connect().await, target.chat("").into_bytes());
                    if number % 3 == 0 {
                        // One that was polite at first.
                        stream.write_all(&head).await.unwrap();
                        stream.read_exact(&mut [0; 12]).await.unwrap();
                    }
                    slow.spawn_local(trickle(stream, head, Duration::from_millis(100)));
                }
                for sent in slow.join_all().await {
                    assert!(sent < 60, "{sent} bytes of a head were waited for");
                }
            })
            .await;
        house.settled().await;
    });
}

#[test]
fn a_body_has_to_come_at_a_pace_and_not_only_now_and_then() {
    run(async {
        let house = House::with(HASTY).await;
        let target = Target::from(&house);
        target
            .beside(async {
                // Well below the 1.5 seconds that it may be silent.
                let mut stream = target.connect().await;
                let body = " ".repeat(1_000);
                let request = target.request("POST /v1/chat/completions", "Content-Length: 1000000\r\n", "");
                stream.write_all(request.as_bytes()).await.unwrap();
                let sent = trickle(stream, body.into_bytes(), Duration::from_millis(50)).await;
                assert!((10..100).contains(&sent), "it was given up after {sent} bytes");
            })
            .await;
        house.settled().await;
        // One that was cut off before it was sent is in the ledger, too.
        let settled = house.entries().await.into_iter().filter(|entry| entry["kind"] == "settle").count();
        assert_eq!(house.fake.served()["gpt-4o-mini"].requests, u64::try_from(settled).unwrap());
    });
}

#[test]
fn a_large_body_that_comes_slowly_but_at_a_pace_is_read() {
    run(async {
        let house = House::with("[server]\nheader_timeout = \"300ms\"\n").await;
        let target = Target::from(&house);
        let mut stream = target.connect().await;
        let body =
            chat(json!({ "user": "u".repeat(64), "metadata": { "long": "x".repeat(500_000) } })).to_string();
        let head = format!("Content-Length: {}\r\n", body.len());
        stream.write_all(target.request("POST /v1/chat/completions", &head, "").as_bytes()).await.unwrap();
        // 1.6 seconds for all of it, where 0.9 are allowed for 64 KiB.
        for part in body.as_bytes().chunks(32 << 10) {
            sleep(Duration::from_millis(100)).await;
            stream.write_all(part).await.unwrap();
        }
        let mut answer = vec![0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, b"HTTP/1.1 200");
        house.settled().await;
    });
}

#[test]
fn bodies_take_only_the_memory_there_is_for_them() {
    run(async {
        let real = Real::start("").await;
        let target = real.target.clone();
        let (part, size) = (vec![b' '; 1 << 20], 60 << 20);
        let attack = async {
            let mut held = Vec::new();
            let mut refused = 0;
            for _ in 0..20 {
                let mut stream = target.connect().await;
                let head = format!("Content-Length: {size}\r\n");
                let request = target.request("POST /v1/chat/completions", &head, "");
                stream.write_all(request.as_bytes()).await.unwrap();
                // All but the last byte, and then nothing.
                let body = async {
                    for _ in 0..59 {
                        stream.write_all(&part).await?;
                    }
                    stream.write_all(&part[1..]).await
                };
                let _ = timeout(Duration::from_secs(5), body).await;
                let mut status = [0; 12];
                if timeout(Duration::from_millis(50), stream.read_exact(&mut status)).await.is_ok() {
                    assert_eq!(&status, b"HTTP/1.1 503");
                    refused += 1;
                }
                held.push(stream);
            }
            assert!(refused >= 3, "{refused} were refused");
        };
        let grown = real.growth_kib(attack).await;
        assert!(grown < 1_200 << 10, "20 bodies of 60 MiB made memory grow by {grown} KiB");
        real.quiet().await;
        // There is room again.
        let body = chat(json!({ "metadata": { "long": "x".repeat(1 << 20) } })).to_string();
        let head = format!("Connection: close\r\nContent-Length: {}\r\n", body.len());
        let answer = target.raw(target.request("POST /v1/chat/completions", &head, &body)).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    });
}

#[test]
fn idle_connections_are_cheap_and_let_go_when_their_time_is_over() {
    run(async {
        let real = Real::start("[server]\nheader_timeout = \"4s\"\n").await;
        let target = real.target.clone();
        let count = sockets(5_000);
        let mut idle = Vec::new();
        let attack = async {
            for _ in 0..count {
                idle.push(target.connect().await);
            }
        };
        let grown = real.growth_kib(attack).await / u64::try_from(count).unwrap();
        assert!(grown < KIB_PER_IDLE_CONNECTION, "{count} connections took {grown} KiB each");
        let mut first = idle.swap_remove(0);
        assert!(is_let_go(&mut first).await && is_let_go(idle.last_mut().unwrap()).await);
        target.ask_politely().await;
    });
}

#[test]
fn idlers_make_place_for_others_when_all_connections_are_taken() {
    run(async {
        let house = House::with(&format!("{HASTY}connections_max = 20\n")).await;
        let target = Target::from(&house);
        let mut idle = Vec::new();
        for said in ["", "GET /v1/mod", "PRI * HTTP/2.0\r\n"].iter().cycle().take(30) {
            let mut stream = target.connect().await;
            stream.write_all(said.as_bytes()).await.unwrap();
            idle.push(stream);
        }
        target.ask_politely().await;
        for stream in &mut idle {
            assert!(is_let_go(stream).await);
        }
    });
}

#[test]
fn connections_that_are_reset_leave_nothing_behind() {
    run(async {
        let real = Real::start("").await;
        let target = real.target.clone();
        let attack = async {
            for number in 0..3_000 {
                let mut stream = target.connect().await;
                let request = target.chat("x-fake-latency-ms: 50\r\n");
                // At once, within the head, within the body, or while it is served.
                let sent = [0, 30, request.len() - 5, request.len()][number % 4];
                let _ = stream.write_all(&request.as_bytes()[..sent]).await;
                SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
        };
        let grown = real.growth_kib(attack).await;
        assert!(grown < 20 << 10, "memory grew by {grown} KiB");
        real.quiet().await;
    });
}

#[test]
fn a_client_that_closes_its_half_or_breaks_off_leaves_no_hold() {
    run(async {
        let house = House::with("").await;
        let target = Target::from(&house);
        for is_reset in [false, true] {
            let mut stream = target.connect().await;
            let body = chat(json!({ "stream": true })).to_string();
            let head = format!(
                "x-fake-chunks: 20\r\nx-fake-chunk-delay-ms: 30\r\nContent-Length: {}\r\n",
                body.len()
            );
            let request = target.request("POST /v1/chat/completions", &head, &body);
            stream.write_all(request.as_bytes()).await.unwrap();
            stream.read_exact(&mut [0; 300]).await.unwrap();
            if is_reset {
                SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                drop(stream);
            } else {
                stream.shutdown().await.unwrap();
                assert!(is_let_go(&mut stream).await);
            }
            house.settled().await;
            let entry = &house.entries().await[0];
            assert_eq!((&entry["basis"], &entry["usage"]["output_tokens"]), (&json!("reported"), &json!(20)));
        }
    });
}

/// Writes a start, and then the same again and again up to 100 MB, or until the
/// other side has had enough; returns how much went.
async fn endless(target: &Target, start: String, more: &[u8]) -> usize {
    let (mut read, mut write) = target.connect().await.into_split();
    let writing = async {
        let mut sent = 0;
        let _ = write.write_all(start.as_bytes()).await;
        while sent < 100_000_000 && write.write_all(more).await.is_ok() {
            sent += more.len();
        }
        sent
    };
    let reading = async {
        let mut part = vec![0; 1 << 16];
        while let Ok(1..) = read.read(&mut part).await {}
    };
    // A client that is not read any more is cut off in time.
    tokio::join!(async { timeout(Duration::from_secs(8), writing).await.unwrap_or(0) }, reading).0
}

#[test]
fn what_never_ends_is_cut_off_before_it_is_large() {
    run(async {
        let real = Real::start(HASTY).await;
        let target = real.target.clone();
        let post = |headers: &str, body: &str| target.request("POST /v1/chat/completions", headers, body);
        let chunked = |body: &str| post("Transfer-Encoding: chunked\r\n", body);
        let text = vec![b'a'; 100_000];
        let cases = [
            ("a target", "GET /".to_owned(), text.clone()),
            ("a method", String::new(), text.clone()),
            ("a header's value", "GET / HTTP/1.1\r\nX-A: ".to_owned(), text.clone()),
            ("headers", "GET / HTTP/1.1\r\n".to_owned(), b"X-A: b\r\n".repeat(10_000)),
            ("empty lines", String::new(), b"\r\n".repeat(50_000)),
            ("a chunk's extension", chunked("5;a="), text.clone()),
            (
                "extensions of chunks",
                chunked(""),
                format!("1;{}\r\n \r\n", "a".repeat(1_000)).repeat(100).into(),
            ),
            ("a trailer", chunked("0\r\nX-A: "), text.clone()),
            ("trailers", chunked("0\r\n"), b"X-A: b\r\n".repeat(10_000)),
            ("a chunk's size", chunked(""), b"0".repeat(100_000)),
            (
                "a body without an announced length",
                chunked(""),
                b"100000\r\n".iter().copied().chain(vec![b' '; 1 << 20]).chain(*b"\r\n").collect(),
            ),
        ];
        for (name, start, more) in cases {
            let mut sent = 0;
            let grown = real.growth_kib(async { sent = endless(&target, start, &more).await }).await;
            assert!(sent < 100_000_000, "{name}: {sent} bytes were taken");
            let bound = if name.starts_with("a body") { 160 << 10 } else { 6 << 10 };
            assert!(grown < bound, "{name}: memory grew by {grown} KiB");
        }
        real.quiet().await;
    });
}

#[test]
fn heads_of_many_fields_or_bytes_are_refused_with_431() {
    run(async {
        let house = House::with(HASTY).await;
        let target = Target::from(&house);
        let long = |bytes: usize| format!("X-A: {}\r\n", "b".repeat(bytes));
        for headers in ["X-A: b\r\n".repeat(10_000), "X-A: b\r\n".repeat(99), long(70_000)] {
            let answer = target.raw(target.request("GET /v1/models", &headers, "")).await;
            assert!(answer.starts_with("HTTP/1.1 431"), "{} bytes: {answer}", headers.len());
        }
        let served = target.request("GET /v1/models", &"X-A: b\r\n".repeat(90), "");
        assert!(target.raw(served).await.starts_with("HTTP/1.1 200"));
        house.settled().await;
    });
}

#[test]
fn a_client_refused_by_its_head_gets_the_refusal_though_it_sends_much() {
    run(async {
        let house = House::with("").await;
        let body = Bytes::from(vec![b' '; 4 << 20]);
        let headers = [("authorization", "Bearer sk-none")];
        for _ in 0..10 {
            let path = "/v1/chat/completions";
            let answer = call(&house.proxy, Method::POST, path, &headers, body.clone()).await;
            assert_eq!(answer.code(), "invalid_api_key");
        }
    });
}

#[test]
fn compressed_bombs_take_neither_memory_nor_others_time() {
    run(async {
        let real = Real::start("").await;
        let target = real.target.clone();
        let zeros = vec![0; 60 << 20];
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut encoder, &zeros).unwrap();
        let bomb = encoder.finish().unwrap();
        assert!(bomb.len() < 80 << 10);
        let attack = async {
            let mut attempts = tokio::task::JoinSet::new();
            for _ in 0..20 {
                let head = format!(
                    "Content-Encoding: gzip\r\nConnection: close\r\nContent-Length: {}\r\n",
                    bomb.len()
                );
                let head = target.request("POST /v1/chat/completions", &head, "");
                let (target, request) = (target.clone(), [head.as_bytes(), &bomb].concat());
                attempts.spawn_local(async move { target.raw(request).await });
            }
            for answer in attempts.join_all().await {
                assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("compressed form"), "{answer}");
            }
        };
        let grown = real.growth_kib(attack).await;
        assert!(grown < 64 << 10, "memory grew by {grown} KiB");
    });
}

#[test]
fn what_is_no_tls_handshake_or_half_of_one_is_let_go() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key, trusted) = certificate(folder.path());
        let config = format!("{HASTY}tls = {{ cert = {cert:?}, key = {key:?} }}\n");
        let house = House::with(&config).await;
        let target = Target::from(&house);
        // A hello of TLS 1.2 that announces 500 bytes and has fewer.
        let half = [b"\x16\x03\x01\x01\xf4\x01\0\x01\xf0\x03\x03".as_slice(), &[7; 100]].concat();
        let (wait, base_url) = (Duration::from_secs(4), format!("https://{}/v1", target.address));
        let upstream =
            Config { base_url: base_url.parse().unwrap(), connect_timeout: wait, response_timeout: wait };
        let polite = Upstream::new(&upstream, &trusting(&trusted));
        let bearer = format!("Bearer {}", target.key);
        let mut clients = Vec::new();
        for number in 0..1_000 {
            if number % 100 == 0 {
                let headers = [("authorization", bearer.as_str()), ("connection", "close")];
                let asked = call(&polite, Method::GET, "/models", &headers, Bytes::new());
                assert_eq!(timeout(wait, asked).await.unwrap().status, StatusCode::OK);
            }
            let mut stream = target.connect().await;
            let said: &[u8] = match number % 4 {
                0 => b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                1 => &[0xff; 5_000],
                2 => b"",
                _ => &half,
            };
            let _ = stream.write_all(said).await;
            clients.push(stream);
        }
        for stream in &mut clients {
            assert!(is_let_go(stream).await);
        }
        let answer = call(&polite, Method::GET, "/models", &[("authorization", &bearer)], Bytes::new()).await;
        assert_eq!(answer.status, StatusCode::OK);
    });
}

//! Hostile clients over HTTP/2: floods, bombs, and windows that stay shut.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::attack::{Real, Target};
use crate::frames::{
    CONTINUATION, Connection, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PRIORITY, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, field, frame, head, request,
};
use crate::harness::{House, chat, run};

const INITIAL_WINDOW_SIZE: u16 = 4;
/// A time limit for heads that makes a stall last 1.8 seconds at most.
const HASTY: &str = "[server]\nheader_timeout = \"300ms\"\n";
const MIB: usize = 1 << 20;

#[test]
fn an_answer_whose_window_stays_shut_is_given_up_and_settled() {
    run(async {
        let house = House::with(HASTY).await;
        let target = Target::from(&house);
        let mut shut = Connection::open(&target, Some((INITIAL_WINDOW_SIZE, 0))).await;
        let body = chat(json!({ "stream": true })).to_string();
        shut.send(&request(&target, 1, &[("x-fake-chunks", "500")], &body)).await;
        assert_eq!(shut.until(HEADERS).await.unwrap().stream, 1);
        assert_eq!(house.guard.in_doubt().1, 1, "it is held while it may still be read");
        let reset = shut.until(RST_STREAM).await.expect("the connection itself is kept");
        assert_eq!(reset.stream, 1);
        house.settled().await;
        let entry = &house.entries().await[0];
        assert_eq!((&entry["basis"], &entry["disconnected"]), (&json!("reported"), &json!(true)), "{entry}");
        assert_eq!(entry["usage"]["output_tokens"], 500);
        target.ask_politely().await;
    });
}

#[test]
fn whole_answers_are_not_kept_for_windows_that_stay_shut() {
    run(async {
        let house = House::with(HASTY).await;
        let target = Target::from(&house);
        target
            .beside(async {
                // One byte of each fits, so that hyper has begun to send.
                let mut shut = Connection::open(&target, Some((INITIAL_WINDOW_SIZE, 1))).await;
                let body = chat(json!({})).to_string();
                for stream in 0..20 {
                    let ordered = [("x-fake-completion-tokens", "20000")];
                    shut.send(&request(&target, 2 * stream + 1, &ordered, &body)).await;
                }
                for _ in 0..20 {
                    shut.until(RST_STREAM).await.expect("the connection itself is kept");
                }
            })
            .await;
        house.settled().await;
    });
}

#[test]
fn a_stream_that_is_read_slowly_but_steadily_is_served_to_its_end() {
    run(async {
        let house = House::with(HASTY).await;
        let target = Target::from(&house);
        let mut slow = Connection::open(&target, Some((INITIAL_WINDOW_SIZE, 0))).await;
        let body = chat(json!({ "stream": true })).to_string();
        slow.send(&request(&target, 1, &[("x-fake-chunks", "30")], &body)).await;
        let (mut read, mut is_whole) = (0, false);
        for _ in 0..200 {
            slow.send(&frame(WINDOW_UPDATE, 0, 1, &200_u32.to_be_bytes())).await;
            let more = async {
                loop {
                    let data = slow.until(DATA).await.expect("the connection is kept");
                    read += data.payload.len();
                    is_whole |= data.flags == END_STREAM;
                }
            };
            let _ = timeout(Duration::from_millis(80), more).await;
            if is_whole {
                break;
            }
        }
        assert!(is_whole && read > 30 * 100, "{read} bytes came");
        house.settled().await;
        assert_eq!(house.entries().await[0]["disconnected"], false);
    });
}

#[test]
fn a_connection_over_http_2_without_requests_is_let_go() {
    run(async {
        let house = House::with(&format!("{HASTY}idle_timeout = \"1s\"\nconnections_max = 4\n")).await;
        let target = Target::from(&house);
        let mut silent = Vec::new();
        for _ in 0..8 {
            silent.push(Connection::open(&target, None).await);
        }
        let mut once = silent.pop().unwrap();
        once.send(&request(&target, 1, &[], &chat(json!({})).to_string())).await;
        for mut connection in silent {
            while connection.until(GOAWAY).await.is_some() {}
        }
        once.until(HEADERS).await.expect("it was served, though it had to wait");
        while once.until(GOAWAY).await.is_some() {}
        target.ask_politely().await;
        house.settled().await;
    });
}

#[test]
fn a_connection_with_a_long_stream_is_not_let_go() {
    run(async {
        let house = House::with(HASTY).await;
        let target = Target::from(&house);
        let tcp = target.connect().await;
        let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp));
        let (mut sender, connection) = shaken.await.unwrap();
        tokio::task::spawn_local(connection);
        let asked = Request::post(format!("http://{}/v1/chat/completions", target.address))
            .header("authorization", format!("Bearer {}", target.key))
            .header("x-fake-chunks", "8")
            .header("x-fake-chunk-delay-ms", "500")
            .body(Full::new(Bytes::from(chat(json!({ "stream": true })).to_string())))
            .unwrap();
        let answer = sender.send_request(asked).await.unwrap();
        let whole = answer.into_body().collect().await.expect("upstream's silence is no stall").to_bytes();
        assert!(whole.ends_with(b"data: [DONE]\n\n"));
    });
}

/// An attack: its name, whether it has to be cut off, and what is written again and
/// again.
type Flood = (&'static str, bool, Box<dyn FnMut() -> Vec<u8>>);

fn floods(target: &Target) -> Vec<Flood> {
    let get = head(target, "GET", "/v1/models", &[]);
    let post = head(target, "POST", "/v1/chat/completions", &[]);
    let mut id = 1_u32;
    let mut next_id = move || {
        id += 2;
        id
    };
    let resets = move || {
        let stream = next_id();
        let opened = frame(HEADERS, END_HEADERS | END_STREAM, stream, &get);
        [opened, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
    };
    let opened = frame(HEADERS, END_HEADERS, 1, &post);
    let mut first = Some(opened.clone());
    let empty_data =
        move || first.take().unwrap_or_default().into_iter().chain(frame(DATA, 0, 1, &[])).collect();
    let mut first = Some(opened);
    let trailers = move || {
        let more = frame(HEADERS, END_HEADERS, 1, &field("x", "y"));
        first.take().unwrap_or_default().into_iter().chain(more).collect()
    };
    let mut first = Some(frame(HEADERS, 0, 1, &field("x-a", "b")));
    let endless_head = move || {
        let more = frame(CONTINUATION, 0, 1, &field("x-long", &"y".repeat(8_000)));
        first.take().unwrap_or_default().into_iter().chain(more).collect()
    };
    let mut first = Some(frame(HEADERS, 0, 1, &[]));
    let empty_head =
        move || first.take().unwrap_or_default().into_iter().chain(frame(CONTINUATION, 0, 1, &[])).collect();
    vec![
        ("rapid reset", true, Box::new(resets)),
        ("settings", false, Box::new(|| frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]))),
        ("pings", false, Box::new(|| frame(PING, 0, 0, b"hellohey"))),
        ("priorities", false, Box::new(|| frame(PRIORITY, 0, 5, &[0, 0, 0, 3, 10]))),
        ("empty data", true, Box::new(empty_data)),
        ("trailers", false, Box::new(trailers)),
        ("an endless head", true, Box::new(endless_head)),
        ("an endless empty head", true, Box::new(empty_head)),
        ("windows of a byte", false, Box::new(|| frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()))),
        ("a window of nothing", true, Box::new(|| frame(WINDOW_UPDATE, 0, 0, &0_u32.to_be_bytes()))),
        ("a window too wide", true, Box::new(|| frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes()))),
        ("unknown frames", false, Box::new(|| frame(0x77, 0, 0, &[0; 1_000]))),
    ]
}

#[test]
fn floods_of_frames_take_no_memory_and_no_other_clients_time() {
    run(async {
        let real = Real::start("").await;
        let target = real.target.clone();
        for (name, has_to_be, mut next) in floods(&target) {
            let mut is_cut_off = false;
            // Many at a time in one write, so that it is the guard that is busy.
            let many = move || (0..200).flat_map(|_| next()).collect::<Vec<u8>>();
            let attack = async {
                let connection = Connection::open(&target, None).await;
                is_cut_off = connection.flood(many, 8 * MIB).await;
            };
            let grown = real.growth_kib(attack).await;
            assert!(grown < 8 * 1_024, "{name}: memory grew by {grown} KiB");
            assert!(is_cut_off || !has_to_be, "{name}: it was not cut off");
        }
        real.quiet().await;
    });
}

#[test]
fn heads_of_many_fields_are_refused_over_http_2_too() {
    run(async {
        let house = House::with("").await;
        let target = Target::from(&house);
        let mut connection = Connection::open(&target, None).await;
        // 13 KB as sent, 70 KB as counted.
        let fields: Vec<(&str, &str)> = vec![("x-a", "b"); 2_000];
        let many = head(&target, "GET", "/v1/spendguard/me", &fields);
        connection.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &many)).await;
        let refused = connection.until(HEADERS).await.expect("the connection is kept");
        // A name of HPACK's static table, and 431 in its code.
        assert_eq!(refused.payload[..5], [0x48, 0x83, 0x69, 0x90, 0xff]);
        let few = head(&target, "GET", "/v1/spendguard/me", &fields[..50]);
        connection.send(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &few)).await;
        let served = connection.until(HEADERS).await.unwrap();
        // 200 is the eighth name of HPACK's static table.
        assert_eq!((served.stream, served.payload[0]), (3, 0x88));
    });
}

#[test]
fn a_head_that_unfolds_in_the_table_is_refused_before_it_is_large() {
    run(async {
        let real = Real::start("").await;
        let target = real.target.clone();
        // A field of 4,000 bytes goes into the table; each byte after names it.
        let mut bomb = head(&target, "GET", "/v1/models", &[]);
        bomb.push(0x40);
        bomb.extend_from_slice(&field("x-bomb", &"y".repeat(4_000))[1..]);
        bomb.extend_from_slice(&[0xbe; 12_000]);
        let attack = async {
            for _ in 0..5 {
                let mut connection = Connection::open(&target, None).await;
                for stream in 0..10 {
                    connection.send(&frame(HEADERS, END_HEADERS | END_STREAM, 2 * stream + 1, &bomb)).await;
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        let grown = real.growth_kib(attack).await;
        assert!(grown < 8 * 1_024, "50 heads of 48 MB made memory grow by {grown} KiB");
        real.quiet().await;
    });
}

//! How long connections stay open.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::attack::Target;
use crate::harness::{House, run};

const CONFIG: &str = "[server]\nheader_timeout = \"300ms\"\nidle_timeout = \"1500ms\"\n";

async fn served(stream: &mut TcpStream, request: &str) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    while !text.ends_with('}') {
        let mut part = [0; 4096];
        let count = timeout(Duration::from_secs(5), stream.read(&mut part)).await.unwrap().unwrap();
        assert!(count > 0, "it was closed: {text}");
        text.push_str(&String::from_utf8_lossy(&part[..count]));
    }
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
}

/// Whether the other side ends the connection within that time.
async fn is_closed_within(stream: &mut TcpStream, millis: u64) -> bool {
    timeout(Duration::from_millis(millis), stream.read(&mut [0; 64]))
        .await
        .is_ok_and(|read| !matches!(read, Ok(1..)))
}

#[test]
fn a_connection_waits_for_its_next_request_as_long_as_idle_timeout_says() {
    run(async {
        let house = House::with(CONFIG).await;
        let target = Target::from(&house);
        let request = target.request("GET /v1/models", "", "");
        let mut stream = target.connect().await;
        // Each wait is longer than a head may take, and shorter than idleness may last.
        for _ in 0..3 {
            served(&mut stream, &request).await;
            assert!(!is_closed_within(&mut stream, 900).await, "it was closed early");
        }
        served(&mut stream, &request).await;
        assert!(!is_closed_within(&mut stream, 1_200).await, "it was closed early");
        assert!(is_closed_within(&mut stream, 1_500).await, "it is kept for longer than it may be idle");
    });
}

#[test]
fn the_head_of_a_later_request_has_header_timeout_from_its_first_byte() {
    run(async {
        let house = House::with(CONFIG).await;
        let target = Target::from(&house);
        let request = target.request("GET /v1/models", "", "");
        let mut stream = target.connect().await;
        served(&mut stream, &request).await;
        sleep(Duration::from_millis(600)).await;
        let (start, rest) = request.split_at(20);
        stream.write_all(start.as_bytes()).await.unwrap();
        sleep(Duration::from_millis(150)).await;
        served(&mut stream, rest).await;
        sleep(Duration::from_millis(600)).await;
        stream.write_all(start.as_bytes()).await.unwrap();
        assert!(is_closed_within(&mut stream, 1_000).await, "half a head is waited for as for none");
    });
}

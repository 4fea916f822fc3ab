//! Requests that two servers might read differently: one request reaches
//! upstream, or none.

use bytes::Bytes;
use http::Method;
use serde_json::json;

use crate::attack::Target;
use crate::frames::{Connection, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, frame, head};
use crate::harness::{House, call, chat, run};

async fn seen_upstream(house: &House) -> u64 {
    let stats = call(&house.fake_direct, Method::GET, "/__stats", &[], Bytes::new()).await.json();
    stats["requests"].as_u64().unwrap()
}

/// Each case: its name, its bytes, how the answer begins, and how many requests
/// upstream may see.
async fn check(house: &House, cases: &[(&str, String, &str, u64)]) {
    let target = Target::from(house);
    for (name, bytes, status, requests) in cases {
        let before = seen_upstream(house).await;
        let answer = target.raw(bytes).await;
        let first = answer.lines().next().unwrap_or_default().to_owned();
        assert!(first.contains(status), "{name}: {answer}");
        assert_eq!(seen_upstream(house).await - before, *requests, "{name}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), usize::from(!answer.is_empty()), "{name}: {answer}");
    }
    house.settled().await;
}

#[test]
fn framing_that_is_ambiguous_is_refused_or_ends_its_connection() {
    run(async {
        let house = House::with("[server]\nheader_timeout = \"500ms\"\n").await;
        let target = Target::from(&house);
        let body = chat(json!({})).to_string();
        let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        let smuggled = target.request("GET /v1/models", "", "");
        let (all, length) = (chunked.len() + smuggled.len(), body.len());
        let post = |headers: &str, body: &str| {
            target.request("POST /v1/chat/completions", headers, &format!("{body}{smuggled}"))
        };
        let chunk = |text: &str| post("Transfer-Encoding: chunked\r\n", text);
        let te = "Transfer-Encoding: chunked\r\n";
        let old = target.request("POST /v1/chat/completions", te, &chunked).replace("HTTP/1.1", "HTTP/1.0");
        let cases = [
            ("length, then chunked", post(&format!("Content-Length: {all}\r\n{te}"), &chunked), "200", 1),
            ("chunked, then length", post(&format!("{te}Content-Length: {all}\r\n"), &chunked), "200", 1),
            ("chunked, length of nothing", post(&format!("{te}Content-Length: 0\r\n"), &chunked), "200", 1),
            ("identity last", post("Transfer-Encoding: chunked, identity\r\n", &chunked), "400", 0),
            ("identity first", post("Transfer-Encoding: identity, chunked\r\n", &chunked), "400", 0),
            ("compressed", post("Transfer-Encoding: gzip, chunked\r\n", &chunked), "400", 0),
            ("unknown", post("Transfer-Encoding: xchunked\r\n", &chunked), "400", 0),
            ("twice", post(&format!("{te}{te}"), &chunked), "400", 0),
            ("a space before the colon", post("Transfer-Encoding : chunked\r\n", &chunked), "400", 0),
            ("a tab in it", post("Transfer-Encoding: \x0bchunked\r\n", &chunked), "400", 0),
            ("chunked in HTTP/1.0", old + &smuggled, "400", 0),
            (
                "two lengths",
                post(&format!("Content-Length: {length}\r\nContent-Length: 5\r\n"), &body),
                "400",
                0,
            ),
            ("a list of lengths", post(&format!("Content-Length: {length}, {length}\r\n"), &body), "400", 0),
            ("a length below nothing", post("Content-Length: -5\r\n", &body), "400", 0),
            ("a length with a sign", post(&format!("Content-Length: +{length}\r\n"), &body), "400", 0),
            ("a length in hexadecimal", post("Content-Length: 0x10\r\n", &body), "400", 0),
            ("a length past 64 bits", post("Content-Length: 18446744073709551621\r\n", &body), "400", 0),
            ("a chunk's size with a sign", chunk(&format!("+{chunked}")), "400", 0),
            ("a chunk's size past 64 bits", chunk("fffffffffffffffff\r\n{}\r\n0\r\n\r\n"), "400", 0),
            ("a chunk longer than it says", chunk(&format!("5\r\n{body}\r\n0\r\n\r\n")), "400", 0),
            ("a bare line feed in chunks", chunk(&format!("{length:x}\n{body}\n0\n\n")), "400", 0),
        ];
        check(&house, &cases).await;
    });
}

#[test]
fn lines_and_names_that_are_ambiguous_are_refused() {
    run(async {
        let house = House::with("[server]\nheader_timeout = \"500ms\"\n").await;
        let target = Target::from(&house);
        let get = |headers: &str| target.request("GET /v1/models", headers, "");
        let smuggled = get("");
        let inside = format!("Content-Length: {}\r\n", smuggled.len());
        let cases = [
            ("NUL in a value", get("X-A: b\0c\r\n"), "400", 0),
            ("NUL in a name", get("X\0A: b\r\n"), "400", 0),
            ("a lone carriage return", get("X-A: b\rX-B: c\r\n"), "400", 0),
            ("a folded line", get("X-A: b\r\n c: d\r\n"), "400", 0),
            ("no name", get(": b\r\n"), "400", 0),
            ("no colon", get("Host\r\n"), "400", 0),
            ("two targets", target.request("GET /v1/models /v1/files", "", ""), "400", 0),
            ("a control character in the target", target.request("GET /v1/mod\x01els", "", ""), "400", 0),
            ("a method of its own", target.request("GET\x01 /v1/models", "", ""), "400", 0),
            ("a tunnel", target.request("CONNECT api.openai.com:443", "", ""), "400", 0),
            ("bare line feeds are lines", get("Connection: close\r\n").replace("\r\n", "\n"), "200", 1),
            (
                "a request in a body is a body",
                get(&format!("{inside}Connection: close\r\n")) + &smuggled,
                "400",
                0,
            ),
            ("what follows a close is nothing", get("Connection: close\r\n") + &smuggled, "200", 1),
            (
                "an upgrade is none",
                get("Connection: upgrade, close\r\nUpgrade: h2c\r\n") + &smuggled,
                "200",
                1,
            ),
            (
                "an unknown key's body",
                smuggled.replace(&target.key, "sk-none").replace("GET", "POST"),
                "401",
                0,
            ),
        ];
        check(&house, &cases).await;
    });
}

#[test]
fn http_2_brings_no_framing_of_http_1_along() {
    run(async {
        let house = House::with("").await;
        let target = Target::from(&house);
        let before = seen_upstream(&house).await;
        for (name, value) in [
            ("transfer-encoding", "chunked"),
            ("connection", "keep-alive"),
            ("upgrade", "h2c"),
            ("x-line", "a\r\nhost: b"),
            ("x-nul", "a\0b"),
            ("X-Large", "a"),
            ("x space", "a"),
            (":path", "/v1/files"),
            (":other", "a"),
            ("content-length", "5"),
        ] {
            let mut connection = Connection::open(&target, None).await;
            let head = head(&target, "GET", "/v1/models", &[(name, value)]);
            connection.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &head)).await;
            // The stream is reset, or the connection ended.
            let reset = connection.until(RST_STREAM).await;
            assert!(reset.is_none_or(|reset| reset.stream == 1), "{name}");
        }
        assert_eq!(seen_upstream(&house).await, before);
        target.ask_politely().await;
    });
}

#[test]
fn a_client_that_expects_100_continue_gets_it_if_it_may_go_on() {
    run(async {
        let house = House::with("").await;
        let target = Target::from(&house);
        let asked = target.chat("Expect: 100-continue\r\nConnection: close\r\n");
        let answer = target.raw(&asked).await;
        assert!(answer.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200"), "{answer}");
        let last = call(&house.fake_direct, Method::GET, "/__last", &[], Bytes::new()).await.json();
        assert!(last["headers"].get("expect").is_none(), "{last}");
        let answer = target.raw(asked.replace(&target.key, "sk-none")).await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
        house.settled().await;
    });
}

//! What fails: upstream, the database, and too much at once.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::json;

use crate::harness::{House, UPSTREAM_KEY, call, chat, run};
use crate::scripted::{Reply, guard_before};

#[test]
fn an_upstream_that_is_not_there_costs_nothing() {
    run(async {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let base_url = format!("http://{free}/v1");
        let house = House::in_front_of(Some(&base_url), Some(UPSTREAM_KEY), "").await;
        let answer = house.chat(&[], json!({})).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (StatusCode::BAD_GATEWAY, "upstream_unreachable")
        );
        assert_eq!(
            answer.json()["error"]["message"],
            "The upstream API could not be reached or broke off.",
            "nothing was sent"
        );
        let entry = &house.entries().await[0];
        assert_eq!((&entry["kind"], &entry["cost_usd"]), (&json!("release"), &json!("0")), "{entry}");
    });
}

#[test]
fn an_upstream_that_stays_silent_is_charged_its_hold() {
    run(async {
        let house = House::with("[upstream]\nresponse_timeout = \"300ms\"\n").await;
        let answer = house.chat(&[("x-fake-hang", "1")], json!({})).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (StatusCode::GATEWAY_TIMEOUT, "upstream_timeout")
        );
        assert_eq!(
            answer.json()["error"]["message"],
            "The upstream API did not answer in time. The request may have been billed."
        );
        let entry = &house.entries().await[0];
        assert_eq!((&entry["basis"], &entry["cost_usd"]), (&json!("assumed"), &entry["held_usd"]), "{entry}");
    });
}

#[test]
fn a_stream_without_a_bound_is_cut_where_its_hold_ends() {
    run(async {
        // The length of an answer of this model is unknown, and its upstream does
        // not keep the bound that it is given.
        let config = "[[price]]\nmodel = \"wild-1\"\ninput = 1\noutput = 1\n\
                      [[limit]]\nname = \"b\"\nwindow = \"day\"\nhard = 0.5\n";
        let chunk = json!({ "id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "wild-1",
            "choices": [{ "index": 0, "delta": { "content": " word" } }] });
        let events = format!("data: {chunk}\n\n").repeat(40_000) + "data: [DONE]\n\n";
        let (house, asked) = guard_before(config, move |_, _| Reply::Events(events.clone())).await;
        let answer = house.chat(&[], json!({ "model": "wild-1", "stream": true })).await;
        assert_eq!(asked.borrow()[0].1["max_completion_tokens"], 16_384);
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, StatusCode::OK, "{text}");
        assert!(!text.contains("[DONE]") && text.contains("\"error\":{"), "{}", &text[text.len() - 300..]);
        house.settled().await;
        let meter = house.meter("b").await;
        let settled: spendguard::domain::Money = meter["settled"].as_str().unwrap().parse().unwrap();
        assert!(settled.nano() > 16_000_000 && settled.nano() < 18_000_000, "{settled}");
    });
}

#[test]
fn a_ledger_that_cannot_be_written_admits_no_request_and_loses_no_ending() {
    run(async {
        let house = House::with("").await;
        let during = house.chat(&[("x-fake-latency-ms", "400")], json!({}));
        let broken = async {
            tokio::time::sleep(Duration::from_millis(150)).await;
            let db = rusqlite::Connection::open(house.folder.path().join("data/spendguard.db")).unwrap();
            db.execute_batch("BEGIN IMMEDIATE").unwrap();
            let before = house.fake.served();
            let answer = house.chat(&[], json!({})).await;
            assert_eq!(answer.code(), "ledger_unavailable");
            assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(answer.header("x-should-retry"), "true");
            assert_eq!(house.fake.served(), before, "nothing was forwarded");
            assert!(!house.guard.core().is_healthy());
            tokio::time::sleep(Duration::from_millis(500)).await;
            db.execute_batch("ROLLBACK").unwrap();
        };
        let (admitted, ()) = tokio::join!(during, broken);
        assert_eq!(admitted.status, StatusCode::OK, "it was admitted before");
        house.settled().await;
        let entries = house.entries().await;
        assert_eq!(entries.len(), 1, "what was refused left nothing: {entries:?}");
        assert_eq!(entries[0]["basis"], "reported");
        assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK, "it goes on by itself");
        assert!(house.guard.core().is_healthy());
    });
}

#[test]
fn a_limit_made_while_the_ledger_cannot_be_written_does_not_forget_what_waits() {
    run(async {
        let house = House::with("").await;
        let db = rusqlite::Connection::open(house.folder.path().join("data/spendguard.db")).unwrap();
        let paying = house.chat(&[("x-fake-latency-ms", "300")], json!({}));
        let broken = async {
            tokio::time::sleep(Duration::from_millis(150)).await;
            db.execute_batch("BEGIN IMMEDIATE").unwrap();
        };
        let (paid, ()) = tokio::join!(paying, broken);
        let cost = paid.header("x-spendguard-cost-usd");
        let limits = || {
            let text = "[[limit]]\nname = \"new\"\nwindow = \"day\"\nhard = 5\n";
            let file = house.folder.path().join("new.toml");
            std::fs::write(&file, text).unwrap();
            spendguard::config::load(Some(&file), []).unwrap().limits
        };
        let made = house.rulebook.install_file_limits(limits(), "UTC".into()).await;
        assert!(made.is_err(), "it does not know yet what was spent");
        db.execute_batch("ROLLBACK").unwrap();
        house.guard.core().flush().await.unwrap();
        house.rulebook.install_file_limits(limits(), "UTC".into()).await.unwrap();
        assert_eq!(house.meter("new").await["settled"], cost);
    });
}

#[test]
fn a_request_that_could_cost_beyond_reason_is_refused_without_any_limit() {
    run(async {
        let house = House::with("").await;
        let body = json!({
            "model": "gpt-5", "input": "x", "tools": [{ "type": "web_search" }], "max_tool_calls": 9_007_199_254_740_992_u64
        });
        let answer = house.post("/v1/responses", &[], &body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer:?}");
        assert!(house.fake.served().is_empty() && house.guard.in_doubt().1 == 0);
        house.chat(&[], json!({})).await;
        let entry = house.entries().await[0]["id"].as_str().unwrap().to_owned();
        let path = format!("/guard/v1/ledger/{entry}/adjust");
        let too_much = json!({ "amount_usd": "9000000000", "note": "a typing error" });
        assert_eq!(house.admin(Method::POST, &path, Some(too_much)).await.status, StatusCode::BAD_REQUEST);
    });
}

#[test]
fn a_broken_off_stream_of_a_model_that_reasons_is_charged_its_hold() {
    run(async {
        let house = House::with("").await;
        let ordered = [("x-fake-chunks", "40"), ("x-fake-cut-after", "25"), ("x-fake-chunk-delay-ms", "1")];
        house.chat(&ordered, json!({ "model": "gpt-5", "stream": true, "max_completion_tokens": 900 })).await;
        house.settled().await;
        let entry = &house.entries().await[0];
        assert_eq!((&entry["basis"], &entry["cost_usd"]), (&json!("assumed"), &entry["held_usd"]), "{entry}");
    });
}

#[test]
fn a_client_that_never_reads_does_not_keep_its_hold() {
    run(async {
        use tokio::io::AsyncWriteExt as _;
        let house = House::with("[server]\nheader_timeout = \"200ms\"\n").await;
        let mut stream = tokio::net::TcpStream::connect(house.proxy_address).await.unwrap();
        let body = chat(json!({ "stream": true })).to_string();
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nx-fake-chunks: 60000\r\n\
             Content-Length: {}\r\n\r\n{body}",
            house.key,
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(house.guard.in_doubt().1, 1, "it is on its way");
        house.settled().await;
        let entry = &house.entries().await[0];
        assert_eq!((&entry["basis"], &entry["disconnected"]), (&json!("reported"), &json!(true)), "{entry}");
    });
}

#[test]
fn a_client_that_says_nothing_or_half_a_greeting_is_let_go() {
    run(async {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let house = House::with("[server]\nheader_timeout = \"200ms\"\n").await;
        for said in ["", "P", "PRI * HTTP/2.0\r\n", "GET /v1/mod"] {
            let mut stream = tokio::net::TcpStream::connect(house.proxy_address).await.unwrap();
            stream.write_all(said.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            let closed = tokio::time::timeout(Duration::from_secs(3), stream.read_to_end(&mut answer)).await;
            assert!(closed.is_ok(), "after {said:?} it was kept");
        }
    });
}

#[test]
fn more_open_requests_than_allowed_wait_and_are_then_refused() {
    run(async {
        let house = House::with("[guard]\nopen_requests_max = 2\n").await;
        let slow = [("x-fake-latency-ms", "4000")];
        let (first, second) = (house.chat(&slow, json!({})), house.chat(&slow, json!({})));
        let third = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let answer = house.chat(&[], json!({})).await;
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (StatusCode::SERVICE_UNAVAILABLE, "overloaded")
            );
            assert_eq!(answer.header("x-should-retry"), "true");
            assert_eq!(house.entries().await.len(), 0, "operators get through meanwhile");
        };
        let (first, second, ()) = tokio::join!(first, second, third);
        assert_eq!((first.status, second.status), (StatusCode::OK, StatusCode::OK));
        assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK);
    });
}

#[test]
fn a_body_that_stops_coming_is_given_up() {
    run(async {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let house = House::with("[server]\nheader_timeout = \"300ms\"\n").await;
        let mut stream = tokio::net::TcpStream::connect(house.proxy_address).await.unwrap();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: 50\r\n\r\n{{",
            house.key
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        tokio::time::timeout(Duration::from_secs(40), read).await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert!(text.starts_with("HTTP/1.1 408"), "{text}");
        assert!(house.entries().await.is_empty());
    });
}

#[test]
fn a_client_that_leaves_while_it_waits_for_room_leaves_nothing_held() {
    run(async {
        let config = "[[limit]]\nname = \"b\"\nwindow = \"day\"\nhard = 0.0002\n\
                      [guard]\nwhen_tight = \"reject\"\nhold_wait = \"5s\"\n";
        let house = House::with(config).await;
        let asked = json!({ "max_completion_tokens": 200 });
        let first = house.chat(&[("x-fake-latency-ms", "800")], asked.clone());
        let second = async {
            while house.guard.in_doubt().1 == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let bearer = format!("Bearer {}", house.key);
            let headers = [("authorization", bearer.as_str())];
            let body = bytes::Bytes::from(chat(asked.clone()).to_string());
            let waiting = call(&house.proxy, Method::POST, "/v1/chat/completions", &headers, body);
            let early = tokio::time::timeout(Duration::from_millis(200), waiting).await;
            assert!(early.is_err(), "it waits: {early:?}");
        };
        let (first, ()) = tokio::join!(first, second);
        assert_eq!(first.status, StatusCode::OK);
        house.settled().await;
        assert_eq!(house.fake.served()["gpt-4o-mini"].requests, 1);
        assert_eq!(house.meter("b").await["held"], "0");
    });
}

//! Bad input: a clear refusal, nothing forwarded, never free spend.

use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::{House, run};

#[test]
fn bodies_that_can_be_read_two_ways_are_refused() {
    run(async {
        let house = House::with("[server]\nrequest_body_max = \"64KiB\"\n").await;
        let deep = format!(
            "{{\"model\":\"gpt-4o-mini\",\"messages\":{}{}}}",
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        let cases: Vec<(Vec<u8>, u16)> = vec![
            (b"{".to_vec(), 400),
            (b"[]".to_vec(), 400),
            (b"".to_vec(), 400),
            (b"{\"model\":\"gpt-4o-mini\",\"model\":\"gpt-5\",\"messages\":[]}".to_vec(), 400),
            (b"{\"model\":\"gpt-4o-mini\",\"mod\\u0065l\":\"gpt-5\",\"messages\":[]}".to_vec(), 400),
            (b"{\"model\":\"gpt-4o-mini\",\"messages\":[],\"max_tokens\":-1}".to_vec(), 400),
            (b"{\"model\":\"gpt-4o-mini\",\"messages\":[],\"max_tokens\":1e3}".to_vec(), 400),
            (b"{\"model\":\"gpt-4o-mini\",\"messages\":[],\"max_tokens\":\"5\"}".to_vec(), 400),
            (
                b"{\"model\":\"gpt-4o-mini\",\"messages\":[],\"max_tokens\":99999999999999999999}".to_vec(),
                400,
            ),
            (b"{\"model\":\"gpt-4o-mini\",\"messages\":[],\"n\":0}".to_vec(), 400),
            (b"{\"model\":\"gpt-4o-mini\",\"messages\":[],\"n\":1000000}".to_vec(), 400),
            (b"{\"model\":\"gpt-4o-mini\",\"messages\":\"\xff\"}".to_vec(), 400),
            (b"{\"model\":7,\"messages\":[]}".to_vec(), 400),
            (b"{\"messages\":[]}".to_vec(), 400),
            (vec![b'x'; 70_000], 413),
            (deep.into_bytes(), 413),
        ];
        for (body, status) in cases {
            let shown = String::from_utf8_lossy(&body).chars().take(80).collect::<String>();
            let answer = house.post_raw("/v1/chat/completions", &[], body.into()).await;
            assert_eq!(answer.status.as_u16(), status, "{shown} {answer:?}");
            assert_eq!(answer.json()["error"]["type"], "invalid_request_error", "{shown}");
        }
        assert!(house.fake.served().is_empty(), "nothing was forwarded");
        assert!(house.entries().await.is_empty());
        assert_eq!(house.guard.in_doubt().1, 0);
    });
}

#[test]
fn deep_nesting_is_refused_without_harm() {
    run(async {
        let house = House::with("").await;
        let deep = format!("{{\"model\":\"gpt-4o-mini\",\"messages\":{}", "[".repeat(1_000_000));
        assert_eq!(
            house.post_raw("/v1/chat/completions", &[], deep.into()).await.status,
            StatusCode::BAD_REQUEST
        );
    });
}

/// Sends raw bytes and returns the status line of the answer; empty if the
/// connection was closed without one.
async fn raw(house: &House, request: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(house.proxy_address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4_096];
    let read = tokio::time::timeout(std::time::Duration::from_secs(5), stream.read(&mut answer)).await;
    let read = read.unwrap().unwrap_or(0);
    String::from_utf8_lossy(&answer[..read]).lines().next().unwrap_or_default().to_owned()
}

#[test]
fn tricks_with_paths_and_framing_reach_no_endpoint() {
    run(async {
        let house = House::with("[server]\nheader_timeout = \"1s\"\n").await;
        let body = "{\"model\":\"gpt-4o-mini\",\"messages\":[]}";
        let auth = format!("Host: x\r\nAuthorization: Bearer {}\r\n", house.key);
        for (path, status) in [
            ("//v1/chat/completions", "404"),
            ("/v1//chat/completions", "404"),
            ("/v1/%63hat/completions", "404"),
            ("/v1/models/../chat/completions", "403"),
            ("/v1/chat/completions/", "404"),
            ("/V1/chat/completions", "404"),
            ("http://api.openai.com/v1/chat/completions", "400"),
        ] {
            let request =
                format!("POST {path} HTTP/1.1\r\n{auth}Content-Length: {}\r\n\r\n{body}", body.len());
            let answer = raw(&house, &request).await;
            assert!(answer.contains(status), "{path}: {answer}");
        }
        let both = format!(
            "POST /v1/chat/completions HTTP/1.1\r\n{auth}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        );
        assert!(raw(&house, &both).await.contains("400"));
        let twice = format!(
            "POST /v1/chat/completions HTTP/1.1\r\n{auth}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"
        );
        assert!(raw(&house, &twice).await.contains("400"));
        let endless = format!("GET /v1/models HTTP/1.1\r\nX-Long: {}\r\n", "a".repeat(200_000));
        let answer = raw(&house, &endless).await;
        assert!(answer.is_empty() || answer.contains("431"), "{answer}");
        let slow = raw(&house, "POST /v1/chat/completions HTTP/1.1\r\nHost:").await;
        assert!(slow.is_empty() || slow.contains("408"), "{slow}");
        assert!(house.fake.served().is_empty(), "nothing was forwarded");
    });
}

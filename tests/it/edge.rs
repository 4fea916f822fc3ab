//! The edge: what goes upstream and what comes back, who may ask, and how.

mod bodies;
mod browsers;
mod listener;
mod passing;
mod paths;
mod refused;
mod tunnel;
mod upstreams_words;

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use http::Method;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::harness::{Answer, House, call};

/// The last request that the fake OpenAI was asked.
pub(crate) async fn last(house: &House) -> Value {
    call(&house.fake_direct, Method::GET, "/__last", &[], Bytes::new()).await.json()
}

/// A request without a body and with these headers.
async fn ask(house: &House, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
    call(&house.proxy, method, path, headers, Bytes::new()).await
}

/// A server that answers each request with the same bytes and ends the connection.
/// What it was asked is kept as it came.
pub(crate) struct Scripted {
    pub(crate) base_url: String,
    pub(crate) asked: Rc<RefCell<Vec<String>>>,
}

impl Scripted {
    async fn says(answer: impl Into<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
        let asked = Rc::new(RefCell::new(Vec::new()));
        let (noted, answer) = (Rc::clone(&asked), answer.into());
        tokio::task::spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut text = String::new();
                let mut part = vec![0; 1 << 16];
                while let Ok(count @ 1..) = stream.read(&mut part).await {
                    text.push_str(&String::from_utf8_lossy(&part[..count]));
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                    if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                        break;
                    }
                }
                noted.borrow_mut().push(text);
                let _ = stream.write_all(&answer).await;
            }
        });
        Self { base_url, asked }
    }

    /// An answer of JSON with a status line's end, such as `401 Unauthorized`.
    pub(crate) async fn says_json(status: &str, json: &Value) -> Self {
        let body = json.to_string();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        Self::says(head + &body).await
    }
}

//! An upstream that answers as a test says, and remembers what it was asked.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{House, UPSTREAM_KEY};

/// What upstream does with a request.
pub(crate) enum Reply {
    /// A JSON answer with status 200.
    Json(Value),
    /// An event stream of these bytes.
    Events(String),
    /// An error of OpenAI's with this status.
    Error(u16),
    /// An error of a gateway on the way with this status.
    Page(u16),
    /// Another one, after some time.
    Later(Duration, Box<Reply>),
    /// Nothing, for as long as the test runs.
    Silence,
}

/// The paths and bodies of the requests that came, in their order.
pub(crate) type Received = Rc<RefCell<Vec<(String, Value)>>>;

/// A guard before an upstream that replies as `reply` says.
pub(crate) async fn guard_before<F>(config: &str, reply: F) -> (House, Received)
where
    F: Fn(&str, &Value) -> Reply + 'static,
{
    let (base_url, asked) = upstream(reply).await;
    (House::in_front_of(Some(&base_url), Some(UPSTREAM_KEY), config).await, asked)
}

/// An upstream that replies as `reply` says, by its base URL.
pub(crate) async fn upstream<F>(reply: F) -> (String, Received)
where
    F: Fn(&str, &Value) -> Reply + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    let (asked, reply) = (Received::default(), Rc::new(reply));
    let noted = Rc::clone(&asked);
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::task::spawn_local(serve(stream, Rc::clone(&noted), Rc::clone(&reply)));
        }
    });
    (base_url, asked)
}

async fn serve<F>(mut stream: TcpStream, asked: Received, reply: Rc<F>)
where
    F: Fn(&str, &Value) -> Reply,
{
    let mut unread = Vec::new();
    while let Some((head, body)) = request(&mut stream, &mut unread).await {
        let path = head.split(' ').nth(1).unwrap().to_owned();
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let mut answer = reply(&path, &body);
        asked.borrow_mut().push((path, body));
        if let Reply::Later(lasts, later) = answer {
            tokio::time::sleep(lasts).await;
            answer = *later;
        }
        let (status, kind, text) = match answer {
            Reply::Json(value) => (200, "application/json", value.to_string()),
            Reply::Events(events) => (200, "text/event-stream", events),
            Reply::Error(status) => {
                let error = json!({ "error": { "message": "no", "type": "server_error", "param": null, "code": null } });
                (status, "application/json", error.to_string())
            }
            Reply::Page(status) => (status, "text/html", "<html>We are busy.</html>".to_owned()),
            Reply::Later(..) => unreachable!("only one after another"),
            Reply::Silence => std::future::pending().await,
        };
        let head =
            format!("HTTP/1.1 {status} OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n", text.len());
        if stream.write_all(format!("{head}{text}").as_bytes()).await.is_err() {
            return;
        }
    }
}

/// The next request of a connection: its head in lower case, and its body; `None` at its end.
pub(crate) async fn request(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    let mut part = vec![0; 1 << 16];
    loop {
        if let Some(at) = unread.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&unread[..at]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let end = at + 4 + length.map_or(0, |length| length.parse::<usize>().unwrap());
            if unread.len() >= end {
                let body = unread[at + 4..end].to_vec();
                unread.drain(..end);
                return Some((head, body));
            }
        }
        match stream.read(&mut part).await {
            Ok(count @ 1..) => unread.extend_from_slice(&part[..count]),
            _ => return None,
        }
    }
}

/// A finished response of the Responses API with this usage.
pub(crate) fn response(model: &str, input_tokens: u64, output_tokens: u64) -> Value {
    json!({
        "id": "resp_1", "object": "response", "status": "completed", "model": model, "output": [],
        "usage": {
            "input_tokens": input_tokens, "input_tokens_details": { "cached_tokens": 0 },
            "output_tokens": output_tokens, "output_tokens_details": { "reasoning_tokens": 0 },
            "total_tokens": input_tokens + output_tokens,
        },
    })
}

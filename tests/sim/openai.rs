//! Upstream: answers late, partly, twice or never, and keeps the true account.
//!
//! Requests that were drawn from the whole space are answered and billed in
//! `drawn`; this is how the plain ones are.
//!
//! It bills as OpenAI does: nothing for what it refused, the whole answer if it
//! made one, and of a stream that broke off what it had delivered by then. An
//! answer without usage has no hidden output: the guard can only count what it
//! sees.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::time::sleep;

use crate::account::{Account, Bill, PlainBill};
use crate::background;
use crate::batches;
use crate::chance::Chance;
use crate::containers;
use crate::drawn;
use crate::files;
use crate::realtime;
use crate::sockets;
use crate::stores;
use crate::wire::{End, Mark};

/// Models of plain requests; one of them thinks before it answers.
pub(crate) const MODELS: [&str; 2] = ["gpt-4o-mini", "gpt-5-mini"];

/// The header that has the key of a handshake.
const SOCKET_KEY: &str = "\r\nsec-websocket-key:";

/// What upstream does with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answer,
    WithoutUsage,
    Twice,
    Late,
    Never,
    Refuse,
    Fail,
    /// The work is done and the answer lost.
    Vanish,
    /// Closed in the middle of an answer.
    Partly,
    Garbage,
}

impl Fate {
    fn drawn(chance: &mut Chance) -> Self {
        match chance.within(0, 23) {
            0..=12 => Self::Answer,
            13..=14 => Self::WithoutUsage,
            15 => Self::Twice,
            16 => Self::Late,
            17 => Self::Never,
            18 => Self::Refuse,
            19 => Self::Fail,
            20 => Self::Vanish,
            21..=22 => Self::Partly,
            _ => Self::Garbage,
        }
    }
}

/// Serves one connection until it breaks.
pub(crate) async fn serve(mut end: End, account: Arc<Account>, mut chance: Chance) {
    let mut unread = Vec::new();
    while let Some(asked) = request(&mut end, &mut unread).await {
        let Asked { method, path, body: bytes, is_guards, socket_key } = asked;
        if let Some(key) = socket_key {
            return if path.starts_with(realtime::PATH) {
                realtime::serve(end, unread, account, chance, &key).await;
            } else {
                sockets::serve(end, unread, account, chance, &key).await;
            };
        }
        let question = |(id, below)| Question { method: &method, id, below, is_guards };
        let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let answered = if let Some(of) = below(&path, "/v1/responses/", "resp_") {
            background::show(&mut end, &account, &mut chance, question(of)).await
        } else if let Some(of) = below(&path, "/v1/containers/", "cntr_") {
            containers::show(&mut end, &account, &mut chance, question(of)).await
        } else if let Some(of) = below(&path, "/v1/files/", "file-") {
            files::show(&mut end, &account, &mut chance, question(of)).await
        } else if let Some(of) = below(&path, "/v1/batches/", "batch_") {
            batches::show(&mut end, &account, &mut chance, question(of)).await
        } else if let Some(of) = below(&path, "/v1/vector_stores/", "vs_") {
            stores::show(&mut end, &account, &mut chance, question(of), &body).await
        } else if path == containers::PATH {
            containers::make(&mut end, &account, &mut chance, &bytes).await
        } else if path == files::PATH {
            files::keep(&mut end, &account, &mut chance, &bytes).await
        } else if path == batches::PATH {
            batches::make(&mut end, &account, &mut chance, &bytes).await
        } else if path == stores::PATH {
            stores::make(&mut end, &account, &mut chance, &bytes).await
        } else if let Some(name) = background::named(&path, &body) {
            background::begin(&mut end, &account, &mut chance, &name, &bytes).await
        } else if path.ends_with("/responses/input_tokens") {
            drawn::count(&mut end, &account, &bytes)
        } else if let Some(known) = drawn::known(&path, &body) {
            drawn::answer(&mut end, &account, &mut chance, known, &bytes).await
        } else {
            answer(&mut end, &account, &mut chance, &body).await
        };
        if answered.is_none() {
            return;
        }
        if chance.percent(4) {
            // It closes an idle connection, maybe just as the next request comes.
            sleep(Duration::from_millis(chance.within(0, 200))).await;
            return;
        }
    }
}

/// A request as it comes.
struct Asked {
    method: String,
    path: String,
    body: Vec<u8>,
    is_guards: bool,
    /// The key of the handshake, if it asks for a socket.
    socket_key: Option<String>,
}

/// A question about an object: its id, and what of it is below that in the path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question<'a> {
    pub(crate) method: &'a str,
    pub(crate) id: &'a str,
    pub(crate) below: &'a str,
    /// Whether the guard asks for itself: no client of these worlds says what it accepts.
    pub(crate) is_guards: bool,
}

/// The id of an object that a path names, and what is below it.
fn below<'a>(path: &'a str, folder: &str, prefix: &str) -> Option<(&'a str, &'a str)> {
    let rest = path.strip_prefix(folder).filter(|rest| rest.starts_with(prefix))?;
    Some(rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len())))
}

/// The next request; none at the end of the connection.
async fn request(end: &mut End, unread: &mut Vec<u8>) -> Option<Asked> {
    loop {
        if let Some(at) = unread.windows(4).position(|four| four == b"\r\n\r\n") {
            let written = String::from_utf8_lossy(&unread[..at]).into_owned();
            let head = written.to_ascii_lowercase();
            let key_at = head.find(SOCKET_KEY).map(|at| at + SOCKET_KEY.len());
            let socket_key =
                key_at.and_then(|at| written[at..].lines().next()).map(|key| key.trim().to_owned());
            let mut words = head.split(' ').map(str::to_owned);
            let (method, path) = (words.next().unwrap(), words.next().unwrap());
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
            if unread.len() >= at + 4 + length {
                let body = unread[at + 4..at + 4 + length].to_vec();
                unread.drain(..at + 4 + length);
                let is_guards = head.contains("\r\naccept: */*");
                return Some(Asked { method, path, body, is_guards, socket_key });
            }
        }
        if end.read_buf(unread).await.ok()? == 0 {
            return None;
        }
    }
}

struct ModelRequest<'a> {
    name: &'a str,
    bill: PlainBill,
    input: (u64, u64),
    words: u64,
    with_usage: bool,
}

fn read_request<'a>(account: &Account, body: &'a Value, chance: &mut Chance) -> ModelRequest<'a> {
    let text = body["messages"][0]["content"].as_str().unwrap();
    let model = MODELS.into_iter().find(|model| Some(*model) == body["model"].as_str()).unwrap();
    let world = account.world();
    let rates = oracle::prices::find(model).unwrap().rates(world.project_tier, false, world.place());
    let most = body["max_completion_tokens"].as_u64().unwrap_or(80);
    let reasoning = if model == "gpt-5-mini" { chance.within(0, most / 2) } else { 0 };
    let words = chance.within(0, (most - reasoning).min(80));
    let input = u64::try_from(text.split(' ').count()).unwrap();
    ModelRequest {
        name: text.split(' ').next().unwrap(),
        bill: PlainBill { model, rates, input: None, reasoning, words: Arc::default() },
        input: (input, input / 4),
        words,
        with_usage: body["stream_options"]["include_usage"] == true,
    }
}

/// Answers a request; none if the connection is over.
async fn answer(end: &mut End, account: &Account, chance: &mut Chance, body: &Value) -> Option<()> {
    let mut asked = read_request(account, body, chance);
    account.begins(asked.name);
    let fate = Fate::drawn(chance);
    sleep(Duration::from_millis(chance.one(&[0, 1, 10, 100, 900]))).await;
    if matches!(fate, Fate::Refuse | Fate::Fail) {
        let (status, kind) = if fate == Fate::Refuse {
            ("400 Bad Request", "invalid_request_error")
        } else {
            ("500 Oops", "server_error")
        };
        let error = json!({ "error": { "message": "no", "type": kind, "param": null, "code": null } });
        return whole(end, status, &error.to_string());
    }
    if fate == Fate::Garbage {
        return whole(end, "200 OK", "<html>all is well</html>");
    }
    if fate == Fate::WithoutUsage {
        asked.bill.reasoning = 0;
    }
    asked.bill.input = Some(asked.input);
    if body["stream"] == true
        && matches!(fate, Fate::Answer | Fate::WithoutUsage | Fate::Partly | Fate::Twice)
    {
        account.open(asked.name, Bill::Plain(asked.bill.clone()));
        return stream(end, chance, fate, &asked).await;
    }
    asked.bill.words.store(asked.words, Ordering::Relaxed);
    account.open(asked.name, Bill::Plain(asked.bill.clone()));
    let text = object(&asked, fate != Fate::WithoutUsage).to_string();
    match fate {
        Fate::Never => {
            sleep(Duration::from_secs(100)).await;
            None
        }
        Fate::Late => {
            sleep(Duration::from_secs(chance.within(5, 40))).await;
            whole(end, "200 OK", &text)
        }
        Fate::Vanish => None,
        Fate::Partly => {
            let head = head("200 OK", text.len() + 10);
            end.send(format!("{head}{text}").as_bytes(), None).ok()?;
            sleep(Duration::from_millis(chance.within(0, 50))).await;
            None
        }
        Fate::Twice => {
            // The next request on this connection may take the second answer for
            // its own: nothing in HTTP/1.1 distinguishes them. That request is
            // never billed, since the connection ends here.
            whole(end, "200 OK", &text)?;
            whole(end, "200 OK", &text)?;
            None
        }
        Fate::Answer | Fate::WithoutUsage | Fate::Refuse | Fate::Fail | Fate::Garbage => {
            whole(end, "200 OK", &text)
        }
    }
}

pub(crate) fn head(status: &str, length: usize) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n")
}

pub(crate) fn whole(end: &mut End, status: &str, text: &str) -> Option<()> {
    end.send(format!("{}{text}", head(status, text.len())).as_bytes(), None).ok()
}

fn usage(asked: &ModelRequest<'_>, words: u64) -> Value {
    let completion = words + asked.bill.reasoning;
    json!({
        "prompt_tokens": asked.input.0,
        "completion_tokens": completion,
        "total_tokens": asked.input.0 + completion,
        "prompt_tokens_details": { "cached_tokens": asked.input.1 },
        "completion_tokens_details": { "reasoning_tokens": asked.bill.reasoning },
    })
}

fn object(asked: &ModelRequest<'_>, with_usage: bool) -> Value {
    let text = vec!["hello"; usize::try_from(asked.words).unwrap()].join(" ");
    let mut object = json!({
        "id": format!("chatcmpl-{}", asked.name),
        "object": "chat.completion",
        "model": asked.bill.model,
        "choices": [{ "index": 0, "message": { "role": "assistant", "content": text }, "finish_reason": "stop" }],
    });
    if with_usage {
        object["usage"] = usage(asked, asked.words);
    }
    object
}

async fn stream(end: &mut End, chance: &mut Chance, fate: Fate, asked: &ModelRequest<'_>) -> Option<()> {
    let event = |delta: &Value| {
        let chunk = json!({
            "id": format!("chatcmpl-{}", asked.name), "object": "chat.completion.chunk", "model": asked.bill.model,
            "choices": [{ "index": 0, "delta": delta, "finish_reason": null }],
        });
        format!("data: {chunk}\n\n")
    };
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    end.send(head.as_bytes(), None).ok()?;
    let pause = Duration::from_millis(chance.one(&[0, 0, 1, 30, 400]));
    let cut_after = if fate == Fate::Partly { chance.within(0, asked.words) } else { u64::MAX };
    for word in 0..asked.words {
        if word == cut_after {
            return None;
        }
        let mark = Mark::of(&asked.bill.words, 1);
        end.send(chunk(&event(&json!({ "content": " hello" }))).as_bytes(), Some(mark)).ok()?;
        if !pause.is_zero() {
            sleep(pause).await;
        }
    }
    if fate != Fate::WithoutUsage {
        if asked.with_usage {
            let mut last = object(asked, true);
            last["object"] = json!("chat.completion.chunk");
            last["choices"] = json!([]);
            end.send(chunk(&format!("data: {last}\n\n")).as_bytes(), None).ok()?;
        }
        end.send(chunk("data: [DONE]\n\n").as_bytes(), None).ok()?;
    }
    end.send(b"0\r\n\r\n", None).ok()
}

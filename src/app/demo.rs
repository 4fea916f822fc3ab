//! `spendguard demo`: a tour without an OpenAI key.
//!
//! A fake OpenAI in this process, a guard in front of it with a few keys and limits
//! that are reached, and a bounded stream of requests through it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::app::{App, StartError};
use crate::cli::say;
use crate::config;
use crate::directory::keyring::NewKey;
use crate::domain::{Money, Secret};
use crate::fake_openai::{self, Fake};
use crate::guard::audit::Actor;
use crate::upstream::{Config, Upgrade, Upstream, roots};

const FOLDER: &str = "spendguard-demo";
const PAUSE: Duration = Duration::from_millis(250);
/// Where requests are sent, below the API's root.
const CHATS: &str = "/chat/completions";
const RESPONSES: &str = "/responses";
const REALTIME: &str = "/realtime?model=gpt-realtime";
/// Turns on each WebSocket.
const TURNS: u32 = 3;
/// Requests of each batch.
const BATCH_LINES: u32 = 5;

const LIMITS: &str = r#"
[organization]
name = "Demo"
[[project]]
id = "chatbot"
name = "Chatbot"
[[project]]
id = "search"
name = "Search"
[[project]]
id = "design"
name = "Design"
[[project]]
id = "interns"
name = "Interns"
[[limit]]
name = "monthly-budget"
window = "month"
soft = ["50%", "80%"]
hard = 5.00
[[limit]]
name = "chatbot-day"
per = "project"
only = { project = ["chatbot"] }
window = "day"
soft = [0.0008]
hard = 0.0015
[[limit]]
name = "requests-per-minute"
per = "key"
only = { project = ["interns"] }
unit = "requests"
window = "minute"
hard = 6
[[fuse]]
name = "runaway"
only = { key = ["looping"] }
usd = 0.001
within = "10m"
"#;

/// A WebSocket of the demo.
type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// The prepaid credit of the demo's organization.
const CREDIT: Money = Money::from_nano(25 * 1_000_000_000);

/// Serves only the fake, until the process ends.
pub async fn upstream(listen: SocketAddr) -> Result<(), StartError> {
    let listener = crate::net::bind(listen, 1)?.remove(0);
    say(&format!("fake OpenAI listening on http://{}", listener.local_addr()?));
    let (_never, stop) = watch::channel(false);
    Ok(fake_openai::serve(listener, Arc::new(Fake::default()), stop).await?)
}

/// Runs the whole tour: traffic for so many seconds, then serves until stopped.
pub async fn run(seconds: u64) -> Result<(), StartError> {
    let fake_listener = crate::net::bind("127.0.0.1:0".parse()?, 1)?.remove(0);
    let fake_url = format!("http://{}/v1", fake_listener.local_addr()?);
    let (_until_the_end, stop) = watch::channel(false);
    let tasks = tokio_util::task::TaskTracker::new();
    tasks.spawn(fake_openai::serve(fake_listener, Arc::new(Fake::default()), stop));

    let folder = std::env::temp_dir().join(format!("{FOLDER}-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let file = folder.join("spendguard.toml");
    std::fs::write(&file, LIMITS)?;
    // Only the listeners may be chosen: the rest of the environment belongs to a real guard.
    let listens = ["SPENDGUARD_SERVER__LISTEN", "SPENDGUARD_ADMIN__LISTEN"];
    let chosen = listens.into_iter().filter_map(|key| Some((key.to_owned(), std::env::var(key).ok()?)));
    let environment = [
        ("SPENDGUARD_UPSTREAM__BASE_URL".to_owned(), fake_url.clone()),
        ("SPENDGUARD_UPSTREAM__FORWARD_HEADERS".to_owned(), "x-fake-*".to_owned()),
        ("SPENDGUARD_STORAGE__PATH".to_owned(), folder.join("data").display().to_string()),
        ("OPENAI_API_KEY".to_owned(), "sk-fake-upstream-key".to_owned()),
    ];
    let settings = config::load(Some(&file), environment.into_iter().chain(chosen))?;
    let app = App::start(settings, None).await?;
    say(&format!("a fake OpenAI answers at {fake_url}; nothing here costs money"));
    app.announce();
    let mut keys = Vec::new();
    for (name, project) in [
        ("web", "chatbot"),
        ("indexer", "search"),
        ("painter", "design"),
        ("analyst", "search"),
        ("intern", "interns"),
        ("nightly", "search"),
        ("agent", "design"),
        // Its latest session stays open.
        ("voice", "search"),
        // It spends quickly, so its fuse blows.
        ("looping", "search"),
    ] {
        let new = NewKey { name: name.to_owned(), project: Some(project.to_owned()), ..NewKey::default() };
        let (key, secret) = app.opened.directory.create_key(new, &Actor::guard()).await?;
        say(&format!("key {name:<8} in {project:<8} {} {}", key.id, secret.expose()));
        keys.push((name, secret));
    }
    app.opened.rulebook.grant(CREDIT, "a first purchase".to_owned(), None, &Actor::guard()).await?;
    say(&format!(
        "look around, in another terminal: export SPENDGUARD_ADMIN_URL=http://{} SPENDGUARD_ADMIN_TOKEN={}",
        app.admin,
        app.token.secret().expose()
    ));
    say(
        "  spendguard limits list · fuses list · usage --by project · ledger tail -f · limits explain chatbot-day · credits balance",
    );
    say(&format!("  curl http://{}/metrics", app.admin));
    say(&format!("traffic for {seconds} seconds; Ctrl-C ends the demo"));
    tasks.spawn(traffic(app.proxy, keys, seconds));
    let ended = app.run().await;
    // The demo leaves nothing behind; if it can't be removed, it is in /tmp.
    let _ = std::fs::remove_dir_all(&folder);
    ended
}

/// Sends requests at a bounded rate: each key in turn, and a line for each answer.
async fn traffic(proxy: SocketAddr, keys: Vec<(&'static str, Secret)>, seconds: u64) {
    let Ok(base_url) = format!("http://{proxy}/v1").parse() else { return };
    let timeout = Duration::from_secs(30);
    let client =
        Upstream::new(&Config { base_url, connect_timeout: timeout, response_timeout: timeout }, &roots());
    let rounds = seconds.saturating_mul(1_000) / u64::try_from(PAUSE.as_millis()).unwrap_or(1);
    let mut session = None;
    for round in 0..rounds {
        let turn = usize::try_from(round).unwrap_or(0) % keys.len();
        let (name, secret) = &keys[turn];
        let line = match *name {
            "voice" => match talk(&client, secret, round).await {
                Ok((line, open)) => {
                    session = Some(open);
                    line
                }
                Err(error) => error,
            },
            name => call(&client, name, secret).await,
        };
        say(&format!("{name:<8} {line}"));
        tokio::time::sleep(PAUSE).await;
    }
    say("the traffic is over; the guard goes on until Ctrl-C");
    // Read, so that it answers when it is asked whether its client is there.
    if let Some(mut session) = session {
        while let Some(Ok(_)) = session.next().await {}
    }
}

/// Sends one request with a key of that name; returns a line about it.
async fn call(client: &Upstream, name: &str, secret: &Secret) -> String {
    let (path, body) = match name {
        "nightly" => return batch(client, secret).await,
        "agent" => return turns(client, secret).await.unwrap_or_else(|error| error),
        "indexer" => {
            ("/embeddings", json!({ "model": "text-embedding-3-small", "input": "a page to index" }))
        }
        "painter" => (
            "/images/generations",
            json!({ "model": "gpt-image-2", "prompt": "a piggy bank", "quality": "low", "size": "1024x1024" }),
        ),
        // Its cost is known when the guard has seen its end.
        "analyst" => (
            RESPONSES,
            json!({ "model": "gpt-4o-mini", "input": "What did we spend?", "background": true, "max_output_tokens": 400 }),
        ),
        _ => (
            CHATS,
            json!({ "model": "gpt-4o-mini", "max_completion_tokens": 400,
                "messages": [{ "role": "user", "content": "How do I spend less?" }] }),
        ),
    };
    match send(client, (path, "application/json"), secret, body.to_string()).await {
        Ok((head, _)) => {
            let header = |name: &str| {
                let value = head.headers.get(name).and_then(|value| value.to_str().ok());
                value.unwrap_or("-").to_owned()
            };
            let (cost, remaining) = (header("x-spendguard-cost-usd"), header("x-spendguard-remaining-usd"));
            format!("{} {path}: {cost} USD, {remaining} left", head.status.as_u16())
        }
        Err(refused) => refused,
    }
}

/// Uploads a file of requests and makes a batch of it, whose cost is known when the guard has seen its end.
async fn batch(client: &Upstream, secret: &Secret) -> String {
    let line = |number: u32| {
        let body = json!({ "model": "gpt-4o-mini", "max_completion_tokens": 400,
            "messages": [{ "role": "user", "content": "Sum up this page." }] });
        let id = format!("page-{number}");
        json!({ "custom_id": id, "method": "POST", "url": format!("/v1{CHATS}"), "body": body }).to_string()
            + "\n"
    };
    let lines: String = (0..BATCH_LINES).map(line).collect();
    let form = format!(
        "--b\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n\
         --b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"pages.jsonl\"\r\n\r\n{lines}\r\n--b--\r\n"
    );
    let made = async {
        let (_, file) = send(client, ("/files", "multipart/form-data; boundary=b"), secret, form).await?;
        let body = json!({ "input_file_id": file["id"], "endpoint": format!("/v1{CHATS}"), "completion_window": "24h" });
        send(client, ("/batches", "application/json"), secret, body.to_string()).await
    };
    match made.await {
        Ok((head, batch)) => {
            let id = batch["id"].as_str().unwrap_or("-");
            format!("{} /batches: {BATCH_LINES} requests, {id}", head.status.as_u16())
        }
        Err(refused) => refused,
    }
}

/// Opens a WebSocket, with these headers beside those of its handshake.
async fn opened<const N: usize>(
    client: &Upstream,
    path: &str,
    secret: &Secret,
    more: [(&'static str, HeaderValue); N],
) -> Result<Socket, String> {
    let fixed = |name, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
    let mut headers = HeaderMap::from_iter([
        (header::AUTHORIZATION, bearer(secret)?),
        fixed("connection", "Upgrade"),
        fixed("upgrade", "websocket"),
        fixed("sec-websocket-version", "13"),
        // Any 16 bytes.
        fixed("sec-websocket-key", "c3BlbmRndWFyZCBkZW1vIQ=="),
    ]);
    headers.extend(more.map(|(name, value)| (HeaderName::from_static(name), value)));
    match client.upgrade(path, headers).await.map_err(|error| error.to_string())? {
        Upgrade::Agreed(_, io) => {
            Ok(WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Client, None).await)
        }
        Upgrade::Refused(answer) => Err(format!("{} {path}: no WebSocket", answer.status().as_u16())),
    }
}

/// Sends messages, and reads events until one of that type; returns it, or why there is none.
async fn asked<const N: usize>(
    socket: &mut Socket,
    messages: [serde_json::Value; N],
    last: &str,
) -> Result<serde_json::Value, String> {
    for message in messages {
        socket.send(Message::text(message.to_string())).await.map_err(|error| error.to_string())?;
    }
    loop {
        let message = socket.next().await.ok_or("the WebSocket was closed")?;
        let text = message.and_then(Message::into_text).map_err(|error| error.to_string())?;
        let event: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        match event["type"].as_str() {
            Some("error") => {
                return Err(event["error"]["message"].as_str().unwrap_or("no reason given").to_owned());
            }
            Some(kind) if kind == last => return Ok(event),
            _ => {}
        }
    }
}

/// Takes some turns on a WebSocket, each of which goes on from the one before; returns a line about it, or why not.
async fn turns(client: &Upstream, secret: &Secret) -> Result<String, String> {
    let orders = [("x-fake-completion-tokens", "200"), ("x-spendguard-cost", "true")];
    let orders = orders.map(|(name, value)| (name, HeaderValue::from_static(value)));
    let mut socket = opened(client, RESPONSES, secret, orders).await?;
    let (mut previous, mut cost) = (serde_json::Value::Null, Money::ZERO);
    for _ in 0..TURNS {
        let create = json!({ "type": "response.create", "model": "gpt-4o-mini", "input": "What is next?",
            "max_output_tokens": 200, "previous_response_id": previous });
        let done = asked(&mut socket, [create], "response.completed").await?;
        previous = done["response"]["id"].clone();
        cost = cost + done["response"]["usage"]["cost"].to_string().parse().unwrap_or(Money::ZERO);
    }
    Ok(format!("101 {RESPONSES}: {TURNS} turns on a WebSocket, {cost} USD"))
}

/// Has a realtime session answer once; returns a line about it and the session, or why not.
async fn talk(client: &Upstream, secret: &Secret, round: u64) -> Result<(String, Socket), String> {
    let run = HeaderValue::from_str(&format!("run=call-{round}")).map_err(|error| error.to_string())?;
    let mut socket = opened(client, REALTIME, secret, [("x-spendguard-tags", run)]).await?;
    let content = json!([{ "type": "input_text", "text": "How do I spend less?" }]);
    let item = json!({ "type": "message", "role": "user", "content": content });
    let messages = [
        json!({ "type": "conversation.item.create", "item": item }),
        json!({ "type": "response.create", "response": { "max_output_tokens": 100 } }),
    ];
    let done = asked(&mut socket, messages, "response.done").await?;
    let tokens = &done["response"]["usage"]["total_tokens"];
    Ok((format!("101 /realtime: an answer of {tokens} tokens; the session stays open"), socket))
}

/// The authorization with a key.
fn bearer(secret: &Secret) -> Result<HeaderValue, String> {
    HeaderValue::from_str(&format!("Bearer {}", secret.expose())).map_err(|error| error.to_string())
}

/// Sends a request and reads its answer; what was refused is the text about that.
async fn send(
    client: &Upstream,
    (path, content_type): (&str, &'static str),
    secret: &Secret,
    body: String,
) -> Result<(http::response::Parts, serde_json::Value), String> {
    let headers = HeaderMap::from_iter([
        (header::AUTHORIZATION, bearer(secret)?),
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (HeaderName::from_static("x-fake-completion-tokens"), HeaderValue::from_static("400")),
    ]);
    let answer = client
        .send(Method::POST, path, headers, Bytes::from(body))
        .await
        .map_err(|error| error.to_string())?;
    let (head, body) = answer.into_parts();
    let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let said: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    if head.status.is_success() {
        return Ok((head, said));
    }
    let message = said["error"]["message"].as_str().unwrap_or("no reason given");
    Err(format!("{} {}: {message}", head.status.as_u16(), said["error"]["code"].as_str().unwrap_or("-")))
}

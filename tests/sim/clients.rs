//! Programs with keys: they ask, read, stall, and hang up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::account::locked;
use crate::chance::Chance;
use crate::drawn;
use crate::openai::MODELS;
use crate::world::World;

/// Statuses that the contract has; any other is a fault.
pub(crate) const STATUSES: [u16; 11] = [200, 400, 403, 404, 408, 409, 429, 500, 502, 503, 504];

/// Runs one client until the world's work is over.
pub(crate) async fn run(world: Arc<World>, name: usize, mut chance: Chance) {
    let mut connection = None;
    let mut count = 0;
    while !world.is_resting() {
        sleep(Duration::from_millis(chance.within(0, 1_500) * world.jobs.pace)).await;
        count += 1;
        let name = format!("c{name}r{count}");
        // Taken out, so that a client that hangs up loses its connection.
        let mut open = match connection.take() {
            Some(open) => open,
            None => match dial(&world).await {
                Some(open) => open,
                None => continue,
            },
        };
        let request = request(&world, &name, &mut chance);
        let patience = if chance.percent(15) { chance.within(0, 2_000) } else { 120_000 };
        let slow = chance.percent(10).then(|| Duration::from_millis(chance.within(0, 300)));
        let asking = ask(&world, &mut open, &name, request, slow);
        let asked = timeout(Duration::from_millis(patience), asking).await;
        if asked == Ok(true) && chance.percent(80) {
            connection = Some(open);
        }
    }
}

pub(crate) async fn dial(world: &Arc<World>) -> Option<SendRequest<Full<Bytes>>> {
    let end = world.dial_guard()?;
    let (send, connection) = handshake(TokioIo::new(end)).await.ok()?;
    world.tasks.spawn(connection);
    Some(send)
}

fn request(world: &World, name: &str, chance: &mut Chance) -> Request<Full<Bytes>> {
    let drawn =
        if chance.percent(world.drawn_percent) { drawn::request(&world.account, name, chance) } else { None };
    let (path, body) = drawn.unwrap_or_else(|| ("/v1/chat/completions", plain(name, chance)));
    let key = chance.one(&[0, 1]);
    locked(&world.account.stopped).sends(name, key);
    let mut request = Request::post(path)
        .header("authorization", format!("Bearer {}", world.keys()[key]))
        .header("x-spendguard-tags", format!("name={name}"));
    if chance.percent(5) {
        request = request.header("x-spendguard-max-cost-usd", "0.00005");
    }
    request.body(Full::new(body.into())).unwrap()
}

/// A plain chat completion.
fn plain(name: &str, chance: &mut Chance) -> String {
    let model = chance.one(&MODELS);
    let words = vec!["hello"; usize::try_from(chance.within(1, 40)).unwrap()].join(" ");
    let mut body =
        json!({ "model": model, "messages": [{ "role": "user", "content": format!("{name} {words}") }] });
    let mut put = |field: &str, value| body.as_object_mut().unwrap().insert(field.to_owned(), value);
    if chance.percent(70) {
        put("max_completion_tokens", json!(chance.within(1, 200)));
    }
    if chance.percent(50) {
        put("stream", json!(true));
        if chance.percent(50) {
            put("stream_options", json!({ "include_usage": true }));
        }
    }
    if chance.percent(50) {
        put("user", json!(format!("user{}", chance.within(1, 3))));
    }
    body.to_string()
}

/// Asks and reads the answer; whether the connection can be used again.
async fn ask(
    world: &World,
    open: &mut SendRequest<Full<Bytes>>,
    name: &str,
    request: Request<Full<Bytes>>,
    slow: Option<Duration>,
) -> bool {
    if open.ready().await.is_err() {
        return false;
    }
    let Ok(answer) = open.send_request(request).await else { return false };
    let status = answer.status().as_u16();
    world.check(STATUSES.contains(&status), || format!("{name}: a status of {status}"));
    let cost = answer.headers().get("x-spendguard-cost-usd").map(|cost| cost.to_str().unwrap().to_owned());
    let Some(length) = read(answer, slow).await else { return false };
    world.trace(&format!("{name} got {status}, {length} bytes, for {cost:?}"));
    world.noted(status);
    true
}

/// Reads an answer to its end, maybe slowly; none if it breaks off.
async fn read(answer: Response<Incoming>, slow: Option<Duration>) -> Option<usize> {
    let mut body = answer.into_body();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame.ok()?.data_ref().map_or(0, Bytes::len);
        if let Some(slow) = slow {
            sleep(slow).await;
        }
    }
    Some(length)
}

/// How many answers of each status there were.
pub(crate) type Statuses = BTreeMap<u16, u64>;

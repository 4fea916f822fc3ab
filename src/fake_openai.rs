//! A fake OpenAI, for the demo and for tests. It is no model: it answers with
//! filler words and exact, deterministic usage.
//!
//! Prompt tokens are a quarter of the body's bytes, rounded up, a quarter of those
//! cached. It counts the usage it served, so that a ledger can be compared with it, and is
//! controlled by `x-fake-*` headers: `status`, `latency-ms`, `chunks`, `chunk-delay-ms`,
//! `completion-tokens`, `no-usage`, `cut-after`, `hang`, `tier`, `image-bytes`, `speech-ms`,
//! `seconds`; by `background-reads` a background response ends after it was read so often.

mod answers;
mod audio;
mod background;
mod batches;
mod bounded;
mod containers;
mod files;
mod images;
mod realtime;
mod sockets;
mod stream;
mod translations;
mod uploads;
mod vector_stores;

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::ops::Add;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Either, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::fake_openai::answers::{Api, Made};
use crate::fake_openai::audio::{Heard, Spoken};
use crate::fake_openai::background::Responses;
use crate::fake_openai::batches::Batches;
use crate::fake_openai::containers::Containers;
use crate::fake_openai::files::Files;
use crate::fake_openai::stream::Events;
use crate::fake_openai::uploads::Uploads;
use crate::fake_openai::vector_stores::VectorStores;
use crate::net::{Serving, Timeouts};
use crate::sync::unpoisoned;

/// The largest file of OpenAI, in its form.
const BODY_BYTES_MAX: usize = (512 << 20) + (1 << 20);
/// Bodies that were answered before they were read.
const UNREAD_MAX: usize = 16;

/// The usage served by one model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Requests answered with 200.
    pub requests: u64,
    /// Input tokens.
    pub prompt_tokens: u64,
    /// The cached part of them.
    pub cached_tokens: u64,
    /// Output tokens, those of broken streams included.
    pub completion_tokens: u64,
}

impl Add for Served {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            prompt_tokens: self.prompt_tokens + other.prompt_tokens,
            cached_tokens: self.cached_tokens + other.cached_tokens,
            completion_tokens: self.completion_tokens + other.completion_tokens,
        }
    }
}

/// The usage served, by model.
#[derive(Debug, Default)]
pub struct Fake {
    models: Mutex<BTreeMap<String, Served>>,
    last: Mutex<Value>,
    responses: Responses,
    files: Files,
    uploads: Uploads,
    batches: Batches,
    clock: Clock,
    containers: Containers,
    vector_stores: VectorStores,
    sockets: TaskTracker,
    ids: AtomicU64,
    seen: AtomicU64,
    /// Kept, so that their connections stay open and the answers arrive.
    unread: Mutex<VecDeque<Incoming>>,
}

/// The body of an answer.
type Answer = Either<Full<Bytes>, Events>;

/// Serves the fake on a listener until it is stopped.
pub async fn serve(
    listener: std::net::TcpListener,
    fake: Arc<Fake>,
    stop: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let service = service_fn(move |request| {
        let fake = Arc::clone(&fake);
        async move { Ok::<_, Infallible>(fake.answer(request).await) }
    });
    let serving = Serving {
        timeouts: Timeouts { header: Duration::from_secs(30), idle: Duration::from_secs(120) },
        connections: Arc::new(Semaphore::new(20_000)),
        tls: None,
        stop,
    };
    crate::net::serve(listener, serving, service).await
}

impl Fake {
    /// The usage served by each model.
    pub fn served(&self) -> BTreeMap<String, Served> {
        unpoisoned(self.models.lock()).clone()
    }

    fn note(&self, model: &str, served: Served) {
        let mut models = unpoisoned(self.models.lock());
        let sum = models.entry(model.to_owned()).or_default();
        *sum = *sum + served;
    }

    async fn answer(self: &Arc<Self>, request: Request<Incoming>) -> Response<Answer> {
        if request.headers().contains_key(header::SEC_WEBSOCKET_KEY) {
            return self.open_socket(request);
        }
        let (head, body) = request.into_parts();
        if let Some(status) = ordered_status(&head.headers, "x-fake-early-status") {
            self.remember(&head, &Bytes::new());
            let mut unread = unpoisoned(self.unread.lock());
            unread.truncate(UNREAD_MAX - 1);
            unread.push_front(body);
            return error(status, "answered early", Some("injected"));
        }
        let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else {
            return error(StatusCode::BAD_REQUEST, "the body broke off", None);
        };
        let body = body.to_bytes();
        match head.uri.path() {
            "/__stats" => return answer(StatusCode::OK, &self.stats()),
            "/__last" => {
                let last = unpoisoned(self.last.lock()).clone();
                return answer(StatusCode::OK, &last);
            }
            "/__files" => return answer(StatusCode::OK, &self.digests()),
            _ => {}
        }
        self.remember(&head, &body);
        if head.headers.contains_key("x-fake-hang") {
            std::future::pending::<()>().await;
        }
        let latency_ms = number(&head.headers, "x-fake-latency-ms").unwrap_or(0);
        if latency_ms > 0 {
            tokio::time::sleep(Duration::from_millis(latency_ms)).await;
        }
        if let Some(status) = ordered_status(&head.headers, "x-fake-status") {
            return error(status, "injected", Some("injected"));
        }
        self.route(&head, &body)
    }

    fn route(self: &Arc<Self>, head: &Parts, body: &Bytes) -> Response<Answer> {
        let path = head.uri.path();
        let segments: Vec<&str> = path.strip_prefix("/v1/").unwrap_or_default().split('/').collect();
        match (&head.method, segments.as_slice()) {
            (_, ["files", rest @ ..]) => self.on_files(head, rest, body),
            (_, ["uploads", rest @ ..]) => self.on_uploads(head, rest, body),
            (_, ["batches", rest @ ..]) => self.on_batches(head, rest, body),
            (_, ["containers", rest @ ..]) => self.numbered(self.on_containers(head, rest, body)),
            (_, ["vector_stores", rest @ ..]) => self.numbered(self.on_vector_stores(head, rest, body)),
            (&Method::GET, ["models"]) => answer(StatusCode::OK, &answers::models()),
            (&Method::POST, ["moderations"]) => answer(StatusCode::OK, &answers::moderation()),
            (&Method::POST, _) if images::PATHS.contains(&path) => {
                self.draw(path.ends_with("edits"), &head.headers, body)
            }
            (&Method::POST, _) if audio::PATHS.contains(&path) => self.sound(path, &head.headers, body),
            (method, _) => match (Api::at(path), path.strip_prefix("/v1/responses/")) {
                (Some(api), _) if *method == Method::POST => self.generate(api, &head.headers, body),
                (_, Some(id)) => self.stored(method, &head.uri, id),
                (Some(_) | None, _) => error(StatusCode::NOT_FOUND, "unknown path", None),
            },
        }
    }

    fn numbered(&self, answer: Response<Answer>) -> Response<Answer> {
        identified(answer, self.ids.fetch_add(1, Ordering::Relaxed))
    }

    fn new_id(&self, prefix: &str) -> String {
        format!("{prefix}{:024}", self.ids.fetch_add(1, Ordering::Relaxed))
    }

    fn remember(&self, head: &Parts, body: &Bytes) {
        self.seen.fetch_add(1, Ordering::Relaxed);
        self.show(head, body);
    }

    /// Shows a request as the last one.
    fn show(&self, head: &Parts, body: &Bytes) {
        let headers: BTreeMap<String, String> = head
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        let shown =
            if body.len() < 1 << 16 { String::from_utf8_lossy(body).into_owned() } else { String::new() };
        let last = json!({ "method": head.method.as_str(), "uri": head.uri.to_string(), "headers": headers, "body": shown });
        *unpoisoned(self.last.lock()) = last;
    }

    fn stats(&self) -> Value {
        let model = |served: &Served| {
            json!({
                "requests": served.requests,
                "prompt_tokens": served.prompt_tokens,
                "cached_tokens": served.cached_tokens,
                "completion_tokens": served.completion_tokens,
            })
        };
        let models: BTreeMap<String, Value> =
            self.served().iter().map(|(name, served)| (name.clone(), model(served))).collect();
        json!({ "requests": self.seen.load(Ordering::Relaxed), "models": models })
    }

    /// Speaks a text, or writes a recording down.
    fn sound(&self, path: &str, headers: &HeaderMap, body: &Bytes) -> Response<Answer> {
        let unread = || error(StatusCode::BAD_REQUEST, "We could not read the body of your request.", None);
        let (fields, served, sent) = if path.ends_with("speech") {
            let Ok(fields) = serde_json::from_slice::<Value>(body) else { return unread() };
            let spoken = Spoken { fields: &fields, headers };
            let (served, sent) = (spoken.served(), spoken.sent());
            (fields, served, sent)
        } else {
            let Some((fields, file)) = audio::form(headers, body) else { return unread() };
            let heard =
                Heard { fields: &fields, file, is_translation: path.ends_with("translations"), headers };
            let (served, sent) = (heard.served(), heard.sent());
            (fields, served, sent)
        };
        self.note(fields["model"].as_str().unwrap_or_default(), served);
        let (kind, bytes) = sent;
        let mut response = Response::new(Either::Left(Full::new(Bytes::from(bytes))));
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
        self.numbered(response)
    }

    fn generate(self: &Arc<Self>, api: Api, headers: &HeaderMap, body: &Bytes) -> Response<Answer> {
        let Ok(request) = serde_json::from_slice::<Value>(body) else {
            return error(StatusCode::BAD_REQUEST, "We could not parse the JSON body of your request.", None);
        };
        let made = match self.make(api, headers, &request, body.len()) {
            Ok(made) => made,
            Err(refusal) => return refused(&refusal),
        };
        let (model, id) = (made.model.clone(), self.ids.fetch_add(1, Ordering::Relaxed));
        if made.in_background {
            let begun = self.responses.begin(made.clone(), headers);
            if request["stream"] != true {
                return identified(answer(StatusCode::OK, &begun), id);
            }
        }
        if request["stream"] == true && api.streams() {
            let events = Events::new(Arc::clone(self), made, headers, &request);
            let mut response = Response::new(Either::Right(events));
            let kind = header::HeaderValue::from_static("text/event-stream; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            return identified(response, id);
        }
        self.note(&model, made.served(made.completion_tokens));
        identified(answer(StatusCode::OK, &made.object()), id)
    }

    /// What is generated for a request whose body has so many bytes.
    fn make(&self, api: Api, headers: &HeaderMap, request: &Value, bytes: usize) -> Result<Made, Refusal> {
        let Some(model) = request["model"].as_str() else {
            return Err(Refusal::bad("you must provide a model parameter", None));
        };
        if model == "no-such-model" {
            let text = "The model `no-such-model` does not exist or you do not have access to it.";
            return Err(Refusal { code: Some("model_not_found"), ..Refusal::missing(text) });
        }
        let prompt_tokens = u64::try_from(bytes).unwrap_or(0).div_ceil(4);
        Ok(Made {
            api,
            id: self.new_id(api.id_prefix()),
            model: model.to_owned(),
            tier: tier(headers, request),
            prompt_tokens,
            cached_tokens: prompt_tokens / 4,
            completion_tokens: completion_tokens(api, headers, request),
            with_usage: !headers.contains_key("x-fake-no-usage"),
            in_background: api == Api::Responses && request["background"] == true,
        })
    }
}

/// Why a request is refused, as OpenAI says it.
struct Refusal {
    status: StatusCode,
    text: String,
    param: Option<&'static str>,
    code: Option<&'static str>,
}

impl Refusal {
    /// Of a request that is not well formed.
    fn bad(text: impl Into<String>, param: Option<&'static str>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, text: text.into(), param, code: None }
    }

    /// Of what does not exist.
    fn missing(text: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, ..Self::bad(text, None) }
    }

    fn object(&self) -> Value {
        let kind = if self.status.is_server_error() { "server_error" } else { "invalid_request_error" };
        json!({ "error": { "message": self.text, "type": kind, "param": self.param, "code": self.code } })
    }
}

fn refused(refusal: &Refusal) -> Response<Answer> {
    answer(refusal.status, &refusal.object())
}

fn identified(mut response: Response<Answer>, id: u64) -> Response<Answer> {
    let request_id = header::HeaderValue::from_str(&format!("req_fake{id:012}"));
    let headers = response.headers_mut();
    headers.extend(request_id.ok().map(|id| (header::HeaderName::from_static("x-request-id"), id)));
    headers.insert("openai-organization", header::HeaderValue::from_static("org-fake"));
    headers.insert(header::SET_COOKIE, header::HeaderValue::from_static("__cf_bm=fake"));
    response
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

/// The status that a header orders.
fn ordered_status(headers: &HeaderMap, name: &str) -> Option<StatusCode> {
    let status = u16::try_from(number(headers, name)?).ok();
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    Some(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
}

/// A parameter of a query.
fn query<'a>(uri: &'a Uri, name: &str) -> Option<&'a str> {
    let pairs = uri.query()?.split('&');
    pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn tier(headers: &HeaderMap, request: &Value) -> String {
    let ordered = headers.get("x-fake-tier").and_then(|tier| tier.to_str().ok());
    let requested = request["service_tier"].as_str().filter(|tier| *tier != "auto");
    let tier = ordered.or(requested).unwrap_or("default");
    if tier == "fast" { "priority".to_owned() } else { tier.to_owned() }
}

fn completion_tokens(api: Api, headers: &HeaderMap, request: &Value) -> u64 {
    if matches!(api, Api::Embeddings | Api::InputTokens) {
        return 0;
    }
    let tokens = number(headers, "x-fake-completion-tokens")
        .or_else(|| number(headers, "x-fake-chunks"))
        .unwrap_or(20);
    let most = ["max_completion_tokens", "max_tokens", "max_output_tokens"];
    let most = most.iter().find_map(|field| request[*field].as_u64()).unwrap_or(u64::MAX);
    tokens.min(most).saturating_mul(request["n"].as_u64().unwrap_or(1))
}

fn answer(status: StatusCode, value: &Value) -> Response<Answer> {
    let mut response = Response::new(Either::Left(Full::new(Bytes::from(value.to_string()))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

fn error(status: StatusCode, message: &str, code: Option<&'static str>) -> Response<Answer> {
    refused(&Refusal { status, code, ..Refusal::bad(message, None) })
}

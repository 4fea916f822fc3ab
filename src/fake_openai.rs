//! A fake OpenAI, for the demo and for tests. It is no model: it answers with
//! filler words and exact, deterministic usage.
//!
//! Prompt tokens are a quarter of the body's bytes, rounded up, a quarter of those
//! cached. It counts the usage it served, so that a ledger can be compared with it,
//! and is controlled by `x-fake-*` headers: `status`, `latency-ms`, `chunks`,
//! `chunk-delay-ms`, `completion-tokens`, `no-usage`, `cut-after`, `hang`, `tier`,
//! `image-bytes`, `speech-ms`, `seconds`; by `background-reads` a background response ends
//! after it was read so often.

mod answers;
mod audio;
mod background;
mod containers;
mod images;
mod stream;
mod vector_stores;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Either, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};

use crate::fake_openai::answers::Api;
use crate::fake_openai::audio::{Heard, Spoken};
use crate::fake_openai::background::Responses;
use crate::fake_openai::images::Images;
use crate::fake_openai::stream::Events;
use crate::net::{Serving, Timeouts};
use crate::sync::unpoisoned;

const BODY_BYTES_MAX: usize = 256 << 20;

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

/// The usage served, by model.
#[derive(Debug, Default)]
pub struct Fake {
    models: Mutex<BTreeMap<String, Served>>,
    last: Mutex<Value>,
    responses: Responses,
    containers: containers::Containers,
    vector_stores: vector_stores::VectorStores,
    ids: AtomicU64,
    seen: AtomicU64,
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
        sum.requests += served.requests;
        sum.prompt_tokens += served.prompt_tokens;
        sum.cached_tokens += served.cached_tokens;
        sum.completion_tokens += served.completion_tokens;
    }

    async fn answer(self: &Arc<Self>, request: Request<Incoming>) -> Response<Answer> {
        let (head, body) = request.into_parts();
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
        if let Some(status) = number(&head.headers, "x-fake-status") {
            let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
            return error(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), "injected", Some("injected"));
        }
        if let Some(hosted) = self.hosted(&head, &body) {
            return hosted;
        }
        match (&head.method, head.uri.path()) {
            (&Method::GET, "/v1/models") => answer(StatusCode::OK, &answers::models()),
            (&Method::POST, "/v1/moderations") => answer(StatusCode::OK, &answers::moderation()),
            (&Method::POST, path) if images::PATHS.contains(&path) => {
                self.draw(path.ends_with("edits"), &head.headers, &body)
            }
            (&Method::POST, path) if audio::PATHS.contains(&path) => self.sound(path, &head.headers, &body),
            (method, path) => match (Api::at(path), path.strip_prefix("/v1/responses/")) {
                (Some(api), _) if *method == Method::POST => self.generate(api, &head.headers, &body),
                (_, Some(id)) => self.stored(method, &head.uri, id),
                (Some(_) | None, _) => error(StatusCode::NOT_FOUND, "unknown path", None),
            },
        }
    }

    fn remember(&self, head: &http::request::Parts, body: &Bytes) {
        self.seen.fetch_add(1, Ordering::Relaxed);
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

    fn draw(&self, is_edit: bool, headers: &HeaderMap, body: &Bytes) -> Response<Answer> {
        let Some((fields, sent)) = images::fields(headers, body) else {
            return error(StatusCode::BAD_REQUEST, "We could not read the body of your request.", None);
        };
        let images = Images { fields: &fields, sent, is_edit, headers };
        self.note(fields["model"].as_str().unwrap_or_default(), images.served());
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        if fields["stream"] != true {
            return identified(answer(StatusCode::OK, &images.object()), id);
        }
        let mut response = Response::new(Either::Left(Full::new(Bytes::from(images.events()))));
        let kind = header::HeaderValue::from_static("text/event-stream; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        identified(response, id)
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
        identified(response, self.ids.fetch_add(1, Ordering::Relaxed))
    }

    fn generate(self: &Arc<Self>, api: Api, headers: &HeaderMap, body: &Bytes) -> Response<Answer> {
        let Ok(request) = serde_json::from_slice::<Value>(body) else {
            return error(StatusCode::BAD_REQUEST, "We could not parse the JSON body of your request.", None);
        };
        let Some(model) = request["model"].as_str() else {
            return error(StatusCode::BAD_REQUEST, "you must provide a model parameter", None);
        };
        if model == "no-such-model" {
            let message = "The model `no-such-model` does not exist or you do not have access to it.";
            return error(StatusCode::NOT_FOUND, message, Some("model_not_found"));
        }
        let prompt_tokens = u64::try_from(body.len()).unwrap_or(0).div_ceil(4);
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let made = answers::Made {
            api,
            id: format!("{}{id:024}", api.id_prefix()),
            model: model.to_owned(),
            tier: tier(headers, &request),
            prompt_tokens,
            cached_tokens: prompt_tokens / 4,
            completion_tokens: completion_tokens(api, headers, &request),
            with_usage: !headers.contains_key("x-fake-no-usage"),
            in_background: api == Api::Responses && request["background"] == true,
        };
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
        self.note(model, made.served(made.completion_tokens));
        identified(answer(StatusCode::OK, &made.object()), id)
    }
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

fn error(status: StatusCode, message: &str, code: Option<&str>) -> Response<Answer> {
    let kind = if status.is_server_error() { "server_error" } else { "invalid_request_error" };
    answer(status, &json!({ "error": { "message": message, "type": kind, "param": null, "code": code } }))
}

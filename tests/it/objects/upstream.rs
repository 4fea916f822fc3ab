//! An upstream that keeps objects, all in one place: whose they are is not its
//! affair, as it isn't OpenAI's where one key asks for everybody.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use http::{Method, StatusCode};
use serde_json::{Value, json};

/// What it keeps, and what it was asked.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    objects: Mutex<BTreeMap<String, Vec<Value>>>,
    asked: Mutex<Vec<String>>,
}

/// Starts it; returns its address.
pub(crate) async fn serve(kept: &Arc<Kept>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = axum::Router::new().fallback(answer).with_state(Arc::clone(kept));
    // The test's own task; it ends with the test's runtime.
    tokio::task::spawn_local(async move { axum::serve(listener, router).await.unwrap() });
    address
}

impl Kept {
    /// The requests since the last look, as method and target.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    /// An object that was made beside the guard.
    pub(crate) fn make(&self, collection: &str, more: Value) -> String {
        let mut objects = self.objects.lock().unwrap();
        let count: usize = objects.values().map(Vec::len).sum();
        let prefix = match collection {
            "responses" => "resp_",
            "chat/completions" => "chatcmpl-",
            "conversations" => "conv_",
            "files" => "file-",
            "vector_stores" => "vs_",
            "containers" => "cntr_",
            "batches" => "batch_",
            "skills" => "skill_",
            other => other,
        };
        let id = format!("{prefix}{count:08}");
        let mut object = json!({ "id": id, "object": collection.trim_end_matches('s') });
        object.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        objects.entry(collection.to_owned()).or_default().push(object);
        id
    }

    fn find(&self, collection: &str, id: &str) -> Option<Value> {
        let objects = self.objects.lock().unwrap();
        objects.get(collection)?.iter().find(|object| object["id"] == id).cloned()
    }

    fn page(&self, collection: &str, query: &str) -> Value {
        let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        let limit = value("limit").map_or(20, |limit| limit.parse().unwrap());
        let objects = self.objects.lock().unwrap();
        let all = objects.get(collection).cloned().unwrap_or_default();
        let from =
            value("after").map_or(0, |id| 1 + all.iter().position(|object| object["id"] == id).unwrap());
        let data: Vec<_> = all.iter().skip(from).take(limit).cloned().collect();
        let id = |object: Option<&Value>| object.map(|object| object["id"].clone());
        json!({ "object": "list", "first_id": id(data.first()), "last_id": id(data.last()),
            "has_more": from + data.len() < all.len(), "data": data })
    }

    fn respond(&self, asked: &Value) -> Response {
        let stored = asked["store"] != false;
        let container = asked["tools"][0]["type"] == "code_interpreter";
        let id = self.make("responses", json!({ "stored": stored }));
        let mut output = vec![
            json!({ "type": "reasoning", "id": format!("rs_{id}"), "summary": [] }),
            json!({ "type": "message", "id": format!("msg_{id}"), "role": "assistant", "content": [] }),
        ];
        if container {
            let reused = &asked["metadata"]["container"];
            let container_id = match reused.as_str() {
                Some("unnamed") => Value::Null,
                Some(_) => reused.clone(),
                None => json!(self.make("containers", json!({}))),
            };
            output.push(json!({ "type": "code_interpreter_call", "id": format!("ci_{id}"), "container_id": container_id }));
        }
        let usage = json!({ "input_tokens": 100, "output_tokens": 20, "total_tokens": 120 });
        let response = |status: &str, output: &[Value], usage: &Value| json!({ "id": id, "object": "response", "status": status, "model": asked["model"], "output": output, "usage": usage });
        if asked["stream"] != true {
            return axum::Json(response("completed", &output, &usage)).into_response();
        }
        let mut events = vec![
            json!({ "type": "response.created", "response": response("in_progress", &[], &Value::Null) }),
        ];
        events.extend(output.iter().map(|item| json!({ "type": "response.output_item.done", "item": item })));
        let hangs = asked["metadata"]["hang"] == "yes";
        if asked["metadata"]["ends"] == "early" {
            events.truncate(1);
        } else if !hangs {
            events.push(
                json!({ "type": "response.completed", "response": response("completed", &output, &usage) }),
            );
        }
        let text = |event: &Value| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap());
        let frames: Vec<_> =
            events.iter().map(|event| Ok::<_, std::io::Error>(bytes::Bytes::from(text(event)))).collect();
        let body = Frames { frames: frames.into_iter(), hangs };
        ([("content-type", "text/event-stream")], Body::new(body)).into_response()
    }
}

/// Events one by one, and then perhaps silence.
struct Frames {
    frames: std::vec::IntoIter<Result<bytes::Bytes, std::io::Error>>,
    hangs: bool,
}

impl http_body::Body for Frames {
    type Data = bytes::Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, std::io::Error>>> {
        match self.frames.next() {
            None if self.hangs => std::task::Poll::Pending,
            frame => std::task::Poll::Ready(frame.map(|frame| frame.map(http_body::Frame::data))),
        }
    }
}

fn missing() -> Response {
    let error =
        json!({ "error": { "message": "upstream has no such object", "type": "invalid_request_error" } });
    (StatusCode::NOT_FOUND, axum::Json(error)).into_response()
}

/// What a body asks for: JSON, or a form of a file.
fn read(body: &[u8]) -> Value {
    if body.starts_with(b"--") {
        return json!({ "purpose": "batch" });
    }
    serde_json::from_slice(body).unwrap_or_default()
}

async fn answer(State(kept): State<Arc<Kept>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let asked = read(&body);
    let target = head.uri.to_string();
    kept.asked.lock().unwrap().push(format!("{} {target}", head.method));
    let path = head.uri.path().strip_prefix("/v1/").unwrap().to_owned();
    if path == "models" {
        let model = |id: &str| json!({ "id": id, "object": "model" });
        let ids = ["gpt-4o-mini", "gpt-5", "gpt-6.1-sol"];
        return axum::Json(json!({ "object": "list", "data": ids.map(model) })).into_response();
    }
    if path == "responses/input_tokens" {
        return axum::Json(json!({ "object": "response.input_tokens", "input_tokens": 5 })).into_response();
    }
    let collections = [
        "responses",
        "chat/completions",
        "conversations",
        "files",
        "vector_stores",
        "containers",
        "batches",
        "skills",
        "models",
    ];
    let collection = collections.into_iter().find(|collection| path.starts_with(collection)).unwrap_or(&path);
    let rest = path.strip_prefix(collection).unwrap().trim_start_matches('/');
    let id = rest.split('/').next().unwrap();
    match (&head.method, collection, id) {
        (&Method::POST, "responses", "") => kept.respond(&asked),
        (&Method::POST, "chat/completions", "") => {
            let usage = json!({ "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15 });
            let id = kept.make(collection, json!({}));
            axum::Json(json!({ "id": id, "model": asked["model"], "choices": [], "usage": usage }))
                .into_response()
        }
        (&Method::POST, _, "") => {
            let id = kept.make(collection, asked);
            axum::Json(kept.find(collection, &id)).into_response()
        }
        (_, _, "") => axum::Json(kept.page(collection, head.uri.query().unwrap_or(""))).into_response(),
        (&Method::DELETE, _, id) if rest == id => {
            let known = kept.find(collection, id).is_some();
            kept.objects.lock().unwrap().get_mut(collection).unwrap().retain(|object| object["id"] != id);
            if known { axum::Json(json!({ "id": id, "deleted": true })).into_response() } else { missing() }
        }
        (_, _, id) => match kept.find(collection, id) {
            Some(_) if rest.ends_with("/items") => axum::Json(
                json!({ "object": "list", "data": [{ "id": format!("msg_in_{id}") }], "has_more": false }),
            )
            .into_response(),
            Some(object) => axum::Json(object).into_response(),
            None => missing(),
        },
    }
}

//! Responses that the fake makes in the background: each ends once it was read a few times, or
//! with the stream that began it.

use std::collections::BTreeMap;
use std::sync::Mutex;

use http::{HeaderMap, Method, Response, StatusCode, Uri, header};
use http_body_util::{Either, Full};
use serde_json::{Value, json};

use crate::fake_openai::answers::Made;
use crate::fake_openai::stream::Events;
use crate::fake_openai::{Answer, Fake, Served, answer, error, number, query};
use crate::sync::unpoisoned;

/// Responses that are kept, the oldest of which are forgotten first.
const KEPT_MAX: usize = 20_000;
/// How often a response is read before it has ended, unless the request says otherwise.
const READS: u64 = 2;

/// The responses that were begun, by id.
#[derive(Debug, Default)]
pub(super) struct Responses(Mutex<BTreeMap<String, Kept>>);

#[derive(Debug)]
struct Kept {
    made: Made,
    status: &'static str,
    reads_left: u64,
}

impl Kept {
    fn is_over(&self) -> bool {
        !matches!(self.status, "queued" | "in_progress")
    }

    fn object(&self) -> Value {
        let usage = if self.status == "completed" { self.made.usage() } else { Value::Null };
        let mut object = self.made.response(self.status, &usage);
        object["background"] = json!(true);
        object
    }
}

impl Responses {
    /// Begins a response; returns its first answer.
    pub(super) fn begin(&self, made: Made, headers: &HeaderMap) -> Value {
        let reads_left = number(headers, "x-fake-background-reads").unwrap_or(READS);
        let kept = Kept { made, status: "queued", reads_left };
        let object = kept.object();
        let mut responses = unpoisoned(self.0.lock());
        responses.insert(kept.made.id.clone(), kept);
        if responses.len() > KEPT_MAX {
            responses.pop_first();
        }
        object
    }

    /// Reads a response, which may end by that. Returns it, and what it has used if it ends.
    fn read(&self, id: &str) -> Option<(Made, Value, Option<Served>)> {
        let mut responses = unpoisoned(self.0.lock());
        let kept = responses.get_mut(id)?;
        let mut served = None;
        if !kept.is_over() && kept.reads_left == 0 {
            kept.status = "completed";
            served = Some(kept.made.served(kept.made.completion_tokens));
        } else if !kept.is_over() {
            kept.status = "in_progress";
            kept.reads_left -= 1;
        }
        Some((kept.made.clone(), kept.object(), served))
    }

    /// Ends a response in a status, unless it has ended.
    fn end(&self, id: &str, status: &'static str) -> Option<(Made, Value, Option<Served>)> {
        let mut responses = unpoisoned(self.0.lock());
        let kept = responses.get_mut(id)?;
        let mut served = None;
        if !kept.is_over() {
            kept.status = status;
            let written = if status == "completed" { kept.made.completion_tokens } else { 0 };
            served = Some(kept.made.served(written));
        }
        Some((kept.made.clone(), kept.object(), served))
    }

    fn remove(&self, id: &str) -> bool {
        unpoisoned(self.0.lock()).remove(id).is_some()
    }
}

impl Fake {
    /// Ends a response whose stream has ended.
    pub(super) fn end_in_background(&self, id: &str) {
        if let Some((made, _, Some(served))) = self.responses.end(id, "completed") {
            self.note(&made.model, served);
        }
    }

    /// Answers what is asked of a stored response.
    pub(super) fn stored(&self, method: &Method, uri: &Uri, id: &str) -> Response<Answer> {
        let (id, is_cancel) = id.strip_suffix("/cancel").map_or((id, false), |id| (id, true));
        let found = match (method, is_cancel) {
            (&Method::GET, false) if query(uri, "stream") == Some("true") => {
                return self.streamed(uri, id).unwrap_or_else(|| missing(id));
            }
            (&Method::GET, false) => self.responses.read(id),
            (&Method::POST, true) => self.responses.end(id, "cancelled"),
            (&Method::DELETE, false) if self.responses.remove(id) => {
                return answer(StatusCode::OK, &json!({ "id": id, "object": "response", "deleted": true }));
            }
            _ => None,
        };
        let Some((made, object, served)) = found else { return missing(id) };
        if let Some(served) = served {
            self.note(&made.model, served);
        }
        answer(StatusCode::OK, &object)
    }

    /// The events of a response behind a place, to its end.
    fn streamed(&self, uri: &Uri, id: &str) -> Option<Response<Answer>> {
        let (made, _, served) = self.responses.end(id, "completed")?;
        if let Some(served) = served {
            self.note(&made.model, served);
        }
        let after = query(uri, "starting_after").and_then(|after| after.parse().ok());
        let mut response = Response::new(Either::Left(Full::new(Events::text(made, after).into())));
        let kind = header::HeaderValue::from_static("text/event-stream; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        Some(response)
    }
}

fn missing(id: &str) -> Response<Answer> {
    error(StatusCode::NOT_FOUND, &format!("Response with id '{id}' not found."), None)
}

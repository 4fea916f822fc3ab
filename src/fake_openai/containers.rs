//! Containers of the fake. One that is idle for as long as it may be expires; a read keeps it
//! alive, as any use does. The request that makes one may say how long ago it was used last
//! (`x-fake-idle-s`).

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::clock::Clock;
use crate::fake_openai::{Answer, Fake, answer, error, identified, number};
use crate::sync::unpoisoned;

/// Where containers and vector stores are.
const CONTAINERS: &str = "/v1/containers";
const STORES: &str = "/v1/vector_stores";

/// Containers that are kept, the oldest of which are forgotten first.
const KEPT_MAX: usize = 20_000;

/// The containers that were made, by id.
#[derive(Debug, Default)]
pub(super) struct Containers {
    kept: Mutex<BTreeMap<String, Kept>>,
    clock: Clock,
}

#[derive(Debug)]
struct Kept {
    fields: Value,
    created_s: i64,
    active_s: i64,
    files: Vec<Value>,
}

impl Kept {
    fn idle_s(&self) -> i64 {
        self.fields["expires_after"]["minutes"].as_i64().unwrap_or(20).saturating_mul(60)
    }

    fn is_over(&self, now_s: i64) -> bool {
        self.active_s.saturating_add(self.idle_s()) <= now_s
    }

    fn object(&self, id: &str, now_s: i64) -> Value {
        json!({
            "id": id,
            "object": "container",
            "created_at": self.created_s,
            "status": if self.is_over(now_s) { "expired" } else { "running" },
            "expires_after": { "anchor": "last_active_at", "minutes": self.idle_s() / 60 },
            "last_active_at": self.active_s,
            "memory_limit": self.fields["memory_limit"].as_str().unwrap_or("1g"),
            "name": self.fields["name"],
        })
    }
}

impl Containers {
    /// How many live.
    pub(super) fn running(&self) -> usize {
        let now_s = self.clock.now_s();
        unpoisoned(self.kept.lock()).values().filter(|kept| !kept.is_over(now_s)).count()
    }

    /// Answers what is asked of containers; `rest` is the path below the collection, and `number_of`
    /// that of a new one.
    pub(super) fn answer(
        &self,
        (method, rest): (&Method, &str),
        (headers, body): (&HeaderMap, &Bytes),
        number_of: u64,
    ) -> Response<Answer> {
        let now_s = self.clock.now_s();
        let fields: Value = serde_json::from_slice(body).unwrap_or_default();
        let mut kept = unpoisoned(self.kept.lock());
        let segments: Vec<&str> = rest.split('/').filter(|segment| !segment.is_empty()).collect();
        match (method, segments.as_slice()) {
            (&Method::POST, []) => {
                let id = format!("cntr_{number_of:024}");
                let idle_s = number(headers, "x-fake-idle-s").and_then(|idle| i64::try_from(idle).ok());
                let active_s = now_s - idle_s.unwrap_or(0);
                let made = Kept { fields, created_s: active_s, active_s, files: Vec::new() };
                let object = made.object(&id, now_s);
                kept.insert(id, made);
                if kept.len() > KEPT_MAX {
                    kept.pop_first();
                }
                answer(StatusCode::OK, &object)
            }
            (&Method::GET, []) => {
                let data: Vec<Value> = kept.iter().map(|(id, kept)| kept.object(id, now_s)).collect();
                answer(StatusCode::OK, &json!({ "object": "list", "data": data, "has_more": false }))
            }
            (&Method::DELETE, [id]) if kept.remove(*id).is_some() => {
                answer(StatusCode::OK, &json!({ "id": id, "object": "container.deleted", "deleted": true }))
            }
            (_, [id, below @ ..]) => match kept.get_mut(*id) {
                Some(found) => found.answer((method, id, below), &fields, now_s),
                None => missing(id),
            },
            _ => error(StatusCode::METHOD_NOT_ALLOWED, "no such method", None),
        }
    }
}

impl Kept {
    fn answer(
        &mut self,
        (method, id, below): (&Method, &str, &[&str]),
        fields: &Value,
        now_s: i64,
    ) -> Response<Answer> {
        let is_over = self.is_over(now_s);
        if !is_over {
            self.active_s = now_s;
        }
        match (method, below) {
            (&Method::GET, []) => answer(StatusCode::OK, &self.object(id, now_s)),
            _ if is_over => error(StatusCode::NOT_FOUND, "Container is expired.", None),
            (&Method::GET, ["files"]) => {
                let list = json!({ "object": "list", "data": self.files, "has_more": false });
                answer(StatusCode::OK, &list)
            }
            (&Method::POST, ["files"]) => {
                let number = self.files.len();
                let file = json!({
                    "id": format!("cfile_{id}_{number}"),
                    "object": "container.file",
                    "container_id": id,
                    "created_at": now_s,
                    "bytes": 1,
                    "path": format!("/mnt/data/{number}"),
                    "source": "user",
                    "file_id": fields["file_id"],
                });
                self.files.push(file.clone());
                answer(StatusCode::OK, &file)
            }
            _ => missing(id),
        }
    }
}

fn missing(id: &str) -> Response<Answer> {
    error(StatusCode::NOT_FOUND, &format!("Container with id '{id}' not found."), None)
}

impl Fake {
    /// How many containers live.
    pub fn containers_running(&self) -> usize {
        self.containers.running()
    }

    /// Answers what is asked of containers and vector stores; `None` of anything else.
    pub(super) fn hosted(&self, head: &http::request::Parts, body: &Bytes) -> Option<Response<Answer>> {
        let path = head.uri.path();
        let below = |collection: &str| {
            path.strip_prefix(collection).filter(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let (containers, stores) = (below(CONTAINERS), below(STORES));
        let rest = containers.or(stores)?;
        let (asked, sent) = ((&head.method, rest), (&head.headers, body));
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let answer = if containers.is_some() {
            self.containers.answer(asked, sent, id)
        } else {
            self.vector_stores.answer(asked, sent, id)
        };
        Some(identified(answer, id))
    }
}

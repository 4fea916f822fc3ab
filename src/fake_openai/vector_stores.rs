//! Vector stores of the fake. A file takes as many bytes as the request that adds it says
//! (`x-fake-file-bytes`), and is being taken up until the store was read so often as the one that
//! made it says (`x-fake-store-reads`).

use std::collections::BTreeMap;
use std::sync::Mutex;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::fake_openai::{Answer, answer, error, number};
use crate::sync::unpoisoned;

/// Stores that are kept, the oldest of which are forgotten first.
const KEPT_MAX: usize = 20_000;
/// What a file takes unless the request says otherwise.
const FILE_BYTES: u64 = 4 << 10;

/// The stores that were made, by id.
#[derive(Debug, Default)]
pub(super) struct VectorStores(Mutex<BTreeMap<String, Kept>>);

#[derive(Debug)]
struct Kept {
    name: Value,
    /// The files by id: how many bytes each takes.
    files: BTreeMap<String, u64>,
    reads_left: u64,
    reads: u64,
}

impl Kept {
    fn object(&self, id: &str) -> Value {
        let (all, pending) = (self.files.len(), if self.reads_left > 0 { self.files.len() } else { 0 });
        let bytes: u64 = if pending > 0 { 0 } else { self.files.values().sum() };
        json!({
            "id": id,
            "object": "vector_store",
            "name": self.name,
            "usage_bytes": bytes,
            "status": if pending > 0 { "in_progress" } else { "completed" },
            "file_counts": {
                "in_progress": pending, "completed": all - pending, "failed": 0, "cancelled": 0, "total": all,
            },
        })
    }

    fn add(&mut self, fields: &Value, headers: &HeaderMap) -> usize {
        let bytes = number(headers, "x-fake-file-bytes").unwrap_or(FILE_BYTES);
        let ids = fields["file_ids"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let own =
            fields["files"].as_array().into_iter().flatten().filter_map(|file| file["file_id"].as_str());
        let added: Vec<&str> = ids.chain(own).chain(fields["file_id"].as_str()).collect();
        self.files.extend(added.iter().map(|id| ((*id).to_owned(), bytes)));
        self.reads_left = self.reads;
        added.len()
    }
}

impl VectorStores {
    /// Answers what is asked of stores; `rest` is the path below the collection, and `number_of`
    /// that of a new one.
    pub(super) fn answer(
        &self,
        (method, rest): (&Method, &str),
        (headers, body): (&HeaderMap, &Bytes),
        number_of: u64,
    ) -> Response<Answer> {
        let fields: Value = serde_json::from_slice(body).unwrap_or_default();
        let mut kept = unpoisoned(self.0.lock());
        let segments: Vec<&str> = rest.split('/').filter(|segment| !segment.is_empty()).collect();
        match (method, segments.as_slice()) {
            (&Method::POST, []) => {
                let id = format!("vs_{number_of:024}");
                let reads = number(headers, "x-fake-store-reads").unwrap_or(0);
                let name = fields["name"].clone();
                let mut made = Kept { name, files: BTreeMap::new(), reads_left: 0, reads };
                made.add(&fields, headers);
                let object = made.object(&id);
                kept.insert(id, made);
                if kept.len() > KEPT_MAX {
                    kept.pop_first();
                }
                answer(StatusCode::OK, &object)
            }
            (&Method::GET, []) => {
                let data: Vec<Value> = kept.iter().map(|(id, kept)| kept.object(id)).collect();
                answer(StatusCode::OK, &json!({ "object": "list", "data": data, "has_more": false }))
            }
            (&Method::DELETE, [id]) if kept.remove(*id).is_some() => answer(
                StatusCode::OK,
                &json!({ "id": id, "object": "vector_store.deleted", "deleted": true }),
            ),
            (_, [id, below @ ..]) => match kept.get_mut(*id) {
                Some(found) => found.answer((method, id, below), &fields, headers),
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
        headers: &HeaderMap,
    ) -> Response<Answer> {
        let file = |file: &str, store: &str| json!({ "id": file, "object": "vector_store.file", "vector_store_id": store, "status": "in_progress", "attributes": fields["attributes"] });
        match (method, below) {
            (&Method::GET, []) => {
                let object = self.object(id);
                self.reads_left = self.reads_left.saturating_sub(1);
                answer(StatusCode::OK, &object)
            }
            (&Method::POST, []) => answer(StatusCode::OK, &self.object(id)),
            (&Method::GET, ["files"]) => {
                let data: Vec<Value> = self.files.keys().map(|name| file(name, id)).collect();
                answer(StatusCode::OK, &json!({ "object": "list", "data": data, "has_more": false }))
            }
            (&Method::POST, ["files"]) => {
                self.add(fields, headers);
                answer(StatusCode::OK, &file(fields["file_id"].as_str().unwrap_or_default(), id))
            }
            (&Method::POST, ["file_batches"]) => {
                let added = self.add(fields, headers);
                let batch = json!({
                    "id": format!("vsfb_{id}"),
                    "object": "vector_store.file_batch",
                    "vector_store_id": id,
                    "status": "in_progress",
                    "file_counts": { "in_progress": added, "total": added },
                });
                answer(StatusCode::OK, &batch)
            }
            (&Method::POST, ["file_batches", batch, "cancel"]) => answer(
                StatusCode::OK,
                &json!({ "id": batch, "object": "vector_store.file_batch", "vector_store_id": id, "status": "cancelled" }),
            ),
            (&Method::POST, ["files", name]) if self.files.contains_key(*name) => {
                answer(StatusCode::OK, &file(name, id))
            }
            (&Method::DELETE, ["files", name]) if self.files.remove(*name).is_some() => answer(
                StatusCode::OK,
                &json!({ "id": name, "object": "vector_store.file.deleted", "deleted": true }),
            ),
            (&Method::POST, ["search"]) => answer(
                StatusCode::OK,
                &json!({
                    "object": "vector_store.search_results.page",
                    "search_query": fields["query"], "data": [], "has_more": false, "next_page": null,
                }),
            ),
            _ => missing(id),
        }
    }
}

fn missing(id: &str) -> Response<Answer> {
    error(StatusCode::NOT_FOUND, &format!("Vector store with id '{id}' not found."), None)
}

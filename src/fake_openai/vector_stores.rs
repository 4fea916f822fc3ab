//! Vector stores of the fake. A file takes as many bytes as the request that adds it says
//! (`x-fake-file-bytes`), and is being taken up until the store was read so often as the one that
//! made it says (`x-fake-store-reads`).

use std::collections::BTreeMap;

use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::fake_openai::hosted::{Object, Question, deleted, list};
use crate::fake_openai::{Answer, answer, number};

/// What a file takes unless the request says otherwise.
const FILE_BYTES: u64 = 4 << 10;

#[derive(Debug)]
pub(super) struct VectorStore {
    name: Value,
    /// The files by id: how many bytes each takes.
    files: BTreeMap<String, u64>,
    reads_left: u64,
    reads: u64,
}

impl VectorStore {
    fn add(&mut self, Question { fields, headers, .. }: &Question<'_>) -> usize {
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

impl Object for VectorStore {
    const KIND: &'static str = "vector_store";
    const NAME: &'static str = "Vector store";
    const PREFIX: &'static str = "vs_";

    fn made_by(question: &Question<'_>) -> Self {
        let reads = number(question.headers, "x-fake-store-reads").unwrap_or(0);
        let name = question.fields["name"].clone();
        let mut made = Self { name, files: BTreeMap::new(), reads_left: 0, reads };
        made.add(question);
        made
    }

    fn shown(&self, id: &str, _: i64) -> Value {
        let (all, pending) = (self.files.len(), if self.reads_left > 0 { self.files.len() } else { 0 });
        let bytes: u64 = if pending > 0 { 0 } else { self.files.values().sum() };
        json!({
            "id": id,
            "object": Self::KIND,
            "name": self.name,
            "usage_bytes": bytes,
            "status": if pending > 0 { "in_progress" } else { "completed" },
            "file_counts": {
                "in_progress": pending, "completed": all - pending, "failed": 0, "cancelled": 0, "total": all,
            },
        })
    }

    fn answer(&mut self, id: &str, question: &Question<'_>) -> Option<Response<Answer>> {
        let fields = question.fields;
        let file = |file: &str| {
            json!({
                "id": file, "object": "vector_store.file", "vector_store_id": id, "status": "in_progress",
                "attributes": fields["attributes"],
            })
        };
        let object = match (question.method, question.below) {
            (&Method::GET, []) => {
                let object = self.shown(id, question.now_s);
                self.reads_left = self.reads_left.saturating_sub(1);
                object
            }
            (&Method::POST, []) => self.shown(id, question.now_s),
            (&Method::GET, ["files"]) => {
                let files: Vec<Value> = self.files.keys().map(|name| file(name)).collect();
                return Some(list(&files));
            }
            (&Method::POST, ["files"]) => {
                self.add(question);
                file(fields["file_id"].as_str().unwrap_or_default())
            }
            (&Method::POST, ["file_batches"]) => {
                let added = self.add(question);
                json!({
                    "id": format!("vsfb_{id}"),
                    "object": "vector_store.file_batch",
                    "vector_store_id": id,
                    "status": "in_progress",
                    "file_counts": { "in_progress": added, "total": added },
                })
            }
            (&Method::POST, ["file_batches", batch, "cancel"]) => json!({
                "id": batch, "object": "vector_store.file_batch", "vector_store_id": id, "status": "cancelled",
            }),
            (&Method::POST, ["files", name]) if self.files.contains_key(*name) => file(name),
            (&Method::DELETE, ["files", name]) if self.files.remove(*name).is_some() => {
                return Some(deleted(name, "vector_store.file"));
            }
            (&Method::POST, ["search"]) => json!({
                "object": "vector_store.search_results.page",
                "search_query": fields["query"], "data": [], "has_more": false, "next_page": null,
            }),
            _ => return None,
        };
        Some(answer(StatusCode::OK, &object))
    }
}

//! Vector stores of the fake. A file takes as many bytes as the request that adds it says
//! (`x-fake-file-bytes`), and is being taken up until the store was read so often as the one that
//! made it says (`x-fake-store-reads`); reading a file or a batch of files counts as well.

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::fake_openai::bounded::{Bounded, Measured, page};
use crate::fake_openai::containers::texts;
use crate::fake_openai::{Answer, Fake, Refusal, answer, number, refused};

/// What a file takes unless the request says otherwise.
const FILE_BYTES: u64 = 4 << 10;
/// Objects of a page, unless the query says otherwise.
const PAGE: usize = 20;
/// The most files of a store, and the most batches of files that are remembered.
const FILES_MAX: usize = 20_000;
/// Seconds of a day.
const DAY_S: i64 = 86_400;

/// The stores that were made, by id.
pub(super) type VectorStores = Bounded<Store>;

#[derive(Debug)]
pub(super) struct Store {
    id: String,
    /// The fields of the request that made it, with what was changed since.
    fields: Value,
    created_s: i64,
    /// The oldest first.
    files: Vec<StoreFile>,
    batches: Vec<FileBatch>,
    reads_left: u64,
    reads: u64,
}

#[derive(Debug)]
struct StoreFile {
    id: String,
    bytes: u64,
    created_s: i64,
    attributes: Value,
    is_cancelled: bool,
}

#[derive(Debug)]
struct FileBatch {
    id: String,
    created_s: i64,
    files: Vec<String>,
}

impl Measured for Store {
    fn bytes(&self) -> usize {
        0
    }
}

/// The files that a request adds, with their attributes.
fn added(fields: &Value) -> Vec<(String, Value)> {
    let own = |file: &Value| Some((file["file_id"].as_str()?.to_owned(), file["attributes"].clone()));
    let shared = texts(&fields["file_ids"]).map(|id| (id.to_owned(), fields["attributes"].clone()));
    let each = fields["files"].as_array().into_iter().flatten().filter_map(own);
    shared.chain(each).chain(own(fields)).collect()
}

impl Store {
    fn status(&self, file: &StoreFile) -> &'static str {
        match (file.is_cancelled, self.reads_left) {
            (true, _) => "cancelled",
            (false, 0) => "completed",
            (false, _) => "in_progress",
        }
    }

    /// How many of some files are in each state.
    fn counts<'a>(&self, files: &(impl Iterator<Item = &'a StoreFile> + Clone)) -> Value {
        let of = |status| files.clone().filter(|file| self.status(file) == status).count();
        json!({
            "in_progress": of("in_progress"), "completed": of("completed"), "failed": 0,
            "cancelled": of("cancelled"), "total": files.clone().count(),
        })
    }

    fn object(&self) -> Value {
        let counts = self.counts(&self.files.iter());
        let is_pending = counts["in_progress"] != 0;
        let stored = self.files.iter().filter(|file| !file.is_cancelled).map(|file| file.bytes);
        let days = self.fields["expires_after"]["days"].as_i64();
        json!({
            "id": self.id,
            "object": "vector_store",
            "created_at": self.created_s,
            "last_active_at": self.created_s,
            "name": self.fields["name"],
            "metadata": self.fields.get("metadata").cloned().unwrap_or_else(|| json!({})),
            "expires_after": self.fields["expires_after"],
            "expires_at": days.map(|days| self.created_s + days * DAY_S),
            "usage_bytes": if is_pending { 0 } else { stored.sum::<u64>() },
            "status": if is_pending { "in_progress" } else { "completed" },
            "file_counts": counts,
        })
    }

    /// A file as a list and a read show it.
    fn file_object(&self, file: &StoreFile) -> Value {
        let status = self.status(file);
        json!({
            "id": file.id, "object": "vector_store.file", "vector_store_id": self.id,
            "created_at": file.created_s, "last_error": null, "status": status,
            "usage_bytes": if status == "completed" { file.bytes } else { 0 },
            "attributes": file.attributes,
        })
    }

    fn file(&self, id: &str) -> Result<usize, Refusal> {
        let missing = || format!("No file found with id '{id}' in vector store '{}'.", self.id);
        let at = self.files.iter().position(|file| file.id == id);
        at.ok_or_else(|| Refusal::missing(missing()))
    }

    fn batch(&self, id: &str) -> Result<&FileBatch, Refusal> {
        let missing = || format!("No file batch found with id '{id}' in vector store '{}'.", self.id);
        self.batches.iter().find(|batch| batch.id == id).ok_or_else(|| Refusal::missing(missing()))
    }

    /// The files of a batch that are still in the store.
    fn of_batch<'a>(&'a self, batch: &'a FileBatch) -> impl Iterator<Item = &'a StoreFile> + Clone {
        self.files.iter().filter(|file| batch.files.contains(&file.id))
    }

    fn batch_object(&self, batch: &FileBatch) -> Value {
        let counts = self.counts(&self.of_batch(batch));
        let status = match (&counts["in_progress"], &counts["cancelled"]) {
            (_, cancelled) if *cancelled != 0 => "cancelled",
            (pending, _) if *pending != 0 => "in_progress",
            _ => "completed",
        };
        json!({
            "id": batch.id, "object": "vector_store.files_batch", "vector_store_id": self.id,
            "created_at": batch.created_s, "status": status, "file_counts": counts,
        })
    }

    /// Takes up files; returns their ids.
    fn add(&mut self, fields: &Value, headers: &HeaderMap, now_s: i64) -> Result<Vec<String>, Refusal> {
        let bytes = number(headers, "x-fake-file-bytes").unwrap_or(FILE_BYTES);
        let added = added(fields);
        if self.files.len() + added.len() > FILES_MAX {
            return Err(Refusal::bad("The vector store has too many files.", None));
        }
        let ids: Vec<String> = added.iter().map(|(id, _)| id.clone()).collect();
        self.files.retain(|file| !ids.contains(&file.id));
        let file =
            |(id, attributes)| StoreFile { id, bytes, created_s: now_s, attributes, is_cancelled: false };
        self.files.extend(added.into_iter().map(file));
        self.reads_left = self.reads;
        Ok(ids)
    }

    /// Counts a read, after which its files may be taken up.
    fn read<T>(&mut self, show: impl FnOnce(&Self) -> T) -> T {
        let shown = show(self);
        self.reads_left = self.reads_left.saturating_sub(1);
        shown
    }
}

fn missing(id: &str) -> Refusal {
    Refusal::missing(format!("Vector store with id '{id}' not found."))
}

impl Fake {
    /// Answers what is asked of vector stores, by what follows their path.
    pub(super) fn on_vector_stores(&self, head: &Parts, rest: &[&str], body: &Bytes) -> Response<Answer> {
        let fields: Value = serde_json::from_slice(body).unwrap_or_default();
        let found = match (&head.method, rest) {
            (&Method::POST, []) => self.make_store(&head.headers, &fields),
            (&Method::GET, []) => {
                let objects = self.vector_stores.map(|store| Some(store.object()));
                Ok(page(&head.uri, objects, PAGE))
            }
            (&Method::DELETE, [id]) => {
                let deleted = json!({ "id": id, "object": "vector_store.deleted", "deleted": true });
                self.vector_stores.remove(id).map(|_| deleted).ok_or_else(|| missing(id))
            }
            (_, [id, below @ ..]) => {
                let contents = Contents { fake: self, now_s: self.clock.now_s() };
                let used = self.vector_stores.with(id, |store| store.answer(head, below, &fields, &contents));
                used.unwrap_or_else(|| Err(missing(id)))
            }
            _ => Err(Refusal::missing("unknown path")),
        };
        found.map_or_else(|refusal| refused(&refusal), |object| answer(StatusCode::OK, &object))
    }

    fn make_store(&self, headers: &HeaderMap, fields: &Value) -> Result<Value, Refusal> {
        let (id, now_s) = (self.new_id("vs_"), self.clock.now_s());
        let reads = number(headers, "x-fake-store-reads").unwrap_or(0);
        let mut made = Store {
            id: id.clone(),
            fields: fields.clone(),
            created_s: now_s,
            files: Vec::new(),
            batches: Vec::new(),
            reads_left: 0,
            reads,
        };
        made.add(fields, headers, now_s)?;
        let object = made.object();
        self.vector_stores.keep(id, made);
        Ok(object)
    }
}

/// What an answer about a store needs beside the store.
struct Contents<'a> {
    fake: &'a Fake,
    now_s: i64,
}

impl Contents<'_> {
    /// The text of a file, as parts of a content.
    fn text(&self, id: &str) -> Value {
        let (_, content) = self.fake.kept_file(id);
        json!([{ "type": "text", "text": String::from_utf8_lossy(&content) }])
    }
}

impl Store {
    fn answer(
        &mut self,
        head: &Parts,
        below: &[&str],
        fields: &Value,
        contents: &Contents<'_>,
    ) -> Result<Value, Refusal> {
        let now_s = contents.now_s;
        match (&head.method, below) {
            (&Method::GET, []) => Ok(self.read(Self::object)),
            (&Method::POST, []) => {
                for name in ["name", "metadata", "expires_after"] {
                    if let Some(value) = fields.get(name) {
                        self.fields[name] = value.clone();
                    }
                }
                Ok(self.object())
            }
            (&Method::POST, ["search"]) => Ok(self.search(fields, contents)),
            (&Method::GET, ["files"]) => {
                let objects = self.files.iter().map(|file| self.file_object(file)).collect();
                Ok(page(&head.uri, objects, PAGE))
            }
            (&Method::POST, ["files"]) => {
                let ids = self.add(fields, &head.headers, now_s)?;
                let at = self.file(ids.first().map_or("", |id| id))?;
                Ok(begun(self.file_object(&self.files[at])))
            }
            (&Method::GET, ["files", id]) => {
                let at = self.file(id)?;
                Ok(self.read(|store| store.file_object(&store.files[at])))
            }
            (&Method::POST, ["files", id]) => {
                let at = self.file(id)?;
                self.files[at].attributes = fields["attributes"].clone();
                Ok(self.file_object(&self.files[at]))
            }
            (&Method::DELETE, ["files", id]) => {
                let at = self.file(id)?;
                self.files.remove(at);
                Ok(json!({ "id": id, "object": "vector_store.file.deleted", "deleted": true }))
            }
            (&Method::GET, ["files", id, "content"]) => {
                self.file(id)?;
                Ok(json!({
                    "object": "vector_store.file_content.page", "data": contents.text(id), "has_more": false,
                    "next_page": null,
                }))
            }
            (_, ["file_batches", below @ ..]) => self.on_batches(head, below, fields, contents),
            _ => Err(Refusal::missing("unknown path")),
        }
    }

    fn on_batches(
        &mut self,
        head: &Parts,
        below: &[&str],
        fields: &Value,
        contents: &Contents<'_>,
    ) -> Result<Value, Refusal> {
        match (&head.method, below) {
            (&Method::POST, []) => {
                let files = self.add(fields, &head.headers, contents.now_s)?;
                let total = files.len();
                let id = contents.fake.new_id("vsfb_");
                let batch = FileBatch { id, created_s: contents.now_s, files };
                let mut object = begun(self.batch_object(&batch));
                object["file_counts"] = json!({ "in_progress": total, "completed": 0, "failed": 0, "cancelled": 0, "total": total });
                if self.batches.len() == FILES_MAX {
                    self.batches.remove(0);
                }
                self.batches.push(batch);
                Ok(object)
            }
            (&Method::GET, [id]) => {
                let object = self.batch_object(self.batch(id)?);
                Ok(self.read(|_| object))
            }
            (&Method::POST, [id, "cancel"]) => {
                let cancelled = self.batch(id)?.files.clone();
                for file in &mut self.files {
                    file.is_cancelled |= cancelled.contains(&file.id);
                }
                Ok(self.batch_object(self.batch(id)?))
            }
            (&Method::GET, [id, "files"]) => {
                let batch = self.batch(id)?;
                let objects = self.of_batch(batch).map(|file| self.file_object(file)).collect();
                Ok(page(&head.uri, objects, PAGE))
            }
            _ => Err(Refusal::missing("unknown path")),
        }
    }

    /// What a search finds: each file that is taken up.
    fn search(&self, fields: &Value, contents: &Contents<'_>) -> Value {
        let taken_up = self.files.iter().filter(|file| self.status(file) == "completed");
        let found = |file: &StoreFile| {
            json!({
                "file_id": file.id, "filename": contents.fake.kept_file(&file.id).0, "score": 0.5,
                "attributes": file.attributes, "content": contents.text(&file.id),
            })
        };
        let most =
            fields["max_num_results"].as_u64().and_then(|most| usize::try_from(most).ok()).unwrap_or(10);
        let data: Vec<Value> = taken_up.take(most).map(found).collect();
        let queries =
            if fields["query"].is_array() { fields["query"].clone() } else { json!([fields["query"]]) };
        json!({
            "object": "vector_store.search_results.page", "search_query": queries, "data": data,
            "has_more": false, "next_page": null,
        })
    }
}

/// An object whose work has just begun.
fn begun(mut object: Value) -> Value {
    object["status"] = json!("in_progress");
    object
}

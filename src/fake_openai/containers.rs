//! Containers of the fake, and their files. One that is idle for as long as it may be expires; a
//! read keeps it alive, as any use does. The request that makes one may say how long ago it was
//! used last (`x-fake-idle-s`).

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::fake_openai::bounded::{Bounded, Measured, page};
use crate::fake_openai::files::{Form, raw};
use crate::fake_openai::{Answer, Fake, Refusal, answer, number, query, refused};

/// Objects of a page, unless the query says otherwise.
const PAGE: usize = 20;
/// The most files of a container.
const FILES_MAX: usize = 1_000;

/// The containers that were made, by id.
pub(super) type Containers = Bounded<Container>;

#[derive(Debug)]
pub(super) struct Container {
    id: String,
    fields: Value,
    created_s: i64,
    active_s: i64,
    /// The object of each file and its content, the oldest first.
    files: Vec<(Value, Bytes)>,
}

impl Measured for Container {
    fn bytes(&self) -> usize {
        self.files.iter().map(|(_, content)| content.len()).sum()
    }
}

impl Container {
    fn idle_s(&self) -> i64 {
        self.fields["expires_after"]["minutes"].as_i64().unwrap_or(20).saturating_mul(60)
    }

    fn is_over(&self, now_s: i64) -> bool {
        self.active_s.saturating_add(self.idle_s()) <= now_s
    }

    fn object(&self, now_s: i64) -> Value {
        json!({
            "id": self.id,
            "object": "container",
            "created_at": self.created_s,
            "status": if self.is_over(now_s) { "expired" } else { "running" },
            "expires_after": { "anchor": "last_active_at", "minutes": self.idle_s() / 60 },
            "last_active_at": self.active_s,
            "memory_limit": self.fields["memory_limit"].as_str().unwrap_or("1g"),
            "name": self.fields["name"],
        })
    }

    /// Adds a file; returns its object.
    fn add(&mut self, id: &str, (name, content): (&str, Bytes), now_s: i64) -> Result<Value, Refusal> {
        if self.files.len() == FILES_MAX {
            return Err(Refusal::bad("The container has too many files.", None));
        }
        let object = json!({
            "id": id, "object": "container.file", "container_id": self.id, "created_at": now_s,
            "bytes": content.len(), "path": format!("/mnt/data/{name}"), "source": "user",
        });
        self.files.push((object.clone(), content));
        Ok(object)
    }

    fn file(&self, id: &str) -> Result<usize, Refusal> {
        let at = self.files.iter().position(|(object, _)| object["id"] == id);
        at.ok_or_else(|| Refusal::missing(format!("Container file with id '{id}' not found.")))
    }
}

/// What is sent for an answer.
enum Sent {
    Object(Value),
    Content(Bytes),
}

fn missing(id: &str) -> Refusal {
    Refusal::missing(format!("Container with id '{id}' not found."))
}

impl Fake {
    /// How many containers live.
    pub fn containers_running(&self) -> usize {
        let now_s = self.clock.now_s();
        self.containers.map(|container| (!container.is_over(now_s)).then_some(())).len()
    }

    /// Answers what is asked of containers, by what follows their path.
    pub(super) fn on_containers(&self, head: &Parts, rest: &[&str], body: &Bytes) -> Response<Answer> {
        let now_s = self.clock.now_s();
        let found = match (&head.method, rest) {
            (&Method::POST, []) => self.make_container(&head.headers, body, now_s).map(Sent::Object),
            (&Method::GET, []) => {
                let name = query(&head.uri, "name");
                let objects = self.containers.map(|container| {
                    let is_asked = name.is_none_or(|name| container.fields["name"] == name);
                    is_asked.then(|| container.object(now_s))
                });
                Ok(Sent::Object(page(&head.uri, objects, PAGE)))
            }
            (&Method::DELETE, [id]) => {
                let deleted = json!({ "id": id, "object": "container.deleted", "deleted": true });
                self.containers.remove(id).map(|_| Sent::Object(deleted)).ok_or_else(|| missing(id))
            }
            (_, [id, below @ ..]) => self.use_container(head, (id, below), body, now_s),
            _ => Err(Refusal::missing("unknown path")),
        };
        match found {
            Ok(Sent::Object(object)) => answer(StatusCode::OK, &object),
            Ok(Sent::Content(content)) => raw(content),
            Err(refusal) => refused(&refusal),
        }
    }

    fn make_container(&self, headers: &HeaderMap, body: &Bytes, now_s: i64) -> Result<Value, Refusal> {
        let fields: Value = serde_json::from_slice(body).unwrap_or_default();
        let idle_s = number(headers, "x-fake-idle-s").and_then(|idle| i64::try_from(idle).ok());
        let active_s = now_s - idle_s.unwrap_or(0);
        let id = self.new_id("cntr_");
        let mut made = Container { id: id.clone(), fields, created_s: active_s, active_s, files: Vec::new() };
        let kept: Vec<String> = texts(&made.fields["file_ids"]).map(str::to_owned).collect();
        for file in kept {
            let (name, content) = self.kept_file(&file);
            made.add(&self.new_id("cfile_"), (&name, content), now_s)?;
        }
        let object = made.object(now_s);
        self.containers.keep(id, made);
        Ok(object)
    }

    /// The name and the content of a file; of one that the fake does not keep nothing.
    pub(super) fn kept_file(&self, id: &str) -> (String, Bytes) {
        let (object, content) = self.file(id).unwrap_or_default();
        (object["filename"].as_str().unwrap_or(id).to_owned(), content)
    }

    /// The file that a request adds to a container: in a form, or by the id of one that is kept.
    fn added(&self, headers: &HeaderMap, body: &Bytes) -> (String, Bytes) {
        if let Some(mut form) = Form::read(headers, body, "file") {
            return form
                .take_file()
                .unwrap_or_else(|| self.kept_file(form.text("file_id").unwrap_or("empty")));
        }
        let fields: Value = serde_json::from_slice(body).unwrap_or_default();
        self.kept_file(fields["file_id"].as_str().unwrap_or("empty"))
    }

    fn use_container(
        &self,
        head: &Parts,
        (id, below): (&str, &[&str]),
        body: &Bytes,
        now_s: i64,
    ) -> Result<Sent, Refusal> {
        let added =
            (head.method == Method::POST).then(|| (self.new_id("cfile_"), self.added(&head.headers, body)));
        let used = self.containers.with(id, |container| {
            let is_over = container.is_over(now_s);
            if !is_over {
                container.active_s = now_s;
            }
            match (&head.method, below) {
                (&Method::GET, []) => Ok(Sent::Object(container.object(now_s))),
                _ if is_over => Err(Refusal::missing("Container is expired.")),
                (&Method::GET, ["files"]) => {
                    let objects = container.files.iter().map(|(object, _)| object.clone()).collect();
                    Ok(Sent::Object(page(&head.uri, objects, PAGE)))
                }
                (&Method::POST, ["files"]) => {
                    let (id, (name, content)) = added.ok_or_else(|| missing(id))?;
                    container.add(&id, (&name, content), now_s).map(Sent::Object)
                }
                (&Method::GET, ["files", file]) => {
                    container.file(file).map(|at| Sent::Object(container.files[at].0.clone()))
                }
                (&Method::GET, ["files", file, "content"]) => {
                    container.file(file).map(|at| Sent::Content(container.files[at].1.clone()))
                }
                (&Method::DELETE, ["files", file]) => {
                    container.file(file).map(|at| drop(container.files.remove(at)))?;
                    Ok(Sent::Object(
                        json!({ "id": file, "object": "container.file.deleted", "deleted": true }),
                    ))
                }
                _ => Err(Refusal::missing("unknown path")),
            }
        });
        used.unwrap_or_else(|| Err(missing(id)))
    }
}

/// The texts of a list.
pub(super) fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

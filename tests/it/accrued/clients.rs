//! Clients that make, use and delete containers and vector stores as they are drawn.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use oracle::Chance;
use oracle::prices::Memory;
use serde_json::{Value, json};

use super::{Scene, held_minutes};
use crate::harness::Answer;

const CONTAINERS: &str = "/v1/containers";
const STORES: &str = "/v1/vector_stores";

/// One client, with a key of its own.
pub(super) struct Client {
    scene: Rc<Scene>,
    number: usize,
    chance: Chance,
    containers: Vec<String>,
    stores: Vec<String>,
    files: usize,
}

impl Client {
    pub(super) fn new(scene: &Rc<Scene>, number: usize, chance: Chance) -> Self {
        let (containers, stores) = Default::default();
        Self { scene: Rc::clone(scene), number, chance, containers, stores, files: 0 }
    }

    /// Does what is drawn until the scene is over, then deletes its stores.
    pub(super) async fn run(mut self) {
        while self.scene.goes_on() {
            self.pause().await;
            self.act().await;
            self.scene.check("after a client's request");
        }
        for id in std::mem::take(&mut self.stores) {
            while self.send(Method::DELETE, &format!("{STORES}/{id}"), None).await.status.is_server_error() {
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
            self.scene.check("after a deletion");
        }
    }

    async fn pause(&mut self) {
        let pauses = if self.scene.is_long {
            &[1, 70, 900, 7_200, 30_000][..]
        } else {
            &[0, 1, 20, 70, 280, 700, 1_300]
        };
        let lasts_s = self.chance.one(pauses);
        let lasts_s = self.chance.within(lasts_s / 2, lasts_s);
        tokio::time::sleep(Duration::from_secs(lasts_s)).await;
    }

    async fn act(&mut self) {
        match self.chance.index(16) {
            0..=2 => self.make_container().await,
            3..=6 => self.use_container().await,
            7 => self.delete_container().await,
            8 | 9 => self.make_store().await,
            10 | 11 => self.add_files().await,
            12 => self.remove_file().await,
            13 => self.search().await,
            _ => self.change_store().await,
        }
    }

    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        self.send_with(method, path, &[], body).await
    }

    async fn send_with(
        &self,
        method: Method,
        path: &str,
        more: &[(&str, &str)],
        body: Option<Value>,
    ) -> Answer {
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let what = format!("k{} {method} {path} {body:?}", self.number);
        let answer = self.scene.world.ask(self.number, (method, path), more, body).await;
        self.scene.answered(&what, more.is_empty(), &answer);
        answer
    }

    fn name(&self) -> String {
        format!("k{}", self.number)
    }

    async fn make_container(&mut self) {
        let memory = self.chance.one(&[Memory::G1, Memory::G1, Memory::G4, Memory::G16, Memory::G64]);
        let mut body = json!({ "name": self.name() });
        if memory != Memory::G1 || self.chance.percent(50) {
            body["memory_limit"] = json!(memory.wire());
        }
        let minutes = self.chance.one(&[20, 20, 1, 2, 5, 10, 19, 20, 30, 60_u64]);
        if minutes != 20 || self.chance.percent(30) {
            body["expires_after"] = json!({ "anchor": "last_active_at", "minutes": minutes });
        }
        let hold = held_minutes(minutes) * (memory.session_pico() / 20 / 1_000);
        let cap = self.chance.percent(20).then(|| hold + 1 - u128::from(self.chance.within(0, 2)));
        let dollars = cap.map(|cap| format!("{}.{:09}", cap / 1_000_000_000, cap % 1_000_000_000));
        let header = dollars.as_ref().map(|dollars| ("x-spendguard-max-cost-usd", dollars.as_str()));
        let room = self.scene.room(self.number);
        let lost = self.scene.world.oracle().lost.len();
        let answer = self.send_with(Method::POST, CONTAINERS, header.as_slice(), Some(body.clone())).await;
        if self.scene.world.oracle().lost.len() > lost && answer.status.is_server_error() {
            return;
        }
        let is_capped = cap.is_some_and(|cap| hold > cap);
        let room = room.min(self.scene.room(self.number));
        match answer.status {
            StatusCode::OK => {
                self.scene.expect(!is_capped, || format!("{hold} was admitted at {cap:?}: {body}"));
                self.containers.push(answer.json()["id"].as_str().unwrap().to_owned());
            }
            StatusCode::BAD_REQUEST | StatusCode::TOO_MANY_REQUESTS => {
                let has_room = i128::try_from(hold).unwrap() <= room;
                let refused =
                    || format!("{hold} was refused, with room for {room} at {cap:?}: {body} {answer:?}");
                self.scene.expect(is_capped || !has_room, refused);
            }
            status => self.scene.expect(status.is_server_error(), || format!("{answer:?}")),
        }
    }

    fn some_container(&mut self) -> Option<String> {
        let count = self.containers.len();
        let newest = count.saturating_sub(3);
        (count > 0).then(|| self.containers[newest + self.chance.index(count - newest)].clone())
    }

    async fn use_container(&mut self) {
        let Some(id) = self.some_container() else { return };
        let path = format!("{CONTAINERS}/{id}");
        match self.chance.index(5) {
            0 | 1 => self.send(Method::GET, &path, None).await,
            2 => self.send(Method::GET, &format!("{path}/files"), None).await,
            3 => self.send(Method::POST, &format!("{path}/files"), Some(json!({ "name": "empty" }))).await,
            _ => {
                let tools = json!([{ "type": "code_interpreter", "container": id }]);
                let body =
                    json!({ "model": "gpt-4o-mini", "input": "go", "tools": tools, "max_output_tokens": 16 });
                self.send(Method::POST, "/v1/responses", Some(body)).await
            }
        };
    }

    async fn delete_container(&mut self) {
        let Some(id) = self.some_container() else { return };
        self.send(Method::DELETE, &format!("{CONTAINERS}/{id}"), None).await;
    }

    /// Files of a request, as its fields.
    fn files(&mut self, count: usize) -> Value {
        let ids: Vec<String> = (0..count).map(|_| self.file()).collect();
        let mut fields = json!({ "file_ids": ids });
        if self.chance.percent(20) {
            let cut = json!({ "max_chunk_size_tokens": 200, "chunk_overlap_tokens": 100 });
            fields["chunking_strategy"] = json!({ "type": "static", "static": cut });
        }
        fields
    }

    fn file(&mut self) -> String {
        // Now and then one that may be there already.
        if self.files == 0 || self.chance.percent(85) {
            self.files += 1;
        }
        format!("file-{}", self.files)
    }

    async fn make_store(&mut self) {
        let count = self.chance.one(&[0, 1, 3]);
        let mut body = if count > 0 { self.files(count) } else { json!({}) };
        body["name"] = json!(self.name());
        if self.chance.percent(30) {
            body["expires_after"] = json!({ "anchor": "last_active_at", "days": self.chance.within(1, 2) });
        }
        let made = self.send(Method::POST, STORES, Some(body)).await;
        if made.status == StatusCode::OK {
            self.stores.push(made.json()["id"].as_str().unwrap().to_owned());
        }
    }

    fn some_store(&mut self) -> Option<String> {
        (!self.stores.is_empty()).then(|| self.stores[self.chance.index(self.stores.len())].clone())
    }

    async fn add_files(&mut self) {
        let Some(id) = self.some_store() else { return };
        let one = self.addition(&id);
        if self.chance.percent(30) {
            let other = self.addition(&id);
            tokio::join!(
                self.send(Method::POST, &one.0, Some(one.1)),
                self.send(Method::POST, &other.0, Some(other.1))
            );
        } else {
            self.send(Method::POST, &one.0, Some(one.1)).await;
        }
    }

    fn addition(&mut self, id: &str) -> (String, Value) {
        let count = self.chance.one(&[1, 1, 2, 5]);
        let mut fields = self.files(count);
        match self.chance.index(3) {
            0 => (format!("{STORES}/{id}/file_batches"), fields),
            1 => {
                let cut = fields["chunking_strategy"].take();
                let of = |id: &Value| {
                    let mut file = json!({ "file_id": id });
                    if !cut.is_null() {
                        file["chunking_strategy"] = cut.clone();
                    }
                    file
                };
                let files: Vec<Value> = fields["file_ids"].as_array().unwrap().iter().map(of).collect();
                (format!("{STORES}/{id}/file_batches"), json!({ "files": files }))
            }
            _ => {
                fields["file_id"] = fields["file_ids"][0].take();
                fields.as_object_mut().unwrap().remove("file_ids");
                (format!("{STORES}/{id}/files"), fields)
            }
        }
    }

    async fn remove_file(&mut self) {
        let Some(id) = self.some_store() else { return };
        if self.chance.percent(30) {
            self.send(Method::POST, &format!("{STORES}/{id}/file_batches/vsfb_1/cancel"), Some(json!({})))
                .await;
            return;
        }
        let number = self.chance.within(0, u64::try_from(self.files).unwrap());
        self.send(Method::DELETE, &format!("{STORES}/{id}/files/file-{number}"), None).await;
    }

    async fn search(&mut self) {
        let Some(id) = self.some_store() else { return };
        let query = self.chance.index(3);
        let query = [json!("a"), json!(["a"]), json!(["a", "b", "c"])][query].clone();
        self.send(Method::POST, &format!("{STORES}/{id}/search"), Some(json!({ "query": query }))).await;
    }

    async fn change_store(&mut self) {
        let Some(id) = self.some_store() else { return };
        let path = format!("{STORES}/{id}");
        match self.chance.index(3) {
            0 => self.send(Method::GET, &path, None).await,
            1 => self.send(Method::POST, &path, Some(json!({ "name": "other" }))).await,
            _ => {
                let deleted = self.send(Method::DELETE, &path, None).await;
                if deleted.status != StatusCode::INTERNAL_SERVER_ERROR {
                    self.stores.retain(|store| *store != id);
                }
                deleted
            }
        };
    }
}

//! Containers of the fake. One that is idle for as long as it may be expires; a read keeps it
//! alive, as any use does. The request that makes one may say how long ago it was used last
//! (`x-fake-idle-s`).

use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::fake_openai::hosted::{Object, Question, list};
use crate::fake_openai::{Answer, answer, error, number};

#[derive(Debug)]
pub(super) struct Container {
    fields: Value,
    created_s: i64,
    active_s: i64,
    files: Vec<Value>,
}

impl Container {
    fn idle_s(&self) -> i64 {
        self.fields["expires_after"]["minutes"].as_i64().unwrap_or(20).saturating_mul(60)
    }

    pub(super) fn is_over(&self, now_s: i64) -> bool {
        self.active_s.saturating_add(self.idle_s()) <= now_s
    }
}

impl Object for Container {
    const KIND: &'static str = "container";
    const NAME: &'static str = "Container";
    const PREFIX: &'static str = "cntr_";

    fn made_by(question: &Question<'_>) -> Self {
        let idle_s = number(question.headers, "x-fake-idle-s").and_then(|idle| i64::try_from(idle).ok());
        let active_s = question.now_s - idle_s.unwrap_or(0);
        Self { fields: question.fields.clone(), created_s: active_s, active_s, files: Vec::new() }
    }

    fn shown(&self, id: &str, now_s: i64) -> Value {
        json!({
            "id": id,
            "object": Self::KIND,
            "created_at": self.created_s,
            "status": if self.is_over(now_s) { "expired" } else { "running" },
            "expires_after": { "anchor": "last_active_at", "minutes": self.idle_s() / 60 },
            "last_active_at": self.active_s,
            "memory_limit": self.fields["memory_limit"].as_str().unwrap_or("1g"),
            "name": self.fields["name"],
        })
    }

    fn answer(&mut self, id: &str, question: &Question<'_>) -> Option<Response<Answer>> {
        let now_s = question.now_s;
        let is_over = self.is_over(now_s);
        if !is_over {
            self.active_s = now_s;
        }
        Some(match (question.method, question.below) {
            (&Method::GET, []) => answer(StatusCode::OK, &self.shown(id, now_s)),
            _ if is_over => error(StatusCode::NOT_FOUND, "Container is expired.", None),
            (&Method::GET, ["files"]) => list(&self.files),
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
                    "file_id": question.fields["file_id"],
                });
                self.files.push(file.clone());
                answer(StatusCode::OK, &file)
            }
            _ => return None,
        })
    }
}

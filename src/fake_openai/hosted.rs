//! What containers and vector stores of the fake have in common: they are made, listed, shown and
//! deleted alike, and the oldest are forgotten.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::fake_openai::{Answer, Fake, answer, error, identified};
use crate::sync::unpoisoned;

/// Objects of a kind that are kept.
const KEPT_MAX: usize = 20_000;

/// What is asked of an object.
pub(super) struct Question<'a> {
    pub(super) method: &'a Method,
    /// The segments of the path below the object.
    pub(super) below: &'a [&'a str],
    pub(super) headers: &'a HeaderMap,
    /// The body, if it is JSON.
    pub(super) fields: &'a Value,
    pub(super) now_s: i64,
}

/// A container or a vector store.
pub(super) trait Object: Sized {
    /// What its kind is called in answers and in errors, and how its ids begin.
    const KIND: &'static str;
    const NAME: &'static str;
    const PREFIX: &'static str;

    /// One that a request makes.
    fn made_by(question: &Question<'_>) -> Self;

    /// It as answers show it.
    fn shown(&self, id: &str, now_s: i64) -> Value;

    /// Answers what is asked of it; `None` if there is no such thing.
    fn answer(&mut self, id: &str, question: &Question<'_>) -> Option<Response<Answer>>;
}

/// The objects of a kind that were made, by id.
#[derive(Debug)]
pub(super) struct Collection<T>(Mutex<BTreeMap<String, T>>);

impl<T> Default for Collection<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Object> Collection<T> {
    /// How many are as a condition says.
    pub(super) fn count(&self, condition: impl Fn(&T) -> bool) -> usize {
        unpoisoned(self.0.lock()).values().filter(|object| condition(object)).count()
    }

    /// Answers what is asked of the collection, or of one of its objects; `number` is that of a new
    /// one.
    fn answer(&self, segments: &[&str], number: u64, question: &Question<'_>) -> Response<Answer> {
        let now_s = question.now_s;
        let mut kept = unpoisoned(self.0.lock());
        match (question.method, segments) {
            (&Method::POST, []) => {
                let (id, made) = (format!("{}{number:024}", T::PREFIX), T::made_by(question));
                let object = made.shown(&id, now_s);
                kept.insert(id, made);
                if kept.len() > KEPT_MAX {
                    kept.pop_first();
                }
                answer(StatusCode::OK, &object)
            }
            (&Method::GET, []) => {
                let shown: Vec<Value> = kept.iter().map(|(id, object)| object.shown(id, now_s)).collect();
                list(&shown)
            }
            (&Method::DELETE, [id]) if kept.remove(*id).is_some() => deleted(id, T::KIND),
            (_, [id, below @ ..]) => {
                let answer = kept.get_mut(*id).and_then(|object| {
                    let asked = Question { below, ..*question };
                    object.answer(id, &asked)
                });
                let text = || format!("{} with id '{id}' not found.", T::NAME);
                answer.unwrap_or_else(|| error(StatusCode::NOT_FOUND, &text(), None))
            }
            _ => error(StatusCode::METHOD_NOT_ALLOWED, "no such method", None),
        }
    }
}

/// A whole list.
pub(super) fn list(data: &[Value]) -> Response<Answer> {
    answer(StatusCode::OK, &json!({ "object": "list", "data": data, "has_more": false }))
}

/// The answer that something of a kind is deleted.
pub(super) fn deleted(id: &str, kind: &str) -> Response<Answer> {
    answer(StatusCode::OK, &json!({ "id": id, "object": format!("{kind}.deleted"), "deleted": true }))
}

impl Fake {
    /// How many containers live.
    pub fn containers_running(&self) -> usize {
        let now_s = self.clock.now_s();
        self.containers.count(|container| !container.is_over(now_s))
    }

    /// Answers what is asked of a collection of hosted objects.
    pub(super) fn on_hosted<T: Object>(
        &self,
        collection: &Collection<T>,
        head: &Parts,
        rest: &[&str],
        body: &Bytes,
    ) -> Response<Answer> {
        let question = Question {
            method: &head.method,
            below: &[],
            headers: &head.headers,
            fields: &serde_json::from_slice(body).unwrap_or_default(),
            now_s: self.clock.now_s(),
        };
        let number = self.ids.fetch_add(1, Ordering::Relaxed);
        identified(collection.answer(rest, number, &question), number)
    }
}

//! Objects in answers to free requests.

use std::sync::Arc;

use http::Response;
use serde_json::Value;

use crate::domain::usage::ContainerMemory;
use crate::domain::{KeptContext, ObjectKind, ObjectReference};
use crate::guard::objects::put;
use crate::proxy::Proxy;
use crate::proxy::answer::Answer;
use crate::proxy::auth::Caller;
use crate::proxy::batches::BatchFile;
use crate::proxy::lists::whole;
use crate::proxy::record::{CONTAINER_IDLE_S, made_by};
use crate::proxy::refuse::Refusal;
use crate::store::objects::{ObjectChange, ObjectKey};
use crate::upstream::AnswerBody;

/// Items of one answer that are remembered.
const ITEMS_MAX: usize = 1_000;

impl Proxy {
    /// Reads an answer whole, records what it names, and only then gives it on.
    pub(super) async fn learn_from(
        &self,
        answer: Response<AnswerBody>,
        changes: impl FnOnce(&Value) -> Vec<ObjectChange>,
    ) -> Result<Response<Answer>, Refusal> {
        let (head, bytes) = whole(answer).await?;
        let said: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let changes = changes(&said);
        if !changes.is_empty() {
            self.guard.record_objects(changes).await;
        }
        Ok(Response::from_parts(head, Answer::whole(bytes)))
    }

    pub(super) fn made(
        &self,
        kind: ObjectKind,
        said: &Value,
        caller: &Caller,
        (items, scanned): (KeptContext, Option<BatchFile>),
    ) -> Vec<ObjectChange> {
        let mut known = made_by(&caller.key, self.guard.clock().now_s());
        if kind == ObjectKind::Conversation {
            known.context = items;
        } else if kind == ObjectKind::Container {
            known.container_memory = said["memory_limit"].as_str().and_then(ContainerMemory::named);
            let idle_s = said["expires_after"]["minutes"].as_i64().map(|minutes| minutes.saturating_mul(60));
            known.idle_s = idle_s.unwrap_or(CONTAINER_IDLE_S);
            known.used_s = known.created_s;
        }
        let Some(of) = of_id(kind, &said["id"]) else { return Vec::new() };
        let scanned = scanned.filter(|_| said["purpose"] == "batch").and_then(|scanned| scanned.text());
        let input = scanned.map(|text| ObjectChange::BatchInput { of: of.clone(), scanned: text.into() });
        [put(of, known)].into_iter().chain(input).collect()
    }

    pub(super) fn batch_files(&self, said: &Value, caller: &Caller) -> Vec<ObjectChange> {
        let known = made_by(&caller.key, self.guard.clock().now_s());
        let files = ["output_file_id", "error_file_id"].map(|field| of_id(ObjectKind::File, &said[field]));
        let new = |of: &ObjectReference| self.guard.objects().lookup(of.kind, &of.id).is_none();
        files.into_iter().flatten().filter(new).map(|of| put(of, known.clone())).collect()
    }

    pub(super) fn items(&self, said: &Value, caller: &Caller, context: &KeptContext) -> Vec<ObjectChange> {
        let ids = said["data"].as_array().into_iter().flatten().filter_map(|item| item["id"].as_str());
        let new = |id: &&str| self.guard.objects().lookup(ObjectKind::Item, id).is_none();
        let item = |id: &str| ObjectChange::Item {
            key: ObjectKey::of(ObjectKind::Item, id),
            project: Arc::clone(&caller.key.project),
            context: context.clone(),
            made_s: None,
        };
        ids.take(ITEMS_MAX).filter(new).map(item).collect()
    }
}

pub(super) fn of_id(kind: ObjectKind, id: &Value) -> Option<ObjectReference> {
    let id = id.as_str().filter(|id| !id.is_empty())?;
    Some(ObjectReference { kind, id: id.to_owned() })
}

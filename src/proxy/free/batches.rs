//! Batches that are read or cancelled: one may show its end.

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use serde_json::Value;

use crate::domain::ObjectKind;
use crate::guard::objects::put;
use crate::proxy::answer::Answer;
use crate::proxy::auth::Caller;
use crate::proxy::background::in_a_task;
use crate::proxy::batches::{BatchSettler, Depth, Pricing};
use crate::proxy::free::learned::of_id;
use crate::proxy::lists::whole;
use crate::proxy::record::made_by;
use crate::proxy::refuse::Refusal;
use crate::proxy::{Proxy, Rules};
use crate::upstream::AnswerBody;

/// How long a client waits for the settlement of a batch that it sees the end of, and for the
/// scan of a file that it has completed. A large output takes longer to be read, and is settled
/// soon after.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);

impl Proxy {
    /// Passes on a batch that upstream shows. If it has ended, its jobs are settled, and the
    /// files that it has made are known.
    pub(super) async fn show_batch(
        &self,
        rules: &Rules,
        id: String,
        answer: Response<AnswerBody>,
        caller: &Caller,
    ) -> Result<Response<Answer>, Refusal> {
        let (head, bytes) = whole(answer).await?;
        let settler = BatchSettler::new(&self.guard, rules);
        if let Some(open) = settler.find(&id).await {
            let (upstream, authorization) = (Arc::clone(self.upstream(rules)), caller.authorization.clone());
            let body = bytes.clone();
            let settling = in_a_task(&self.tracker, async move {
                settler.saw(&upstream, &authorization, &open, &body).await;
            });
            let _ = tokio::time::timeout(SETTLED_WITHIN, settling).await;
        }
        let said = serde_json::from_slice(&bytes).unwrap_or_default();
        let changes = self.batch_files(&said, caller);
        if !changes.is_empty() {
            self.guard.record_objects(changes).await;
        }
        Ok(Response::from_parts(head, Answer::whole(bytes)))
    }
    /// Records the file that an upload in parts has become. One for a batch is scanned then:
    /// which parts it has, and in which order, is known only now.
    pub(super) async fn complete_upload(
        &self,
        rules: &Rules,
        answer: Response<AnswerBody>,
        caller: &Caller,
    ) -> Result<Response<Answer>, Refusal> {
        let (head, bytes) = whole(answer).await?;
        let said: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let file = &said["file"];
        if let Some(of) = of_id(ObjectKind::File, &file["id"]) {
            let now_s = self.guard.clock().now_s();
            self.guard.record_objects(vec![put(of.clone(), made_by(&caller.key, now_s))]).await;
            if file["purpose"] == "batch" {
                // If it can't be read in time, it is scanned when a batch is made of it.
                let priced = (Pricing::of(rules, now_s), Depth::Bytes);
                let scan = self.scan_at_upstream(rules, caller, &of, priced);
                let _ = tokio::time::timeout(SETTLED_WITHIN, scan).await;
            }
        }
        Ok(Response::from_parts(head, Answer::whole(bytes)))
    }
}

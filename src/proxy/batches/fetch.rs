//! Reads a file of a batch from upstream, where no scan of it is known that still counts.

use http_body_util::BodyExt as _;
use tokio::time::timeout;

use crate::domain::ObjectReference;
use crate::proxy::asking::{self, Asked};
use crate::proxy::auth::Caller;
use crate::proxy::batches::file::BatchFile;
use crate::proxy::batches::lines::{Depth, ScannedLines};
use crate::proxy::batches::pricing::Pricing;
use crate::proxy::batches::scan::Scan;
use crate::proxy::body::UPLOAD_BYTES_MAX;
use crate::proxy::query::encoded;
use crate::proxy::receive::allowance;
use crate::proxy::refuse::{Billed, NoAnswer, Refusal};
use crate::proxy::{Proxy, Rules};
use crate::store::objects::ObjectChange;

/// The name under which a scan is noted.
const SCAN: &str = "scan";

impl Proxy {
    /// Scans a file as upstream has it, and keeps the result; `None` if it has none of that id.
    pub(in crate::proxy) async fn scan_at_upstream(
        &self,
        rules: &Rules,
        caller: &Caller,
        of: &ObjectReference,
        (pricing, depth): (Pricing, Depth),
    ) -> Result<Option<BatchFile>, Refusal> {
        // One at a time: a scan reads all of a file.
        let Some(_scanning) = self.guard.exclusive(SCAN, &of.id) else { return Err(Refusal::Busy) };
        let path = format!("/files/{}/content", encoded(&of.id));
        let (upstream, key) = (self.upstream(rules), &caller.key.id);
        let answer = match asking::found(upstream, &caller.authorization, &path, key).await {
            Ok(answer) => answer,
            Err(Asked::Gone) => return Ok(None),
            Err(Asked::Failed | Asked::Running | Asked::Ended) => {
                return Err(Refusal::Upstream(NoAnswer::Unreachable(Billed::No)));
            }
        };
        let scan = Scan::new(pricing);
        let mut lines = ScannedLines::new(scan, depth, rules.request_body_bytes_max, allowance(caller));
        let mut body = answer.into_body();
        let mut read: u64 = 0;
        let broken = || Refusal::Upstream(NoAnswer::Unreachable(Billed::No));
        let late = |_| Refusal::Upstream(NoAnswer::TimedOut(Billed::No));
        while let Some(frame) = timeout(rules.answer_idle, body.frame()).await.map_err(late)? {
            if let Ok(part) = frame.map_err(|_| broken())?.into_data() {
                read = read.saturating_add(u64::try_from(part.len()).unwrap_or(u64::MAX));
                if read > UPLOAD_BYTES_MAX {
                    return Err(Refusal::FileTooLarge(UPLOAD_BYTES_MAX));
                }
                lines.take(&part);
                lines.catch_up(&self.guard).await?;
                if lines.has_fault() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        lines.end();
        lines.catch_up(&self.guard).await?;
        let file = lines.finish();
        if let Some(text) = file.text() {
            let change = ObjectChange::BatchInput { of: of.clone(), scanned: text.into() };
            self.guard.record_objects(vec![change]).await;
        }
        Ok(Some(file))
    }
}

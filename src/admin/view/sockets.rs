//! The shape of an open socket.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::guard::sockets::{Activity, OpenSocket};

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Socket)]
pub(crate) struct SocketView {
    object: &'static str,
    /// The id of the request that opened it, which the log has.
    id: String,
    key_id: String,
    project_id: String,
    endpoint: &'static str,
    opened_at: i64,
    /// Those of the latest request on it that was admitted; before the first one, those that it was opened with.
    tags: BTreeMap<String, String>,
    /// The number of requests on it that have ended, rejected ones included.
    requests: u64,
    /// The cost of requests on it that have ended.
    spent_usd: String,
}

impl SocketView {
    pub(crate) fn of(socket: &OpenSocket) -> Self {
        let Activity { tags, requests, spent } = socket.activity();
        Self {
            object: "guard.socket",
            id: socket.id.clone(),
            key_id: socket.key.to_string(),
            project_id: socket.project.to_string(),
            endpoint: socket.endpoint,
            opened_at: socket.since_ms.div_euclid(1_000),
            tags: tags.as_ref().clone(),
            requests,
            spent_usd: spent.to_string(),
        }
    }
}

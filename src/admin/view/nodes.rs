//! The shapes of the guards that share a database.

use serde::Serialize;
use utoipa::ToSchema;

use crate::store::Node;

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = NodeList)]
pub(crate) struct NodesView {
    object: &'static str,
    data: Vec<NodeView>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Node)]
pub(crate) struct NodeView {
    object: &'static str,
    /// Its name (`cluster.node`).
    name: String,
    /// Which start of a guard this is; ascending over all guards.
    epoch: i64,
    /// The version of its program.
    version: String,
    /// `alive`, `left`, or `given_up` if it was silent for `cluster.node_timeout`.
    #[schema(pattern = "^(alive|left|given_up)$")]
    state: String,
    /// When it started.
    since: i64,
    /// When it last said that it is alive.
    seen_at: i64,
    /// Its open requests.
    holds: u64,
}

impl NodesView {
    pub(crate) fn of(nodes: Vec<Node>) -> Self {
        let view = |node: Node| NodeView {
            object: "guard.node",
            name: node.name,
            epoch: node.epoch,
            version: node.version,
            state: node.state,
            since: node.since_ms.div_euclid(1_000),
            seen_at: node.seen_ms.div_euclid(1_000),
            holds: node.holds,
        };
        Self { object: "list", data: nodes.into_iter().map(view).collect() }
    }
}

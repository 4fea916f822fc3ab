//! The stage of an export: whether it is in force, and what it still has to send.

use tokio::sync::watch;

/// The stage of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is in force.
    InForce,
    /// Another configuration is in force; spans of requests that began before are sent.
    Replaced,
    /// The guard ends: what is there is sent, with one attempt.
    Ending,
}

/// Waits until the guard ends. Of a replaced export no stage follows, so that it waits for ever.
pub(super) async fn ending(stages: &mut watch::Receiver<Stage>) {
    if stages.wait_for(|stage| *stage == Stage::Ending).await.is_err() {
        std::future::pending::<()>().await;
    }
}

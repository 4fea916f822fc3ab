//! The engine that the configuration asks for: embedded, or shared with other guards.

use std::sync::Arc;
use std::thread::JoinHandle;

use crate::app::StartError;
use crate::clock::Clock;
use crate::config::Settings;
use crate::keys;
use crate::metrics::Metrics;
use crate::startup::{self, Opened};
use crate::store::{PostgresConfig, SharedEngine, SharedStore, Store};

/// What writes in the background until it is ended.
pub(super) enum Running {
    /// The embedded engine's thread, which ends once all ports are dropped.
    Embedded(JoinHandle<()>),
    /// This guard's part in a shared database.
    Shared(SharedEngine),
}

impl Running {
    /// Whether it has ended by itself, which it should not.
    pub(super) fn has_ended(&self) -> bool {
        match self {
            Self::Embedded(writer) => writer.is_finished(),
            Self::Shared(engine) => engine.has_ended(),
        }
    }

    /// Waits until it has ended; the ports are dropped already.
    pub(super) fn end(self) {
        match self {
            Self::Embedded(writer) => drop(writer.join()),
            Self::Shared(engine) => engine.leave(),
        }
    }
}

/// Opens the ledger.
pub(super) fn open(
    settings: &Settings,
    clock: Arc<Clock>,
    metrics: Arc<Metrics>,
) -> Result<(Opened, Running), StartError> {
    let config = startup::Config {
        open_requests_max: settings.guard.open_requests_max,
        zone: Arc::clone(&settings.zone),
    };
    let Some(database) = &settings.database else {
        let store = Store::open(&settings.storage_path, settings.durability)?;
        let (opened, writer) = startup::open(store, &config, clock, metrics)?;
        return Ok((opened, Running::Embedded(writer.start()?)));
    };
    let node = match &database.node {
        Some(node) => node.clone(),
        None => keys::new_id(&format!("{}-", host()))?,
    };
    let store = SharedStore::open(PostgresConfig {
        url: database.url.clone(),
        schema: database.schema.clone(),
        connections_max: database.connections_max,
        connect_timeout: database.connect_timeout,
        statement_timeout: database.statement_timeout,
        node,
        node_timeout: database.node_timeout,
    })?;
    let (opened, engine) = startup::open_shared(store, &config, clock, metrics)?;
    Ok((opened, Running::Shared(engine)))
}

/// The host's name.
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

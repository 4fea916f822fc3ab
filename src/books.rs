//! The books: questions about the past, and the upkeep of the database.
//!
//! Meters, corrections, verification, sums by day, pruning, and the forecast.

pub mod adjust;
mod days;
pub mod forecast;
pub mod meters;
pub mod retention;
pub mod trial;
mod verify;

use std::collections::HashMap;
use std::sync::Arc;

use crate::domain::Window;
use crate::guard::Core;
use crate::keys::Ring;
use crate::ledger::calendar::Windows;
use crate::ledger::meter::Subject;
use crate::rulebook::Rulebook;
use crate::store::{Records, Reports, StoreError};

/// Questions about the past, and the work that keeps the database small and sound.
#[derive(Debug)]
pub struct Books {
    core: Arc<Core>,
    ring: Arc<Ring>,
    rulebook: Arc<Rulebook>,
    records: Records,
    reports: Reports,
    /// Allows one verification at a time: it reads every entry.
    verifying: Arc<tokio::sync::Mutex<()>>,
    /// Allows one pruning at a time.
    pruning: tokio::sync::Mutex<()>,
    /// Allows one correction at a time.
    corrections: tokio::sync::Mutex<()>,
    /// Allows one trial of limits at a time: it reads many entries.
    trials: tokio::sync::Mutex<()>,
}

impl Books {
    /// The books of a core and its store.
    pub fn new(
        core: Arc<Core>,
        ring: Arc<Ring>,
        rulebook: Arc<Rulebook>,
        records: Records,
        reports: Reports,
    ) -> Self {
        Self {
            core,
            ring,
            rulebook,
            records,
            reports,
            verifying: Arc::default(),
            pruning: tokio::sync::Mutex::default(),
            corrections: tokio::sync::Mutex::default(),
            trials: tokio::sync::Mutex::default(),
        }
    }

    /// Questions about the past.
    pub fn reports(&self) -> &Reports {
        &self.reports
    }

    /// The settled sum of each subject of a limit in its window, added up from the
    /// entries; empty for rates and limits that don't exist.
    pub async fn sums_from_entries(&self, name: &str) -> Result<HashMap<Subject, i64>, StoreError> {
        let limit = self.core.in_force_as(name).map(|of| of.limit).filter(|of| of.window != Window::Request);
        let Some(limit) = limit else { return Ok(HashMap::new()) };
        let span = Windows::of(&limit).span(self.core.clock().now_s());
        self.reports.settled_by_entries(limit, span).await
    }
}

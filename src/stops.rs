//! Stops: kill switches that operators turn on, and fuses that blow when too much is spent too
//! quickly.
//!
//! A stop is a row, written with its row of the audit log and the alert of it, and then it is in force
//! (`keys::stops`). What may begin is asked there (`proxy::permit`); what runs goes on within its hold.

mod sums;
mod usual;
mod watch;

use std::sync::Arc;

use arc_swap::ArcSwap;
use serde_json::json;
use tokio::sync::{Mutex, Notify};

use crate::domain::limit::{Mode, Only, Per, Source, Unit};
use crate::domain::stop::Cause;
use crate::domain::{Fuse, Limit, Money, Spender, SpenderKind, Stop, Window};
use crate::guard::Core;
use crate::guard::audit::{Actor, AuditedRecords, Change, ChangeTurn};
use crate::keys::Ring;
use crate::ledger::entry::{AlertKind, Crossing};
use crate::store::records::RecordChange;
use crate::store::{Reports, StoreError};

use self::sums::Sums;
use self::usual::Usual;

pub use self::watch::Reading;

const NOTE_CHARS_MAX: usize = 1_000;
/// The name that alerts of kill switches have in place of a limit's.
const KILL_SWITCH: &str = "kill_switch";

/// Why a stop was not changed.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// No key and no project has this id.
    #[error("{0:?} is neither the id of a key, nor of a project, nor \"organization\"")]
    NoSuchSpender(String),
    /// No kill switch is on.
    #[error("no kill switch is on for {0:?}")]
    NotOn(String),
    /// No fuse has this name.
    #[error("there is no fuse {0:?}")]
    NoSuchFuse(String),
    /// The fuse has not blown for this spender.
    #[error("the fuse {fuse:?} has not blown for {spender:?}")]
    NotBlown {
        /// The fuse.
        fuse: String,
        /// The spender.
        spender: String,
    },
    /// The note is too long, or no text.
    #[error("a note has at most {} characters, and no control characters", NOTE_CHARS_MAX)]
    BadNote,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What stops spending, and the methods that change it.
#[derive(Debug)]
pub struct Stops {
    core: Arc<Core>,
    ring: Arc<Ring>,
    records: AuditedRecords,
    reports: Reports,
    fuses: ArcSwap<Vec<Arc<Fuse>>>,
    changed: Notify,
    /// What was spent lately; `None` until it is read for the fuses in force.
    sums: Mutex<Option<Sums>>,
    usual: Mutex<Usual>,
}

/// A change of a stop: what it was, and what it is.
struct Changed {
    event: &'static str,
    before: Option<Arc<Stop>>,
    after: Option<Arc<Stop>>,
}

impl Stops {
    /// Stops of a ledger, without fuses.
    pub fn new(core: Arc<Core>, ring: Arc<Ring>, records: AuditedRecords, reports: Reports) -> Self {
        let (fuses, changed) = (ArcSwap::default(), Notify::new());
        Self { core, ring, records, reports, fuses, changed, sums: Mutex::default(), usual: Mutex::default() }
    }

    /// Turns the kill switch of a spender on. Nothing that comes after this returns and costs money is
    /// let through.
    pub async fn switch_on(
        &self,
        subject: &str,
        note: Option<String>,
        by: &Actor,
    ) -> Result<Arc<Stop>, StopError> {
        let turn = self.records.turn(by).await?;
        let spender = self.spender(subject)?;
        let note = note.map(checked_note).transpose()?;
        if let Some(known) = self.ring.stops().last(&spender, None) {
            let (Some(note), Cause::KillSwitch { note: before }) = (note, &known.cause) else {
                return Ok(known);
            };
            if before.as_deref() == Some(note.as_str()) {
                return Ok(known);
            }
            let noted = Arc::new(Stop { cause: Cause::KillSwitch { note: Some(note) }, ..(*known).clone() });
            let (before, after) = (Some(known), Some(Arc::clone(&noted)));
            self.write(turn, by, vec![Changed { event: "kill_switch.on", before, after }], None).await?;
            return Ok(noted);
        }
        let stop = self.begin(turn, spender, Cause::KillSwitch { note }, None, by).await?;
        tracing::warn!(
            event = "kill_switch_on", subject, by = %stop.by,
            "an operator has stopped spending: requests that cost money are refused"
        );
        Ok(stop)
    }

    /// Turns the kill switch of a spender off.
    pub async fn switch_off(&self, subject: &str, by: &Actor) -> Result<(), StopError> {
        let turn = self.records.turn(by).await?;
        let spender = self.spender(subject)?;
        let known = self.ring.stops().last(&spender, None);
        let known = known.ok_or_else(|| StopError::NotOn(subject.to_owned()))?;
        let off = Changed { event: "kill_switch.off", before: Some(known), after: None };
        self.write(turn, by, vec![off], None).await?;
        tracing::info!(event = "kill_switch_off", subject, by = %by.name, "an operator has allowed spending again");
        Ok(())
    }

    /// Resets a fuse, for one spender or for all that it has blown for. What was spent before counts
    /// no more for it. Returns the stops that were lifted.
    pub async fn reset(
        &self,
        fuse: &str,
        subject: Option<&str>,
        by: &Actor,
    ) -> Result<Vec<Arc<Stop>>, StopError> {
        // What was spent until now is seen before it is forgotten.
        self.core.flush().await?;
        self.look().await?;
        let turn = self.records.turn(by).await?;
        let spender = subject.map(|subject| self.spender(subject)).transpose()?;
        let mut of_fuse = self.ring.stops().all();
        of_fuse.retain(|stop| stop.fuse().is_some_and(|name| **name == *fuse));
        if of_fuse.is_empty() && self.fuses.load().iter().all(|known| *known.name != *fuse) {
            return Err(StopError::NoSuchFuse(fuse.to_owned()));
        }
        let now_ms = self.core.clock().now_ms();
        of_fuse.retain(|stop| stop.is_in_force(now_ms));
        if let Some(spender) = &spender {
            of_fuse.retain(|stop| stop.spender == *spender);
            if of_fuse.is_empty() {
                let (fuse, spender) = (fuse.to_owned(), spender.label().to_owned());
                return Err(StopError::NotBlown { fuse, spender });
            }
        }
        let changes = of_fuse.iter().map(|stop| Changed {
            event: "fuse.reset",
            before: Some(Arc::clone(stop)),
            after: Some(Arc::new(Stop { lifted_ms: Some(now_ms), ..(**stop).clone() })),
        });
        self.write(turn, by, changes.collect(), None).await?;
        for stop in &of_fuse {
            let subject = stop.spender.label();
            tracing::info!(event = "fuse_reset", fuse, subject, by = %by.name, "an operator has reset a fuse");
        }
        Ok(of_fuse)
    }

    /// The stops that are in force, in the order of their making.
    pub fn in_force(&self) -> Vec<Arc<Stop>> {
        self.ring.stops().in_force(self.core.clock().now_ms())
    }

    /// The spender of that name: `organization`, or the id of a key or of a project.
    pub fn spender(&self, subject: &str) -> Result<Spender, StopError> {
        if subject == SpenderKind::Organization.name() {
            return Ok(Spender::Organization);
        }
        let key = self.ring.by_id(subject).map(|key| Spender::Key(Arc::clone(&key.id)));
        let found = key.or_else(|| self.ring.project(subject).map(|project| Spender::Project(project.id)));
        found.ok_or_else(|| StopError::NoSuchSpender(subject.to_owned()))
    }

    /// Writes a new stop with its alert, and puts it in force.
    async fn begin(
        &self,
        mut turn: ChangeTurn,
        spender: Spender,
        cause: Cause,
        cool_down_ms: Option<i64>,
        by: &Actor,
    ) -> Result<Arc<Stop>, StoreError> {
        let id = match self.records.new_id(&mut turn).await? {
            Some(id) => id,
            None => self.core.ledger().take_id(),
        };
        let since_ms = self.core.clock().now_ms();
        let until_ms = cool_down_ms.map(|cool_down_ms| since_ms.saturating_add(cool_down_ms));
        let by_name = by.name.clone();
        let stop = Arc::new(Stop { id, spender, cause, by: by_name, since_ms, until_ms, lifted_ms: None });
        let event = if stop.fuse().is_some() { "fuse.blown" } else { "kill_switch.on" };
        let new = Changed { event, before: None, after: Some(Arc::clone(&stop)) };
        self.write(turn, by, vec![new], Some(crossing(&stop))).await?;
        self.core.news().crossed.notify_one();
        Ok(stop)
    }

    /// Writes changes, each with its row of the audit log, and puts them in force.
    async fn write(
        &self,
        mut turn: ChangeTurn,
        by: &Actor,
        changes: Vec<Changed>,
        alert: Option<Crossing>,
    ) -> Result<(), StoreError> {
        let audited = changes.iter().map(|change| change.audited(&self.ring)).collect();
        let records = changes.iter().filter_map(Changed::record);
        let records = records.chain(alert.map(RecordChange::InsertCrossing)).collect();
        self.records.write(&mut turn, by, audited, records).await?;
        turn.put_in_memory(|| {
            for change in &changes {
                match (&change.before, &change.after) {
                    (_, Some(stop)) => self.ring.stops().put(stop),
                    (Some(stop), None) => self.ring.stops().remove(stop),
                    (None, None) => {}
                }
            }
        });
        self.records.finish(turn).await
    }
}

impl Changed {
    fn record(&self) -> Option<RecordChange> {
        match (&self.before, &self.after) {
            (_, Some(stop)) => Some(RecordChange::PutStop(Arc::clone(stop))),
            (Some(stop), None) => Some(RecordChange::RemoveStop(stop.id)),
            (None, None) => None,
        }
    }

    fn audited(&self, ring: &Ring) -> Change {
        let said = |stop: &Arc<Stop>| match &stop.cause {
            Cause::KillSwitch { note } => {
                json!({ "note": note, "since_at": stop.since_ms.div_euclid(1_000) })
            }
            Cause::Fuse { name, spent, limit } => json!({
                "fuse": **name, "spent_usd": spent.to_string(), "limit_usd": limit.to_string(),
                "since_at": stop.since_ms.div_euclid(1_000),
                "cools_down_at": stop.until_ms.map(|ms| ms.div_euclid(1_000)),
                "reset_at": stop.lifted_ms.map(|ms| ms.div_euclid(1_000)),
            }),
        };
        let spender = self.after.as_ref().or(self.before.as_ref()).map(|stop| &stop.spender);
        Change {
            event: self.event,
            resource: spender.map(|spender| spender.label().to_owned()).unwrap_or_default(),
            project: spender.and_then(|spender| match spender {
                Spender::Project(id) => Some(id.to_string()),
                Spender::Key(id) => ring.by_id(id).map(|key| key.project.to_string()),
                Spender::Organization => None,
            }),
            before: self.before.as_ref().map(said),
            after: self.after.as_ref().map(said),
        }
    }
}

/// What operators are alerted of.
fn crossing(stop: &Stop) -> Crossing {
    let (mark, name, spent, limit) = match &stop.cause {
        Cause::KillSwitch { .. } => (AlertKind::KillSwitch, KILL_SWITCH, Money::ZERO, Money::ZERO),
        Cause::Fuse { name, spent, limit } => (AlertKind::FuseBlown, &**name, *spent, *limit),
    };
    let as_limit = Limit {
        name: name.into(),
        per: Per::Organization,
        only: Only::default(),
        unit: Unit::Usd,
        window: Window::Total,
        zone: "UTC".into(),
        soft: Vec::new(),
        hard: stop.fuse().map(|_| limit.nano()),
        mode: Mode::Enforce,
        source: Source::File,
    };
    let since_s = stop.since_ms.div_euclid(1_000);
    Crossing {
        id: stop.id,
        mark,
        limit: Arc::new(as_limit),
        // As meters name it.
        subject: if stop.spender == Spender::Organization { "org" } else { stop.spender.label() }.to_owned(),
        threshold: limit.nano(),
        // Once for each stop, like once for each window; two within a second share an alert.
        window_start_s: since_s,
        ends_s: stop.until_ms.map(|until_ms| until_ms.div_euclid(1_000)),
        settled: spent.nano(),
        at_ms: stop.since_ms,
    }
}

fn checked_note(note: String) -> Result<String, StopError> {
    let fits = note.chars().count() <= NOTE_CHARS_MAX && !note.chars().any(char::is_control);
    if fits { Ok(note) } else { Err(StopError::BadNote) }
}

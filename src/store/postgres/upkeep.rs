//! What a guard does every second beside admission: it says that it is alive, notices new
//! rules, gives up dead guards, and charges what they held. What may have to wait is done elsewhere
//! (`tables`).

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use crate::store::StoreError;
use crate::store::postgres::calls::Call;
use crate::store::postgres::clock::NOW_MS;
use crate::store::postgres::database::Database;
use crate::store::postgres::locks::{rules_version, working};
use crate::store::postgres::nodes::{self, Known, Rejoined};
use crate::store::postgres::shared::Shared;
use crate::store::records::Names;
use crate::store::sql::postgres::Connection;
use crate::store::sql::{self, Db, params};

/// How often it looks.
const EVERY: Duration = Duration::from_secs(1);
/// Buckets of rates that nothing was taken from for so long are removed, in milliseconds: they
/// have been full for long, and no request that took from them is open any more.
const BUCKET_AGE_MS: i64 = 86_400_000;
/// How often buckets and guards that have ended are looked through, in looks.
const SELDOM: u64 = 60;
/// Buckets that are removed at once.
const BUCKETS_REMOVED: u32 = 10_000;

/// The thread that does it.
pub(super) struct Upkeep {
    pub(super) database: Arc<Database>,
    pub(super) shared: Arc<Shared>,
    pub(super) names: Arc<dyn Names>,
}

/// A time during which this guard has said that it is alive, without a gap in which others
/// may have been unable to.
#[derive(Clone, Copy, Debug)]
struct Run {
    since_ms: i64,
    last_ms: i64,
}

/// What it remembers between two looks.
#[derive(Debug, Default)]
struct Memory {
    run: Option<Run>,
    /// How often it has looked.
    looks: u64,
    /// Holds of dead guards that can't be read, as far as that was logged.
    unreadable: HashSet<i64>,
}

impl Upkeep {
    /// Looks every second until the sender is dropped; then leaves.
    pub(super) fn run(self, stop: &Receiver<()>) {
        let mut connection: Option<Connection> = None;
        let mut memory = Memory::default();
        while stop.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
            memory.looks += 1;
            match self.look(&mut connection, &mut memory) {
                Ok(()) => self.shared.note_success(),
                Err(error) => {
                    self.shared.note_failure(&error);
                    (connection, memory.run) = (None, None);
                }
            }
        }
        let left = working(&self.database, &mut connection)
            .and_then(|known| Ok(nodes::leave(Db::Postgres(known), self.shared.epoch())?));
        if let Err(error) = left {
            tracing::warn!(
                event = "node_not_left", %error,
                "this guard could not say that it ended; the others give it up after cluster.node_timeout"
            );
        }
    }

    /// Joins again, unless a lane has: another guard has given this one up in an epoch.
    fn rejoin(&self, connection: &Connection, lost: i64) -> Result<(), StoreError> {
        let mut next = self.shared.rejoining.blocking_lock();
        if self.shared.epoch() != lost {
            return Ok(());
        }
        let name = &self.database.config.node;
        match nodes::rejoin(connection, name, lost, next.epoch()?)? {
            Rejoined::With(kept) => self.shared.note_rejoined(&mut next, kept),
            Rejoined::Unknown => self.shared.note_gone_back(),
            Rejoined::Taken => return Err(StoreError::NameTaken { name: name.clone() }),
        }
        Ok(())
    }

    fn look(&self, connection: &mut Option<Connection>, memory: &mut Memory) -> Result<(), StoreError> {
        let Memory { run, looks, unreadable } = memory;
        let connection = working(&self.database, connection)?;
        let db = Db::Postgres(connection);
        let epoch = self.shared.epoch();
        match nodes::say_alive(db, epoch)? {
            Known::Alive(now_ms) => self.give_up_dead(db, run, now_ms)?,
            Known::Ended => {
                *run = None;
                self.rejoin(connection, epoch)?;
            }
        }
        let known = self.shared.rules_version();
        let version = rules_version(db)?;
        if version > known {
            self.shared.refresh(version);
        } else if version < known {
            self.shared.note_gone_back();
        }
        self.shared.call_waiting();
        let orphaned = nodes::orphaned_holds(db, &*self.names, &self.shared.refused(), unreadable)?;
        if !orphaned.is_empty() {
            tracing::warn!(
                event = "open_holds_charged",
                holds = orphaned.len(),
                "requests were open when their guard ended; their holds are charged in full"
            );
        }
        for hold in orphaned {
            self.shared.queue.push(Call::Charge(Arc::new(hold)));
        }
        // For the first time at once.
        if *looks % SELDOM == 1 {
            remove_old_buckets(db)?;
            nodes::forget_old(db)?;
        }
        Ok(())
    }

    /// Gives up the guards that are dead. After an outage, or a pause of this process, the
    /// others may be as alive as this one, and as late: nothing is given up until this guard
    /// has been heard of for as long as they must not be.
    fn give_up_dead(&self, db: Db<'_>, run: &mut Option<Run>, now_ms: i64) -> Result<(), StoreError> {
        let timeout = self.database.config.node_timeout;
        let timeout_ms = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
        let is_going_on = |run: &Run| now_ms.saturating_sub(run.last_ms) < timeout_ms / 2;
        let since_ms = run.filter(is_going_on).map_or(now_ms, |run| run.since_ms);
        *run = Some(Run { since_ms, last_ms: now_ms });
        if now_ms.saturating_sub(since_ms) < timeout_ms {
            return Ok(());
        }
        for name in nodes::give_up_dead(db, self.shared.epoch(), timeout)? {
            tracing::warn!(
                event = "node_given_up",
                node = name,
                "a guard has not been heard of for cluster.node_timeout; what it held is charged"
            );
        }
        Ok(())
    }
}

/// Removes some buckets of rates that have been full for long.
fn remove_old_buckets(db: Db<'_>) -> sql::Result<()> {
    let sql = format!(
        "DELETE FROM rate WHERE (limit_name, subject) IN (SELECT limit_name, subject FROM rate \
         WHERE at_ms < {NOW_MS} - ?1 LIMIT {BUCKETS_REMOVED} FOR UPDATE SKIP LOCKED)"
    );
    db.execute(&sql, params![BUCKET_AGE_MS]).map(drop)
}

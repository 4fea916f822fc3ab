//! What a guard does every second beside admission: it says that it is alive, notices new
//! rules, gives up dead guards, and charges what they held.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use crate::store::StoreError;
use crate::store::postgres::calls::Call;
use crate::store::postgres::clock::NOW_S;
use crate::store::postgres::database::Database;
use crate::store::postgres::locks::{rules_version, working};
use crate::store::postgres::nodes;
use crate::store::postgres::shared::Shared;
use crate::store::records::Names;
use crate::store::sql::postgres::Connection;
use crate::store::sql::{Db, Result, params};

/// How often it looks.
const EVERY: Duration = Duration::from_secs(1);
/// Meters of windows that ended so long ago are removed, in seconds.
const METER_AGE_S: i64 = 86_400;
/// Meters that are removed at once.
const METERS_REMOVED: u32 = 1_000;

/// The thread that does it.
pub(super) struct Upkeep {
    pub(super) database: Arc<Database>,
    pub(super) shared: Arc<Shared>,
    pub(super) names: Arc<dyn Names>,
}

impl Upkeep {
    /// Looks every second until the sender is dropped; then leaves.
    pub(super) fn run(self, stop: &Receiver<()>) {
        let mut connection: Option<Connection> = None;
        while stop.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
            match self.look(&mut connection) {
                Ok(()) => self.shared.note_success(),
                Err(error) => {
                    self.shared.note_failure(&error);
                    connection = None;
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
    fn rejoin(&self, connection: &Connection, lost: i64) -> std::result::Result<(), StoreError> {
        let _one_at_a_time = self.shared.rejoining.blocking_lock();
        if self.shared.epoch() == lost {
            let (epoch, kept) = nodes::rejoin(connection, &self.database.config, lost)?;
            self.shared.note_rejoined(epoch, &kept);
        }
        Ok(())
    }

    fn look(&self, connection: &mut Option<Connection>) -> std::result::Result<(), StoreError> {
        let connection = working(&self.database, connection)?;
        let db = Db::Postgres(connection);
        let epoch = self.shared.epoch();
        if !nodes::say_alive(db, epoch)? {
            self.rejoin(connection, epoch)?;
        }
        let version = rules_version(db)?;
        if version > self.shared.rules_version() {
            self.shared.refresh(version);
        }
        self.shared.call_waiting();
        for name in nodes::give_up_dead(db, self.shared.epoch(), self.database.config.node_timeout)? {
            tracing::warn!(
                event = "node_given_up",
                node = name,
                "a guard has not been heard of for cluster.node_timeout; what it held is charged"
            );
        }
        let orphaned = nodes::orphaned_holds(db, &*self.names)?;
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
        remove_old_meters(db)?;
        Ok(())
    }
}

/// Removes some meters of windows that are long over and on which nothing is held.
fn remove_old_meters(db: Db<'_>) -> Result<()> {
    let sql = format!(
        "DELETE FROM meter WHERE (limit_name, subject, start_s) IN (SELECT limit_name, subject, start_s FROM meter \
         WHERE end_s < {NOW_S} - ?1 AND held = 0 \
         ORDER BY end_s LIMIT {METERS_REMOVED} FOR UPDATE SKIP LOCKED)"
    );
    db.execute(&sql, params![METER_AGE_S]).map(drop)
}

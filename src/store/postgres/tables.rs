//! The upkeep of tables: rows of meters, and months of entries.
//!
//! It may wait for what others lock or read, so it is done on a thread and a connection that no sign
//! of life waits for.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use crate::store::StoreError;
use crate::store::postgres::database::Database;
use crate::store::postgres::lease::Lease;
use crate::store::postgres::meter_rows::MeterRows;
use crate::store::postgres::months;
use crate::store::postgres::pool::Work;
use crate::store::postgres::shared::Shared;
use crate::store::sql::{Db, Lent as _};

/// How often it looks.
const EVERY: Duration = Duration::from_secs(1);
/// How often months are looked through, in looks.
const MONTHS_EACH: u64 = 60;

/// The thread that does it.
pub(super) struct TableUpkeep {
    pub(super) database: Arc<Database>,
    pub(super) shared: Arc<Shared>,
}

/// What it remembers between two looks.
#[derive(Debug, Default)]
struct Memory {
    /// How often it has looked.
    looks: u64,
    meters: MeterRows,
}

impl TableUpkeep {
    /// Looks every second until the sender is dropped.
    pub(super) fn run(self, stop: &Receiver<()>) {
        let mut memory = Memory::default();
        while stop.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
            if !self.shared.is_healthy() {
                continue;
            }
            match Lease::take(&self.database, Work::Long) {
                Ok(lease) => self.look(&lease, &mut memory),
                // All of them are at questions: it looks once one has been given back.
                Err(StoreError::NoConnection { .. }) => {}
                Err(error) => not_counted(&error),
            }
        }
    }

    fn look(&self, lease: &Lease, memory: &mut Memory) {
        memory.looks += 1;
        // For the first time at once.
        if memory.looks % MONTHS_EACH == 1
            && let Err(error) = months::keep(lease.connection())
        {
            tracing::warn!(
                event = "months_not_kept", %error,
                "the tables of months could not be made or removed this time; tried again in a minute. Entries of a month \
                 without one are in entry_default"
            );
        }
        if let Err(error) = memory.meters.look(Db::Postgres(lease.connection()), &self.shared, memory.looks) {
            not_counted(&error.into());
        }
    }
}

fn not_counted(error: &StoreError) {
    tracing::warn!(
        event = "meters_not_counted", %error,
        "the meters of a limit can't be counted, and new ones are made meanwhile, however many there are; or old ones \
         can't be removed"
    );
}

//! A connection of those that a guard shares out.

use std::sync::Arc;
use std::time::Duration;

use crate::store::StoreError;
use crate::store::postgres::database::{Config, Database};
use crate::store::postgres::locks::working;
use crate::store::postgres::pool::{Place, Work};
use crate::store::sql::Lent;
use crate::store::sql::postgres::Connection;

/// How long a statement on a snapshot may take, and a pause between two.
const SNAPSHOT_MAX: Duration = Duration::from_secs(600);

/// A connection for one question, or for one transaction. Its holder asks for no other meanwhile.
#[derive(Debug)]
pub(super) struct Lease {
    place: Place<Connection>,
}

impl Lease {
    /// Waits for a connection; an error if none comes free within `storage.connect_timeout`. It
    /// blocks.
    pub(super) fn take(database: &Arc<Database>, work: Work) -> Result<Self, StoreError> {
        let Config { connections_max, connect_timeout, .. } = database.config;
        let place = database.pool.place(work, connect_timeout);
        let mut place = place.ok_or(StoreError::NoConnection { connections_max, waited: connect_timeout })?;
        working(database, &mut place.connection)?;
        Ok(Self { place })
    }

    /// One that only reads, at the instant of its first statement. It may read all entries, and
    /// nothing waits for it. It blocks.
    pub(super) fn snapshot(database: &Arc<Database>) -> Result<Self, StoreError> {
        let lease = Self::take(database, Work::Long)?;
        lease.connection().begin_snapshot()?;
        lease.connection().may_take(SNAPSHOT_MAX, SNAPSHOT_MAX)?;
        Ok(lease)
    }
}

impl Lent for Lease {
    fn connection(&self) -> &Connection {
        self.place.connection.as_ref().expect("a lease has a connection until it is dropped")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // What was not ended, such as a snapshot, ends with the connection.
        if self.connection().is_in_transaction() {
            self.place.connection = None;
        }
    }
}

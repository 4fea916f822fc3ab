//! Connections that only read.

use std::sync::{Arc, Mutex};

use crate::store::StoreError;
use crate::store::postgres::database::Database;
use crate::store::postgres::locks::working;
use crate::store::sql::postgres::Connection;
use crate::store::sql::{self, Db};
use crate::sync::unpoisoned;

/// Reads on a connection of its own; clones share it.
#[derive(Clone, Debug)]
pub(in crate::store) struct Reader {
    database: Arc<Database>,
    connection: Arc<Mutex<Option<Connection>>>,
}

impl Reader {
    pub(super) fn new(database: Arc<Database>) -> Self {
        Self { database, connection: Arc::default() }
    }

    /// Another one to the same database.
    pub(in crate::store) fn another(&self) -> Self {
        Self::new(Arc::clone(&self.database))
    }

    /// Runs a query on the shared connection. It blocks: not for the proxy.
    pub(in crate::store) fn query<T>(
        &self,
        work: impl FnOnce(Db<'_>) -> sql::Result<T>,
    ) -> Result<T, StoreError> {
        let mut connection = unpoisoned(self.connection.lock());
        Ok(work(Db::Postgres(working(&self.database, &mut connection)?))?)
    }
}

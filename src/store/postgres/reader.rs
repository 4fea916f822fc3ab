//! Questions, on connections that all of them share.

use std::sync::Arc;

use crate::store::StoreError;
use crate::store::postgres::database::Database;
use crate::store::postgres::lease::Lease;
use crate::store::postgres::pool::Work;
use crate::store::sql::{self, Db, Lent as _};

/// Asks questions that take so long.
#[derive(Clone, Debug)]
pub(in crate::store) struct Reader {
    database: Arc<Database>,
    work: Work,
}

impl Reader {
    /// For short questions.
    pub(super) fn new(database: Arc<Database>) -> Self {
        Self { database, work: Work::Short }
    }

    /// The same for questions that take so long.
    pub(in crate::store) fn taking(&self, work: Work) -> Self {
        Self { database: Arc::clone(&self.database), work }
    }

    /// Runs a query. It blocks, until a connection is free and while the query runs: not for the
    /// proxy.
    pub(in crate::store) fn query<T>(
        &self,
        work: impl FnOnce(Db<'_>) -> sql::Result<T>,
    ) -> Result<T, StoreError> {
        let lease = Lease::take(&self.database, self.work)?;
        Ok(work(Db::Postgres(lease.connection()))?)
    }
}

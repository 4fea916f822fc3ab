//! A lane's session with PostgreSQL: each group is one transaction of two round trips.
//!
//! Statements that don't depend on each other are sent at once, and answered in their
//! order. An error rolls the transaction back, and a `COMMIT` behind it does nothing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use crate::ledger::entry::Crossing;
use crate::store::postgres::database::{Database, blocking};
use crate::store::postgres::lease::Lease;
use crate::store::postgres::nodes::{self, Rejoined};
use crate::store::postgres::pool::Work;
use crate::store::postgres::session::{Failure, Rows, Session, Wants, Writes};
use crate::store::sql::postgres::numbered;
use crate::store::sql::{Error, Lent as _, days};
use crate::store::{DatabaseError, StoreError};

pub(super) const IDS: &str = "SELECT nextval('entry_id') FROM generate_series(1, $1::bigint)";
const LAST_GROUP: &str = "SELECT group_id FROM lane WHERE epoch = $1 AND lane = $2 FOR UPDATE";

/// The class of errors of transactions that were in each other's way: deadlocks.
const IN_THE_WAY: &str = "40";
/// The classes of errors that the same statements would meet again: rows that are two where one is
/// meant, a value that has no place, that breaks a constraint, or that is too large for an index.
const REFUSED: [&str; 4] = ["21", "22", "23", "54"];

/// Why a group was not written.
pub(super) enum WriteError {
    /// The database failed, or the connection.
    Database(tokio_postgres::Error),
    /// A record has no text, or a row can't be read.
    Record(Error),
    /// There was no answer in time.
    Silent,
}

impl From<tokio_postgres::Error> for WriteError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error)
    }
}

impl From<Error> for WriteError {
    fn from(error: Error) -> Self {
        Self::Record(error)
    }
}

/// A lane's connection, and the row that stands for it.
pub(super) struct PgSession {
    pub(super) database: Arc<Database>,
    pub(super) epoch: i64,
    pub(super) lane: i64,
    pub(super) client: Client,
    pub(super) statements: HashMap<String, Statement>,
    /// The days that are summed up, as far as the open group needs them.
    pub(super) days: Vec<days::Day>,
}

impl PgSession {
    pub(super) fn new(database: Arc<Database>, client: Client, epoch: i64, lane: i64) -> Self {
        Self { database, epoch, lane, client, statements: HashMap::new(), days: Vec::new() }
    }

    /// Prepares what this connection has not prepared yet.
    pub(super) async fn prepare(&mut self, texts: &[&str]) -> Result<(), tokio_postgres::Error> {
        let mut missing: Vec<&str> =
            texts.iter().copied().filter(|text| !self.statements.contains_key(*text)).collect();
        missing.sort_unstable();
        missing.dedup();
        let client = &self.client;
        let prepare = |text: &&str| {
            let text = numbered(text);
            async move { client.prepare(&text).await }
        };
        let prepared = try_join_all(missing.iter().map(prepare)).await?;
        self.statements.extend(missing.into_iter().map(str::to_owned).zip(prepared));
        Ok(())
    }

    pub(super) async fn query(
        &self,
        text: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        self.client.query(&self.statements[text], params).await
    }

    pub(super) async fn execute(
        &self,
        text: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, tokio_postgres::Error> {
        self.client.execute(&self.statements[text], params).await
    }

    /// What an error means. The transaction is known to be rolled back only if its connection
    /// says so; what is `lost` with a connection is said by the caller.
    async fn failed(&mut self, error: WriteError, lost: fn(DatabaseError) -> Failure) -> Failure {
        let error = match error {
            WriteError::Silent => return lost(silent(self.database.answer_timeout())),
            WriteError::Record(error) => {
                return match self.roll_back().await {
                    Ok(()) => Failure::Refused(error.into()),
                    Err(_) => lost(error.into()),
                };
            }
            WriteError::Database(error) => error,
        };
        let code = error.code().cloned();
        let is_known = code != Some(SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN) && !error.is_closed();
        // With what the server said.
        let cause = DatabaseError::from(Error::from(error));
        if !is_known || self.roll_back().await.is_err() {
            return lost(cause);
        }
        match code.as_ref().and_then(|code| code.code().get(..2)) {
            Some(IN_THE_WAY) => Failure::Conflict(cause),
            Some(class) if REFUSED.contains(&class) => Failure::Refused(cause),
            _ => Failure::RolledBack(cause),
        }
    }

    /// Waits for answers as long as the database may take. It says so itself if a statement
    /// takes too long; a server or a network that has stopped says nothing.
    async fn in_time<T>(
        database: &Database,
        work: impl Future<Output = Result<T, WriteError>>,
    ) -> Result<T, WriteError> {
        tokio::time::timeout(database.answer_timeout(), work).await.unwrap_or(Err(WriteError::Silent))
    }
}

impl Session for PgSession {
    async fn open(&mut self, wants: &Wants) -> Result<Rows, Failure> {
        let database = Arc::clone(&self.database);
        match Self::in_time(&database, self.opened(wants)).await {
            Ok(Ok(rows)) => Ok(rows),
            Ok(Err(failure)) => {
                self.roll_back().await?;
                Err(failure)
            }
            Err(error) => {
                let failure = self.failed(error, Failure::Disconnected).await;
                // What a row says may be mended; the calls of the group are not at fault.
                Err(if let Failure::Refused(error) = failure { Failure::RolledBack(error) } else { failure })
            }
        }
    }

    async fn commit(&mut self, writes: &Writes<'_>) -> Result<Vec<Crossing>, Failure> {
        let database = Arc::clone(&self.database);
        match Self::in_time(&database, self.written(writes)).await {
            Ok(new) => Ok(new),
            // The commit is sent behind the other statements: whatever is lost with the
            // connection, it may have been executed.
            Err(error) => Err(self.failed(error, Failure::Unknown).await),
        }
    }

    async fn roll_back(&mut self) -> Result<(), Failure> {
        let rolled_back = self.client.batch_execute("ROLLBACK");
        answered(self.database.answer_timeout(), rolled_back).await.map_err(Failure::Disconnected)
    }

    fn epoch(&self) -> i64 {
        self.epoch
    }

    fn set_epoch(&mut self, epoch: i64) {
        self.epoch = epoch;
    }

    async fn rejoin(&mut self, epoch: i64) -> Result<HashSet<u64>, Failure> {
        let (database, lost) = (Arc::clone(&self.database), self.epoch);
        let name = database.config.node.clone();
        let rejoining = move || {
            let lease = Lease::take(&database, Work::Long)?;
            nodes::rejoin(lease.connection(), &database.config.node, lost, epoch)
        };
        match blocking(rejoining).await {
            Ok(Rejoined::With(kept)) => Ok(kept),
            Ok(Rejoined::Unknown) => Err(Failure::GoneBack),
            Ok(Rejoined::Taken) => Err(Failure::RolledBack(StoreError::NameTaken { name }.into())),
            Err(error) => Err(Failure::RolledBack(error.into())),
        }
    }

    async fn reconnect(&mut self) -> Result<i64, Failure> {
        let (connect_timeout, answer_timeout) =
            (self.database.config.connect_timeout, self.database.answer_timeout());
        let connected = answered(connect_timeout, self.database.client()).await;
        self.client = connected.map_err(Failure::Disconnected)?;
        self.statements.clear();
        let group = async {
            self.prepare(&[LAST_GROUP]).await?;
            self.client.batch_execute("BEGIN").await?;
            let rows = self.query(LAST_GROUP, &[&self.epoch, &self.lane]).await?;
            self.client.batch_execute("ROLLBACK").await?;
            let group: Result<Option<i64>, tokio_postgres::Error> =
                rows.first().map(|row| row.try_get(0)).transpose();
            group
        };
        answered(answer_timeout, group).await.map_err(Failure::Disconnected)?.ok_or(Failure::GoneBack)
    }

    async fn aside<T: Send + 'static>(&mut self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        tokio::task::spawn_blocking(work).await.ok()
    }
}

/// Waits for an answer at most for so long.
async fn answered<T>(
    longest: Duration,
    answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, DatabaseError> {
    let answer = tokio::time::timeout(longest, answer).await.map_err(|_| silent(longest))?;
    answer.map_err(|error| Error::from(error).into())
}

fn silent(waited: Duration) -> DatabaseError {
    format!("the database has not answered within {} s", waited.as_secs_f32()).into()
}

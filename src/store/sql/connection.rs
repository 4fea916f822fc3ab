//! A connection to a database, as the shared statements use it.
//!
//! [`Db`], [`Row`] and [`Error`] have an arm for each engine, and no other file of this folder
//! names one. A statement is parsed once for each connection and then found by its text, so a
//! text has its values as parameters.

use rusqlite::types::{ToSql, ToSqlOutput, Type, ValueRef};
use rusqlite::{Connection, params_from_iter};

use crate::store::StoreError;
use crate::store::sql::batch::{Batch, Kept};
use crate::store::sql::value::{FromValue, Unreadable, Value, places};
use crate::store::sql::{copy_text, postgres};

/// What became of a statement.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// A connection.
#[derive(Clone, Copy)]
pub(crate) enum Db<'c> {
    /// To a database of SQLite.
    Sqlite(&'c Connection),
    /// To a database of PostgreSQL.
    Postgres(&'c postgres::Connection),
    /// To no database yet: statements are kept, to be sent together. None can be answered.
    Batch(&'c Batch),
}

/// A connection that is owned, of either engine.
#[derive(Debug)]
pub(crate) enum Owned {
    /// To a database of SQLite.
    Sqlite(Connection),
    /// To a database of PostgreSQL.
    Postgres(Box<dyn Lent>),
}

/// A connection that goes back to its lender when dropped.
pub(crate) trait Lent: std::fmt::Debug + Send + Sync {
    /// The connection.
    fn connection(&self) -> &postgres::Connection;
}

impl Owned {
    /// The connection.
    pub(crate) fn db(&self) -> Db<'_> {
        match self {
            Self::Sqlite(db) => Db::Sqlite(db),
            Self::Postgres(lent) => Db::Postgres(lent.connection()),
        }
    }
}

/// A row of an answer. Its columns are counted from 0.
pub(crate) enum Row<'r> {
    /// Of SQLite.
    Sqlite(&'r rusqlite::Row<'r>),
    /// Of PostgreSQL.
    Postgres(&'r tokio_postgres::Row),
}

/// Why a statement or a row of its answer failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// SQLite failed.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// PostgreSQL failed, or the connection to it.
    #[error("{}", postgres::cause(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// A statement that has an answer was to be sent later.
    #[error("a query can't be sent among others")]
    Unanswered,
    /// A stored value can't be read.
    #[error(transparent)]
    Unreadable(#[from] Box<Unreadable>),
    /// A column is of another kind than the code reads.
    #[error("the column {column:?} holds {found}, and not the {wanted} that is read from it")]
    Column {
        /// Its name.
        column: String,
        /// What it holds.
        found: &'static str,
        /// What is read.
        wanted: &'static str,
    },
    /// A value has no text.
    #[error("a value can't be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// There is no row, and there should be one.
    #[error("a query that has a row in any case returned none")]
    NoRow,
    /// Other rows were changed than the statements were for.
    #[error("{changed} rows were changed, and not the {wanted} that the change is for")]
    Changed {
        /// How many were.
        changed: u64,
        /// How many should be.
        wanted: u64,
    },
}

impl Db<'_> {
    /// Runs a statement; returns how many rows it has changed.
    pub(crate) fn execute(self, sql: &str, params: &[Value<'_>]) -> Result<u64> {
        match self {
            Self::Sqlite(db) => {
                let changed = db.prepare_cached(sql)?.execute(params_from_iter(params))?;
                Ok(u64::try_from(changed).unwrap_or(u64::MAX))
            }
            Self::Postgres(db) => Ok(db.execute(sql, params)?),
            Self::Batch(batch) => {
                batch.push(sql, params);
                Ok(1)
            }
        }
    }

    /// Adds many rows to a table, with values for the columns of these names.
    pub(crate) fn insert_rows(self, table: &str, columns: &[String], rows: &[Vec<Kept>]) -> Result<()> {
        let names = columns.join(", ");
        if let Self::Postgres(db) = self {
            db.copy_in(&format!("COPY {table} ({names}) FROM STDIN"), copy_text::of(rows))?;
            return Ok(());
        }
        let insert = format!("INSERT INTO {table} ({names}) VALUES ({})", places(columns.len()));
        rows.iter().try_for_each(|row| {
            let values: Vec<Value<'_>> = row.iter().map(Kept::value).collect();
            self.execute(&insert, &values).map(drop)
        })
    }

    /// Hands out the rows of an answer, until `each` wants no more.
    ///
    /// `each` must not run a statement on the same connection: on it, the answer to this one is
    /// still being read.
    pub(crate) fn each(
        self,
        sql: &str,
        params: &[Value<'_>],
        mut each: impl FnMut(&Row<'_>) -> Result<bool>,
    ) -> Result<()> {
        match self {
            Self::Sqlite(db) => {
                let mut statement = db.prepare_cached(sql)?;
                let mut rows = statement.query(params_from_iter(params))?;
                while let Some(row) = rows.next()? {
                    if !each(&Row::Sqlite(row))? {
                        break;
                    }
                }
                Ok(())
            }
            Self::Postgres(db) => db.each(sql, params, |row| each(&Row::Postgres(row))),
            Self::Batch(_) => Err(Error::Unanswered),
        }
    }

    /// The rows of an answer.
    pub(crate) fn rows<T>(
        self,
        sql: &str,
        params: &[Value<'_>],
        mut of: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut rows = Vec::new();
        self.each(sql, params, |row| {
            rows.push(of(row)?);
            Ok(true)
        })?;
        Ok(rows)
    }

    /// The first row of an answer; an error if there is none.
    pub(crate) fn row<T>(
        self,
        sql: &str,
        params: &[Value<'_>],
        of: impl FnOnce(&Row<'_>) -> Result<T>,
    ) -> Result<T> {
        self.optional(sql, params, of)?.ok_or(Error::NoRow)
    }

    /// The first row of an answer, if there is one.
    pub(crate) fn optional<T>(
        self,
        sql: &str,
        params: &[Value<'_>],
        of: impl FnOnce(&Row<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        match self {
            Self::Sqlite(db) => {
                let mut statement = db.prepare_cached(sql)?;
                let mut rows = statement.query(params_from_iter(params))?;
                rows.next()?.map(|row| of(&Row::Sqlite(row))).transpose()
            }
            Self::Postgres(db) => {
                let (mut of, mut found) = (Some(of), None);
                db.each(sql, params, |row| {
                    if let Some(of) = of.take() {
                        found = Some(of(&Row::Postgres(row))?);
                    }
                    Ok::<_, Error>(false)
                })?;
                Ok(found)
            }
            Self::Batch(_) => Err(Error::Unanswered),
        }
    }

    /// Whether an answer has a row.
    pub(crate) fn exists(self, sql: &str, params: &[Value<'_>]) -> Result<bool> {
        Ok(self.optional(sql, params, |_| Ok(()))?.is_some())
    }

    /// Does work in a transaction that may write: all of it, or nothing.
    pub(crate) fn transaction<T>(self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        match self {
            Self::Sqlite(db) => {
                let run = |statement| db.prepare_cached(statement)?.execute([]);
                if !db.is_autocommit() {
                    // Left behind by a rollback that failed, or by a panic.
                    run("ROLLBACK")?;
                }
                run("BEGIN IMMEDIATE")?;
                let done = work().and_then(|done| {
                    run("COMMIT")?;
                    Ok(done)
                });
                if done.is_err() && !db.is_autocommit() {
                    run("ROLLBACK")?;
                }
                done
            }
            // Part of the transaction that is open.
            Self::Postgres(db) if db.is_in_transaction() => work(),
            Self::Postgres(db) => {
                db.begin()?;
                ended(db, work())
            }
            Self::Batch(_) => work(),
        }
    }

    /// Reads with several statements what was written at one instant: that of the transaction
    /// which is open, or else of the first statement.
    pub(crate) fn snapshot<T>(self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        match self {
            Self::Sqlite(db) => {
                let _snapshot = db.is_autocommit().then(|| db.unchecked_transaction()).transpose()?;
                work()
            }
            Self::Postgres(db) if db.is_in_transaction() => work(),
            Self::Postgres(db) => {
                db.begin_snapshot()?;
                ended(db, work())
            }
            Self::Batch(_) => work(),
        }
    }
}

/// Ends a transaction by what has become of the work in it.
fn ended<T>(db: &postgres::Connection, done: Result<T>) -> Result<T> {
    match done {
        Ok(done) => {
            db.commit()?;
            Ok(done)
        }
        Err(error) => {
            // A connection that is gone has rolled back.
            let _ = db.roll_back();
            Err(error)
        }
    }
}

impl Row<'_> {
    /// What a column says.
    pub(crate) fn get<T: FromValue>(&self, at: usize) -> Result<T> {
        let value = self.value(at)?;
        T::from_value(value).ok_or_else(|| self.unlike(at, value, T::NAME))
    }

    /// The text of a column.
    pub(crate) fn text(&self, at: usize) -> Result<&str> {
        let value = self.value(at)?;
        if let Value::Text(text) = value { Ok(text) } else { Err(self.unlike(at, value, "text")) }
    }

    /// The text of a column that may have none.
    pub(crate) fn optional_text(&self, at: usize) -> Result<Option<&str>> {
        if self.value(at)? == Value::Null { Ok(None) } else { self.text(at).map(Some) }
    }

    /// The value of a column.
    pub(crate) fn value(&self, at: usize) -> Result<Value<'_>> {
        match self {
            Self::Sqlite(row) => {
                let value = row.get_ref(at)?;
                match value {
                    ValueRef::Null => Ok(Value::Null),
                    ValueRef::Integer(number) => Ok(Value::Int(number)),
                    ValueRef::Text(_) => Ok(Value::Text(value.as_str().map_err(rusqlite::Error::from)?)),
                    ValueRef::Blob(bytes) => Ok(Value::Blob(bytes)),
                    ValueRef::Real(_) => {
                        Err(rusqlite::Error::InvalidColumnType(at, self.name(at), Type::Real).into())
                    }
                }
            }
            Self::Postgres(row) => Ok(postgres::value(row, at)?),
        }
    }

    fn name(&self, at: usize) -> String {
        match self {
            Self::Sqlite(row) => row.as_ref().column_name(at).map_or_else(|_| at.to_string(), str::to_owned),
            Self::Postgres(row) => {
                row.columns().get(at).map_or_else(|| at.to_string(), |column| column.name().to_owned())
            }
        }
    }

    fn unlike(&self, at: usize, found: Value<'_>, wanted: &'static str) -> Error {
        Error::Column { column: self.name(at), found: found.kind(), wanted }
    }
}

impl Error {
    /// Whether it is one of a stored value, and the statement itself did not fail.
    pub(crate) fn is_unreadable(&self) -> bool {
        matches!(self, Self::Unreadable(_) | Self::Sqlite(rusqlite::Error::FromSqlConversionFailure(..)))
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        Error::from(error).into()
    }
}

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        match error {
            Error::Sqlite(error) => error.into(),
            // The cause says which value it is, and where.
            Error::Unreadable(cause) => Self::Unreadable(cause),
            error @ (Error::Postgres(_)
            | Error::Unanswered
            | Error::Column { .. }
            | Error::Json(_)
            | Error::NoRow
            | Error::Changed { .. }) => Self::Failed(error.into()),
        }
    }
}

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match *self {
            Self::Null => ValueRef::Null,
            Self::Int(number) => ValueRef::Integer(number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

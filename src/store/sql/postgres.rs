//! A connection that threads use: each call blocks until the database has answered.
//!
//! For reports and for operators' changes, on threads that no request runs on. Lanes use
//! the same connections without blocking, and send many statements at once.

use std::borrow::Cow;
use std::collections::HashMap;
use std::pin::pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, TryStreamExt as _};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Row, Statement};

use crate::store::sql::Value;
use crate::sync::unpoisoned;

/// A connection with the statements that were prepared on it.
pub(crate) struct Connection {
    client: Client,
    /// Moves what is sent and received.
    driver: AbortHandle,
    runtime: Handle,
    /// How long an answer may take, unless the open transaction says otherwise.
    answer_timeout: Duration,
    deadline_ms: AtomicU64,
    statements: Mutex<HashMap<String, Statement>>,
    in_transaction: AtomicBool,
}

impl Connection {
    /// A connection that a task on a runtime drives.
    pub(crate) fn new(
        (client, driver): (Client, AbortHandle),
        runtime: Handle,
        answer_timeout: Duration,
    ) -> Self {
        let (statements, in_transaction) = (Mutex::default(), AtomicBool::new(false));
        let deadline_ms = AtomicU64::new(0);
        let made = Self { client, driver, runtime, answer_timeout, deadline_ms, statements, in_transaction };
        made.set_deadline(answer_timeout);
        made
    }

    /// Whether the connection is gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Whether a transaction is open.
    pub(crate) fn is_in_transaction(&self) -> bool {
        self.in_transaction.load(Ordering::Relaxed)
    }

    pub(crate) fn set_in_transaction(&self, is_open: bool) {
        self.in_transaction.store(is_open, Ordering::Relaxed);
    }

    /// Begins a transaction.
    pub(crate) fn begin(&self) -> Result<(), tokio_postgres::Error> {
        self.batch("BEGIN")?;
        self.set_in_transaction(true);
        Ok(())
    }

    /// Begins a transaction that only reads, at one instant. The lock keeps entries in the partitions
    /// that they are in at that instant.
    pub(crate) fn begin_snapshot(&self) -> Result<(), tokio_postgres::Error> {
        self.set_in_transaction(true);
        let begun = self.batch(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; LOCK TABLE ONLY entry IN ACCESS SHARE MODE",
        );
        if begun.is_err() {
            // The lock may have failed, and not the first of the two. Where this fails, the
            // connection is gone.
            let _ = self.roll_back();
        }
        begun
    }

    /// Sets how long each statement of the open transaction may take, and each pause in it.
    pub(crate) fn may_take(&self, statement: Duration, pause: Duration) -> Result<(), tokio_postgres::Error> {
        self.batch(&format!(
            "SET LOCAL statement_timeout = {}; SET LOCAL idle_in_transaction_session_timeout = {}",
            statement.as_millis(),
            pause.as_millis()
        ))?;
        self.set_deadline(self.answer_timeout.saturating_add(statement));
        Ok(())
    }

    /// From here on, statements and pauses may take any time.
    pub(crate) fn may_take_any_time(&mut self) -> Result<(), tokio_postgres::Error> {
        self.answer_timeout = Duration::MAX;
        self.set_deadline(self.answer_timeout);
        self.batch("SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0")
    }

    fn set_deadline(&self, deadline: Duration) {
        let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        self.deadline_ms.store(deadline_ms, Ordering::Relaxed);
    }

    /// Waits for an answer. The database itself ends a statement that takes too long; one that says
    /// nothing until the deadline counts as lost, and with it the connection.
    fn wait<T>(
        &self,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, tokio_postgres::Error> {
        // For its timers.
        let _entered = self.runtime.enter();
        let deadline = Duration::from_millis(self.deadline_ms.load(Ordering::Relaxed));
        pollster::block_on(async {
            let mut answer = pin!(answer);
            if let Ok(answer) = tokio::time::timeout(deadline, &mut answer).await {
                return answer;
            }
            self.driver.abort();
            answer.await
        })
    }

    /// Commits the open transaction.
    pub(crate) fn commit(&self) -> Result<(), tokio_postgres::Error> {
        self.set_in_transaction(false);
        self.set_deadline(self.answer_timeout);
        self.batch("COMMIT")
    }

    /// Rolls the open transaction back.
    pub(crate) fn roll_back(&self) -> Result<(), tokio_postgres::Error> {
        self.set_in_transaction(false);
        self.set_deadline(self.answer_timeout);
        self.batch("ROLLBACK")
    }

    /// Runs a statement; returns how many rows it has changed.
    pub(crate) fn execute(&self, sql: &str, params: &[Value<'_>]) -> Result<u64, tokio_postgres::Error> {
        self.wait(async {
            let statement = self.prepared(sql).await?;
            self.client.execute_raw(&statement, params).await
        })
    }

    /// Runs statements without parameters.
    pub(crate) fn batch(&self, sql: &str) -> Result<(), tokio_postgres::Error> {
        self.wait(self.client.batch_execute(sql))
    }

    /// Runs a `COPY … FROM STDIN` with rows in its text format; returns how many there were.
    pub(crate) fn copy_in(&self, sql: &str, rows: String) -> Result<u64, tokio_postgres::Error> {
        self.wait(async {
            let mut sink = pin!(self.client.copy_in(sql).await?);
            sink.send(Bytes::from(rows)).await?;
            sink.finish().await
        })
    }

    /// Hands out each row of a query until `each` returns `false`.
    pub(crate) fn each<E: From<tokio_postgres::Error>>(
        &self,
        sql: &str,
        params: &[Value<'_>],
        mut each: impl FnMut(&Row) -> Result<bool, E>,
    ) -> Result<(), E> {
        let rows = self.wait(async {
            let statement = self.prepared(sql).await?;
            self.client.query_raw(&statement, params).await
        })?;
        let mut rows = pin!(rows);
        while let Some(row) = self.wait(rows.try_next())? {
            if !each(&row)? {
                break;
            }
        }
        Ok(())
    }

    async fn prepared(&self, sql: &str) -> Result<Statement, tokio_postgres::Error> {
        if let Some(statement) = unpoisoned(self.statements.lock()).get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(&numbered(sql)).await?;
        unpoisoned(self.statements.lock()).insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// What a column of a row says.
pub(crate) fn value(row: &Row, at: usize) -> Result<Value<'_>, tokio_postgres::Error> {
    let kind = row.columns().get(at).map(|column| column.type_().clone());
    match kind {
        Some(Type::TEXT | Type::VARCHAR | Type::NAME) => {
            Ok(row.try_get::<_, Option<&str>>(at)?.map_or(Value::Null, Value::Text))
        }
        Some(Type::BYTEA) => Ok(row.try_get::<_, Option<&[u8]>>(at)?.map_or(Value::Null, Value::Blob)),
        Some(Type::INT4) => {
            Ok(row.try_get::<_, Option<i32>>(at)?.map_or(Value::Null, |number| Value::Int(number.into())))
        }
        Some(Type::BOOL) => {
            Ok(row.try_get::<_, Option<bool>>(at)?.map_or(Value::Null, |is| Value::Int(is.into())))
        }
        // Of any other type, the error says which.
        _ => Ok(row.try_get::<_, Option<i64>>(at)?.map_or(Value::Null, Value::Int)),
    }
}

/// A text as PostgreSQL can store it: it has no NUL, and what a client sends may.
pub(crate) fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{2400}").into() } else { text.into() }
}

/// A statement with PostgreSQL's placeholders: `$1` for `?1`.
pub(crate) fn numbered(sql: &str) -> String {
    let mut text = String::with_capacity(sql.len());
    let mut chars = sql.chars().peekable();
    while let Some(c) = chars.next() {
        let is_placeholder = c == '?' && chars.peek().is_some_and(char::is_ascii_digit);
        text.push(if is_placeholder { '$' } else { c });
    }
    text
}

impl ToSql for Value<'_> {
    fn to_sql(
        &self,
        of: &Type,
        out: &mut bytes::BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Int(number) => number.to_sql(of, out),
            Self::Text(text) => storable(text).to_sql(of, out),
            Self::Blob(bytes) => bytes.to_sql(of, out),
        }
    }

    fn accepts(of: &Type) -> bool {
        [Type::INT8, Type::TEXT, Type::BYTEA].contains(of)
    }

    to_sql_checked!();
}

/// An error with its causes: the first alone says little.
pub(crate) fn cause(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let why = source.to_string();
        if !text.ends_with(&why) {
            text = format!("{text}: {why}");
        }
        next = source.source();
    }
    text
}

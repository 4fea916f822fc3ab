//! A change of the rules: keys, projects, limits, switches.
//!
//! It is one transaction. From its beginning no other guard makes one; from its first write
//! on, no group is open on any guard. Its commit sets the new version of the rules in every
//! lane, so that the next group of each guard finds its rules outdated before it admits.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

use crate::domain::Limit;
use crate::ledger::account::Account;
use crate::store::StoreError;
use crate::store::postgres::activation;
use crate::store::postgres::database::{Database, blocking};
use crate::store::postgres::locks::{lock_lanes, lock_rules, working};
use crate::store::postgres::past::Pasts;
use crate::store::postgres::shared::Shared;
use crate::store::postgres::whole::{credit_segments, segments_text};
use crate::store::records::{ActiveLimit, AuditRow, RecordChange};
use crate::store::sql::codec::uint;
use crate::store::sql::postgres::Connection;
use crate::store::sql::{self, Db, audit, changes, credit, params};

/// How long a statement may take that puts limits in force: it may replace millions of meters.
const ACTIVATION_MAX: Duration = Duration::from_secs(60);

/// How long the guard may pause between two statements of a change.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// An open change. Dropped before it is finished, it leaves nothing behind.
#[derive(Debug)]
pub struct Change {
    shared: Arc<Shared>,
    connection: OwnedMutexGuard<Option<Connection>>,
    /// The version that it makes.
    version: i64,
    /// What limits have settled that it puts in force.
    pasts: Box<Pasts>,
    has_written: bool,
    is_open: bool,
}

impl Change {
    /// Waits until no other guard makes a change, and reads again what others have changed.
    pub(super) async fn begin(
        database: Arc<Database>,
        shared: Arc<Shared>,
        mut connection: OwnedMutexGuard<Option<Connection>>,
    ) -> Result<Self, StoreError> {
        blocking(move || {
            working(&database, &mut connection)?.begin()?;
            let is_open = true;
            let (pasts, has_written) = (Box::default(), false);
            let mut change = Self { shared, connection, version: 0, pasts, has_written, is_open };
            let known = change.connection.as_ref().ok_or(StoreError::Unavailable)?;
            known.may_take(database.config.statement_timeout, PAUSE_MAX)?;
            let version = lock_rules(change.db()?)?;
            // While the rules are locked no other guard changes them, so memory can't be ahead.
            if version < change.shared.rules_version() {
                change.shared.note_gone_back();
                return Err(StoreError::Unavailable);
            }
            if !change.shared.refresh(version) {
                return Err(StoreError::Unavailable);
            }
            change.version = version + 1;
            Ok(change)
        })
        .await
    }

    fn db(&self) -> Result<Db<'_>, StoreError> {
        let connection = self.connection.as_ref().filter(|connection| !connection.is_closed());
        connection.map(Db::Postgres).ok_or(StoreError::Unavailable)
    }

    /// Closes all lanes before the first write.
    fn still(&mut self) -> Result<(), StoreError> {
        if !self.has_written {
            lock_lanes(self.db()?)?;
            self.has_written = true;
        }
        Ok(())
    }

    /// Writes changes with their rows of the audit log.
    pub async fn write(
        mut self,
        changes: Vec<RecordChange>,
        audited: Vec<AuditRow>,
    ) -> Result<Self, StoreError> {
        blocking(move || {
            self.still()?;
            let (db, version) = (self.db()?, self.version);
            for change in &changes {
                apply(db, change, version)?;
            }
            audited.iter().try_for_each(|row| audit::insert(db, row))?;
            Ok(self)
        })
        .await
    }

    /// Those of the limits whose past has to be added up before this change can put them in force.
    /// `pasts` is what was added up so far. Nothing is written by this, and no request waits.
    pub async fn lacking(
        mut self,
        limits: Vec<ActiveLimit>,
        mut pasts: Pasts,
    ) -> Result<(Self, Vec<Arc<Limit>>), StoreError> {
        blocking(move || {
            let lacking = activation::lacking(self.db()?, &limits, &mut pasts)?;
            *self.pasts = pasts;
            Ok((self, lacking))
        })
        .await
    }

    /// Puts limits in force, and makes the meters of those that count something else than
    /// before. A past that was not added up before is added up while all guards wait.
    pub async fn activate(
        mut self,
        of_file: Vec<(String, String)>,
        limits: Vec<ActiveLimit>,
    ) -> Result<Self, StoreError> {
        blocking(move || {
            let is_as_before = activation::is_in_force(self.db()?, &of_file, &limits)?;
            if !is_as_before {
                self.still()?;
                let long = self.connection.as_ref().ok_or(StoreError::Unavailable)?;
                long.may_take(ACTIVATION_MAX, PAUSE_MAX)?;
                let pasts = std::mem::take(&mut *self.pasts);
                activation::activate(self.db()?, &of_file, &limits, pasts)?;
            }
            Ok(self)
        })
        .await
    }

    /// The id of a record that is made in this change.
    pub async fn new_id(mut self) -> Result<(Self, u64), StoreError> {
        blocking(move || {
            // After all that was admitted before it.
            self.still()?;
            let id = self.db()?.row("SELECT nextval('entry_id')", &[], |row| row.get(0).map(uint))?;
            Ok((self, id))
        })
        .await
    }

    /// Commits it, and puts it in force on this guard.
    pub async fn finish(mut self) -> Result<(), StoreError> {
        blocking(move || {
            if !self.has_written {
                return Ok(());
            }
            let (db, version) = (self.db()?, self.version);
            db.execute("UPDATE rules SET version = ?1 WHERE id = 1", params![version])?;
            db.execute("UPDATE lane SET rules_version = ?1 WHERE state = 'alive'", params![version])?;
            let committed = self.connection.as_ref().ok_or(StoreError::Unavailable)?.commit();
            self.is_open = false;
            // After an error it may have been committed all the same: the next group finds the version.
            committed?;
            let shared = Arc::clone(&self.shared);
            drop(self);
            shared.refresh(version);
            Ok(())
        })
        .await
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        if self.is_open {
            // Closed with the change open, it rolls back, and this thread waits for nothing.
            *self.connection = None;
        }
    }
}

fn apply(db: Db<'_>, change: &RecordChange, version: i64) -> sql::Result<()> {
    changes::apply(db, change)?;
    // By this, other guards find what they have to read again.
    if let RecordChange::PutKey(key) = change {
        db.execute("UPDATE api_key SET changed = ?2 WHERE id = ?1", params![key.id, version])?;
    }
    if let RecordChange::InsertGrant(grant, _) = change {
        put_credit(db, grant.expires_s)?;
    }
    Ok(())
}

/// Adds a grant that was written to the segments of prepaid credit.
fn put_credit(db: Db<'_>, expires_s: Option<i64>) -> sql::Result<()> {
    let grants: Vec<_> = credit::grants(db)?.into_iter().map(|(grant, _)| grant).collect();
    let Some((first, new)) = grants.first().zip(grants.last()) else { return Ok(()) };
    let known = credit_segments(db)?;
    let mut account = Account::new(first.id);
    if let Some(segments) = &known {
        account.restore_segments(segments);
    }
    account.cut(expires_s);
    account.add(Arc::new(new.clone()));
    let text = segments_text(account.segments())?;
    db.execute(
        "INSERT INTO credit (id, segments) VALUES (1, ?1) ON CONFLICT (id) DO UPDATE SET segments = excluded.segments",
        params![text],
    )
    .map(drop)
}

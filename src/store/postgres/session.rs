//! What a lane asks of its database: a group is opened, decided, and written.
//!
//! The lanes are written against this seam, so that a simulated database can stand behind
//! them, which is slow, cut off, restarted, or loses the answer to a commit.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::Money;
use crate::ledger::account::Segment;
use crate::ledger::entry::{Crossing, Entry, Hold, Job};
use crate::ledger::meter::Meter;
use crate::ledger::shared::{MeterKey, RowCount};
use crate::store::DatabaseError;
use crate::store::objects::ObjectChange;
use crate::store::records::AuditRow;
use crate::throttle::shared::{BucketKey, Buckets};

/// What a group needs before it can be decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wants {
    /// The version of the rules by which this is known.
    pub rules_version: i64,
    /// The meters that it counts on, in the order of locks.
    pub meters: Vec<(MeterKey, Need)>,
    /// Holds of dead guards, which another guard may have charged by now.
    pub orphans: Vec<u64>,
    /// Holds of jobs that end, which another guard may have ended by now.
    pub jobs: Vec<u64>,
    /// Holds that are to be those of jobs, which another lane may have ended by now.
    pub holds: Vec<u64>,
    /// Whether prepaid credit counts.
    pub credit: bool,
    /// The buckets of rates that it takes from or gives back to, in the order of locks.
    pub rates: Vec<BucketKey>,
    /// Entries that it corrects, which others may correct, too.
    pub corrected: Vec<u64>,
    /// How many ids it takes beyond those that are left.
    pub ids: usize,
    /// The earliest admission among what ends, in Unix seconds: sums of days from there on
    /// may have to be added to.
    pub summed_from_s: Option<i64>,
}

/// How a group needs a meter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// It had a row before.
    Known,
    /// It may have no row yet, and gets one.
    New,
    /// It counts if it has a row; without one, a request that counts on it is refused.
    IfThere,
}

/// The rows of a group, locked until it is written or rolled back.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    /// The last group of the lane that was committed.
    pub group: i64,
    /// The version of the rules that is in force.
    pub rules_version: i64,
    /// The meters, in the order in which they were wanted. `None` has no row.
    pub meters: Vec<Option<Meter>>,
    /// The rows of meters that were made.
    pub made: Vec<RowCount>,
    /// Those of the orphans that are open.
    pub orphans: Vec<u64>,
    /// Those of the holds of jobs that are open.
    pub jobs: Vec<u64>,
    /// Those of the holds that are to be those of jobs that are open.
    pub holds: Vec<u64>,
    /// What each entry that it corrects comes to with its corrections by now, if it is there.
    pub booked: HashMap<u64, Money>,
    /// The segments of prepaid credit.
    pub credit: Option<Vec<Segment>>,
    /// The buckets of rates that have a row.
    pub rates: Buckets,
    /// The ids.
    pub ids: Vec<u64>,
    /// The database's time, in Unix milliseconds.
    pub now_ms: i64,
}

impl Rows {
    /// The database's time, since the Unix epoch.
    pub(super) fn now(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.now_ms).unwrap_or(0))
    }
}

/// What a group has come to, to be written in its transaction.
#[derive(Debug, Default)]
pub(super) struct Writes<'a> {
    /// Which group of its lane it is; ascending.
    pub group: i64,
    /// Holds of admitted requests.
    pub holds: Vec<Arc<Hold>>,
    /// Ids of holds that have ended.
    pub ended: Vec<u64>,
    /// Holds that are those of jobs from now on.
    pub jobs: Vec<(&'a Arc<Hold>, &'a Job)>,
    /// Endings.
    pub entries: Vec<&'a Entry>,
    /// Endings of holds of dead guards.
    pub charges: Vec<Entry>,
    /// Corrections, whose ids were given out in this group.
    pub corrections: Vec<Entry>,
    /// Thresholds that were crossed; each is written once, with a line of the ledger.
    pub crossings: Vec<Crossing>,
    /// What was learned of objects.
    pub objects: Vec<&'a [ObjectChange]>,
    /// Rows of the audit log.
    pub audited: Vec<AuditRow>,
    /// The meters' new values.
    pub meters: Vec<(MeterKey, Meter)>,
    /// The segments of prepaid credit.
    pub credit: Option<Vec<Segment>>,
    /// The buckets of rates that have changed.
    pub rates: Buckets,
}

/// Why a group is not known to be written.
#[derive(Debug)]
pub(super) enum Failure {
    /// The lane was given up by another guard, or has no row. Joining again tells which.
    GivenUp,
    /// The database knows less than it did.
    GoneBack,
    /// The transaction was rolled back since another was in its way, and the connection can be
    /// used.
    Conflict(DatabaseError),
    /// The transaction was rolled back, and the connection can be used.
    RolledBack(DatabaseError),
    /// The same, and the same statements would be refused again: a value has no place in its
    /// column, or a row is there already.
    Refused(DatabaseError),
    /// The connection is gone; the transaction can't have been committed.
    Disconnected(DatabaseError),
    /// The connection is gone since the commit was asked for.
    Unknown(DatabaseError),
}

/// One connection of a guard, and the row that stands for it.
pub(super) trait Session: Send {
    /// Opens a group's transaction: locks the lane's row and all that the group wants.
    fn open(&mut self, wants: &Wants) -> impl Future<Output = Result<Rows, Failure>> + Send;

    /// Writes the open group and commits it. Returns the crossings that are new.
    fn commit(&mut self, writes: &Writes<'_>) -> impl Future<Output = Result<Vec<Crossing>, Failure>> + Send;

    /// Rolls the open group back.
    fn roll_back(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// The epoch of its guard.
    fn epoch(&self) -> i64;

    /// Goes on in another epoch of its guard.
    fn set_epoch(&mut self, epoch: i64);

    /// Joins again as an epoch, after its guard was given up. Returns the ids of holds that are
    /// still its own. Where it is not known whether that was done, it may be repeated.
    fn rejoin(&mut self, epoch: i64) -> impl Future<Output = Result<HashSet<u64>, Failure>> + Send;

    /// Connects again after a failure. Returns the last group of this lane that was
    /// committed: by then each of its transactions has ended, whatever became of the lane.
    fn reconnect(&mut self) -> impl Future<Output = Result<i64, Failure>> + Send;

    /// Does work that blocks, on a thread where no task waits behind it. `None` if it failed.
    fn aside<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Option<T>> + Send;
}

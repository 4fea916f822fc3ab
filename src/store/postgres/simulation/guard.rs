//! A guard of a world: the lanes of the real one over simulated connections, with what stands
//! around them.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use crate::domain::Limit;
use crate::ledger::Ledger;
use crate::ledger::entry::Crossing;
use crate::ledger::locked::LockedLedger;
use crate::store::postgres::lane::Lane;
use crate::store::postgres::nodes::LANES;
use crate::store::postgres::shared::{RulesFollower, Shared};
use crate::store::postgres::simulation::connection::{Connection, Link};
use crate::store::postgres::simulation::database::{Database, Ended};
use crate::store::postgres::simulation::rules::RulesRead;
use crate::store::postgres::simulation::session::{Pinned, SimulatedSession};
use crate::store::postgres::simulation::switch::{Stoppable, Switch};
use crate::store::{Observer, StoreError};
use crate::sync::unpoisoned;
use crate::throttle::Throttle;

/// Requests that may be open at once.
const SLOTS: usize = 64;
/// How long a guard that leaves waits for its requests.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// How long its lanes may take to write the last groups.
const LANES_END_MAX: Duration = Duration::from_secs(2);

/// What the rules are put in force in.
pub(super) struct Parts {
    database: Arc<Database>,
    pub(super) ledger: Arc<LockedLedger>,
    pub(super) revoked: Mutex<BTreeSet<usize>>,
    pub(super) rates: Mutex<Arc<Throttle>>,
    /// The guard's time, less what has elapsed, in Unix milliseconds.
    began_ms: AtomicI64,
    /// How much faster than the database's its clock runs, in thousandths.
    drift: i64,
}

impl Parts {
    fn elapsed_ms(&self) -> i64 {
        let elapsed_ms = i64::try_from(self.database.log.elapsed().as_millis()).unwrap_or_default();
        elapsed_ms + elapsed_ms * self.drift / 1_000
    }

    /// The guard's time, in Unix milliseconds.
    pub(super) fn now_ms(&self) -> i64 {
        self.began_ms.load(Ordering::Relaxed) + self.elapsed_ms()
    }

    fn follow(&self, now_ms: i64) {
        self.began_ms.store(now_ms - self.elapsed_ms(), Ordering::Relaxed);
    }

    fn put_in_force(&self, read: RulesRead) -> i64 {
        let RulesRead { rules, account, .. } = read;
        let (rates, metered): (Vec<Arc<Limit>>, Vec<_>) =
            rules.limits.into_values().partition(|limit| limit.is_rate());
        *unpoisoned(self.revoked.lock()) = rules.revoked;
        let mut throttle = unpoisoned(self.rates.lock());
        *throttle = Arc::new(Throttle::new(&rates, &throttle));
        drop(self.ledger.lock().put_in_force(&metered, account, rules.version, self.now_ms()));
        rules.version
    }
}

/// Reads the rules again.
struct Follower {
    parts: Arc<Parts>,
    link: Arc<Link>,
    pinned: Pinned,
}

impl RulesFollower for Follower {
    fn refresh(&self) -> Result<i64, StoreError> {
        if self.link.is_cut() {
            return Err(StoreError::Unavailable);
        }
        let known = self.parts.ledger.lock().rules_version();
        // What another refresh has overtaken is read again, as one that waits for it does.
        let pinned = unpoisoned(self.pinned.lock()).take().filter(|read| read.rules.version >= known);
        Ok(self.parts.put_in_force(pinned.unwrap_or_else(|| self.parts.database.read_rules())))
    }
}

/// Follows the database's clock.
struct Watcher(Arc<Parts>);

impl Observer for Watcher {
    fn committing(&self) {}

    fn committed(&self) {}

    fn failed(&self, _: &(dyn std::error::Error + 'static)) {}

    fn recovered(&self) {}

    fn crossed(&self, _: &Crossing) {}

    fn at_ms(&self, now_ms: i64) {
        self.0.follow(now_ms);
    }
}

/// The claim to the job of an object, until it is dropped.
pub(super) struct Claim<'a> {
    guard: &'a Guard,
    object: u64,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        unpoisoned(self.guard.claims.lock()).remove(&self.object);
    }
}

/// One start of a guard.
pub(super) struct Guard {
    pub(super) name: usize,
    pub(super) database: Arc<Database>,
    pub(super) link: Arc<Link>,
    pub(super) shared: Arc<Shared>,
    pub(super) parts: Arc<Parts>,
    pub(super) slots: Arc<Semaphore>,
    pub(super) switch: Arc<Switch>,
    /// Its clients that still ask or wait.
    pub(super) busy: AtomicUsize,
    /// The objects of jobs that one of its tasks changes now.
    claims: Mutex<BTreeSet<u64>>,
    is_leaving: AtomicBool,
    tasks: Mutex<Vec<AbortHandle>>,
    lanes: Mutex<Vec<JoinHandle<()>>>,
    own: TaskTracker,
}

impl Guard {
    /// Joins the database, reads the rules, and starts the lanes.
    pub(super) async fn start(
        database: &Arc<Database>,
        name: usize,
        link: &Arc<Link>,
    ) -> Result<Arc<Self>, Ended> {
        let mut own = Connection::open(database, link).await?;
        let epoch = database.draw(|chance| i64::try_from(chance.within(1, 1 << 50)).unwrap());
        if !own.call(Arc::clone(database).join(own.id, name, epoch)).await? {
            return Err(Ended::RolledBack("its name is another's"));
        }
        let of = Arc::clone(database);
        let read = own.call(async move { Ok(of.read_rules()) }).await?;
        let apart_ms = database.draw(|chance| chance.one(&[-1, 0, 1])) * database.plan.apart_ms;
        let parts = Arc::new(Parts {
            database: Arc::clone(database),
            ledger: Arc::new(LockedLedger::new(Ledger::shared())),
            revoked: Mutex::default(),
            rates: Mutex::default(),
            began_ms: AtomicI64::new(database.plan.base_ms + apart_ms),
            drift: database.draw(|chance| chance.one(&[-30, 0, 0, 1, 30])),
        });
        // Until here its clock may be minutes ahead or behind.
        parts.follow(read.now_ms);
        let version = parts.put_in_force(read);
        let observer = Box::new(Watcher(Arc::clone(&parts)));
        let shared = Arc::new(Shared::new(Arc::clone(&parts.ledger), observer, version, epoch));
        let pinned = Pinned::default();
        let (of, to) = (Arc::clone(&parts), Arc::clone(link));
        let _ = shared.follower.set(Arc::new(Follower { parts: of, link: to, pinned: Arc::clone(&pinned) }));
        let mut lanes = Vec::new();
        for lane in LANES {
            let connection = Connection::open(database, link).await?;
            let (database, link, pinned) = (Arc::clone(database), Arc::clone(link), Arc::clone(&pinned));
            let session = SimulatedSession { database, link, connection, pinned, name, epoch, lane };
            lanes.push(Lane::new(session, Arc::clone(&shared)));
        }
        let guard = Arc::new(Self {
            name,
            database: Arc::clone(database),
            link: Arc::clone(link),
            shared,
            parts,
            slots: Arc::new(Semaphore::new(SLOTS)),
            switch: Arc::default(),
            busy: AtomicUsize::new(0),
            claims: Mutex::default(),
            is_leaving: AtomicBool::new(false),
            tasks: Mutex::default(),
            lanes: Mutex::default(),
            own: TaskTracker::new(),
        });
        for lane in lanes {
            let lane = guard.own.spawn(Stoppable::new(lane.run(), &guard.switch));
            unpoisoned(guard.tasks.lock()).push(lane.abort_handle());
            unpoisoned(guard.lanes.lock()).push(lane);
        }
        Ok(guard)
    }

    /// Runs one of its tasks, until it is killed.
    pub(super) fn run(&self, task: impl Future<Output = ()> + Send + 'static) {
        let task = self.own.spawn(Stoppable::new(task, &self.switch));
        unpoisoned(self.tasks.lock()).push(task.abort_handle());
    }

    /// Claims the job of an object, unless another of its tasks has.
    pub(super) fn claim(&self, object: u64) -> Option<Claim<'_>> {
        let is_free = unpoisoned(self.claims.lock()).insert(object);
        is_free.then(|| Claim { guard: self, object })
    }

    /// Whether its clients are to ask for nothing more.
    pub(super) fn is_closing(&self) -> bool {
        self.is_leaving.load(Ordering::Relaxed) || self.database.is_calm()
    }

    /// Ends all of its tasks, wherever they are.
    pub(super) fn kill(&self) {
        self.database.log.note(&format!("guard {} is killed", self.name));
        self.end();
        self.database.state().oracle.lose(self.name);
    }

    fn end(&self) {
        unpoisoned(self.tasks.lock()).drain(..).for_each(|task| task.abort());
    }

    /// Ends as a guard does that is asked to: it writes what is queued and says that it leaves.
    pub(super) async fn leave(&self) {
        self.database.log.note(&format!("guard {} is to leave", self.name));
        self.is_leaving.store(true, Ordering::Relaxed);
        let drained = timeout(DRAIN_MAX, async {
            while self.busy.load(Ordering::Relaxed) > 0 {
                sleep(Duration::from_millis(50)).await;
            }
        });
        let is_drained = drained.await.is_ok();
        self.shared.queue.close();
        let lanes = std::mem::take(&mut *unpoisoned(self.lanes.lock()));
        let written = timeout(LANES_END_MAX, async {
            for lane in lanes {
                let _ = lane.await;
            }
        });
        if written.await.is_err() || !is_drained {
            self.database.state().oracle.lose(self.name);
        }
        if let Ok(mut own) = Connection::open(&self.database, &self.link).await {
            let leaving = Arc::clone(&self.database).leave(own.id, self.shared.epoch());
            let _ = own.call(leaving).await;
        }
        self.end();
    }
}

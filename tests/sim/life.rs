//! One life of the guard, from its start on what the last one left.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, UNIX_EPOCH};

use arc_swap::ArcSwap;
use http::Uri;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rusqlite::Connection;
use spendguard::app::rules;
use spendguard::clock::Clock;
use spendguard::config::Settings;
use spendguard::jobs::{OVERDUE_MAX, Poller};
use spendguard::net::{Timeouts, converse};
use spendguard::proxy::in_flight::RequestIds;
use spendguard::proxy::{Proxy, Rules};
use spendguard::startup::{self, Opened};
use spendguard::store::{BackgroundWriter, Store};
use spendguard::upstream::Upstream;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;

use crate::account::locked;
use crate::chance::Chance;
use crate::covered::{self, Written};
use crate::wire::{End, now};
use crate::world::World;

/// Ways in which the disk fails.
pub(crate) const SOUND: u64 = 0;
pub(crate) const NO_COMMIT: u64 = 1;
pub(crate) const INTERRUPTED: u64 = 2;
pub(crate) const FULL: u64 = 3;

/// Keeps what is pruned, in the database itself, so that it dies and rises with it.
const ARCHIVE: &str = "
CREATE TABLE IF NOT EXISTS archive AS SELECT * FROM entry WHERE 0;
CREATE TRIGGER IF NOT EXISTS archived BEFORE DELETE ON entry BEGIN
    INSERT INTO archive SELECT * FROM entry WHERE id = OLD.id;
END;";

/// A guard that is serving.
pub(crate) struct Life {
    pub(crate) opened: Opened,
    pub(crate) rules: Arc<ArcSwap<Rules>>,
    proxy: Arc<Proxy>,
    writer: Arc<Mutex<BackgroundWriter>>,
    is_over: Arc<AtomicBool>,
    poller: Option<AbortHandle>,
    watcher: Option<AbortHandle>,
    timeouts: Timeouts,
    stop: watch::Sender<bool>,
}

impl Life {
    /// Starts a guard on the world's folder.
    pub(crate) async fn start(world: &Arc<World>, settings: &Settings, base_ms: i64) -> Self {
        let life = world.next_life();
        let store = Store::open(&world.folder(), settings.durability).unwrap();
        let config = startup::Config { open_requests_max: 50, zone: Arc::clone(&settings.zone) };
        let clock = Arc::new(clock(world, base_ms));
        let (opened, writer) = startup::open(store, &config, clock, Arc::default()).unwrap();
        let (writer, is_over) = (Arc::new(Mutex::new(writer)), Arc::new(AtomicBool::new(false)));
        lock(&writer).disturb(|db| db.execute_batch(ARCHIVE).unwrap());
        lock(&writer).disturb(|db| break_on_command(db, Arc::clone(&world.disk), now()));
        let mut written = Written::default();
        lock(&writer).disturb(|db| {
            written = covered::note_written(db);
            locked(&world.covered).rise(db);
        });
        let steps =
            steps(Arc::clone(world), (Arc::clone(&writer), written), Arc::clone(&is_over), world.fork());
        world.tasks.spawn(steps);
        let Opened { directory, rulebook, .. } = &opened;
        directory.install_file_projects(settings.projects.iter().cloned());
        // The disk may fail in the middle of a start, which is then begun again.
        while rulebook.install_file_limits(settings.limits.clone(), Arc::clone(&settings.zone)).await.is_err()
        {
            sleep(Duration::from_millis(100)).await;
        }
        while rulebook.set_credit_terms(settings.credit).await.is_err() {
            sleep(Duration::from_millis(100)).await;
        }
        let dial = Dial { world: Arc::downgrade(world), life };
        let upstream = Arc::new(Upstream::over(dial, &rules::upstream(settings)));
        let (rules, _) = rules::of(settings, Arc::new([upstream])).unwrap();
        let rules = Arc::new(ArcSwap::from_pointee(rules));
        opened.stops.set_fuses(settings.fuses.clone());
        let (stop, stopping) = watch::channel(false);
        let proxy = Proxy {
            guard: Arc::clone(&opened.guard),
            opened: opened.clone(),
            rules: Arc::clone(&rules),
            shard: 0,
            ids: Arc::new(RequestIds::new().unwrap()),
            tracker: TaskTracker::new(),
            stop: stopping,
        };
        let timeouts = rules::timeouts(settings);
        Self {
            opened,
            rules,
            proxy: Arc::new(proxy),
            writer,
            is_over,
            poller: None,
            watcher: None,
            timeouts,
            stop,
        }
    }

    /// Asks for the outcome of jobs from now on.
    pub(crate) fn ask_for_jobs(&mut self, tasks: &TaskTracker) {
        let poller = Poller::new(Arc::clone(&self.opened.guard), Arc::clone(&self.rules), OVERDUE_MAX);
        self.poller = Some(tasks.spawn(poller.run(self.stop.subscribe())).abort_handle());
    }

    /// Watches what is spent, for the fuses, from now on.
    pub(crate) fn watch(&mut self, tasks: &TaskTracker) {
        let (stops, stop) = (Arc::clone(&self.opened.stops), self.stop.subscribe());
        self.watcher = Some(tasks.spawn(async move { stops.watch(stop).await }).abort_handle());
    }

    /// What goes on beside connections: sockets, and answers that are read without their clients.
    pub(crate) fn beside(&self) -> TaskTracker {
        self.proxy.tracker.clone()
    }

    /// Serves a connection of a client.
    pub(crate) fn serve(&self, end: End, tasks: &TaskTracker) {
        let proxy = Arc::clone(&self.proxy);
        let service = service_fn(move |request| {
            let proxy = Arc::clone(&proxy);
            async move { Ok::<_, Infallible>(proxy.handle(request).await) }
        });
        tasks.spawn(converse(end, self.timeouts, self.stop.subscribe(), service));
    }

    /// Breaks or repairs the disk by what only the connection itself can do.
    pub(crate) fn page_count_max(&self, most: Option<u32>) {
        lock(&self.writer).disturb(|db| {
            let pages: u32 = db.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap_or(0);
            let most = most.map_or(i64::from(u32::MAX) - 1, |more| i64::from(pages + more));
            // The answer is the new bound.
            let _ = db.query_row(&format!("PRAGMA max_page_count = {most}"), [], |_| Ok(()));
        });
    }

    /// Moves the log into the database, as the checkpoint's thread would.
    pub(crate) fn checkpoint(&self) {
        lock(&self.writer).checkpoint();
    }

    /// Puts back what was pruned, for a look at all entries there ever were.
    pub(crate) fn unarchive(&self) {
        let back = "DROP TRIGGER archived; INSERT OR IGNORE INTO entry SELECT * FROM archive";
        lock(&self.writer).disturb(|db| db.execute_batch(back).unwrap());
    }

    /// Ends it as kill -9 does: nothing of it is heard of any more.
    pub(crate) fn end(self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.poller.into_iter().chain(self.watcher).for_each(|task| task.abort());
    }
}

/// A wall clock that is as far off as the world says.
fn clock(world: &Arc<World>, base_ms: i64) -> Clock {
    let (began, off_ms) = (world.clock_began(), Arc::clone(&world.clock_off_ms));
    Clock::with_wall(move || {
        let ms = base_ms + off_ms.load(Ordering::Relaxed);
        UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).unwrap()) + now().duration_since(began)
    })
}

/// What the writer's threads do, in simulated time.
async fn steps(
    world: Arc<World>,
    (writer, written): (Arc<Mutex<BackgroundWriter>>, Written),
    is_over: Arc<AtomicBool>,
    mut chance: Chance,
) {
    while !is_over.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(chance.within(1, world.step_max_ms()))).await;
        if !is_over.load(Ordering::Relaxed) {
            lock(&writer).step();
            let ids = std::mem::take(&mut *locked(&written));
            if !ids.is_empty() {
                lock(&writer).disturb(|db| {
                    if locked(&world.covered).read(db, &ids).is_err() {
                        locked(&written).extend(&ids);
                    }
                });
            }
        }
    }
}

/// Makes transactions fail, at their commit or in their middle. Which ones, and
/// how far they get, follows from the time, not from how often SQLite asks.
fn break_on_command(db: &mut Connection, disk: Arc<AtomicU64>, began: Instant) {
    let commits = Arc::clone(&disk);
    // SQLite asks a last time when a COMMIT has been done: an interrupt then would call a
    // transaction failed that is written, which no disk does.
    let is_committing = Arc::new(AtomicBool::new(false));
    let committing = Arc::clone(&is_committing);
    let on_commit = move || {
        committing.store(true, Ordering::Relaxed);
        commits.load(Ordering::Relaxed) == NO_COMMIT
    };
    db.commit_hook(Some(on_commit)).unwrap();
    let (mut at, mut asked) = (Duration::ZERO, 0);
    let interrupt = move || {
        let has_committed = is_committing.swap(false, Ordering::Relaxed);
        let before = std::mem::replace(&mut at, now().duration_since(began));
        asked = if at == before { asked + 1 } else { 0 };
        let mut chance = Chance::new(u64::try_from(at.as_micros()).unwrap());
        let is_bad = chance.percent(50) && asked >= chance.within(0, 5);
        disk.load(Ordering::Relaxed) == INTERRUPTED && is_bad && !has_committed
    };
    db.progress_handler(40, Some(interrupt)).unwrap();
}

/// Connects a guard to upstream.
#[derive(Clone)]
struct Dial {
    world: Weak<World>,
    life: u64,
}

impl tower_service::Service<Uri> for Dial {
    type Response = TokioIo<End>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let end = self.world.upgrade().and_then(|world| world.dial_upstream(self.life));
        let dialled = end.map(TokioIo::new).ok_or_else(|| io::ErrorKind::ConnectionRefused.into());
        Box::pin(ready(dialled))
    }
}

/// What must hold whenever nothing is under way: the books agree with each
/// other and with what the limits count.
pub(crate) async fn audit(world: &World, Opened { guard, books, .. }: &Opened) {
    while guard.core().flush().await.is_err() {
        sleep(Duration::from_millis(100)).await;
    }
    let report = books.verify().await.unwrap();
    world.check(report.differences.is_empty(), || format!("verify: {:?}", report.differences));
    for (limit, readings) in books.limits() {
        let sums = books.sums_from_entries(&limit.name).await.unwrap();
        // A window may have turned over meanwhile.
        let now = books.limits().into_iter().find(|(other, _)| other.name == limit.name);
        let span = now.and_then(|(_, readings)| readings.first().map(|reading| reading.span));
        for reading in readings.into_iter().filter(|reading| Some(reading.span) == span) {
            let sum = sums.get(&reading.subject).copied().unwrap_or(0);
            world.check(sum == reading.meter.settled, || {
                format!("{}: the entries of {:?} come to {sum}", limit.name, reading)
            });
        }
    }
}

fn lock(writer: &Mutex<BackgroundWriter>) -> MutexGuard<'_, BackgroundWriter> {
    writer.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Copies the database's files, not its lock: that died with its process.
pub(crate) fn copied(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for name in ["spendguard.db", "spendguard.db-wal"] {
        if from.join(name).exists() {
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}

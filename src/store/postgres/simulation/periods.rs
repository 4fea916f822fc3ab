//! Clients of objects that are billed by time. Each object is a job, whose hold is replaced by
//! that of its next period; the steps are those of the real guard (`proxy::accrual`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::domain::Money;
use crate::domain::demand::Bound;
use crate::ledger::entry::{Basis, Entry, Hold, Job, Kind, OpenJob};
use crate::store::Slot;
use crate::store::postgres::calls::{Call, Renewed};
use crate::store::postgres::simulation::chance::Chance;
use crate::store::postgres::simulation::clients::{self, KEYS};
use crate::store::postgres::simulation::connection::Connection;
use crate::store::postgres::simulation::database::Ended;
use crate::store::postgres::simulation::guard::Guard;
use crate::store::postgres::simulation::oracle::{
    Object, Period, STORE, number_of, object_id, passed, span_text,
};

/// How long the hold of a period suffices, in seconds: longer than an object lives.
const HELD_S: i64 = 60;
/// Objects that live at once: so few that guards meet at each.
const OBJECTS_MAX: usize = 3;
/// How often it is tried to change a job that others change at the same time, and the pause.
const ATTEMPTS: usize = 20;
const PAUSE: Duration = Duration::from_millis(50);
/// How long a request waits for its hold.
const PATIENCE: Duration = Duration::from_secs(6);

/// The hold of a period, before it is that of a job.
struct Held {
    hold: Arc<Hold>,
    slot: Slot,
    name: u64,
    object: u64,
}

/// Makes, uses, renews and deletes objects, until faults are over.
pub(super) async fn run(guard: Arc<Guard>, mut chance: Chance) {
    loop {
        sleep(Duration::from_millis(chance.within(100, 1_500))).await;
        if guard.is_closing() {
            return;
        }
        guard.busy.fetch_add(1, Ordering::Relaxed);
        match chance.within(0, 11) {
            0..=2 => make(&guard, &mut chance).await,
            3..=6 => add(&guard, &mut chance).await,
            7..=10 => renew(&guard, &mut chance).await,
            _ => {
                if let Some(object) = pick(&guard, &mut chance) {
                    delete(&guard, object).await;
                }
            }
        }
        guard.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An object that lives.
fn pick(guard: &Guard, chance: &mut Chance) -> Option<u64> {
    let state = guard.database.state();
    let living = state.oracle.objects.iter().filter(|(_, object)| object.lives());
    let living: Vec<u64> = living.map(|(number, _)| *number).collect();
    (!living.is_empty()).then(|| chance.one(&living))
}

/// Makes an object, or finds one that was made without a guard.
async fn make(guard: &Guard, chance: &mut Chance) {
    let (is_made, key) = (chance.percent(50), usize::try_from(chance.within(0, KEYS - 1)).unwrap());
    let object = {
        let oracle = &mut guard.database.state().oracle;
        if oracle.objects.values().filter(|object| object.lives()).count() >= OBJECTS_MAX {
            return;
        }
        oracle.add_object(key, i64::try_from(chance.within(1, 3)).unwrap(), is_made)
    };
    if is_made {
        return;
    }
    let Some(held) = hold(guard, object, 0).await else { return };
    if chance.percent(10) {
        return release(guard, held);
    }
    let from_ms = guard.database.now_ms();
    guard.database.state().oracle.make_object(object, from_ms, guard.database.is_calm());
    let given_up = chance.percent(20).then(|| Duration::from_millis(chance.within(0, 200)));
    if let Err(held) = detach(guard, held, Period { from_ms, files: 0 }, given_up).await {
        charge(guard, held);
    }
}

/// Adds files to an object, which has a hold for them from then on.
async fn add(guard: &Guard, chance: &mut Chance) {
    let files = i64::try_from(chance.within(1, 100)).unwrap();
    let Some(object) = pick(guard, chance) else { return };
    let Some(mut held) = hold(guard, object, files).await else { return };
    if !guard.database.state().oracle.add_files(object, (held.name, files), &guard.database.log) {
        return release(guard, held);
    }
    let given_up = chance.percent(20).then(|| Duration::from_millis(chance.within(0, 200)));
    for _ in 0..ATTEMPTS {
        let Ok(found) = find(guard, object).await else { break };
        let period = Period { from_ms: guard.database.now_ms(), files };
        let done = match found {
            None => detach(guard, held, period, given_up).await,
            Some(open) => renew_with(guard, held, &open, period).await,
        };
        match done {
            Ok(()) => return,
            Err(back) => held = back,
        }
        sleep(PAUSE).await;
    }
    charge(guard, held);
}

/// Has the next period of some job held.
async fn renew(guard: &Guard, chance: &mut Chance) {
    let Some(object) = pick(guard, chance) else { return };
    let Ok(Some(open)) = find(guard, object).await else { return };
    let Some(held) = hold(guard, object, 0).await else {
        if chance.percent(20) {
            delete(guard, object).await;
        }
        return;
    };
    sleep(Duration::from_millis(chance.one(&[0, 0, 20, 200]))).await;
    let period = Period { from_ms: guard.database.now_ms(), files: 0 };
    if let Err(held) = renew_with(guard, held, &open, period).await {
        release(guard, held);
    }
}

/// Deletes an object, and ends its job.
async fn delete(guard: &Guard, object: u64) {
    let now_ms = guard.database.now_ms();
    guard.database.state().oracle.end_object(object, now_ms);
    if let Ok(Some(open)) = find(guard, object).await {
        look(guard, &open);
    }
}

/// Ends a job whose object is over.
pub(super) fn look(guard: &Guard, open: &OpenJob) {
    let object = number_of(&open.job.object);
    let over_ms = guard.database.state().oracle.objects.get(&object).and_then(Object::over_ms);
    let (Some(over_ms), Some(_claim)) = (over_ms, guard.claim(object)) else { return };
    if let Ok(slot) = Arc::clone(&guard.slots).try_acquire_owned() {
        let until_ms = over_ms.max(Period::read(&open.job.terms).from_ms);
        let entry = Box::new(period_entry(guard, open, until_ms));
        guard.shared.queue.push(Call::EndJob(entry, Arc::clone(&open.hold), None, slot));
    }
}

/// Reserves the hold of a period.
async fn hold(guard: &Guard, object: u64, files: i64) -> Option<Held> {
    let (key, rate) = {
        let state = guard.database.state();
        let object = state.oracle.objects.get(&object)?;
        (object.key, object.rate)
    };
    let (name, _) = clients::begin(guard, key);
    if let Some(asked) = guard.database.state().oracle.asked.get_mut(&name) {
        asked.object = Some(object);
    }
    let bound = Bound { cost: Money::from_nano(files + rate * HELD_S), ..Bound::default() };
    let of = clients::attribution(key, name, "gpt");
    let admitted = timeout(PATIENCE, clients::reserve(guard, &of, bound, key, name)).await;
    let (hold, _, slot) = admitted.ok()??.accept();
    clients::check_committed(&guard.database, &hold);
    Some(Held { hold, slot, name, object })
}

/// The job of an object, by its row.
async fn find(guard: &Guard, object: u64) -> Result<Option<OpenJob>, Ended> {
    let mut own = Connection::open(&guard.database, &guard.link).await?;
    let of = Arc::clone(&guard.database);
    own.call(async move { Ok(of.find_job(STORE, &object_id(object))) }).await
}

fn job(object: u64, period: Period) -> Job {
    Job { kind: STORE.to_owned(), object: object_id(object), deadline_s: i64::MAX, terms: period.text() }
}

/// The ending of the period of a job at a time.
fn period_entry(guard: &Guard, open: &OpenJob, until_ms: i64) -> Entry {
    let Period { from_ms, files } = Period::read(&open.job.terms);
    let object = number_of(&open.job.object);
    let rate = guard.database.state().oracle.objects[&object].rate;
    Entry {
        cost: Money::from_nano(files + passed(rate, from_ms, until_ms)),
        basis: Some(Basis::Counted),
        status: 200,
        object_id: Some(open.job.object.clone()),
        note: Some(span_text(from_ms, until_ms)),
        ..Entry::ending(&open.hold, Kind::Settle, guard.parts.now_ms())
    }
}

/// Leaves a hold to the job of an object. It comes back if it is that of no job. Its request may
/// be given up meanwhile; then the hold is charged, and no job runs.
async fn detach(guard: &Guard, held: Held, period: Period, given_up: Option<Duration>) -> Result<(), Held> {
    let Some(_claim) = guard.claim(held.object) else { return Err(held) };
    let (ack, written) = oneshot::channel();
    guard.shared.queue.push(Call::Job(Arc::clone(&held.hold), job(held.object, period), ack));
    let is_job = match given_up {
        None => written.await.unwrap_or(false),
        Some(after) => {
            let Ok(written) = timeout(after, written).await else {
                let entry = assumed(guard, &held);
                guard.shared.queue.push(Call::EndJob(entry, held.hold, None, held.slot));
                return Ok(());
            };
            written.unwrap_or(false)
        }
    };
    check_job(guard, &held, is_job);
    if is_job { Ok(()) } else { Err(held) }
}

/// Settles the period of a job up to the beginning of the next one, whose hold comes back if the
/// job is not renewed.
async fn renew_with(guard: &Guard, held: Held, open: &OpenJob, next: Period) -> Result<(), Held> {
    let Some(_claim) = guard.claim(held.object) else { return Err(held) };
    let Ok(slot) = Arc::clone(&guard.slots).try_acquire_owned() else { return Err(held) };
    let Ok(Some(now)) = find(guard, held.object).await else { return Err(held) };
    let is_over = !guard.database.state().oracle.objects[&held.object].lives();
    if is_over || now.hold.id != open.hold.id {
        return Err(held);
    }
    let entry = Box::new(period_entry(guard, &now, next.from_ms));
    let (ack, written) = oneshot::channel();
    let renewed = Renewed { hold: Arc::clone(&held.hold), job: job(held.object, next), ack };
    guard.shared.queue.push(Call::EndJob(entry, now.hold, Some(Box::new(renewed)), slot));
    let is_renewed = written.await.unwrap_or(false);
    check_job(guard, &held, is_renewed);
    if is_renewed { Ok(()) } else { Err(held) }
}

/// What was answered of a hold is so: it is that of a job, or was, or it is not.
fn check_job(guard: &Guard, held: &Held, is_job: bool) {
    let (state, id) = (guard.database.state(), held.hold.id);
    let is_there = state.tables.jobs.contains_key(&id) || (is_job && state.tables.entries.contains_key(&id));
    guard.database.log.check(is_there == is_job || state.oracle.went_back, || {
        format!("hold {id} is answered to be that of a job: {is_job}, and it is: {is_there}")
    });
}

/// Releases a hold: upstream has done nothing.
fn release(guard: &Guard, held: Held) {
    let entry = Entry::ending(&held.hold, Kind::Release, guard.parts.now_ms());
    guard.shared.queue.push(Call::End(Box::new(entry), held.slot));
}

/// Charges the hold of an object that can't be followed.
fn charge(guard: &Guard, held: Held) {
    let entry = assumed(guard, &held);
    guard.shared.queue.push(Call::End(entry, held.slot));
}

fn assumed(guard: &Guard, held: &Held) -> Box<Entry> {
    if let Some(asked) = guard.database.state().oracle.asked.get_mut(&held.name) {
        asked.is_unfollowed = true;
    }
    Box::new(Entry::assumed(&held.hold, guard.parts.now_ms(), "an object that could not be followed"))
}

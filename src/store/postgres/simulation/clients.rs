//! Clients of a guard, and what upstream charges for their requests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::domain::demand::Bound;
use crate::domain::{Class, Money, Quantities};
use crate::ledger::entry::{AlertKind, Attribution, Basis, Crossing, Entry, Hold, Job, Kind};
use crate::ledger::waiting::Turn;
use crate::ledger::{NotAdmitted, ReserveRequest};
use crate::store::Slot;
use crate::store::postgres::calls::{AdmittedHold, Call, Correction, NotReserved, Reserve, TakeRates};
use crate::store::postgres::simulation::chance::Chance;
use crate::store::postgres::simulation::database::Database;
use crate::store::postgres::simulation::guard::Guard;
use crate::store::postgres::simulation::oracle::{Asked, BY_OPERATOR};
use crate::store::postgres::simulation::tables::{REFUSED, REFUSED_STATUS};
use crate::store::records::AuditRow;
use crate::sync::unpoisoned;
use crate::throttle::{RateCheck, RateCost};

pub(super) const KEYS: u64 = 4;
/// How often a request is asked again since the rules have changed.
const ATTEMPTS: usize = 5;

/// Asks again and again, until faults are over.
pub(super) async fn run(guard: Arc<Guard>, mut chance: Chance) {
    loop {
        sleep(Duration::from_millis(chance.within(0, 500))).await;
        if guard.is_closing() {
            return;
        }
        guard.busy.fetch_add(1, Ordering::Relaxed);
        request(&guard, &mut chance).await;
        guard.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whom a request is of.
pub(super) fn attribution(key: usize, name: u64, model: &str) -> Arc<Attribution> {
    Arc::new(Attribution {
        project: "project".into(),
        key: format!("key_{key}").into(),
        tags: Arc::new(BTreeMap::from([("name".to_owned(), name.to_string())])),
        model: model.into(),
        ..Attribution::default()
    })
}

async fn request(guard: &Arc<Guard>, chance: &mut Chance) {
    let Guard { database, parts, shared, .. } = &**guard;
    let key = usize::try_from(chance.within(0, KEYS - 1)).unwrap();
    if unpoisoned(parts.revoked.lock()).contains(&key) {
        return;
    }
    let is_refused = database.plan.refuses && chance.percent(3);
    let (name, room) = begin(guard, key);
    let of = attribution(key, name, if is_refused { REFUSED } else { "gpt" });
    let nano = match chance.within(0, 19) {
        0 => room / 2,
        1 => room,
        2 => room.saturating_add(1),
        3 => room / 8,
        _ => i64::try_from(chance.within(1, 300)).unwrap(),
    };
    let tokens = chance.within(1, 40);
    let bound =
        Bound { cost: Money::from_nano(nano.clamp(1, 100_000)), input_tokens: tokens, output_tokens: tokens };
    let rates =
        if database.plan.rates { take_rates(guard, &of, &bound).await } else { Some(RateCheck::default()) };
    let Some(mut rates) = rates else { return };
    let patience = if chance.percent(8) { chance.within(0, 400) } else { 600_000 };
    let admitted = timeout(Duration::from_millis(patience), reserve(guard, &of, bound, key, name)).await;
    if let Ok(Some(admitted)) = admitted
        && !chance.percent(6)
    {
        let (hold, _, slot) = admitted.accept();
        check_committed(database, &hold);
        serve(guard, chance, &hold, slot, name).await;
    }
    let unused = rates.receipt.end(RateCost { tokens, ..RateCost::default() }, Duration::ZERO);
    if !unused.is_empty() && shared.is_healthy() {
        shared.queue.give_back(unused);
    }
}

/// Registers a request. Returns its number, and what is left for it.
pub(super) fn begin(guard: &Guard, key: usize) -> (u64, i64) {
    let at_ms = guard.parts.now_ms();
    let state = &mut *guard.database.state();
    let name = u64::try_from(state.oracle.asked.len()).unwrap() + 1;
    state.oracle.asked.insert(name, Asked::new(guard.name, key));
    let room = state.oracle.room(&attribution(key, name, "gpt"), at_ms, &state.tables);
    (name, room.unwrap_or(1))
}

/// What was answered is in the database.
pub(super) fn check_committed(database: &Database, hold: &Hold) {
    let state = database.state();
    let is_there = state.tables.is_open(hold.id) || state.tables.entries.contains_key(&hold.id);
    database.log.check(is_there || state.oracle.went_back, || {
        format!("hold {} is answered and not in the database", hold.id)
    });
}

async fn take_rates(guard: &Guard, of: &Attribution, bound: &Bound) -> Option<RateCheck> {
    let throttle = unpoisoned(guard.parts.rates.lock()).clone();
    let mut takes = throttle.request_takes(of);
    let tokens = bound.input_tokens + bound.output_tokens;
    takes.extend(throttle.token_takes(of, RateCost { tokens, ..RateCost::default() }));
    takes.sort_by(|a, b| a.key.cmp(&b.key));
    if takes.is_empty() {
        return Some(RateCheck::default());
    }
    if !guard.shared.is_healthy() {
        return None;
    }
    let rules_version = guard.parts.ledger.lock().rules_version();
    let (answer, outcome) = oneshot::channel();
    guard.shared.queue.push(Call::Take(Box::new(TakeRates { takes, rules_version, answer })));
    let check = outcome.await.ok()?.ok()?.ok()?;
    let elapsed_ms = guard.database.now_ms() - guard.database.plan.base_ms;
    let state = &mut *guard.database.state();
    state.oracle.pass(&of.key, elapsed_ms, &state.tables, &guard.database.log);
    Some(check)
}

/// Reserves as the port does, again as often as the rules have changed meanwhile.
pub(super) async fn reserve(
    guard: &Guard,
    of: &Arc<Attribution>,
    bound: Bound,
    key: usize,
    name: u64,
) -> Option<AdmittedHold> {
    let Guard { database, parts, shared, slots, .. } = guard;
    for _ in 0..ATTEMPTS {
        let slot = Arc::clone(slots).acquire_owned().await.ok()?;
        let rules_version = parts.ledger.lock().rules_version();
        if unpoisoned(parts.revoked.lock()).contains(&key) || !shared.is_healthy() {
            return None;
        }
        if let Some(asked) = database.state().oracle.asked.get_mut(&name) {
            (asked.rules_version, asked.is_refused) = (rules_version, false);
        }
        let mut request = ReserveRequest::new(Arc::clone(of), bound);
        request.rules_version = rules_version;
        let (answer, outcome) = oneshot::channel();
        let at_ms = parts.now_ms();
        let reserve = Reserve { request, rules_version, at_ms, turn: Turn::Newcomer, slot, answer };
        shared.queue.push(Call::Reserve(Box::new(reserve)));
        let refused = match outcome.await.unwrap_or(Err(NotReserved::Unavailable)) {
            Ok(admitted) => return Some(admitted),
            Err(refused) => refused,
        };
        let mut state = database.state();
        let went_back = state.oracle.went_back;
        if let Some(asked) = state.oracle.asked.get_mut(&name) {
            asked.is_refused = true;
            database.log.check(asked.hold.is_none() || went_back, || {
                format!("request {name} is refused ({refused:?}) and has hold {:?}", asked.hold)
            });
        }
        if let NotReserved::NotAdmitted(NotAdmitted::ByLimit(denial)) = &refused
            && let Some(limit) = denial.limit()
        {
            let crossing = Crossing {
                mark: AlertKind::Hard,
                ..Crossing::soft(limit, "org", limit.hard.unwrap_or_default(), 0, 0, at_ms)
            };
            let slot = Arc::clone(slots).try_acquire_owned().ok()?;
            state.oracle.raise(guard.name, &crossing);
            shared.queue.push(Call::Crossings(vec![crossing], slot));
        }
        if !matches!(refused, NotReserved::Outdated) {
            return None;
        }
    }
    None
}

/// Sends a request, and ends its hold by what upstream has charged.
async fn serve(guard: &Arc<Guard>, chance: &mut Chance, hold: &Arc<Hold>, slot: Slot, name: u64) {
    let Guard { database, shared, parts, .. } = &**guard;
    let most = u64::try_from(hold.bound.cost.nano()).unwrap();
    let cost = match chance.within(0, 9) {
        0 => 0,
        1 => most,
        2..=4 => chance.within(0, most),
        _ => chance.within(0, most / 8),
    };
    let cost = i64::try_from(cost).unwrap();
    let lasts_ms = if chance.percent(10) { chance.within(5_000, 15_000) } else { chance.within(0, 3_000) };
    let steps = chance.within(1, 3);
    let key = Arc::clone(&hold.attribution.key);
    database.beside(charge(Arc::clone(database), name, key, cost, lasts_ms, steps));
    let mut is_job = false;
    if chance.percent(10) {
        let (ack, written) = oneshot::channel();
        let (kind, object) = ("batch".to_owned(), format!("batch_{name}"));
        let job = Job { kind, object, deadline_s: i64::MAX, terms: String::new() };
        shared.queue.push(Call::Job(Arc::clone(hold), job, ack));
        is_job = written.await.is_ok_and(|is_written| is_written);
    }
    sleep(Duration::from_millis(lasts_ms + 1)).await;
    if is_job {
        // Any guard may have ended it by now, and others may try at the same time.
        return end_job(guard, hold, name, slot);
    }
    let kind = if cost == 0 && chance.percent(60) { Kind::Release } else { Kind::Settle };
    let mut entry = Entry::ending(hold, kind, parts.now_ms());
    if kind == Kind::Settle {
        entry.cost = Money::from_nano(cost);
        entry.basis = Some(Basis::Reported);
        entry.quantities = Quantities::from([(Class::Input, hold.bound.input_tokens / 2)]);
        entry.status = if database.plan.refuses && chance.percent(3) { REFUSED_STATUS } else { 200 };
    }
    if entry.status == REFUSED_STATUS {
        database.state().oracle.unwritable.insert(entry.id);
    }
    if let Some(asked) = database.state().oracle.asked.get_mut(&name) {
        let tokens = i64::try_from(entry.quantities.tokens_total()).unwrap();
        asked.ended = Some((tokens, kind == Kind::Settle));
    }
    shared.queue.push(Call::End(Box::new(entry.clone()), slot));
    if !chance.percent(12) {
        return;
    }
    // Often its ending is in a group of the other lane by then.
    sleep(Duration::from_millis(chance.one(&[0, 22, 30, 60]))).await;
    if shared.flush().await.is_ok() {
        let is_there = {
            let state = database.state();
            state.tables.entries.contains_key(&entry.id)
                || state.oracle.unwritable.contains(&entry.id)
                || state.oracle.went_back
        };
        database.log.check(is_there, || format!("the ending of {} is flushed and not written", entry.id));
        if entry.status != REFUSED_STATUS && chance.percent(30) {
            correct(guard, &entry).await;
        }
    }
}

/// Ends the hold of a job that upstream is done with by what that has charged.
pub(super) fn end_job(guard: &Guard, hold: &Arc<Hold>, name: u64, slot: Slot) {
    let entry = {
        let mut state = guard.database.state();
        let Some(asked) = state.oracle.asked.get_mut(&name).filter(|asked| asked.is_done) else { return };
        let tokens = hold.bound.input_tokens / 2;
        asked.ended = Some((i64::try_from(tokens).unwrap(), true));
        Entry {
            cost: Money::from_nano(asked.truth),
            basis: Some(Basis::Reported),
            quantities: Quantities::from([(Class::Input, tokens)]),
            status: 200,
            ..Entry::ending(hold, Kind::Settle, guard.parts.now_ms())
        }
    };
    guard.shared.queue.push(Call::EndJob(Box::new(entry), Arc::clone(hold), None, slot));
}

/// An operator adds to what an entry cost.
async fn correct(guard: &Guard, entry: &Entry) {
    let correction = Entry {
        id: 0,
        kind: Kind::Adjust,
        cost: Money::from_nano(5),
        quantities: Quantities::default(),
        held: Bound::default(),
        basis: None,
        corrects: Some(entry.id),
        note: Some(BY_OPERATOR.to_owned()),
        created_ms: guard.parts.now_ms(),
        ..entry.clone()
    };
    let audited = |entry: &Entry| AuditRow {
        id: 0,
        at_ms: entry.created_ms,
        actor: String::new(),
        actor_name: String::new(),
        event: String::new(),
        project: None,
        resource: String::new(),
        before: None,
        after: None,
    };
    let Ok(slot) = Arc::clone(&guard.slots).acquire_owned().await else { return };
    let (answer, written) = oneshot::channel();
    let correction = Correction { entry: correction, audited: Box::new(audited), slot, answer };
    guard.shared.queue.push(Call::Correct(Box::new(correction)));
    if let Ok(entry) = written.await {
        let state = guard.database.state();
        let is_there = state.tables.entries.contains_key(&entry.id) || state.oracle.went_back;
        guard.database.log.check(is_there, || format!("correction {} is answered and not written", entry.id));
    }
}

/// Upstream charges a request bit by bit, whatever becomes of its guard.
async fn charge(database: Arc<Database>, name: u64, key: Arc<str>, cost: i64, lasts_ms: u64, steps: u64) {
    let parts = i64::try_from(steps).unwrap();
    for step in 1..=parts {
        if step > 1 {
            sleep(Duration::from_millis(lasts_ms / steps)).await;
        }
        let part = if step == parts { cost - cost / parts * (parts - 1) } else { cost / parts };
        database.state().oracle.charge(name, &key, part, &database.log);
        if let Some(asked) = database.state().oracle.asked.get_mut(&name).filter(|_| step == parts) {
            asked.is_done = true;
        }
    }
}

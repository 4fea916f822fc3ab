//! The last look: the ledger's entries against the true account, request by request.

use std::collections::{BTreeMap, BTreeSet};

use oracle::prices::Tier;
use spendguard::domain::Class;
use spendguard::ledger::entry::{Basis, Entry, Kind};
use spendguard::store::Reports;
use spendguard::store::reports::EntryFilter;

use crate::account::{Bill, DrawnBill};
use crate::batches::BatchBill;
use crate::containers::{self, ContainerBill};
use crate::life::Life;
use crate::realtime::{self, SessionBill};
use crate::stores::{self, StoreBill};
use crate::world::World;

/// A session of a container, and the longest period of a vector store, in milliseconds.
const SESSION_MS: u64 = 1_200_000;
const DAY_MS: u64 = 86_400_000;
/// Minutes of a container that may be booked beyond its life: a request takes time to arrive, and
/// an end to be seen.
const SEEN_LATE_MINUTES: u64 = 2;
/// The same of a vector store's storage, in seconds.
const SEEN_LATE_S: i64 = 600;

/// Whether the guard itself ended the exchange, with its client there.
fn is_served(entry: &Entry) -> bool {
    entry.status == 200 && !entry.disconnected
}

fn nano(entry: &Entry) -> u128 {
    u128::try_from(entry.cost.nano()).unwrap()
}

fn sum(entries: &[&Entry]) -> u128 {
    entries.iter().map(|entry| nano(entry)).sum()
}

/// The periods of a container against what it was billed for.
fn settle_up_container(world: &World, name: &str, bill: &ContainerBill, entries: &[&Entry]) {
    let booked = sum(entries);
    let minutes = || entries.iter().map(|entry| entry.quantities[Class::ContainerMinutes]).sum::<u64>();
    let (billed, lived) = (bill.pico().div_ceil(1_000), bill.minutes());
    world.check(booked >= billed, || {
        format!("{name} lived {lived} minutes for {billed}, booked are {booked}: {entries:?}")
    });
    // What is charged in full was not followed. Where upstream gives no answer, the guard takes a
    // container to live on.
    let is_followed = entries.iter().all(|entry| entry.basis == Some(Basis::Counted));
    let (most, deaths) = (u64::try_from(lived).unwrap() + SEEN_LATE_MINUTES, world.deaths());
    world.check(
        !is_followed || !bill.is_known(&deaths) || world.account.was_out() || minutes() <= most,
        || format!("{name} lived {lived} minutes, booked are {}: {entries:?}", minutes()),
    );
}

/// The responses and transcriptions of a session against what it was billed for. What has a usage is booked once, as it says.
fn settle_up_session(world: &World, name: &str, bill: &SessionBill, entries: &[&Entry]) {
    let (billed, booked) = (bill.pico().div_ceil(1_000), sum(entries));
    world.check(booked >= billed || world.cancels, || {
        format!("{name} cost {billed}, booked are {booked}: {bill:?} {entries:?}")
    });
    let mut seen = BTreeSet::new();
    for entry in entries {
        let Some(id) = entry.object_id.as_deref() else { continue };
        world.check(seen.insert(id), || format!("{id} of {name} is booked twice: {entries:?}"));
        let (cost, is_reported) = (bill.of(id), entry.basis == Some(Basis::Reported));
        world.check(!is_reported || cost.is_some(), || format!("{entry:?} is booked and was never billed"));
        // The uplift of a region and of a tier is assumed for models that no price of them is published for.
        let upstream = world.account.world();
        let is_exact = is_reported && !upstream.is_regional && upstream.project_tier == Tier::Standard;
        let due = cost.map(|pico| u128::from(pico).div_ceil(1_000));
        world.check(!is_exact || due == Some(nano(entry)), || {
            format!("{id} of {name} cost {due:?}, reported is {entry:?}")
        });
    }
}

/// The periods of a vector store, and the searches in it, against what it was billed for.
fn settle_up_store(world: &World, name: &str, bill: &StoreBill, entries: &[&Entry]) {
    let (billed, booked) = (bill.pico().div_ceil(1_000), sum(entries));
    world.check(booked >= billed, || format!("{name} cost {billed}, booked are {booked}: {entries:?}"));
    // What is charged in full was not followed.
    let is_followed = entries.iter().all(|entry| entry.basis.is_none_or(|basis| basis == Basis::Counted));
    let last_s = entries.iter().map(|entry| entry.created_ms.div_euclid(1_000)).max().unwrap_or(0);
    let most = bill.booked_max_pico(last_s + SEEN_LATE_S, entries.len()).div_ceil(1_000);
    world.check(!is_followed || !bill.is_known(&world.deaths()) || booked <= most, || {
        format!("{name} cost {billed}, {most} at the most, booked are {booked}: {entries:?}")
    });
}

/// The entries of a batch, one for each model, against what its lines cost.
fn settle_up_batch(world: &World, name: &str, bill: &BatchBill, entries: &[&Entry]) {
    let by_model = bill.pico_by_model();
    let story = || world.account.all_most().remove(name).unwrap_or_default();
    world.check(by_model.len() == entries.len(), || {
        format!("{name} has lines of {by_model:?}, and these entries: {entries:?}")
    });
    for entry in entries {
        let pico = by_model.get(&*entry.attribution.model).copied().unwrap_or(0);
        let billed = pico.div_ceil(1_000);
        let is_known = entry.basis.is_none_or(|basis| basis == Basis::Reported);
        let is_right = nano(entry) == billed || (nano(entry) > billed && !(is_known && bill.is_exact()));
        world.check(is_right, || format!("{name} cost {billed}, booked is {entry:?}\n  {}", story().1));
    }
    // What has no price is let through under no cap in dollars.
    let are_priced = entries.iter().all(|entry| entry.attribution.priced_as.is_some());
    let held: u128 = entries.iter().map(|entry| u128::try_from(entry.held.cost.nano()).unwrap()).sum();
    world.check(!are_priced || held * 1_000 >= story().0, || {
        format!("{name} can cost {} picodollars, held were {held} nano-dollars\n  {}", story().0, story().1)
    });
}

/// Sessions of containers that an entry is for.
fn sessions(entry: &Entry) -> u64 {
    let sizes = [
        Class::Container1gSessions,
        Class::Container4gSessions,
        Class::Container16gSessions,
        Class::Container64gSessions,
    ];
    sizes.into_iter().map(|size| entry.quantities[size]).sum()
}

/// Whether the guard documents that an entry may cost more than was held: a container that upstream neither shows nor
/// deletes, and the storage of a vector store, are booked beyond their holds where no limit has room, and a background
/// response that runs in a container is charged a session for every twenty minutes.
fn may_overrun(world: &World, entry: &Entry) -> bool {
    let is_long = entry.duration_ms > SESSION_MS && sessions(entry) > 1;
    let is_container = &*entry.attribution.endpoint == containers::PATH;
    let is_store = entry.attribution.endpoint.starts_with(stores::PATH);
    let is_unheld = entry.held.cost.nano() == 0 || entry.duration_ms > DAY_MS;
    is_long || (is_container && world.account.was_out()) || (is_store && is_unheld)
}

/// The entries of one request, which is no job of several, against its bills.
fn settle_up_request(world: &World, (name, story): (&str, &str), bills: &[Bill], of: &[&Entry]) {
    world.check(of.len() == 1, || format!("{name} was billed {bills:?} and has {} endings", of.len()));
    let Some(entry) = of.first() else { return };
    let billed = bills.iter().map(Bill::pico).sum::<u128>().div_ceil(1_000);
    let booked = nano(entry);
    let is_reported = entry.basis == Some(Basis::Reported);
    let drawn = bills.iter().filter_map(Bill::drawn);
    if is_served(entry) && drawn.clone().any(DrawnBill::was_left) {
        world.cut();
    }
    // What breaks an assumption, and is neither reported nor seen, can't be known.
    let is_known = world.is_sound() || is_reported || drawn.clone().any(|bill| world.is_seen(bill));
    // Usage is the sum of all turns: within what was held, it does not tell how large one was.
    let hides_turn = !world.is_sound()
        && entry.quantities.input_tokens_total() <= entry.held.input_tokens
        && drawn.clone().any(|bill| bill.is_long);
    let is_exempt = (world.cancels && entry.disconnected) || !is_known || hides_turn;
    world.check(booked >= billed || is_exempt, || {
        format!("{name} cost {billed}, booked is {entry:?}\n  {story}")
    });
    let is_exact = bills.iter().all(Bill::is_exact) && is_reported;
    world.check(!is_exact || booked == billed, || format!("{name} cost {billed}, reported is {entry:?}"));
}

/// The ledger against the true account, request by request.
pub(crate) async fn settle_up(world: &World, reports: &Reports) {
    let filter = EntryFilter { count_max: 1_000_000, ..EntryFilter::default() };
    // With those that were pruned.
    world.with_life(Life::unarchive);
    let entries = reports.entries(filter).await.unwrap();
    let ended = |entry: &&Entry| matches!(entry.kind, Kind::Settle | Kind::Release);
    let all_most = world.account.all_most();
    let story = |name: &str| all_most.get(name).map(|(_, story)| story.clone()).unwrap_or_default();
    let overran = |entry: &&Entry| entry.cost > entry.held.cost && !may_overrun(world, entry);
    for entry in entries.iter().filter(ended).filter(overran) {
        world.overran();
        let name = entry.attribution.tags.get("name").cloned().unwrap_or_default();
        world.check(!world.is_sound(), || format!("{name} overran its hold: {entry:?}\n  {}", story(&name)));
    }
    let bills = world.account.bills();
    for (name, bills) in &bills {
        let own = |entry: &&Entry| entry.attribution.tags.get("name") == Some(name);
        let of: Vec<&Entry> = entries.iter().filter(ended).filter(own).collect();
        match bills.as_slice() {
            [Bill::Container(bill)] => settle_up_container(world, name, bill, &of),
            [Bill::Store(bill)] => settle_up_store(world, name, bill, &of),
            [Bill::Session(bill)] => settle_up_session(world, name, bill, &of),
            [Bill::Batch(bill)] => settle_up_batch(world, name, bill, &of),
            bills => settle_up_request(world, (name, &story(name)), bills, &of),
        }
    }
    check_holds(world, &bills, &entries);
    for entry in entries.iter().filter(|entry| entry.basis == Some(Basis::Reported)) {
        if entry.attribution.endpoint.starts_with(realtime::PATH) {
            continue;
        }
        let Some(id) = entry.object_id.as_deref() else { continue };
        let prefixes = oracle::Endpoint::ALL.into_iter().filter_map(oracle::Endpoint::id_prefix);
        let name = prefixes.chain(["batch_"]).find_map(|prefix| id.strip_prefix(prefix));
        let is_known = bills.contains_key(name.unwrap_or_default()) || entry.cost.nano() == 0;
        world.check(is_known, || format!("{entry:?} is booked and was never billed"));
    }
}

/// What was held for each request against the most that it could cost.
fn check_holds(world: &World, bills: &BTreeMap<String, Vec<Bill>>, entries: &[Entry]) {
    let ended = |entry: &&Entry| matches!(entry.kind, Kind::Settle | Kind::Release);
    for (name, (most, story)) in &world.account.all_most() {
        if matches!(bills.get(name).map(Vec::as_slice), Some([Bill::Batch(_)])) {
            continue;
        }
        let own = |entry: &&Entry| ended(entry) && entry.attribution.tags.get("name") == Some(name);
        // What has no price is let through under no cap in dollars.
        let entry = entries.iter().find(own).filter(|entry| entry.attribution.priced_as.is_some());
        let held = entry.map(|entry| u128::try_from(entry.held.cost.nano()).unwrap());
        world.check(held.is_none_or(|held| held * 1_000 >= *most), || {
            format!("{name} can cost {most} picodollars, held were {held:?} nano-dollars\n  {story}")
        });
    }
}

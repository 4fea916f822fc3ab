//! Operators, the calendar, and the machine: what happens to a guard while it
//! works.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use oracle::prices::Tier;
use serde_json::json;
use spendguard::app::rules;
use spendguard::config::Settings;
use spendguard::domain::Money;
use spendguard::guard::audit::Actor;
use spendguard::ledger::entry::Kind;
use spendguard::rulebook::rule::LimitRule;
use spendguard::store::reports::EntryFilter;
use spendguard::store::reports::PruneError;
use tokio::time::{sleep, timeout};

use crate::chance::Chance;
use crate::life::{FULL, INTERRUPTED, NO_COMMIT, SOUND};
use crate::stops;
use crate::world::{AUDIT, World};

/// Instants just before something turns over, in Unix seconds: a minute, a
/// month and a year of UTC; a day in Tokyo; the gap and the overlap of Warsaw's
/// summer time.
const EVES: [i64; 5] = [
    1_798_761_570, // 2026-12-31T23:59:30Z
    1_796_083_170, // 2026-11-30T23:59:30Z
    1_796_137_170, // 2026-12-01T14:59:30Z
    1_774_745_970, // 2026-03-29T00:59:30Z
    1_792_889_970, // 2026-10-25T00:59:30Z
];

/// How long an operator waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// The instant at which a world begins, in Unix milliseconds.
pub(crate) fn eve_ms(chance: &mut Chance) -> i64 {
    chance.one(&EVES) * 1_000 + i64::try_from(chance.within(0, 40_000)).unwrap()
}

/// Settings as chance writes them.
pub(crate) fn settings(chance: &mut Chance, world: &World) -> Settings {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), config(chance, world)).unwrap();
    let environment =
        [("SPENDGUARD_UPSTREAM__BASE_URL", "http://upstream.test/v1"), ("OPENAI_API_KEY", "sk-upstream")];
    let environment = environment.map(|(key, value)| (key.to_owned(), value.to_owned()));
    spendguard::config::load(Some(file.path()), environment).unwrap()
}

fn config(chance: &mut Chance, world: &World) -> String {
    let durability = chance.one(&["process", "power"]);
    let tight = chance.one(&["clamp", "reject"]);
    let wait = chance.one(&["0s", "100ms", "2s"]);
    let on_disconnect = if world.cancels { "cancel" } else { "drain" };
    let prompts = chance.one(&["refuse", "allow"]);
    let shared = chance.one(&["true", "false"]);
    let (output, calls) = (chance.one(&[500, 16_384]), chance.one(&[1, 2, 8]));
    let tools = chance.one(&["practical", "practical", "practical", "strict"]);
    let upstream = world.account.world();
    let tier = if upstream.project_tier == Tier::Priority { "priority" } else { "default" };
    let region = if upstream.is_regional { "region = \"us\"\n" } else { "" };
    let mut text = format!(
        "[server]\nheader_timeout = \"3s\"\n[storage]\ndurability = \"{durability}\"\n\
         [upstream]\nresponse_timeout = \"20s\"\nidle_timeout = \"10s\"\n\
         [guard]\nwhen_tight = \"{tight}\"\nclamp_output_min = 16\nhold_wait = \"{wait}\"\n\
         on_disconnect = \"{on_disconnect}\"\ndrain_max = \"15s\"\nstored_prompts = \"{prompts}\"\n\
         output_default = {output}\ntool_calls_max = {calls}\ntools_bound = \"{tools}\"\n\
         [tags]\nname = [\"x-spendguard-tags\", \"metadata.name\"]\n\
         [pricing]\ndefault_tier = \"{tier}\"\n{region}\
         [endpoints]\nshared_objects = {shared}\n[credit]\nminimum = 0.00001\nlow_balance = 0.0005\n\
         [[limit]]\nname = \"{AUDIT}\"\nwindow = \"total\"\nsoft = [0.001]\n"
    );
    if !world.is_sound() {
        // So that each request has its calls bounded, and each stream is cut that has more.
        text += "[[limit]]\nname = \"ample\"\nwindow = \"total\"\nhard = 1000000\n";
    }
    for number in 0..chance.within(1, 4) {
        let per = chance.one(&["organization", "project", "key", "user", "model", "tag:name"]);
        let window = chance.one(&["minute", "hour", "day", "month", "year", "total"]);
        let zone = chance.one(&["UTC", "Asia/Tokyo", "Europe/Warsaw"]);
        // A minute of tokens or requests is a rate: the throttle's, not the ledger's.
        let (unit, hard) = if window == "minute" {
            ("usd", dollars(chance, world.scale))
        } else {
            amount(chance, world.scale)
        };
        let only = chance.one(&["", "", "", "only = { model = [\"gpt-5*\"] }\n"]);
        text += &format!(
            "[[limit]]\nname = \"limit-{number}\"\nper = \"{per}\"\nunit = \"{unit}\"\nwindow = \"{window}\"\n\
             zone = \"{zone}\"\nhard = {hard}\nsoft = [\"50%\"]\n{only}"
        );
    }
    if world.has_stops {
        text += &stops::fuses(chance, |chance| dollars(chance, world.scale));
    }
    text
}

fn amount(chance: &mut Chance, scale: u64) -> (&'static str, String) {
    match chance.within(0, 5) {
        0 => ("tokens", (chance.within(2_000, 30_000) * scale).to_string()),
        1 => ("output_tokens", (chance.within(1_000, 20_000) * scale).to_string()),
        2 => ("requests", chance.within(5, 60).to_string()),
        _ => ("usd", dollars(chance, scale)),
    }
}

fn dollars(chance: &mut Chance, scale: u64) -> String {
    let amount = chance.within(20, 1_500) * scale;
    format!("{}.{:05}", amount / 100_000, amount % 100_000)
}

/// Does one thing after another until the world rests.
pub(crate) async fn run(world: Arc<World>, mut chance: Chance) {
    while !world.is_resting() {
        sleep(Duration::from_millis(chance.within(50, 3_000) * world.jobs.pace)).await;
        if world.is_resting() {
            break;
        }
        // A question to a guard that dies meanwhile is never answered.
        let _ = timeout(PATIENCE, act(&world, &mut chance)).await;
    }
    world.disk.store(SOUND, Ordering::Relaxed);
    world.with_life(|life| life.page_count_max(None));
}

async fn act(world: &Arc<World>, chance: &mut Chance) {
    if world.has_stops && chance.percent(35) {
        return stops::act(world, chance).await;
    }
    match chance.within(0, if world.is_prepaid { 17 } else { 13 }) {
        0 | 1 => reload(world, chance).await,
        2 => put_limit(world, chance).await,
        3 if world.corrects => correct(world, chance).await,
        4 | 5 => fail(world, chance).await,
        6 if !world.jobs.is_steady => turn_the_clock(world, chance),
        3 | 6 => {}
        7 => drop(world.with_life(crate::life::Life::checkpoint)),
        8..=10 => world.die_after(chance.within(1, 80)),
        11 if world.corrects && !world.jobs.is_steady && chance.percent(50) => prune(world).await,
        11 | 12 => sum_up(world).await,
        14..=17 => grant(world, chance).await,
        _ => world.die_now(),
    }
}

/// A changed configuration comes into force.
async fn reload(world: &World, chance: &mut Chance) {
    let settings = settings(chance, world);
    let Some(opened) = world.opened() else { return };
    world.with_life(|life| {
        let upstreams = Arc::clone(&life.rules.load().upstreams);
        let (rules, _) = rules::of(&settings, upstreams).unwrap();
        life.rules.store(Arc::new(rules));
    });
    world.changing(true);
    opened.stops.set_fuses(settings.fuses.clone());
    world.put_settings(settings.clone());
    let done = opened.rulebook.install_file_limits(settings.limits, settings.zone).await;
    world.trace(&format!("limits changed: {}", done.is_ok()));
    world.changing(false);
}

/// A limit of the API comes or goes.
async fn put_limit(world: &World, chance: &mut Chance) {
    let Some(opened) = world.opened() else { return };
    world.changing(true);
    let (unit, hard) = amount(chance, world.scale);
    let window = chance.one(&["hour", "day", "total"]);
    let rule =
        json!({ "per": chance.one(&["organization", "user"]), "unit": unit, "window": window, "hard": hard });
    let rule: LimitRule = serde_json::from_value(rule).unwrap();
    let done = if chance.percent(70) {
        opened.rulebook.put_limit("from-api", &rule, &Actor::guard()).await.is_ok()
    } else {
        opened.rulebook.remove_limit("from-api", &Actor::guard()).await.is_ok()
    };
    world.trace(&format!("limit put or removed: {done}"));
    world.changing(false);
}

/// Credit is granted, for ever or for seconds.
async fn grant(world: &World, chance: &mut Chance) {
    let Some(opened) = world.opened() else { return };
    let amount = Money::from_nano(i64::try_from(chance.within(100_000, 15_000_000) * world.scale).unwrap());
    let lives_s = i64::try_from(chance.within(1, 60)).unwrap();
    let expires_s = chance.percent(60).then(|| opened.guard.clock().now_s() + lives_s);
    let done = opened.rulebook.grant(amount, "credit".to_owned(), expires_s, &Actor::guard()).await;
    world.trace(&format!("{amount} granted until {expires_s:?}: {}", done.is_ok()));
}

/// A settled entry is corrected, upward: what was billed stays covered.
async fn correct(world: &World, chance: &mut Chance) {
    let Some(opened) = world.opened() else { return };
    // One of the first: what is read on another thread must not depend on how
    // fast that thread is.
    let oldest = EntryFilter { ascending: true, count_max: 10, ..EntryFilter::default() };
    let filter = EntryFilter { kind: Some(Kind::Settle), ..oldest };
    let Ok(entries) = opened.reports.entries(filter).await else { return };
    let at = usize::try_from(chance.within(0, 9)).unwrap();
    let Some(entry) = entries.get(at) else { return };
    world.changing(true);
    let by = Money::from_nano(i64::try_from(chance.within(1, 20_000)).unwrap());
    let done = opened.books.adjust(entry.id, by, "a correction".to_owned(), &Actor::guard()).await;
    world.trace(&format!("corrected: {}", done.is_ok()));
    world.changing(false);
}

/// Days are summed up as far as they can be.
async fn sum_up(world: &World) {
    let Some(opened) = world.opened() else { return };
    let mut steps = 0;
    while matches!(opened.books.sum_up_some().await, Ok(true)) {
        steps += 1;
    }
    world.trace(&format!("days are summed up in {steps} steps"));
}

/// More than a day passes, and what is older than one is pruned. As corrections do, it reads on a real thread.
/// What goes is archived by a trigger (see `life`), for the last look at all entries.
async fn prune(world: &World) {
    let Some(opened) = world.opened() else { return };
    world.clock_off_ms.fetch_add(26 * 3_600_000, Ordering::Relaxed);
    let done = opened.books.prune(opened.guard.clock().now_s() - 86_400, PATIENCE, &Actor::guard()).await;
    world.check(!matches!(done, Err(PruneError::Unlike { .. })), || format!("pruning: {done:?}"));
    world.trace(&format!("a day passes, and entries are pruned: {}", done.is_ok()));
}

/// The disk fails for a while.
async fn fail(world: &World, chance: &mut Chance) {
    let how = chance.one(&[NO_COMMIT, INTERRUPTED, FULL]);
    world.trace(&format!("the disk fails: {how}"));
    world.disk.store(how, Ordering::Relaxed);
    if how == FULL {
        world.with_life(|life| life.page_count_max(Some(0)));
    }
    sleep(Duration::from_millis(chance.within(1, 3_000))).await;
    world.disk.store(SOUND, Ordering::Relaxed);
    world.with_life(|life| life.page_count_max(None));
}

/// Somebody sets the clock, or its daemon does.
fn turn_the_clock(world: &World, chance: &mut Chance) {
    let by_ms = chance.one(&[-3_600_000, -60_000, -500, 500, 45_000, 7_200_000]);
    world.trace(&format!("the clock is set by {by_ms} ms"));
    world.clock_off_ms.fetch_add(by_ms, Ordering::Relaxed);
}

//! Kill switches and fuses: from when one is in force until it is lifted, nothing that it stops begins at upstream.
//!
//! A request that a client sends afterwards must not arrive there. Those that were sent before may: they may run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use spendguard::domain::Stop;
use spendguard::guard::audit::Actor;
use spendguard::startup::Opened;
use tokio::time::sleep;

use crate::account::locked;
use crate::chance::Chance;
use crate::world::World;

/// The name of each fuse, with a number behind it.
pub(crate) const FUSE: &str = "fuse";
pub(crate) const FUSES_MAX: u64 = 2;
const ORGANIZATION: &str = "organization";
const PROJECT: &str = "default";

/// What is stopped, and what was sent, in their order.
#[derive(Debug, Default)]
pub(crate) struct Stopped {
    order: u64,
    /// Stops that were in force, by their ids.
    seen: BTreeMap<u64, Seen>,
    /// Those that operators have lifted, or tried to.
    lifted: BTreeSet<u64>,
    /// Requests by their names: by which key, and when.
    sent: BTreeMap<String, (usize, u64)>,
    /// The ids of the keys.
    keys: Vec<String>,
    pub(crate) faults: Vec<String>,
}

/// A stop that was in force.
#[derive(Clone, Debug)]
struct Seen {
    stop: Arc<Stop>,
    since: u64,
}

impl Stopped {
    fn next(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    pub(crate) fn set_keys(&mut self, ids: impl IntoIterator<Item = String>) {
        self.keys.extend(ids);
    }

    /// A client is about to send a request.
    pub(crate) fn sends(&mut self, name: &str, key: usize) {
        let order = self.next();
        self.sent.insert(name.to_owned(), (key, order));
    }

    /// A request has arrived at upstream.
    pub(crate) fn begins(&mut self, name: &str) {
        let Some((key, sent)) = self.sent.get(name) else { return };
        let subjects = [ORGANIZATION, PROJECT, &self.keys[*key]];
        let stops = |seen: &&Seen| seen.since < *sent && subjects.contains(&seen.stop.spender.label());
        if let Some(seen) = self.seen.values().find(stops) {
            self.faults.push(format!("{name} has begun, and was sent after {:?}", seen.stop));
        }
    }

    /// Looks at what is in force at an instant in Unix milliseconds.
    pub(crate) fn look(&mut self, in_force: &[Arc<Stop>], now_ms: i64) {
        // What has cooled down is over, also where a clock is set back later.
        self.seen.retain(|_, seen| seen.stop.is_in_force(now_ms));
        for stop in in_force {
            if !self.lifted.contains(&stop.id) && !self.seen.contains_key(&stop.id) {
                let since = self.next();
                self.seen.insert(stop.id, Seen { stop: Arc::clone(stop), since });
            }
        }
    }

    /// What a guard has forgotten that starts with these stops, at an instant in Unix milliseconds.
    fn forgotten(&mut self, in_force: &[Arc<Stop>], now_ms: i64) -> Option<Arc<Stop>> {
        let is_known = |seen: &&Seen| in_force.iter().any(|stop| stop.id == seen.stop.id);
        let lost = self.seen.values().find(|seen| seen.stop.is_in_force(now_ms) && !is_known(seen));
        lost.map(|seen| Arc::clone(&seen.stop))
    }

    /// An operator is about to lift some.
    fn lift(&mut self, of: impl Fn(&Stop) -> bool) {
        let ids: Vec<u64> =
            self.seen.values().filter(|seen| of(&seen.stop)).map(|seen| seen.stop.id).collect();
        for id in ids {
            self.seen.remove(&id);
            self.lifted.insert(id);
        }
    }
}

/// Fuses as chance writes them.
pub(crate) fn fuses(chance: &mut Chance, dollars: impl Fn(&mut Chance) -> String) -> String {
    let mut text = String::new();
    for number in 0..chance.within(0, FUSES_MAX) {
        let per = chance.one(&["organization", "project", "key"]);
        let (usd, within) = (dollars(chance), chance.one(&["1m", "10m", "24h"]));
        let cool_down = chance.one(&["", "cool_down = \"2s\"\n", "cool_down = \"10s\"\n"]);
        text += &format!(
            "[[fuse]]\nname = \"{FUSE}-{number}\"\nper = \"{per}\"\nusd = {usd}\nwithin = \"{within}\"\n{cool_down}"
        );
    }
    text
}

/// A guard starts: what was stopped still is.
pub(crate) fn check_start(world: &World, Opened { stops, guard, .. }: &Opened) {
    let in_force = stops.in_force();
    let lost = locked(&world.account.stopped).forgotten(&in_force, guard.clock().now_ms());
    world.check(lost.is_none(), || format!("a guard starts without {lost:?}"));
}

/// A kill switch is turned on, and off again after a while; or fuses are reset.
pub(crate) async fn act(world: &World, chance: &mut Chance) {
    let Some(Opened { stops, .. }) = world.opened() else { return };
    if chance.percent(40) {
        let fuse = format!("{FUSE}-{}", chance.within(0, FUSES_MAX - 1));
        locked(&world.account.stopped).lift(|stop| stop.fuse().is_some_and(|name| **name == *fuse));
        let done = stops.reset(&fuse, None, &Actor::guard()).await;
        return world.trace(&format!("{fuse} is reset: {:?}", done.map(|stops| stops.len()).ok()));
    }
    let key = locked(&world.account.stopped).keys[usize::from(chance.percent(50))].clone();
    let subject = chance.one(&[ORGANIZATION, PROJECT, &key, &key]).to_owned();
    let done = stops.switch_on(&subject, None, &Actor::guard()).await;
    world.trace(&format!("a kill switch is on: {}", done.is_ok()));
    if done.is_ok() {
        world.look_at_stops();
    }
    sleep(Duration::from_millis(chance.within(100, 2_500))).await;
    let all = stops.in_force();
    if chance.percent(15) {
        // It stays, maybe beyond the life of the guard.
        return;
    }
    for stop in all.iter().filter(|stop| stop.fuse().is_none()) {
        locked(&world.account.stopped).lift(|seen| seen.id == stop.id);
        let done = stops.switch_off(stop.spender.label(), &Actor::guard()).await;
        world.trace(&format!("a kill switch is off: {}", done.is_ok()));
    }
}

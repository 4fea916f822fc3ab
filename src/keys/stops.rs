//! The stops in memory: asked before every request that may cost money.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::domain::{Spender, Stop};

/// Every stop, by its spender; of each spender and fuse the last one, also when it is over. A change
/// replaces all of them, so that each request sees the state before or after it.
#[derive(Debug, Default)]
pub struct Stops(ArcSwap<HashMap<Spender, Vec<Arc<Stop>>>>);

impl Stops {
    /// The stop that a key of a project is under at an instant, in Unix milliseconds; of several the
    /// one that lasts longest.
    pub fn on(&self, project: &Arc<str>, key: &Arc<str>, at_ms: i64) -> Option<Arc<Stop>> {
        self.all_on(project, key, at_ms)
            .into_iter()
            .max_by_key(|stop| (stop.over_ms().unwrap_or(i64::MAX), stop.fuse().is_none()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.load().is_empty()
    }

    /// All stops that a key of a project is under at an instant, in Unix milliseconds.
    pub fn all_on(&self, project: &Arc<str>, key: &Arc<str>, at_ms: i64) -> Vec<Arc<Stop>> {
        let all = self.0.load();
        let spenders =
            [Spender::Organization, Spender::Project(Arc::clone(project)), Spender::Key(Arc::clone(key))];
        let of_each = spenders.iter().filter_map(|spender| all.get(spender)).flatten();
        of_each.filter(|stop| stop.is_in_force(at_ms)).map(Arc::clone).collect()
    }

    /// The last stop of a spender by a fuse or, without one, by its kill switch.
    pub fn last(&self, spender: &Spender, fuse: Option<&str>) -> Option<Arc<Stop>> {
        let all = self.0.load();
        let is_it = |stop: &&Arc<Stop>| stop.fuse().map(|name| &**name) == fuse;
        all.get(spender)?.iter().find(is_it).map(Arc::clone)
    }

    /// All stops, also those that are over, in the order of their making.
    pub fn all(&self) -> Vec<Arc<Stop>> {
        let mut all: Vec<_> = self.0.load().values().flatten().map(Arc::clone).collect();
        all.sort_unstable_by_key(|stop| (stop.since_ms, stop.id));
        all
    }

    /// Those that are in force at an instant, in Unix milliseconds, in the order of their making.
    pub fn in_force(&self, at_ms: i64) -> Vec<Arc<Stop>> {
        let mut all = self.all();
        all.retain(|stop| stop.is_in_force(at_ms));
        all
    }

    /// Puts a stop in place of the last one of its spender and fuse.
    pub fn put(&self, stop: &Arc<Stop>) {
        self.change(|all| {
            let of_spender = all.entry(stop.spender.clone()).or_default();
            of_spender.retain(|known| known.fuse() != stop.fuse());
            of_spender.push(Arc::clone(stop));
        });
    }

    /// Forgets a stop.
    pub fn remove(&self, stop: &Stop) {
        self.change(|all| {
            let Some(of_spender) = all.get_mut(&stop.spender) else { return };
            of_spender.retain(|known| known.id != stop.id);
            if of_spender.is_empty() {
                all.remove(&stop.spender);
            }
        });
    }

    /// Replaces all of them.
    pub fn set(&self, stops: impl IntoIterator<Item = Stop>) {
        let mut all: HashMap<Spender, Vec<Arc<Stop>>> = HashMap::new();
        for stop in stops {
            all.entry(stop.spender.clone()).or_default().push(Arc::new(stop));
        }
        self.0.store(Arc::new(all));
    }

    fn change(&self, change: impl Fn(&mut HashMap<Spender, Vec<Arc<Stop>>>)) {
        self.0.rcu(|before| {
            let mut all = HashMap::clone(before);
            change(&mut all);
            all
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Money;
    use crate::domain::stop::Cause;

    fn stop(id: u64, spender: Spender, cause: Cause, until_ms: Option<i64>) -> Stop {
        Stop { id, spender, cause, by: String::new(), since_ms: 0, until_ms, lifted_ms: None }
    }

    fn fuse(name: &str) -> Cause {
        Cause::Fuse { name: name.into(), spent: Money::ZERO, limit: Money::ZERO }
    }

    #[test]
    fn a_key_is_under_the_stops_of_its_project_and_its_organization_and_is_refused_for_the_longest() {
        let (project, key): (Arc<str>, Arc<str>) = ("p".into(), "k".into());
        let stops = Stops::default();
        stops.set([
            stop(1, Spender::Key(Arc::clone(&key)), fuse("a"), Some(10)),
            stop(2, Spender::Project(Arc::clone(&project)), fuse("a"), Some(20)),
            stop(3, Spender::Project("other".into()), Cause::KillSwitch { note: None }, None),
        ]);
        let longest = |at_ms| stops.on(&project, &key, at_ms).map(|stop| stop.id);
        assert_eq!((longest(5), longest(15), longest(20)), (Some(2), Some(2), None));
        stops.put(&Arc::new(stop(4, Spender::Organization, Cause::KillSwitch { note: None }, None)));
        assert_eq!((longest(5), stops.all_on(&project, &key, 5).len()), (Some(4), 3));
        assert_eq!(stops.on(&"else".into(), &"k2".into(), 0).map(|stop| stop.id), Some(4));
    }

    #[test]
    fn each_fuse_and_the_kill_switch_of_a_spender_stop_it_by_themselves() {
        let spender = Spender::Key("k".into());
        let stops = Stops::default();
        for (id, cause) in [(1, fuse("a")), (2, fuse("b")), (3, Cause::KillSwitch { note: None })] {
            stops.put(&Arc::new(stop(id, spender.clone(), cause, None)));
        }
        stops.put(&Arc::new(Stop { lifted_ms: Some(1), ..stop(1, spender.clone(), fuse("a"), None) }));
        stops.remove(&stop(3, spender.clone(), Cause::KillSwitch { note: None }, None));
        assert_eq!(stops.in_force(5).iter().map(|stop| stop.id).collect::<Vec<_>>(), [2]);
        assert_eq!(stops.last(&spender, Some("a")).unwrap().over_ms(), Some(1));
        assert_eq!(stops.last(&spender, None), None);
    }
}

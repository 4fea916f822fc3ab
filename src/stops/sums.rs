//! What was spent within the time of each fuse, by spender.
//!
//! The ledger's sums by quarters of an hour are read again and again, and what they have grown by
//! was spent since the last look. So each entry counts once, whichever guard writes it and whenever,
//! at the time when it was first seen.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::domain::{Fuse, Money, Spender};
use crate::keys::Ring;
use crate::store::reports::{ROLLUP_S, RecentSpend, SpendSince, Spent};

/// Parts that the time of a fuse is divided into: what was spent in one part is forgotten at once.
const PARTS: i64 = 60;
/// Quarters of an hour whose sums are read at every look: requests seldom last longer. The others are
/// read from time to time.
const QUARTERS_OFTEN: i64 = 2;
/// How often all quarters of the longest time are read, in milliseconds.
const ALL_EVERY_MS: i64 = 60_000;
/// The most spenders that are kept of a fuse; then those that have spent the least are forgotten.
const SPENDERS_MAX: usize = 100_000;

/// A project and a key of it.
type Payer = (Arc<str>, Arc<str>);

/// What was spent lately, as the fuses of one configuration look at it.
#[derive(Debug)]
pub(super) struct Sums {
    fuses: Vec<OfFuse>,
    /// The sums of quarters of an hour when they were last read, by where these start.
    seen: HashMap<Payer, Vec<(i64, i64)>>,
    /// When all quarters were last read, in Unix milliseconds.
    all_read_ms: i64,
}

#[derive(Debug)]
struct OfFuse {
    fuse: Arc<Fuse>,
    spenders: HashMap<Spender, Recent>,
}

/// What a spender has spent, by parts of the time: since when, in Unix milliseconds, and how much, in
/// nano-dollars. The oldest first.
#[derive(Debug, Default)]
struct Recent(VecDeque<(i64, i64)>);

/// A fuse and a spender that has spent.
pub(super) type Touched = (Arc<Fuse>, Spender);

impl Sums {
    /// What is to be read at first for some fuses, at an instant in Unix milliseconds.
    pub(super) fn first(fuses: &[Arc<Fuse>], now_ms: i64) -> SpendSince {
        let often_s = often_s(now_ms);
        SpendSince { quarters_s: all_s(fuses.iter(), now_ms).min(often_s), seconds_s: Some(often_s) }
    }

    /// What is to be read at the next look.
    pub(super) fn next(&self, now_ms: i64) -> SpendSince {
        let is_all_due = now_ms.saturating_sub(self.all_read_ms) >= ALL_EVERY_MS;
        let often_s = often_s(now_ms);
        let all_s = all_s(self.fuses.iter().map(|of| &of.fuse), now_ms);
        SpendSince { quarters_s: if is_all_due { all_s.min(often_s) } else { often_s }, seconds_s: None }
    }

    /// The sums of fuses, from what was read at first. What was spent in a quarter of an hour counts from
    /// its end on, except in the last ones, which were read by the second.
    pub(super) fn of(fuses: &[Arc<Fuse>], read: &RecentSpend, ring: &Ring, now_ms: i64) -> Self {
        let fuses = fuses.iter().map(|fuse| OfFuse { fuse: Arc::clone(fuse), spenders: HashMap::new() });
        let mut sums = Self { fuses: fuses.collect(), seen: HashMap::new(), all_read_ms: now_ms };
        let often_s = often_s(now_ms);
        for spent in &read.quarters {
            sums.note(spent);
            if spent.at_s < often_s {
                let end_s = spent.at_s.saturating_add(ROLLUP_S);
                sums.add(ring, spent, spent.nano, end_s.saturating_mul(1_000));
            }
        }
        for spent in &read.seconds {
            sums.add(ring, spent, spent.nano, spent.at_s.saturating_mul(1_000));
        }
        sums
    }

    /// Adds what was spent since the last look. Returns who has spent.
    pub(super) fn look(&mut self, read: &RecentSpend, ring: &Ring, now_ms: i64) -> Vec<Touched> {
        let mut touched = Vec::new();
        for spent in &read.quarters {
            let grown = self.note(spent);
            if grown != 0 {
                touched.extend(self.add(ring, spent, grown, now_ms));
            }
        }
        touched.sort_unstable_by(|(a, who), (b, other)| (&a.name, who).cmp(&(&b.name, other)));
        touched.dedup_by(|(a, who), (b, other)| a.name == b.name && who == other);
        if now_ms.saturating_sub(self.all_read_ms) >= ALL_EVERY_MS {
            self.all_read_ms = now_ms;
            self.forget(now_ms);
        }
        touched
    }

    /// What a spender has spent within the time of a fuse before an instant, and since another, both
    /// in Unix milliseconds.
    pub(super) fn spent(&self, fuse: &str, spender: &Spender, since_ms: i64, now_ms: i64) -> Money {
        let of = self.fuses.iter().find(|of| *of.fuse.name == *fuse);
        let recent = of.and_then(|of| Some((of, of.spenders.get(spender)?)));
        recent.map_or(Money::ZERO, |(of, recent)| {
            recent.sum(since_ms.max(now_ms.saturating_sub(of.fuse.within_ms)))
        })
    }

    /// The fuses.
    pub(super) fn fuses(&self) -> impl Iterator<Item = &Arc<Fuse>> {
        self.fuses.iter().map(|of| &of.fuse)
    }

    /// Everyone who has spent within the time of a fuse.
    pub(super) fn spenders(&self, fuse: &str) -> impl Iterator<Item = &Spender> {
        let of = self.fuses.iter().find(|of| *of.fuse.name == *fuse);
        of.into_iter().flat_map(|of| of.spenders.keys())
    }

    /// Those who have spent the most within the time of a fuse.
    pub(super) fn fullest(&self, fuse: &str, count_max: usize, now_ms: i64) -> Vec<Spender> {
        let mut all: Vec<_> =
            self.spenders(fuse).map(|of| (self.spent(fuse, of, i64::MIN, now_ms), of.clone())).collect();
        all.retain(|(spent, _)| *spent > Money::ZERO);
        all.sort_unstable_by(|(a, who), (b, other)| b.cmp(a).then_with(|| who.cmp(other)));
        all.into_iter().take(count_max).map(|(_, spender)| spender).collect()
    }

    /// Remembers the sum of a quarter of an hour; returns what it has grown by.
    fn note(&mut self, spent: &Spent) -> i64 {
        let payer = (spent.project.as_str().into(), spent.key.as_str().into());
        let quarters = self.seen.entry(payer).or_default();
        if let Some((_, known)) = quarters.iter_mut().find(|(start_s, _)| *start_s == spent.at_s) {
            return spent.nano.saturating_sub(std::mem::replace(known, spent.nano));
        }
        quarters.push((spent.at_s, spent.nano));
        spent.nano
    }

    /// Adds an amount to each fuse that watches who has spent it; returns these.
    fn add(&mut self, ring: &Ring, spent: &Spent, nano: i64, at_ms: i64) -> Vec<Touched> {
        let (project, key): Payer = (spent.project.as_str().into(), spent.key.as_str().into());
        let mut touched = Vec::new();
        for of in &mut self.fuses {
            if !watches(&of.fuse, ring, &project, &key) {
                continue;
            }
            let spender = of.fuse.spender(&project, &key);
            let last = ring.stops().last(&spender, Some(&of.fuse.name)).and_then(|stop| stop.over_ms());
            let recent = of.spenders.entry(spender.clone()).or_default();
            recent.add(nano, at_ms, of.fuse.within_ms, last.unwrap_or(i64::MIN));
            touched.push((Arc::clone(&of.fuse), spender));
            if of.spenders.len() > SPENDERS_MAX {
                of.forget_half();
            }
        }
        touched
    }

    /// Forgets what is past.
    fn forget(&mut self, now_ms: i64) {
        let first_s = all_s(self.fuses.iter().map(|of| &of.fuse), now_ms).min(often_s(now_ms));
        self.seen.retain(|_, quarters| {
            quarters.retain(|(start_s, _)| *start_s >= first_s);
            !quarters.is_empty()
        });
        for of in &mut self.fuses {
            let since_ms = now_ms.saturating_sub(of.fuse.within_ms);
            of.spenders.retain(|_, recent| {
                recent.forget(since_ms);
                !recent.0.is_empty()
            });
        }
    }
}

/// Whether a fuse watches a key of a project.
pub(super) fn watches(fuse: &Fuse, ring: &Ring, project: &str, key: &str) -> bool {
    Fuse::watches(&fuse.projects, [project, &ring.project_name(project)])
        && Fuse::watches(&fuse.keys, [key, &ring.key_name(key)])
}

/// Where the quarters start that are read at every look.
fn often_s(now_ms: i64) -> i64 {
    let now_s = now_ms.div_euclid(1_000);
    now_s - now_s.rem_euclid(ROLLUP_S) - (QUARTERS_OFTEN - 1) * ROLLUP_S
}

/// Where the quarters start that the longest time of some fuses has a part in.
fn all_s<'a>(fuses: impl Iterator<Item = &'a Arc<Fuse>>, now_ms: i64) -> i64 {
    let within_ms = fuses.map(|fuse| fuse.within_ms).max().unwrap_or(0);
    let since_s = now_ms.saturating_sub(within_ms).div_euclid(1_000);
    since_s - since_s.rem_euclid(ROLLUP_S)
}

impl OfFuse {
    /// Forgets the half of the spenders that have spent the least.
    fn forget_half(&mut self) {
        let mut by_sum: Vec<(Money, Spender)> =
            self.spenders.iter().map(|(spender, recent)| (recent.sum(i64::MIN), spender.clone())).collect();
        let half = by_sum.len() / 2;
        by_sum.select_nth_unstable(half);
        for (_, spender) in by_sum.drain(..half) {
            self.spenders.remove(&spender);
        }
    }
}

impl Recent {
    /// Adds an amount at an instant to the last part, or begins one: also where what is in the last
    /// part was spent before `since_ms` and counts no more.
    fn add(&mut self, nano: i64, at_ms: i64, within_ms: i64, since_ms: i64) {
        let part_ms = (within_ms / PARTS).max(1);
        match self.0.back_mut() {
            Some((start_ms, sum)) if at_ms < start_ms.saturating_add(part_ms) && *start_ms >= since_ms => {
                *sum = sum.saturating_add(nano);
            }
            _ => {
                self.forget(at_ms.saturating_sub(within_ms));
                self.0.push_back((at_ms, nano));
            }
        }
    }

    /// What was spent from an instant on, in Unix milliseconds.
    fn sum(&self, since_ms: i64) -> Money {
        let parts = self.0.iter().filter(|(start_ms, _)| *start_ms >= since_ms);
        parts.map(|(_, nano)| Money::from_nano(*nano)).sum()
    }

    /// Forgets what was spent before an instant, in Unix milliseconds.
    fn forget(&mut self, since_ms: i64) {
        while self.0.front().is_some_and(|(start_ms, _)| *start_ms < since_ms) {
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::SpenderKind;
    use crate::domain::stop::{Cause, Stop};

    const HOUR_MS: i64 = 3_600_000;
    /// The start of a quarter of an hour.
    const NOW_MS: i64 = 2_000_000 * 900_000;

    fn fuse(name: &str, per: SpenderKind, within_ms: i64) -> Arc<Fuse> {
        Arc::new(Fuse {
            name: name.into(),
            per,
            projects: Vec::new(),
            keys: Vec::new(),
            usd: Some(Money::from_nano(5)),
            times_usual: None,
            usd_min: Money::ZERO,
            within_ms,
            cool_down_ms: None,
        })
    }

    fn spent(at_ms: i64, key: &str, nano: i64) -> Spent {
        Spent { at_s: at_ms / 1_000, project: "p".to_owned(), key: key.to_owned(), nano }
    }

    fn read(quarters: Vec<Spent>) -> RecentSpend {
        RecentSpend { quarters, seconds: Vec::new() }
    }

    #[test]
    fn what_quarters_grow_by_counts_once_and_for_as_long_as_the_fuse_looks_back() {
        let fuses = [fuse("key", SpenderKind::Key, 600_000), fuse("all", SpenderKind::Organization, HOUR_MS)];
        let ring = Ring::default();
        let mut sums = Sums::of(&fuses, &RecentSpend::default(), &ring, NOW_MS);
        let (one, all) = (Spender::Key("k".into()), Spender::Organization);
        let look = |sums: &mut Sums, nano: i64, at_ms: i64| {
            let touched = sums.look(&read(vec![spent(NOW_MS, "k", nano)]), &ring, at_ms);
            touched.into_iter().map(|(fuse, _)| fuse.name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(look(&mut sums, 3, NOW_MS + 100), ["all", "key"]);
        assert_eq!(look(&mut sums, 3, NOW_MS + 200), [""; 0], "nothing is new");
        look(&mut sums, 10, NOW_MS + 300_000);
        let of = |sums: &Sums, at_ms| {
            ["key", "all"].map(|name| {
                let spender = if name == "key" { &one } else { &all };
                sums.spent(name, spender, 0, at_ms).nano()
            })
        };
        assert_eq!(of(&sums, NOW_MS + 300_000), [10, 10]);
        assert_eq!(of(&sums, NOW_MS + 700_000), [7, 10], "the first three are past for one");
        look(&mut sums, 8, NOW_MS + 700_000);
        assert_eq!(of(&sums, NOW_MS + 700_000), [5, 8], "a correction takes back");
        assert_eq!(of(&sums, NOW_MS + 2 * HOUR_MS), [0, 0]);
    }

    #[test]
    fn what_was_spent_before_a_fuse_was_reset_counts_no_more_and_what_follows_does() {
        let (fuses, ring) = ([fuse("key", SpenderKind::Key, HOUR_MS)], Ring::default());
        let mut sums = Sums::of(&fuses, &RecentSpend::default(), &ring, NOW_MS);
        let spender = Spender::Key("k".into());
        let cause = Cause::Fuse { name: "key".into(), spent: Money::ZERO, limit: Money::ZERO };
        let (since_ms, lifted_ms) = (NOW_MS + 10, Some(NOW_MS + 20));
        let (id, by) = (1, String::new());
        let look = |sums: &mut Sums, nano: i64, at_ms: i64| {
            sums.look(&read(vec![spent(NOW_MS, "k", nano)]), &ring, at_ms);
        };
        look(&mut sums, 6, NOW_MS + 5);
        let reset = Stop { id, spender: spender.clone(), cause, by, since_ms, until_ms: None, lifted_ms };
        ring.stops().put(&Arc::new(reset));
        let counted = |sums: &Sums| sums.spent("key", &spender, NOW_MS + 20, NOW_MS + 30).nano();
        assert_eq!(counted(&sums), 0);
        look(&mut sums, 8, NOW_MS + 30);
        assert_eq!(counted(&sums), 2);
    }

    #[test]
    fn a_start_reads_back_by_the_second_and_further_back_by_the_quarter() {
        let (fuses, ring) = ([fuse("key", SpenderKind::Key, HOUR_MS)], Ring::default());
        let first = Sums::first(&fuses, NOW_MS + 1);
        assert_eq!(
            first,
            SpendSince { quarters_s: (NOW_MS - HOUR_MS) / 1_000, seconds_s: Some(NOW_MS / 1_000 - 900) }
        );
        let quarters =
            vec![spent(NOW_MS - HOUR_MS, "k", 1), spent(NOW_MS - 900_000, "k", 20), spent(NOW_MS, "k", 300)];
        let seconds = vec![spent(NOW_MS - 100_000, "k", 20), spent(NOW_MS, "k", 300)];
        let mut sums =
            Sums::of(&fuses, &RecentSpend { quarters: quarters.clone(), seconds }, &ring, NOW_MS + 1);
        let at = |sums: &Sums, at_ms| sums.spent("key", &Spender::Key("k".into()), 0, at_ms).nano();
        assert_eq!(at(&sums, NOW_MS + 1), 321);
        assert_eq!(at(&sums, NOW_MS + 900_001), 320, "a quarter counts from its end on");
        assert_eq!(at(&sums, NOW_MS + HOUR_MS - 50_000), 300);
        sums.look(&read(quarters), &ring, NOW_MS + 2);
        assert_eq!(at(&sums, NOW_MS + 2), 321, "what was read counts once");
    }

    #[test]
    fn the_time_of_a_fuse_has_a_bounded_number_of_parts() {
        let mut recent = Recent::default();
        for ms in 0..HOUR_MS / 100 {
            recent.add(1, ms * 100, HOUR_MS / 2, i64::MIN);
        }
        assert!(recent.0.len() <= 61, "{}", recent.0.len());
        assert_eq!(recent.sum(i64::MIN).nano() / 600, 30);
    }

    #[test]
    fn of_too_many_spenders_those_that_have_spent_the_least_are_forgotten() {
        let mut of = OfFuse { fuse: fuse("key", SpenderKind::Key, HOUR_MS), spenders: HashMap::new() };
        for number in 0..100 {
            let recent = Recent(VecDeque::from([(0, number)]));
            of.spenders.insert(Spender::Key(number.to_string().into()), recent);
        }
        of.forget_half();
        assert_eq!(of.spenders.len(), 50);
        assert!(of.spenders.values().all(|recent| recent.sum(0).nano() >= 50));
    }
}

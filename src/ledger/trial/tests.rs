//! What a trial rejects is what a plain account of the same requests would.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::domain::demand::{Bound, Tier};
use crate::domain::limit::{Mode, Only, Per, Source, Unit};
use crate::domain::{Class, Quantities, Window};
use crate::ledger::calendar::Windows;
use crate::ledger::entry::{Basis, Hold, Kind};
use crate::ledger::meter::Subject;

/// An hour before summer time begins in Warsaw: 2026-03-29T00:00:00Z.
const START_MS: i64 = 1_774_742_400_000;

fn limit(name: &str, per: Per, unit: Unit, window: Window, hard: i64) -> Arc<Limit> {
    Arc::new(Limit {
        name: name.into(),
        per,
        only: Only::default(),
        unit,
        window,
        zone: "Europe/Warsaw".into(),
        soft: Vec::new(),
        hard: Some(hard),
        mode: Mode::Enforce,
        source: Source::Api,
    })
}

/// One request of the past.
#[derive(Clone, Debug)]
struct Asked {
    key: u8,
    run: Option<u8>,
    wait_ms: i64,
    held: i64,
    /// What it cost, in hundredths of what was held.
    share: i64,
    lasted_ms: i64,
}

fn asked() -> impl Strategy<Value = Asked> {
    let parts =
        (0_u8..3, prop::option::of(0_u8..2), 0_i64..2_000_000, 1_i64..100, 0_i64..=100, 0_i64..5_000_000);
    parts.prop_map(|(key, run, wait_ms, held, share, lasted_ms)| Asked {
        key,
        run,
        wait_ms,
        held,
        share,
        lasted_ms,
    })
}

fn entries(asked: &[Asked]) -> Vec<Entry> {
    let mut at_ms = START_MS;
    let mut id = 0;
    let mut entry = |of: &Asked| {
        at_ms += of.wait_ms;
        id += 1;
        let tags = of.run.map(|run| ("run".to_owned(), format!("r{run}")));
        let attribution = Arc::new(Attribution {
            key: format!("key_{}", of.key).into(),
            tags: Arc::new(tags.into_iter().collect()),
            model: "m".into(),
            priced_as: Some("m".into()),
            ..Attribution::default()
        });
        let bound = Bound { cost: Money::from_nano(of.held), input_tokens: 1, output_tokens: 1 };
        let hold = Hold {
            id,
            admitted_ms: at_ms,
            attribution,
            bound,
            tier: Tier::default(),
            price_version: "v".into(),
            stream: false,
        };
        Entry {
            cost: Money::from_nano(of.held * of.share / 100),
            quantities: Quantities::from([(Class::Input, 1), (Class::Output, 1)]),
            basis: Some(Basis::Reported),
            ..Entry::ending(&hold, Kind::Settle, at_ms + of.lasted_ms)
        }
    };
    asked.iter().map(&mut entry).collect()
}

/// The meters of a limit that an entry counts on, by hand.
fn subject(limit: &Limit, of: &Attribution) -> Option<String> {
    match &limit.per {
        Per::Key => Some(of.key.to_string()),
        Per::Tag(name) => of.tags.get(&**name).map(|value| format!("{}/{name}={value}", of.key)),
        Per::Organization | Per::Project | Per::User | Per::Model => Some("org".to_owned()),
    }
}

/// Whether a request fits a limit, beside those that were admitted before.
fn fits(limit: &Limit, admitted: &[&Entry], entry: &Entry) -> bool {
    let window = |of: &Entry| Windows::of(limit).span(of.admitted_ms / 1_000).start_s;
    let needed = |of: &Entry| if limit.unit == Unit::Usd { of.held.cost.nano() } else { 1 };
    let whose = subject(limit, &entry.attribution);
    let same = |of: &&&Entry| subject(limit, &of.attribution) == whose && window(of) == window(entry);
    let used: i64 = admitted
        .iter()
        .filter(same)
        .map(|of| if of.created_ms <= entry.admitted_ms { of.amount(limit.unit) } else { needed(of) })
        .sum();
    whose.is_none() || used + needed(entry) <= limit.hard.unwrap()
}

proptest! {
    #[test]
    fn a_trial_rejects_what_does_not_fit_beside_what_it_admits(
        requests in vec(asked(), 1..60), day in 50_i64..400, runs in 20_i64..200, hour in 1_i64..8,
        page in 1_usize..20,
    ) {
        let limits = [
            limit("day", Per::Key, Unit::Usd, Window::Day, day),
            limit("runs", Per::Tag("run".into()), Unit::Usd, Window::Total, runs),
            limit("hour", Per::Organization, Unit::Requests, Window::Hour, hour),
        ];
        let entries = entries(&requests);
        let (mut admitted, mut rejected) = (Vec::new(), Vec::new());
        for entry in &entries {
            let fit = limits.iter().all(|limit| fits(limit, &admitted, entry));
            if fit { admitted.push(entry) } else { rejected.push(entry) }
        }
        let mut trial = Trial::new(&limits, vec![Past::new(); 3], START_MS);
        for some in entries.chunks(page) {
            trial.take(some.to_vec());
        }
        let found = trial.finish();
        let cost: Money = rejected.iter().map(|entry| entry.cost).sum();
        prop_assert_eq!(found.requests, u64::try_from(entries.len()).unwrap());
        prop_assert_eq!((found.rejected.count, found.rejected.cost), (u64::try_from(rejected.len()).unwrap(), cost));
        let span = rejected.first().zip(rejected.last());
        prop_assert_eq!(found.rejected.span_ms, span.map(|(first, last)| (first.admitted_ms, last.admitted_ms)));
        let each: u64 = found.limits.iter().map(|of| of.rejected.count).sum();
        prop_assert_eq!(each, found.rejected.count, "each was rejected by one limit");
        let subjects = |of: &OutcomeOfLimit| of.subjects.values().map(|of| of.rejected.count).sum::<u64>();
        prop_assert!(found.limits.iter().all(|of| subjects(of) == of.rejected.count));
    }
}

fn one(held: i64, wait_ms: i64) -> Asked {
    Asked { key: 0, run: None, wait_ms, held, share: 100, lasted_ms: 0 }
}

#[test]
fn what_was_spent_in_the_window_before_counts_and_the_next_window_begins_at_zero() {
    let day = [limit("day", Per::Key, Unit::Usd, Window::Day, 10)];
    let start_s = Windows::of(&day[0]).span(START_MS / 1_000).start_s;
    let past = Past::from([((Subject::One("key_0".into()), start_s), 8)]);
    let mut trial = Trial::new(&day, vec![past], START_MS);
    // The day of Warsaw ends 22 hours later: it has 23, and began an hour before.
    trial.take(entries(&[one(2, 0), one(2, 1), one(10, 22 * 3_600_000 - 2), one(10, 1)]));
    let found = trial.finish();
    assert_eq!((found.rejected.count, found.rejected.cost), (2, Money::from_nano(12)));
    let of = &found.limits[0].subjects["key_0"];
    assert_eq!((of.rejected.count, of.peak), (2, 20));
}

#[test]
fn a_correction_makes_room_from_when_it_was_made_and_one_of_a_rejected_request_does_nothing() {
    let total = [limit("total", Per::Key, Unit::Usd, Window::Total, 10)];
    let mut past = entries(&[one(8, 0), one(8, 1_000), one(8, 1_000), one(8, 1_000)]);
    let correction = |of: &Entry, at_ms: i64| Entry {
        id: of.id + 100,
        kind: Kind::Adjust,
        created_ms: at_ms,
        cost: Money::ZERO - of.cost,
        corrects: Some(of.id),
        ..of.clone()
    };
    // The second is rejected, and its correction is none; that of the first comes before the fourth.
    let (of_first, of_second) =
        (correction(&past[0], START_MS + 2_500), correction(&past[1], START_MS + 1_500));
    past.insert(2, of_second);
    past.insert(1, of_first);
    let mut trial = Trial::new(&total, vec![Past::new()], START_MS);
    trial.take(past);
    let found = trial.finish();
    assert_eq!((found.requests, found.rejected.count), (4, 2));
    assert_eq!(found.rejected.span_ms, Some((START_MS + 1_000, START_MS + 2_000)));
}

#[test]
fn a_limit_in_shadow_mode_rejects_nothing_and_says_what_it_would_have() {
    let limit = limit("total", Per::Key, Unit::Requests, Window::Total, 1);
    let shadow = [Arc::new(Limit { mode: Mode::Shadow, ..(*limit).clone() })];
    let mut trial = Trial::new(&shadow, vec![Past::new()], START_MS);
    trial.take(entries(&[one(1, 0), one(1, 1), one(1, 1)]));
    let found = trial.finish();
    let of = &found.limits[0];
    assert_eq!((found.rejected.count, of.rejected.count, of.subjects["key_0"].peak), (0, 2, 3));
}

#[test]
fn a_model_without_a_price_is_rejected_under_a_cap_in_dollars_alone() {
    let mut past = entries(&[one(0, 0)]);
    past[0].attribution = Arc::new(Attribution { priced_as: None, ..(*past[0].attribution).clone() });
    for (unit, rejected) in [(Unit::Usd, 1), (Unit::Requests, 0)] {
        let mut trial =
            Trial::new(&[limit("x", Per::Key, unit, Window::Day, 9)], vec![Past::new()], START_MS);
        trial.take(past.clone());
        let found = trial.finish();
        assert_eq!((found.rejected.count, found.unpriced), (rejected, rejected), "{unit}");
    }
}

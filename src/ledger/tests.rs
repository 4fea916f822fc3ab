//! Never past hard, one ending, replay equals live.

mod meters;
mod shared;

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::domain::demand::{Bound, Tier};
use crate::domain::limit::{Mode, Only, Per, Soft, Source};
use crate::domain::{Class, Quantities, Window};
use crate::ledger::calendar::Windows;
use crate::ledger::denial::Denial;
use crate::ledger::entry::Basis;
use crate::ledger::meter::{Meter, subjects};

const START_MS: i64 = 1_790_000_000_000;

fn limit(name: &str, per: Per, unit: Unit, window: Window, hard: Option<i64>) -> Arc<Limit> {
    Arc::new(Limit {
        name: name.into(),
        per,
        only: Only::default(),
        unit,
        window,
        zone: "Europe/Warsaw".into(),
        soft: vec![Soft::Percent(50)],
        hard,
        mode: Mode::Enforce,
        source: Source::File,
    })
}

fn of(who: u8) -> Arc<Attribution> {
    Arc::new(Attribution {
        project: format!("proj_{}", who % 2).into(),
        project_name: "p".into(),
        key: format!("key_{who}").into(),
        key_name: "k".into(),
        end_user: (who > 1).then(|| "ann".into()),
        tags: Arc::new((who > 0).then(|| ("run".to_owned(), format!("r{}", who % 2))).into_iter().collect()),
        endpoint: "/v1/chat/completions".into(),
        model: "gpt-5".into(),
        priced_as: None,
        image_model: None,
    })
}

fn bound(nano: i64, tokens: u64) -> Bound {
    Bound { cost: Money::from_nano(nano), input_tokens: tokens, output_tokens: tokens }
}

fn held(ledger: &mut Ledger, attribution: Arc<Attribution>, bound: Bound, admitted_ms: i64) -> Arc<Hold> {
    let (id, tier) = (ledger.take_id(), Tier::default());
    let hold = Hold { id, admitted_ms, attribution, bound, tier, price_version: "v".into(), stream: false };
    let hold = Arc::new(hold);
    ledger.apply_hold(&hold);
    hold
}

fn ending(hold: &Hold, kind: Kind, cost: i64, tokens: u64, created_ms: i64) -> Entry {
    Entry {
        cost: Money::from_nano(cost),
        quantities: Quantities::from([(Class::Input, tokens), (Class::Output, tokens)]),
        basis: Some(Basis::Reported),
        status: 200,
        ..Entry::ending(hold, kind, created_ms)
    }
}

fn in_force(limits: &[Arc<Limit>]) -> Ledger {
    put_in_force(Ledger::new(1), limits)
}

fn put_in_force(mut ledger: Ledger, limits: &[Arc<Limit>]) -> Ledger {
    let past = ledger.stage(limits, START_MS).iter().map(|backfill| backfill.history(Past::new())).collect();
    ledger.install(limits, past);
    ledger
}

fn decide(ledger: &Ledger, who: u8, bound: Bound, at_ms: i64) -> Result<Admission, Denial> {
    ledger.decide(&ReserveRequest::new(of(who), bound), &Circumstances { at_ms, ..Circumstances::default() })
}

/// One step of a random life: a request arrives, or a request ends.
#[derive(Clone, Debug)]
enum Step {
    Ask { who: u8, nano: i64, tokens: u64 },
    Settle { which: usize, share: i64 },
    Release { which: usize },
    Pass { ms: i64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0u8..4, 0i64..400, 0u64..50).prop_map(|(who, nano, tokens)| Step::Ask { who, nano, tokens }),
        2 => (any::<usize>(), 0i64..=100).prop_map(|(which, share)| Step::Settle { which, share }),
        1 => any::<usize>().prop_map(|which| Step::Release { which }),
        1 => (0i64..7_200_000).prop_map(|ms| Step::Pass { ms }),
    ];
    prop::collection::vec(step, 1..120)
}

fn limits() -> Vec<Arc<Limit>> {
    vec![
        limit("org", Per::Organization, Unit::Usd, Window::Day, Some(1_000)),
        limit("project", Per::Project, Unit::Usd, Window::Hour, Some(600)),
        limit("key", Per::Key, Unit::Tokens, Window::Month, Some(400)),
        limit("run", Per::Tag("run".into()), Unit::Usd, Window::Total, Some(500)),
        limit("user", Per::User, Unit::Requests, Window::Total, Some(9)),
    ]
}

fn readings(ledger: &Ledger, at_ms: i64) -> Vec<(String, Reading)> {
    let all = ledger.limits(at_ms).flat_map(|(limit, readings)| {
        let name = limit.name.to_string();
        readings.into_iter().map(move |reading| (name.clone(), reading))
    });
    all.filter(|(_, reading)| reading.meter != Meter::default()).collect()
}

proptest! {
    #[test]
    fn no_meter_gets_past_its_cap_and_replay_equals_live(steps in steps()) {
        let mut live = in_force(&limits());
        let mut open: Vec<Arc<Hold>> = Vec::new();
        let mut entries: Vec<Entry> = Vec::new();
        let mut at_ms = START_MS;
        for step in steps {
            match step {
                Step::Ask { who, nano, tokens } => {
                    let bound = bound(nano, tokens);
                    if decide(&live, who, bound, at_ms).is_ok() {
                        open.push(held(&mut live, of(who), bound, at_ms));
                    }
                }
                Step::Settle { which, share } if !open.is_empty() => {
                    let hold = open.swap_remove(which % open.len());
                    let tokens = hold.bound.input_tokens * u64::try_from(share).unwrap() / 100;
                    let entry = ending(&hold, Kind::Settle, hold.bound.cost.nano() * share / 100, tokens, at_ms);
                    live.apply(&entry);
                    entries.push(entry);
                }
                Step::Release { which } if !open.is_empty() => {
                    let hold = open.swap_remove(which % open.len());
                    let entry = ending(&hold, Kind::Release, 0, 0, at_ms);
                    live.apply(&entry);
                    entries.push(entry);
                }
                Step::Settle { .. } | Step::Release { .. } => {}
                Step::Pass { ms } => at_ms += ms,
            }
            for (limit, readings) in live.limits(at_ms) {
                for reading in readings {
                    let used = reading.meter.settled + reading.meter.held;
                    prop_assert!(used <= limit.hard.unwrap(), "{}: {used}", limit.name);
                }
            }
        }
        for hold in open {
            let entry = ending(&hold, Kind::Settle, hold.bound.cost.nano(), 0, at_ms);
            live.apply(&entry);
            live.apply(&entry);
            entries.push(entry);
        }
        prop_assert!(readings(&live, at_ms).iter().all(|(_, reading)| reading.meter.held == 0));
        prop_assert_eq!(live.in_doubt(), Money::ZERO);
        prop_assert_eq!(readings(&replayed(&entries, at_ms), at_ms), readings(&live, at_ms));
    }
}

/// A new ledger that learns the past from entries alone, as after a restart.
fn replayed(entries: &[Entry], at_ms: i64) -> Ledger {
    let mut ledger = Ledger::new(1);
    let past = ledger.stage(&limits(), at_ms).into_iter().map(|backfill| {
        let (mut sums, windows) = (Past::new(), Windows::of(&backfill.limit));
        for entry in entries {
            let start_s = windows.span(entry.admitted_ms.div_euclid(1_000)).start_s;
            for subject in subjects(&backfill.limit, &entry.attribution) {
                if start_s >= backfill.since_s {
                    *sums.entry((subject, start_s)).or_default() += entry.amount(backfill.limit.unit);
                }
            }
        }
        backfill.history(sums)
    });
    let past = past.collect();
    ledger.install(&limits(), past);
    ledger
}

fn one(hard: i64) -> Ledger {
    in_force(&[limit("m", Per::Organization, Unit::Usd, Window::Month, Some(hard))])
}

#[test]
fn a_denial_says_whether_waiting_can_help() {
    let mut ledger = one(100);
    assert!(matches!(decide(&ledger, 0, bound(101, 0), START_MS), Err(Denial::TooLarge(_))));
    let hold = held(&mut ledger, of(0), bound(60, 0), START_MS);
    assert!(matches!(decide(&ledger, 0, bound(60, 0), START_MS), Err(Denial::Held(_))));
    ledger.apply(&ending(&hold, Kind::Settle, 60, 0, START_MS));
    assert!(matches!(decide(&ledger, 0, bound(60, 0), START_MS), Err(Denial::Exhausted(_))));
    assert!(decide(&ledger, 0, bound(40, 0), START_MS).is_ok());
}

#[test]
fn what_costs_nothing_passes_a_used_up_cap_but_not_a_cap_of_zero() {
    let mut ledger = one(100);
    let hold = held(&mut ledger, of(0), bound(100, 0), START_MS);
    ledger.apply(&ending(&hold, Kind::Settle, 100, 0, START_MS));
    assert!(decide(&ledger, 0, bound(0, 0), START_MS).is_ok());
    assert!(matches!(decide(&one(0), 0, bound(0, 0), START_MS), Err(Denial::Exhausted(_))));
}

#[test]
fn shadow_limits_speak_but_do_not_block() {
    let shadow =
        Limit { mode: Mode::Shadow, ..(*limit("m", Per::Key, Unit::Usd, Window::Day, Some(1))).clone() };
    let ledger = in_force(&[Arc::new(shadow)]);
    assert_eq!(decide(&ledger, 0, bound(5, 0), START_MS).unwrap().would_reject.len(), 1);
}

#[test]
fn changing_a_cap_never_changes_usage() {
    let mut ledger = one(100);
    let hold = held(&mut ledger, of(0), bound(100, 0), START_MS);
    let raised = [limit("m", Per::Organization, Unit::Usd, Window::Month, Some(200))];
    assert!(ledger.stage(&raised, START_MS).is_empty(), "it counts as before, so nothing is read again");
    ledger.install(&raised, Vec::new());
    assert!(decide(&ledger, 0, bound(100, 0), START_MS).is_ok());
    ledger.apply(&ending(&hold, Kind::Settle, 70, 0, START_MS));
    assert_eq!(readings(&ledger, START_MS)[0].1.meter, Meter { settled: 70, held: 0 });
}

#[test]
fn a_new_limit_counts_the_holds_that_are_open() {
    let mut ledger = in_force(&[]);
    let hold = held(&mut ledger, of(0), bound(80, 0), START_MS);
    let new = [limit("m", Per::Organization, Unit::Usd, Window::Month, Some(100))];
    let past = ledger.stage(&new, START_MS).iter().map(|backfill| backfill.history(Past::new())).collect();
    ledger.install(&new, past);
    assert!(matches!(decide(&ledger, 0, bound(30, 0), START_MS), Err(Denial::Held(_))));
    ledger.apply(&ending(&hold, Kind::Release, 0, 0, START_MS));
    assert!(decide(&ledger, 0, bound(100, 0), START_MS).is_ok());
}

#[test]
fn a_hold_that_needs_room_just_released_depends_on_the_unwritten_release() {
    let mut ledger = one(100);
    let hold = held(&mut ledger, of(0), bound(60, 0), START_MS);
    ledger.apply(&ending(&hold, Kind::Settle, 10, 0, START_MS));
    let released = ledger.released()[Unit::Usd.index()];
    assert_eq!(released, 50);
    let depends_on_unwritten = |needed: i64, unwritten_releases: i64| {
        let mut circumstances = Circumstances { at_ms: START_MS, ..Circumstances::default() };
        circumstances.unwritten_releases[Unit::Usd.index()] = unwritten_releases;
        let request = ReserveRequest::new(of(0), bound(needed, 0));
        ledger.decide(&request, &circumstances).unwrap().depends_on_unwritten
    };
    // If the ending were lost, 60 would be charged instead of 10.
    assert!(
        !depends_on_unwritten(40, released)
            && depends_on_unwritten(41, released)
            && !depends_on_unwritten(90, 0)
    );
}

#[test]
fn what_was_spent_in_a_window_yet_to_come_counts_when_it_comes() {
    // As after a restart whose clock was set back.
    let limits = [limit("m", Per::Organization, Unit::Usd, Window::Day, Some(100))];
    let mut ledger = Ledger::new(1);
    let mut staged = ledger.stage(&limits, START_MS);
    let tomorrow_ms = START_MS + 86_400_000;
    let start_s = Windows::of(&limits[0]).span(tomorrow_ms / 1_000).start_s;
    let past = Past::from([((Subject::Organization, start_s), 90)]);
    ledger.install(&limits, vec![staged.remove(0).history(past)]);
    let hold = held(&mut ledger, of(0), bound(100, 0), START_MS);
    ledger.apply(&ending(&hold, Kind::Settle, 100, 0, START_MS));
    assert!(matches!(decide(&ledger, 0, bound(20, 0), tomorrow_ms), Err(Denial::Exhausted(_))));
    assert!(decide(&ledger, 0, bound(10, 0), tomorrow_ms).is_ok());
}

#[test]
fn a_threshold_is_crossed_once_in_a_window() {
    let mut ledger = one(100);
    let mut settle = |cost| {
        let hold = held(&mut ledger, of(0), bound(cost, 0), START_MS);
        ledger.apply(&ending(&hold, Kind::Settle, cost, 0, START_MS)).len()
    };
    assert_eq!([settle(49), settle(1), settle(10)], [0, 1, 0]);
}

#[test]
fn a_request_counts_in_the_window_it_was_admitted_in() {
    let mut ledger = in_force(&[limit("h", Per::Organization, Unit::Usd, Window::Hour, Some(100))]);
    let hold = held(&mut ledger, of(0), bound(100, 0), START_MS);
    let later_ms = START_MS + 3_600_000;
    assert!(decide(&ledger, 0, bound(100, 0), later_ms).is_ok(), "the next hour is untouched");
    ledger.apply(&ending(&hold, Kind::Settle, 90, 0, later_ms));
    assert!(readings(&ledger, later_ms).is_empty());
    assert_eq!(readings(&ledger, START_MS)[0].1.meter.settled, 90);
}

#[test]
fn requests_that_come_to_nothing_leave_no_meter_behind() {
    let mut ledger = in_force(&[limit("l", Per::Key, Unit::Usd, Window::Day, Some(100))]);
    let (free, paid) =
        (held(&mut ledger, of(3), bound(0, 0), START_MS), held(&mut ledger, of(3), bound(9, 9), START_MS));
    ledger.apply(&ending(&paid, Kind::Release, 0, 0, START_MS));
    assert_eq!(ledger.limits[0].meters.len(), 0);
    ledger.apply(&ending(&free, Kind::Settle, 4, 1, START_MS));
    assert_eq!(ledger.limits[0].meters.iter().map(|(_, meter)| meter.settled).collect::<Vec<_>>(), [4]);
}

#[test]
fn a_correction_counts_on_limits_that_are_being_made_and_on_meters_without_spending() {
    let mut ledger = in_force(&[]);
    let hold = held(&mut ledger, of(0), bound(0, 0), START_MS);
    let settled = ending(&hold, Kind::Settle, 0, 0, START_MS);
    ledger.apply(&settled);
    let limits = [limit("l", Per::Key, Unit::Usd, Window::Day, Some(100))];
    let staged = ledger.stage(&limits, START_MS);
    let adjust = |cost| Entry { kind: Kind::Adjust, cost: Money::from_nano(cost), ..settled.clone() };
    ledger.apply(&adjust(20));
    ledger.install(&limits, staged.iter().map(|backfill| backfill.history(Past::new())).collect());
    let settled_now =
        |ledger: &Ledger| ledger.limits[0].meters.iter().map(|(_, meter)| meter.settled).sum::<i64>();
    assert_eq!(settled_now(&ledger), 20);
    let mut ledger = in_force(&limits);
    ledger.apply(&adjust(7));
    assert_eq!(settled_now(&ledger), 7);
}

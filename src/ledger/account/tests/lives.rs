//! Random lives of an account: all that is admitted is covered, replay equals live.

use proptest::prelude::*;

use super::*;

/// One step of a random life.
#[derive(Clone, Debug)]
enum Step {
    Grant { cents: i64, days: Option<i64> },
    Correct { which: usize, share: i64 },
    Ask { cents: i64 },
    Settle { which: usize, share: i64 },
    Release { which: usize },
    Pass { hours: i64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let days = prop::option::of(1i64..6);
    let step = prop_oneof![
        2 => (1i64..500, days).prop_map(|(cents, days)| Step::Grant { cents, days }),
        1 => (any::<usize>(), 0i64..100).prop_map(|(which, share)| Step::Correct { which, share }),
        5 => (0i64..300).prop_map(|cents| Step::Ask { cents }),
        3 => (any::<usize>(), 0i64..=100).prop_map(|(which, share)| Step::Settle { which, share }),
        1 => any::<usize>().prop_map(|which| Step::Release { which }),
        2 => (0i64..60).prop_map(|hours| Step::Pass { hours }),
    ];
    prop::collection::vec(step, 1..100)
}

/// Whether grants cover requests, each of which was admitted at an instant and
/// may take from any grant that had not expired then: cent by cent, those that
/// expire first given away first.
fn is_covered(grants: &[Arc<Grant>], mut spent: Vec<(i64, i64)>) -> bool {
    let mut left: Vec<(i64, i64)> =
        grants.iter().map(|grant| (end_ms(grant.expires_s), grant.amount.nano())).collect();
    left.sort_unstable();
    spent.sort_unstable();
    spent.into_iter().all(|(at_ms, mut nano)| {
        for (_, left) in left.iter_mut().filter(|(end_ms, _)| *end_ms > at_ms) {
            let taken = nano.min(*left);
            (*left, nano) = (*left - taken, nano - taken);
        }
        nano == 0
    })
}

proptest! {
    #[test]
    fn all_that_is_admitted_is_covered_and_what_is_not_could_not_be(steps in steps()) {
        let mut life = Life::new();
        for step in steps {
            match step {
                Step::Grant { cents, days } => drop(life.grant(cents, days).unwrap()),
                Step::Correct { which, share } => {
                    let Some(account) = life.ledger.account() else { continue };
                    let reading = &account.readings(life.at_ms)[which % account.grants().len()];
                    // More, so that nothing that is spent already is taken back.
                    if reading.grant.corrects.is_none() {
                        life.correct(&Arc::clone(&reading.grant), share);
                    }
                }
                Step::Ask { cents } => {
                    let admitted = life.ask(cents);
                    let Some(account) = life.ledger.account() else { continue };
                    let counts = |id: u64| account.counts(id);
                    let holds = life.open.iter().filter(|hold| counts(hold.id));
                    let mut spent: Vec<(i64, i64)> =
                        holds.map(|hold| (hold.admitted_ms, hold.bound.cost.nano())).collect();
                    let entries = life.written.iter().filter(|entry| counts(entry.id));
                    spent.extend(entries.map(|entry| (entry.admitted_ms, entry.cost.nano())));
                    if !admitted {
                        spent.push((life.at_ms, usd(cents).nano()));
                    }
                    prop_assert_eq!(is_covered(account.grants(), spent), admitted);
                }
                Step::Settle { which, share } if !life.open.is_empty() => {
                    let at = which % life.open.len();
                    let cents = life.open[at].bound.cost.nano() / 10_000_000 * share / 100;
                    life.end(at, Kind::Settle, cents);
                }
                Step::Release { which } if !life.open.is_empty() => drop(life.end(which, Kind::Release, 0)),
                Step::Settle { .. } | Step::Release { .. } => {}
                Step::Pass { hours } => life.at_ms += hours * DAY_MS / 24,
            }
        }
        while !life.open.is_empty() {
            life.end(0, Kind::Release, 0);
        }
        if let (Some(live), Some(replayed)) = (life.ledger.account(), life.replayed()) {
            prop_assert_eq!(live.segments(), replayed.segments());
            let balance = life.balance();
            let active = live.readings(life.at_ms).into_iter().filter(|reading| !reading.is_expired);
            let left: Money = active.map(|reading| reading.left).sum();
            prop_assert_eq!(left, balance.left());
            prop_assert!(balance.left() >= Money::ZERO && balance.expired >= Money::ZERO);
        }
    }
}

//! Never more than was granted, what expires first is spent first.

mod lives;

use std::sync::Arc;

use super::*;
use crate::domain::demand::Bound;
use crate::ledger::credit::Ungranted;
use crate::ledger::entry::Basis;
use crate::ledger::{Circumstances, Ledger, ReserveRequest};

const START_MS: i64 = 1_790_000_000_000;
const DAY_MS: i64 = 86_400_000;

fn usd(cents: i64) -> Money {
    Money::from_nano(cents * 10_000_000)
}

fn bound(cents: i64) -> Bound {
    Bound { cost: usd(cents), input_tokens: 1, output_tokens: 1 }
}

/// A ledger with its time, its open holds, and all that was written.
struct Life {
    ledger: Ledger,
    at_ms: i64,
    open: Vec<Arc<Hold>>,
    written: Vec<Entry>,
}

impl Life {
    fn new() -> Self {
        Self { ledger: Ledger::new(1), at_ms: START_MS, open: Vec::new(), written: Vec::new() }
    }

    fn grant(&mut self, cents: i64, days: Option<i64>) -> Result<Vec<Crossing>, Ungranted> {
        let expires_s = days.map(|days| (self.at_ms + days * DAY_MS) / 1_000);
        let (grant, _) = self.ledger.stage_grant(self.unstaged(cents, expires_s))?;
        Ok(self.ledger.grant(&grant, self.at_ms))
    }

    fn unstaged(&self, cents: i64, expires_s: Option<i64>) -> Grant {
        let note = String::new();
        Grant { id: 0, amount: usd(cents), note, created_ms: self.at_ms, expires_s, corrects: None }
    }

    /// Gives more of a grant, or takes back of it.
    fn correct(&mut self, of: &Grant, cents: i64) {
        let correction = Grant { corrects: Some(of.id), ..self.unstaged(cents, of.expires_s) };
        let (grant, _) = self.ledger.stage_grant(correction).unwrap();
        self.ledger.grant(&grant, self.at_ms);
    }

    fn request(&self, cents: i64) -> (ReserveRequest, Circumstances) {
        let request =
            ReserveRequest::new(Entry::note(0, Kind::Grant, 0, String::new()).attribution, bound(cents));
        (request, Circumstances { at_ms: self.at_ms, ..Circumstances::default() })
    }

    fn decide(&self, cents: i64) -> Result<(), Denial> {
        let (request, circumstances) = self.request(cents);
        self.ledger.decide(&request, &circumstances).map(drop)
    }

    /// Admits a request if it may spend so much, and returns whether.
    fn ask(&mut self, cents: i64) -> bool {
        let (request, circumstances) = self.request(cents);
        let admitted = self.ledger.admit(request, &circumstances);
        let may = admitted.is_ok();
        self.open.extend(admitted.map(|(hold, _)| hold));
        may
    }

    fn end(&mut self, which: usize, kind: Kind, cents: i64) -> Vec<Crossing> {
        let hold = self.open.swap_remove(which % self.open.len());
        let entry = Entry {
            cost: usd(cents),
            basis: Some(Basis::Reported),
            ..Entry::ending(&hold, kind, self.at_ms)
        };
        let crossings = self.ledger.apply(&entry);
        self.written.push(entry);
        crossings
    }

    fn spend(&mut self, cents: i64) -> Vec<Crossing> {
        assert!(self.ask(cents), "{cents} cents at {}", self.at_ms);
        self.end(self.open.len() - 1, Kind::Settle, cents)
    }

    fn adjust(&mut self, corrected: u64, cents: i64) {
        let original = self.written.iter().find(|entry| entry.id == corrected).unwrap().clone();
        let id = self.ledger.take_id();
        let cost = usd(cents);
        let entry = Entry { id, kind: Kind::Adjust, cost, corrects: Some(corrected), ..original };
        self.ledger.apply(&entry);
        self.written.push(entry);
    }

    fn balance(&self) -> Balance {
        self.ledger.account().map(|account| account.balance(self.at_ms)).unwrap_or_default()
    }

    fn used(&self) -> Vec<(i64, bool)> {
        let readings = self.ledger.account().unwrap().readings(self.at_ms);
        readings.iter().map(|reading| (reading.used.nano() / 10_000_000, reading.is_expired)).collect()
    }

    /// The account that follows from grants and entries alone, as after a restart.
    fn replayed(&self) -> Option<Account> {
        let live = self.ledger.account()?;
        let mut account = Account::new(live.grants()[0].id);
        for grant in live.grants() {
            account.cut(grant.expires_s);
            account.add(Arc::clone(grant));
        }
        for entry in self
            .written
            .iter()
            .filter(|entry| account.counts(entry.corrects.unwrap_or(entry.id)))
            .collect::<Vec<_>>()
        {
            account.settle(entry.admitted_ms, entry.cost.nano());
        }
        Some(account)
    }
}

#[test]
fn without_a_grant_nothing_is_asked_and_with_one_no_more_is_spent() {
    let mut life = Life::new();
    life.spend(700);
    life.grant(1_000, None).unwrap();
    assert_eq!(life.balance().left(), usd(1_000), "what was spent before does not count");
    assert!(life.ask(600));
    assert!(matches!(life.decide(500), Err(Denial::CreditHeld(_))), "400 are free, 600 held");
    life.end(0, Kind::Settle, 550);
    assert!(matches!(life.decide(500), Err(Denial::NoCredit(_))));
    life.spend(450);
    assert!(matches!(life.decide(1), Err(Denial::NoCredit(_))));
    assert!(life.ask(0), "what costs nothing needs no credit");
    assert_eq!((life.balance().used, life.balance().left()), (usd(1_000), Money::ZERO));
}

#[test]
fn a_request_that_was_open_at_the_first_grant_does_not_count() {
    let mut life = Life::new();
    assert!(life.ask(900));
    life.grant(1_000, None).unwrap();
    life.end(0, Kind::Settle, 900);
    assert_eq!(life.balance(), Balance { granted: usd(1_000), available: usd(1_000), ..Balance::default() });
}

#[test]
fn what_expires_first_is_spent_first_and_what_is_left_of_it_is_lost() {
    let mut life = Life::new();
    life.grant(1_000, None).unwrap();
    life.grant(500, Some(10)).unwrap();
    life.grant(500, Some(5)).unwrap();
    life.spend(300);
    assert_eq!(life.used(), [(0, false), (0, false), (300, false)]);
    life.spend(300);
    assert_eq!(life.used(), [(0, false), (100, false), (500, false)]);
    life.at_ms += 10 * DAY_MS - 1;
    assert_eq!(life.balance().left(), usd(1_400));
    life.at_ms += 1;
    assert_eq!(life.used(), [(0, false), (100, true), (500, true)]);
    assert_eq!((life.balance().left(), life.balance().expired), (usd(1_000), usd(400)));
    life.spend(1_000);
    assert!(!life.ask(1));
}

#[test]
fn what_was_admitted_before_credit_expired_is_paid_by_it() {
    let mut life = Life::new();
    life.grant(500, Some(1)).unwrap();
    assert!(life.ask(500));
    life.at_ms += DAY_MS;
    assert_eq!(life.balance().left(), Money::ZERO);
    life.grant(700, None).unwrap();
    assert!(life.ask(700), "the hold of yesterday is no business of today's credit");
    life.end(0, Kind::Settle, 200);
    life.end(0, Kind::Settle, 700);
    assert_eq!(
        life.balance(),
        Balance { granted: usd(1_200), used: usd(900), expired: usd(300), ..Balance::default() }
    );
}

#[test]
fn what_was_overdrawn_is_paid_by_the_next_grant() {
    let mut life = Life::new();
    life.grant(500, Some(3)).unwrap();
    assert!(life.ask(400));
    life.end(0, Kind::Settle, 650);
    assert_eq!(life.balance().left(), usd(-150));
    life.at_ms += 5 * DAY_MS;
    life.grant(1_000, None).unwrap();
    assert_eq!((life.balance().left(), life.balance().expired), (usd(850), Money::ZERO));
}

#[test]
fn credit_can_not_expire_before_what_was_admitted() {
    let mut life = Life::new();
    life.spend(1);
    // As after a restart whose clock was set back.
    life.at_ms -= 2 * DAY_MS;
    assert_eq!(life.grant(500, Some(1)).unwrap_err(), Ungranted::Expired(START_MS));
    assert_eq!(life.grant(500, Some(0)).unwrap_err(), Ungranted::Expired(START_MS));
    assert_eq!(life.grant(500, Some(36_601)).unwrap_err(), Ungranted::TooLate);
    let never = life.unstaged(500, Some(i64::MAX / 1_000));
    assert_eq!(life.ledger.stage_grant(never).unwrap_err(), Ungranted::TooLate);
    life.grant(500, Some(3)).unwrap();
}

#[test]
fn a_grant_that_could_not_be_written_leaves_nothing_behind() {
    let mut life = Life::new();
    let (first, _) = life.ledger.stage_grant(life.unstaged(200, None)).unwrap();
    assert!(life.ask(100), "what comes meanwhile is spent of it already");
    assert!(!life.ask(101));
    life.ledger.unstage_grant(&first);
    life.grant(500, None).unwrap();
    life.end(0, Kind::Settle, 100);
    assert_eq!(life.balance().left(), usd(500));
    let (second, _) = life.ledger.stage_grant(life.unstaged(500, Some(START_MS / 1_000 + 9))).unwrap();
    assert_eq!(life.balance().left(), usd(500), "not before the database has it");
    life.ledger.unstage_grant(&second);
    assert_eq!(life.balance().left(), usd(500));
}

#[test]
fn what_is_corrected_of_a_grant_is_that_grants() {
    let mut life = Life::new();
    life.grant(250_000, Some(1)).unwrap();
    life.grant(10_000, None).unwrap();
    let first = Arc::clone(&life.ledger.account().unwrap().grants()[0]);
    life.correct(&first, -247_500);
    life.spend(6_000);
    assert_eq!(life.used(), [(2_500, false), (3_500, false), (0, false)]);
    life.at_ms += DAY_MS;
    assert_eq!(life.used(), [(2_500, true), (3_500, false), (0, true)]);
    let left: Vec<Money> =
        life.ledger.account().unwrap().readings(life.at_ms).iter().map(|reading| reading.left).collect();
    assert_eq!(left, [Money::ZERO, usd(6_500), Money::ZERO]);
    assert_eq!(life.balance().left(), usd(6_500));
    life.correct(&first, 100);
    assert_eq!(life.balance().left(), usd(6_600), "what has expired is corrected, too: it pays for more");
}

#[test]
fn a_thousand_dates_leave_room_for_what_needs_none() {
    let mut account = Account::new(1);
    (1..EXPIRIES_MAX).for_each(|date| account.cut(Some(i64::try_from(date).unwrap())));
    assert!(account.has_room(None) && account.has_room(Some(1)) && !account.has_room(Some(0)));
}

#[test]
fn a_correction_counts_if_what_it_corrects_does() {
    let mut life = Life::new();
    life.spend(700);
    life.grant(1_000, None).unwrap();
    life.spend(300);
    life.adjust(1, -200);
    assert_eq!(life.balance().left(), usd(700));
    life.adjust(3, -200);
    assert_eq!(life.balance().left(), usd(900));
}

#[test]
fn a_low_balance_is_reported_once_for_each_grant() {
    let mut life = Life::new();
    let raised =
        |crossings: Vec<Crossing>| crossings.iter().map(|c| (c.mark, c.threshold)).collect::<Vec<_>>();
    let low = [(AlertKind::CreditLow, usd(500).nano())];
    assert_eq!(raised(life.grant(900, Some(9)).unwrap()), []);
    assert_eq!(
        raised(life.ledger.used_up(life.at_ms)),
        [],
        "who asks for too much says nothing of the balance"
    );
    assert_eq!(raised(life.spend(400)), [], "500 are left, which is not less");
    assert_eq!(raised(life.spend(1)), low);
    assert_eq!(raised(life.spend(1)), []);
    life.at_ms += 1;
    assert_eq!(raised(life.ledger.used_up(life.at_ms)), [(AlertKind::CreditUsedUp, 0)]);
    assert_eq!(raised(life.ledger.used_up(life.at_ms)), []);
    assert_eq!(raised(life.grant(900, Some(9)).unwrap()), []);
    life.at_ms += 9 * DAY_MS;
    assert_eq!(raised(life.ledger.low_credit(life.at_ms)), low, "it expired");
    assert_eq!(raised(life.grant(1, None).unwrap()), low, "and a cent does not help");
    let terms = Terms { low: usd(100), ..Terms::default() };
    assert_eq!(raised(life.ledger.set_terms(terms, life.at_ms)), [(AlertKind::CreditLow, usd(100).nano())]);
}

#[test]
fn in_shadow_mode_it_speaks_and_does_not_block() {
    let mut life = Life::new();
    life.grant(500, None).unwrap();
    life.ledger.set_terms(Terms { mode: Mode::Shadow, ..Terms::default() }, START_MS);
    assert!(life.ask(600));
    assert!(life.ledger.enforced_credit(START_MS).is_none());
}

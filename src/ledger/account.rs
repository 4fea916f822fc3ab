//! Prepaid credit: what was granted, minus what was spent.
//!
//! A grant can be spent until it expires, and of several the one that expires first
//! is spent first. So time is cut where grants expire. Spending counts in the
//! segment that it was admitted in, and takes from grants that expire at its end or
//! later. All else is arithmetic when it is read.

use std::collections::HashMap;
use std::sync::Arc;

use crate::domain::limit::{Mode, Only, Per, Source, Unit};
use crate::domain::{Limit, Money, Window};
use crate::ledger::denial::{Denial, Short};
use crate::ledger::entry::{AlertKind, Crossing, Entry, Hold, Kind, grant_id};

/// The account's name where limits are named. No limit has it, since their names
/// have no spaces.
pub const NAME: &str = "prepaid credit";

/// The least credit that OpenAI sells, too.
const FIVE_USD: i64 = 5_000_000_000;
/// As many dates on which credit expires as an account may have: each admission
/// goes through them.
const EXPIRIES_MAX: usize = 10_000;
/// As many grants as it may have.
const GRANTS_MAX: usize = 100_000;

/// Credit that was granted once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The id of its line in the ledger.
    pub id: u64,
    /// What may be spent of it; negative where some is taken back.
    pub amount: Money,
    /// The operator's note.
    pub note: String,
    /// When it was made, in Unix milliseconds.
    pub created_ms: i64,
    /// When the rest of it expires, in Unix seconds.
    pub expires_s: Option<i64>,
    /// The grant that it corrects, and expires with.
    pub corrects: Option<u64>,
}

/// The configured terms of prepaid credit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Whether requests without credit are refused, or only counted.
    pub mode: Mode,
    /// The balance below which an alert is sent.
    pub low: Money,
    /// The least that can be granted.
    pub minimum: Money,
}

impl Default for Terms {
    fn default() -> Self {
        Self { mode: Mode::Enforce, low: Money::from_nano(FIVE_USD), minimum: Money::from_nano(FIVE_USD) }
    }
}

/// Time between two instants at which credit expires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Where it ends, in Unix milliseconds.
    pub end_ms: i64,
    /// What was granted that expires at its end, in nano-dollars.
    pub granted: i64,
    /// What was spent by requests admitted in it, in nano-dollars.
    pub settled: i64,
    /// What such requests that are still open may cost, in nano-dollars.
    pub held: i64,
}

/// An account; there is one once credit has been granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Requests admitted after this id count.
    opened_by: u64,
    /// Without gaps from the beginning to the end of time.
    pub(super) segments: Vec<Segment>,
    grants: Vec<Arc<Grant>>,
    /// The kinds of alerts that were raised since the last grant.
    noted: Vec<AlertKind>,
}

/// An account in figures, as of an instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// All that was ever granted.
    pub granted: Money,
    /// What was spent since.
    pub used: Money,
    /// What was left of grants when they expired.
    pub expired: Money,
    /// What open requests may still cost.
    pub held: Money,
    /// What a request may reserve now.
    pub available: Money,
}

impl Balance {
    /// Granted, and neither spent nor expired; negative if more was spent.
    pub fn left(self) -> Money {
        self.granted - self.used - self.expired
    }
}

/// The state of a grant, as of an instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantReading {
    /// The grant.
    pub grant: Arc<Grant>,
    /// What was spent of it.
    pub used: Money,
    /// The rest, including its corrections; zero for a correction itself.
    pub left: Money,
    /// Whether it has expired.
    pub is_expired: bool,
}

impl Grant {
    /// The grant as a line of the ledger; it moves no meter.
    pub fn entry(&self) -> Entry {
        let until = self.expires_s.map_or_else(String::new, |at_s| format!(", until {at_s}"));
        let taken = self.amount < Money::ZERO;
        let (amount, done) = if taken { (-self.amount, "taken back") } else { (self.amount, "granted") };
        let note = format!("{NAME}: {} {done}{until}: {}", amount.dollars(), self.note);
        Entry { corrects: self.corrects, ..Entry::note(self.id, Kind::Grant, self.created_ms, note) }
    }
}

impl Account {
    /// An account without credit, that counts what is admitted after an id.
    pub fn new(opened_by: u64) -> Self {
        let always = Segment { end_ms: i64::MAX, ..Segment::default() };
        Self { opened_by, segments: vec![always], grants: Vec::new(), noted: Vec::new() }
    }

    /// Whether a request counts, by its id.
    pub fn counts(&self, id: u64) -> bool {
        id > self.opened_by
    }

    /// The id after which requests count.
    pub fn opened_by(&self) -> u64 {
        self.opened_by
    }

    /// The segments in their order.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The grants, oldest first.
    pub fn grants(&self) -> &[Arc<Grant>] {
        &self.grants
    }

    /// Whether there may be one more grant, that expires then.
    pub fn has_room(&self, expires_s: Option<i64>) -> bool {
        let end_ms = end_ms(expires_s);
        let is_known = self.segments[self.place(end_ms - 1)].end_ms == end_ms;
        (is_known || self.segments.len() < EXPIRIES_MAX) && self.grants.len() < GRANTS_MAX
    }

    /// Cuts time where a grant is to expire, which must lie after all that was
    /// admitted so far.
    pub fn cut(&mut self, expires_s: Option<i64>) {
        let end_ms = end_ms(expires_s);
        let at = self.place(end_ms - 1);
        if self.segments[at].end_ms != end_ms {
            let before = Segment { end_ms, granted: 0, ..self.segments[at] };
            self.segments[at] = Segment { settled: 0, held: 0, ..self.segments[at] };
            self.segments.insert(at, before);
        }
    }

    /// Adds a grant, where time is cut already.
    pub fn add(&mut self, grant: Arc<Grant>) {
        let at = self.expiry(&grant);
        let granted = &mut self.segments[at].granted;
        *granted = granted.saturating_add(grant.amount.nano());
        self.grants.push(grant);
        self.noted.clear();
    }

    /// Forgets which alerts were raised; the database keeps them.
    pub(super) fn forget_marks(&mut self) {
        self.noted.clear();
    }

    /// Adds to what was spent by requests admitted at an instant.
    pub fn settle(&mut self, admitted_ms: i64, nano: i64) {
        let settled = &mut self.at(admitted_ms).settled;
        *settled = settled.saturating_add(nano);
    }

    /// Holds what a request may cost, if it counts.
    pub fn hold(&mut self, hold: &Hold) {
        if self.counts(hold.id) {
            let held = &mut self.at(hold.admitted_ms).held;
            *held = held.saturating_add(hold.bound.cost.nano());
        }
    }

    /// Replaces a hold by the real cost.
    pub(super) fn end(&mut self, hold: &Hold, cost: Money) {
        if self.counts(hold.id) {
            let segment = self.at(hold.admitted_ms);
            segment.held = segment.held.saturating_sub(hold.bound.cost.nano());
            segment.settled = segment.settled.saturating_add(cost.nano());
        }
    }

    /// Adds a correction, if what it corrects counts.
    pub(super) fn adjust(&mut self, entry: &Entry) {
        if entry.corrects.is_some_and(|corrected| self.counts(corrected)) {
            self.settle(entry.admitted_ms, entry.cost.nano());
        }
    }

    /// What may still be spent at an instant, in nano-dollars.
    ///
    /// Spending in a segment can only come from grants that expire at its end or
    /// later. So from each segment on, all that is spent must fit into all that is
    /// granted; what is spent now counts in every one that has begun.
    fn room(&self, at_ms: i64, spent: impl Fn(&Segment) -> i64) -> Money {
        let (now, mut rest, mut room) = (self.place(at_ms), 0_i64, i64::MAX);
        for (at, segment) in self.segments.iter().enumerate().rev() {
            rest = rest.saturating_add(segment.granted).saturating_sub(spent(segment));
            if at <= now {
                room = room.min(rest);
            }
        }
        Money::from_nano(room)
    }

    /// The account in figures.
    pub fn balance(&self, at_ms: i64) -> Balance {
        let sum = |part: fn(&Segment) -> i64| {
            Money::from_nano(self.segments.iter().map(part).fold(0, i64::saturating_add))
        };
        let (granted, used) = (sum(|segment| segment.granted), sum(|segment| segment.settled));
        let expired = granted - used - self.left(at_ms);
        let (held, available) = (sum(|segment| segment.held), self.available(at_ms));
        Balance { granted, used, expired, held, available }
    }

    /// The state of each grant, oldest first: each segment takes from those that
    /// expire first, and of those that expire together from the oldest. The amount
    /// of a correction belongs to its grant.
    pub fn readings(&self, at_ms: i64) -> Vec<GrantReading> {
        let mut left: HashMap<u64, Money> = HashMap::new();
        for grant in &self.grants {
            let of = left.entry(grant.corrects.unwrap_or(grant.id)).or_default();
            *of = *of + grant.amount;
        }
        let mut used: HashMap<u64, Money> = HashMap::new();
        let whole = self.grants.iter().filter(|grant| grant.corrects.is_none());
        let mut order: Vec<(usize, u64)> = whole.map(|grant| (self.expiry(grant), grant.id)).collect();
        order.sort_unstable();
        let mut next = order.into_iter().peekable();
        for (at, segment) in self.segments.iter().enumerate() {
            let mut spent = Money::from_nano(segment.settled.max(0));
            while let Some((expiry, id)) = next.peek().copied() {
                let of = left.entry(id).or_default();
                if expiry < at || *of <= Money::ZERO {
                    next.next();
                    continue;
                }
                if spent == Money::ZERO {
                    break;
                }
                let taken = spent.min(*of);
                (*of, spent) = (*of - taken, spent - taken);
                let sum = used.entry(id).or_default();
                *sum = *sum + taken;
            }
        }
        let now = self.place(at_ms);
        let reading = |grant: &Arc<Grant>| GrantReading {
            used: used.get(&grant.id).copied().unwrap_or_default(),
            left: left.get(&grant.id).copied().unwrap_or_default(),
            is_expired: self.expiry(grant) < now,
            grant: Arc::clone(grant),
        };
        self.grants.iter().map(reading).collect()
    }

    /// What a request would leave, in nano-dollars, or why there is no credit
    /// for it.
    pub(super) fn verdict(&self, needed: Money, terms: Terms, at_ms: i64) -> Result<i64, Denial> {
        let left = self.available(at_ms) - needed;
        if needed == Money::ZERO || left >= Money::ZERO {
            return Ok(left.nano());
        }
        let short = Box::new(self.short(needed, terms, at_ms));
        Err(if needed > short.balance { Denial::NoCredit(short) } else { Denial::CreditHeld(short) })
    }

    /// The credit for a request.
    pub(super) fn short(&self, needed: Money, terms: Terms, at_ms: i64) -> Short {
        let figures = self.balance(at_ms);
        let (balance, held) = (self.left(at_ms), figures.held);
        Short { limit: as_limit(&figures, terms), balance, held, needed }
    }

    /// Granted, and neither spent nor expired.
    fn left(&self, at_ms: i64) -> Money {
        self.room(at_ms, |segment| segment.settled)
    }

    /// What may still be spent.
    pub fn available(&self, at_ms: i64) -> Money {
        self.room(at_ms, |segment| segment.settled.saturating_add(segment.held))
    }

    /// The crossing that the balance is low, unless it was raised since the last grant.
    pub(super) fn low(&mut self, terms: Terms, at_ms: i64) -> Option<Crossing> {
        if self.noted.contains(&AlertKind::CreditLow) || self.left(at_ms) >= terms.low {
            return None;
        }
        self.raise(AlertKind::CreditLow, terms.low, terms, at_ms)
    }

    /// The crossing that a request was refused when credit was low, unless it was
    /// raised since the last grant. A request that needs more than the balance ever
    /// was does not count.
    pub(super) fn used_up(&mut self, terms: Terms, at_ms: i64) -> Option<Crossing> {
        let left = self.left(at_ms);
        if left > Money::ZERO && left >= terms.low {
            return None;
        }
        self.raise(AlertKind::CreditUsedUp, Money::ZERO, terms, at_ms)
    }

    fn raise(&mut self, kind: AlertKind, threshold: Money, terms: Terms, at_ms: i64) -> Option<Crossing> {
        if self.noted.contains(&kind) {
            return None;
        }
        let newest = self.grants.last()?;
        let balance = self.balance(at_ms);
        let crossing = Crossing {
            id: 0,
            mark: kind,
            limit: as_limit(&balance, terms),
            // Once for each grant, like once for each window.
            subject: grant_id(newest.id),
            threshold: threshold.nano(),
            window_start_s: newest.created_ms.div_euclid(1_000),
            ends_s: None,
            settled: balance.used.nano(),
            at_ms,
        };
        self.noted.push(kind);
        Some(crossing)
    }

    fn place(&self, at_ms: i64) -> usize {
        self.segments.partition_point(|segment| segment.end_ms <= at_ms).min(self.segments.len() - 1)
    }

    /// The segment at whose end a grant expires.
    fn expiry(&self, grant: &Grant) -> usize {
        self.place(end_ms(grant.expires_s) - 1)
    }

    fn at(&mut self, at_ms: i64) -> &mut Segment {
        let place = self.place(at_ms);
        &mut self.segments[place]
    }
}

/// The account as a limit on all spending since it was opened, which is its form in
/// alerts.
fn as_limit(balance: &Balance, terms: Terms) -> Arc<Limit> {
    Arc::new(Limit {
        name: NAME.into(),
        per: Per::Organization,
        only: Only::default(),
        unit: Unit::Usd,
        window: Window::Total,
        zone: "UTC".into(),
        soft: Vec::new(),
        hard: Some((balance.granted - balance.expired).nano()),
        mode: terms.mode,
        source: Source::Api,
    })
}

/// Where the segment ends in which a grant may last be spent.
fn end_ms(expires_s: Option<i64>) -> i64 {
    expires_s.map_or(i64::MAX, |expires_s| expires_s.saturating_mul(1_000))
}

#[cfg(test)]
mod tests;

//! What a world is like: its guards, its faults, its rules. All of it is drawn by the seed.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::limit::{Mode, Only, Per, Soft, Source, Unit};
use crate::domain::{Limit, Window};
use crate::store::postgres::simulation::chance::Chance;

/// 2026-11-30, 23:59:30 UTC: a month ends half a minute later.
const EVE_MS: i64 = 1_796_083_170_000;
const DAY_MS: i64 = 86_400_000;

/// How long a statement may wait for a row.
pub(super) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long making a connection may take.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a guard waits for an answer.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a transaction may pause before the database ends it.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(3);
/// After how long without a sign of life a guard is given up.
pub(super) const NODE_TIMEOUT_MS: i64 = 6_000;
/// Meters of windows that ended so long ago are removed, in seconds.
pub(super) const METER_AGE_S: i64 = 60;

/// The settings of a world.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) guards: usize,
    pub(super) clients: usize,
    /// The longest delay of a message, in milliseconds.
    pub(super) slow_ms: u64,
    /// Of a thousand calls, how many lose their connection.
    pub(super) lost: u64,
    /// Of a thousand transactions, how many are rolled back by an error.
    pub(super) errors: u64,
    /// How long the database may take to notice that a connection is gone, in milliseconds.
    pub(super) notice_ms: u64,
    pub(super) outages: bool,
    pub(super) kills: bool,
    pub(super) stops: bool,
    pub(super) changes: bool,
    pub(super) credit: bool,
    pub(super) rates: bool,
    /// Whether there are objects that are billed by time.
    pub(super) objects: bool,
    /// Whether the database refuses some records.
    pub(super) refuses: bool,
    /// Whether commits are lost once.
    pub(super) goes_back: bool,
    /// How far the guards' clocks are apart before they follow the database's.
    pub(super) apart_ms: i64,
    pub(super) base_ms: i64,
    pub(super) limits: Vec<Arc<Limit>>,
}

/// A limit without restrictions, with two thresholds.
pub(super) fn limit(name: &str, per: Per, unit: Unit, window: Window, hard: i64) -> Arc<Limit> {
    let soft = if window == Window::Minute && unit != Unit::Usd {
        Vec::new()
    } else {
        vec![Soft::Amount((hard / 4).max(1)), Soft::Amount((hard / 2).max(2))]
    };
    Arc::new(Limit {
        name: name.into(),
        per,
        only: Only::default(),
        unit,
        window,
        zone: "UTC".into(),
        soft,
        hard: Some(hard),
        mode: Mode::Enforce,
        source: Source::Api,
    })
}

impl Plan {
    pub(super) fn draw(chance: &mut Chance) -> Self {
        let hard = |chance: &mut Chance, low, high| i64::try_from(chance.within(low, high)).unwrap();
        let mut limits = vec![
            limit("month", Per::Organization, Unit::Usd, Window::Month, hard(chance, 5_000, 150_000)),
            limit("key", Per::Key, Unit::Usd, Window::Month, hard(chance, 4_000, 80_000)),
        ];
        if chance.percent(60) {
            limits.push(limit(
                "calls",
                Per::Organization,
                Unit::Requests,
                Window::Day,
                hard(chance, 60, 900),
            ));
        }
        if chance.percent(40) {
            limits.push(limit(
                "minute",
                Per::Organization,
                Unit::Usd,
                Window::Minute,
                hard(chance, 3_000, 15_000),
            ));
        }
        let rates = chance.percent(30);
        if rates {
            limits.push(limit("pace", Per::Key, Unit::Requests, Window::Minute, hard(chance, 20, 200)));
            limits.push(limit(
                "tokens",
                Per::Organization,
                Unit::Tokens,
                Window::Minute,
                hard(chance, 500, 5_000),
            ));
        }
        let is_rough = chance.percent(75);
        let permille = |chance: &mut Chance, most| if is_rough { chance.within(0, most) } else { 0 };
        Self {
            guards: usize::try_from(chance.within(2, 5)).unwrap(),
            clients: usize::try_from(chance.within(2, 7)).unwrap(),
            slow_ms: chance.one(&[1, 5, 20, 20, 80, 250]),
            lost: permille(chance, 50),
            errors: permille(chance, 40),
            notice_ms: chance.one(&[1, 200, 2_000, 4_000]),
            outages: chance.percent(60),
            kills: chance.percent(50),
            stops: chance.percent(60),
            changes: chance.percent(65),
            credit: chance.percent(40),
            rates,
            objects: false,
            refuses: chance.percent(12),
            goes_back: chance.percent(8),
            apart_ms: chance.one(&[0, 0, 2_000, 180_000]),
            base_ms: if chance.percent(50) { EVE_MS } else { EVE_MS - 10 * DAY_MS },
            limits,
        }
    }
}

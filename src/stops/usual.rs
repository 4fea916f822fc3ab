//! What each spender has spent on the last days that are over, by which fuses know what is usual.

use std::collections::HashMap;
use std::sync::Arc;

use crate::domain::fuse::PastDays;
use crate::domain::limit::{Mode, Only, Per, Source, Unit};
use crate::domain::{Fuse, Limit, Money, Spender, Window};
use crate::keys::Ring;
use crate::ledger::meter::Subject;
use crate::stops::sums::watches;
use crate::store::{Reports, StoreError};

const DAY_S: i64 = 86_400;
/// How many days back.
const DAYS: i64 = 7;

/// The past of each key, as of a day.
#[derive(Debug, Default)]
pub(super) struct Usual {
    /// Where the day starts until which it is known, in Unix seconds.
    until_s: i64,
    keys: HashMap<Arc<str>, Past>,
}

/// What a key has spent on the days before, and where the first on which it has spent starts.
#[derive(Clone, Copy, Debug)]
struct Past {
    spent: Money,
    first_s: i64,
}

impl Usual {
    /// Reads the days before the one of an instant, in Unix seconds, unless they are known.
    pub(super) async fn refresh(&mut self, reports: &Reports, now_s: i64) -> Result<(), StoreError> {
        let today_s = now_s - now_s.rem_euclid(DAY_S);
        if self.until_s == today_s {
            return Ok(());
        }
        let since_s = today_s - DAYS * DAY_S;
        let past = reports.history(vec![(by_key_and_day(), since_s)]).await?.into_iter().next();
        let mut keys: HashMap<Arc<str>, Past> = HashMap::new();
        for ((subject, start_s), nano) in past.unwrap_or_default() {
            let Subject::One(key) = subject else { continue };
            if start_s >= today_s {
                continue;
            }
            let of = keys.entry(key).or_insert(Past { spent: Money::ZERO, first_s: start_s });
            of.spent = of.spent + Money::from_nano(nano);
            of.first_s = of.first_s.min(start_s);
        }
        *self = Self { until_s: today_s, keys };
        Ok(())
    }

    /// The past of a spender of a fuse: of its keys that the fuse watches, from the first day on that
    /// one of them has spent.
    pub(super) fn of(&self, fuse: &Fuse, spender: &Spender, ring: &Ring) -> Option<PastDays> {
        let is_its = |key: &Arc<str>| {
            let project = ring.by_id(key).map(|key| Arc::clone(&key.project)).unwrap_or_default();
            fuse.spender(&project, key) == *spender && watches(fuse, ring, &project, key)
        };
        let of_keys: Vec<Past> = match spender {
            Spender::Key(key) => self.keys.get(key).copied().into_iter().collect(),
            Spender::Organization | Spender::Project(_) => {
                self.keys.iter().filter(|(key, _)| is_its(key)).map(|(_, past)| *past).collect()
            }
        };
        let first_s = of_keys.iter().map(|past| past.first_s).min()?;
        let spent = of_keys.iter().map(|past| past.spent).sum();
        Some(PastDays { spent, days: (self.until_s - first_s) / DAY_S })
    }
}

/// A limit that counts what each key spends by the day.
fn by_key_and_day() -> Limit {
    Limit {
        name: "usual".into(),
        per: Per::Key,
        only: Only::default(),
        unit: Unit::Usd,
        window: Window::Day,
        zone: "UTC".into(),
        soft: Vec::new(),
        hard: None,
        mode: Mode::Shadow,
        source: Source::File,
    }
}

//! Watches what is spent, and blows fuses.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::domain::stop::Cause;
use crate::domain::{Fuse, Money, Spender};
use crate::guard::audit::Actor;
use crate::stops::sums::{Sums, Touched};
use crate::stops::{StopError, Stops};
use crate::store::StoreError;

/// The longest time between two looks: other guards spend as well.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The shortest.
const PAUSE: Duration = Duration::from_millis(50);
/// The pause after a look, as a multiple of the time that it took.
const PAUSE_PER_LOOK: u32 = 9;

/// What a spender has spent within the time of a fuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Who has.
    pub spender: Spender,
    /// How much.
    pub spent: Money,
    /// How much may be spent; `None` while too little is known of its past.
    pub limit: Option<Money>,
}

impl Stops {
    /// Puts the fuses of the configuration in force, in place of those before. Those that have blown
    /// stay so.
    pub fn set_fuses(&self, fuses: Vec<Arc<Fuse>>) {
        for fuse in &fuses {
            self.core.metrics().fuse_in_force(&fuse.name);
        }
        if **self.fuses.load() != fuses {
            self.fuses.store(Arc::new(fuses));
            self.changed.notify_one();
        }
    }

    /// Looks whenever something was written, and once a second, until it is stopped. Without a fuse
    /// it does nothing.
    pub async fn watch(&self, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            if self.fuses.load().is_empty() {
                tokio::select! {
                    () = self.changed.notified() => {}
                    _ = stop.changed() => {}
                }
                continue;
            }
            let committed = self.core.news().committed.notified();
            let began = self.core.clock().running();
            if let Err(error) = self.look().await {
                tracing::warn!(
                    event = "fuses_not_watched", %error,
                    "what was spent can't be read, so no fuse can blow; trying again"
                );
            }
            let took = self.core.clock().running().saturating_sub(began);
            let pause = PAUSE.max(took.saturating_mul(PAUSE_PER_LOOK)).min(LOOK_EVERY);
            let rest = LOOK_EVERY.saturating_sub(pause);
            let awaited = async {
                sleep(pause).await;
                let _ = timeout(rest, committed).await;
            };
            tokio::select! {
                () = awaited => {}
                () = self.changed.notified() => {}
                _ = stop.changed() => {}
            }
        }
    }

    /// Counts what was spent since the last look, and blows the fuses of those who have spent too much.
    pub async fn look(&self) -> Result<(), StoreError> {
        let touched = self.spent_since().await?;
        let looked = self.look_at(touched).await;
        if looked.is_err() {
            // The next look reads back, and looks at everyone again.
            *self.sums.lock().await = None;
        }
        looked
    }

    /// Blows the fuses of those who have spent too much.
    async fn look_at(&self, touched: Vec<Touched>) -> Result<(), StoreError> {
        for (fuse, spender) in touched {
            if self.over(&fuse, &spender).await?.is_some() {
                self.blow(&fuse, spender).await?;
            }
        }
        Ok(())
    }

    /// Counts what was spent since the last look; returns who has spent.
    async fn spent_since(&self) -> Result<Vec<Touched>, StoreError> {
        let mut sums = self.sums.lock().await;
        let fuses = self.fuses.load_full();
        if fuses.is_empty() {
            *sums = None;
            return Ok(Vec::new());
        }
        let now_ms = || self.core.clock().now_ms();
        if let Some(sums) = sums.as_mut().filter(|sums| sums.fuses().eq(fuses.iter())) {
            let read = self.reports.recent_spend(sums.next(now_ms())).await?;
            return Ok(sums.look(&read, &self.ring, now_ms()));
        }
        let read = self.reports.recent_spend(Sums::first(&fuses, now_ms())).await?;
        let new = sums.insert(Sums::of(&fuses, &read, &self.ring, now_ms()));
        let of =
            |fuse: &Arc<Fuse>| new.spenders(&fuse.name).map(|of| (Arc::clone(fuse), of.clone())).collect();
        Ok(fuses.iter().flat_map(|fuse| -> Vec<Touched> { of(fuse) }).collect())
    }

    /// What a spender has spent and could have spent, if it is more; `None` if the fuse has blown
    /// for it already.
    async fn over(&self, fuse: &Fuse, spender: &Spender) -> Result<Option<(Money, Money)>, StoreError> {
        let now_ms = self.core.clock().now_ms();
        let last = self.ring.stops().last(spender, Some(&fuse.name));
        if last.as_ref().is_some_and(|stop| stop.is_in_force(now_ms)) {
            return Ok(None);
        }
        let reading = self.reading(fuse, spender).await?;
        let limit = reading.limit.filter(|limit| reading.spent > *limit);
        Ok(limit.map(|limit| (reading.spent, limit)))
    }

    async fn reading(&self, fuse: &Fuse, spender: &Spender) -> Result<Reading, StoreError> {
        let now_ms = self.core.clock().now_ms();
        let last = self.ring.stops().last(spender, Some(&fuse.name));
        let since_ms = last.and_then(|stop| stop.over_ms()).unwrap_or(i64::MIN);
        let sums = self.sums.lock().await;
        let sum = |sums: &Sums| sums.spent(&fuse.name, spender, since_ms, now_ms);
        let spent = sums.as_ref().map_or(Money::ZERO, sum);
        drop(sums);
        let past = if fuse.times_usual.is_some() {
            let mut usual = self.usual.lock().await;
            usual.refresh(&self.reports, now_ms.div_euclid(1_000)).await?;
            usual.of(fuse, spender, &self.ring)
        } else {
            None
        };
        Ok(Reading { spender: spender.clone(), spent, limit: fuse.limit(past) })
    }

    /// Blows a fuse, unless another guard has blown or reset it meanwhile.
    async fn blow(&self, fuse: &Arc<Fuse>, spender: Spender) -> Result<(), StoreError> {
        let by = Actor::fuse(&fuse.name);
        let turn = self.records.turn(&by).await?;
        let Some((spent, limit)) = self.over(fuse, &spender).await? else { return Ok(()) };
        let cause = Cause::Fuse { name: Arc::clone(&fuse.name), spent, limit };
        let stop = self.begin(turn, spender, cause, fuse.cool_down_ms, &by).await?;
        self.core.metrics().fuse_blown(&fuse.name);
        let (spent, limit) = (spent.dollars(), limit.dollars());
        tracing::warn!(
            event = "fuse_blown", fuse = %fuse.name, subject = stop.spender.label(), %spent, %limit,
            "a fuse has blown: requests that cost money are refused"
        );
        Ok(())
    }

    /// The fuses in force, each with what the spenders have spent that have spent the most.
    pub async fn fuses(&self, spenders_max: usize) -> Result<Vec<(Arc<Fuse>, Vec<Reading>)>, StopError> {
        self.look().await?;
        let (now_ms, mut all) = (self.core.clock().now_ms(), Vec::new());
        for fuse in self.fuses.load_full().iter() {
            let spenders: Vec<Spender> = {
                let sums = self.sums.lock().await;
                sums.as_ref().map_or(Vec::new(), |sums| sums.fullest(&fuse.name, spenders_max, now_ms))
            };
            let mut readings = Vec::new();
            for spender in spenders {
                readings.push(self.reading(fuse, &spender).await?);
            }
            readings.sort_unstable_by(|a, b| b.spent.cmp(&a.spent).then_with(|| a.spender.cmp(&b.spender)));
            all.push((Arc::clone(fuse), readings));
        }
        Ok(all)
    }
}

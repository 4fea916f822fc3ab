//! Keeping the sums of days up to date.

use std::time::Duration;

use jiff::tz::TimeZone;
use tokio::sync::watch;

use crate::books::Books;
use crate::store::StoreError;

/// How often it looks for quarters of an hour that have ended.
const EVERY: Duration = Duration::from_secs(60);
/// The pause between two steps, in which others can write.
const PAUSE: Duration = Duration::from_millis(20);
/// Quarters that ended this long ago are summed up: most requests that began in
/// them have ended.
const AGE_S: i64 = 60;

impl Books {
    /// Sums up days, and removes objects that upstream no longer has, until it is
    /// stopped.
    pub async fn sum_up_days(&self, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            let wait = match self.sum_up_some().await {
                Ok(true) => PAUSE,
                Ok(false) if matches!(self.forget_objects().await, Ok(true)) => PAUSE,
                Ok(false) => EVERY,
                Err(error) => {
                    tracing::warn!(
                        event = "days_not_summed", %error,
                        "days can't be summed up; queries over long times are slower meanwhile"
                    );
                    EVERY
                }
            };
            let _ = tokio::time::timeout(wait, stop.changed()).await;
        }
    }

    /// Sums up some rows of quarters that have ended, or removes a day that was
    /// summed up for other time zones; `false` if there is nothing to do.
    pub async fn sum_up_some(&self) -> Result<bool, StoreError> {
        let before_s = self.core.clock().now_s().saturating_sub(AGE_S);
        self.records.sum_up_days(before_s, self.zones().await).await
    }

    /// Removes some objects that upstream no longer has. Returns whether there may be more.
    async fn forget_objects(&self) -> Result<bool, StoreError> {
        self.records.forget_objects(self.core.clock().now_s()).await
    }

    /// The time zones whose days are needed: the organization's, the limits', and
    /// UTC, in which OpenAI's API counts.
    async fn zones(&self) -> Vec<TimeZone> {
        let mut names = self.rulebook.zones().await;
        names.push("UTC".into());
        names.sort_unstable();
        names.dedup();
        names.iter().filter_map(|name| TimeZone::get(name).ok()).collect()
    }
}

//! Refusals because spending is stopped: by a fuse that has blown, or by an operator.

use std::sync::Arc;

use jiff::Timestamp;

use super::denied::{resets_at, spent};
use super::{Answer, Config, Refusal};
use crate::domain::stop::Cause;
use crate::domain::{Spender, Stop};

impl From<Arc<Stop>> for Refusal {
    fn from(stop: Arc<Stop>) -> Self {
        Self::Stopped(stop)
    }
}

/// The code, which is the label of the metric, too.
pub(super) const fn code(stop: &Stop) -> &'static str {
    match &stop.cause {
        Cause::KillSwitch { .. } => "kill_switch",
        Cause::Fuse { .. } => "fuse_blown",
    }
}

pub(super) fn answer(stop: &Stop, config: Config, now_s: i64) -> Answer {
    let whose = match &stop.spender {
        Spender::Organization => "this organization",
        Spender::Project(_) => "this project",
        Spender::Key(_) => "this key",
    };
    let end_s = stop.over_ms().map(|over_ms| over_ms.saturating_add(999).div_euclid(1_000));
    let end = end_s.and_then(|end_s| Timestamp::from_second(end_s).ok());
    let until = end.map_or_else(|| "until an operator resets it".to_owned(), |end| format!("until {end}"));
    let message = match &stop.cause {
        Cause::KillSwitch { .. } => format!(
            "An operator of spendguard has stopped all spending of {whose}. Requests that cost money are rejected until \
             an operator allows them again."
        ),
        Cause::Fuse { name, spent, limit } => {
            let amounts = if config.show_amounts {
                format!(": {} were spent in a short time, more than {}", spent.dollars(), limit.dollars())
            } else {
                ": too much was spent in a short time".to_owned()
            };
            format!(
                "Fuse \"{name}\" has blown for {whose}{amounts}. Requests that cost money are rejected {until}."
            )
        }
    };
    let mut answer = spent(message, code(stop), config);
    if let Some(end_s) = end_s {
        resets_at(&mut answer.headers, end_s, now_s);
    }
    answer
}

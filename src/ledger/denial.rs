//! Why a request may not spend: the facts, without a word of HTTP.

use std::sync::Arc;

use crate::domain::{Limit, Money, Span};
use crate::ledger::meter::Subject;

/// The meter that stood in the way, as it was then. Amounts are in the
/// limit's unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// The limit.
    pub limit: Arc<Limit>,
    /// Whose meter.
    pub subject: Subject,
    /// The meter's window.
    pub span: Span,
    /// The cap.
    pub hard: i64,
    /// Settled by then.
    pub settled: i64,
    /// Held by other requests then.
    pub held: i64,
    /// What the request would have reserved.
    pub needed: i64,
}

impl Blocked {
    /// What the cap leaves once other requests' holds have ended: not below zero.
    pub fn left(&self) -> i64 {
        self.hard.saturating_sub(self.settled).max(0)
    }

    /// Whether less than a twentieth of the cap is left. A refusal by a meter that has more
    /// says something of the request, and nothing of the meter.
    pub fn is_nearly_used_up(&self) -> bool {
        self.left() == 0 || i128::from(self.left()) * 20 < i128::from(self.hard)
    }
}

/// What prepaid credit there was for a request that needs more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Short {
    /// The account, as the limit that it is to clients.
    pub limit: Arc<Limit>,
    /// Granted, and neither spent nor expired.
    pub balance: Money,
    /// Held by other requests.
    pub held: Money,
    /// What the request would have reserved.
    pub needed: Money,
}

/// Why a request was not admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// The cap leaves no room for it in this window.
    Exhausted(Box<Blocked>),
    /// It would fit if other requests' holds were gone.
    Held(Box<Blocked>),
    /// It would not fit even into an untouched window.
    TooLarge(Box<Blocked>),
    /// It may cost more than the client itself allows.
    OverClientCap {
        /// What the client allows.
        cap: Money,
        /// What the request may cost.
        needed: Money,
    },
    /// Prepaid credit does not suffice.
    NoCredit(Box<Short>),
    /// It would if other requests' holds were gone.
    CreditHeld(Box<Short>),
    /// There are as many meters as memory is meant to hold.
    TooManyMeters,
}

impl Denial {
    /// The limit that stood in the way, if it was one.
    pub fn limit(&self) -> Option<&Arc<Limit>> {
        match self {
            Self::Exhausted(blocked) | Self::Held(blocked) | Self::TooLarge(blocked) => Some(&blocked.limit),
            Self::NoCredit(short) | Self::CreditHeld(short) => Some(&short.limit),
            Self::OverClientCap { .. } | Self::TooManyMeters => None,
        }
    }

    /// Whether it would pass if other requests' holds were gone.
    pub fn is_held(&self) -> bool {
        matches!(self, Self::Held(_) | Self::CreditHeld(_))
    }

    /// How final it is; of several denials the client hears the most final.
    pub(crate) fn finality(&self) -> u8 {
        match self {
            Self::Held(_) | Self::CreditHeld(_) => 0,
            Self::TooLarge(_) => 1,
            Self::Exhausted(_) | Self::NoCredit(_) => 2,
            Self::OverClientCap { .. } | Self::TooManyMeters => 3,
        }
    }
}

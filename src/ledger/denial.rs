//! Denials: why a request was not admitted. Independent of HTTP.

use std::sync::Arc;

use crate::domain::limit::Per;
use crate::domain::{Limit, Money, Span};
use crate::ledger::meter::Subject;
use crate::ledger::waiting::Place;

/// The meter that stood in the way, as it was then. Amounts are in the
/// limit's unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// The limit.
    pub limit: Arc<Limit>,
    /// The meter's subject.
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

    /// Whether less than a twentieth of the cap is left. A refusal by a meter with more
    /// left is due to the size of the request.
    pub fn is_nearly_used_up(&self) -> bool {
        self.left() == 0 || i128::from(self.left()) * 20 < i128::from(self.hard)
    }
}

/// The prepaid credit when a request needed more.
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
    /// It would fit if other requests' holds were gone, or fits behind others
    /// that wait.
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
    /// The limit has the maximum number of meters, and the request needs another one.
    TooManyMeters(Arc<Limit>),
}

impl Denial {
    /// The limit that stood in the way, if it was one.
    pub fn limit(&self) -> Option<&Arc<Limit>> {
        match self {
            Self::Exhausted(blocked) | Self::Held(blocked) | Self::TooLarge(blocked) => Some(&blocked.limit),
            Self::NoCredit(short) | Self::CreditHeld(short) => Some(&short.limit),
            Self::TooManyMeters(limit) => Some(limit),
            Self::OverClientCap { .. } => None,
        }
    }

    /// The same where the other holds in the way are of the same request: these don't end before
    /// it is served.
    #[must_use]
    pub fn beside_own_holds(self) -> Self {
        match self {
            Self::Held(blocked) => Self::Exhausted(blocked),
            Self::CreditHeld(short) => Self::NoCredit(short),
            final_one @ (Self::Exhausted(_)
            | Self::TooLarge(_)
            | Self::OverClientCap { .. }
            | Self::NoCredit(_)
            | Self::TooManyMeters(_)) => final_one,
        }
    }

    /// Whether it would pass if other requests' holds were gone.
    pub fn is_held(&self) -> bool {
        matches!(self, Self::Held(_) | Self::CreditHeld(_))
    }

    /// Where it is worth waiting for room, if it is.
    pub fn place(&self) -> Option<Place> {
        match self {
            Self::Held(blocked) => {
                let limit = Arc::clone(&blocked.limit.name);
                Some(Place::Meter { limit, subject: blocked.subject.clone() })
            }
            Self::CreditHeld(_) => Some(Place::Credit),
            Self::Exhausted(_)
            | Self::TooLarge(_)
            | Self::NoCredit(_)
            | Self::OverClientCap { .. }
            | Self::TooManyMeters(_) => None,
        }
    }

    /// Whether there is room for it, and only others wait for it, too.
    pub fn is_queued_only(&self) -> bool {
        match self {
            Self::Held(blocked) => {
                let Blocked { hard, settled, held, needed, .. } = **blocked;
                settled.saturating_add(held).saturating_add(needed) <= hard
            }
            Self::CreditHeld(short) => short.held + short.needed <= short.balance,
            Self::Exhausted(_)
            | Self::TooLarge(_)
            | Self::NoCredit(_)
            | Self::OverClientCap { .. }
            | Self::TooManyMeters(_) => false,
        }
    }

    /// Whether it takes precedence over another denial. The client gets the most
    /// final one; of those that waiting may resolve, the one that the fewest
    /// requests share, so that a request that waits for room of its own key does not
    /// block other keys.
    pub(crate) fn outweighs(&self, other: &Self) -> bool {
        let (own, others) = (self.finality(), other.finality());
        own > others || (own == others && self.breadth() < other.breadth())
    }

    /// How many requests share the obstacle.
    fn breadth(&self) -> u8 {
        let Self::Held(blocked) = self else { return u8::from(matches!(self, Self::CreditHeld(_))) * 3 };
        let limit = &blocked.limit;
        match limit.per {
            Per::Key | Per::User | Per::Tag(_) => 0,
            Per::Project | Per::Model | Per::Organization if !limit.only.keys.is_empty() => 0,
            Per::Project | Per::Model => 1,
            Per::Organization if !limit.only.projects.is_empty() => 1,
            Per::Organization => 2,
        }
    }

    /// How final it is.
    fn finality(&self) -> u8 {
        match self {
            Self::Held(_) | Self::CreditHeld(_) => 0,
            Self::TooLarge(_) => 1,
            Self::Exhausted(_) | Self::NoCredit(_) => 2,
            Self::OverClientCap { .. } | Self::TooManyMeters(_) => 3,
        }
    }
}

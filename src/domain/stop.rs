//! Stops: who may not spend, since when, until when, and why.

use std::sync::Arc;

use crate::domain::Money;

/// What of an organization can be stopped as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SpenderKind {
    /// All of it.
    Organization,
    /// A project.
    Project,
    /// A key.
    Key,
}

/// Whose spending is watched and stopped.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Spender {
    /// The organization.
    Organization,
    /// A project, by its id.
    Project(Arc<str>),
    /// A key, by its id.
    Key(Arc<str>),
}

/// Why spending is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// An operator's decision.
    KillSwitch {
        /// What the operator has to say about it.
        note: Option<String>,
    },
    /// A fuse that has blown.
    Fuse {
        /// Its name.
        name: Arc<str>,
        /// What was spent within its time.
        spent: Money,
        /// What could have been spent.
        limit: Money,
    },
}

/// A stop: its spender may begin nothing that costs money.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// The id of its line in the ledger.
    pub id: u64,
    /// Who is stopped.
    pub spender: Spender,
    /// Why.
    pub cause: Cause,
    /// The name of the operator, or of the fuse.
    pub by: String,
    /// Since when, in Unix milliseconds.
    pub since_ms: i64,
    /// When it ends by itself, in Unix milliseconds.
    pub until_ms: Option<i64>,
    /// When an operator has lifted it, in Unix milliseconds. Of a fuse that is kept: what was spent
    /// before no longer counts.
    pub lifted_ms: Option<i64>,
}

impl SpenderKind {
    /// Every kind, the widest first.
    pub const ALL: [Self; 3] = [Self::Organization, Self::Project, Self::Key];

    /// The name in configuration and API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Organization => "organization",
            Self::Project => "project",
            Self::Key => "key",
        }
    }

    /// The kind of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The spender of this kind that a key of a project is, or belongs to.
    pub fn of(self, project: &Arc<str>, key: &Arc<str>) -> Spender {
        match self {
            Self::Organization => Spender::Organization,
            Self::Project => Spender::Project(Arc::clone(project)),
            Self::Key => Spender::Key(Arc::clone(key)),
        }
    }
}

impl Spender {
    /// The kind of spender.
    pub const fn kind(&self) -> SpenderKind {
        match self {
            Self::Organization => SpenderKind::Organization,
            Self::Project(_) => SpenderKind::Project,
            Self::Key(_) => SpenderKind::Key,
        }
    }

    /// The name in API and logs: `organization`, else the id.
    pub fn label(&self) -> &str {
        match self {
            Self::Organization => SpenderKind::Organization.name(),
            Self::Project(id) | Self::Key(id) => id,
        }
    }
}

impl Stop {
    /// The name of the fuse that has blown; `None` of a kill switch.
    pub fn fuse(&self) -> Option<&Arc<str>> {
        match &self.cause {
            Cause::KillSwitch { .. } => None,
            Cause::Fuse { name, .. } => Some(name),
        }
    }

    /// The name of the kind in API, metrics and refusals: `kill_switch` or `fuse`.
    pub const fn kind(&self) -> &'static str {
        match &self.cause {
            Cause::KillSwitch { .. } => "kill_switch",
            Cause::Fuse { .. } => "fuse",
        }
    }

    /// When it is over, in Unix milliseconds; `None` if it lasts until it is lifted.
    pub fn over_ms(&self) -> Option<i64> {
        self.lifted_ms.into_iter().chain(self.until_ms).min()
    }

    /// Whether it is in force at an instant, in Unix milliseconds.
    pub fn is_in_force(&self, at_ms: i64) -> bool {
        self.over_ms().is_none_or(|over_ms| at_ms < over_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_ends_when_it_has_cooled_down_or_is_lifted_whichever_is_first() {
        let stop = Stop {
            id: 1,
            spender: Spender::Organization,
            cause: Cause::KillSwitch { note: None },
            by: "ann".to_owned(),
            since_ms: 10,
            until_ms: None,
            lifted_ms: None,
        };
        assert!(stop.is_in_force(i64::MAX));
        let cooling = Stop { until_ms: Some(20), ..stop };
        assert!(cooling.is_in_force(19) && !cooling.is_in_force(20));
        let lifted = Stop { lifted_ms: Some(15), ..cooling };
        assert!(lifted.is_in_force(14) && !lifted.is_in_force(15));
    }
}

//! Limits: what is counted, over which window, for whom, and the caps.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::domain::{Money, Pattern, Window, tag};

/// For whom a limit counts separately.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Per {
    /// One meter for the whole organization.
    Organization,
    /// A meter for each project.
    Project,
    /// A meter for each key.
    Key,
    /// A meter for each end user.
    User,
    /// A meter for each model.
    Model,
    /// A meter for each value of the tag of this name, within each key.
    Tag(Arc<str>),
}

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Dollars; amounts are nano-dollars.
    Usd,
    /// Input and output tokens together.
    Tokens,
    /// Input tokens.
    InputTokens,
    /// Output tokens.
    OutputTokens,
    /// Requests that upstream accepted.
    Requests,
}

/// Whether a limit refuses requests, or only records that it would have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Requests past the hard cap are refused.
    Enforce,
    /// Requests past the hard cap are counted, logged and let through.
    Shadow,
}

/// Where a limit was written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The configuration file.
    File,
    /// The admin API, CLI or dashboard.
    Api,
}

/// A soft threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Soft {
    /// A fixed amount in the limit's unit.
    Amount(i64),
    /// A share of the hard cap, in percent.
    Percent(u32),
}

/// Restricts a limit to some requests; every part that is given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Only {
    /// Projects: their ids, in a limit that is in force; names may be written instead.
    pub projects: Vec<String>,
    /// Keys, in the same way.
    pub keys: Vec<String>,
    /// Model patterns; see [`crate::domain::model::reaches`].
    pub models: Vec<Pattern>,
    /// For each tag, the values that match.
    pub tags: BTreeMap<String, Vec<String>>,
}

/// A rule. Amounts are nano-dollars for [`Unit::Usd`], else plain counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Unique among all limits.
    pub name: Arc<str>,
    /// For whom it counts separately.
    pub per: Per,
    /// The requests that it applies to.
    pub only: Only,
    /// What it counts.
    pub unit: Unit,
    /// Over which window.
    pub window: Window,
    /// IANA name of the time zone the window follows.
    pub zone: Arc<str>,
    /// Thresholds that alert.
    pub soft: Vec<Soft>,
    /// The cap, if it has one.
    pub hard: Option<i64>,
    /// Whether the cap blocks.
    pub mode: Mode,
    /// Where it was written down.
    pub source: Source,
}

impl Limit {
    /// The soft thresholds as amounts, ascending and without repeats.
    ///
    /// A share of an absent cap is no threshold. Shares round up, so that
    /// "100%" is the cap itself.
    pub fn thresholds(&self) -> Vec<i64> {
        let amount = |soft: &Soft| match *soft {
            Soft::Amount(amount) => Some(amount),
            Soft::Percent(percent) => self.hard.map(|hard| share(hard, percent)),
        };
        let mut amounts: Vec<i64> = self.soft.iter().filter_map(amount).collect();
        amounts.sort_unstable();
        amounts.dedup();
        amounts
    }

    /// Whether it is a rate, kept by a token bucket instead of a meter:
    /// requests or tokens in a minute. A cap of zero is no rate, it blocks.
    pub fn is_rate(&self) -> bool {
        self.window == Window::Minute && self.unit != Unit::Usd && self.hard != Some(0)
    }

    /// Whether two limits count the same thing, so that one can continue with the
    /// meters of the other.
    pub fn counts_like(&self, other: &Self) -> bool {
        self.per == other.per
            && self.only == other.only
            && self.unit == other.unit
            && self.window == other.window
            && self.zone == other.zone
    }
}

fn share(hard: i64, percent: u32) -> i64 {
    let exact = i128::from(hard) * i128::from(percent);
    i64::try_from((exact + 99).div_euclid(100)).unwrap_or(i64::MAX)
}

/// What the name of a tag stands behind, where a limit counts its values separately.
const TAG_PREFIX: &str = "tag:";

impl Per {
    /// Every value but tags, widest first.
    pub const UNTAGGED: [Self; 5] = [Self::Organization, Self::Project, Self::Key, Self::User, Self::Model];
    /// The names that there are, for messages.
    pub const NAMES: &str = "organization, project, key, user, model or tag:NAME, where NAME has 1 to 64 of a-z, A-Z, \
                             0-9, '.', '_' and '-'";

    /// The name in configuration and API.
    pub fn name(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Organization => "organization",
            Self::Project => "project",
            Self::Key => "key",
            Self::User => "user",
            Self::Model => "model",
            Self::Tag(name) => return Cow::Owned(format!("{TAG_PREFIX}{name}")),
        })
    }

    /// The value of that name.
    pub fn named(name: &str) -> Option<Self> {
        if let Some(tag) = name.strip_prefix(TAG_PREFIX) {
            return tag::is_name(tag).then(|| Self::Tag(tag.into()));
        }
        Self::UNTAGGED.into_iter().find(|per| per.name() == name)
    }
}

impl Unit {
    /// Every value.
    pub const ALL: [Self; 5] =
        [Self::Usd, Self::Tokens, Self::InputTokens, Self::OutputTokens, Self::Requests];

    /// Its place in [`Unit::ALL`].
    pub const fn index(self) -> usize {
        match self {
            Self::Usd => 0,
            Self::Tokens => 1,
            Self::InputTokens => 2,
            Self::OutputTokens => 3,
            Self::Requests => 4,
        }
    }
    /// The name in configuration and API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Usd => "usd",
            Self::Tokens => "tokens",
            Self::InputTokens => "input_tokens",
            Self::OutputTokens => "output_tokens",
            Self::Requests => "requests",
        }
    }

    /// The value of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|unit| unit.name() == name)
    }

    /// An amount as an exact decimal: dollars for [`Unit::Usd`], else a count.
    pub fn decimal(self, amount: i64) -> String {
        match self {
            Self::Usd => Money::from_nano(amount).to_string(),
            Self::Tokens | Self::InputTokens | Self::OutputTokens | Self::Requests => amount.to_string(),
        }
    }

    /// An amount for people: `$24.00`, `1200 tokens`.
    pub fn phrase(self, amount: i64) -> String {
        match self {
            Self::Usd => Money::from_nano(amount).dollars(),
            Self::Tokens => format!("{amount} tokens"),
            Self::InputTokens => format!("{amount} input tokens"),
            Self::OutputTokens => format!("{amount} output tokens"),
            Self::Requests => format!("{amount} requests"),
        }
    }
}

impl Mode {
    /// The name in configuration and API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Shadow => "shadow",
        }
    }

    /// The value of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Enforce, Self::Shadow].into_iter().find(|mode| mode.name() == name)
    }
}

impl Source {
    /// The name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Api => "api",
        }
    }
}

impl fmt::Display for Per {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_counts_by_a_tag_of_a_plain_name() {
        let per = Per::named("tag:run-1").unwrap();
        assert_eq!((&per, &*per.name()), (&Per::Tag("run-1".into()), "tag:run-1"));
        for per in Per::UNTAGGED {
            assert_eq!(Per::named(&per.name()), Some(per));
        }
        for bad in ["", "tag", "tag:", "tag: run", "tag:a=b", "Tag:run", "tags:run"] {
            assert_eq!(Per::named(bad), None, "{bad}");
        }
    }

    #[test]
    fn shares_of_the_cap_round_up_and_sort() {
        let limit = Limit {
            name: "m".into(),
            per: Per::Organization,
            only: Only::default(),
            unit: Unit::Usd,
            window: Window::Month,
            zone: "UTC".into(),
            soft: vec![Soft::Percent(100), Soft::Amount(3), Soft::Percent(50), Soft::Percent(50)],
            hard: Some(7),
            mode: Mode::Enforce,
            source: Source::File,
        };
        assert_eq!(limit.thresholds(), [3, 4, 7]);
        assert_eq!(Limit { hard: None, ..limit }.thresholds(), [3]);
    }
}

//! Questions about the past and their answers, as plain structs.
//!
//! Times are Unix seconds where a name ends in `_s`, Unix milliseconds where it ends in
//! `_ms`; the end of a span is exclusive.

use crate::domain::{Balance, Money, Quantities, Span};
use crate::ledger::entry::{Basis, Kind};
use crate::store::StoreError;

/// The length of the shortest sums of usage, in seconds: the hours and days of every time
/// zone are made of whole quarters of an hour.
pub const ROLLUP_S: i64 = 900;

/// As many differences as a report names one by one.
const DIFFERENCES_MAX: usize = 50;

/// Which entries are wanted. Times are Unix seconds, `until` exclusive.
#[derive(Clone, Debug, Default)]
pub struct EntryFilter {
    /// Of this key.
    pub key: Option<String>,
    /// Of this project.
    pub project: Option<String>,
    /// Admitted at or after.
    pub since_s: Option<i64>,
    /// Admitted before.
    pub until_s: Option<i64>,
    /// Known on this basis.
    pub basis: Option<Basis>,
    /// Of this kind.
    pub kind: Option<Kind>,
    /// Of this id or a later one: how far back it is looked.
    pub from: Option<u64>,
    /// After (in the order asked for) this id.
    pub after: Option<u64>,
    /// Oldest first instead of newest first.
    pub ascending: bool,
    /// At most so many.
    pub count_max: usize,
}

/// By what usage is summed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// Each key.
    Key,
    /// Each project.
    Project,
    /// Each model that served.
    Model,
    /// Each end user.
    User,
    /// Each day of a calendar; the offsets are given by span.
    Day(Vec<Span>),
    /// Each endpoint.
    Endpoint,
    /// Each tag with its value.
    Tag,
}

/// A sum of usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageSum {
    /// Settled requests.
    pub requests: u64,
    /// What they cost, corrections included.
    pub cost: Money,
    /// What they used.
    pub quantities: Quantities,
}

impl UsageSum {
    /// Adds another sum.
    pub fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.cost = self.cost + other.cost;
        self.quantities += other.quantities;
    }
}

/// Selects usage; an absent field selects all.
#[derive(Clone, Debug, Default)]
pub struct UsageFilter {
    /// Of this project.
    pub project: Option<String>,
    /// Of this key.
    pub key: Option<String>,
}

impl UsageFilter {
    /// Whether it selects what a key of a project has used.
    pub fn selects(&self, project: &str, key: &str) -> bool {
        let fits = |wanted: &Option<String>, id: &str| wanted.as_ref().is_none_or(|wanted| wanted == id);
        fits(&self.project, project) && fits(&self.key, key)
    }
}

/// Sums of usage by group.
pub type Groups = Vec<(Vec<String>, UsageSum)>;

/// Usage by group, and how the days of its span share in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DailyUsage {
    /// The sums of the whole span, the costliest first.
    pub groups: Groups,
    /// Each day's sum, and its spend by the costliest groups; the last has the rest.
    pub days: Vec<(UsageSum, Vec<Money>)>,
}

/// What was spent at one time for one key on one model.
#[derive(Debug)]
pub struct UsageRow<'a> {
    /// When, in Unix seconds: of an entry its own time, of a sum its start.
    pub at_s: i64,
    /// Id of the project.
    pub project: &'a str,
    /// Id of the key.
    pub key: &'a str,
    /// The endpoint, by its path.
    pub endpoint: &'a str,
    /// The model that served, or else the one asked for; empty where there is none.
    pub model: &'a str,
    /// What it comes to.
    pub sum: UsageSum,
}

/// What was pruned, all together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Entries admitted before were pruned, in Unix seconds; the end of a quarter of an hour.
    pub before_s: i64,
    /// How many are gone.
    pub entries: u64,
    /// The greatest id among them.
    pub last_id: u64,
    /// The latest instant that one of them was admitted at, in Unix milliseconds.
    pub latest_ms: i64,
    /// What they came to.
    pub total: Total,
}

/// What entries of all keys come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// Settled requests.
    pub requests: i64,
    /// What they cost, corrections included, in nano-dollars.
    pub cost_nano: i64,
    /// Tokens of all classes.
    pub tokens: i64,
    /// Quantities of the other classes.
    pub others: Balance,
}

/// Why nothing more is pruned.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The sums of a quarter of an hour are not those of its entries.
    #[error(
        "the sums of the quarter of an hour from {} differ from its entries, which are the only proof of what is right; \
         nothing of it is pruned. `spendguard ledger verify` says what differs", crate::ledger::calendar::utc(*start_s)
    )]
    Unlike {
        /// Where it starts, in Unix seconds.
        start_s: i64,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The start of the quarter of an hour that an instant is in.
pub fn quarter_start_s(at_s: i64) -> i64 {
    at_s.div_euclid(ROLLUP_S).saturating_mul(ROLLUP_S)
}

/// A place among entries in the order in which their requests were admitted.
#[derive(Clone, Copy, Debug)]
pub struct AdmittedAfter {
    /// When the last one before was admitted, in Unix milliseconds.
    pub ms: i64,
    /// Its id.
    pub id: u64,
}

/// Rows that go at once.
#[derive(Debug)]
pub struct PruneStep {
    pub(super) ids: Vec<i64>,
    /// Where the quarter of an hour ends that entries are of.
    pub(super) before_s: Option<i64>,
    pub(super) latest_ms: i64,
    pub(super) total: Total,
}

impl PruneStep {
    /// How many entries go.
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Where to look for the next step.
    pub fn next_from_ms(&self) -> i64 {
        self.latest_ms
    }
}

/// Something that two places say differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// `file`, `rollup`, `day`, `entry`, `correction`, `hold`, `crossing`, `grant`,
    /// `credit` or `meter`.
    pub kind: &'static str,
    /// Which one; unique within its kind.
    pub about: String,
    /// What differs, with the amounts on both sides.
    pub what: String,
    /// What that does to limits.
    pub meaning: String,
    /// What to do about it.
    pub remedy: String,
}

/// What a comparison of the whole database found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Entries read.
    pub entries: u64,
    /// Rollup rows compared.
    pub rollups: u64,
    /// Open holds found.
    pub holds: u64,
    /// What was pruned, so that it could only be compared as a whole.
    pub pruned: Option<Pruned>,
    /// Limits whose meters were compared.
    pub limits: usize,
    /// What does not agree; empty if all does.
    pub differences: Vec<Difference>,
    /// How many more there are than are named.
    pub unnamed: u64,
}

impl Report {
    /// Notes a difference, or counts it if there are too many to name.
    pub(crate) fn note(&mut self, difference: impl FnOnce() -> Difference) {
        if self.differences.len() < DIFFERENCES_MAX {
            self.differences.push(difference());
        } else {
            self.unnamed += 1;
        }
    }
}

/// What the database is and takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Storage {
    /// The database's file, or its tables on a server, in bytes.
    pub database_bytes: u64,
    /// What its write-ahead log takes beside it, in bytes.
    pub log_bytes: u64,
    /// What of the database is free for what is written next, in bytes.
    pub reusable_bytes: u64,
    /// What its disk has left, in bytes; unless the system can't say it.
    pub free_bytes: Option<u64>,
    /// Entries.
    pub entries: u64,
    /// Sums of quarters of an hour.
    pub rollups: u64,
    /// When the oldest entry was admitted, in Unix milliseconds.
    pub oldest_ms: Option<i64>,
    /// What was pruned.
    pub pruned: Option<Pruned>,
}

/// What a database takes, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// The database's file, or its tables on a server.
    pub database: u64,
    /// Its write-ahead log, and the index of that.
    pub log: u64,
    /// What its disk has left for this user, if the system says so.
    pub free: Option<u64>,
}

/// Since when spending is asked for, in Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpendSince {
    /// Where the first quarter of an hour starts.
    pub quarters_s: i64,
    /// From where on it is asked for by the second as well.
    pub seconds_s: Option<i64>,
}

/// What a key has spent for requests that were admitted in a quarter of an hour or in a second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spent {
    /// Where that starts, in Unix seconds.
    pub at_s: i64,
    /// Id of the project.
    pub project: String,
    /// Id of the key.
    pub key: String,
    /// How much, corrections included, in nano-dollars.
    pub nano: i64,
}

/// What was spent lately, each list in the order of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecentSpend {
    /// By the quarter of an hour.
    pub quarters: Vec<Spent>,
    /// By the second, of what was admitted last.
    pub seconds: Vec<Spent>,
}

//! The records of the ledger: holds, the entries that end them, crossings.
//!
//! A record is immutable. Money moves only by a new record, and each record goes to
//! the database and to the meters by the same call.

mod crossing;
mod late;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::domain::demand::{Bound, Tier};
use crate::domain::limit::Unit;
use crate::domain::{Money, Quantities};

pub use self::crossing::{AlertKind, Crossing};

/// The note of a batch some of whose lines are known, and which so costs less than its hold.
pub const PARTLY_ASSUMED: &str = "some of its lines report no usage";

/// Tags that a client puts on a request, by name.
pub type Tags = BTreeMap<String, String>;

/// The attribution of a request: the subjects that it is counted for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attribution {
    /// Id of the project the key is in.
    pub project: Arc<str>,
    /// Name of that project.
    pub project_name: Arc<str>,
    /// Id of the key.
    pub key: Arc<str>,
    /// Name of the key.
    pub key_name: Arc<str>,
    /// The end user named in the body.
    pub end_user: Option<Arc<str>>,
    /// Tags from the request's header.
    pub tags: Arc<Tags>,
    /// The endpoint, by its path.
    pub endpoint: Cow<'static, str>,
    /// The model asked for, as written; empty on free endpoints, and
    /// [`crate::domain::model::ANY`] where only upstream knows it.
    pub model: Arc<str>,
    /// The model of the price sheet that the name resolves to.
    pub priced_as: Option<Arc<str>>,
    /// The model of its image generation tool: of a hold, where the request offers
    /// one; of an entry, where a picture may have been made.
    pub image_model: Option<Arc<str>>,
}

/// A hold: what a request may cost, reserved before it goes upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The id that its ending will have as an entry.
    pub id: u64,
    /// When it was admitted, in Unix milliseconds; decides its windows.
    pub admitted_ms: i64,
    /// The subjects that it is counted for.
    pub attribution: Arc<Attribution>,
    /// The amounts reserved.
    pub bound: Bound,
    /// The tier asked for.
    pub tier: Tier,
    /// Version of the price sheet pinned to the request.
    pub price_version: Arc<str>,
    /// Whether the answer is a stream.
    pub stream: bool,
}

/// How long a hold lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Life {
    /// As long as its request. One that a restart finds open was lost, and is charged.
    Request,
    /// As long as a job at upstream, whatever becomes of the request that began it, or of
    /// the guard.
    Job(Job),
}

/// A job at upstream that outlives the request that began it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its kind, such as a batch, which decides how its outcome is queried.
    pub kind: String,
    /// The id of the object at upstream; unique within its kind.
    pub object: String,
    /// When it must have ended, in Unix seconds.
    pub deadline_s: i64,
    /// What decides the cost of its outcome beside the hold, as its kind writes it.
    pub terms: String,
}

/// A job that runs, with its hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenJob {
    /// The hold.
    pub hold: Arc<Hold>,
    /// The job.
    pub job: Job,
}

/// How a settled cost is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Basis {
    /// Upstream reported the usage.
    Reported,
    /// We counted what passed.
    Counted,
    /// Nothing is known; the hold is charged.
    Assumed,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A hold replaced by the real cost.
    Settle,
    /// A hold dropped: upstream did no work that it bills.
    Release,
    /// A correction of an earlier entry: by an operator, or one that takes back what was
    /// [assumed](Entry::takes_back).
    Adjust,
    /// A meter has crossed a soft threshold or reached its hard cap.
    Threshold,
    /// Credit was granted.
    Grant,
}

/// One immutable line of the ledger. Never a prompt, never an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Unique and ascending in the order of admission.
    pub id: u64,
    /// What it is.
    pub kind: Kind,
    /// When it was written, in Unix milliseconds.
    pub created_ms: i64,
    /// When its request was admitted, in Unix milliseconds.
    pub admitted_ms: i64,
    /// The subjects that it is counted for.
    pub attribution: Arc<Attribution>,
    /// What was reserved.
    pub held: Bound,
    /// What it cost, hosted tools included.
    pub cost: Money,
    /// The hosted tools' part of the cost.
    pub tool_fees: Money,
    /// What was used, each in the class that it was charged at; or what is taken back of it.
    pub quantities: Quantities,
    /// How the settled or taken-back cost is known; otherwise `None`.
    pub basis: Option<Basis>,
    /// The model that answered.
    pub served_model: Option<Arc<str>>,
    /// The tier it was served at.
    pub tier: Tier,
    /// Version of the price sheet that priced it.
    pub price_version: Arc<str>,
    /// Upstream's HTTP status; 0 when there was no answer.
    pub status: u16,
    /// Upstream's request id.
    pub upstream_request_id: Option<String>,
    /// Id of the object that upstream made.
    pub object_id: Option<String>,
    /// From admission to the end.
    pub duration_ms: u64,
    /// From admission to the first byte of the answer's body.
    pub ttft_ms: Option<u64>,
    /// Whether the answer was a stream.
    pub stream: bool,
    /// Whether the client went away before the end.
    pub disconnected: bool,
    /// The entry that this one corrects.
    pub corrects: Option<u64>,
    /// A note of an operator or of the guard.
    pub note: Option<String>,
}

impl Entry {
    /// The ending of a hold, without cost or anything else that an answer says.
    pub fn ending(hold: &Hold, kind: Kind, at_ms: i64) -> Self {
        Self {
            admitted_ms: hold.admitted_ms,
            held: hold.bound,
            tier: hold.tier,
            price_version: Arc::clone(&hold.price_version),
            stream: hold.stream,
            ..Self::bare(hold.id, kind, at_ms, Arc::clone(&hold.attribution))
        }
    }

    /// The ending of a hold that is charged in full, since what was used is not known.
    pub fn assumed(hold: &Hold, at_ms: i64, note: &str) -> Self {
        Self {
            cost: hold.bound.cost,
            quantities: hold.bound.quantities(),
            basis: Some(Basis::Assumed),
            note: Some(note.to_owned()),
            ..Self::ending(hold, Kind::Settle, at_ms)
        }
    }

    /// A line that is of no request and moves no money.
    pub fn note(id: u64, kind: Kind, at_ms: i64, note: String) -> Self {
        Self { note: Some(note), ..Self::bare(id, kind, at_ms, Arc::default()) }
    }

    fn bare(id: u64, kind: Kind, at_ms: i64, attribution: Arc<Attribution>) -> Self {
        Self {
            id,
            kind,
            created_ms: at_ms,
            admitted_ms: at_ms,
            attribution,
            held: Bound::default(),
            cost: Money::ZERO,
            tool_fees: Money::ZERO,
            quantities: Quantities::default(),
            basis: None,
            served_model: None,
            tier: Tier::default(),
            price_version: Arc::default(),
            status: 0,
            upstream_request_id: None,
            object_id: None,
            duration_ms: 0,
            ttft_ms: None,
            stream: false,
            disconnected: false,
            corrects: None,
            note: None,
        }
    }

    /// The amount that it adds to a meter of that unit.
    pub fn amount(&self, unit: Unit) -> i64 {
        let sign = if self.takes_back() { -1 } else { 1 };
        let tokens = |count: u64| i64::try_from(count).unwrap_or(i64::MAX) * sign;
        match unit {
            Unit::Usd => self.cost.nano(),
            Unit::Tokens => tokens(self.quantities.tokens_total()),
            Unit::InputTokens => tokens(self.quantities.input_tokens_total()),
            Unit::OutputTokens => tokens(self.quantities.output_tokens_total()),
            Unit::Requests if self.takes_back() => -1,
            Unit::Requests => i64::from(self.kind == Kind::Settle),
        }
    }
}

/// The id of an entry, and of the hold it ends, as it is shown everywhere.
pub fn entry_id(id: u64) -> String {
    format!("ent_{id}")
}

/// The id of a grant, as it is shown everywhere.
pub fn grant_id(id: u64) -> String {
    format!("grant_{id}")
}

/// The amount that a hold reserves on a meter of that unit.
pub fn reserved(bound: &Bound, unit: Unit) -> i64 {
    let tokens = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    match unit {
        Unit::Usd => bound.cost.nano(),
        Unit::Tokens => tokens(bound.input_tokens.saturating_add(bound.output_tokens)),
        Unit::InputTokens => tokens(bound.input_tokens),
        Unit::OutputTokens => tokens(bound.output_tokens),
        Unit::Requests => 1,
    }
}

/// An amount in each unit, by [`Unit::index`].
pub type Amounts = [i64; Unit::ALL.len()];

impl Basis {
    /// The name in API, exports and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reported => "reported",
            Self::Counted => "counted",
            Self::Assumed => "assumed",
        }
    }

    /// The basis of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Reported, Self::Counted, Self::Assumed].into_iter().find(|basis| basis.name() == name)
    }
}

impl Kind {
    /// The name in API and exports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Settle => "settle",
            Self::Release => "release",
            Self::Adjust => "adjust",
            Self::Threshold => "threshold",
            Self::Grant => "grant",
        }
    }

    /// The kind of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Settle, Self::Release, Self::Adjust, Self::Threshold, Self::Grant]
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}

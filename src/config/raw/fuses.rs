//! Fuses, as they are written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::raw::Amount;

/// A fuse.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fuse {
    /// The name; unique.
    pub name: String,
    /// For whom it watches separately: `key`, `project` or `organization`.
    #[serde(default = "key")]
    pub per: String,
    /// The keys and projects that it watches.
    #[serde(default)]
    pub only: FuseOnly,
    /// Blows if more is spent, in US dollars.
    #[serde(default)]
    pub usd: Option<Amount>,
    /// Blows if so many times the usual amount is spent, that of a mean span of the last seven days.
    #[serde(default)]
    pub times_usual: Option<u32>,
    /// Below this amount, in US dollars, no multiple of the usual one blows it.
    #[serde(default = "usd_min")]
    pub usd_min: Amount,
    /// The span within which it is spent, from `1m` to `24h`.
    pub within: String,
    /// How long it stays blown; until it is reset if absent.
    #[serde(default)]
    pub cool_down: Option<String>,
}

fn key() -> String {
    "key".into()
}

const fn usd_min() -> Amount {
    Amount::Whole(1)
}

/// The keys and projects that a fuse watches; both parts must match.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FuseOnly {
    /// Project ids or names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub project: Vec<String>,
    /// Key ids or names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<String>,
}

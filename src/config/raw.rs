//! The configuration file as it is written. Every key has its default here.

pub mod alerts;
pub mod fuses;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty = $default:expr),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name { $($(#[$field_doc])* pub $field: $kind),* }
        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default),* }
            }
        }
    };
}

pub mod otlp;
pub mod prices;

pub use self::prices::{Price, PriceRates};

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Raw {
    /// The listener for clients.
    pub server: Server,
    /// The listener for operators and scrapers.
    pub admin: Admin,
    /// The upstream API: OpenAI, or a compatible server.
    pub upstream: Upstream,
    /// Keys.
    pub keys: Keys,
    /// The database.
    pub storage: Storage,
    /// The guards that share a database.
    pub cluster: Cluster,
    /// The calendar of windows.
    pub time: Time,
    /// Prices.
    pub pricing: Pricing,
    /// Admission and ends of requests.
    pub guard: Guard,
    /// Refusals.
    pub errors: Errors,
    /// Endpoints.
    pub endpoints: Endpoints,
    /// For each tag, where its value comes from; the first that a request has. By default from the
    /// header `x-spendguard-tags`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, Vec<String>>,
    /// The log.
    pub log: Log,
    /// The export to an OpenTelemetry collector.
    pub otlp: otlp::Otlp,
    /// Prepaid credit.
    pub credit: Credit,
    /// The organization.
    pub organization: Organization,
    /// Projects.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub project: Vec<Project>,
    /// Limits.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limit: Vec<Limit>,
    /// Fuses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fuse: Vec<fuses::Fuse>,
    /// The alerts that are sent when a limit is reached.
    pub alerts: alerts::Alerts,
    /// Prices that override the price sheet.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub price: Vec<Price>,
}

section! {
    /// The listener for clients.
    Server {
        /// Address and port.
        listen: String = "127.0.0.1:8080".into(),
        /// Certificate and key; plain HTTP without.
        tls: Option<TlsFiles> = None,
        /// The largest request body.
        request_body_max: String = "64MiB".into(),
        /// The most connections that may be open at the same time.
        connections_max: usize = 20_000,
        /// The longest wait for a request's head.
        header_timeout: String = "10s".into(),
        /// How long a connection may wait for its next request.
        idle_timeout: String = "75s".into(),
        /// Origins of browser pages that may call; `*` for all.
        cors_origins: Vec<String> = Vec::new(),
        /// How long running requests may take to finish at shutdown.
        drain: String = "30s".into(),
    }
}
section! {
    /// The listener for operators and scrapers.
    Admin {
        /// Address and port.
        listen: String = "127.0.0.1:8081".into(),
        /// Certificate and key; plain HTTP without.
        tls: Option<TlsFiles> = None,
        /// Names that it answers to, in addition to its address and `localhost`; `*` for all.
        hosts: Vec<String> = Vec::new(),
        /// The admin token; made at the first start if absent.
        token: Option<SecretSource> = None,
    }
}
section! {
    /// The upstream API: OpenAI, or a compatible server.
    Upstream {
        /// The base URL, with or without a path.
        base_url: String = "https://api.openai.com/v1".into(),
        /// The API key.
        api_key: Option<SecretSource> = None,
        /// The longest wait for a connection.
        connect_timeout: String = "5s".into(),
        /// The longest wait for the head of an answer.
        response_timeout: String = "10m".into(),
        /// The longest silence within an answer.
        idle_timeout: String = "5m".into(),
        /// An HTTP proxy, which overrides `HTTPS_PROXY` of the environment; `""` for none.
        proxy: Option<String> = None,
        /// Headers to forward in addition to those of OpenAI's API; a name may end in `*`.
        forward_headers: Vec<String> = Vec::new(),
    }
}
section! {
    /// Keys.
    Keys {
        /// `reject` or `pass-through`; follows from `upstream.api_key`.
        unknown: Option<String> = None,
    }
}
section! {
    /// The database.
    Storage {
        /// The folder of the embedded database.
        path: String = "spendguard-data".into(),
        /// The address of a PostgreSQL database that several guards share, in place of `path`:
        /// `postgres://user:password@host:5432/database?sslmode=verify-full`.
        url: Option<SecretSource> = None,
        /// The schema of its tables.
        schema: String = "spendguard".into(),
        /// The most connections of this guard to it, at least 6.
        connections_max: usize = 8,
        /// The longest wait for a connection to it.
        connect_timeout: String = "5s".into(),
        /// The longest that one statement may take there.
        statement_timeout: String = "10s".into(),
        /// `process` or `power`.
        durability: String = "process".into(),
        /// How long entries are kept, such as `400d`; forever if absent. Sums by quarter of an hour and by
        /// day are kept.
        keep: Option<String> = None,
    }
}
section! {
    /// The guards that share a database.
    Cluster {
        /// The name of this one; by default the host's name and a random suffix, new with each start.
        node: Option<String> = None,
        /// How long after its last sign of life a guard is given up, and what it holds is charged.
        node_timeout: String = "30s".into(),
    }
}
section! {
    /// The calendar of windows.
    Time {
        /// IANA time zone.
        zone: String = "UTC".into(),
    }
}
section! {
    /// Prices.
    Pricing {
        /// `built-in`, or a file in the form of the built-in sheet.
        sheet: String = "built-in".into(),
        /// `family`, `refuse` or `dearest`.
        unknown_model: String = "family".into(),
        /// A region such as `us`, or `global`; by default that of `upstream.base_url`.
        region: Option<String> = None,
        /// The tier that upstream uses for requests that name none.
        default_tier: String = "default".into(),
    }
}
section! {
    /// Admission and ends of requests.
    Guard {
        /// `clamp` or `reject`.
        when_tight: String = "clamp".into(),
        /// The least output that a clamped answer is worth, in tokens.
        clamp_output_min: u64 = 256,
        /// How long to wait for other requests' holds to end.
        hold_wait: String = "2s".into(),
        /// `drain` or `cancel`.
        on_disconnect: String = "drain".into(),
        /// How long to keep reading an answer after its client has disconnected.
        drain_max: String = "10m".into(),
        /// The output bound, in tokens, that is written into requests without one if
        /// a hard limit or credit applies; 0 for the model's own maximum.
        output_default: u64 = 16_384,
        /// The maximum of hosted tool calls that is written into requests without one.
        tool_calls_max: u64 = 8,
        /// The most tokens that one hosted tool call adds to the context.
        tool_context_max: u64 = 16_000,
        /// The bound of a request with hosted tools: `practical`, by
        /// `tool_context_max`, or `strict`, the model's whole context window for
        /// each turn.
        tools_bound: String = "practical".into(),
        /// Stored prompts under a hard limit: `refuse`, or `allow` with a hold for
        /// all that such a prompt may contain.
        stored_prompts: String = "refuse".into(),
        /// Whether a batch may be made of a file that was uploaded past the guard, which
        /// reads it from OpenAI first.
        fetch_batch_files: bool = false,
        /// The most requests that may be open at the same time.
        open_requests_max: usize = 20_000,
    }
}
section! {
    /// Refusals.
    Errors {
        /// The status of a refusal because a limit or credit is used up: 429, 402 or 400.
        spend_status: u16 = 429,
        /// `openai` or `classic`.
        code: String = "openai".into(),
        /// Whether messages name amounts.
        show_amounts: bool = true,
    }
}
section! {
    /// Endpoints.
    Endpoints {
        /// Endpoints to forward unmetered, such as `POST /v1/evals/{}/runs`; `{}` stands for an id.
        /// Endpoints that lead past every limit, such as those that create secrets for
        /// clients, can't be allowed.
        allow: Vec<String> = Vec::new(),
        /// Whether keys may list, read and delete objects of other projects.
        shared_objects: bool = false,
    }
}
section! {
    /// The log.
    Log {
        /// `text` or `json`.
        format: String = "text".into(),
        /// `error`, `warn`, `info`, `debug` or `trace`.
        level: String = "info".into(),
    }
}
section! {
    /// Prepaid credit.
    Credit {
        /// `enforce` or `shadow`.
        mode: String = "enforce".into(),
        /// The smallest grant, in US dollars.
        minimum: Amount = Amount::Whole(5),
        /// The balance below which an alert is sent, in US dollars.
        low_balance: Amount = Amount::Whole(5),
    }
}
section! {
    /// The organization.
    Organization {
        /// For people; given here, it can't be changed elsewhere.
        name: Option<String> = None,
    }
}

/// A certificate chain and its key, in PEM.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// File of the certificate chain.
    pub cert: String,
    /// File of the key.
    pub key: String,
}

/// The place of a secret, which is never in the file itself.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SecretSource {
    /// An environment variable.
    pub env: Option<String>,
    /// A file.
    pub file: Option<String>,
}

/// A project.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Project {
    /// Its id.
    pub id: String,
    /// The name shown to people.
    pub name: String,
}

/// An amount: a number, or its decimal text.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Amount {
    /// A whole number.
    Whole(i64),
    /// A decimal number; its shortest text is what was written.
    Decimal(f64),
    /// A decimal text, or a share such as `50%`.
    Text(String),
}

impl Amount {
    /// The amount as decimal text.
    pub fn text(&self) -> String {
        match self {
            Self::Whole(number) => number.to_string(),
            Self::Decimal(number) => number.to_string(),
            Self::Text(text) => text.trim().to_owned(),
        }
    }
}

/// A limit.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// The name; unique.
    pub name: String,
    /// For whom it counts separately.
    #[serde(default = "organization")]
    pub per: String,
    /// The requests that it applies to.
    #[serde(default)]
    pub only: Only,
    /// What it counts.
    #[serde(default = "usd")]
    pub unit: String,
    /// Over which window.
    pub window: String,
    /// IANA time zone; overrides `time.zone`.
    #[serde(default)]
    pub zone: Option<String>,
    /// Amounts, or shares of the cap.
    #[serde(default)]
    pub soft: Vec<Amount>,
    /// The cap.
    #[serde(default)]
    pub hard: Option<Amount>,
    /// `enforce` or `shadow`.
    #[serde(default = "enforce")]
    pub mode: String,
}

fn organization() -> String {
    "organization".into()
}

fn usd() -> String {
    "usd".into()
}

fn enforce() -> String {
    "enforce".into()
}

/// The requests that a limit applies to; every part that is given must match.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Only {
    /// Project ids or names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub project: Vec<String>,
    /// Key ids or names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<String>,
    /// Model patterns.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub model: Vec<String>,
    /// For each tag, the values that match.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tag: BTreeMap<String, Vec<String>>,
}

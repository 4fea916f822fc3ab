//! Checked settings, in the types of their users.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Uri};

use crate::alerts;
use crate::domain::demand::Tier;
use crate::domain::{Fuse, Limit, Secret};
use crate::ledger::account::Terms;
use crate::pricing::bound::ToolsBound;
use crate::pricing::sheet::{Override, Sheet, SheetError, UnknownModel};
use crate::proxy::cors::Origins;
use crate::proxy::headers::Forwarded;
use crate::proxy::refuse::SpendStatus;
use crate::proxy::tags::Sources;
use crate::store::Durability;
use crate::telemetry;
use crate::upstream::HttpProxy;

/// Everything that a configuration decides.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The configuration they were made from: every key in force, as TOML that loads again, without
    /// secrets.
    pub text: String,
    /// The proxy's listener.
    pub server: Server,
    /// The admin listener.
    pub admin: Admin,
    /// The upstream.
    pub upstream: Upstream,
    /// Whether clients may send their own OpenAI keys.
    pub pass_through: bool,
    /// Folder of the database.
    pub storage_path: PathBuf,
    /// The database that several guards share, in place of the embedded one.
    pub database: Option<Database>,
    /// What a commit survives.
    pub durability: Durability,
    /// How long entries are kept; forever without a value.
    pub keep: Option<Duration>,
    /// The calendar of windows.
    pub zone: Arc<str>,
    /// Prices.
    pub pricing: Pricing,
    /// The files that values were read from: secrets, a price sheet.
    pub files: Vec<PathBuf>,
    /// Admission and ends of requests.
    pub guard: Guard,
    /// Prepaid credit.
    pub credit: Terms,
    /// Whether spend refusals have the old code.
    pub classic_codes: bool,
    /// The status of refusals by a used-up limit or credit.
    pub spend_status: SpendStatus,
    /// Whether refusals name amounts.
    pub show_amounts: bool,
    /// Endpoints that are forwarded unmetered.
    pub endpoints_allowed: Vec<(Method, String)>,
    /// Whether projects share the objects that they made at upstream.
    pub shared_objects: bool,
    /// Where tags come from.
    pub tags: Sources,
    /// Whether the log is JSON.
    pub log_json: bool,
    /// The log's level.
    pub log_level: String,
    /// Where requests and metrics are exported to; `None` to export nothing.
    pub otlp: Option<Arc<telemetry::Config>>,
    /// The name of the organization, if it is given.
    pub organization: Option<String>,
    /// Projects: id and name.
    pub projects: Vec<(String, String)>,
    /// Limits.
    pub limits: Vec<Arc<Limit>>,
    /// Fuses.
    pub fuses: Vec<Arc<Fuse>>,
    /// The channels that alerts are sent through.
    pub alerts: alerts::Config,
    /// Whether an alert is sent when a hard limit is likely to be reached.
    pub alerts_forecast: bool,
}

/// A certificate chain and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// File of the certificate chain.
    pub cert: PathBuf,
    /// File of the key.
    pub key: PathBuf,
}

/// The proxy's listener.
#[derive(Clone, Debug)]
pub struct Server {
    /// Address and port.
    pub listen: SocketAddr,
    /// Certificate and key, if it speaks TLS.
    pub tls: Option<TlsFiles>,
    /// The largest request body.
    pub request_body_bytes_max: usize,
    /// Connections open at once.
    pub connections_max: usize,
    /// The longest wait for a request's head.
    pub header_timeout: Duration,
    /// How long a connection may wait for its next request.
    pub idle_timeout: Duration,
    /// The origins of browser pages that may call.
    pub cors: Origins,
    /// How long running requests may take to finish at shutdown.
    pub drain: Duration,
}

/// The admin listener.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Address and port.
    pub listen: SocketAddr,
    /// Certificate and key, if it speaks TLS.
    pub tls: Option<TlsFiles>,
    /// Names that it is reached by, in lower case.
    pub hosts: Vec<String>,
    /// The token, if it is configured.
    pub token: Option<Secret>,
}

/// The upstream.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// The base URL.
    pub base_url: Uri,
    /// The API key.
    pub api_key: Option<Secret>,
    /// The longest wait for a connection.
    pub connect_timeout: Duration,
    /// The longest wait for the head of an answer.
    pub response_timeout: Duration,
    /// The longest silence within an answer.
    pub idle_timeout: Duration,
    /// The HTTP proxy.
    pub proxy: Option<HttpProxy>,
    /// Headers to forward beside those of OpenAI's API.
    pub forwarded: Vec<Forwarded>,
}

/// Prices.
#[derive(Clone, Debug)]
pub struct Pricing {
    /// The file of a sheet in place of the built-in one.
    pub file: Option<PathBuf>,
    /// Its text.
    pub sheet: Option<String>,
    /// The operator's prices.
    pub overrides: Vec<Override>,
    /// How a model without a price is treated.
    pub unknown_model: UnknownModel,
    /// The region whose prices count; `None` where there is no uplift.
    pub region: Option<String>,
    /// The tier that upstream serves when a request names none.
    pub default_tier: Tier,
}

impl Pricing {
    /// The sheet in force.
    pub fn sheet(&self) -> Result<Sheet, SheetError> {
        let sheet = match &self.sheet {
            None => Sheet::built_in(&self.overrides),
            Some(json) => Sheet::parse(json, &self.overrides),
        }?;
        Ok(self.region.iter().fold(sheet, |sheet, region| sheet.in_region(region)))
    }
}

/// Admission and ends of requests.
#[derive(Clone, Debug)]
pub struct Guard {
    /// Whether the output may be clamped.
    pub clamp: bool,
    /// The least output that a clamped answer is worth, in tokens.
    pub clamp_output_min: u64,
    /// How long to wait for other requests' holds to end.
    pub hold_wait: Duration,
    /// Whether to read on for a client that has gone, and how long at most.
    pub drain: Option<Duration>,
    /// Output tokens of a request that names no bound; 0 for the model's maximum.
    pub output_default: u64,
    /// Hosted tool calls of a request that doesn't bound them.
    pub tool_calls_max: u64,
    /// The most tokens that one hosted tool call adds to the context.
    pub tool_context_max: u64,
    /// What the turns between hosted calls are assumed to read.
    pub tools_bound: ToolsBound,
    /// Whether stored prompts may be used under a hard limit.
    pub stored_prompts: bool,
    /// Whether a batch may be made of a file that did not pass the guard, which reads it first.
    pub fetch_batch_files: bool,
    /// Requests open at once.
    pub open_requests_max: usize,
}

/// A database that several guards share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// Its address, with user and password.
    pub url: Secret,
    /// The schema of its tables.
    pub schema: String,
    /// The most connections of this guard.
    pub connections_max: usize,
    /// The longest wait for a connection.
    pub connect_timeout: Duration,
    /// The longest that one statement may take.
    pub statement_timeout: Duration,
    /// This guard's name, if it has a fixed one.
    pub node: Option<String>,
    /// How long after its last sign of life a guard is given up.
    pub node_timeout: Duration,
}

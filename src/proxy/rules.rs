//! What the proxy does by its configuration.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method};
use jiff::tz::TimeZone;

use crate::pricing::sheet::{Sheet, UnknownModel};
use crate::proxy::cors::Origins;
use crate::proxy::headers::Forwarded;
use crate::proxy::tags::Sources;
use crate::proxy::{admit, refuse};
use crate::telemetry::Tracer;
use crate::upstream::Upstream;

/// The rules of one configuration; a reload replaces them as a whole.
#[derive(Debug)]
pub struct Rules {
    /// The largest request body.
    pub request_body_bytes_max: usize,
    /// The longest wait for a step of a request body.
    pub request_idle: Duration,
    /// The longest silence of an answer.
    pub answer_idle: Duration,
    /// A pool of connections to upstream for each shard, and one for the guard's own questions. It is kept beside the key that is
    /// sent there, so that no request sends the key of one configuration to the address of
    /// another.
    pub upstreams: Arc<[Arc<Upstream>]>,
    /// The authorization of the guard's own upstream key.
    pub upstream_key: Option<HeaderValue>,
    /// Whether clients may send their own OpenAI keys.
    pub pass_through: bool,
    /// Endpoints that the operator forwards unmetered.
    pub allowed: Vec<(Method, String)>,
    /// Whether projects share the objects that they made at upstream.
    pub shared_objects: bool,
    /// Whether a batch may be made of a file that did not pass the guard, which reads it first.
    pub fetch_batch_files: bool,
    /// Headers that the operator forwards beside those of OpenAI's API.
    pub forwarded: Vec<Forwarded>,
    /// Where tags come from.
    pub tags: Sources,
    /// The origins of browser pages that may call.
    pub cors: Origins,
    /// How tight admissions are handled.
    pub admit: admit::Config,
    /// Whether to read on when a client has gone, and for how long at most.
    pub drain: Option<Duration>,
    /// How a model without a price is treated.
    pub unknown_model: UnknownModel,
    /// The organization's time zone: the days of usage are its days.
    pub zone: TimeZone,
    /// How refusals are worded.
    pub refuse: refuse::Config,
    /// The prices.
    pub sheet: Arc<Sheet>,
    /// Exports a span for each request, if there is a collector.
    pub tracer: Option<Arc<Tracer>>,
}

impl Rules {
    /// The pool of connections for the guard's own questions, and its own authorization.
    pub(crate) fn own_asker(&self) -> Option<(&Upstream, &HeaderValue)> {
        let upstream = self.upstreams.last()?;
        self.upstream_key.as_ref().map(|key| (&**upstream, key))
    }

    /// The guard's own key, which no client may see; `None` for a client that sends its own.
    pub(crate) fn own_secret(&self, pass_through: bool) -> Option<&str> {
        let key = self.upstream_key.as_ref().filter(|_| !pass_through)?;
        key.to_str().ok()?.strip_prefix("Bearer ")
    }
}

//! What a span says of a request, and its attributes.
//!
//! Names follow OpenTelemetry's conventions for generative AI and HTTP; what those have no name
//! for is under `spendguard.`. An attribute that is not known is left out.

use std::sync::Arc;
use std::time::Duration;

use http::uri::Scheme;
use http::{HeaderValue, Method, Uri};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span as WireSpan, SpanFlags, Status};

use crate::domain::model::ANY;
use crate::guard::Settled;
use crate::keys::Key;
use crate::ledger::entry::{Basis, entry_id};
use crate::metrics::dollars;
use crate::telemetry::trace_context::TraceContext;
use crate::telemetry::wire::Attributes;

/// The most bytes of a model's name.
const MODEL_BYTES_MAX: usize = 128;
/// The provider, by its name in the conventions.
const PROVIDER: &str = "openai";

/// A request, as its span shows it.
#[derive(Debug)]
pub struct Span {
    /// Its place in a trace.
    pub context: TraceContext,
    /// The guard's id of the request.
    pub request: Option<HeaderValue>,
    /// The caller's key.
    pub key: Option<Arc<Key>>,
    /// The endpoint's label.
    pub endpoint: &'static str,
    /// The status that the client got; 0 if it got none.
    pub status: u16,
    /// How the request ended.
    pub outcome: &'static str,
    /// Id of its hold, and of the entry that ended it.
    pub entry: Option<u64>,
    /// What it came to.
    pub settled: Option<Settled>,
    /// Why the guard refused it, and the limit that did.
    pub refusal: Option<(&'static str, Option<Arc<str>>)>,
    /// When it ended, in Unix time.
    pub ended: Duration,
    /// How long it took.
    pub took: Duration,
    pub(super) server: Option<Arc<Server>>,
    method: &'static str,
    operation: Option<&'static str>,
    model: Option<Box<str>>,
    hides_model: bool,
}

/// Where upstream is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Server {
    address: Box<str>,
    port: u16,
}

impl Server {
    pub(super) fn of(upstream: &Uri) -> Self {
        let usual = if upstream.scheme() == Some(&Scheme::HTTP) { 80 } else { 443 };
        let host = upstream.host().unwrap_or_default();
        let address = host.trim_start_matches('[').trim_end_matches(']').into();
        Self { address, port: upstream.port_u16().unwrap_or(usual) }
    }
}

impl Span {
    pub(super) fn new(context: TraceContext, method: &Method) -> Self {
        Self {
            context,
            request: None,
            key: None,
            endpoint: "other",
            status: 0,
            outcome: "",
            entry: None,
            settled: None,
            refusal: None,
            ended: Duration::ZERO,
            took: Duration::ZERO,
            server: None,
            method: known(method),
            operation: None,
            model: None,
            hides_model: false,
        }
    }

    /// Notes what a metered request asks for: the operation, by its name in the conventions, and
    /// the model; `None` if its name is private, and so the name that an answer repeats.
    pub fn asks(&mut self, operation: &'static str, model: Option<&str>) {
        self.operation = Some(operation);
        self.hides_model = model.is_none();
        // A stored prompt may leave the model to upstream.
        let model = model.filter(|model| !model.is_empty() && *model != ANY);
        self.model = model.map(|model| shown(model).into());
    }

    /// The class of its error: why it was refused, else the status of upstream's error.
    fn error(&self) -> Option<String> {
        match (&self.refusal, self.outcome) {
            (Some((reason, _)), _) => Some((*reason).to_owned()),
            (None, "upstream_error") if self.status >= 400 => Some(self.status.to_string()),
            (None, "upstream_error" | "cancelled") => Some(self.outcome.to_owned()),
            (None, _) => None,
        }
    }

    fn name(&self) -> String {
        match (self.operation, &self.model) {
            (Some(operation), Some(model)) => format!("{operation} {model}"),
            (Some(operation), None) => operation.to_owned(),
            (None, _) => format!("{} {}", self.method, self.endpoint),
        }
    }

    /// The span as it is sent.
    pub(super) fn to_wire(&self) -> WireSpan {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let TraceContext { trace, span, parent, .. } = self.context;
        let error = self.error();
        let code = if error.is_some() { StatusCode::Error } else { StatusCode::Unset };
        let remote = parent.map_or(0, |_| wire_flag(SpanFlags::ContextIsRemoteMask));
        WireSpan {
            trace_id: trace.to_be_bytes().to_vec(),
            span_id: span.to_be_bytes().to_vec(),
            parent_span_id: parent.map(|id| id.to_be_bytes().to_vec()).unwrap_or_default(),
            flags: u32::from(self.context.flags()) | wire_flag(SpanFlags::ContextHasIsRemoteMask) | remote,
            name: self.name(),
            kind: SpanKind::Client.into(),
            start_time_unix_nano: nanos(self.ended.saturating_sub(self.took)),
            end_time_unix_nano: nanos(self.ended),
            attributes: self.attributes(error.as_deref()),
            status: Some(Status { code: code.into(), ..Status::default() }),
            ..WireSpan::default()
        }
    }

    fn attributes(&self, error: Option<&str>) -> Vec<KeyValue> {
        let mut all = Attributes::default();
        if let Some(operation) = self.operation {
            all.text("gen_ai.operation.name", operation);
            all.text("gen_ai.provider.name", PROVIDER);
            // As it was named before version 1.37 of the conventions.
            all.text("gen_ai.system", PROVIDER);
        }
        all.text_if("gen_ai.request.model", self.model.as_deref());
        all.text("http.request.method", self.method);
        if self.status > 0 {
            all.count("http.response.status_code", u64::from(self.status));
        }
        all.text_if("error.type", error);
        if let Some(server) = &self.server {
            all.text("server.address", &server.address);
            all.count("server.port", u64::from(server.port));
        }
        let request = self.request.as_ref().and_then(|request| request.to_str().ok());
        all.text_if("spendguard.request", request);
        all.text("spendguard.endpoint", self.endpoint);
        all.text("spendguard.outcome", self.outcome);
        all.text_if("spendguard.project", self.key.as_ref().map(|key| &*key.project));
        all.text_if("spendguard.key", self.key.as_ref().map(|key| &*key.id));
        all.text_if("spendguard.entry", self.entry.map(entry_id).as_deref());
        if let Some((reason, limit)) = &self.refusal {
            all.text("spendguard.refusal", reason);
            all.text_if("spendguard.limit", limit.as_deref());
        }
        if let Some(settled) = &self.settled {
            self.add_settled(settled, &mut all);
        }
        all.into_wire()
    }

    fn add_settled(&self, settled: &Settled, all: &mut Attributes) {
        let Settled { cost, basis, served_model, tokens, .. } = settled;
        all.number("spendguard.cost_usd", dollars(*cost));
        all.text_if("spendguard.basis", basis.map(Basis::name));
        if self.operation.is_none() {
            return;
        }
        let served_model = served_model.as_deref().filter(|_| !self.hides_model);
        all.text_if("gen_ai.response.model", served_model.map(shown));
        // What is assumed is the hold, and no usage.
        if matches!(basis, Some(Basis::Reported | Basis::Counted)) {
            all.count("gen_ai.usage.input_tokens", tokens.input);
            all.count("gen_ai.usage.output_tokens", tokens.output);
            let parts = [
                ("gen_ai.usage.cache_read.input_tokens", tokens.cached_input),
                ("gen_ai.usage.reasoning.output_tokens", tokens.reasoning),
            ];
            parts
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .for_each(|(name, count)| all.count(name, count));
        }
    }
}

/// A model's name, as long as it may be.
fn shown(model: &str) -> &str {
    &model[..model.floor_char_boundary(MODEL_BYTES_MAX)]
}

fn wire_flag(flag: SpanFlags) -> u32 {
    u32::try_from(i32::from(flag)).unwrap_or(0)
}

/// A method that HTTP has; another one is the client's own word.
fn known(method: &Method) -> &'static str {
    let all = [
        (Method::GET, "GET"),
        (Method::POST, "POST"),
        (Method::DELETE, "DELETE"),
        (Method::HEAD, "HEAD"),
        (Method::PUT, "PUT"),
        (Method::PATCH, "PATCH"),
        (Method::OPTIONS, "OPTIONS"),
        (Method::CONNECT, "CONNECT"),
        (Method::TRACE, "TRACE"),
    ];
    all.into_iter().find(|(known, _)| known == method).map_or("_OTHER", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_has_its_address_and_port() {
        for (base, address, port) in [
            ("https://api.openai.com/v1", "api.openai.com", 443),
            ("http://llm.example/v1", "llm.example", 80),
            ("http://[::1]:8000/v1", "::1", 8000),
        ] {
            let server = Server::of(&base.parse().unwrap());
            assert_eq!(server, Server { address: address.into(), port });
        }
    }

    #[test]
    fn a_method_of_the_clients_own_is_not_shown() {
        let own = Method::from_bytes(b"SECRET").unwrap();
        assert_eq!((known(&Method::PATCH), known(&own)), ("PATCH", "_OTHER"));
    }
}

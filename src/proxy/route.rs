//! Routes a request by its head alone: health checks, requests for a `WebSocket`,
//! the paths of Azure's clients, and the kind of endpoint.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, Uri, header};
use hyper::ext::Protocol;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::protocol::openai::endpoint::{self, Endpoint, Remedy};
use crate::proxy::answer::Answer;
use crate::proxy::auth::Caller;
use crate::proxy::refuse::{Edge, Refusal, bounded};
use crate::proxy::{Rules, headers, own, query};

/// The longest name of a deployment, in bytes.
const DEPLOYMENT_BYTES_MAX: usize = 256;
const AZURE: &str = "/openai";
const DEPLOYMENTS: &str = "/deployments/";

/// The name of an endpoint in metrics and log lines.
pub(super) fn label(endpoint: &Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Metered(operation) | Endpoint::Socket(operation, _) => operation.path,
        Endpoint::Batch => endpoint::BATCHES,
        Endpoint::Upload(upload) => upload.path(),
        Endpoint::Free(label) | Endpoint::Hosted(_, label) => label,
        Endpoint::Allowed => "allowed",
        Endpoint::SelfService(_) => "own",
        Endpoint::ClientSecret => endpoint::CLIENT_SECRETS,
    }
}

/// The answer at the address itself, without a key, for a person or a probe.
pub fn root(method: &Method, path: &str) -> Option<Response<Answer>> {
    if *method != Method::GET || path != "/" {
        return None;
    }
    let mut response = Response::new(Answer::whole(Bytes::from_static(own::ROOT.as_bytes())));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Some(response)
}

/// Answers a load balancer's health check, which needs no key.
pub fn health(method: &Method, path: &str, is_ready: impl FnOnce() -> bool) -> Option<Response<Answer>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return None;
    }
    let is_well = match path {
        "/livez" => true,
        "/readyz" | "/healthz" => is_ready(),
        _ => return None,
    };
    let text: &[u8] = if is_well { b"ok\n" } else { b"the ledger can't be written\n" };
    let mut response = Response::new(Answer::whole(Bytes::from_static(text)));
    if !is_well {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Some(response)
}

/// Whether a request asks for a WebSocket, as over HTTP/1.1 or as over HTTP/2 (RFC 8441). Other
/// protocols that a client offers, such as `h2c`, may be ignored: then HTTP/1.1 goes on.
pub fn wants_websocket(head: &http::request::Parts) -> bool {
    if head.method == Method::CONNECT {
        return head.extensions.get::<Protocol>().is_some_and(|protocol| protocol.as_str() == "websocket");
    }
    if head.method != Method::GET {
        return false;
    }
    let offers = head.headers.get_all(header::UPGRADE).iter().filter_map(|value| value.to_str().ok());
    offers.flat_map(|value| value.split(',')).any(|name| name.trim().eq_ignore_ascii_case("websocket"))
}

/// The target of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// The path, without the prefix of Azure's clients.
    pub path: &'a str,
    /// The deployment that Azure's clients name in the path: the model.
    pub deployment: Option<Cow<'a, str>>,
}

impl<'a> Target<'a> {
    /// Reads a raw path.
    pub fn of(path: &'a str) -> Self {
        let below_azure = path.strip_prefix(AZURE).filter(|rest| rest.starts_with('/'));
        let deployed = below_azure.and_then(|rest| rest.strip_prefix(DEPLOYMENTS)).and_then(deployment);
        deployed.unwrap_or(Self { path: below_azure.unwrap_or(path), deployment: None })
    }
}

/// `{deployment}/chat/completions`, if the rest is a metered path.
fn deployment(path: &str) -> Option<Target<'_>> {
    let (name, _) = path.split_once('/')?;
    let rest = &path[name.len()..];
    let is_metered = matches!(endpoint::classify(&Method::POST, rest), Some(Endpoint::Metered(_)));
    let name = percent_decode_str(name).decode_utf8().ok()?;
    let is_name = (1..=DEPLOYMENT_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte));
    (is_metered && is_name).then_some(Target { path: rest, deployment: Some(name) })
}

/// The endpoint of a request, by its method and path.
fn classified(rules: &Rules, head: &http::request::Parts, path: &str) -> Result<Endpoint, Refusal> {
    // A path that may be read with GET may be requested with HEAD.
    let method = if head.method == Method::HEAD { &Method::GET } else { &head.method };
    if let Some(endpoint) = endpoint::classify(method, path) {
        return Ok(endpoint);
    }
    let shown = format!("{} {}", head.method, bounded(head.uri.path()));
    if endpoint::is_misspelt(method, path) {
        return Err(Refusal::Edge(Edge::InvalidUrl(shown)));
    }
    let reason = endpoint::reason(method, path);
    let allowed = |(known, pattern): &(Method, String)| known == method && endpoint::is_of(pattern, path);
    // A `{}` in an entry might match a word of a path that must not be forwarded.
    if reason.remedy != Remedy::Never && rules.allowed.iter().any(allowed) {
        return Ok(Endpoint::Allowed);
    }
    Err(Refusal::EndpointNotAllowed(shown, reason))
}

/// The endpoint of a request, and the deployment that its path names. Rewrites its
/// URI to the one that is sent upstream.
pub fn routed(
    rules: &Rules,
    head: &mut http::request::Parts,
    caller: &Caller,
) -> Result<(Endpoint, Option<String>), Refusal> {
    let secret = caller.secret.expose();
    if headers::holds_key(head.uri.path().as_bytes(), secret) {
        let message = "A key stands in the path. Send it as 'Authorization: Bearer KEY', and nowhere else.";
        return Err(Refusal::Invalid(message.to_owned(), None));
    }
    let target = Target::of(head.uri.path());
    let endpoint = if wants_websocket(head) {
        let (operation, form) = endpoint::socket(target.path).ok_or(Refusal::Edge(Edge::NoWebSocket))?;
        Endpoint::Socket(operation, form)
    } else {
        classified(rules, head, target.path)?
    };
    let kind = match endpoint {
        Endpoint::Metered(_) | Endpoint::Batch => query::Kind::Metered,
        Endpoint::Socket(..) => query::Kind::Socket,
        Endpoint::Allowed => query::Kind::Allowed,
        Endpoint::Free(_) | Endpoint::Upload(_) | Endpoint::Hosted(..) => query::Kind::Free,
        Endpoint::SelfService(_) | Endpoint::ClientSecret => return Ok((endpoint, None)),
    };
    let uri = rewritten(&head.uri, &target, kind, secret);
    let deployment = target.deployment.map(Cow::into_owned);
    if let Some(uri) = uri {
        head.uri = uri;
    }
    Ok((endpoint, deployment))
}

/// Whether a method has no body: upstream's idea of one could differ from ours.
pub fn is_bodyless(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS)
}

/// The URI to send upstream, if it differs from the request's own.
pub fn rewritten(uri: &Uri, target: &Target<'_>, kind: query::Kind, secret: &str) -> Option<Uri> {
    if uri.query().is_none() && target.path == uri.path() {
        return None;
    }
    let query = uri.query().and_then(|query| query::to_upstream(query, kind, secret));
    let path = query.map_or_else(|| target.path.to_owned(), |query| format!("{}?{query}", target.path));
    path.parse().ok()
}

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow, default, deserialize_with = "written")]
    model: Option<&'a RawValue>,
}

/// A value that is there, `null` included.
fn written<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// A body that names the deployment of its path as its model.
///
/// A body without a model gets it. A body with another model is refused: Azure
/// would use the path's, OpenAI the body's, and they may differ in price.
pub fn with_deployment(body: &Bytes, deployment: &str) -> Result<Bytes, Refusal> {
    // A body that can't be read, or repeats a field, is refused where bodies are read.
    let Ok(Named { model }) = serde_json::from_slice::<Named<'_>>(body) else { return Ok(body.clone()) };
    let Some(model) = model else {
        let Some(start) = body.iter().position(|byte| *byte == b'{') else { return Ok(body.clone()) };
        let rest = &body[start + 1..];
        let is_empty = rest.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'}');
        let field = format!("{{\"model\":\"{deployment}\"{}", if is_empty { "" } else { "," });
        return Ok(Bytes::from([field.as_bytes(), rest].concat()));
    };
    if serde_json::from_str::<String>(model.get()).is_ok_and(|model| model == deployment) {
        return Ok(body.clone());
    }
    let message = format!(
        "The path names the deployment '{deployment}', and the body another model. Here a deployment is a model of \
         OpenAI: name the same one in both, or none in the body."
    );
    Err(Refusal::Invalid(message, Some("model")))
}

/// A form that names the deployment of its path as its model, in a part before all others.
/// A form with a model of its own then names two, and is refused where forms are read.
pub fn form_with_deployment(body: &Bytes, boundary: &str, deployment: &str) -> Bytes {
    let part =
        format!("--{boundary}\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n{deployment}\r\n");
    Bytes::from([part.as_bytes(), body].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_azures_clients_are_openais() {
        let read = |path: &'static str| {
            let Target { path, deployment } = Target::of(path);
            (path, deployment.map(Cow::into_owned))
        };
        let model = |name: &str| Some(name.to_owned());
        assert_eq!(read("/openai/deployments/gpt-5/chat/completions"), ("/chat/completions", model("gpt-5")));
        assert_eq!(
            read("/openai/deployments/ft%3Agpt-4o%3Aa/embeddings"),
            ("/embeddings", model("ft:gpt-4o:a"))
        );
        assert_eq!(read("/openai/v1/responses"), ("/v1/responses", None));
        assert_eq!(read("/openai/responses"), ("/responses", None));
        assert_eq!(read("/openai/v1/models"), ("/v1/models", None));
        assert_eq!(read("/v1/chat/completions"), ("/v1/chat/completions", None));
        assert_eq!(read("/openai/deployments/a%2Fb/chat/completions").1, None);
        assert_eq!(read("/openai/deployments/dall-e-2/images/variations").1, None);
        assert_eq!(read("/openaix/v1/models"), ("/openaix/v1/models", None));
    }

    #[test]
    fn a_deployment_is_the_model_of_a_body_that_names_none() {
        let with = |body: &'static str| {
            let body = with_deployment(&Bytes::from_static(body.as_bytes()), "gpt-5");
            body.map(|body| String::from_utf8(body.to_vec()).unwrap()).ok()
        };
        assert_eq!(with(r#" {"n":1}"#).as_deref(), Some(r#"{"model":"gpt-5","n":1}"#));
        assert_eq!(with("{ }").as_deref(), Some(r#"{"model":"gpt-5" }"#));
        assert_eq!(with(r#"{"model":"gpt\u002d5"}"#).as_deref(), Some(r#"{"model":"gpt\u002d5"}"#));
        assert_eq!(with(r#"{"model":"gpt-4o"}"#), None);
        assert_eq!(with(r#"{"model":5}"#), None);
        assert_eq!(with(r#"{"model":null}"#), None);
        for left in ["{", r#"{"model":"a","model":"gpt-5"}"#] {
            assert_eq!(with(left).as_deref(), Some(left), "it is refused where bodies are read");
        }
    }
}

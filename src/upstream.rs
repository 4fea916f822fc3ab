//! Upstream: a pool of connections, and whether a failed request may have been billed.
//!
//! The one question a failed send must answer is whether bytes of the request
//! may have reached upstream. The body says so: it is asked for its bytes only
//! when the head goes out.

mod answer;
mod outgoing;
mod pool;
mod tunnel;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use hyper::rt::{Read, Write};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use tower_service::Service;

pub use self::answer::AnswerBody;
use self::outgoing::Outgoing;
pub use self::outgoing::{BrokenOff, Closed, LatestPart, Passing, Source};
pub use self::pool::Upgrade;
use self::pool::{Failure, Pool, Received};
pub use self::tunnel::HttpProxy;
use self::tunnel::Tunnel;

/// Where upstream is, and how long to wait for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `http` or `https`, host, and optionally a path that all requests go under.
    pub base_url: Uri,
    /// The time limit for a connection, including TLS.
    pub connect_timeout: Duration,
    /// The time limit for the head of an answer.
    pub response_timeout: Duration,
}

/// A pool of connections to upstream.
#[derive(Clone, Debug)]
pub struct Upstream {
    pool: Arc<Pool>,
    host: HeaderValue,
    /// The prefix of each path: the base's path; with a plain proxy, the whole base URL.
    base: Box<str>,
    response_timeout: Duration,
    /// A proxy that receives requests in plain text and passes them on.
    plain_proxy: Option<HttpProxy>,
}

/// Why there is no answer.
#[derive(Debug)]
pub struct SendError {
    /// What happened.
    pub kind: SendErrorKind,
    /// Whether any byte of the request may have reached upstream.
    pub sent: bool,
    /// The error of the library, for the log.
    pub detail: String,
}

/// The kind of failure of a request that got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendErrorKind {
    /// No connection could be made.
    Unreachable,
    /// The time limit passed.
    TimedOut,
    /// The connection broke.
    Broken,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            SendErrorKind::Unreachable => "unreachable",
            SendErrorKind::TimedOut => "timed out",
            SendErrorKind::Broken => "broken off",
        };
        write!(f, "{what}: {}", self.detail)
    }
}

impl std::error::Error for SendError {}

/// The roots that upstream's certificate is checked against: the system's, or
/// what `SSL_CERT_FILE` names. Loaded once and shared by all pools.
pub fn roots() -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(event = "root_certificate_failed", %error, "a root certificate could not be loaded");
    }
    let (_, broken) = roots.add_parsable_certificates(found.certs);
    if broken > 0 {
        tracing::warn!(event = "root_certificates_unreadable", broken, "root certificates could not be read");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the default protocol versions suit the provider they come with")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

impl Upstream {
    /// A pool of TCP connections, without any yet.
    pub fn new(config: &Config, roots: &Arc<rustls::ClientConfig>) -> Self {
        Self::over(connector(config, roots), config)
    }

    /// A pool of connections through a proxy, if there is one.
    ///
    /// To an `https` upstream they are tunnels; to an `http` one the proxy gets the
    /// requests themselves, as proxies take them that allow no tunnel to other ports.
    pub fn through(proxy: Option<&HttpProxy>, config: &Config, roots: &Arc<rustls::ClientConfig>) -> Self {
        let Some(proxy) = proxy else { return Self::new(config, roots) };
        let base = connector(config, roots);
        if config.base_url.scheme() == Some(&Scheme::HTTP) {
            let direct = Self::over(base.clone(), config);
            let pool = Arc::new(Pool::new(base, proxy.url.clone(), config.connect_timeout));
            let whole = config.base_url.to_string().trim_end_matches('/').into();
            return Self { pool, base: whole, plain_proxy: Some(proxy.clone()), ..direct };
        }
        let tunnel = Tunnel { base, proxy: proxy.clone() };
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(roots.as_ref().clone())
            .https_only()
            .enable_http1()
            .wrap_connector(tunnel);
        Self::over(connector, config)
    }

    /// A pool of connections that `connector` makes.
    pub fn over<C, I>(connector: C, config: &Config) -> Self
    where
        C: Service<Uri, Response = I> + Clone + Send + Sync + 'static,
        C::Future: Send,
        C::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        I: Read + Write + Unpin + Send + 'static,
    {
        let base = &config.base_url;
        Self {
            pool: Arc::new(Pool::new(connector, base.clone(), config.connect_timeout)),
            host: host(base),
            base: base.path().trim_end_matches('/').into(),
            response_timeout: config.response_timeout,
            plain_proxy: None,
        }
    }

    /// Sends a request to a path below the base, and waits for the answer's head.
    pub fn send<'a>(
        &'a self,
        method: Method,
        suffix: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> impl Future<Output = Result<Response<AnswerBody>, SendError>> + use<'a> {
        // A request without a body counts as sent from the start.
        let was_polled = Arc::new(AtomicBool::new(body.is_empty()));
        let request = self.request(method, suffix, headers, Outgoing::whole(body, &was_polled));
        async move {
            let asking = tokio::time::timeout(self.response_timeout, self.pool.request(request?));
            let answer = asking.await.map_err(|_| self.timed_out(was_polled.load(Ordering::Acquire)))?;
            self.answer(answer, &was_polled)
        }
    }

    /// Sends a request whose body is passed on as it arrives, and waits for the answer's head,
    /// which may come before the end of the body.
    ///
    /// There is no time limit: the caller, who knows when the body is over, has one of
    /// [`Upstream::response_timeout`] from then on.
    pub async fn send_passing(
        &self,
        method: Method,
        suffix: &str,
        headers: HeaderMap,
        body: Passing,
    ) -> Result<Response<AnswerBody>, SendError> {
        let was_polled = Arc::new(AtomicBool::new(false));
        let request = self.request(method, suffix, headers, Outgoing::passing(body, &was_polled))?;
        self.answer(self.pool.request(request).await, &was_polled)
    }

    /// Asks for another protocol on a connection of its own.
    pub async fn upgrade(&self, suffix: &str, headers: HeaderMap) -> Result<Upgrade<AnswerBody>, SendError> {
        let was_polled = Arc::new(AtomicBool::new(true));
        let request =
            self.request(Method::GET, suffix, headers, Outgoing::whole(Bytes::new(), &was_polled))?;
        let asking = tokio::time::timeout(self.response_timeout, self.pool.upgrade(request));
        match asking.await.map_err(|_| self.timed_out(true))? {
            Ok(Upgrade::Agreed(headers, io)) => Ok(Upgrade::Agreed(headers, io)),
            Ok(Upgrade::Refused(answer)) => {
                self.unless_refused(answer.map(AnswerBody::Received)).map(Upgrade::Refused)
            }
            Err(failure) => Err(send_error(failure, true)),
        }
    }

    /// The time limit for the head of an answer.
    pub fn response_timeout(&self) -> Duration {
        self.response_timeout
    }

    /// The error of a request that got no answer within the time limit.
    pub fn timed_out(&self, sent: bool) -> SendError {
        let detail = format!("no answer within {:?}", self.response_timeout);
        SendError { kind: SendErrorKind::TimedOut, sent, detail }
    }

    fn request(
        &self,
        method: Method,
        suffix: &str,
        mut headers: HeaderMap,
        body: Outgoing,
    ) -> Result<Request<Outgoing>, SendError> {
        let unsendable = |detail: String| SendError { kind: SendErrorKind::Broken, sent: false, detail };
        let target = self.target(suffix).map_err(|error| unsendable(error.to_string()))?;
        headers.insert(header::HOST, self.host.clone());
        let authorization = self.plain_proxy.as_ref().and_then(|proxy| proxy.authorization.clone());
        headers.extend(authorization.map(|value| (header::PROXY_AUTHORIZATION, value)));
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = target;
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// The answer to a request, or why there is none.
    fn answer(
        &self,
        answer: Result<Response<Received>, Failure>,
        was_polled: &AtomicBool,
    ) -> Result<Response<AnswerBody>, SendError> {
        match answer {
            Ok(answer) => self.unless_refused(answer.map(AnswerBody::Received)),
            Err(failure) => Err(send_error(failure, was_polled.load(Ordering::Acquire))),
        }
    }

    /// Returns an answer, unless it is from a proxy that did not pass the request on.
    fn unless_refused(&self, answer: Response<AnswerBody>) -> Result<Response<AnswerBody>, SendError> {
        match &self.plain_proxy {
            Some(proxy) if answer.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                let detail = format!("the proxy {proxy} wants a user and password, or others: 407");
                Err(SendError { kind: SendErrorKind::Unreachable, sent: false, detail })
            }
            Some(_) | None => Ok(answer),
        }
    }

    fn target(&self, suffix: &str) -> Result<Uri, http::Error> {
        let text = Bytes::from(format!("{}{suffix}", self.base));
        if self.plain_proxy.is_some() {
            return Ok(Uri::from_maybe_shared(text)?);
        }
        Ok(Uri::from(PathAndQuery::from_maybe_shared(text)?))
    }
}

/// Makes TCP connections, with TLS where the scheme says so.
fn connector(config: &Config, roots: &Arc<rustls::ClientConfig>) -> HttpsConnector<HttpConnector> {
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    tcp.enforce_http(false);
    // The time limit is shared among the addresses of the name, so that an unreachable one is skipped.
    tcp.set_connect_timeout(Some(config.connect_timeout));
    tcp.set_keepalive(Some(Duration::from_secs(60)));
    HttpsConnectorBuilder::new()
        .with_tls_config(roots.as_ref().clone())
        .https_or_http()
        .enable_http1()
        .wrap_connector(tcp)
}

/// The value of the `Host` header: with a port only if it isn't the scheme's default.
fn host(base: &Uri) -> HeaderValue {
    let name = base.host().unwrap_or_default();
    let usual = if base.scheme() == Some(&Scheme::HTTP) { 80 } else { 443 };
    let named = match base.port_u16() {
        Some(port) if port != usual => HeaderValue::from_str(&format!("{name}:{port}")),
        Some(_) | None => HeaderValue::from_str(name),
    };
    named.unwrap_or(HeaderValue::from_static(""))
}

/// Why there is no answer to a request of which upstream may have got bytes, if it was `sent`.
fn send_error(failure: Failure, sent: bool) -> SendError {
    match failure {
        Failure::Unreachable(cause) => {
            SendError { kind: SendErrorKind::Unreachable, sent: false, detail: chain(&*cause) }
        }
        Failure::Broken(error) => SendError { kind: SendErrorKind::Broken, sent, detail: chain(&error) },
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(base: &str) -> Config {
        let short = Duration::from_millis(200);
        Config { base_url: base.parse().unwrap(), connect_timeout: short, response_timeout: short }
    }

    async fn post(base: &str) -> SendError {
        let upstream = Upstream::new(&config(base), &roots());
        upstream.send(Method::POST, "/x", HeaderMap::new(), Bytes::from_static(b"{}")).await.unwrap_err()
    }

    #[test]
    fn paths_go_below_the_base() {
        for (base, host, path) in [
            ("https://api.openai.com/v1", "api.openai.com", "/v1/chat?a=b"),
            ("https://api.openai.com:443/v1", "api.openai.com", "/v1/chat?a=b"),
            ("http://localhost:1/", "localhost:1", "/chat?a=b"),
            ("http://localhost:443", "localhost:443", "/chat?a=b"),
            ("https://eu.example/openai/v1/", "eu.example", "/openai/v1/chat?a=b"),
        ] {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let upstream = runtime.block_on(async { Upstream::new(&config(base), &roots()) });
            let target = upstream.target("/chat?a=b").unwrap();
            let to = (upstream.host.to_str().unwrap(), target.to_string());
            assert_eq!(to, (host, path.to_owned()));
        }
    }

    #[tokio::test]
    async fn a_refused_connection_has_sent_nothing() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let error = post(&format!("http://127.0.0.1:{port}")).await;
        assert_eq!((error.kind, error.sent), (SendErrorKind::Unreachable, false));
    }

    #[tokio::test]
    async fn a_silent_upstream_may_have_got_it_all() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let error = post(&format!("http://{}", listener.local_addr().unwrap())).await;
        assert_eq!((error.kind, error.sent), (SendErrorKind::TimedOut, true));
    }

    #[tokio::test]
    async fn a_connection_that_breaks_after_the_request_counts_as_sent() {
        use tokio::io::AsyncReadExt as _;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let accept = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await.unwrap();
        };
        let (error, ()) = tokio::join!(post(&base), accept);
        assert_eq!((error.kind, error.sent), (SendErrorKind::Broken, true));
    }
}

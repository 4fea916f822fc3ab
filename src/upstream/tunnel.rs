//! Tunnels through an HTTP proxy: `CONNECT`, and TLS inside it.
//!
//! A proxy sees the name and port that it connects to, and nothing else. Its refusal
//! is in the error, since an operator has no other information.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::uri::Scheme;
use http::{HeaderValue, Uri};
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tower_service::Service;

type Cause = Box<dyn Error + Send + Sync>;

/// The largest head of a proxy's answer.
const HEAD_BYTES_MAX: usize = 8 << 10;
/// The most characters of a proxy's first line that are shown.
const SHOWN_CHARS_MAX: usize = 100;

/// A proxy on the way to upstream.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpProxy {
    /// `http` or `https`, host and port; nothing secret.
    pub url: Uri,
    /// `Proxy-Authorization`, if it wants one.
    pub authorization: Option<HeaderValue>,
}

impl fmt::Display for HttpProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, host) = (self.url.scheme_str().unwrap_or_default(), self.url.authority());
        let user = if self.authorization.is_some() { "****@" } else { "" };
        write!(f, "{scheme}://{user}{}", host.map_or("", http::uri::Authority::as_str))
    }
}

impl fmt::Debug for HttpProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpProxy({self})")
    }
}

/// Makes connections through a proxy, to which `base` connects.
#[derive(Clone, Debug)]
pub(super) struct Tunnel<C> {
    pub(super) base: C,
    pub(super) proxy: HttpProxy,
}

impl<C> Service<Uri> for Tunnel<C>
where
    C: Service<Uri>,
    C::Response: Read + Write + Send + Unpin + 'static,
    C::Future: Send + 'static,
    C::Error: Into<Cause>,
{
    type Response = C::Response;
    type Error = Cause;
    type Future = Pin<Box<dyn Future<Output = Result<C::Response, Cause>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        self.base.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let (connecting, proxy) = (self.base.call(self.proxy.url.clone()), self.proxy.clone());
        Box::pin(async move {
            let io = connecting.await.map_err(|error| wrapped(&proxy, "can't be reached", &error.into()))?;
            let mut io = TokioIo::new(io);
            let opened = open(&mut io, &to, &proxy).await;
            opened.map_err(|error| wrapped(&proxy, "opens no tunnel", &error))?;
            Ok(io.into_inner())
        })
    }
}

fn wrapped(proxy: &HttpProxy, what: &str, error: &Cause) -> Cause {
    let mut text = format!("the proxy {proxy} {what}: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text.into()
}

/// Asks for a tunnel, and reads the answer up to the end of its head: what follows
/// belongs to the tunnel.
async fn open(
    io: &mut (impl AsyncRead + AsyncWrite + Unpin),
    to: &Uri,
    proxy: &HttpProxy,
) -> Result<(), Cause> {
    let usual = if to.scheme() == Some(&Scheme::HTTP) { 80 } else { 443 };
    let place = format!("{}:{}", to.host().unwrap_or_default(), to.port_u16().unwrap_or(usual));
    let mut request = format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n").into_bytes();
    if let Some(authorization) = &proxy.authorization {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(authorization.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    io.write_all(&request).await?;
    io.flush().await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == HEAD_BYTES_MAX {
            return Err("its answer has no end".into());
        }
        // One at a time, so that nothing of the tunnel is read. It is a short head, once.
        let Ok(byte) = io.read_u8().await else {
            return Err(format!("it ended the connection after {} bytes of an answer", head.len()).into());
        };
        head.push(byte);
    }
    let line: Vec<u8> = head.iter().copied().take_while(|byte| *byte != b'\r').collect();
    let line = String::from_utf8_lossy(&line).into_owned();
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1));
    match status {
        Some(status) if status.len() == 3 && status.starts_with('2') => Ok(()),
        Some("407") => Err(format!("it wants a user and password, or others, for {place}: 407").into()),
        Some(_) | None => {
            let shown: String = line.chars().filter(|c| !c.is_control()).take(SHOWN_CHARS_MAX).collect();
            Err(format!("it answered {shown:?} to CONNECT {place}").into())
        }
    }
}

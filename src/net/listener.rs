//! Listening and serving: connection limits, header limits, graceful drain.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::task::TaskTracker;

use crate::net::h2_stall::{Heard, StallWatch};
use crate::net::idle::{Detected, Expired, InUse, Timeouts, Traffic};
use crate::net::stall_timeout::{Patient, stall_max};
use crate::net::tls::Tls;

const BACKLOG: i32 = 4_096;
const HEAD_BYTES_MAX: usize = 64 * 1024;
const HEADERS_MAX: usize = 100;
const STREAMS_MAX: u32 = 256;
const RESETS_MAX: usize = 64;
/// The most bytes of one stream that wait to be written; a client has many streams.
const STREAM_SEND_BYTES_MAX: usize = 64 * 1024;
const ACCEPT_BACKOFF: Duration = Duration::from_millis(10);

/// The state that the connections of a listener share.
#[derive(Clone, Debug)]
pub struct Serving {
    /// Time limits of clients.
    pub timeouts: Timeouts,
    /// One permit for each connection that may be open; shared by all shards.
    pub connections: Arc<Semaphore>,
    /// TLS, if the listener speaks it.
    pub tls: Option<Arc<Tls>>,
    /// Becomes true when no new requests are accepted.
    pub stop: watch::Receiver<bool>,
}

/// Binds one address `count` times, so that the kernel spreads connections.
///
/// Port 0 is chosen once. A port that another process listens on is an error,
/// though the kernel would let listeners that share it join.
pub fn bind(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    if address.port() != 0 {
        drop(socket(address, false)?);
    }
    let first = socket(address, count > 1)?;
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..count {
        listeners.push(socket(address, true)?);
    }
    Ok(listeners)
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Serves connections until it is stopped, and returns when all have ended.
///
/// At the bound of connections it stops accepting: the kernel's queue fills,
/// and clients that are being served don't notice.
pub async fn serve<S, B>(listener: TcpListener, serving: Serving, service: S) -> io::Result<()>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let tracker = TaskTracker::new();
    let versions = Arc::new(versions(serving.timeouts.header));
    let mut stop = serving.stop.clone();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, or the client has disconnected already.
                    tracing::warn!(event = "accept_failed", %error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                    continue;
                }
            },
            () = stopped(&mut stop) => break,
        };
        // Only now, so that a shard without clients keeps no permit from others.
        let permit = tokio::select! {
            permit = Arc::clone(&serving.connections).acquire_owned() => permit,
            () = stopped(&mut stop) => break,
        };
        let Ok(permit) = permit else { break };
        let (versions, serving, service) = (Arc::clone(&versions), serving.clone(), service.clone());
        tracker.spawn(async move { connection((stream, permit), &versions, serving, service).await });
    }
    drop(listener);
    tracker.close();
    tracker.wait().await;
    Ok(())
}

/// Serves one connection of a client over any kind of stream.
pub async fn converse<I, S, B>(io: I, timeouts: Timeouts, stop: watch::Receiver<bool>, service: S)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    speak((io, None), &versions(timeouts.header), timeouts, stop, service).await;
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // If the sender, the app, is gone, the connection ends too.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// The settings of both versions of HTTP.
struct Versions {
    http1: http1::Builder,
    http2: http2::Builder<StallWatch>,
}

fn versions(header_timeout: Duration) -> Versions {
    let mut http1 = http1::Builder::new();
    http1
        .timer(TokioTimer::new())
        // Also runs between requests, where a connection may wait for longer: see `idle`.
        .header_read_timeout(None)
        .max_headers(HEADERS_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(HEAD_BYTES_MAX);
    let mut http2 = http2::Builder::new(StallWatch { stall_max: stall_max(header_timeout) });
    http2
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(RESETS_MAX)
        .max_send_buf_size(STREAM_SEND_BYTES_MAX)
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(30))
        // For WebSockets (RFC 8441).
        .enable_connect_protocol();
    Versions { http1, http2 }
}

async fn connection<S, B>(
    (stream, permit): (TcpStream, OwnedSemaphorePermit),
    versions: &Versions,
    serving: Serving,
    service: S,
) where
    S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // Nagle's algorithm would hold streamed events back.
    let _ = stream.set_nodelay(true);
    let timeouts = serving.timeouts;
    let permit = Some(permit);
    let Some(tls) = &serving.tls else {
        return speak((stream, permit), versions, timeouts, serving.stop, service).await;
    };
    match tokio::time::timeout(timeouts.header, tls.acceptor().accept(stream)).await {
        Ok(Ok(stream)) => {
            // Boxed, so that connections without TLS don't have its size.
            Box::pin(speak((stream, permit), versions, timeouts, serving.stop, service)).await;
        }
        Ok(Err(error)) => tracing::debug!(event = "tls_handshake_failed", %error, "a TLS handshake failed"),
        Err(_) => tracing::debug!(event = "tls_handshake_timeout", "a TLS handshake took too long"),
    }
}

async fn speak<I, S, B>(
    (io, permit): (I, Option<OwnedSemaphorePermit>),
    versions: &Versions,
    timeouts: Timeouts,
    mut stop: watch::Receiver<bool>,
    service: S,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let traffic = Arc::new(Traffic::default());
    let mut io = Patient::new(io, timeouts.header, Arc::clone(&traffic), permit);
    let greeting = tokio::select! {
        greeting = tokio::time::timeout(timeouts.header, io.greeting()) => greeting,
        () = stopped(&mut stop) => return,
    };
    let Ok(Ok(speaks)) = greeting else {
        return tracing::debug!(event = "client_silent", "a client sent nothing");
    };
    let io = TokioIo::new(io);
    let counted = Arc::clone(&traffic);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let open = counted.begin();
        if request.method() == Method::CONNECT {
            // What it opens outlives the answer.
            request.extensions_mut().insert(InUse::new(counted.begin()));
        }
        let answer = service.call(request);
        async move { answer.await.map(|answer| answer.map(|body| Heard::new(body, open))) }
    });
    let expired = traffic.expired(timeouts, speaks);
    let ended = match speaks {
        Detected::Http1 => {
            let connection = versions.http1.serve_connection(io, service).with_upgrades();
            let say_goodbye =
                |connection: Pin<&mut _>| http1::UpgradeableConnection::graceful_shutdown(connection);
            until_stopped((connection, say_goodbye), stop, expired, timeouts.header).await
        }
        Detected::Http2 => {
            let connection = versions.http2.serve_connection(io, service);
            // Boxed, so that connections of HTTP/1.1 don't have its size.
            let say_goodbye = |connection: Pin<&mut _>| http2::Connection::graceful_shutdown(connection);
            Box::pin(until_stopped((connection, say_goodbye), stop, expired, timeouts.header)).await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(event = "client_connection_failed", %error, "a connection of a client failed");
    }
}

/// Serves a connection to its end, or until it is stopped or idle for too long; then it ends after
/// the requests that it has.
async fn until_stopped<C: Future<Output = hyper::Result<()>>>(
    (connection, say_goodbye): (C, impl Fn(Pin<&mut C>)),
    mut stop: watch::Receiver<bool>,
    expired: impl Future<Output = Expired>,
    goodbye_max: Duration,
) -> hyper::Result<()> {
    let mut connection = pin!(connection);
    tokio::select! {
        // Polled in this order, which costs less than a random order.
        biased;
        ended = connection.as_mut() => ended,
        () = stopped(&mut stop) => {
            say_goodbye(connection.as_mut());
            connection.await
        }
        expired = expired => {
            if expired == Expired::Reading {
                tracing::debug!(event = "request_head_timeout", "the head of a request took too long");
                return Ok(());
            }
            say_goodbye(connection.as_mut());
            // A client that does not close its side is not waited for.
            tokio::time::timeout(goodbye_max, connection).await.unwrap_or(Ok(()))
        }
    }
}

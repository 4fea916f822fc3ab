//! Connections to upstream, and those among them that wait for a request.
//!
//! They speak HTTP/1.1, as OpenAI's own clients do: a connection of HTTP/2 has
//! room for a hundred streams or so, and what exceeds it would wait unseen.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::rt::{Read, Write};
use hyper::upgrade::Upgraded;
use tower_service::Service;

use crate::clock::Clock;
use crate::sync::unpoisoned;
use crate::upstream::outgoing::Outgoing;

const IDLE_CONNECTIONS_MAX: usize = 4_096;
/// Shorter than upstream's own limit, so that requests are rarely sent on a connection that is closing.
const IDLE_CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

type Cause = Box<dyn Error + Send + Sync>;

/// Makes connections to one place, and keeps them for the next request.
pub(super) struct Pool {
    connect: Box<dyn Connect>,
    connect_timeout: Duration,
    idle: Arc<Idle>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// No connection could be made.
    Unreachable(Cause),
    /// The connection broke.
    Broken(hyper::Error),
}

/// The answer to a request for another protocol.
#[derive(Debug)]
pub enum Upgrade<B> {
    /// Upstream speaks it from now on: the headers of its answer, and the connection.
    Agreed(HeaderMap, Upgraded),
    /// It does not.
    Refused(Response<B>),
}

/// The body of an answer on a connection. When it has ended, the connection is used for the next
/// request; if dropped before, it closes the connection.
#[derive(Debug)]
pub struct Received {
    inner: Incoming,
    /// Until the body has ended.
    line: Option<Connection>,
    idle: Arc<Idle>,
}

/// A connection. It has no task of its own: the request that waits for it polls it,
/// and so reads all available data without a switch of tasks.
struct Connection {
    sender: SendRequest<Outgoing>,
    /// Until it has ended.
    connection: Option<Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>>,
}

/// Connections without a request, the one used last at the end.
#[derive(Debug, Default)]
struct Idle {
    waiting: Mutex<VecDeque<(Connection, Duration)>>,
    clock: Clock,
}

impl Pool {
    /// A pool without connections yet; `connector` makes them.
    pub(super) fn new<C, I>(connector: C, to: Uri, connect_timeout: Duration) -> Self
    where
        C: Service<Uri, Response = I> + Clone + Send + Sync + 'static,
        C::Future: Send,
        C::Error: Into<Cause>,
        I: Read + Write + Unpin + Send + 'static,
    {
        let connect = Box::new(Connector { make: connector, to });
        Self { connect, connect_timeout, idle: Arc::default() }
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// A connection that gives the request back has not touched it; then the
    /// next one has it.
    pub(super) async fn request(
        &self,
        mut request: Request<Outgoing>,
    ) -> Result<Response<Received>, Failure> {
        while let Some(mut line) = self.idle.take() {
            match line.exchange(request).await {
                Ok(answer) => return Ok(self.answered(answer, line)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(Failure::Broken(error.into_error())),
                },
            }
        }
        let mut line = self.connected().await?;
        let answer = line.exchange(request).await.map_err(|error| Failure::Broken(error.into_error()))?;
        Ok(self.answered(answer, line))
    }

    /// Sends a request for another protocol on a connection of its own, which is that protocol's if
    /// upstream agrees.
    pub(super) async fn upgrade(&self, request: Request<Outgoing>) -> Result<Upgrade<Received>, Failure> {
        let mut line = self.connected().await?;
        let exchanged = line.exchange(request).await;
        let mut answer = exchanged.map_err(|error| Failure::Broken(error.into_error()))?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Upgrade::Refused(self.answered(answer, line)));
        }
        let upgrade = hyper::upgrade::on(&mut answer);
        if let Some(connection) = line.connection.take() {
            connection.await.map_err(Failure::Broken)?;
        }
        let io = upgrade.await.map_err(Failure::Broken)?;
        Ok(Upgrade::Agreed(answer.into_parts().0.headers, io))
    }

    async fn connected(&self) -> Result<Connection, Failure> {
        let connecting = tokio::time::timeout(self.connect_timeout, self.connect.connect());
        let connected = connecting.await.unwrap_or_else(|elapsed| Err(elapsed.into()));
        connected.map_err(Failure::Unreachable)
    }

    fn answered(&self, answer: Response<Incoming>, line: Connection) -> Response<Received> {
        answer.map(|inner| {
            let mut body = Received { inner, line: Some(line), idle: Arc::clone(&self.idle) };
            body.free_line_if(body.inner.is_end_stream());
            body
        })
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("idle", &self.idle).finish_non_exhaustive()
    }
}

type Connecting<'a> = Pin<Box<dyn Future<Output = Result<Connection, Cause>> + Send + 'a>>;

/// Makes connections over any kind of stream.
trait Connect: Send + Sync {
    fn connect(&self) -> Connecting<'_>;
}

struct Connector<C> {
    make: C,
    to: Uri,
}

impl<C, I> Connect for Connector<C>
where
    C: Service<Uri, Response = I> + Clone + Send + Sync + 'static,
    C::Future: Send,
    C::Error: Into<Cause>,
    I: Read + Write + Unpin + Send + 'static,
{
    fn connect(&self) -> Connecting<'_> {
        let mut make = self.make.clone();
        Box::pin(async move {
            poll_fn(|cx| make.poll_ready(cx)).await.map_err(Into::into)?;
            let io = make.call(self.to.clone()).await.map_err(Into::into)?;
            let (sender, connection) = http1::handshake(io).await?;
            Ok(Connection { sender, connection: Some(Box::pin(connection.with_upgrades())) })
        })
    }
}

impl Connection {
    /// Lets the connection read and write, and wake the given task for more.
    fn drive(&mut self, waker: &Waker) {
        if let Some(connection) = &mut self.connection
            && let Poll::Ready(ended) = connection.as_mut().poll(&mut Context::from_waker(waker))
        {
            // Its pending answers end with it, and requests that wait for them are notified.
            self.connection = None;
            if let Err(error) = ended {
                tracing::debug!(
                    event = "upstream_connection_failed", %error,
                    "a connection to upstream failed"
                );
            }
        }
    }

    /// Sends a request and waits for the head of its answer. A connection that
    /// has been closed, or is not done with its last request, gives it back.
    async fn exchange(
        &mut self,
        request: Request<Outgoing>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Outgoing>>> {
        // Polled first, so that it completes its last answer and detects whether it was closed.
        self.drive(Waker::noop());
        let mut answer = pin!(self.sender.try_send_request(request));
        poll_fn(|cx| self.poll(cx, |cx| answer.as_mut().poll(cx))).await
    }

    /// Polls the connection until it has a result of `found`.
    ///
    /// Only the connection wakes the waiting task, so `found` has no waker. The
    /// connection gets one only if there is no result: otherwise it would wake the task
    /// for data that is taken already.
    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut found: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        for waker in [Waker::noop(), cx.waker()] {
            self.drive(waker);
            let found = found(&mut Context::from_waker(Waker::noop()));
            if found.is_ready() {
                return found;
            }
        }
        Poll::Pending
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("sender", &self.sender).finish_non_exhaustive()
    }
}

impl Idle {
    /// The connection that was used last.
    fn take(&self) -> Option<Connection> {
        let now = self.clock.running();
        let mut waiting = self.waiting();
        while let Some((_, since)) = waiting.front()
            && now.saturating_sub(*since) > IDLE_CONNECTION_TIMEOUT
        {
            waiting.pop_front();
        }
        waiting.pop_back().map(|(line, _)| line)
    }

    fn put(&self, line: Connection) {
        let now = self.clock.running();
        let mut waiting = self.waiting();
        if waiting.len() < IDLE_CONNECTIONS_MAX {
            waiting.push_back((line, now));
        }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<(Connection, Duration)>> {
        unpoisoned(self.waiting.lock())
    }
}

impl Received {
    fn free_line_if(&mut self, ended: bool) {
        if ended && let Some(line) = self.line.take() {
            self.idle.put(line);
        }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let mut inner = Pin::new(&mut this.inner);
        let mut frame = inner.as_mut().poll_frame(&mut Context::from_waker(Waker::noop()));
        if frame.is_pending()
            && let Some(line) = &mut this.line
        {
            frame = line.poll(cx, |cx| inner.as_mut().poll_frame(cx));
        }
        let frame = ready!(frame);
        let ended = frame.is_none() || self.inner.is_end_stream();
        self.free_line_if(ended);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests;

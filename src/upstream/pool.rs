//! Connections to upstream, and those among them that wait for a request.
//!
//! They speak HTTP/1.1, as OpenAI's own clients do: a connection of HTTP/2 has
//! room for a hundred streams or so, and what exceeds it would wait unseen.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::rt::{Read, Write};
use tokio_util::task::TaskTracker;
use tower_service::Service;

use crate::clock::Clock;
use crate::upstream::Outgoing;

const IDLE_CONNECTIONS_MAX: usize = 4_096;
/// Shorter than upstream's own, so that we seldom send into a closing door.
const IDLE_CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

type Sender = SendRequest<Outgoing>;
type Cause = Box<dyn Error + Send + Sync>;

/// Makes connections to one place, and keeps them for the next request.
pub(super) struct Pool {
    connect: Box<dyn Connect>,
    connect_timeout: Duration,
    idle: Arc<Idle>,
}

/// Why there is no answer.
pub(super) enum Failure {
    /// No connection could be made.
    Unreachable(Cause),
    /// The connection broke.
    Broken(hyper::Error),
}

/// The body of an answer. When it has ended, its connection takes the next
/// request; dropped before, it closes it.
#[derive(Debug)]
pub struct AnswerBody {
    inner: Incoming,
    line: Option<Line>,
}

/// A connection in use.
#[derive(Debug)]
struct Line {
    sender: Sender,
    idle: Arc<Idle>,
}

/// Connections without a request, the one used last at the end.
#[derive(Debug, Default)]
struct Idle {
    waiting: Mutex<VecDeque<(Sender, Duration)>>,
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
        let connect = Box::new(Connector { make: connector, to, connections: TaskTracker::new() });
        Self { connect, connect_timeout, idle: Arc::default() }
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// A connection that upstream closed while it waited gives the request back
    /// untouched; then the next one has it.
    pub(super) async fn request(
        &self,
        mut request: Request<Outgoing>,
    ) -> Result<Response<AnswerBody>, Failure> {
        while let Some(mut sender) = self.idle.take() {
            match sender.try_send_request(request).await {
                Ok(answer) => return Ok(self.taken(answer, sender)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(Failure::Broken(error.into_error())),
                },
            }
        }
        let connecting = tokio::time::timeout(self.connect_timeout, self.connect.connect());
        let connected = connecting.await.unwrap_or_else(|elapsed| Err(elapsed.into()));
        let mut sender = connected.map_err(Failure::Unreachable)?;
        let answer = sender.send_request(request).await.map_err(Failure::Broken)?;
        Ok(self.taken(answer, sender))
    }

    fn taken(&self, answer: Response<Incoming>, sender: Sender) -> Response<AnswerBody> {
        let line = Line { sender, idle: Arc::clone(&self.idle) };
        answer.map(|inner| {
            let mut body = AnswerBody { inner, line: Some(line) };
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

/// Makes connections, whatever they are made of.
trait Connect: Send + Sync {
    fn connect(&self) -> Pin<Box<dyn Future<Output = Result<Sender, Cause>> + Send + '_>>;
}

struct Connector<C> {
    make: C,
    to: Uri,
    /// Each ends with the last of those who can send on it.
    connections: TaskTracker,
}

impl<C, I> Connect for Connector<C>
where
    C: Service<Uri, Response = I> + Clone + Send + Sync + 'static,
    C::Future: Send,
    C::Error: Into<Cause>,
    I: Read + Write + Unpin + Send + 'static,
{
    fn connect(&self) -> Pin<Box<dyn Future<Output = Result<Sender, Cause>> + Send + '_>> {
        let mut make = self.make.clone();
        Box::pin(async move {
            std::future::poll_fn(|cx| make.poll_ready(cx)).await.map_err(Into::into)?;
            let io = make.call(self.to.clone()).await.map_err(Into::into)?;
            let (mut sender, connection) = http1::handshake(io).await?;
            self.connections.spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection to upstream broke");
                }
            });
            sender.ready().await?;
            Ok(sender)
        })
    }
}

impl Idle {
    /// The connection that was used last, if it is still good.
    fn take(&self) -> Option<Sender> {
        let now = self.clock.running();
        let mut waiting = self.waiting();
        while let Some((_, since)) = waiting.front()
            && now.saturating_sub(*since) > IDLE_CONNECTION_TIMEOUT
        {
            waiting.pop_front();
        }
        let mut at = waiting.len();
        while at > 0 {
            at -= 1;
            // One whose last request is still on its way out is not ready, and
            // perhaps never will be.
            let (sender, _) = &waiting[at];
            let (closed, ready) = (sender.is_closed(), sender.is_ready());
            if closed || ready {
                let taken = waiting.remove(at).map(|(sender, _)| sender);
                if !closed {
                    return taken;
                }
            }
        }
        None
    }

    fn put(&self, sender: Sender) {
        let now = self.clock.running();
        let mut waiting = self.waiting();
        if !sender.is_closed() && waiting.len() < IDLE_CONNECTIONS_MAX {
            waiting.push_back((sender, now));
        }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<(Sender, Duration)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AnswerBody {
    fn free_line_if(&mut self, ended: bool) {
        if ended && let Some(Line { sender, idle }) = self.line.take() {
            idle.put(sender);
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx));
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

//! The lanes of a socket: the request that each serves, those that wait for it, and what was sent for a
//! response that runs.

mod route;
mod steered;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};

use crate::protocol::openai::socket::Lane;
use crate::proxy::room::Room;
use crate::sync::unpoisoned;
use crate::upstream::{Passing, Source};

pub(super) use self::route::Goes;
pub(super) use self::steered::{Afterwards, Input, OpenSuccessor, Unsteerable};
use self::steered::{Place, Queue, Successor};

/// Requests of a socket that are served or wait.
const REQUESTS_MAX: usize = 64;
/// Events of a response that wait to be read.
const EVENTS_MAX: usize = 16;

/// The lanes of a socket.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    state: Mutex<State>,
    /// Notified when a request has ended.
    ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Those that serve a request, or for which something waits.
    used: BTreeMap<Lane, Used>,
    /// Requests in all.
    requests: usize,
    /// Whether no more requests are taken.
    is_closed: bool,
    /// Whether upstream is gone.
    is_cut: bool,
    /// Responses that an error has ended: upstream may say once more that they have failed.
    failed: VecDeque<String>,
    /// Input that is not part of a response yet.
    queued: Queue,
}

/// A request that has come.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Its message, which has the fields of a body.
    pub(super) body: Bytes,
    /// The response that it continues.
    pub(super) previous: Option<String>,
    /// The memory that it takes.
    pub(super) room: Room,
}

#[derive(Debug, Default)]
struct Used {
    waiting: VecDeque<Waiting>,
    /// The response that the request which is served continues; `None` if none is served.
    serves: Option<Option<String>>,
    /// The request that was sent, until the last event of its response.
    open: Option<Open>,
    /// The place for further input of the response that runs.
    steer: Place,
}

#[derive(Debug)]
struct Open {
    /// Gets the first word of upstream.
    first: Option<oneshot::Sender<First>>,
    /// The id of its response.
    id: Option<String>,
    /// The message that it was asked for with, or could have been.
    sent: Bytes,
    events: Arc<Source>,
    /// What it follows, if upstream begins it by itself.
    follows: Option<Successor>,
}

/// The first word of upstream about what was sent to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// It answers with this status.
    Status(u16),
    /// It does not begin a response by itself.
    Nothing,
}

/// What was sent: the first word about it, and its events.
pub(super) type Sent = (oneshot::Receiver<First>, Passing);

/// What becomes of a request that has come.
#[derive(Debug)]
pub(super) enum Entered {
    /// It is served now.
    Now(Waiting),
    /// It is served after those before it in its lane.
    Later,
    /// There are too many, or the socket is being closed.
    Refused,
}

impl Open {
    /// What is being sent with a message, and what its sender waits for.
    fn new(sent: Bytes, follows: Option<Successor>) -> (Self, Sent) {
        let (first, answered) = oneshot::channel();
        let (events, body) = Passing::of_parts(EVENTS_MAX);
        (Self { first: Some(first), id: None, sent, events: Arc::new(events), follows }, (answered, body))
    }

    /// Passes the first word of upstream on; returns whether it is the first.
    fn say(&mut self, first: First) -> bool {
        // Its request may have ended by itself.
        self.first.take().map(|sender| sender.send(first)).is_some()
    }
}

impl Lanes {
    fn state(&self) -> MutexGuard<'_, State> {
        unpoisoned(self.state.lock())
    }

    /// Takes a request into its lane.
    pub(super) fn enter(&self, lane: &Lane, request: Waiting) -> Entered {
        let mut state = self.state();
        if state.is_closed || state.requests >= REQUESTS_MAX {
            return Entered::Refused;
        }
        state.requests += 1;
        let used = state.used.entry(lane.clone()).or_default();
        if used.serves.is_some() {
            used.waiting.push_back(request);
            return Entered::Later;
        }
        used.serves = Some(request.previous.clone());
        Entered::Now(request)
    }

    /// Ends the request that a lane serves, and returns the next one. If there is none, the lane is free.
    pub(super) fn next(&self, lane: &Lane) -> Option<Waiting> {
        let mut state = self.state();
        state.requests = state.requests.saturating_sub(1);
        let used = state.used.get_mut(lane)?;
        used.open = None;
        let next = used.waiting.pop_front();
        used.serves = next.as_ref().map(|request| request.previous.clone());
        state.forget_unused(lane);
        drop(state);
        self.ended.notify_waiters();
        next
    }

    /// Opens the request that a lane serves, before it is sent with a message. `None` if upstream is gone.
    pub(super) fn open(&self, lane: &Lane, message: &Bytes) -> Option<Sent> {
        let mut state = self.state();
        if state.is_cut {
            return None;
        }
        let (open, sent) = Open::new(message.clone(), None);
        state.used.get_mut(lane)?.open = Some(open);
        Some(sent)
    }

    /// The events of the request that a lane serves, while upstream may send more of them.
    pub(super) fn source(&self, lane: &Lane) -> Option<Arc<Source>> {
        self.state().used.get(lane)?.open.as_ref().map(|open| Arc::clone(&open.events))
    }

    /// Whether upstream may send more for what a lane serves, or begin a response after it.
    pub(super) fn has_open(&self, lane: &Lane) -> bool {
        self.state().used.get(lane).is_some_and(|used| used.open.is_some() || used.has_successor())
    }

    /// No more requests are taken, and none waits.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        let mut waiting = 0;
        for used in state.used.values_mut() {
            waiting += std::mem::take(&mut used.waiting).len();
        }
        state.requests = state.requests.saturating_sub(waiting);
        drop(state);
        self.ended.notify_waiters();
    }

    /// Upstream is gone: the events of what was sent break off.
    pub(super) fn cut(&self) {
        self.close();
        let mut state = self.state();
        state.is_cut = true;
        for used in state.used.values_mut() {
            used.open = None;
            used.steer = Place::Free;
        }
    }

    /// Waits until no request is served.
    pub(super) async fn all_ended(&self) {
        loop {
            let ended = self.ended.notified();
            if self.state().requests == 0 {
                return;
            }
            ended.await;
        }
    }
}

impl State {
    /// Forgets a lane in which nothing is served and for which nothing waits.
    fn forget_unused(&mut self, lane: &Lane) {
        if self.used.get(lane).is_some_and(Used::is_free) {
            self.used.remove(lane);
        }
    }
}

impl Used {
    fn is_free(&self) -> bool {
        self.serves.is_none() && !self.has_input()
    }
}

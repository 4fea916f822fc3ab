//! The lanes of a socket: the request that each serves, and those that wait for it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};

use crate::protocol::openai::socket::{Event, Lane, Says};
use crate::proxy::room::Room;
use crate::sync::unpoisoned;
use crate::upstream::{Passing, Source};

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
    /// Those that serve a request.
    busy: BTreeMap<Lane, Busy>,
    /// Requests in all.
    requests: usize,
    /// Whether no more requests are taken.
    is_closed: bool,
    /// Whether upstream is gone.
    is_cut: bool,
    /// Responses that an error has ended: upstream may say once more that they have failed.
    failed: VecDeque<String>,
}

/// A request that has come.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Its message, which has the fields of a body.
    pub(super) body: Bytes,
    /// The memory that it takes.
    pub(super) room: Room,
}

#[derive(Debug, Default)]
struct Busy {
    waiting: VecDeque<Waiting>,
    /// The request that was sent, until the last event of its response.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    /// Gets the status of the answer, with the first event.
    status: Option<oneshot::Sender<u16>>,
    /// The id of its response.
    id: Option<String>,
    events: Arc<Source>,
}

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

/// Where an event of upstream goes.
#[derive(Debug)]
pub(super) enum Goes {
    /// To the request that its lane serves.
    To(Arc<Source>),
    /// To that request, as its last one.
    LastTo(Arc<Source>),
    /// To that request, as the error that answers it.
    ErrorTo(Arc<Source>),
    /// To the client: it is about no response that costs anything.
    ToClient,
    /// Nowhere: it is about a response that was not asked for, or it is not clear about which.
    Nowhere,
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
        if let Some(busy) = state.busy.get_mut(lane) {
            busy.waiting.push_back(request);
            return Entered::Later;
        }
        state.busy.insert(lane.clone(), Busy::default());
        Entered::Now(request)
    }

    /// Ends the request that a lane serves, and returns the next one. If there is none, the lane is free.
    pub(super) fn next(&self, lane: &Lane) -> Option<Waiting> {
        let mut state = self.state();
        state.requests = state.requests.saturating_sub(1);
        let next = state.busy.get_mut(lane).and_then(|busy| {
            busy.open = None;
            busy.waiting.pop_front()
        });
        if next.is_none() {
            state.busy.remove(lane);
        }
        drop(state);
        self.ended.notify_waiters();
        next
    }

    /// Opens the request that a lane serves, before it is sent: the status of its answer, and its
    /// events. `None` if upstream is gone.
    pub(super) fn open(&self, lane: &Lane) -> Option<(oneshot::Receiver<u16>, Passing)> {
        let mut state = self.state();
        if state.is_cut {
            return None;
        }
        let busy = state.busy.get_mut(lane)?;
        let (status, answered) = oneshot::channel();
        let (events, body) = Passing::of_parts(EVENTS_MAX);
        busy.open = Some(Open { status: Some(status), id: None, events: Arc::new(events) });
        Some((answered, body))
    }

    /// The events of the request that a lane serves, while upstream may send more of them.
    pub(super) fn source(&self, lane: &Lane) -> Option<Arc<Source>> {
        self.state().busy.get(lane)?.open.as_ref().map(|open| Arc::clone(&open.events))
    }

    /// Where an event of upstream goes. The first one of a response gives its request the status.
    pub(super) fn route(&self, event: &Event) -> Goes {
        let mut state = self.state();
        let State { busy, failed, .. } = &mut *state;
        // An error without a lane may answer a request of any lane that waits for its answer.
        let waits = |open: &Open| open.status.is_some();
        let others_wait = event.lane.is_none()
            && busy.iter().any(|(lane, busy)| lane.is_some() && busy.open.as_ref().is_some_and(waits));
        let place = busy.get_mut(&event.lane).map(|busy| &mut busy.open);
        let found = place.and_then(|place| Some((place.take()?, place)));
        let Some((open, place)) = found else {
            return match &event.says {
                Says::Error(Some(_)) if others_wait => Goes::Nowhere,
                Says::Nothing | Says::Error(_) => Goes::ToClient,
                Says::Ended(Some(id)) if failed.contains(id) => Goes::ToClient,
                Says::Begun(_) | Says::Running | Says::Ended(_) => Goes::Nowhere,
            };
        };
        let (goes, open) = followed(open, &event.says, others_wait, failed);
        *place = open;
        goes
    }

    /// No more requests are taken, and none waits.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        let waiting: usize =
            state.busy.values_mut().map(|busy| std::mem::take(&mut busy.waiting).len()).sum();
        state.requests = state.requests.saturating_sub(waiting);
        drop(state);
        self.ended.notify_waiters();
    }

    /// Upstream is gone: the events of what was sent break off.
    pub(super) fn cut(&self) {
        self.close();
        let mut state = self.state();
        state.is_cut = true;
        for busy in state.busy.values_mut() {
            busy.open = None;
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

/// Where an event goes that comes while a request is open in its lane, and the request, if it stays
/// open.
fn followed(
    mut open: Open,
    says: &Says,
    others_wait: bool,
    failed: &mut VecDeque<String>,
) -> (Goes, Option<Open>) {
    let events = Arc::clone(&open.events);
    let mut begins = |status| {
        // Its request may have ended by itself.
        open.status.take().map(|first| first.send(status)).is_some()
    };
    match says {
        Says::Nothing => (Goes::ToClient, Some(open)),
        Says::Running => {
            begins(200);
            (Goes::To(events), Some(open))
        }
        Says::Begun(id) => {
            begins(200);
            if open.id.is_some() {
                return (Goes::Nowhere, Some(open));
            }
            open.id.clone_from(id);
            (Goes::To(events), Some(open))
        }
        Says::Ended(id) => {
            begins(200);
            let is_another = id.is_some() && open.id.is_some() && *id != open.id;
            if is_another { (Goes::Nowhere, Some(open)) } else { (Goes::LastTo(events), None) }
        }
        Says::Error(status) => {
            if status.is_some() && others_wait {
                return (Goes::Nowhere, Some(open));
            }
            let is_first = begins(status.unwrap_or(200));
            if failed.len() >= REQUESTS_MAX {
                failed.pop_front();
            }
            failed.extend(open.id.take());
            let is_answer = is_first && status.is_some();
            (if is_answer { Goes::ErrorTo(events) } else { Goes::LastTo(events) }, None)
        }
    }
}

//! Further input for a response that runs. Its place in the lane is free, taken while the input is
//! admitted, then kept for the response that upstream may begin with it, which is the one that the lane
//! serves next. The place is free again when that response has begun, or upstream begins none: the input
//! has failed, or upstream has queued it for a request that continues the response.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::protocol::openai::socket::{InputFate, Lane, Steer};
use crate::proxy::answer::Answer;
use crate::proxy::room::Room;
use crate::proxy::socket::lanes::{First, Goes, Lanes, Open, REQUESTS_MAX, Sent, State, Used};

/// Events about a response's further input that wait until its last event was passed on.
const AFTERWARDS_MAX: usize = 4;

/// The place for further input of the response that a lane serves.
#[derive(Debug, Default)]
pub(super) enum Place {
    #[default]
    Free,
    /// For input that is being admitted.
    Taken,
    /// For input that was sent: the response that may come, and what its lane does after the one that
    /// runs.
    Sent { open: Option<Open>, afterwards: mpsc::Receiver<Afterwards> },
}

/// What is known of a response that upstream begins by itself.
#[derive(Debug)]
pub(super) struct Successor {
    /// The response that it follows.
    pub(super) parent: String,
    input: Input,
    /// Dropped when that response has ended.
    parent_runs: Option<oneshot::Sender<()>>,
    /// What comes after that one's last event.
    afterwards: mpsc::Sender<Afterwards>,
}

/// Further input, and the memory that it takes.
#[derive(Debug)]
pub(in crate::proxy::socket) struct Input {
    pub(in crate::proxy::socket) steer: Arc<Steer>,
    pub(in crate::proxy::socket) room: Room,
}

/// Input that upstream puts before that of a request which continues its response.
#[derive(Debug)]
pub(super) struct Queued {
    lane: Lane,
    input: Input,
}

/// The same, by the response that it is for.
pub(super) type Queue = BTreeMap<String, Queued>;

/// What a lane does after the last event of a response with further input.
#[derive(Debug)]
pub(in crate::proxy::socket) enum Afterwards {
    /// Shows an event to the client.
    Event(Utf8Bytes),
    /// Shows an event, and goes on with the requests that wait.
    LastEvent(Utf8Bytes),
    /// Passes the response on that was begun with the input.
    Answer(Box<Response<Answer>>),
}

/// The response that upstream may begin with input.
#[derive(Debug)]
pub(in crate::proxy::socket) struct OpenSuccessor {
    /// The first word about it, and its events.
    pub(in crate::proxy::socket) sent: Sent,
    /// Resolves when the response that runs has ended.
    pub(in crate::proxy::socket) parent_over: oneshot::Receiver<()>,
    /// Where its lane takes up what comes after the response that runs.
    pub(in crate::proxy::socket) afterwards: mpsc::Sender<Afterwards>,
}

/// Why a response can't have further input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy::socket) enum Unsteerable {
    /// It does not run.
    NotActive,
    /// It has further input already.
    HasInput,
    /// As many responses of the socket have further input as may have.
    TooMany,
}

impl Lanes {
    /// Takes the place for further input of a response: its lane, and the message that it was asked for
    /// with. [`Lanes::leave_place`] gives it back if nothing is sent.
    pub(in crate::proxy::socket) fn take_place(&self, parent: &str) -> Result<(Lane, Bytes), Unsteerable> {
        let mut state = self.state();
        if state.is_closed {
            return Err(Unsteerable::NotActive);
        }
        let places = state.used.values().filter(|used| used.has_input()).count();
        let is_full = places + state.queued.len() >= REQUESTS_MAX;
        let is_queued = state.queued.contains_key(parent);
        let mut lanes = state.used.iter_mut();
        let found = lanes.find_map(|(lane, used)| Some((lane, used.running(parent)?.sent.clone(), used)));
        let (lane, sent, used) = found.ok_or(Unsteerable::NotActive)?;
        if is_queued || used.has_input() {
            return Err(Unsteerable::HasInput);
        }
        if is_full {
            return Err(Unsteerable::TooMany);
        }
        used.steer = Place::Taken;
        Ok((lane.clone(), sent))
    }

    /// Gives the place back of input that was not sent.
    pub(in crate::proxy::socket) fn leave_place(&self, lane: &Lane) {
        let mut state = self.state();
        if let Some(used) = state.used.get_mut(lane) {
            used.steer = Place::Free;
        }
        state.forget_unused(lane);
    }

    /// Opens the response that upstream may begin after another one, before the input for it is sent.
    /// `message` is a request for the same. `None` if that other one has ended meanwhile, or nothing more
    /// is to be sent.
    pub(in crate::proxy::socket) fn open_successor(
        &self,
        (lane, parent): (&Lane, &str),
        message: &Bytes,
        input: Input,
    ) -> Option<OpenSuccessor> {
        let mut state = self.state();
        if state.is_closed {
            return None;
        }
        let used = state.used.get_mut(lane)?;
        used.running(parent)?;
        let (parent_runs, parent_over) = oneshot::channel();
        let (to, afterwards) = mpsc::channel(AFTERWARDS_MAX);
        let parent_runs = Some(parent_runs);
        let successor = Successor { parent: parent.to_owned(), input, parent_runs, afterwards: to.clone() };
        let (open, sent) = Open::new(message.clone(), Some(successor));
        used.steer = Place::Sent { open: Some(open), afterwards };
        Some(OpenSuccessor { sent, parent_over, afterwards: to })
    }

    /// The input that upstream puts before that of the request which a lane serves.
    pub(in crate::proxy::socket) fn queued(&self, lane: &Lane) -> Option<Arc<Steer>> {
        let state = self.state();
        let previous = state.used.get(lane)?.serves.as_ref()?.as_ref()?;
        Some(Arc::clone(&state.queued.get(previous)?.input.steer))
    }

    /// Takes up what comes after the last event of the response that a lane has passed on, before its
    /// next request: the response that may follow is the one that it serves from now on.
    pub(in crate::proxy::socket) fn take_up_afterwards(
        &self,
        lane: &Lane,
    ) -> Option<mpsc::Receiver<Afterwards>> {
        let mut state = self.state();
        let used = state.used.get_mut(lane)?;
        match std::mem::take(&mut used.steer) {
            Place::Sent { open, afterwards } if used.open.is_none() => {
                used.open = open;
                Some(afterwards)
            }
            // The response was left before its end.
            Place::Sent { .. } => None,
            place @ (Place::Free | Place::Taken) => {
                used.steer = place;
                None
            }
        }
    }
}

impl State {
    /// Where an event about further input for a response goes.
    pub(super) fn note_input(&mut self, fate: InputFate, parent: &str) -> Goes {
        let Self { used, queued, .. } = self;
        if fate == InputFate::Failed {
            queued.remove(parent);
        }
        let is_last = fate != InputFate::Accepted;
        for (lane, used) in used {
            if let Some(events) = used.running(parent).map(|open| Arc::clone(&open.events)) {
                if let Place::Sent { open, .. } = &mut used.steer
                    && let Some(open) = open.take_if(|_| is_last)
                {
                    used.steer = Place::Free;
                    end_unbegun(queued, lane, open, fate);
                }
                return Goes::To(events);
            }
            let place = used.current();
            let follows =
                place.as_ref().filter(|open| open.first.is_some()).and_then(|open| open.follows.as_ref());
            let Some(to) = follows.filter(|of| of.parent == parent).map(|of| of.afterwards.clone()) else {
                continue;
            };
            if let Some(open) = place.take_if(|_| is_last) {
                end_unbegun(queued, lane, open, fate);
            }
            return Goes::Afterwards { to, is_last };
        }
        Goes::ToClient
    }
}

/// Upstream begins no response with the input that was sent.
fn end_unbegun(queued: &mut Queue, lane: &Lane, mut open: Open, fate: InputFate) {
    open.say(First::Nothing);
    if let Some(Successor { parent, input, .. }) = open.follows.take().filter(|_| fate == InputFate::Queued) {
        queued.insert(parent, Queued { lane: lane.clone(), input });
    }
}

impl Used {
    /// Whether there is further input, sent or not.
    pub(super) fn has_input(&self) -> bool {
        !matches!(self.steer, Place::Free)
    }

    /// Whether upstream may begin a response with input that was sent.
    pub(super) fn has_successor(&self) -> bool {
        matches!(self.steer, Place::Sent { open: Some(_), .. })
    }

    /// The response of this id, if the lane serves it.
    fn running(&self, id: &str) -> Option<&Open> {
        self.open.as_ref().filter(|open| open.id.as_deref() == Some(id))
    }

    /// What an event of the lane is about: the response that runs, or else the one that may follow it.
    pub(super) fn current(&mut self) -> &mut Option<Open> {
        match &mut self.steer {
            Place::Sent { open, .. } if self.open.is_none() => open,
            Place::Sent { .. } | Place::Free | Place::Taken => &mut self.open,
        }
    }

    /// Has the response that may follow know whether the one that runs has ended.
    pub(super) fn note_end(&mut self) {
        if let Place::Sent { open: Some(Open { follows: Some(of), .. }), .. } = &mut self.steer
            && self.open.is_none()
        {
            of.parent_runs = None;
        }
    }

    /// A response has begun: the input that was queued for its request is in it.
    pub(super) fn note_begun(&self, lane: &Lane, queued: &mut Queue) {
        if let Some(Some(previous)) = &self.serves
            && queued.get(previous).is_some_and(|of| of.lane == *lane)
        {
            queued.remove(previous);
        }
    }
}

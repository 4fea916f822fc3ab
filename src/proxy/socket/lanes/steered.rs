//! Further input for a response that runs: how upstream begins a response with it by itself, or lets it
//! wait for a request.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::protocol::openai::socket::{Lane, Steering};
use crate::proxy::answer::Answer;
use crate::proxy::socket::lanes::{First, Goes, Lanes, Open, REQUESTS_MAX, Sent, State, Used};

/// Events about a response's further input that wait until its last event was passed on.
const AFTERWARDS_MAX: usize = 4;

/// What may be in a lane beside its response.
#[derive(Debug, Default)]
pub(super) enum Place {
    #[default]
    Free,
    /// Input that is being admitted.
    Taken,
    /// Input that was sent: the response that may come, and what its lane does after the one that runs.
    Sent { open: Option<Open>, afterwards: mpsc::Receiver<Afterwards> },
}

/// What is known of a response that upstream begins by itself.
#[derive(Debug)]
pub(super) struct Successor {
    /// The response that it follows.
    pub(super) parent: String,
    /// Dropped when that has ended.
    parent_runs: Option<oneshot::Sender<()>>,
    /// What comes after its last event.
    afterwards: mpsc::Sender<Afterwards>,
}

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

/// Input that waits for a request which continues its response: what is held for it is part of what
/// that request may cost.
#[derive(Debug)]
pub(super) struct Pending {
    parent: String,
    /// Its sender learns that nothing was begun with it when it is dropped.
    first: Option<oneshot::Sender<First>>,
    /// Whether upstream has begun such a request.
    is_used: bool,
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(first) = self.first.take() {
            let _ = first.send(First::Nothing);
        }
    }
}

/// What was sent for a response that runs.
#[derive(Debug)]
pub(in crate::proxy::socket) struct Steered {
    /// What its sender waits for.
    pub(in crate::proxy::socket) sent: Sent,
    /// Resolves when the response that ran has ended.
    pub(in crate::proxy::socket) parent_over: oneshot::Receiver<()>,
    /// Where the response goes that is begun with it.
    pub(in crate::proxy::socket) afterwards: mpsc::Sender<Afterwards>,
}

/// Why a response can't have further input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy::socket) enum Unsteerable {
    /// It does not run.
    NotActive,
    /// There is as much as is passed on.
    TooMany,
}

impl Lanes {
    /// Takes the place for further input of a response: its lane, and the message that it was asked for
    /// with. [`Lanes::leave_steer`] gives it back if nothing is sent.
    pub(in crate::proxy::socket) fn begin_steer(&self, parent: &str) -> Result<(Lane, Bytes), Unsteerable> {
        let mut state = self.state();
        if state.is_closed {
            return Err(Unsteerable::NotActive);
        }
        let is_full = state.used.values().filter(|used| used.has_input()).count() >= REQUESTS_MAX;
        let mut lanes = state.used.iter_mut();
        let found = lanes.find_map(|(lane, used)| Some((lane, used.running(parent)?.sent.clone(), used)));
        let (lane, sent, used) = found.ok_or(Unsteerable::NotActive)?;
        if is_full || used.has_input() {
            return Err(Unsteerable::TooMany);
        }
        used.steer = Place::Taken;
        Ok((lane.clone(), sent))
    }

    /// Gives the place back of input that was not sent.
    pub(in crate::proxy::socket) fn leave_steer(&self, lane: &Lane) {
        let mut state = self.state();
        if let Some(used) = state.used.get_mut(lane) {
            used.steer = Place::Free;
        }
        state.forget_unused(lane);
    }

    /// Opens the response that upstream may begin after another one, before the input for it is sent.
    /// `message` is a request for the same. `None` if that other one has ended meanwhile.
    pub(in crate::proxy::socket) fn steer(
        &self,
        lane: &Lane,
        parent: &str,
        message: &Bytes,
    ) -> Option<Steered> {
        let mut state = self.state();
        let used = state.used.get_mut(lane)?;
        used.running(parent)?;
        let (parent_runs, parent_over) = oneshot::channel();
        let (to, afterwards) = mpsc::channel(AFTERWARDS_MAX);
        let successor =
            Successor { parent: parent.to_owned(), parent_runs: Some(parent_runs), afterwards: to.clone() };
        let (open, sent) = Open::new(message.clone(), Some(successor));
        used.steer = Place::Sent { open: Some(open), afterwards };
        Some(Steered { sent, parent_over, afterwards: to })
    }

    /// Whether input waits for a request of a lane.
    pub(in crate::proxy::socket) fn is_pending(&self, lane: &Lane) -> bool {
        self.state().used.get(lane).is_some_and(|used| used.pending.is_some())
    }

    /// Waits until no input waits for a request of a lane.
    pub(in crate::proxy::socket) async fn none_pending(&self, lane: &Lane) {
        loop {
            let ended = self.ended.notified();
            if !self.is_pending(lane) {
                return;
            }
            ended.await;
        }
    }

    /// What a lane does after the last event of the response that it has passed on, before its next
    /// request.
    pub(in crate::proxy::socket) fn afterwards(&self, lane: &Lane) -> Option<mpsc::Receiver<Afterwards>> {
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
    pub(super) fn steered(&mut self, steering: Steering, parent: &str) -> Goes {
        for used in self.used.values_mut() {
            if steering == Steering::Failed {
                used.pending.take_if(|pending| pending.parent == parent);
            }
            if let Some(events) = used.running(parent).map(|open| Arc::clone(&open.events)) {
                if steering != Steering::Accepted
                    && let Place::Sent { open, .. } = &mut used.steer
                    && let Some(open) = open.take()
                {
                    used.steer = Place::Free;
                    used.resolve(open, steering, parent);
                }
                return Goes::To(events);
            }
            let place = used.current();
            let follows =
                place.as_ref().filter(|open| open.first.is_some()).and_then(|open| open.follows.as_ref());
            let Some(to) = follows.filter(|of| of.parent == parent).map(|of| of.afterwards.clone()) else {
                continue;
            };
            if steering != Steering::Accepted
                && let Some(open) = place.take()
            {
                used.resolve(open, steering, parent);
            }
            return Goes::Afterwards { to, is_last: steering != Steering::Accepted };
        }
        Goes::ToClient
    }
}

impl Used {
    /// Whether there is further input, sent or not.
    pub(super) fn has_input(&self) -> bool {
        self.pending.is_some() || !matches!(self.steer, Place::Free)
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

    /// Upstream begins no response with the input that was sent: it has failed, or waits for a request.
    fn resolve(&mut self, mut open: Open, steering: Steering, parent: &str) {
        if steering == Steering::Pending {
            self.pending = Some(Pending { parent: parent.to_owned(), first: open.first, is_used: false });
        } else {
            open.say(First::Nothing);
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

    /// A response has begun: the input that waits for its request is in it.
    pub(super) fn note_begun(&mut self) {
        if let Some(pending) = &mut self.pending
            && self.serves.as_ref().and_then(|previous| previous.as_ref()) == Some(&pending.parent)
        {
            pending.is_used = true;
        }
    }

    /// Ends the wait of input whose request has ended.
    pub(super) fn end_pending(&mut self) {
        self.pending.take_if(|pending| pending.is_used);
    }
}

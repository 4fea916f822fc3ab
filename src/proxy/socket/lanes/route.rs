//! Where an event of upstream goes: to the request that it answers, or to none.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::protocol::openai::socket::{Event, Says};
use crate::proxy::socket::lanes::{Afterwards, First, Lanes, Open, REQUESTS_MAX, State};
use crate::upstream::Source;

/// Where an event of upstream goes.
#[derive(Debug)]
pub(in crate::proxy::socket) enum Goes {
    /// To the request that its lane serves.
    To(Arc<Source>),
    /// To that request, as its last one.
    LastTo(Arc<Source>),
    /// To that request, as the error that answers it.
    ErrorTo(Arc<Source>),
    /// To the client: it is about no response that costs anything.
    ToClient,
    /// To what its lane does after the response that it passes on; and whether it is the last that
    /// comes there.
    Afterwards { to: mpsc::Sender<Afterwards>, is_last: bool },
    /// Nowhere: it is about a response that was not asked for, or it is not clear about which.
    Nowhere,
}

impl Lanes {
    /// Where an event of upstream goes. The first one of a response gives its request the status.
    pub(in crate::proxy::socket) fn route(&self, event: &Event) -> Goes {
        let mut state = self.state();
        if let Says::Input(fate, parent) = &event.says {
            return state.note_input(*fate, parent);
        }
        let is_answer = matches!(event.says, Says::Error(Some(_)));
        let is_unclear = is_answer && event.lane.is_none() && state.others_wait();
        let State { used, failed, queued, .. } = &mut *state;
        let none = match &event.says {
            Says::Error(_) if is_unclear => Goes::Nowhere,
            Says::Nothing | Says::Error(_) => Goes::ToClient,
            // It is over already, whatever its lane serves now.
            Says::Ended(Some(id)) if failed.contains(id) => return Goes::ToClient,
            Says::Begun(_) | Says::Running | Says::Ended(_) | Says::Input(..) => Goes::Nowhere,
        };
        let Some(used) = used.get_mut(&event.lane) else { return none };
        let place = used.current();
        let Some(open) = place.take() else { return none };
        let goes;
        (goes, *place) = followed(open, &event.says, is_unclear, failed);
        used.note_end();
        if matches!(event.says, Says::Begun(_)) {
            used.note_begun(&event.lane, queued);
        }
        goes
    }
}

impl State {
    /// Whether an error that names no lane may answer something else than what the lane of those
    /// without a name is about: a request of another lane that waits for its answer, or further input.
    fn others_wait(&self) -> bool {
        self.used.iter().any(|(lane, used)| {
            let waits = used.open.as_ref().is_some_and(|open| open.first.is_some());
            let is_other = lane.is_some() && (waits || used.has_successor());
            is_other || (used.open.is_some() && used.has_successor())
        })
    }
}

/// Where an event goes that comes while a request is open in its lane, and the request, if it stays
/// open.
fn followed(
    mut open: Open,
    says: &Says,
    is_unclear: bool,
    failed: &mut VecDeque<String>,
) -> (Goes, Option<Open>) {
    let events = Arc::clone(&open.events);
    // What upstream begins by itself says so first.
    let is_awaited = open.follows.is_some() && open.first.is_some();
    match says {
        Says::Nothing | Says::Input(..) => (Goes::ToClient, Some(open)),
        Says::Running | Says::Ended(_) if is_awaited => (Goes::Nowhere, Some(open)),
        Says::Running => {
            open.say(First::Status(200));
            (Goes::To(events), Some(open))
        }
        Says::Begun(id) => {
            open.say(First::Status(200));
            let is_parent = open.follows.as_ref().is_some_and(|of| id.as_ref() == Some(&of.parent));
            if open.id.is_some() || is_parent {
                return (Goes::Nowhere, Some(open));
            }
            open.id.clone_from(id);
            (Goes::To(events), Some(open))
        }
        Says::Ended(id) => {
            open.say(First::Status(200));
            let is_another = id.is_some() && open.id.is_some() && *id != open.id;
            if is_another { (Goes::Nowhere, Some(open)) } else { (Goes::LastTo(events), None) }
        }
        Says::Error(status) => {
            if is_unclear {
                return (Goes::Nowhere, Some(open));
            }
            let is_first = open.say(First::Status(status.unwrap_or(200)));
            if failed.len() >= REQUESTS_MAX {
                failed.pop_front();
            }
            failed.extend(open.id.take());
            let is_answer = is_first && status.is_some();
            (if is_answer { Goes::ErrorTo(events) } else { Goes::LastTo(events) }, None)
        }
    }
}

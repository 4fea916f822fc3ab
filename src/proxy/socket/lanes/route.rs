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
        if let Says::Steered(steering, parent) = &event.says {
            return state.steered(*steering, parent);
        }
        let State { used, failed, .. } = &mut *state;
        // An error without a lane may answer a request of any lane that waits for its answer.
        let waits = |open: &Open| open.first.is_some();
        let others_wait = event.lane.is_none()
            && used.iter().any(|(lane, used)| lane.is_some() && used.open.as_ref().is_some_and(waits));
        let none = match &event.says {
            Says::Error(Some(_)) if others_wait => Goes::Nowhere,
            Says::Nothing | Says::Error(_) => Goes::ToClient,
            Says::Ended(Some(id)) if failed.contains(id) => Goes::ToClient,
            Says::Begun(_) | Says::Running | Says::Ended(_) | Says::Steered(..) => Goes::Nowhere,
        };
        let Some(used) = used.get_mut(&event.lane) else { return none };
        let place = used.current();
        let Some(open) = place.take() else { return none };
        let goes;
        (goes, *place) = followed(open, &event.says, others_wait, failed);
        used.note_end();
        if matches!(event.says, Says::Begun(_)) {
            used.note_begun();
        }
        goes
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
    match says {
        Says::Nothing | Says::Steered(..) => (Goes::ToClient, Some(open)),
        Says::Running => {
            open.say(First::Status(200));
            (Goes::To(events), Some(open))
        }
        Says::Begun(id) => {
            open.say(First::Status(200));
            if open.id.is_some() {
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
            if status.is_some() && others_wait {
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

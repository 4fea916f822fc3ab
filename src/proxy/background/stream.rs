//! An event stream of a response that is made in the background.
//!
//! The stream that begins one leaves its hold to a job as soon as upstream has named the
//! response, and is then what any other stream of it is: a client that leaves it changes nothing.
//! Its end settles the job before the client has it.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;

use crate::guard::Reservation;
use crate::protocol::openai::sse;
use crate::proxy::background::{Beginning, Settler, in_a_task};
use crate::proxy::bill::Exchange;
use crate::proxy::body::AnswerError;
use crate::proxy::in_flight::InFlight;
use crate::proxy::record::{Recorded, Recording};
use crate::proxy::tap::{Silence, StreamPolicy};
use crate::upstream::AnswerBody;

/// A stream of a background response on its way through.
pub struct BackgroundStream {
    state: Option<State>,
    settler: Settler,
    policy: StreamPolicy,
    silence: Silence,
    /// Events that are held back until what they say is written.
    held_back: Option<(Bytes, Recorded)>,
    /// Of the request that has begun it.
    in_flight: Option<InFlight>,
}

impl std::fmt::Debug for BackgroundStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackgroundStream").finish_non_exhaustive()
    }
}

/// A stream while it lasts.
struct State {
    upstream: AnswerBody,
    sse: sse::Tap,
    stage: Stage,
}

enum Stage {
    /// Upstream has not named the response.
    Unnamed(Box<Unnamed>),
    /// It is the job of this id.
    Job(String),
    /// Its job is settled, or it can't be by this stream.
    Over,
}

/// A request whose response has no name yet.
pub(in crate::proxy) struct Unnamed {
    pub(in crate::proxy) beginning: Beginning,
    pub(in crate::proxy) reservation: Reservation,
    pub(in crate::proxy) exchange: Exchange,
    pub(in crate::proxy) recording: Option<Box<Recording>>,
}

impl BackgroundStream {
    /// The stream that begins a response.
    pub(in crate::proxy) fn beginning(
        upstream: AnswerBody,
        sse: sse::Tap,
        unnamed: Unnamed,
        in_flight: InFlight,
        policy: StreamPolicy,
    ) -> Self {
        let settler = unnamed.beginning.settler.clone();
        let state = State { upstream, sse, stage: Stage::Unnamed(Box::new(unnamed)) };
        Self::of(state, settler, Some(in_flight), policy)
    }

    /// A stream of the response of a job.
    pub(in crate::proxy) fn of_job(
        upstream: AnswerBody,
        sse: sse::Tap,
        id: String,
        settler: Settler,
        policy: StreamPolicy,
    ) -> Self {
        Self::of(State { upstream, sse, stage: Stage::Job(id) }, settler, None, policy)
    }

    fn of(state: State, settler: Settler, in_flight: Option<InFlight>, policy: StreamPolicy) -> Self {
        let silence = Silence::of(policy.idle, settler.guard.clock());
        Self { state: Some(state), settler, policy, silence, held_back: None, in_flight }
    }

    /// The next frame for the client.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        loop {
            if let Some((_, written)) = &mut self.held_back {
                std::task::ready!(written.as_mut().poll(cx));
                let events = self.held_back.take().map(|(events, _)| events).unwrap_or_default();
                if !events.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(events))));
                }
            }
            let Some(state) = self.state.as_mut() else { return Poll::Ready(None) };
            match Pin::new(&mut state.upstream).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.silence.end(self.settler.guard.clock());
                    let Ok(part) = frame.into_data() else { continue };
                    let events = state.sse.feed(part);
                    match self.work() {
                        Some(work) => self.held_back = Some((events, work)),
                        None if events.is_empty() => {}
                        None => return Poll::Ready(Some(Ok(Frame::data(events)))),
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    self.end();
                    return Poll::Ready(Some(Err(error.into())));
                }
                Poll::Ready(None) => {
                    let rest = state.sse.finish();
                    let work = self.work();
                    self.end();
                    let Some(work) = work else {
                        return Poll::Ready((!rest.is_empty()).then(|| Ok(Frame::data(rest))));
                    };
                    self.held_back = Some((rest, work));
                }
                Poll::Pending => {
                    std::task::ready!(self.silence.poll(self.settler.guard.clock(), cx));
                    self.end();
                    return Poll::Ready(Some(Err("upstream fell silent".into())));
                }
            }
        }
    }

    /// What is to be written before the events so far are passed on.
    fn work(&mut self) -> Option<Recorded> {
        let work = self.state.as_mut()?.work(&self.settler)?;
        Some(in_a_task(&self.policy.tracker, work))
    }

    fn end(&mut self) {
        self.state = None;
        if let Some(mut in_flight) = self.in_flight.take() {
            in_flight.ended("job");
        }
    }
}

impl State {
    /// What follows from the events so far: a job begins, or it ends, or both.
    fn work(&mut self, settler: &Settler) -> Option<Recorded> {
        let begun = self.begin();
        let ended = self.settle(settler);
        match (begun, ended) {
            (None, None) => None,
            (begun, ended) => Some(Box::pin(async move {
                for work in [begun, ended].into_iter().flatten() {
                    work.await;
                }
            })),
        }
    }

    fn begin(&mut self) -> Option<Recorded> {
        let Stage::Unnamed(_) = self.stage else { return None };
        let answer = self.sse.answer();
        let id = answer.object_id.clone()?;
        let Stage::Unnamed(unnamed) = std::mem::replace(&mut self.stage, Stage::Job(id)) else { return None };
        let Unnamed { beginning, reservation, exchange, recording } = *unnamed;
        Some(Box::pin(async move { beginning.follow(reservation, recording, &answer, exchange).await }))
    }

    fn settle(&mut self, settler: &Settler) -> Option<Recorded> {
        if !self.sse.is_accountable() {
            return None;
        }
        let Stage::Job(id) = std::mem::replace(&mut self.stage, Stage::Over) else { return None };
        let (answer, settler) = (self.sse.answer(), settler.clone());
        Some(Box::pin(async move { settler.saw_events(&id, answer).await }))
    }

    /// Reads on until the response has a name.
    async fn named(mut self, settler: Settler) {
        while let Some(Ok(frame)) = self.upstream.frame().await {
            let Ok(part) = frame.into_data() else { continue };
            let _ = self.sse.feed(part);
            if let Some(work) = self.work(&settler) {
                return work.await;
            }
        }
    }
}

impl Drop for BackgroundStream {
    fn drop(&mut self) {
        let unnamed = self.state.take().filter(|state| matches!(state.stage, Stage::Unnamed(_)));
        self.end();
        // Without a name it can't be followed; at the time limit its hold is charged.
        let (Some(state), Some(most)) = (unnamed, self.policy.drain) else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let named = state.named(self.settler.clone());
            let within = async move {
                let _ = tokio::time::timeout(most, named).await;
            };
            self.policy.tracker.spawn_on(within, &runtime);
        }
    }
}

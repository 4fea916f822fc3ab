//! An event stream of a response that is made in the background.
//!
//! The stream that begins one leaves its hold to a job as soon as upstream has named the
//! response, and is then what any other stream of it is: a client that leaves it changes nothing.
//! Its end settles the job before the client has it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;

use crate::domain::Money;
use crate::guard::Reservation;
use crate::protocol::openai::sse;
use crate::proxy::background::{Beginning, Settler, in_a_task};
use crate::proxy::bill::Exchange;
use crate::proxy::body::AnswerError;
use crate::proxy::in_flight::InFlight;
use crate::proxy::record::Recording;
use crate::proxy::tap::{Silence, StreamPolicy, joined};
use crate::upstream::AnswerBody;

/// A stream of a background response on its way through.
pub struct BackgroundStream {
    state: Option<State>,
    settler: Settler,
    policy: StreamPolicy,
    silence: Silence,
    /// Events that are held back until what they say is written.
    held_back: Option<(Bytes, Option<Work>)>,
    /// What ended the stream before its end.
    error: Option<AnswerError>,
    /// Of the request that has begun it.
    in_flight: Option<InFlight>,
}

impl std::fmt::Debug for BackgroundStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackgroundStream").finish_non_exhaustive()
    }
}

/// Writes what events say; ends with the cost, if they have settled a job.
type Work = Pin<Box<dyn Future<Output = Option<Money>> + Send>>;

/// A stream while it lasts.
struct State {
    upstream: AnswerBody,
    sse: sse::Tap,
    stage: Stage,
    /// Whether upstream has ended it.
    has_ended: bool,
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
        let stage = Stage::Unnamed(Box::new(unnamed));
        let state = State { upstream, sse, stage, has_ended: false };
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
        let state = State { upstream, sse, stage: Stage::Job(id), has_ended: false };
        Self::of(state, settler, None, policy)
    }

    fn of(state: State, settler: Settler, in_flight: Option<InFlight>, policy: StreamPolicy) -> Self {
        let silence = Silence::of(policy.idle, settler.guard.clock());
        Self { state: Some(state), settler, policy, silence, held_back: None, error: None, in_flight }
    }

    /// The next frame for the client.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        loop {
            if let Some(events) = std::task::ready!(self.poll_held_back(cx)) {
                return Poll::Ready(Some(Ok(events)));
            }
            let Some(state) = self.state.as_mut() else { return Poll::Ready(self.error.take().map(Err)) };
            match Pin::new(&mut state.upstream).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.silence.end(self.settler.guard.clock());
                    let Ok(part) = frame.into_data() else { continue };
                    let events = state.sse.feed(part);
                    self.held_back = Some((events, self.work()));
                }
                Poll::Ready(Some(Err(error))) => self.fail(error),
                Poll::Ready(None) => {
                    state.has_ended = true;
                    let rest = state.sse.finish();
                    self.held_back = Some((rest, self.work()));
                }
                Poll::Pending => {
                    std::task::ready!(self.silence.poll(self.settler.guard.clock(), cx));
                    self.fail("upstream fell silent".into());
                }
            }
        }
    }

    /// The events that were held back, once what they say is written.
    fn poll_held_back(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        let Some((_, work)) = &mut self.held_back else { return Poll::Ready(None) };
        let cost = match work {
            Some(work) => std::task::ready!(work.as_mut().poll(cx)),
            None => None,
        };
        let mut events = self.held_back.take().map(|(events, _)| events).unwrap_or_default();
        if let Some(state) = self.state.as_mut().filter(|state| state.has_ended || state.sse.is_accountable())
        {
            events = joined(events, state.sse.release(cost));
            if state.has_ended {
                self.end();
            }
        }
        Poll::Ready(Some(events).filter(|events| !events.is_empty()).map(Frame::data))
    }

    /// Ends the stream with an error, behind what was held back.
    fn fail(&mut self, error: AnswerError) {
        let rest = self.state.as_mut().map(|state| state.sse.release(None)).unwrap_or_default();
        self.held_back = Some((rest, None));
        self.error = Some(error);
        self.end();
    }

    /// What is to be written before the events so far are passed on.
    fn work(&mut self) -> Option<Work> {
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
    fn work(&mut self, settler: &Settler) -> Option<Work> {
        let works = [self.begin(), self.settle(settler)];
        works.iter().any(Option::is_some).then(|| -> Work {
            Box::pin(async move {
                let mut cost = None;
                for work in works.into_iter().flatten() {
                    cost = work.await;
                }
                cost
            })
        })
    }

    fn begin(&mut self) -> Option<Work> {
        let Stage::Unnamed(_) = self.stage else { return None };
        let answer = self.sse.answer();
        let id = answer.object_id.clone()?;
        let Stage::Unnamed(unnamed) = std::mem::replace(&mut self.stage, Stage::Job(id)) else { return None };
        let Unnamed { beginning, reservation, exchange, recording } = *unnamed;
        Some(Box::pin(async move {
            beginning.follow(reservation, recording, &answer, exchange).await;
            None
        }))
    }

    fn settle(&mut self, settler: &Settler) -> Option<Work> {
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
                work.await;
                return;
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

//! Responses that are read or cancelled: one that is made in the background may show its end.

use std::sync::Arc;

use http::{Response, header};

use crate::proxy::answer::Answer;
use crate::proxy::auth::Caller;
use crate::proxy::background::{BackgroundStream, Settler};
use crate::proxy::body::{self, ANSWER_BYTES_MAX, Bounds};
use crate::proxy::headers;
use crate::proxy::refuse::{Billed, NoAnswer, Refusal};
use crate::proxy::tap::StreamPolicy;
use crate::proxy::{Proxy, Rules};
use crate::upstream::AnswerBody;

impl Proxy {
    /// Settles the job of a response that has ended, before it can't be asked for any more.
    pub(super) async fn see_before_deletion(&self, rules: &Rules, caller: &Caller, id: &str) {
        let settler = Settler::new(&self.guard, rules);
        if let Some(job) = settler.find(id).await {
            settler.ask(self.upstream(rules), &caller.authorization, &job).await;
        }
    }

    /// Passes on a response that upstream shows. If it is a job and has ended, that is settled
    /// before the client has the end of the answer; `wants_cost` if a stream gets its cost.
    pub(super) async fn show_response(
        &self,
        rules: &Rules,
        (id, wants_cost): (String, bool),
        answer: Response<AnswerBody>,
        caller: &Caller,
    ) -> Result<Response<Answer>, Refusal> {
        let settler = Settler::new(&self.guard, rules);
        let job = settler.find(&id).await.filter(|_| !headers::is_encoded(answer.headers()));
        let Some(job) = job else { return Ok(answer.map(Answer::Plain)) };
        let (mut head, body) = answer.into_parts();
        if headers::has_type(&head.headers, b"text/event-stream") {
            let policy =
                StreamPolicy { drain: rules.drain, idle: rules.answer_idle, tracker: self.tracker.clone() };
            let Some(mut sse) = Settler::tap(&job) else {
                return Ok(Response::from_parts(head, Answer::Plain(body)));
            };
            if wants_cost {
                head.headers.remove(header::CONTENT_LENGTH);
                sse.hold_last_usage();
            }
            let stream = BackgroundStream::of_job(body, sse, id, settler, policy);
            return Ok(Response::from_parts(head, Answer::Background(Box::new(stream))));
        }
        let bounds = Bounds::paid_answer(ANSWER_BYTES_MAX, rules.answer_idle, Arc::clone(&caller.key.id));
        let bytes = body::read(body, bounds).await.map_err(|error| {
            tracing::warn!(event = "unmetered_answer_failed", ?error, "an answer was cut off");
            Refusal::Upstream(NoAnswer::Unreachable(Billed::No))
        })?;
        settler.saw(&job, &bytes).await;
        head.headers.remove(header::CONTENT_LENGTH);
        Ok(Response::from_parts(head, Answer::whole(bytes)))
    }
}

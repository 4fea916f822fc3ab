//! Uploads: files pass to upstream as they arrive, and are never whole in memory.
//!
//! The file of a batch is scanned as it passes, and what its lines cost at most is kept with it.
//! Objects that a form names are checked before its end is sent: upstream serves no half of a form.

mod form;

use std::pin::{Pin, pin};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Response, request};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::{sleep, timeout};

use crate::domain::ObjectReference;
use crate::guard::{Ending, Guard};
use crate::protocol::openai::endpoint::Upload;
use crate::protocol::openai::request::FormIds;
use crate::proxy::answer::Answer;
use crate::proxy::auth::Caller;
use crate::proxy::batches::{Depth, Pricing, Scan, ScannedLines};
use crate::proxy::body::{self, Pace, UPLOAD_BYTES_MAX};
use crate::proxy::in_flight::InFlight;
use crate::proxy::lists::ListRequest;
use crate::proxy::outgoing::Outgoing;
use crate::proxy::prepare::{form_boundary, refuse_invalid};
use crate::proxy::receive::{allowance, unread};
use crate::proxy::refuse::{Billed, Named, NoAnswer, Refusal};
use crate::proxy::unpack::Coding;
use crate::proxy::{Content, Failed, Proxy, Rules, outgoing};
use crate::upstream::{AnswerBody, Passing, SendError, Source};

use self::form::FileForm;

/// A part of a body that is read at once: others of the thread have their turn after it.
const CHUNK_BYTES: usize = 64 << 10;
const COMPRESSED: &str = "A file that is uploaded can't have a Content-Encoding. Send it as it is.";
const NO_FORM: &str = "This endpoint takes a form: send it as multipart/form-data.";

/// The answer to a request whose body passes meanwhile.
type Answering = Pin<Box<dyn Future<Output = Result<Response<AnswerBody>, SendError>> + Send>>;

/// Whether a request of such a path is passed on as it arrives. Only forms are, where it takes JSON as well.
pub(super) fn is_streamed(upload: Upload, headers: &HeaderMap) -> bool {
    upload != Upload::ContainerFile || !matches!(form_boundary(headers), Ok(None))
}

/// What is read of a form as it passes.
enum PassingForm {
    /// A file, which may have the lines of a batch.
    File(Box<FileForm>),
    /// The objects that it names.
    Names(Box<FormIds>),
    /// Nothing.
    Unread,
}

impl PassingForm {
    /// Takes the next bytes; returns the objects that they name.
    async fn feed(&mut self, guard: &Guard, bytes: &[u8]) -> Result<Vec<ObjectReference>, Refusal> {
        match self {
            Self::File(form) => form.feed(guard, bytes).await.map(|()| Vec::new()),
            Self::Names(form) => form.feed(bytes).map_err(refuse_invalid),
            Self::Unread => Ok(Vec::new()),
        }
    }

    /// Notes that the body has ended.
    fn end(&self) -> Result<(), Refusal> {
        match self {
            Self::File(form) => form.end(),
            Self::Names(form) => form.finish().map_err(refuse_invalid),
            Self::Unread => Ok(()),
        }
    }
}

impl Proxy {
    /// Passes an upload on to upstream. It counts as a request, and costs at most the fee for keeping a
    /// container alive. A client that leaves once upstream has all of it changes nothing.
    pub(super) async fn upload(
        self: &Arc<Self>,
        rules: &Arc<Rules>,
        upload: Upload,
        (head, mut incoming): (request::Parts, Incoming),
        caller: Caller,
        mut in_flight: InFlight,
    ) -> Result<Response<Answer>, Failed> {
        let held = async {
            let form = self.form_of(rules, upload, (&head, &incoming), &caller)?;
            let held = self.hold_free(rules, (&head, &Bytes::new()), &caller, in_flight.endpoint).await?;
            Ok((held, form))
        };
        let (mut held, mut form) = match held.await {
            Ok(held) => held,
            Err(refusal) => {
                body::discard_unless_awaited(&head.headers, incoming).await;
                return Err((refusal, in_flight));
            }
        };
        in_flight.admitted(held.reservation.hold());
        let outgoing = outgoing(rules, head, Bytes::new(), &caller, Content::AsItCame, &in_flight);
        let list = ListRequest::of(&outgoing);
        let (source, mut answer) = self.sending(rules, outgoing, incoming.size_hint().exact());
        // Upstream serves no half of a form: until it has the whole, nothing was sent.
        let passed = tokio::select! {
            biased;
            passed = self.pump(rules, (&mut incoming, &mut form), source, &caller) => passed.map(|()| None),
            // Upstream has seen enough, or the connection is gone.
            early = answer.as_mut() => Ok(Some(early)),
        };
        let early = match passed {
            Ok(early) => early,
            Err(refusal) => {
                drop(answer);
                in_flight.settled(&held.reservation.release(Ending::default()));
                body::discard(incoming).await;
                return Err((refusal, in_flight));
            }
        };
        if let PassingForm::File(form) = form {
            held.errand.scanned = form.finish();
        }
        let (shard, rules_then, pass_through) =
            (Arc::clone(self), Arc::clone(rules), caller.key.pass_through);
        let concluded = self.to_its_end(Box::pin(async move {
            let upstream = shard.upstream(&rules_then);
            let sending = async {
                if let Some(early) = early {
                    return early;
                }
                let answer = timeout(upstream.response_timeout(), answer).await;
                answer.unwrap_or_else(|_| Err(upstream.timed_out(true)))
            };
            shard.run_errand(&rules_then, sending, held, (&caller, &list), in_flight).await
        }));
        let answer = concluded.await;
        // A client that upstream has answered early still sends.
        body::discard(incoming).await;
        self.concealed(rules, Ok(answer?), pass_through).await
    }

    /// Begins to send a request whose body is brought part by part.
    fn sending(
        &self,
        rules: &Rules,
        Outgoing { method, suffix, headers, .. }: Outgoing,
        length: Option<u64>,
    ) -> (Source, Answering) {
        let (source, body) = Passing::new(length);
        let upstream = Arc::clone(self.upstream(rules));
        let answer = async move { upstream.send_passing(method, &suffix, headers, body).await };
        (source, Box::pin(answer))
    }

    /// The reader of a form that is an upload's.
    fn form_of(
        &self,
        rules: &Rules,
        upload: Upload,
        (head, incoming): (&request::Parts, &Incoming),
        caller: &Caller,
    ) -> Result<PassingForm, Refusal> {
        if Coding::of(&head.headers)?.is_some() {
            return Err(Refusal::Invalid(COMPRESSED.to_owned(), None));
        }
        if incoming.size_hint().lower() > UPLOAD_BYTES_MAX {
            return Err(too_large());
        }
        let no_form = || Refusal::Invalid(NO_FORM.to_owned(), None);
        let boundary = form_boundary(&head.headers)?.ok_or_else(no_form)?;
        Ok(match upload {
            Upload::File => {
                let scan = Scan::new(Pricing::of(rules, self.guard.clock().now_s()));
                let lines =
                    ScannedLines::new(scan, Depth::Bytes, rules.request_body_bytes_max, allowance(caller));
                PassingForm::File(Box::new(FileForm::new(&boundary, lines)))
            }
            Upload::ContainerFile => PassingForm::Names(Box::new(FormIds::new(&boundary))),
            Upload::Part => PassingForm::Unread,
        })
    }

    /// Reads a client's body, and brings it to upstream part by part.
    async fn pump(
        &self,
        rules: &Rules,
        (incoming, form): (&mut Incoming, &mut PassingForm),
        source: Source,
        caller: &Caller,
    ) -> Result<(), Refusal> {
        let reach = Self::reach(rules, caller);
        let mut time = pin!(sleep(rules.request_idle));
        let mut pace = Pace::of_request(rules.request_idle);
        let mut read: u64 = 0;
        while let Some(part) =
            pace.next_part(incoming, time.as_mut()).await.map_err(|error| unread(&error, too_large()))?
        {
            read = read.saturating_add(u64::try_from(part.len()).unwrap_or(u64::MAX));
            if read > UPLOAD_BYTES_MAX {
                return Err(too_large());
            }
            for chunk in part.chunks(CHUNK_BYTES) {
                let named = form.feed(&self.guard, chunk).await?;
                self.check_named(&named, Named::InBody, &reach).await?;
                if part.len() > CHUNK_BYTES {
                    tokio::task::yield_now().await;
                }
            }
            match timeout(rules.answer_idle, source.send(part)).await {
                Ok(Ok(())) => {}
                // Upstream's answer, or the failure of its connection, says why.
                Ok(Err(_closed)) => return Ok(()),
                Err(_) => return Err(Refusal::Upstream(NoAnswer::TimedOut(Billed::No))),
            }
        }
        form.end()?;
        // If upstream takes no more, its answer says why.
        let _ = source.end().await;
        Ok(())
    }
}

fn too_large() -> Refusal {
    Refusal::FileTooLarge(UPLOAD_BYTES_MAX)
}

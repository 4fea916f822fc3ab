//! Counts a request's input exactly, if its bytes would hold too much.
//!
//! Text is counted here where the model's vocabulary is published, PDFs by their
//! pages and text. Input that only upstream knows (its own vocabulary, stored
//! context, an image behind a URL) is counted by `POST /responses/input_tokens`,
//! which is free. A count that fails leaves the bound as it was: the request is
//! then admitted by its bytes or not at all.

mod question;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use serde::Deserialize;

use self::question::Question;
use crate::domain::demand::{Document, DocumentKind};
use crate::domain::{Demand, Money};
use crate::guard::Guard;
use crate::media::{self, PdfProblem};
use crate::pricing::bound::{self, BoundInputs};
use crate::pricing::count::{self, Encoding};
use crate::pricing::sheet::Price;
use crate::protocol::openai::operation::{InputCount, Operation};
use crate::proxy::body::{self, Bounds};
use crate::upstream::Upstream;

/// Bodies up to this size are counted where they are. A larger one is handed to
/// another thread, so that others on this one need not wait.
const COUNTED_HERE_BYTES_MAX: usize = 4 * 1024;
/// The longest wait for a long count to begin, and for upstream's count.
const COUNT_WAIT: Duration = Duration::from_secs(5);
/// The largest answer of upstream's count that is read.
const COUNT_ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Where a count is made, and for whom.
#[derive(Clone, Copy, Debug)]
pub struct Counter<'a> {
    /// The guard, whose threads make long counts.
    pub guard: &'a Guard,
    /// The way to upstream.
    pub upstream: &'a Upstream,
    /// The authorization that upstream gets.
    pub authorization: &'a HeaderValue,
}

/// A request whose input is to be counted.
#[derive(Clone, Copy, Debug)]
pub struct Countable<'a> {
    /// Its operation.
    pub operation: &'static Operation,
    /// Its demand.
    pub demand: &'a Demand,
    /// The body as received.
    pub body: &'a Bytes,
    /// The price that bounds it.
    pub price: &'a Price,
    /// The tokenizer of its model, if it is published.
    pub encoding: Option<Encoding>,
}

impl Counter<'_> {
    /// Counts what can be counted and is not known yet, as far as `room` could pay for it.
    pub async fn count(&self, of: Countable<'_>, room: Option<Money>, inputs: &mut BoundInputs) {
        if of.operation.count == InputCount::None {
            return;
        }
        if !of.demand.media.documents.is_empty() && inputs.document_tokens.is_none() {
            inputs.document_tokens = documents(self.guard, of).await;
        }
        let limit = limit(of, room, *inputs);
        if let Some(encoding) = of.encoding.filter(|_| inputs.text_tokens.is_none()) {
            inputs.text_tokens = text(self.guard, of, encoding, limit).await;
        }
        if of.demand.stored_prompt {
            // Content that a stored prompt fills in is not counted with the body.
            return;
        }
        // The known size of stored context is a maximum.
        let unseen = bound::reads_unseen(of.price, of.demand, *inputs)
            || inputs.context_tokens.is_some_and(|context| context > 0);
        let body = match of.operation.count {
            InputCount::Body => {
                let is_open = inputs.prompt_tokens.is_none() && (unseen || of.encoding.is_none());
                if is_open { self.guard.parsed(of.body, question::whole).await } else { None }
            }
            InputCount::Messages if unseen && inputs.prompt_tokens.is_none() => {
                self.chat(of, inputs.text_tokens, limit).await
            }
            InputCount::Messages | InputCount::Strings | InputCount::None => {
                let is_open = inputs.text_tokens.is_none() && of.encoding.is_none();
                if is_open { self.strings(of, limit).await } else { None }
            }
        };
        let Some(Question { body, besides, is_whole }) = body else { return };
        let Some(tokens) = self.ask(body).await else { return };
        let counted = Some(tokens.saturating_add(besides));
        if is_whole {
            inputs.prompt_tokens = counted;
        } else {
            inputs.text_tokens = counted;
        }
    }

    async fn strings(&self, of: Countable<'_>, limit: u64) -> Option<Question> {
        let (model, media) = (of.demand.model.clone(), of.demand.media.inline.clone());
        self.guard.parsed(of.body, move |body| question::strings(body, &model, &media, limit)).await
    }

    /// The pictures and files of a chat, and its text where that is not counted yet.
    async fn chat(&self, of: Countable<'_>, text: Option<u64>, limit: u64) -> Option<Question> {
        let (model, media) = (of.demand.model.clone(), of.demand.media.clone());
        let audio = bound::audio_tokens(of.demand);
        let build = move |body: &Bytes| question::chat(body, &model, &media, text, limit);
        let question = self.guard.parsed(of.body, build).await?;
        Some(Question { besides: question.besides.saturating_add(audio), ..question })
    }

    /// Upstream's count of a request; `None` if it gives none.
    async fn ask(&self, body: Bytes) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, self.authorization.clone());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let counted = async {
            let answer =
                self.upstream.send(Method::POST, "/responses/input_tokens", headers, body).await.ok()?;
            if !answer.status().is_success() {
                tracing::debug!(
                    event = "upstream_count_failed",
                    status = answer.status().as_u16(),
                    "upstream did not count the input"
                );
                return None;
            }
            let bounds = Bounds::answer(COUNT_ANSWER_BYTES_MAX, COUNT_WAIT);
            let bytes = body::read(answer.into_body(), bounds).await.ok()?;
            serde_json::from_slice::<Counted>(&bytes).ok().map(|counted| counted.input_tokens)
        };
        tokio::time::timeout(COUNT_WAIT, counted).await.ok().flatten()
    }
}

/// Upstream's answer.
#[derive(Deserialize)]
struct Counted {
    input_tokens: u64,
}

/// The most tokens that are worth counting: more are not affordable, or more
/// than the model reads.
fn limit(of: Countable<'_>, room: Option<Money>, inputs: BoundInputs) -> u64 {
    let affordable = room.map(|room| bound::affordable_input(of.price, of.demand, inputs, room));
    // One more shows that it is too much.
    affordable.unwrap_or(u64::MAX).min(bound::window(of.price)).saturating_add(1)
}

/// The text's tokens, counted here.
async fn text(guard: &Guard, of: Countable<'_>, encoding: Encoding, limit: u64) -> Option<u64> {
    let (body, media) = (of.body.clone(), of.demand.media.inline.clone());
    let counted = move || {
        let text = std::str::from_utf8(&body).ok()?;
        count::body_upper(encoding, text, &media, limit)
    };
    if of.body.len() <= COUNTED_HERE_BYTES_MAX && count::is_loaded(encoding) {
        return counted();
    }
    beside(guard, of.body.len(), counted).await
}

/// The documents' tokens, by their pages and the text that they can hold; `None` if
/// one of them can't be measured.
async fn documents(guard: &Guard, of: Countable<'_>) -> Option<u64> {
    let (body, documents) = (of.body.clone(), of.demand.media.documents.clone());
    let page_tokens = bound::page_tokens(of.price);
    let counted = move || {
        let text = std::str::from_utf8(&body).ok()?;
        let tokens = |document| document_tokens(text, document, page_tokens);
        documents.iter().try_fold(0_u64, |sum, document| Some(sum.saturating_add(tokens(document)?)))
    };
    beside(guard, of.body.len(), counted).await
}

/// The most tokens of a document; `None` if it can't be measured.
fn document_tokens(body: &str, document: &Document, page_tokens: u64) -> Option<u64> {
    let data = body.get(document.span.clone())?;
    let by_pages = || {
        media::pdf(data).map(|facts| {
            u64::from(facts.pages).saturating_mul(page_tokens).saturating_add(facts.text_bytes_max)
        })
    };
    match document.kind {
        DocumentKind::Pdf => by_pages().ok(),
        DocumentKind::Text => {
            // Three quarters of base64 are bytes. One byte of another encoding, or one that
            // is none, is at most three of UTF-8.
            let bytes = u64::try_from(data.len()).unwrap_or(u64::MAX);
            let text = bytes.saturating_mul(9).div_ceil(4);
            match by_pages() {
                Ok(pages) => Some(text.max(pages)),
                Err(PdfProblem::NotPdf) => Some(text),
                Err(_) => None,
            }
        }
        DocumentKind::Other => None,
    }
}

/// Runs a long count on another thread; `None` if it is not done in time.
async fn beside<F>(guard: &Guard, bytes: usize, count: F) -> Option<u64>
where
    F: FnOnce() -> Option<u64> + Send + 'static,
{
    tokio::time::timeout(COUNT_WAIT, guard.offload(bytes, count)).await.ok().flatten()
}

//! Counting a request's input exactly, when its bytes would hold too much.
//!
//! Text is counted here where the model's vocabulary is published, PDFs by their
//! pages and text. What only upstream can see (its own vocabulary, stored context,
//! an image behind a URL) is counted by `POST /responses/input_tokens`, which is
//! free. A count that fails leaves the bound as it was: the request is then
//! admitted by its bytes or not at all.

use std::fmt::Write as _;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::domain::{Demand, Money};
use crate::guard::Guard;
use crate::media;
use crate::openai::endpoint::Metered;
use crate::pricing::bound::{self, BoundInputs};
use crate::pricing::count::{self, Encoding, Part};
use crate::pricing::sheet::Price;
use crate::proxy::body::{self, Bounds};
use crate::upstream::Upstream;

/// Bodies up to this size are counted where they are. A larger one is handed to
/// another thread, so that others on this one need not wait.
const COUNTED_HERE_BYTES_MAX: usize = 4 * 1024;
/// The longest wait for a long count to begin, and for upstream's count.
const COUNT_WAIT: Duration = Duration::from_secs(5);
/// The largest answer of upstream's count that is read.
const COUNT_ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Strings shorter than this are counted by their bytes, and not sent.
const SENT_STRING_BYTES_MIN: usize = 64;
/// The fields of a request that its count depends on, as
/// `POST /responses/input_tokens` takes them.
const COUNTED_FIELDS: [&str; 11] = [
    "model",
    "input",
    "instructions",
    "tools",
    "tool_choice",
    "text",
    "reasoning",
    "truncation",
    "previous_response_id",
    "conversation",
    "parallel_tool_calls",
];

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
    /// Its endpoint.
    pub endpoint: Metered,
    /// What it asks for.
    pub demand: &'a Demand,
    /// The body as it came.
    pub body: &'a Bytes,
    /// The price that bounds it.
    pub price: &'a Price,
    /// The tokenizer of its model, if it is published.
    pub encoding: Option<Encoding>,
}

impl Counter<'_> {
    /// Counts what can be counted and is not known yet, as far as `room` could pay for it.
    pub async fn count(&self, of: Countable<'_>, room: Option<Money>, inputs: &mut BoundInputs) {
        if !of.demand.media.documents.is_empty() && inputs.document_tokens.is_none() {
            inputs.document_tokens = documents(self.guard, of).await;
        }
        let limit = limit(of, room, *inputs);
        if let Some(encoding) = of.encoding.filter(|_| inputs.text_tokens.is_none()) {
            inputs.text_tokens = text(self.guard, of, encoding, limit).await;
        }
        if of.demand.stored_prompt {
            // What it fills in is not counted with the body.
            return;
        }
        // What is known of stored context is the most that it may be.
        let unseen = bound::reads_unseen(of.price, of.demand, *inputs)
            || inputs.context_tokens.is_some_and(|context| context > 0);
        let body = match of.endpoint {
            Metered::Responses | Metered::Compact => {
                let is_open = inputs.prompt_tokens.is_none() && (unseen || of.encoding.is_none());
                if is_open { self.guard.parsed(of.body, whole).await } else { None }
            }
            Metered::Chat | Metered::Completions | Metered::Embeddings => {
                let is_open = inputs.text_tokens.is_none() && of.encoding.is_none();
                if is_open { self.strings(of, limit).await } else { None }
            }
        };
        let Some(Question { body, besides }) = body else { return };
        let Some(tokens) = self.ask(body).await else { return };
        let counted = Some(tokens.saturating_add(besides));
        match of.endpoint {
            Metered::Responses | Metered::Compact => inputs.prompt_tokens = counted,
            Metered::Chat | Metered::Completions | Metered::Embeddings => inputs.text_tokens = counted,
        }
    }

    async fn strings(&self, of: Countable<'_>, limit: u64) -> Option<Question> {
        let (model, media) = (of.demand.model.clone(), of.demand.media.inline.clone());
        self.guard.parsed(of.body, move |body| strings(body, &model, &media, limit)).await
    }

    /// Upstream's count of a request; `None` if it gives none.
    async fn ask(&self, body: Bytes) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, self.authorization.clone());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let asked = async {
            let answer =
                self.upstream.send(Method::POST, "/responses/input_tokens", headers, body).await.ok()?;
            if !answer.status().is_success() {
                tracing::debug!(status = answer.status().as_u16(), "upstream did not count the input");
                return None;
            }
            let bounds = Bounds::answer(COUNT_ANSWER_BYTES_MAX, COUNT_WAIT);
            let bytes = body::read(answer.into_body(), bounds).await.ok()?;
            serde_json::from_slice::<Counted>(&bytes).ok().map(|counted| counted.input_tokens)
        };
        tokio::time::timeout(COUNT_WAIT, asked).await.ok().flatten()
    }
}

/// Upstream's answer.
#[derive(Deserialize)]
struct Counted {
    input_tokens: u64,
}

/// What upstream is asked to count, and tokens that come on top.
struct Question {
    body: Bytes,
    besides: u64,
}

/// The most tokens that are worth counting: more are not affordable, or more
/// than the model reads.
fn limit(of: Countable<'_>, room: Option<Money>, inputs: BoundInputs) -> u64 {
    let affordable = room.map(|room| bound::affordable_input(of.price, of.demand, inputs, room));
    // One more than that tells that it is too much.
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
    let (body, spans) = (of.body.clone(), of.demand.media.documents.clone());
    let page_tokens = bound::page_tokens(of.price);
    let counted = move || {
        let text = std::str::from_utf8(&body).ok()?;
        spans.iter().try_fold(0_u64, |sum, span| {
            let facts = media::pdf(text.get(span.clone())?).ok()?;
            let pages = u64::from(facts.pages).saturating_mul(page_tokens);
            Some(sum.saturating_add(pages).saturating_add(facts.text_bytes_max))
        })
    };
    beside(guard, of.body.len(), counted).await
}

/// Runs a long count on another thread; `None` if it is not done in time.
async fn beside<F>(guard: &Guard, bytes: usize, count: F) -> Option<u64>
where
    F: FnOnce() -> Option<u64> + Send + 'static,
{
    tokio::time::timeout(COUNT_WAIT, guard.aside(bytes, count)).await.ok().flatten()
}

/// The fields of a request to `/responses` that its count depends on.
fn whole(body: &Bytes) -> Option<Question> {
    let fields: std::collections::BTreeMap<&str, &RawValue> = serde_json::from_slice(body).ok()?;
    let mut out = String::from("{");
    for name in COUNTED_FIELDS {
        let Some(value) = fields.get(name) else { continue };
        let comma = if out.len() > 1 { "," } else { "" };
        write!(out, "{comma}\"{name}\":{}", value.get()).ok()?;
    }
    out.push('}');
    Some(Question { body: out.into(), besides: 0 })
}

/// Every longer string of a request to another endpoint as a message of its own;
/// the rest counts by its bytes.
fn strings(body: &Bytes, model: &str, media: &[Range<usize>], limit: u64) -> Option<Question> {
    let text = std::str::from_utf8(body).ok()?;
    let model = serde_json::to_string(model).ok()?;
    let (mut out, mut besides) = (format!("{{\"model\":{model},\"input\":["), 0_u64);
    let empty = out.len();
    for part in count::parts(text, media) {
        match part {
            Part::String(string) if string.len() >= SENT_STRING_BYTES_MIN => {
                let comma = if out.len() > empty { "," } else { "" };
                write!(out, "{comma}{{\"role\":\"user\",\"content\":{string}}}").ok()?;
            }
            Part::String(string) => besides = besides.saturating_add(u64::try_from(string.len()).ok()?),
            Part::Structure(bytes) => besides = besides.saturating_add(bytes),
        }
    }
    out.push_str("]}");
    (besides <= limit && out.len() > empty + 2).then(|| Question { body: out.into(), besides })
}

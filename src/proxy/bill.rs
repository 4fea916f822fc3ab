//! From an answer to what it costs: basis, tokens, price, ending.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;

use crate::domain::demand::{Bound, Tier, ToolDemand, WebSearch};
use crate::domain::{Money, Tokens, Usage};
use crate::guard::{Ending, Reservation, Settled};
use crate::ledger::entry::Basis;
use crate::openai::endpoint::Metered;
use crate::openai::usage::Answer;
use crate::pricing::cost;
use crate::pricing::count::{self, Encoding};
use crate::pricing::sheet::{Price, Sheet};

/// Bodies up to this size are kept until the end, to count their input exactly
/// if upstream reports no usage; a larger one is charged by its bytes.
const KEPT_BODY_BYTES_MAX: usize = 256 * 1024;
/// The size of hyper's read buffers.
const SHARED_BODY_BYTES_MAX: usize = 8 * 1024;

/// All that decides the cost of one request, pinned at its admission.
#[derive(Debug)]
pub struct Bill {
    /// The endpoint; free ones are not billed at all.
    pub endpoint: Metered,
    /// The sheet in force at admission.
    pub sheet: Arc<Sheet>,
    /// The price of the model asked for; `None` if it has none.
    pub price: Option<Arc<Price>>,
    /// The price of the image tool's model.
    pub image_price: Option<Arc<Price>>,
    /// The hosted tools asked for.
    pub tools: ToolDemand,
    /// The tier asked for.
    pub asked_tier: Option<Tier>,
    /// The tier that an answer was served at if it doesn't say.
    pub default_tier: Tier,
    /// The tokenizer of the model asked for, if it is published.
    pub encoding: Option<Encoding>,
    /// The request's body, if it is small.
    pub body: Option<Bytes>,
    /// Unix seconds of the admission.
    pub at_s: i64,
    /// Input tokens of the largest turn that the hold allows for.
    pub largest_prompt: u64,
    /// Whether upstream reads more than the body's text: earlier turns, files,
    /// images, what tools bring.
    pub reads_more: bool,
}

/// What is known of an exchange besides its usage.
#[derive(Clone, Debug, Default)]
pub struct Exchange {
    /// Upstream's status; 0 if there was no answer.
    pub status: u16,
    /// Upstream's request id.
    pub request_id: Option<String>,
    /// From admission to the first byte of the answer.
    pub ttft: Option<Duration>,
    /// Whether the client went away before the end.
    pub disconnected: bool,
}

impl Exchange {
    /// What a response's head tells.
    pub fn of(status: u16, headers: &HeaderMap) -> Self {
        let id = headers.get("x-request-id").and_then(|value| value.to_str().ok());
        Self { status, request_id: id.map(|id| id.chars().take(128).collect()), ..Self::default() }
    }

    /// An ending that costs nothing.
    pub fn ending(self) -> Ending {
        Ending {
            status: self.status,
            upstream_request_id: self.request_id,
            ttft: self.ttft,
            disconnected: self.disconnected,
            ..Ending::default()
        }
    }
}

/// Families whose output is all there is to see of their work.
const PLAIN_MODELS: [&str; 6] = ["gpt-3.5", "gpt-4", "chatgpt-4o", "davinci", "babbage", "text-"];

/// Whether a model may bill output that nobody sees.
fn may_reason(model: &str) -> bool {
    let base = model.strip_prefix("ft:").unwrap_or(model);
    !PLAIN_MODELS.iter().any(|family| base.starts_with(family))
}

/// The part of a body that a bill keeps.
pub fn kept(body: &Bytes) -> Option<Bytes> {
    if body.len() > KEPT_BODY_BYTES_MAX {
        return None;
    }
    // A small one shares the buffer that it was read into, which would stay
    // with it as long as a stream lasts.
    let shared = body.len() <= SHARED_BODY_BYTES_MAX;
    Some(if shared { Bytes::copy_from_slice(body) } else { body.clone() })
}

impl Bill {
    /// Settles by the usage that upstream reported; if it reported none, by
    /// what passed: the input counted, and the output as `count` says. What
    /// broke off may have been reasoned out of sight, so it is charged its hold.
    pub fn end(
        &self,
        reservation: Reservation,
        answer: &Answer,
        of: Exchange,
        is_whole: bool,
        count: impl FnOnce() -> u64,
    ) -> Settled {
        if let Some(usage) = answer.usage.clone() {
            return self.settle(reservation, Basis::Reported, usage, answer, of);
        }
        let hold = reservation.hold();
        if !is_whole && may_reason(&hold.attribution.model) {
            let tier = hold.tier;
            return reservation.assume(Ending { tier, note: Some("it broke off unreported"), ..of.ending() });
        }
        // What is counted includes the answer's form; the bound is what can be billed.
        let Bound { input_tokens, output_tokens, .. } = hold.bound;
        let counted = self.counted_input().filter(|_| !self.reads_more);
        let input = counted.map_or(input_tokens, |counted| counted.min(input_tokens));
        let tokens = Tokens { input, output: count().min(output_tokens), ..Tokens::default() };
        let usage = Usage { tokens, tools: answer.tools_seen.clone(), largest_prompt: None };
        self.settle(reservation, Basis::Counted, usage, answer, of)
    }

    /// Output tokens of a text, by the model's tokenizer or the newest known.
    pub fn count_output(&self, text: &str) -> u64 {
        count::text(self.encoding.unwrap_or(Encoding::O200k), text)
    }

    fn counted_input(&self) -> Option<u64> {
        let body = std::str::from_utf8(self.body.as_ref()?).ok()?;
        count::body_upper(self.encoding.unwrap_or(Encoding::O200k), body, &[], u64::MAX)
    }

    fn settle(
        &self,
        reservation: Reservation,
        basis: Basis,
        mut usage: Usage,
        answer: &Answer,
        of: Exchange,
    ) -> Settled {
        if self.tools.web_search == Some(WebSearch::Chat) {
            // Chat's usage has no count; a search model searches once a request.
            usage.tools.web_searches = usage.tools.web_searches.max(1);
        }
        let input = usage.tokens.input_total();
        if input <= reservation.hold().bound.input_tokens {
            // Within the hold, no turn was larger than the hold allows for.
            usage.largest_prompt = Some(self.largest_prompt.min(input));
        }
        let tier = self.served_tier(answer);
        let served = answer.model.as_deref().and_then(|model| self.sheet.find(model, self.at_s));
        let price = self.price.as_ref().map(|asked| served.as_ref().unwrap_or(asked));
        let cost =
            price.map(|price| cost::cost(price, tier, &usage, &self.tools, self.image_price.as_deref()));
        let (total, tool_fees) = cost.map_or((Money::ZERO, Money::ZERO), |cost| (cost.total, cost.tool_fees));
        let mut tokens = usage.tokens;
        tokens += usage.tools.image;
        reservation.settle(
            basis,
            Ending {
                cost: total,
                tool_fees,
                tokens,
                tier,
                served_model: answer.model.as_deref().map(Into::into),
                object_id: answer.object_id.clone(),
                ..of.ending()
            },
        )
    }

    /// The tier that decides the price: the one served, or if the answer does
    /// not say, the dearer of the one asked for and the usual one.
    fn served_tier(&self, answer: &Answer) -> Tier {
        answer
            .tier
            .unwrap_or_else(|| self.asked_tier.map_or(self.default_tier, |asked| asked.max(Tier::Standard)))
    }
}

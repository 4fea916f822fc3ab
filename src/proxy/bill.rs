//! Bills an answer: basis, tokens, price, ending.

mod exchange;
mod kept;

use std::sync::Arc;

use bytes::Bytes;

use crate::domain::demand::{Tier, ToolDemand, WebSearch};
use crate::domain::usage::{ContainerMemory, ToolUse};
use crate::domain::{Class, Money, Quantities, Usage};
use crate::guard::{Ending, Reservation, Settled};
use crate::ledger::entry::Basis;
use crate::pricing::bound::{ModelTokens, speech_tokens};
use crate::pricing::cost::{self, Cost, Offer};
use crate::pricing::count::{self, Encoding};
use crate::pricing::sheet::{Price, Sheet};
use crate::protocol::openai::operation::Operation;
use crate::protocol::openai::usage::{Answer, Outcome};

pub use self::exchange::Exchange;
pub use self::kept::{is_uncountable, kept};

/// A session of a container, in seconds.
const SESSION_S: i64 = 1_200;

/// All that decides the cost of one request, pinned at its admission.
#[derive(Debug)]
pub struct Bill {
    /// The operation.
    pub operation: &'static Operation,
    /// The sheet in force at admission.
    pub sheet: Arc<Sheet>,
    /// The price of the model asked for; `None` if it has none.
    pub price: Option<Arc<Price>>,
    /// The price of the model of the image tool, or of the one that writes SVG.
    pub image_price: Option<Arc<Price>>,
    /// The hosted tools asked for.
    pub tools: ToolDemand,
    /// Containers that one tool may start.
    pub sessions: u64,
    /// Sessions that a container may have lived through.
    pub sessions_each: u64,
    /// The memory of each container that the answer names and that was there before, or `None` for
    /// one whose time a job charges; not known until the index of objects has been asked.
    pub reused: Option<Vec<Option<ContainerMemory>>>,
    /// The tier asked for.
    pub requested_tier: Option<Tier>,
    /// The tier that an answer was served at if it doesn't say.
    pub default_tier: Tier,
    /// The tokenizer of the model asked for, if it is published.
    pub encoding: Option<Encoding>,
    /// The request's body, if it is small.
    pub body: Option<Bytes>,
    /// Unix seconds of the admission.
    pub at_s: i64,
    /// The most tokens of the model that the hold allows for.
    pub model_tokens: ModelTokens,
    /// Whether upstream reads more than the body's text: earlier turns, files,
    /// images, what tools bring.
    pub reads_more: bool,
    /// Whether cache writes of the long life were asked for.
    pub cache_12h: bool,
    /// Pictures of the request, which the image tool may read.
    pub pictures: u64,
    /// Whether it may be billed for tokens that its text does not show; see [`is_uncountable`].
    pub is_uncountable: bool,
    /// Whether a second model writes what is made as SVG, and is billed for it.
    pub writes_svg: bool,
    /// What is made or read at most, other than tokens.
    pub units: Quantities,
    /// Whether sound is asked for as plain samples.
    pub spoken_plain: bool,
    /// Tokens of the recording that the input has.
    pub heard: u64,
}

/// How an answer is charged.
enum Judged {
    /// By what it used.
    Settle(Basis, Quantities),
    /// Not at all: it failed before any output.
    Release,
    /// As much as its request was held for.
    Assume,
}

/// The price of an answer.
struct Priced {
    cost: Cost,
    tier: Tier,
    /// Whether it made no picture, though its image tool may have been held for.
    made_no_picture: bool,
}

/// It can't be known what an answer costs, only the most that it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unknown;

impl Bill {
    /// Ends the hold of an exchange by how its answer ended.
    ///
    /// Usage that upstream reported is charged, whatever the ending. Without it:
    /// an error before any output costs nothing; an answer that did not end well,
    /// of a model that may have reasoned out of sight, is charged the hold, and so is
    /// one whose tokens can't be counted; anything else is counted, the input and, by `count`,
    /// the output.
    pub fn end(
        &self,
        reservation: Reservation,
        answer: &Answer,
        of: Exchange,
        count: impl FnOnce() -> u64,
    ) -> Settled {
        match self.judge(answer, reservation.hold().stream, count) {
            Judged::Settle(basis, tokens) => self.settle(reservation, basis, tokens, answer, of),
            Judged::Release => {
                let note = Some("it failed before any output");
                reservation.release(Ending { note, ..ending(answer, of) })
            }
            Judged::Assume => self.assume(reservation, answer, of),
        }
    }

    fn judge(&self, answer: &Answer, is_stream: bool, count: impl FnOnce() -> u64) -> Judged {
        let is_partial = (self.writes_svg && answer.tools_seen == ToolUse::default())
            || (is_stream && answer.units[Class::Images] < self.units[Class::Images]);
        if let Some(tokens) = answer.usage.filter(|used| !is_partial && self.is_price_of(used, answer)) {
            return Judged::Settle(Basis::Reported, tokens);
        }
        if answer.failed_at_once() {
            return Judged::Release;
        }
        let ended_well = answer.outcome == Outcome::Completed;
        let is_hidden = self.is_uncountable || (!ended_well && self.may_reason(answer));
        if (ended_well || !is_hidden) && self.is_billed_by_units(answer) {
            return Judged::Settle(Basis::Counted, Quantities::default());
        }
        if answer.is_partly_unread || is_hidden {
            return Judged::Assume;
        }
        // The count includes the answer's JSON; the bound is the most that can be billed.
        let most = self.model_tokens;
        let counted = self.counted_input().filter(|_| !self.reads_more);
        let input = counted.map_or(most.input, |counted| counted.min(most.input));
        let output = count().min(most.output());
        let heard = self.heard.min(input);
        let counted = Quantities::from([
            (Class::Input, input - heard),
            (Class::AudioInput, heard),
            (Class::Output, output),
        ]);
        let tokens = answer.used_so_far.map_or(counted, |used| counted.or_larger(&used));
        Judged::Settle(Basis::Counted, tokens)
    }

    /// What the answer to a line of a batch costs, and how that is known; `None` if it costs
    /// nothing, and an error if only the most that it may cost is known.
    pub(super) fn of_line(
        &self,
        answer: &Answer,
        count: impl FnOnce() -> u64,
    ) -> Result<Option<(Basis, Cost)>, Unknown> {
        match self.judge(answer, false, count) {
            Judged::Settle(basis, tokens) => Ok(Some((basis, self.priced(tokens, answer).cost))),
            Judged::Release => Ok(None),
            Judged::Assume => Err(Unknown),
        }
    }

    /// Ends the hold of an answer of raw sound, which reports no usage: by its length if it has
    /// come whole and its frames could be read, else the hold is charged.
    pub fn end_sound(&self, reservation: Reservation, whole_ms: Option<u64>, of: Exchange) -> Settled {
        let outcome = if whole_ms.is_some() { Outcome::Completed } else { Outcome::Open };
        let answer = Answer { outcome, has_begun: true, ..Answer::default() };
        if self.is_billed_by_units(&answer) {
            return self.settle(reservation, Basis::Counted, Quantities::default(), &answer, of);
        }
        let Some(millis) = whole_ms else { return self.assume(reservation, &answer, of) };
        let most = self.model_tokens.input;
        let input = self.counted_input().map_or(most, |counted| counted.min(most));
        let tokens = [(Class::Input, input), (Class::AudioOutput, speech_tokens(millis))].into();
        self.settle(reservation, Basis::Counted, tokens, &answer, of)
    }

    /// The most tokens of sound that the hold allows for; `None` where tokens cost nothing.
    pub fn spoken_tokens_max(&self) -> Option<u64> {
        let price = self.price.as_ref()?;
        let rate = price.rates(Tier::Standard, 0)[Class::AudioOutput];
        (rate > 0).then(|| self.model_tokens.output())
    }

    /// Output tokens of a text, by the model's tokenizer or the newest known.
    pub fn count_output(&self, text: &str) -> u64 {
        count::text(self.encoding.unwrap_or(Encoding::O200k), text)
    }

    fn counted_input(&self) -> Option<u64> {
        let body = std::str::from_utf8(self.body.as_ref()?).ok()?;
        count::body_upper(self.encoding.unwrap_or(Encoding::O200k), body, &[], u64::MAX)
    }

    /// Notes that its answer was made until that time, in Unix seconds: each container that ran
    /// may have lived through so many sessions.
    pub fn lasted(&mut self, until_s: i64) {
        let sessions = until_s.saturating_sub(self.at_s).max(1).div_euclid(SESSION_S).saturating_add(1);
        self.sessions_each = u64::try_from(sessions).unwrap_or(1);
        self.sessions = self.sessions.saturating_mul(self.sessions_each);
    }

    /// Charges the hold; or, if hosted tools were called more often than it covers,
    /// its tokens and what those calls cost.
    pub(super) fn assume(&self, reservation: Reservation, answer: &Answer, of: Exchange) -> Settled {
        let hold = Arc::clone(reservation.hold());
        let (input, output) = (self.model_tokens.input, self.model_tokens.output());
        let tools = self.tools_used(answer, output);
        let known = if tools == ToolUse::default() && self.reused().is_empty() {
            Money::ZERO
        } else {
            let tokens = [(Class::Input, input), (Class::Output, output)].into();
            let usage =
                Usage { tokens, tools, largest_prompt: Some(self.model_tokens.largest_prompt.min(input)) };
            self.cost(answer, hold.tier, &usage).total()
        };
        let note = Some("it did not end well and reported no usage");
        let quantities = self.units;
        let ending = Ending { cost: known, quantities, tier: hold.tier, note, ..ending(answer, of) };
        reservation.assume(ending)
    }

    fn settle(
        &self,
        reservation: Reservation,
        basis: Basis,
        tokens: Quantities,
        answer: &Answer,
        of: Exchange,
    ) -> Settled {
        let Priced { cost, tier, made_no_picture } = self.priced(tokens, answer);
        let (quantities, tool_fees) = (cost.quantities, cost.tool_fees());
        let cost = cost.total();
        let ending = Ending { cost, tool_fees, quantities, tier, made_no_picture, ..ending(answer, of) };
        reservation.settle(basis, ending)
    }

    /// The cost of the tokens of an answer, with what it made or read in other units and the
    /// tools that it ran.
    fn priced(&self, mut tokens: Quantities, answer: &Answer) -> Priced {
        if self.cache_12h && answer.hides_cache_life {
            // They may all have the long life, which is the dearer one.
            let written = std::mem::take(&mut tokens[Class::CacheWrite]);
            tokens.add(Class::CacheWrite12h, written);
        }
        tokens += self.units(answer).only(|class| tokens[class] == 0);
        // Within the hold, no turn was larger than the hold allows for.
        let input = tokens.input_tokens_total();
        let is_within = input <= self.model_tokens.input;
        let largest_prompt = is_within.then(|| self.model_tokens.largest_prompt.min(input));
        let tools = self.tools_used(answer, tokens.output_tokens_total());
        let usage = Usage { tokens, tools, largest_prompt };
        let tier = self.served_tier(answer);
        let cost = self.cost(answer, tier, &usage);
        let made_no_picture = !has_image_tokens(&usage.tools) && answer.image_calls == 0;
        Priced { cost, tier, made_no_picture }
    }

    /// The hosted tools that are billed: those that the answer reports, and those
    /// that it leaves out, without the containers that existed before.
    ///
    /// The model wrote at most `output` tokens, including the prompts of its pictures.
    fn tools_used(&self, answer: &Answer, output: u64) -> ToolUse {
        let mut tools = answer.tools_seen;
        if self.tools.web_search == Some(WebSearch::Chat) {
            // Chat's usage has no count; a search model searches once a request.
            let searches = &mut tools.quantities[Class::WebSearchCalls];
            *searches = (*searches).max(1);
        }
        if answer.has_unplaced_shell && !self.tools.containers.is_empty() {
            tools.containers = tools.containers.max(1);
        }
        if let Some(tool) = self.tools.image.as_ref().filter(|_| !has_image_tokens(&tools)) {
            tools.quantities += cost::unreported_images(tool, answer.image_calls, self.pictures, output);
        }
        let reused = u64::try_from(self.reused().len()).unwrap_or(u64::MAX);
        tools.containers = tools.containers.saturating_sub(reused).saturating_mul(self.sessions_each);
        tools
    }

    fn reused(&self) -> &[Option<ContainerMemory>] {
        self.reused.as_deref().unwrap_or_default()
    }

    /// What was made or read other than tokens: as much as the answer has, else as the
    /// request asked for.
    fn units(&self, answer: &Answer) -> Quantities {
        let mut units = self.units;
        for (class, count) in answer.units.non_zero().filter(|(class, _)| self.units[*class] > 0) {
            units[class] = count;
        }
        units
    }

    /// Whether the model has a price for what it makes or reads by the unit.
    fn is_billed_by_units(&self, answer: &Answer) -> bool {
        let served = self.served_price(answer);
        let price = served.as_ref().or(self.price.as_ref());
        price.is_some_and(|price| price.rates(Tier::Standard, 0).cost_pico(&self.units) > 0)
    }

    /// Whether a usage is in what the model is billed by: one of seconds alone says nothing of
    /// a model that is billed by tokens.
    fn is_price_of(&self, used: &Quantities, answer: &Answer) -> bool {
        used[Class::AudioSeconds] == 0 || used.tokens_total() > 0 || self.is_billed_by_units(answer)
    }

    /// The cost of a usage at the served model's price.
    fn cost(&self, answer: &Answer, tier: Tier, usage: &Usage) -> Cost {
        let served = self.served_price(answer);
        let Some(price) = served.as_ref().or(self.price.as_ref()) else {
            let mut quantities = usage.tokens;
            quantities += usage.tools.quantities;
            return Cost { quantities, ..Cost::default() };
        };
        let written_by = answer.tool_model.as_deref().and_then(|model| self.sheet.find(model, self.at_s));
        let image_price = written_by.as_deref().or(self.image_price.as_deref());
        let paid: Vec<ContainerMemory> = self.reused().iter().copied().flatten().collect();
        let reused = paid.repeat(usize::try_from(self.sessions_each).unwrap_or(1));
        let (tools, sessions, reused) = (&self.tools, self.sessions, &*reused);
        cost::cost(price, tier, usage, Offer { tools, image_price, sessions, reused })
    }

    fn served_price(&self, answer: &Answer) -> Option<Arc<Price>> {
        answer.model.as_deref().and_then(|model| self.sheet.find(model, self.at_s))
    }

    /// Whether output may be billed that is in no answer: by the model asked for or
    /// the one that served; any that is not known may.
    fn may_reason(&self, answer: &Answer) -> bool {
        let served = self.served_price(answer);
        let known = [self.price.as_ref(), served.as_ref()].into_iter().flatten();
        known.map(|price| price.may_reason).reduce(|one, other| one || other).unwrap_or(true)
    }

    /// The tier that decides the price: the one served, or if the answer does
    /// not say, the dearer of the one asked for and the usual one.
    fn served_tier(&self, answer: &Answer) -> Tier {
        let known = [self.requested_tier, Some(self.default_tier)];
        if let Some(implied) = known.into_iter().flatten().find(|tier| tier.is_implied()) {
            return match answer.tier {
                Some(tier) if tier > Tier::Scale => tier,
                // Whatever tier up to standard the answer names.
                Some(_) => implied,
                None => self.requested_tier.unwrap_or(implied),
            };
        }
        answer.tier.unwrap_or_else(|| {
            self.requested_tier.map_or(self.default_tier, |requested| requested.max(Tier::Standard))
        })
    }
}

/// Whether tokens of the image tool are known.
fn has_image_tokens(tools: &ToolUse) -> bool {
    tools.quantities.tokens_total() > 0
}

/// The facts of an ending other than its cost.
fn ending(answer: &Answer, of: Exchange) -> Ending {
    Ending {
        served_model: answer.model.as_deref().map(Into::into),
        object_id: answer.object_id.clone(),
        is_at_output_bound: answer.is_at_output_bound,
        ..of.ending()
    }
}

//! What upstream did with a request, drawn at random, and what it charges for that.

use crate::ask::Ask;
use crate::chance::Chance;
use crate::image::REFERENCE_TOKENS;
use crate::maximum;
use crate::prices::{FILE_SEARCH_PICO, Memory, Rates, Tier};
use crate::tools::ImageTool;
use crate::world::{Broken, Endpoint, TextCount, World};

/// How an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As it should.
    Completed,
    /// At its output bound.
    Incomplete,
    /// With an error after some output: what was made is billed.
    Failed,
    /// With an error as the first thing within a 200: nothing was made.
    FailedAtOnce,
    /// OpenAI refuses, in its own envelope: nothing is billed.
    Rejected,
    /// The work is done and billed, and a gateway answers in OpenAI's place.
    Gateway,
    /// The work is done and billed, and the connection is lost before the answer.
    Lost,
    /// The connection is lost in the middle of the answer.
    Cut,
}

/// A hosted call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the tools")]
pub enum Call {
    Search,
    /// A page that was opened: no fee.
    Page,
    File,
    /// Code, in the container of that index.
    Code(usize),
    Picture,
    Mcp,
}

/// Tokens that a turn, or all of them, read and wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// All input; the next four are parts of it, disjoint.
    pub input: u64,
    /// Read from the cache.
    pub cached: u64,
    /// Written to the cache.
    pub write: u64,
    /// Audio.
    pub audio_in: u64,
    /// All output; the next three are parts of it.
    pub output: u64,
    /// Thought, and not shown.
    pub reasoning: u64,
    /// Spoken.
    pub audio_out: u64,
    /// Predicted and rejected.
    pub rejected: u64,
}

/// Tokens of pictures that were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the token classes")]
pub struct Drawn {
    pub text_in: u64,
    pub image_in: u64,
    pub image_out: u64,
}

/// A container that was used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Which of the request's containers it is.
    pub index: usize,
    /// Its id.
    pub id: String,
    /// Its memory.
    pub memory: Memory,
    /// Minutes that are billed: from 5 to 20.
    pub minutes: u64,
}

/// Where and how the answer says what it cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Form of the usage.
    pub usage: UsageForm,
    /// Place of the usage in a chat stream.
    pub place: UsagePlace,
    /// Whether only an early chunk of a chat stream names the tier.
    pub tier_early: bool,
    /// How hosted calls are reported.
    pub calls: CallsForm,
    /// Whether each chunk has `"error": null`.
    pub error_null: bool,
    /// Whether lines end in CRLF, with comments between the events.
    pub crlf: bool,
    /// Whether cache writes are split by their time to live.
    pub write_details: bool,
}

/// Form of a usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UsageForm {
    /// With all details.
    #[default]
    Full,
    /// Details that are nothing are null.
    Nulls,
    /// Without details.
    Bare,
    /// Thought is in the total only.
    InTotal,
    /// None at all.
    Absent,
}

/// Place of the usage in a chat stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UsagePlace {
    /// In a chunk of its own at the end.
    #[default]
    Last,
    /// In the last chunk with choices.
    WithChoices,
    /// In each chunk; the last counts.
    Each,
}

/// How hosted calls are reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CallsForm {
    /// As items of the output, and in `tool_usage`.
    #[default]
    Both,
    /// As items only.
    Items,
    /// As items that say nothing of what was done.
    BareItems,
    /// As items while they happen; the last event's output is empty.
    Stream,
}

/// What upstream did with one request.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Tier at which it was served.
    pub tier: Tier,
    /// Model as the answer names it.
    pub model: String,
    /// Tokens of all turns.
    pub used: Used,
    /// Tokens of the largest prompt.
    pub largest: u64,
    /// Words that the answer shows, each a token, in all choices together.
    pub words: u64,
    /// Hosted calls.
    pub calls: Vec<Call>,
    /// Fee of each search, in picodollars.
    pub search_pico: u128,
    /// Fee of the one search of a chat completion, in picodollars.
    pub chat_search_pico: u128,
    /// Pictures that were made, and by what.
    pub drawn: Option<(ImageTool, Drawn)>,
    /// Containers that were used.
    pub containers: Vec<Session>,
    /// Whether cache writes are kept for twelve hours.
    pub ttl_12h: bool,
    /// How it ended.
    pub end: End,
    /// Share of the answer after which a cut comes, in hundredths.
    pub cut_percent: u64,
    /// How it is reported.
    pub report: Report,
}

/// Words that an answer shows at the most.
const WORDS_MAX: u64 = 80;

impl Outcome {
    /// Draws an outcome of a request: within its maximum, unless the world breaks an assumption.
    pub fn draw(chance: &mut Chance, world: &World, ask: &Ask) -> Self {
        let end = end(chance, ask);
        let calls = calls(chance, world, ask);
        let first = first_prompt(chance, world, ask);
        let end = if first > ask.window() || !ask.is_possible { End::Rejected } else { end };
        let mut outcome = Self {
            tier: chance.one(&ask.tiers),
            model: served(chance, ask),
            used: Used::default(),
            largest: first,
            words: 0,
            search_pico: ask.tools.search_pico.unwrap_or(0),
            chat_search_pico: ask.tools.chat_search_pico.unwrap_or(0),
            drawn: None,
            containers: Vec::new(),
            calls,
            ttl_12h: ask.ttl_12h,
            end,
            cut_percent: chance.within(0, 99),
            report: report(chance, ask, end),
        };
        outcome.answer(chance, world, ask);
        outcome.read(chance, world, ask, first);
        outcome.draw_pictures(chance, world, ask);
        outcome.fill_containers(chance, ask);
        outcome.fit_report(ask);
        outcome
    }

    /// Output: thought, words, rejected predictions, speech.
    fn answer(&mut self, chance: &mut Chance, world: &World, ask: &Ask) {
        let extra = if world.broken == Some(Broken::Output) { 5_000 } else { 0 };
        let most = ask.output_max.min(100_000) + extra;
        let shown_max = WORDS_MAX.min(most);
        let answers = ask.choices.saturating_mul(ask.prompts).max(1);
        for _ in 0..answers.min(8) {
            // What failed after some output has shown some.
            let least = u64::from(self.end == End::Failed && self.words == 0).min(shown_max);
            let words = chance.within(least, shown_max);
            self.words += words;
            self.used.output += words;
            let mut left = most - words;
            if ask.model.reasons() {
                let thought = chance.magnitude(left - extra.min(left)) + extra;
                left -= thought.min(left);
                self.used.reasoning += thought;
                self.used.output += thought;
            }
            let rejected = chance.within(0, ask.predicted.pieces);
            self.used.rejected += rejected;
            self.used.output += rejected;
            if ask.audio_out {
                let spoken = chance.within(0, left);
                self.used.audio_out += spoken;
                self.used.output += spoken;
            }
        }
        if ask.endpoint == Endpoint::Embeddings {
            (self.words, self.used.output) = (0, 0);
        }
    }

    /// Input of all turns.
    fn read(&mut self, chance: &mut Chance, world: &World, ask: &Ask, first: u64) {
        let turns = if ask.tools.chat_search_pico.is_some() { 1 } else { self.calls.len() };
        let mut prompt = first;
        let mut step_max = world.assumed.call_tokens_max;
        if world.broken == Some(Broken::CallTokens) {
            step_max *= 4;
        }
        for turn in 0..=turns {
            if turn > 0 {
                prompt = prompt.saturating_add(chance.within(0, step_max)).min(ask.window());
            }
            self.used.input += prompt;
            self.largest = self.largest.max(prompt);
            self.used.audio_in += ask.audio.min(prompt);
        }
        let text = self.used.input - self.used.audio_in;
        if ask.endpoint != Endpoint::Embeddings {
            self.used.write = if chance.percent(40) { text } else { chance.within(0, text) };
            self.used.cached = chance.within(0, text - self.used.write);
        }
        // An echo is output that has been read, where usage says so.
        if ask.echo && self.report.usage != UsageForm::Absent {
            self.used.output += ask.choices * first;
        }
    }

    fn draw_pictures(&mut self, chance: &mut Chance, world: &World, ask: &Ask) {
        let made = u64::try_from(self.calls.iter().filter(|call| **call == Call::Picture).count());
        let made = made.expect("a count");
        if made == 0 {
            return;
        }
        let dear = |tool: &&ImageTool| u128::from(tool.output) * tool.rates(world.place()).image_out;
        let Some(tool) = ask.tools.images.iter().max_by_key(dear) else { return };
        let pictures = u64::try_from(ask.pictures.len() + ask.pictures_named.len()).expect("a count");
        let drawn = Drawn {
            text_in: chance.within(0, self.used.output),
            image_in: chance.within(0, made * pictures * REFERENCE_TOKENS),
            image_out: chance.within(made, made * tool.output),
        };
        self.drawn = Some((tool.clone(), drawn));
    }

    fn fill_containers(&mut self, chance: &mut Chance, ask: &Ask) {
        for (at, (id, memory)) in ask.tools.containers.iter().enumerate() {
            if self.calls.contains(&Call::Code(at)) {
                let id = id.clone().unwrap_or_else(|| format!("cntr_new_{at}"));
                self.containers.push(Session {
                    index: at,
                    id,
                    memory: *memory,
                    minutes: chance.within(5, 20),
                });
            }
        }
    }

    /// What is not reported is not billed, where OpenAI says so, and an answer that ended well without
    /// usage has nothing that its reader can't count.
    fn fit_report(&mut self, ask: &Ask) {
        if self.report.usage == UsageForm::Absent && self.end == End::Completed {
            let first = exact_prompt(ask);
            let used = Used { input: first, output: self.words, ..Used::default() };
            *self = Self {
                used,
                largest: first,
                calls: Vec::new(),
                drawn: None,
                containers: Vec::new(),
                ..self.clone()
            };
        }
        if self.report.usage == UsageForm::Bare {
            let used = &mut self.used;
            used.output -= used.audio_out;
            (used.write, used.audio_in, used.audio_out) = (0, 0, 0);
            used.cached = used.cached.min(used.input);
        }
        // A tier that serves a model has a price for it.
        if !ask.model.publishes(self.tier, self.is_long(ask)) {
            self.tier = Tier::Standard;
        }
    }

    fn is_long(&self, ask: &Ask) -> bool {
        ask.model.long_above.is_some_and(|above| self.largest > above)
    }

    /// What OpenAI charges, in picodollars, if so many words were delivered before a cut.
    pub fn charge(&self, world: &World, ask: &Ask, words_delivered: u64) -> u128 {
        if matches!(self.end, End::Rejected | End::FailedAtOnce) {
            return 0;
        }
        let mut used = self.used;
        if self.end == End::Cut {
            used.output = used.output - self.words + words_delivered.min(self.words);
        }
        let rates = ask.model.rates(self.tier, self.is_long(ask), world.place());
        tokens_pico(ask, used, rates) + self.fees_pico(world)
    }

    /// Id of the container in which a call ran.
    pub fn container_of(&self, call: &Call) -> Option<&str> {
        let Call::Code(at) = call else { return None };
        self.containers.iter().find(|session| session.index == *at).map(|session| &*session.id)
    }

    fn fees_pico(&self, world: &World) -> u128 {
        let mut sum = self.chat_search_pico;
        for call in &self.calls {
            sum += match call {
                Call::Search => self.search_pico,
                Call::File => FILE_SEARCH_PICO,
                Call::Page | Call::Code(_) | Call::Picture | Call::Mcp => 0,
            };
        }
        for container in &self.containers {
            sum += (container.memory.session_pico() * u128::from(container.minutes)).div_ceil(20);
        }
        if let Some((tool, drawn)) = &self.drawn {
            let rates = tool.rates(world.place());
            sum += u128::from(drawn.text_in) * rates.input
                + u128::from(drawn.image_in) * rates.image_in
                + u128::from(drawn.image_out) * rates.image_out;
        }
        sum
    }
}

/// Cost of tokens, in picodollars.
pub fn tokens_pico(ask: &Ask, used: Used, rates: Rates) -> u128 {
    let write = if ask.ttl_12h { rates.write_12h } else { rates.write };
    let plain = used.input - used.cached - used.write - used.audio_in;
    u128::from(plain) * rates.input
        + u128::from(used.cached) * rates.cached
        + u128::from(used.write) * write
        + u128::from(used.audio_in) * rates.audio_in
        + u128::from(used.output - used.audio_out) * rates.output
        + u128::from(used.audio_out) * rates.audio_out
}

fn end(chance: &mut Chance, ask: &Ask) -> End {
    let is_responses = ask.endpoint == Endpoint::Responses;
    match chance.within(0, 23) {
        15 | 16 if is_responses => End::Incomplete,
        17 if is_responses || ask.stream => End::Failed,
        18 if is_responses || ask.stream => End::FailedAtOnce,
        19 => End::Rejected,
        20 => End::Gateway,
        21 => End::Lost,
        22 => End::Cut,
        _ => End::Completed,
    }
}

fn calls(chance: &mut Chance, world: &World, ask: &Ask) -> Vec<Call> {
    let tools = &ask.tools;
    let mut kinds = Vec::new();
    if tools.search_pico.is_some() {
        kinds.extend([Call::Search, Call::Search, Call::Page]);
    }
    kinds.extend(tools.file_search.then_some(Call::File));
    kinds.extend((0..tools.containers.len()).map(Call::Code));
    kinds.extend((!tools.images.is_empty()).then_some(Call::Picture));
    kinds.extend((tools.mcp_servers > 0).then_some(Call::Mcp));
    if kinds.is_empty() {
        return kinds;
    }
    let most = maximum::calls(ask).min(16);
    let count = if chance.percent(30) { most } else { chance.within(0, most) };
    let count = if world.broken == Some(Broken::Calls) { count + 20 } else { count };
    (0..count).map(|_| kinds[chance.index(kinds.len())].clone()).collect()
}

/// Tokens of the first prompt: what is measured, as it is; what is bounded, within its bound.
fn first_prompt(chance: &mut Chance, world: &World, ask: &Ask) -> u64 {
    let text = match world.assumed.text {
        TextCount::Pieces => ask.text.pieces,
        TextCount::Bytes => chance.within(ask.text.pieces, ask.text.bytes.max(ask.text.pieces)),
    };
    let named_max = if world.broken == Some(Broken::Picture) { 400_000 } else { 0 };
    let named: u64 = ask.pictures_named.iter().map(|most| chance.within(0, (*most).max(named_max))).sum();
    let pictures = ask.pictures.iter().fold(0_u64, |sum, tokens| sum.saturating_add(*tokens));
    let listed = chance.within(0, ask.tools.mcp_servers * world.assumed.mcp_tokens_max);
    let kept = ask.kept - ask.tools.mcp_servers * world.assumed.mcp_tokens_max + listed;
    let sum = text + ask.exact + named + kept;
    sum.saturating_add(pictures).saturating_add(ask.documents).saturating_add(ask.audio)
}

/// Tokens of a prompt whose reader counts it: all that is surely there.
fn exact_prompt(ask: &Ask) -> u64 {
    let pictures = ask.pictures.iter().fold(0_u64, |sum, tokens| sum.saturating_add(*tokens));
    let sum = ask.text.pieces + ask.exact + ask.documents;
    sum.saturating_add(pictures).saturating_add(ask.audio).min(ask.window())
}

/// The model, or a snapshot of it.
fn served(chance: &mut Chance, ask: &Ask) -> String {
    let is_base = ask.model.name == ask.model_named && !ask.model_named.contains("-20");
    if is_base && chance.percent(30) {
        format!("{}-2026-10-01", ask.model_named)
    } else {
        ask.model_named.clone()
    }
}

fn report(chance: &mut Chance, ask: &Ask, end: End) -> Report {
    let is_chat = matches!(ask.endpoint, Endpoint::Chat | Endpoint::Completions);
    let is_unasked = is_chat && ask.stream && !ask.usage_asked;
    let usage = match (end, chance.within(0, 11)) {
        (End::Failed | End::Cut | End::FailedAtOnce, 0..=8) => UsageForm::Absent,
        (End::Incomplete, 0..=4) => UsageForm::Absent,
        (_, 0) => UsageForm::Absent,
        _ if is_unasked => UsageForm::Absent,
        (_, 1..=2) => UsageForm::Nulls,
        (_, 3) => UsageForm::Bare,
        (_, 4) if ask.endpoint == Endpoint::Chat => UsageForm::InTotal,
        _ => UsageForm::Full,
    };
    Report {
        usage,
        place: chance.one(&[UsagePlace::Last, UsagePlace::Last, UsagePlace::WithChoices, UsagePlace::Each]),
        tier_early: ask.stream && chance.percent(30),
        calls: chance.one(&[CallsForm::Both, CallsForm::Items, CallsForm::BareItems, CallsForm::Stream]),
        error_null: chance.percent(15),
        crlf: chance.percent(15),
        write_details: chance.percent(50),
    }
}

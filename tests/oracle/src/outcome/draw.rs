//! What upstream may do with a request, drawn at random within its maximum.

use super::{Call, CallsForm, Drawn, End, Outcome, Pass, Report, Session, UsageForm, UsagePlace, Used};
use crate::ask::Ask;
use crate::chance::Chance;
use crate::image::REFERENCE_TOKENS;
use crate::maximum;
use crate::prices::{Memory, Tier};
use crate::tools::ImageTool;
use crate::world::{Broken, Endpoint, TextCount, World};

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
            prompts: Vec::new(),
            passes: Vec::new(),
            largest: first,
            words: 0,
            function: None,
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
        outcome.fill_containers(chance, world, ask);
        outcome.compact(chance, ask);
        outcome.fit_report(ask);
        outcome.call_function(chance, ask);
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
            self.prompts.push(prompt);
            self.used.input += prompt;
            self.largest = self.largest.max(prompt);
            self.used.audio_in += ask.audio.min(prompt);
        }
        let text = self.used.input - self.used.audio_in;
        if ask.endpoint != Endpoint::Embeddings {
            self.used.write = if chance.percent(40) { text } else { chance.within(0, text) };
            self.used.cached = chance.within(0, text - self.used.write);
        }
        // An echo is output that has been read, where a usage at the end says so.
        if ask.echo && self.report.usage != UsageForm::Absent && self.end == End::Completed {
            self.used.output += ask.choices * first;
        }
    }

    /// Passes that compact the context: each reads it, and writes what replaces it.
    fn compact(&mut self, chance: &mut Chance, ask: &Ask) {
        let Some(at) = ask.compacted_at else { return };
        for (turn, read) in self.prompts.iter().copied().enumerate().filter(|(_, prompt)| *prompt >= at) {
            if chance.percent(70) {
                let wrote = chance.magnitude(ask.output_turn_max);
                self.passes.push(Pass { turn, read, wrote });
                self.used.input += read;
                self.used.output += wrote;
            }
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

    fn fill_containers(&mut self, chance: &mut Chance, world: &World, ask: &Ask) {
        let is_lost = loses_containers(world, ask);
        // No two containers of upstream's have one id.
        let unique = chance.within(0, u64::MAX >> 1);
        for (at, (id, memory)) in ask.tools.containers.iter().enumerate() {
            let mut run = |chance: &mut Chance, id: String, memory: Memory| {
                let is_shared = self.containers.iter().any(|session| session.id == id);
                let minutes = if is_lost { 20 } else { chance.within(5, 20) };
                let minutes = if is_shared { 0 } else { minutes };
                self.containers.push(Session { index: at, id, memory, minutes });
            };
            if self.calls.contains(&Call::Code(at)) {
                let kept = ask.tools.kept_container.clone().filter(|_| id.is_none() && chance.percent(50));
                let new = || (format!("cntr_new_{unique}_{at}"), *memory);
                let named = id.clone().map(|id| (id, *memory));
                let (id, memory) = kept.or(named).unwrap_or_else(new);
                run(chance, id, memory);
            }
            if is_lost && id.is_none() {
                run(chance, format!("cntr_again_{unique}_{at}"), *memory);
            }
        }
    }

    fn call_function(&mut self, chance: &mut Chance, ask: &Ask) {
        let functions = &ask.tools.functions;
        if self.words > 0 && !functions.is_empty() && chance.percent(50) {
            self.function = Some(functions[chance.index(functions.len())].clone());
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
                prompts: vec![first],
                passes: Vec::new(),
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

/// Whether each container that is made for the request is lost, and made once more.
fn loses_containers(world: &World, ask: &Ask) -> bool {
    let offered = &ask.tools.containers;
    let calls = u64::try_from(2 * offered.len()).expect("few");
    let is_made = offered.iter().any(|(id, _)| id.is_none());
    world.broken == Some(Broken::Sessions) && is_made && calls <= maximum::calls(ask)
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
    if loses_containers(world, ask) {
        return (0..tools.containers.len()).flat_map(|at| [Call::Code(at), Call::Code(at)]).collect();
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
    let times = if world.broken == Some(Broken::Lists) { 40 } else { 1 };
    let listed = chance.within(0, ask.tools.mcp_servers * world.assumed.mcp_tokens_max * times);
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

//! What OpenAI charges for an outcome, whole or as far as its answer has come.

use super::{Call, Drawn, End, Outcome, Pass, Session, Used};
use crate::ask::Ask;
use crate::prices::{FILE_SEARCH_PICO, Rates};
use crate::world::World;

impl Outcome {
    pub(super) fn is_long(&self, ask: &Ask) -> bool {
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
        let searches = self.calls.iter().filter(|call| **call == Call::Search).count();
        let blocks = u128::try_from(searches).expect("a count") * u128::from(ask.tools.search_block);
        tokens_pico(ask, used, rates) + blocks * rates.input + self.fees_pico(world)
    }

    /// What OpenAI charges at each stage of the stream, words aside: once it has begun,
    /// and once each call has begun and has been answered, which the next turn reads.
    pub fn stages(&self, world: &World, ask: &Ask) -> Vec<u128> {
        let last = 2 * self.calls.len();
        let stage = |at: usize| {
            let turns = if at == last { self.prompts.len() } else { 1 + at / 2 };
            self.so_far(ask, at.div_ceil(2), turns).charge(world, ask, 0)
        };
        (0..=last).map(stage).collect()
    }

    /// The outcome of a stream that ends after so many calls have begun, and so many turns.
    fn so_far(&self, ask: &Ask, calls: usize, turns: usize) -> Self {
        let mut part = Self { end: End::Cut, ..self.clone() };
        if matches!(self.end, End::Rejected | End::FailedAtOnce) {
            part.end = self.end;
        }
        part.calls.truncate(calls);
        part.prompts.truncate(turns);
        let (passes, later): (Vec<Pass>, Vec<Pass>) = self.passes.iter().partition(|pass| pass.turn < turns);
        part.passes = passes;
        let used = &mut part.used;
        used.input = part.prompts.iter().sum::<u64>() + part.passes.iter().map(|pass| pass.read).sum::<u64>();
        used.output -= later.iter().map(|pass| pass.wrote).sum::<u64>();
        used.audio_in = used.audio_in.min(part.prompts.iter().map(|prompt| ask.audio.min(*prompt)).sum());
        used.write = used.write.min(used.input - used.audio_in);
        used.cached = used.cached.min(used.input - used.audio_in - used.write);
        part.largest = part.prompts.iter().copied().max().unwrap_or(0);
        let uses = |at: usize| part.calls.iter().filter(|call| **call == Call::Code(at)).count();
        let mut left: Vec<usize> = (0..ask.tools.containers.len()).map(uses).collect();
        part.containers.retain(|session| {
            let is_used = left[session.index] > 0;
            left[session.index] = left[session.index].saturating_sub(1);
            is_used
        });
        let pictures = |calls: &[Call]| calls.iter().filter(|call| **call == Call::Picture).count();
        let (made, all) = (pictures(&part.calls), pictures(&self.calls).max(1));
        let share = |tokens: u64| {
            let (made, all) = (u64::try_from(made).expect("few"), u64::try_from(all).expect("few"));
            (tokens * made).div_ceil(all)
        };
        part.drawn = self.drawn.clone().filter(|_| made > 0).map(|(tool, drawn)| {
            let Drawn { text_in, image_in, image_out } = drawn;
            let drawn =
                Drawn { text_in: share(text_in), image_in: share(image_in), image_out: share(image_out) };
            (tool, drawn)
        });
        part
    }

    /// Id of the container in which a call ran.
    pub fn container_of(&self, call: usize) -> Option<&str> {
        let Call::Code(at) = self.calls[call] else { return None };
        let before = self.calls[..call].iter().filter(|other| **other == Call::Code(at)).count();
        let sessions: Vec<&Session> = self.containers.iter().filter(|session| session.index == at).collect();
        sessions.get(before).or(sessions.last()).map(|session| &*session.id)
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
fn tokens_pico(ask: &Ask, used: Used, rates: Rates) -> u128 {
    let write = if ask.ttl_12h { rates.write_12h } else { rates.write };
    let plain = used.input - used.cached - used.write - used.audio_in;
    u128::from(plain) * rates.input
        + u128::from(used.cached) * rates.cached
        + u128::from(used.write) * write
        + u128::from(used.audio_in) * rates.audio_in
        + u128::from(used.output - used.audio_out) * rates.output
        + u128::from(used.audio_out) * rates.audio_out
}

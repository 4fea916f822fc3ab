//! The figures of a usage object, sorted into disjoint classes.
//!
//! One structure reads all shapes: chat says `prompt_tokens`, responses says
//! `input_tokens`. Totals win over details: a detail that exceeds what is
//! left of its total is cut to it. Output is at least the total less the input:
//! some servers leave reasoning out of the output and count it in the total.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::domain::{Class, Quantities};
use crate::protocol::openai::json::Loose;
use crate::protocol::openai::usage::AnswerForm;

/// Which sides of a usage are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::protocol::openai) struct Sides {
    /// Whether the input is.
    pub(in crate::protocol::openai) input: bool,
    /// Whether the output is.
    pub(in crate::protocol::openai) output: bool,
}

impl Sides {
    /// Whether both are.
    pub(in crate::protocol::openai) const fn are_known(self) -> bool {
        self.input && self.output
    }

    /// The sides that are known in both.
    pub(in crate::protocol::openai) const fn and(self, other: Self) -> Self {
        Self { input: self.input && other.input, output: self.output && other.output }
    }

    /// The sides that are known in either.
    pub(in crate::protocol::openai) const fn or(self, other: Self) -> Self {
        Self { input: self.input || other.input, output: self.output || other.output }
    }
}

/// The figures of a usage.
#[derive(Clone, Copy, Debug)]
pub(in crate::protocol::openai) struct Counted {
    /// The tokens by class.
    pub(in crate::protocol::openai) tokens: Quantities,
    /// Which sides are known.
    pub(in crate::protocol::openai) sides: Sides,
    /// Whether cache writes are reported without how long they live.
    pub(in crate::protocol::openai) hides_cache_life: bool,
}

/// A number of tokens; `None` for whatever isn't a number.
#[derive(Clone, Copy, Debug, Default)]
struct Count(Option<u64>);

/// `usage` of any text endpoint.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Figures {
    prompt_tokens: Count,
    completion_tokens: Count,
    input_tokens: Count,
    output_tokens: Count,
    total_tokens: Count,
    prompt_tokens_details: Loose<Details>,
    completion_tokens_details: Loose<Details>,
    input_tokens_details: Loose<Details>,
    output_tokens_details: Loose<Details>,
    /// The names that transcriptions and realtime responses have for them.
    input_token_details: Loose<Details>,
    output_token_details: Loose<Details>,
}

/// Details of either side; each side has only some of them.
#[derive(Deserialize, Default)]
#[serde(default)]
#[expect(clippy::struct_field_names, reason = "the names are those of the wire")]
struct Details {
    cached_tokens: Count,
    cached_tokens_details: Loose<CachedDetails>,
    cache_write_tokens: Count,
    cache_write_tokens_details: Loose<WriteDetails>,
    audio_tokens: Count,
    image_tokens: Count,
    reasoning_tokens: Count,
    text_tokens: Count,
}

#[derive(Deserialize, Default)]
#[serde(default)]
#[expect(clippy::struct_field_names, reason = "the names are those of the wire")]
struct CachedDetails {
    audio_tokens: Count,
    image_tokens: Count,
    cached_image_tokens: Count,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct WriteDetails {
    ttl_30m_tokens: Count,
    ttl_12h_tokens: Count,
}

/// `tool_usage` of a response.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct ToolFigures {
    web_search: Loose<SearchFigures>,
    file_search: Loose<SearchFigures>,
    image_gen: Loose<ImageFigures>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct SearchFigures {
    num_requests: Count,
}

/// `image_gen`: here the cached tokens stand beside the details, not within.
#[derive(Deserialize, Default)]
#[serde(default)]
struct ImageFigures {
    input_tokens: Count,
    input_tokens_details: Loose<Details>,
    output_tokens: Count,
    output_tokens_details: Loose<OutputDetails>,
    cached_tokens: Count,
    cached_tokens_details: Loose<CachedDetails>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct OutputDetails {
    text_tokens: Count,
}

impl Figures {
    /// Their figures; `None` if there are none.
    pub(super) fn counted(&self, form: AnswerForm) -> Option<Counted> {
        let tokens = self.tokens(form)?;
        Some(Counted { tokens, sides: self.sides(form), hides_cache_life: self.hides_cache_life() })
    }

    fn tokens(&self, form: AnswerForm) -> Option<Quantities> {
        let total = self.total_tokens.0;
        // Some servers write both names, and zero under one of them.
        let input = self.prompt_tokens.0.max(self.input_tokens.0);
        let output = self.completion_tokens.0.max(self.output_tokens.0);
        let (input, output) = match (input, output, total) {
            (None, None, Some(total)) if form == AnswerForm::Vectors => (total, 0),
            (None, None, _) => return None,
            (Some(input), None, total) => (input, total.unwrap_or(input).saturating_sub(input)),
            (None, Some(output), total) => (total.unwrap_or(output).saturating_sub(output), output),
            (Some(input), Some(output), total) => {
                (input, output.max(total.unwrap_or(0).saturating_sub(input)))
            }
        };
        let mut tokens = Quantities::default();
        Input::of(&self.input_details()).sort(input, &mut tokens);
        let details =
            [&self.completion_tokens_details.0, &self.output_tokens_details.0, &self.output_token_details.0];
        let pick = |choose: fn(&Details) -> Count| {
            details.iter().fold(Count::default(), |count, details| count.or(choose(details)))
        };
        let mut left = output;
        if form == AnswerForm::Speech {
            tokens[Class::AudioOutput] = output;
            return Some(tokens);
        }
        if form == AnswerForm::Images {
            // Without details it is all of images.
            tokens[Class::Output] = take(&mut left, pick(|details| details.text_tokens));
            tokens[Class::ImageOutput] = left;
            return Some(tokens);
        }
        tokens[Class::Reasoning] = take(&mut left, pick(|details| details.reasoning_tokens));
        tokens[Class::AudioOutput] = take(&mut left, pick(|details| details.audio_tokens));
        tokens[Class::ImageOutput] = take(&mut left, pick(|details| details.image_tokens));
        tokens[Class::Output] = left;
        Some(tokens)
    }

    /// Whether the input is given, and whether the output is: each by itself or as
    /// what the other leaves of the total. Vectors are no output.
    fn sides(&self, form: AnswerForm) -> Sides {
        let total = self.total_tokens.0.is_some();
        let input = self.prompt_tokens.0.max(self.input_tokens.0).is_some();
        let output = self.completion_tokens.0.max(self.output_tokens.0).is_some();
        let has_no_output = form == AnswerForm::Vectors;
        Sides {
            input: input || (total && (output || has_no_output)),
            output: output || has_no_output || (total && input),
        }
    }

    const fn input_details(&self) -> [&Details; 3] {
        [&self.prompt_tokens_details.0, &self.input_tokens_details.0, &self.input_token_details.0]
    }

    fn hides_cache_life(&self) -> bool {
        self.input_details().into_iter().any(|details| {
            let Loose(split) = &details.cache_write_tokens_details;
            details.cache_write_tokens.number() > split.sum()
        })
    }
}

impl ToolFigures {
    /// Billed web searches, as far as they are reported.
    pub(super) fn web_searches(&self) -> u64 {
        self.web_search.0.num_requests.number()
    }

    /// Billed file searches, as far as they are reported.
    pub(super) fn file_searches(&self) -> u64 {
        self.file_search.0.num_requests.number()
    }

    /// The tokens of the image tool.
    pub(super) fn image(&self) -> Quantities {
        let Loose(figures) = &self.image_gen;
        let mut tokens = Quantities::default();
        let mut input = Input::of(&[&figures.input_tokens_details.0]);
        input.cached = input.cached.max(figures.cached_tokens.number());
        input.cached_image = input.cached_image.max(figures.cached_tokens_details.0.image().number());
        input.sort(figures.input_tokens.number(), &mut tokens);
        let mut left = figures.output_tokens.number();
        tokens[Class::Output] = take(&mut left, figures.output_tokens_details.0.text_tokens);
        tokens[Class::ImageOutput] = left;
        tokens
    }
}

/// The details of the input, before they are held against its total.
struct Input {
    audio: u64,
    image: u64,
    cached: u64,
    cached_audio: u64,
    cached_image: u64,
    write: u64,
    write_12h: u64,
}

impl Input {
    /// Of each detail the first that is given.
    fn of(details: &[&Details]) -> Self {
        let pick = |choose: fn(&Details) -> Count| {
            details.iter().fold(Count::default(), |count, details| count.or(choose(details))).number()
        };
        let split = details.iter().map(|details| details.cache_write_tokens_details.0.sum()).max();
        Self {
            audio: pick(|details| details.audio_tokens),
            image: pick(|details| details.image_tokens),
            cached: pick(|details| details.cached_tokens),
            cached_audio: pick(|details| details.cached_tokens_details.0.audio_tokens),
            cached_image: pick(|details| details.cached_tokens_details.0.image()),
            write: pick(|details| details.cache_write_tokens).max(split.unwrap_or(0)),
            write_12h: pick(|details| details.cache_write_tokens_details.0.ttl_12h_tokens),
        }
    }

    /// Sorts `total` tokens into the classes of the input.
    fn sort(&self, total: u64, tokens: &mut Quantities) {
        let mut text = total;
        let mut audio = take(&mut text, Count(Some(self.audio)));
        let mut image = take(&mut text, Count(Some(self.image)));
        let mut cached = self.cached;
        // Split by kind where upstream says how; else text was cached first.
        tokens[Class::AudioCachedInput] = shift(&mut audio, &mut cached, self.cached_audio);
        tokens[Class::ImageCachedInput] = shift(&mut image, &mut cached, self.cached_image);
        tokens[Class::CachedInput] = shift(&mut text, &mut cached, u64::MAX);
        tokens[Class::ImageCachedInput] += shift(&mut image, &mut cached, u64::MAX);
        tokens[Class::AudioCachedInput] += shift(&mut audio, &mut cached, u64::MAX);
        // A write has one price, of whatever kind the tokens are.
        let mut write = self.write;
        let mut written = shift(&mut text, &mut write, u64::MAX);
        written += shift(&mut image, &mut write, u64::MAX);
        written += shift(&mut audio, &mut write, u64::MAX);
        tokens[Class::CacheWrite12h] = take(&mut written, Count(Some(self.write_12h)));
        tokens[Class::CacheWrite] = written;
        tokens[Class::Input] = text;
        tokens[Class::ImageInput] = image;
        tokens[Class::AudioInput] = audio;
    }
}

/// Takes at most `amount` from what is left.
fn take(left: &mut u64, amount: Count) -> u64 {
    let taken = amount.number().min(*left);
    *left -= taken;
    taken
}

/// Moves tokens of one kind into a class that claims `claimed` of them.
fn shift(kind: &mut u64, claimed: &mut u64, at_most: u64) -> u64 {
    let moved = (*kind).min(*claimed).min(at_most);
    *kind -= moved;
    *claimed -= moved;
    moved
}

impl WriteDetails {
    fn sum(&self) -> u64 {
        self.ttl_30m_tokens.number().saturating_add(self.ttl_12h_tokens.number())
    }
}

impl CachedDetails {
    fn image(&self) -> Count {
        self.image_tokens.or(self.cached_image_tokens)
    }
}

impl Count {
    fn or(self, other: Self) -> Self {
        Self(self.0.or(other.0))
    }

    fn number(self) -> u64 {
        self.0.unwrap_or(0)
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CountVisitor)
    }
}

struct CountVisitor;

impl<'de> Visitor<'de> for CountVisitor {
    type Value = Count;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a number of tokens")
    }

    fn visit_u64<E>(self, number: u64) -> Result<Count, E> {
        Ok(Count(Some(number)))
    }

    /// A negative number: some servers write -1 for what they don't know.
    fn visit_i64<E>(self, _: i64) -> Result<Count, E> {
        Ok(Count(None))
    }

    /// Some servers write whole numbers with a fraction.
    fn visit_f64<E>(self, number: f64) -> Result<Count, E> {
        Ok(Count(format!("{:.0}", number.ceil()).parse().ok()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Count, E> {
        Ok(Count(None))
    }

    fn visit_unit<E>(self) -> Result<Count, E> {
        Ok(Count(None))
    }

    /// Some servers write numbers as text.
    fn visit_str<E>(self, text: &str) -> Result<Count, E> {
        Ok(Count(text.trim().parse().ok()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Count, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Count(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Count, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Count(None))
    }
}

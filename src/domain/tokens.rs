//! Tokens by class, and what a finished request used.
//!
//! The classes are disjoint by construction and add up to the totals that
//! OpenAI reports: cached and cache-write tokens are taken out of the input,
//! reasoning out of the output, audio and image out of both.

use std::ops::AddAssign;

/// Tokens of one request, each counted in exactly one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Text input that was neither read from nor written to a cache.
    pub input: u64,
    /// Text input read from a cache.
    pub cached_input: u64,
    /// Text input written to a cache with the short life (30 minutes).
    pub cache_write: u64,
    /// Text input written to a cache with the long life (12 hours).
    pub cache_write_12h: u64,
    /// Audio input that was not cached.
    pub audio_input: u64,
    /// Audio input read from a cache.
    pub audio_cached_input: u64,
    /// Image input that was not cached.
    pub image_input: u64,
    /// Image input read from a cache.
    pub image_cached_input: u64,
    /// Text output a client can see, and rejected predictions.
    pub output: u64,
    /// Text output spent on reasoning.
    pub reasoning: u64,
    /// Audio output.
    pub audio_output: u64,
    /// Image output.
    pub image_output: u64,
}

impl Tokens {
    /// All input, cached or not, of every modality.
    pub fn input_total(&self) -> u64 {
        [
            self.input,
            self.cached_input,
            self.cache_write,
            self.cache_write_12h,
            self.audio_input,
            self.audio_cached_input,
            self.image_input,
            self.image_cached_input,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }

    /// All input that came from a cache.
    pub fn cached_total(&self) -> u64 {
        self.cached_input.saturating_add(self.audio_cached_input).saturating_add(self.image_cached_input)
    }

    /// All output, reasoning included, of every modality.
    pub fn output_total(&self) -> u64 {
        [self.output, self.reasoning, self.audio_output, self.image_output]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    /// Input and output together.
    pub fn total(&self) -> u64 {
        self.input_total().saturating_add(self.output_total())
    }

    /// The input of whichever has more input, and the output of whichever has
    /// more output; of equals, that of `later`.
    #[must_use]
    pub fn or_larger(&self, later: &Self) -> Self {
        let input = if later.input_total() >= self.input_total() { later } else { self };
        let output = if later.output_total() >= self.output_total() { later } else { self };
        Self {
            output: output.output,
            reasoning: output.reasoning,
            audio_output: output.audio_output,
            image_output: output.image_output,
            ..*input
        }
    }

    /// The classes with the names that metrics and exports use.
    pub fn classes(&self) -> [(&'static str, u64); 12] {
        [
            ("input", self.input),
            ("cached_input", self.cached_input),
            ("cache_write", self.cache_write),
            ("cache_write_12h", self.cache_write_12h),
            ("audio_input", self.audio_input),
            ("audio_cached_input", self.audio_cached_input),
            ("image_input", self.image_input),
            ("image_cached_input", self.image_cached_input),
            ("output", self.output),
            ("reasoning", self.reasoning),
            ("audio_output", self.audio_output),
            ("image_output", self.image_output),
        ]
    }

    /// The classes in the order of [`Tokens::classes`], to be filled by name.
    pub fn classes_mut(&mut self) -> [&mut u64; 12] {
        [
            &mut self.input,
            &mut self.cached_input,
            &mut self.cache_write,
            &mut self.cache_write_12h,
            &mut self.audio_input,
            &mut self.audio_cached_input,
            &mut self.image_input,
            &mut self.image_cached_input,
            &mut self.output,
            &mut self.reasoning,
            &mut self.audio_output,
            &mut self.image_output,
        ]
    }
}

impl AddAssign for Tokens {
    fn add_assign(&mut self, other: Self) {
        for (mine, (_, theirs)) in self.classes_mut().into_iter().zip(other.classes()) {
            *mine = mine.saturating_add(theirs);
        }
    }
}

/// Memory of a hosted container; it decides the price of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContainerMemory {
    /// One gibibyte, what a request gets that names none.
    #[default]
    G1,
    /// Four gibibytes.
    G4,
    /// Sixteen gibibytes.
    G16,
    /// Sixty-four gibibytes.
    G64,
}

impl ContainerMemory {
    /// The memory by its name on the wire; `None` if there is no such size.
    pub fn named(name: &str) -> Option<Self> {
        [Self::G1, Self::G4, Self::G16, Self::G64].into_iter().find(|memory| memory.name() == name)
    }

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::G1 => "1g",
            Self::G4 => "4g",
            Self::G16 => "16g",
            Self::G64 => "64g",
        }
    }
}

/// What upstream's hosted tools did for one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolUse {
    /// Billed web searches (opening a page found is not billed).
    pub web_searches: u64,
    /// Billed file searches.
    pub file_searches: u64,
    /// Distinct containers that code or shell calls ran in.
    pub containers: u64,
    /// Tokens of the image generation tool, priced at the tool's own model.
    pub image: Tokens,
}

/// What a finished request used: tokens of its model, and hosted tools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens priced at the model that served the request.
    pub tokens: Tokens,
    /// Hosted tools, each with a fee of its own.
    pub tools: ToolUse,
    /// Input tokens of the largest turn, if the request took several; `None` if
    /// all input was read at once. It decides whether long-context rates apply.
    pub largest_prompt: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_add_up_to_the_totals() {
        let mut tokens = Tokens::default();
        for (n, class) in tokens.classes_mut().into_iter().enumerate() {
            *class = 1 << n;
        }
        let all: u64 = tokens.classes().iter().map(|(_, n)| n).sum();
        assert_eq!(tokens.input_total() + tokens.output_total(), all);
        assert_eq!(all, (1 << 12) - 1);
        tokens += tokens;
        assert_eq!(tokens.total(), 2 * all);
    }

    #[test]
    fn the_larger_input_and_the_larger_output_are_chosen_apart() {
        let t = Tokens::default();
        let first = Tokens { input: 9, cached_input: 1, output: 1, ..t };
        let last = Tokens { input: 5, output: 3, reasoning: 4, ..t };
        let both = Tokens { input: 9, cached_input: 1, output: 3, reasoning: 4, ..t };
        assert_eq!(first.or_larger(&last), both);
        assert_eq!(last.or_larger(&first), both);
        assert_eq!(
            first.or_larger(&Tokens { input: 10, output: 1, ..t }),
            Tokens { input: 10, output: 1, ..t }
        );
    }
}

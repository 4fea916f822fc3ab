//! The most a request can cost: an upper bound, never a guess.
//!
//! Every token of a byte-level vocabulary is at least one byte of text, and JSON
//! only lengthens text, so a body has at most as many text tokens as bytes. Media
//! are measured by their headers. The parts that the guard decides itself (the
//! output bound and the hosted calls that it writes into the request) are bounded
//! by the written values.
//!
//! Some parts rest on assumptions about OpenAI, such as what a hosted tool adds to
//! the context ([`ToolsBound::Practical`]). The table "What a request holds" in
//! `docs/metering.md` names them all.

mod compaction;
mod drawn;
mod model;
mod output;
mod sound;

use crate::domain::demand::{Bound, ContainerDemand, Demand, Image, Tier, WebSearch};
use crate::domain::quantity::Direction;
use crate::domain::{Class, Money, Quantities};
use crate::pricing::cost::{search_block, search_class};
use crate::pricing::image_tool;
use crate::pricing::rates::Rates;
use crate::pricing::sheet::Price;

pub use self::drawn::pictures;
pub use self::model::ModelTokens;
pub use self::output::output_per_choice;
pub use self::sound::{AUDIO_MS_PER_TOKEN, audio_tokens, speech_tokens};

/// The largest context in the sheet, for models that name none.
const INPUT_MAX: u64 = 1_050_000;
/// The largest output in the sheet, for models that name none.
pub const OUTPUT_MAX: u64 = 272_000;
/// Embeddings: at most 300,000 tokens summed over a request's inputs.
const EMBEDDINGS_TOKENS_MAX: u64 = 300_000;

/// How much the turns of a request with hosted tools are assumed to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ToolsBound {
    /// Each call adds at most `tool_context_max` tokens to the context: what the
    /// model writes for it and what it brings. Each turn reads the context so
    /// far again.
    #[default]
    Practical,
    /// Each turn may fill the model's whole window.
    Strict,
}

/// What is known or decided about a request in addition to its demand.
#[derive(Clone, Copy, Debug)]
pub struct BoundInputs {
    /// Tokens of the body's text, if they were counted.
    pub text_tokens: Option<u64>,
    /// Tokens of all that the first turn reads, if upstream counted them.
    pub prompt_tokens: Option<u64>,
    /// Tokens of the body's documents, if they were measured.
    pub document_tokens: Option<u64>,
    /// Tokens of the context that upstream keeps; `None` if that is unknown.
    pub context_tokens: Option<u64>,
    /// Pictures in that context; `None` if that is unknown.
    pub context_pictures: Option<u64>,
    /// An output per choice that is written into the request.
    pub output_max: Option<u64>,
    /// Whether bounds can be written into the request: without that, the model's maximum
    /// output applies to each of its turns.
    pub is_writable: bool,
    /// The most hosted tool calls, if the request offers hosted tools.
    pub tool_calls: u64,
    /// The most tokens that one hosted call adds to the context.
    pub tool_context_max: u64,
    /// How much the turns between hosted calls are assumed to read.
    pub tools_bound: ToolsBound,
    /// The tier that is served when a request names none.
    pub project_tier: Tier,
}

impl BoundInputs {
    /// Containers that one tool may start. It has one for the whole request; in the
    /// strict bound each call finds its container gone and starts another one.
    pub fn sessions(&self) -> u64 {
        if self.tools_bound == ToolsBound::Strict { self.tool_calls.max(1) } else { 1 }
    }
}

/// The most that a request can be billed for.
pub fn bound(price: &Price, image_price: Option<&Price>, demand: &Demand, inputs: BoundInputs) -> Bound {
    let Parts { model, second, fixed_pico, output_rate, is_by_units } =
        Parts::of(price, image_price, demand, inputs);
    let pico = fixed_pico.saturating_add(times(model.written, output_rate));
    if is_by_units {
        return Bound { cost: Money::from_pico_rounded_up(pico), ..Bound::default() };
    }
    Bound {
        cost: Money::from_pico_rounded_up(pico),
        input_tokens: model.input.saturating_add(second.input_tokens_total()),
        output_tokens: model.output().saturating_add(second.output_tokens_total()),
    }
}

/// The largest output per choice whose bound stays within `headroom`; zero if
/// there is none.
pub fn affordable_output(
    price: &Price,
    image_price: Option<&Price>,
    demand: &Demand,
    inputs: BoundInputs,
    headroom: Money,
) -> u64 {
    let parts = Parts::of(price, image_price, demand, inputs);
    let most = output_per_choice(price, demand, inputs.output_max);
    let left = (i128::from(headroom.nano()) * 1_000).saturating_sub(parts.fixed_pico);
    let per_token = i128::from(parts.output_rate) * i128::from(demand.choices.max(1));
    if left < 0 {
        return 0;
    }
    let affordable =
        left.checked_div(per_token).map_or(most, |tokens| u64::try_from(tokens).unwrap_or(u64::MAX));
    affordable.min(most)
}

/// The most that the text's bytes and the known context can cost as input, over all turns.
pub fn loose_cost(price: &Price, demand: &Demand, inputs: BoundInputs) -> Money {
    let first = text_bytes(demand).saturating_add(inputs.context_tokens.unwrap_or(0));
    let rates = dearest_rates(price, demand.tier, inputs.project_tier, first);
    let tokens = first.saturating_mul(turns(demand, inputs).prompts);
    Money::from_pico_rounded_up(times(tokens, dearest_rate(&rates, demand, Direction::Input)))
}

/// The most input tokens that `room` pays for, at the rates of a short context: never
/// fewer than those whose bound fits.
pub fn affordable_input(price: &Price, demand: &Demand, inputs: BoundInputs, room: Money) -> u64 {
    let rates = dearest_rates(price, demand.tier, inputs.project_tier, 0);
    let pico = i128::from(room.nano().max(0)) * 1_000;
    let tokens = pico.checked_div(i128::from(dearest_rate(&rates, demand, Direction::Input)));
    tokens.map_or(u64::MAX, |tokens| u64::try_from(tokens).unwrap_or(u64::MAX))
}

/// Whether the first turn reads something whose size only upstream knows.
pub fn reads_unseen(price: &Price, demand: &Demand, inputs: BoundInputs) -> bool {
    seen_tokens(price, demand, inputs).is_none()
}

/// Whether all that the request names and sends, and its answer, fit into the context
/// window, as far as the guard knows their sizes.
pub fn fits_window(price: &Price, demand: &Demand, inputs: BoundInputs) -> bool {
    let unseen = BoundInputs { prompt_tokens: None, ..inputs };
    let output = output_per_choice(price, demand, inputs.output_max);
    largest_prompt(price, demand, unseen).saturating_add(output) <= window(price)
}

/// The largest number of tokens that one turn may read.
pub fn window(price: &Price) -> u64 {
    price.max_input_tokens.unwrap_or(INPUT_MAX)
}

/// The most input tokens of all turns together, by the bound; compaction aside.
pub fn input_tokens(price: &Price, demand: &Demand, inputs: BoundInputs) -> u64 {
    input(price, demand, inputs).tokens
}

/// The most input tokens of one turn, by the bound.
pub fn largest_prompt(price: &Price, demand: &Demand, inputs: BoundInputs) -> u64 {
    ModelTokens::of(price, demand, inputs).largest_prompt
}

/// Bytes of the body that are text.
pub fn text_bytes(demand: &Demand) -> u64 {
    demand.body_bytes.saturating_sub(demand.media.inline_bytes())
}

/// A bound in its parts: what the output can't change, and the output's rate.
struct Parts {
    model: ModelTokens,
    /// Tokens of the image tool's model, or of the one that writes SVG.
    second: Quantities,
    fixed_pico: i128,
    output_rate: u64,
    /// Whether the model is billed by something else than tokens, and uses none.
    is_by_units: bool,
}

impl Parts {
    fn of(price: &Price, image_price: Option<&Price>, demand: &Demand, inputs: BoundInputs) -> Self {
        let model = ModelTokens::of(price, demand, inputs);
        let rates = dearest_rates(price, demand.tier, inputs.project_tier, model.largest_prompt);
        let output_rate = dearest_rate(&rates, demand, Direction::Output);
        let mut second = drawn::tool_tokens(demand, inputs, model.written);
        second += drawn::svg_tokens(image_price, demand);
        let of_tools = demand.tier.map(Tier::of_tools);
        let second_rates = image_price.map(|price| dearest_rates(price, of_tools, inputs.project_tier, 0));
        let fixed_pico = times(model.input, dearest_rate(&rates, demand, Direction::Input))
            .saturating_add(times(model.beside, output_rate))
            .saturating_add(fees_pico(price, demand, &rates, inputs))
            .saturating_add(rates.cost_pico(&demand.units))
            .saturating_add(second_rates.map_or(0, |rates| rates.cost_pico(&second)));
        let is_by_units =
            rates.cost_pico(&demand.units) > 0 && Class::tokens().all(|class| rates[class] == 0);
        Self { model, second, fixed_pico, output_rate, is_by_units }
    }
}

fn times(count: u64, rate: u64) -> i128 {
    i128::from(count).saturating_mul(i128::from(rate))
}

/// Input tokens over all turns, and those of the largest turn, which decides
/// whether the rates of a long context apply.
struct Input {
    tokens: u64,
    largest_prompt: u64,
}

/// How often the context is read, and how often a call has added to it by then.
struct Turns {
    prompts: u64,
    /// Calls that the last turn reads the results of.
    calls: u64,
}

fn turns(demand: &Demand, inputs: BoundInputs) -> Turns {
    let calls = match (demand.tools.loops, demand.tools.web_search) {
        (true, _) => inputs.tool_calls,
        // Chat completions search once for each request.
        (false, Some(_)) => 1,
        (false, None) => 0,
    };
    Turns { prompts: calls.saturating_add(1), calls }
}

/// The most input tokens that can be billed.
fn input(price: &Price, demand: &Demand, inputs: BoundInputs) -> Input {
    let window = window(price);
    let turns = turns(demand, inputs);
    let first = first_turn(price, demand, inputs);
    let Some(first) = first.filter(|_| !(inputs.tools_bound == ToolsBound::Strict && turns.calls > 0)) else {
        return Input { tokens: window.saturating_mul(turns.prompts), largest_prompt: window };
    };
    if turns.calls > 0 {
        let most = price.max_input_tokens.unwrap_or(u64::MAX);
        let added =
            u128::from(turns.calls) * u128::from(turns.prompts) / 2 * u128::from(inputs.tool_context_max);
        let read = u128::from(first).saturating_mul(u128::from(turns.prompts)).saturating_add(added);
        let tokens = u64::try_from(read).unwrap_or(u64::MAX).min(most.saturating_mul(turns.prompts));
        let last = first.saturating_add(turns.calls.saturating_mul(inputs.tool_context_max));
        return Input { tokens, largest_prompt: last.min(most) };
    }
    let tokens = match price.max_input_tokens {
        // The window of embeddings is that of one input of many.
        _ if is_embedding(price, demand) => first.min(EMBEDDINGS_TOKENS_MAX),
        // Each chunk of a recording has the window to itself.
        _ if demand.transcript.is_some_and(|transcript| transcript.in_chunks) => first,
        // A batch of prompts fills the window once for each.
        Some(window) => first.min(window.saturating_mul(demand.choices.max(1))),
        None => first,
    };
    Input { tokens, largest_prompt: tokens }
}

/// The most input tokens of the first turn; `None` if only upstream can tell.
pub fn first_turn(price: &Price, demand: &Demand, inputs: BoundInputs) -> Option<u64> {
    let seen = seen_tokens(price, demand, inputs);
    let first = match inputs.prompt_tokens {
        // The recorded size of a context may be less than what is read now.
        Some(counted) if inputs.context_tokens != Some(0) => Some(counted),
        // Whichever is smaller: both are upper bounds.
        counted => [counted, seen].into_iter().flatten().min(),
    };
    // Upstream asks the MCP servers for their tools only when the request runs.
    let listed = demand.tools.mcp_servers.saturating_mul(inputs.tool_context_max);
    first.map(|first| first.saturating_add(listed))
}

fn is_embedding(price: &Price, demand: &Demand) -> bool {
    price.max_output_tokens.is_none() && demand.output_max == Some(0)
}

/// Tokens of all that the first turn reads; `None` if only upstream can tell.
fn seen_tokens(price: &Price, demand: &Demand, inputs: BoundInputs) -> Option<u64> {
    let media = &demand.media;
    if demand.stored_prompt || media.opaque > 0 {
        return None;
    }
    let documents = if media.documents.is_empty() { Some(0) } else { inputs.document_tokens };
    let text = inputs.text_tokens.unwrap_or_else(|| text_bytes(demand));
    let text = text.saturating_mul(sound::chunks(demand));
    let mut tokens = text
        .saturating_add(audio_tokens(demand))
        .saturating_add(inputs.context_tokens?)
        .saturating_add(documents?);
    for image in &media.images {
        let read = if demand.drawing.is_some() {
            Some(image_tool::INPUT_TOKENS)
        } else {
            price.image_rule.tokens(*image)
        };
        tokens = tokens.saturating_add(read?);
    }
    Some(tokens)
}

/// The most tokens of a page of a document that is read as an image.
pub fn page_tokens(price: &Price) -> u64 {
    /// A page of unknown size, where the model has no budget for an image.
    const PAGE_TOKENS: u64 = 15_000;
    price.image_rule.tokens(Image::default()).unwrap_or(PAGE_TOKENS)
}

/// The most expensive rates that may apply: a requested tier may fall back to standard.
fn dearest_rates(price: &Price, requested: Option<Tier>, project_tier: Tier, input_tokens: u64) -> Rates {
    let rates = |tier| *price.rates(tier, input_tokens);
    // The long rates are not cheaper anywhere, but nothing says they can't be.
    let both = |tier| rates(tier).dearer(price.rates(tier, 0));
    let standard = both(Tier::Standard);
    match requested {
        None => both(project_tier).dearer(&standard),
        // Nothing of these is served at another tier.
        Some(tier @ (Tier::Batch | Tier::Decisions)) => both(tier),
        Some(Tier::Ultrafast) => both(Tier::Ultrafast).dearer(&both(Tier::Priority)).dearer(&standard),
        Some(tier) => both(tier).dearer(&standard),
    }
}

/// The dearest class that a token of the request's input, or output, may be in.
fn dearest_rate(rates: &Rates, demand: &Demand, direction: Direction) -> u64 {
    let of_direction = Class::tokens().filter(|class| class.direction() == direction);
    of_direction.filter(|class| may_have(demand, *class)).map(|class| rates[class]).max().unwrap_or(0)
}

/// Whether tokens that the model reads or writes may be of a class.
fn may_have(demand: &Demand, class: Class) -> bool {
    let media = &demand.media;
    let unseen =
        media.opaque > 0 || demand.server_context || demand.tools.loops || !demand.references.is_empty();
    match class {
        Class::Input | Class::CachedInput | Class::CacheWrite | Class::Output | Class::Reasoning => true,
        Class::CacheWrite12h => demand.cache_12h,
        Class::ImageInput | Class::ImageCachedInput => {
            unseen || !media.images.is_empty() || !media.documents.is_empty()
        }
        Class::AudioInput | Class::AudioCachedInput => unseen || media.audio_ms > 0 || demand.audio_output,
        Class::AudioOutput => demand.audio_output,
        // Those of the image tool are of a model of its own.
        Class::ImageOutput => demand.drawing.is_some(),
        Class::WebSearchCalls
        | Class::WebSearchPreviewCalls
        | Class::FileSearchCalls
        | Class::Container1gSessions
        | Class::Container4gSessions
        | Class::Container16gSessions
        | Class::Container64gSessions
        | Class::Images
        | Class::Characters
        | Class::AudioSeconds
        | Class::ContainerMinutes
        | Class::VectorStorage => false,
    }
}

/// The fees of hosted tools, images aside.
fn fees_pico(price: &Price, demand: &Demand, rates: &Rates, inputs: BoundInputs) -> i128 {
    let tools = &demand.tools;
    let calls = inputs.tool_calls;
    let mut pico = 0_i128;
    if let Some(kind) = tools.web_search {
        let searches = if kind == WebSearch::Chat { 1 } else { calls };
        let read = times(search_block(price, Some(kind)), rates[Class::Input]);
        let each = i128::from(rates[search_class(rates, Some(kind))]).saturating_add(read);
        pico = pico.saturating_add(i128::from(searches).saturating_mul(each));
    }
    if tools.file_search {
        pico = pico.saturating_add(times(calls, rates[Class::FileSearchCalls]));
    }
    let reused = tools.context_container.map_or(0, |memory| rates[memory.session()]);
    let containers = tools.containers.iter().map(|container| {
        let own = rates[container.memory_max().session()];
        match container {
            // Upstream may run it in one of the context instead.
            ContainerDemand::Made(_) => own.max(reused),
            ContainerDemand::Existing(_) | ContainerDemand::Found(_) => own,
        }
    });
    containers.fold(pico, |sum, session| sum.saturating_add(times(inputs.sessions(), session)))
}

#[cfg(test)]
mod tests;

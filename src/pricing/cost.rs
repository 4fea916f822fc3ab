//! What a usage costs: tokens at the served tier, and fees of hosted tools.

use std::cmp::Reverse;

use crate::domain::demand::{ContainerDemand, ImageTool, Tier, ToolDemand, WebSearch};
use crate::domain::usage::{ContainerMemory, ToolUse};
use crate::domain::{Class, Money, Quantities, Usage};
use crate::pricing::image_tool;
use crate::pricing::rates::Rates;
use crate::pricing::sheet::Price;

/// What a request cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// All of it.
    pub total: Money,
    /// The hosted tools' part.
    pub tool_fees: Money,
    /// What it is for, each in the class that it was charged at.
    pub quantities: Quantities,
}

/// The hosted tools that a request offered, as far as they decide a cost.
#[derive(Clone, Copy, Debug)]
pub struct Offer<'a> {
    /// The tools.
    pub tools: &'a ToolDemand,
    /// The price of the image tool's model. `None` if no image tool is offered or its
    /// model has no price; its tokens then cost nothing.
    pub image_price: Option<&'a Price>,
    /// Containers that one tool may have started.
    pub sessions: u64,
    /// Containers that ran and were there before. Each costs what it was made with,
    /// whatever was asked for.
    pub reused: &'a [ContainerMemory],
}

/// The cost of a usage.
pub fn cost(price: &Price, tier: Tier, usage: &Usage, offer: Offer<'_>) -> Cost {
    let prompt_tokens = usage.largest_prompt.unwrap_or_else(|| usage.tokens.input_tokens_total());
    let rates = price.rates(tier, prompt_tokens);
    let tools = charged(rates, &usage.tools, offer);
    let mut fees = rates.cost_pico(&tools.only(|class| !class.is_token()));
    let read = i128::from(search_block(price, offer.tools.web_search)) * i128::from(rates[Class::Input]);
    fees += i128::from(tools[Class::WebSearchCalls]) * read;
    if let Some(image) = offer.image_price {
        fees += image.rates(tier, 0).cost_pico(&tools.only(Class::is_token));
    }
    let total = Money::from_pico_rounded_up(rates.cost_pico(&usage.tokens) + fees);
    let mut quantities = usage.tokens;
    quantities += tools;
    Cost { total, tool_fees: Money::from_pico_rounded_up(fees), quantities }
}

/// What hosted tools used, each in the class that it is charged at.
fn charged(rates: &Rates, used: &ToolUse, offer: Offer<'_>) -> Quantities {
    let mut charged = used.quantities;
    let searches = std::mem::take(&mut charged[Class::WebSearchCalls]);
    charged.add(search_class(rates, offer.tools.web_search), searches);
    charged += sessions(rates, &offer.tools.containers, used.containers, offer.sessions);
    for memory in offer.reused {
        charged.add(memory.session(), 1);
    }
    charged
}

/// The most that calls of the image tool can have used of which nothing is
/// reported: each read an image and made one.
///
/// Each call reads the `pictures` of the request, and one that was made before. The
/// texts of all calls are a part of the model's `output`.
pub(crate) fn unreported_images(tool: &ImageTool, calls: u64, pictures: u64, output: u64) -> Quantities {
    let read = pictures.saturating_add(1).saturating_mul(image_tool::INPUT_TOKENS);
    Quantities::from([
        (Class::Input, if calls > 0 { output } else { 0 }),
        (Class::ImageInput, calls.saturating_mul(read)),
        (Class::ImageOutput, calls.saturating_mul(image_tool::output_tokens(tool))),
    ])
}

/// The class of searches by the kind of tool; the dearer if the request named none.
pub(crate) fn search_class(rates: &Rates, tool: Option<WebSearch>) -> Class {
    let (current, preview) = (Class::WebSearchCalls, Class::WebSearchPreviewCalls);
    match tool {
        Some(WebSearch::Current) => current,
        Some(WebSearch::Preview | WebSearch::Chat) => preview,
        None if rates[preview] < rates[current] => current,
        None => preview,
    }
}

/// The input tokens billed for what one search reads.
pub(crate) fn search_block(price: &Price, tool: Option<WebSearch>) -> u64 {
    if tool == Some(WebSearch::Current) { price.search_block_tokens } else { 0 }
}

/// The sessions of containers that ran. An answer does not say which tool started
/// which, so they are the dearest that the offered tools can have started; where
/// they are more than that, each is the dearest.
fn sessions(rates: &Rates, offered: &[ContainerDemand], used: u64, per_tool: u64) -> Quantities {
    let mut classes: Vec<Class> = offered.iter().map(|container| container.memory_max().session()).collect();
    classes.sort_unstable_by_key(|class| Reverse(rates[*class]));
    let dearest = classes.first().copied().unwrap_or_else(|| ContainerMemory::default().session());
    let (mut left, mut sessions) = (used, Quantities::default());
    for class in classes {
        let of_it = left.min(per_tool);
        left -= of_it;
        sessions.add(class, of_it);
    }
    if left == 0 { sessions } else { [(dearest, used)].into() }
}

/// What a container costs in some seconds of its life, by the minute's share of a
/// session of twenty minutes.
pub fn container_life(fees: &Rates, memory: ContainerMemory, seconds: i64) -> Money {
    let minutes = (i128::from(seconds.max(0)) + 59) / 60;
    Money::from_pico_rounded_up(i128::from(fees[memory.session()]) * minutes / 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::usage::ToolUse;
    use crate::pricing::sheet::Sheet;

    fn usd(model: &str, tier: Tier, tokens: Tokens, tools: ToolUse, asked: &ToolDemand) -> String {
        let sheet = Sheet::built_in(&[]).unwrap();
        let price = sheet.find(model, 1_795_000_000).unwrap();
        let offer = Offer { tools: asked, image_price: None, sessions: 1 };
        cost(&price, tier, &Usage { tokens, tools, largest_prompt: None }, offer).total.to_string()
    }

    #[test]
    fn published_examples_cost_what_they_should() {
        let t = Tokens::default();
        let cases = [
            ("gpt-4o-mini", Tier::Standard, Tokens { input: 1_000_000, ..t }, "0.15"),
            ("gpt-4o-mini", Tier::Standard, Tokens { input: 19, output: 10, ..t }, "0.00000885"),
            (
                "gpt-4o",
                Tier::Standard,
                Tokens { input: 500, cached_input: 500, output: 100, ..t },
                "0.002875",
            ),
            ("gpt-4o", Tier::Priority, Tokens { input: 1_000, output: 1_000, ..t }, "0.02125"),
            (
                "gpt-6.1-sol",
                Tier::Flex,
                Tokens { input: 3, cached_input: 8_385, cache_write: 89, ..t },
                "0.0005335",
            ),
            ("gpt-6.1-sol", Tier::Standard, Tokens { input: 272_001, output: 1, ..t }, "1.088019"),
            (
                "gpt-6.1-sol",
                Tier::Standard,
                Tokens { input: 1_000, reasoning: 900, output: 100, ..t },
                "0.012",
            ),
            ("gpt-6-luna", Tier::Standard, Tokens { cache_write_12h: 1_000, ..t }, "0.00025"),
            ("text-embedding-3-small", Tier::Standard, Tokens { input: 1, ..t }, "0.00000002"),
            ("gpt-audio", Tier::Standard, Tokens { audio_input: 1_000, audio_output: 1_000, ..t }, "0.096"),
        ];
        for (model, tier, tokens, expected) in cases {
            let asked = ToolDemand::default();
            assert_eq!(usd(model, tier, tokens, ToolUse::default(), &asked), expected, "{model} {tokens:?}");
        }
    }

    #[test]
    fn long_context_rates_follow_the_largest_turn() {
        let price = Sheet::built_in(&[]).unwrap().find("gpt-6.1-sol", 1_795_000_000).unwrap();
        let tokens = Tokens { input: 300_000, ..Tokens::default() };
        let read = |largest_prompt| {
            let usage = Usage { tokens, tools: ToolUse::default(), largest_prompt };
            let offer = Offer { tools: &ToolDemand::default(), image_price: None, sessions: 1 };
            cost(&price, Tier::Standard, &usage, offer).total.to_string()
        };
        assert_eq!(read(None), "1.2", "at once");
        assert_eq!(read(Some(100_000)), "0.6", "in three turns");
        assert_eq!(read(Some(272_001)), "1.2", "one turn is enough");
    }

    #[test]
    fn above_the_long_context_step_a_class_without_a_price_is_long_input() {
        let tokens = Tokens { input: 200_000, cached_input: 100_000, ..Tokens::default() };
        let asked = ToolDemand::default();
        assert_eq!(usd("gpt-5.5-pro", Tier::Standard, tokens, ToolUse::default(), &asked), "18");
        let written = Tokens { cache_write: 100_000, input: 200_000, ..Tokens::default() };
        assert_eq!(usd("gpt-5.5-pro", Tier::Standard, written, ToolUse::default(), &asked), "18");
        // A long context's own price of a short life is no less than that of the long life.
        let long_life = Tokens { cache_write_12h: 300_000, ..Tokens::default() };
        assert_eq!(usd("gpt-5.6-cyber", Tier::Standard, long_life, ToolUse::default(), &asked), "9.375");
    }

    #[test]
    fn cached_images_cost_as_cached_text_where_images_cost_as_text() {
        let tokens = Tokens {
            cached_input: 1_000,
            image_cached_input: 4_000,
            image_input: 5_000,
            ..Tokens::default()
        };
        let cost = |model| usd(model, Tier::Standard, tokens, ToolUse::default(), &ToolDemand::default());
        assert_eq!(cost("gpt-4o"), "0.01875");
        // Where images have a price of their own, cached ones without one cost it.
        let audio = Tokens { audio_cached_input: 1_000, ..Tokens::default() };
        let cost = usd("gpt-audio", Tier::Standard, audio, ToolUse::default(), &ToolDemand::default());
        assert_eq!(cost, "0.032");
    }

    #[test]
    fn hosted_tools_have_fees_of_their_own() {
        let asked = |web_search| ToolDemand { web_search, ..ToolDemand::default() };
        let searched = ToolUse { web_searches: 2, ..ToolUse::default() };
        let none = Tokens::default();
        let cost = |model, tools, asked: &ToolDemand| usd(model, Tier::Standard, none, tools, asked);
        assert_eq!(cost("gpt-5", searched.clone(), &asked(Some(WebSearch::Current))), "0.02");
        assert_eq!(cost("gpt-4o", searched.clone(), &asked(Some(WebSearch::Preview))), "0.05");
        assert_eq!(cost("gpt-4o-mini", searched, &asked(Some(WebSearch::Current))), "0.0224");
        let files = ToolUse { file_searches: 4, ..ToolUse::default() };
        assert_eq!(cost("gpt-5", files, &asked(None)), "0.01");
    }

    #[test]
    fn containers_that_ran_are_the_dearest_that_the_tools_can_have_started() {
        use ContainerMemory::{G1, G4, G64};
        let usd = |offered: &[ContainerMemory], used, sessions| {
            let offered: Vec<_> = offered.iter().copied().map(ContainerDemand::Made).collect();
            Money::from_pico_rounded_up(containers_pico(&offered, used, sessions)).to_string()
        };
        assert_eq!(usd(&[G1, G4], 1, 1), "0.12");
        assert_eq!(usd(&[G1, G4], 2, 1), "0.15", "one of each");
        assert_eq!(usd(&[G1, G4], 3, 1), "0.36", "a tool has started more than one");
        assert_eq!(usd(&[G1, G64, G1], 3, 1), "1.98");
        assert_eq!(usd(&[G1, G4], 2, 8), "0.24", "one tool may have started both");
        assert_eq!(usd(&[], 2, 1), "0.06", "nothing that was offered starts one");
        let unknown = [ContainerDemand::Existing("cntr_1".to_owned())];
        assert_eq!(containers_pico(&unknown, 1, 1), i128::from(session_pico(G64)));
    }
}

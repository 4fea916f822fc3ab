//! The cost of a usage: tokens at the served tier, and fees of hosted tools.

use std::cmp::Reverse;

use crate::domain::demand::{ContainerDemand, ImageDemand, Tier, ToolDemand, WebSearch};
use crate::domain::usage::{ContainerMemory, ToolUse};
use crate::domain::{Class, Money, Quantities, Usage};
use crate::pricing::image_tool;
use crate::pricing::rates::Rates;
use crate::pricing::sheet::Price;

/// The cost of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// The total, in picodollars.
    pub pico: i128,
    /// The hosted tools' part, in picodollars.
    pub fees_pico: i128,
    /// The quantities, each in the class that it was charged at.
    pub quantities: Quantities,
}

impl Cost {
    /// The total, rounded up.
    pub fn total(&self) -> Money {
        Money::from_pico_rounded_up(self.pico)
    }

    /// The hosted tools' part, rounded up.
    pub fn tool_fees(&self) -> Money {
        Money::from_pico_rounded_up(self.fees_pico)
    }
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
        fees += image.rates(tier.of_tools(), 0).cost_pico(&tools.only(Class::is_token));
    }
    let mut quantities = usage.tokens;
    quantities += tools;
    Cost { pico: rates.cost_pico(&usage.tokens) + fees, fees_pico: fees, quantities }
}

/// The usage of hosted tools, each in the class that it is charged at.
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

/// The most that unreported calls of the image tool can have used: each read an
/// image and made one.
///
/// Each call reads the `pictures` of the request, and one that was made before. The
/// texts of all calls are a part of the model's `output`.
pub(crate) fn unreported_images(tool: &ImageDemand, calls: u64, pictures: u64, output: u64) -> Quantities {
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
        None if rates[preview] < rates[current] => current,
        Some(WebSearch::Preview | WebSearch::Chat) | None => preview,
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

/// The cost of some seconds of a container's life: by the minute, as a share of a
/// session of twenty minutes.
pub fn container_life(fees: &Rates, memory: ContainerMemory, seconds: i64) -> Money {
    session_minutes(fees[memory.session()], seconds.max(0).saturating_add(59) / 60)
}

/// The cost of some minutes at the rate of a session of twenty, in picodollars.
pub fn session_minutes(session: u64, minutes: i64) -> Money {
    let pico = i128::from(session).saturating_mul(i128::from(minutes));
    Money::from_pico_rounded_up((pico + 19) / 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pricing::sheet::Sheet;

    fn usd(model: &str, tier: Tier, tokens: Quantities, tools: ToolUse, offered: &ToolDemand) -> String {
        let sheet = Sheet::built_in(&[]).unwrap();
        let price = sheet.find(model, 1_795_000_000).unwrap();
        let offer = Offer { tools: offered, image_price: None, sessions: 1, reused: &[] };
        cost(&price, tier, &Usage { tokens, tools, largest_prompt: None }, offer).total().to_string()
    }

    #[test]
    fn published_examples_cost_what_they_should() {
        let cases = [
            ("gpt-4o-mini", Tier::Standard, Quantities::from([(Class::Input, 1_000_000)]), "0.15"),
            (
                "gpt-4o-mini",
                Tier::Standard,
                Quantities::from([(Class::Input, 19), (Class::Output, 10)]),
                "0.00000885",
            ),
            (
                "gpt-4o",
                Tier::Standard,
                Quantities::from([(Class::Input, 500), (Class::CachedInput, 500), (Class::Output, 100)]),
                "0.002875",
            ),
            (
                "gpt-4o",
                Tier::Priority,
                Quantities::from([(Class::Input, 1_000), (Class::Output, 1_000)]),
                "0.02125",
            ),
            (
                "gpt-6.1-sol",
                Tier::Flex,
                Quantities::from([(Class::Input, 3), (Class::CachedInput, 8_385), (Class::CacheWrite, 89)]),
                "0.0005335",
            ),
            (
                "gpt-6.1-sol",
                Tier::Standard,
                Quantities::from([(Class::Input, 272_001), (Class::Output, 1)]),
                "1.088019",
            ),
            (
                "gpt-6.1-sol",
                Tier::Standard,
                Quantities::from([(Class::Input, 1_000), (Class::Reasoning, 900), (Class::Output, 100)]),
                "0.012",
            ),
            ("gpt-6-luna", Tier::Standard, Quantities::from([(Class::CacheWrite12h, 1_000)]), "0.00025"),
            ("text-embedding-3-small", Tier::Standard, Quantities::from([(Class::Input, 1)]), "0.00000002"),
            (
                "gpt-audio",
                Tier::Standard,
                Quantities::from([(Class::AudioInput, 1_000), (Class::AudioOutput, 1_000)]),
                "0.096",
            ),
        ];
        for (model, tier, tokens, expected) in cases {
            let offered = ToolDemand::default();
            assert_eq!(
                usd(model, tier, tokens, ToolUse::default(), &offered),
                expected,
                "{model} {tokens:?}"
            );
        }
    }

    #[test]
    fn long_context_rates_follow_the_largest_turn() {
        let price = Sheet::built_in(&[]).unwrap().find("gpt-6.1-sol", 1_795_000_000).unwrap();
        let tokens = Quantities::from([(Class::Input, 300_000)]);
        let read = |largest_prompt| {
            let usage = Usage { tokens, tools: ToolUse::default(), largest_prompt };
            let offer = Offer { tools: &ToolDemand::default(), image_price: None, sessions: 1, reused: &[] };
            cost(&price, Tier::Standard, &usage, offer).total().to_string()
        };
        assert_eq!(read(None), "1.2", "at once");
        assert_eq!(read(Some(100_000)), "0.6", "in three turns");
        assert_eq!(read(Some(272_001)), "1.2", "one turn is enough");
    }

    #[test]
    fn above_the_long_context_step_a_class_without_a_price_is_long_input() {
        let tokens = Quantities::from([(Class::Input, 200_000), (Class::CachedInput, 100_000)]);
        let offered = ToolDemand::default();
        assert_eq!(usd("gpt-5.5-pro", Tier::Standard, tokens, ToolUse::default(), &offered), "18");
        let written = Quantities::from([(Class::CacheWrite, 100_000), (Class::Input, 200_000)]);
        assert_eq!(usd("gpt-5.5-pro", Tier::Standard, written, ToolUse::default(), &offered), "18");
        // A long context's own price of a short life is no less than that of the long life.
        let long_life = Quantities::from([(Class::CacheWrite12h, 300_000)]);
        assert_eq!(usd("gpt-5.6-cyber", Tier::Standard, long_life, ToolUse::default(), &offered), "9.375");
    }

    #[test]
    fn cached_images_cost_as_cached_text_where_images_cost_as_text() {
        let tokens = Quantities::from([
            (Class::CachedInput, 1_000),
            (Class::ImageCachedInput, 4_000),
            (Class::ImageInput, 5_000),
        ]);
        let cost = |model| usd(model, Tier::Standard, tokens, ToolUse::default(), &ToolDemand::default());
        assert_eq!(cost("gpt-4o"), "0.01875");
        // Where images have a price of their own, cached ones without one cost it.
        let audio = Quantities::from([(Class::AudioCachedInput, 1_000)]);
        let cost = usd("gpt-audio", Tier::Standard, audio, ToolUse::default(), &ToolDemand::default());
        assert_eq!(cost, "0.032");
    }

    #[test]
    fn hosted_tools_have_fees_of_their_own() {
        let offered = |web_search| ToolDemand { web_search, ..ToolDemand::default() };
        let calls = |class, count| ToolUse { quantities: [(class, count)].into(), containers: 0 };
        let searched = calls(Class::WebSearchCalls, 2);
        let none = Quantities::default();
        let cost = |model, tools, offered: &ToolDemand| usd(model, Tier::Standard, none, tools, offered);
        assert_eq!(cost("gpt-5", searched, &offered(Some(WebSearch::Current))), "0.02");
        assert_eq!(cost("gpt-4o", searched, &offered(Some(WebSearch::Preview))), "0.05");
        assert_eq!(cost("gpt-4o-mini", searched, &offered(Some(WebSearch::Current))), "0.0224");
        let files = calls(Class::FileSearchCalls, 4);
        assert_eq!(cost("gpt-5", files, &offered(None)), "0.01");
    }

    #[test]
    fn containers_that_ran_are_the_dearest_that_the_tools_can_have_started() {
        use ContainerMemory::{G1, G4, G64};
        let sheet = Sheet::built_in(&[]).unwrap();
        let usd = |offered: &[ContainerMemory], used, per_tool| {
            let offered: Vec<_> = offered.iter().copied().map(ContainerDemand::Made).collect();
            let sessions = sessions(sheet.fees(), &offered, used, per_tool);
            Money::from_pico_rounded_up(sheet.fees().cost_pico(&sessions)).to_string()
        };
        assert_eq!(usd(&[G1, G4], 1, 1), "0.12");
        assert_eq!(usd(&[G1, G4], 2, 1), "0.15", "one of each");
        assert_eq!(usd(&[G1, G4], 3, 1), "0.36", "a tool has started more than one");
        assert_eq!(usd(&[G1, G64, G1], 3, 1), "1.98");
        assert_eq!(usd(&[G1, G4], 2, 8), "0.24", "one tool may have started both");
        assert_eq!(usd(&[], 2, 1), "0.06", "nothing that was offered starts one");
        let unknown = [ContainerDemand::Existing("cntr_1".to_owned())];
        let largest = [(Class::Container64gSessions, 1)].into();
        assert_eq!(sessions(sheet.fees(), &unknown, 1, 1), largest);
    }

    #[test]
    fn what_is_charged_is_in_the_class_whose_rate_it_costs() {
        let sheet = Sheet::built_in(&[]).unwrap();
        let price = sheet.find("gpt-4o", 1_795_000_000).unwrap();
        let image_price = sheet.find("gpt-image-1", 1_795_000_000).unwrap();
        let quantities =
            [(Class::WebSearchCalls, 2), (Class::FileSearchCalls, 3), (Class::ImageOutput, 70)].into();
        let tools = ToolUse { quantities, containers: 1 };
        let usage = Usage { tokens: [(Class::Input, 9)].into(), tools, largest_prompt: None };
        let offered = ToolDemand {
            web_search: Some(WebSearch::Preview),
            containers: vec![ContainerDemand::Made(ContainerMemory::G4)],
            ..ToolDemand::default()
        };
        let reused = &[ContainerMemory::G16];
        let offer = Offer { tools: &offered, image_price: Some(&image_price), sessions: 1, reused };
        let cost = cost(&price, Tier::Standard, &usage, offer);
        let charged = [
            (Class::Input, 9),
            (Class::ImageOutput, 70),
            (Class::WebSearchPreviewCalls, 2),
            (Class::FileSearchCalls, 3),
            (Class::Container4gSessions, 1),
            (Class::Container16gSessions, 1),
        ];
        assert_eq!(cost.quantities, charged.into());
        // 2 x 0.025, 3 x 0.0025, 0.12, 0.48, and 70 tokens at 40 a million.
        assert_eq!(cost.tool_fees().to_string(), "0.6603");
        assert_eq!((cost.total() - cost.tool_fees()).to_string(), "0.0000225", "9 tokens at 2.5 a million");
    }
}

//! The built-in sheet, names, dates, regions, families.

use super::*;
use crate::domain::Quantities;
use crate::pricing::rates::{NamedRates, Rates};

const NOW_S: i64 = 1_795_000_000;

fn sheet() -> Sheet {
    Sheet::built_in(&[]).unwrap()
}

/// A rate of text input alone.
fn named(input: &str) -> NamedRates {
    NamedRates { classes: [(Class::Input, input.to_owned())].into(), long: None }
}

/// One unit of each class that is not of tokens.
fn one_of_each_fee() -> Quantities {
    let mut quantities = Quantities::default();
    for class in Class::ALL.into_iter().filter(|class| !class.is_token()) {
        quantities[class] = 1;
    }
    quantities
}

#[test]
fn an_image_tool_without_a_model_is_the_dearest_that_is_served_that_day() {
    let sheet = Sheet::built_in(&[]).unwrap();
    let id = |day: &str| sheet.dearest_image_model(day_s(day).unwrap()).unwrap().id.to_string();
    assert_eq!(id("2026-10-22"), "gpt-image-1");
    assert_eq!(id("2026-11-28"), "gpt-image-1.5");
    assert_eq!(id("2026-12-01"), "gpt-image-2");
    let gone = r#"{"as_of": "2026-11-21", "models": {"gpt-image-1": {"mode": "image_generation",
        "shutdown": "2026-10-23", "rates": {"standard": {"input": "5", "image_output": "40"}}}}}"#;
    let gone = Sheet::parse(gone, &[]).unwrap().dearest_image_model(day_s("2026-11-28").unwrap());
    assert_eq!(gone.map(|price| price.id.to_string()).as_deref(), Some("gpt-image-1"), "no other is known");
    let none = Sheet::parse(r#"{"as_of": "2026-11-21", "models": {}}"#, &[]).unwrap();
    assert_eq!(none.dearest_image_model(0), None);
}

#[test]
fn names_resolve_to_their_prices() {
    for (name, id) in [
        ("gpt-4o-mini", "gpt-4o-mini"),
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini-2024-07-18"),
        ("gpt-6.1-sol-2026-09-29", "gpt-6.1-sol"),
        ("ft:gpt-4o-mini-2024-07-18:acme:support:abc", "ft:gpt-4o-mini-2024-07-18"),
        ("ft:gpt-4o-mini:acme::abc", "ft:gpt-4o-mini-2024-07-18"),
    ] {
        assert_eq!(sheet().find(name, NOW_S).map(|p| p.id.to_string()).as_deref(), Some(id), "{name}");
    }
    for name in ["gpt-9", "gpt-4o-mini-2024-7-18", "ft:unknown:x", "", "GPT-4o"] {
        assert!(sheet().find(name, NOW_S).is_none(), "{name}");
    }
}

#[test]
fn published_rates_are_what_the_sheet_says() {
    let sheet = sheet();
    let rates = |model: &str, tier, input| *sheet.find(model, NOW_S).unwrap().rates(tier, input);
    assert_eq!(rates("gpt-4o-mini", Tier::Standard, 0)[Class::Input], 150_000);
    assert_eq!(rates("gpt-4o-mini", Tier::Standard, 0)[Class::CachedInput], 75_000);
    assert_eq!(rates("gpt-4o-mini", Tier::Priority, 0)[Class::Output], 1_000_000);
    assert_eq!(rates("gpt-6.1-sol", Tier::Standard, 272_000)[Class::Output], 10_000_000);
    assert_eq!(rates("gpt-6.1-sol", Tier::Standard, 272_001)[Class::Output], 15_000_000);
    assert_eq!(rates("gpt-6.1-sol", Tier::Ultrafast, 0)[Class::CacheWrite12h], 30_000_000);
    assert_eq!(rates("text-embedding-3-small", Tier::Standard, 0)[Class::Input], 20_000);
    assert_eq!(
        rates("gpt-5.5-pro", Tier::Flex, 300_000)[Class::Output],
        270_000_000,
        "no long flex: as standard"
    );
    assert_eq!(
        rates("gpt-4", Tier::Priority, 0)[Class::Input],
        75_000_000,
        "no priority: 2.5 times standard"
    );
}

#[test]
fn an_override_starts_on_its_date_and_marks_the_version() {
    let price = Override {
        model: "gpt-4o-mini".into(),
        effective_from_s: Some(NOW_S),
        rates: named("1.5"),
        ..Override::default()
    };
    let sheet = Sheet::built_in(&[price]).unwrap();
    let rate = |at_s| sheet.find("gpt-4o-mini", at_s).unwrap().rates(Tier::Standard, 0)[Class::Input];
    assert_eq!((rate(NOW_S - 1), rate(NOW_S)), (150_000, 1_500_000));
    assert!(sheet.version().starts_with("2026-11-21+"));
    let bad = Override { model: "x".into(), rates: named("0.0000001"), ..Override::default() };
    assert!(Sheet::built_in(&[bad]).unwrap_err().problem.contains("millionth"));
}

#[test]
fn nothing_in_the_sheet_is_dearer_than_the_dearest() {
    let sheet = sheet();
    let dearest = sheet.dearest(NOW_S);
    for price in sheet.models(NOW_S) {
        for tier in
            [Tier::Decisions, Tier::Batch, Tier::Flex, Tier::Standard, Tier::Priority, Tier::Ultrafast]
        {
            for input in [0, 1_000_000] {
                let most = dearest.rates(tier, input);
                assert_eq!(most.dearer(price.rates(tier, input)), *most, "{}", price.id);
            }
        }
    }
}

#[test]
fn a_sheet_says_when_it_is_stale() {
    let sheet = sheet();
    assert!(!sheet.is_stale(sheet.as_of_s() + 44 * 86_400));
    assert!(sheet.is_stale(sheet.as_of_s() + 46 * 86_400));
}

fn rates(sheet: &Sheet, model: &str, day: &str, input_tokens: u64) -> Rates {
    *sheet.find(model, day_s(day).unwrap()).unwrap().rates(Tier::Standard, input_tokens)
}

#[test]
fn a_promotion_ends_with_its_last_sure_day() {
    let sheet = sheet();
    for model in ["gpt-5.6-sol", "gpt-5.6", "gpt-5.6-sol-2026-09-01", "daybreak-blue-latest"] {
        let on = |day| rates(&sheet, model, day, 0);
        assert_eq!(
            (on("2026-11-21")[Class::Input], on("2026-11-21")[Class::Output]),
            (4_000_000, 20_000_000),
            "{model}"
        );
        assert_eq!(
            (on("2026-11-22")[Class::Input], on("2026-11-22")[Class::Output]),
            (5_000_000, 30_000_000),
            "{model}"
        );
        let long = rates(&sheet, model, "2026-11-28", 300_000);
        assert_eq!(
            (long[Class::Input], long[Class::CachedInput], long[Class::Output]),
            (10_000_000, 1_000_000, 45_000_000)
        );
    }
    let price = sheet.find("gpt-5.6-sol", day_s("2026-11-22").unwrap()).unwrap();
    assert_eq!(price.rates(Tier::Flex, 0)[Class::Output], 15_000_000);
    assert_eq!(price.rates(Tier::Batch, 0)[Class::Output], 15_000_000);
    assert_eq!(price.rates(Tier::Priority, 0)[Class::CacheWrite12h], 25_000_000);
}

#[test]
fn a_preview_search_costs_less_of_a_model_that_reasons() {
    let sheet = sheet();
    let fee = |model: &str| {
        sheet.find(model, NOW_S).unwrap().rates(Tier::Standard, 0)[Class::WebSearchPreviewCalls]
    };
    for model in ["gpt-5.4", "gpt-5", "gpt-5.1-codex", "gpt-6.1-sol", "gpt-6-cyber", "o1", "o3-mini"] {
        assert_eq!(fee(model), 10_000_000_000, "{model}");
    }
    for model in ["gpt-4o", "gpt-4.1", "gpt-5.1-chat-latest", "gpt-4o-search-preview"] {
        assert_eq!(fee(model), 25_000_000_000, "{model}");
    }
}

#[test]
fn what_a_model_costs_from_a_day_on_is_never_cheaper_than_before() {
    let sheet = sheet();
    for (id, dates) in &sheet.models {
        for pair in dates.windows(2) {
            let [(_, later), (_, earlier)] = pair else { continue };
            let (new, old) = (later.rates(Tier::Standard, 0), earlier.rates(Tier::Standard, 0));
            assert_eq!(new.dearer(old), *new, "{id}: an announced fall is not sure");
        }
    }
}

#[test]
fn a_region_raises_every_rate_of_the_models_it_is_documented_for() {
    let (plain, european) = (sheet(), sheet().in_region("eu"));
    assert_eq!(&**european.version(), "2026-11-21+eu");
    for (model, tenths) in [("gpt-6.1-sol", 11), ("gpt-5.4-mini", 11), ("gpt-4o", 10), ("o3", 10)] {
        let (without, with) = (plain.find(model, NOW_S).unwrap(), european.find(model, NOW_S).unwrap());
        for tier in
            [Tier::Decisions, Tier::Batch, Tier::Flex, Tier::Standard, Tier::Priority, Tier::Ultrafast]
        {
            for input in [0, 1_000_000] {
                assert_eq!(*with.rates(tier, input), without.rates(tier, input).scaled(tenths), "{model}");
            }
        }
        let fees = |price: &Price| price.rates(Tier::Priority, 0).cost_pico(&one_of_each_fee());
        assert_eq!(fees(&with), fees(&without), "fees of tools have no uplift");
    }
    let own = Override { model: "gpt-6.1-sol".into(), rates: named("7"), ..Override::default() };
    let overridden = Sheet::built_in(&[own]).unwrap().in_region("us");
    let price = overridden.find("gpt-6.1-sol", NOW_S).unwrap();
    assert_eq!(
        price.rates(Tier::Standard, 0)[Class::Input],
        7_000_000,
        "an operator's price is what is paid"
    );
}

#[test]
fn an_unknown_version_costs_as_the_dearest_of_its_family() {
    let sheet = sheet();
    let at_s = day_s("2026-11-28").unwrap();
    for (unknown, dearest) in [
        ("gpt-6.2-sol", "gpt-5.6-sol"),
        ("gpt-6.2-sol-2026-12-01", "gpt-5.6-sol"),
        ("gpt-6.2-terra", "gpt-5.6-terra"),
        ("gpt-5.7-mini", "gpt-5.4-mini"),
        ("gpt-5.6-pro", "gpt-5.5-pro"),
        ("gpt-6.2", "gpt-6-cyber"),
    ] {
        assert!(sheet.find(unknown, at_s).is_none());
        let price = sheet.family(unknown, at_s).unwrap();
        assert_eq!(&*price.id, unknown.trim_end_matches("-2026-12-01"));
        let like = sheet.find(dearest, at_s).unwrap();
        for tier in
            [Tier::Decisions, Tier::Batch, Tier::Flex, Tier::Standard, Tier::Priority, Tier::Ultrafast]
        {
            for input in [0, 1_000_000] {
                let (most, like) = (price.rates(tier, input), like.rates(tier, input));
                assert_eq!(most.dearer(like), *most, "{unknown} {tier:?}");
            }
        }
        assert_eq!(
            price.rates(Tier::Standard, 0)[Class::Output],
            like.rates(Tier::Standard, 0)[Class::Output],
            "{unknown}"
        );
    }
    for unknown in ["gpt-9", "mystery", "ft:gpt-6.2-sol:acme::x", "claude-sol", ""] {
        assert!(sheet.family(unknown, at_s).is_none(), "{unknown}");
    }
}

#[test]
fn a_picture_for_an_unknown_version_takes_no_fewer_tokens_than_for_one_of_its_family() {
    use crate::domain::demand::{Detail, Image};
    let sheet = sheet();
    let picture = Image { size: Some((1_024, 1_024)), detail: Detail::Auto };
    for (name, tokens) in [("gpt-6.9-mini", 1_659), ("gpt-6.9-nano", 2_520)] {
        let price = sheet.family(name, NOW_S).unwrap();
        assert!(price.image_rule.tokens(picture).unwrap() >= tokens, "{name}: {:?}", price.image_rule);
        assert!(price.may_reason, "{name}");
    }
}

#[test]
fn the_dearest_of_a_family_is_dearer_than_each_of_it() {
    let sheet = sheet();
    for price in sheet.models(NOW_S) {
        let Some(family) = sheet.family(&price.id, NOW_S) else { continue };
        for tier in
            [Tier::Decisions, Tier::Batch, Tier::Flex, Tier::Standard, Tier::Priority, Tier::Ultrafast]
        {
            for input in [0, 272_000, 272_001, 1_000_000] {
                let (most, one) = (family.rates(tier, input), price.rates(tier, input));
                assert_eq!(most.dearer(one), *most, "{} {tier:?} {input}", price.id);
            }
        }
    }
}

#[test]
fn a_sheet_without_facts_has_those_of_the_built_in_one() {
    let json = r#"{"as_of": "2026-11-01", "models": {"gpt-4o": {"rates": {"standard": {"input": "3"}}}}}"#;
    let sheet = Sheet::parse(json, &[]).unwrap();
    assert!(!sheet.find("gpt-4o", NOW_S).unwrap().may_reason);
    assert_eq!(sheet.family("gpt-4o-2027", NOW_S).unwrap().rates(Tier::Standard, 0)[Class::Input], 3_000_000);
    let bad = r#"{"as_of": "2026-11-01", "models": {}, "families": [{"family": "x", "models": []}]}"#;
    assert!(Sheet::parse(bad, &[]).unwrap_err().problem.contains("no models"));
}

#[test]
fn fees_are_those_of_the_sheet_then_of_the_built_in_one() {
    let with = |fees: &str| {
        let models = r#"{"gpt-4o": {"rates": {"standard": {"input": "3"}, "priority": {"input": "4"}}}}"#;
        Sheet::parse(&format!(r#"{{"as_of": "2026-11-01", "models": {models}, "fees": {fees}}}"#), &[])
    };
    let own = with(r#"{"file_search_calls": "3", "container_1g_sessions": "0.05"}"#).unwrap();
    assert_eq!(own.fees()[Class::FileSearchCalls], 3_000_000_000);
    assert_eq!(own.fees()[Class::Container1gSessions], 50_000_000_000);
    assert_eq!(own.fees()[Class::WebSearchCalls], sheet().fees()[Class::WebSearchCalls]);
    let price = own.find("gpt-4o", NOW_S).unwrap();
    for tier in [Tier::Decisions, Tier::Batch, Tier::Flex, Tier::Standard, Tier::Priority, Tier::Ultrafast] {
        let rates = price.rates(tier, 0);
        assert_eq!(rates.cost_pico(&one_of_each_fee()), own.fees().cost_pico(&one_of_each_fee()), "{tier:?}");
    }
    for (fees, problem) in [
        (r#"{"input": "1"}"#, "fees: input is priced by model"),
        (r#"{"sessions": "1"}"#, "there is no class \"sessions\""),
        (r#"{"file_search_calls": "-1"}"#, "negative"),
        (r#"{"container_64g_sessions": "9000000000"}"#, "too much"),
    ] {
        let error = with(fees).unwrap_err();
        assert!(error.model == "prices" && error.problem.contains(problem), "{error}");
    }
}

//! What is drawn at random agrees with itself.

use oracle::answer::answer;
use oracle::draw::{Sizes, body};
use oracle::outcome::End;
use oracle::world::{Broken, TextCount};
use oracle::{Ask, Chance, Endpoint, Outcome, World, maximum};

const SEEDS: u64 = 1_500;

#[test]
fn no_outcome_costs_more_than_the_maximum() {
    let (mut charged, mut streams) = (0, 0);
    for seed in 0..SEEDS {
        let mut chance = Chance::of_seed(seed);
        let mut world = World::furnished();
        world.is_regional = chance.percent(20);
        world.assumed.text = chance.one(&[TextCount::Bytes, TextCount::Pieces]);
        let endpoint = chance.one(&Endpoint::ALL);
        let body = body(&mut chance, endpoint, Sizes::SMALL);
        let Some(ask) = Ask::read(&world, endpoint, &body) else { continue };
        let most = maximum::of(&world, &ask);
        for _ in 0..5 {
            let outcome = Outcome::draw(&mut chance, &world, &ask);
            let charge = outcome.charge(&world, &ask, outcome.words);
            assert!(charge <= most, "seed {seed}: {charge} > {most}\n{ask:#?}\n{outcome:#?}");
            charged += u32::from(charge > 0);
            let answer = answer(&outcome, &ask, "id");
            streams += u32::from(answer.content_type.starts_with("text/event-stream"));
            let words: u64 = answer.parts.iter().map(|part| part.words).sum();
            let is_whole = !matches!(outcome.end, End::Cut | End::FailedAtOnce | End::Lost);
            assert!(words == outcome.words || !is_whole, "seed {seed}: {outcome:?}");
            let stages = outcome.stages(&world, &ask);
            assert!(stages.is_sorted(), "seed {seed}: {stages:?} of {outcome:?}");
            let whole = Outcome { end: if charge > 0 { End::Cut } else { outcome.end }, ..outcome.clone() };
            assert_eq!(stages.last(), Some(&whole.charge(&world, &ask, 0)), "seed {seed}: {outcome:?}");
            let shown: usize = answer.parts.iter().map(|part| part.stages).sum();
            let is_shown = ask.endpoint == Endpoint::Responses && ask.stream && is_whole && charge > 0;
            assert!(
                !is_shown || outcome.end == End::Gateway || shown + 1 == stages.len(),
                "seed {seed}: {outcome:?}"
            );
        }
    }
    assert!(charged > 5_000 && streams > 1_000, "{charged} were charged, {streams} were streams");
}

#[test]
fn broken_assumptions_cost_more_than_the_maximum() {
    for broken in Broken::ALL {
        let over = (0..SEEDS).filter(|seed| {
            let mut chance = Chance::of_seed(*seed);
            let world = World { broken: Some(broken), ..World::furnished() };
            let endpoint = chance.one(&Endpoint::ALL);
            let body = body(&mut chance, endpoint, Sizes::SMALL);
            let Some(ask) = Ask::read(&world, endpoint, &body) else { return false };
            (0..10).any(|_| {
                let outcome = Outcome::draw(&mut chance, &world, &ask);
                outcome.charge(&world, &ask, outcome.words) > maximum::of(&world, &ask)
            })
        });
        // Few requests have containers that are dearer than the context they may read.
        let least = if broken == Broken::Sessions { 1 } else { 6 };
        let count = over.count();
        assert!(count >= least, "{broken:?}: {count}");
    }
}

#[test]
fn requests_of_a_fuzzer_are_drawn_from_whatever_bytes() {
    for seed in 0..500 {
        let mut noise = Chance::of_seed(seed);
        let bytes: Vec<u8> = (0..seed).map(|_| u8::try_from(noise.within(0, 255)).expect("a byte")).collect();
        let mut chance = Chance::of_bytes(&bytes);
        let endpoint = chance.one(&Endpoint::ALL);
        let body = body(&mut chance, endpoint, Sizes::SMALL);
        serde_json::from_slice::<serde_json::Value>(&body).expect("JSON");
    }
}

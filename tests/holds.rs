//! What the guard holds, against the most that OpenAI could charge by the oracle.

use oracle::Chance;
use oracle::draw::Sizes;

#[expect(unreachable_pub, reason = "the fuzz targets share it")]
#[path = "fuzz/src/bound.rs"]
mod bound;

/// Requests that are drawn: the fuzz target `bound` draws more.
const SEEDS: u64 = 1_500;

#[test]
fn a_hold_covers_the_most_that_openai_could_charge() {
    let sheets = bound::Sheets::built_in();
    let (from, count) = match std::env::var("HOLDS_SEEDS").ok().and_then(|text| {
        let (from, count) = text.split_once('+')?;
        Some((from.parse().ok()?, count.parse().ok()?))
    }) {
        Some(asked) => asked,
        None => (0, SEEDS),
    };
    let mut faults = Vec::new();
    for seed in from..from + count {
        let mut chance = Chance::of_seed(seed);
        let knows = chance.percent(50);
        let sizes = if seed.is_multiple_of(50) { Sizes::LARGE } else { Sizes::MEDIUM };
        let case = bound::case(&mut chance, sizes);
        faults.extend(bound::below(&sheets, &case, knows).map(|fault| (seed, fault)));
    }
    let lines: Vec<_> = faults.iter().take(20).map(|(seed, fault)| format!("seed {seed}: {fault}")).collect();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), lines.join("\n"));
}

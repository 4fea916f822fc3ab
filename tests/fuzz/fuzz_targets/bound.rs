//! Any request: what the guard holds covers the most that OpenAI could charge.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use oracle::Chance;
use oracle::draw::Sizes;
use spendguard::pricing::count::{self, Encoding};
use spendguard_fuzz::bound::{Sheets, below, case};

static SHEETS: LazyLock<Sheets> = LazyLock::new(Sheets::built_in);

fuzz_target!(init: {
    // Vocabularies are large: read beforehand, they count as no input's time.
    LazyLock::force(&SHEETS);
    for encoding in [Encoding::O200k, Encoding::Cl100k] {
        count::text(encoding, "text");
    }
}, |input: &[u8]| {
    let mut chance = Chance::of_bytes(input);
    let knows = chance.percent(50);
    let case = case(&mut chance, Sizes::MEDIUM);
    if let Some(fault) = below(&SHEETS, &case, knows) {
        panic!("{fault}\n{}", String::from_utf8_lossy(&case.body));
    }
});

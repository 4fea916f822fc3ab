//! Any body: what the guard understands of it is what other readers see, and a
//! rewrite changes its fields and nothing else.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use spendguard_fuzz::request::{case, check};
use spendguard_fuzz::understood::{VARIABLE, understood};

static PRINTS: LazyLock<bool> = LazyLock::new(|| std::env::var_os(VARIABLE).is_some());

fuzz_target!(|input: &[u8]| {
    let Some(case) = case(input) else { return };
    check(&case);
    if *PRINTS {
        println!("{}", understood(&case));
    }
});

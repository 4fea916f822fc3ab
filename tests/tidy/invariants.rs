//! The tests that ARCHITECTURE.md names exist.

use std::collections::BTreeMap;
use std::path::Path;

use crate::{document, files, sources};

/// The names of tests in the table of invariants: the second cell of each row.
fn pinning(architecture: &str) -> Vec<&str> {
    let table = architecture.split("| pinned by |").nth(1).unwrap();
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.flat_map(|row| row.rsplit('|').nth(1).unwrap().split('`').skip(1).step_by(2)).collect()
}

/// Whether there is such a test: a path such as `tests/sim`, all tests of a module such as
/// `ledger::tests` or `race::*`, or one test by its full name.
fn is_test(name: &str, files: &BTreeMap<String, String>) -> bool {
    if name.contains('/') {
        return Path::new(env!("CARGO_MANIFEST_DIR")).join(name).exists();
    }
    let Some((module, last)) = name.rsplit_once("::") else { return false };
    let marks = match last {
        "tests" => "mod tests".to_owned(),
        "*" => "test]\n".to_owned(),
        test => format!("fn {test}("),
    };
    let place = module.trim_end_matches("::tests").replace("::", "/");
    let homes = [format!("src/{place}"), format!("tests/it/{place}")];
    files.iter().any(|(path, text)| homes.iter().any(|home| path.starts_with(home)) && text.contains(&marks))
}

#[test]
fn every_test_that_pins_an_invariant_exists() {
    let architecture = document("ARCHITECTURE.md");
    let mut files = files("tests/it", &["rs"]);
    files.extend(sources());
    let pinning = pinning(&architecture);
    assert!(pinning.len() > 80, "{pinning:?}");
    let gone: Vec<_> = pinning.into_iter().filter(|name| !is_test(name, &files)).collect();
    assert!(gone.is_empty(), "ARCHITECTURE.md names tests that do not exist: {gone:?}");
    let file = |path: &str, text: &str| (path.to_owned(), text.to_owned());
    let files = [file("src/a/b.rs", "mod tests {"), file("tests/it/c.rs", "#[tokio::test]\nfn claim() {")];
    let is_test = |name: &str| is_test(name, &files.clone().into());
    assert!(is_test("a::b::tests") && is_test("c::claim") && is_test("tests/it"));
    assert!(!is_test("a::c::tests") && !is_test("c::claims") && !is_test("tests/none") && !is_test("claim"));
}

//! Keeps the house in order: rows, file sizes, names, clocks, leftovers.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Each module's row; a module imports only from rows below its own.
const ROWS: &[(&str, u8)] = &[
    ("domain", 0),
    ("sync", 0),
    ("media", 0),
    ("openai", 1),
    ("pricing", 1),
    ("ledger", 2),
    ("clock", 3),
    ("store", 3),
    ("keys", 3),
    ("throttle", 3),
    ("metrics", 3),
    ("guard", 4),
    ("outlook", 5),
    ("net", 5),
    ("upstream", 5),
    ("alerts", 6),
    ("fake_openai", 6),
    ("proxy", 6),
    ("admin", 7),
    ("config", 8),
    ("cli", 9),
    ("app", 10),
];
const LINES_MAX: usize = 400;
const BANNED_NAMES: &[&str] =
    &["manager", "service", "helper", "util", "utils", "common", "misc", "info", "process"];
/// Where time is read, and where threads are made: each has one home.
const CLOCK: &str = "src/clock.rs";
/// Where it is said what a poisoned lock means.
const LOCKS: &str = "src/sync.rs";
const SPAWNS: &[&str] =
    &["src/store/writer.rs", "src/app.rs", "src/net/listener.rs", "src/admin.rs", "src/app/demo.rs"];

fn sources() -> BTreeMap<String, String> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    walk(&root.join("src"), &mut found);
    let name = |path: &Path| path.strip_prefix(root).unwrap().display().to_string();
    found.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

fn module(path: &str) -> &str {
    let inside = path.strip_prefix("src/").unwrap_or(path);
    inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs")
}

fn row(module: &str) -> Option<u8> {
    ROWS.iter().find(|(name, _)| *name == module).map(|(_, row)| *row)
}

/// The modules that a file names with `crate::`.
fn imports(text: &str) -> Vec<String> {
    let words = text.match_indices("crate::").map(|(at, word)| &text[at + word.len()..]);
    words.map(|rest| rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect()).collect()
}

fn upward(path: &str, text: &str) -> Vec<String> {
    let own = module(path);
    let Some(own_row) = row(own) else { return Vec::new() };
    let up = |other: &String| other != own && row(other).is_some_and(|other_row| other_row >= own_row);
    imports(text).into_iter().filter(up).collect()
}

fn leftovers(path: &str, text: &str) -> Vec<&'static str> {
    // Put together here, so that this file does not hold what it looks for.
    let marks: [(&str, &str); 8] = [
        ("#[allow", "("),
        ("#[ign", "ore]"),
        ("to", "do!("),
        ("unimple", "mented!("),
        ("db", "g!("),
        ("FIX", "ME"),
        ("/wor", "k/"),
        ("/tm", "p/"),
    ];
    let found = marks.iter().filter(|(a, b)| text.contains(&format!("{a}{b}")));
    let mut found: Vec<&'static str> = found.map(|(a, _)| *a).collect();
    let reads_time = ["Instant::", "SystemTime::"].iter().any(|kind| text.contains(&format!("{kind}now()")));
    if reads_time && path != CLOCK {
        found.push("a clock read");
    }
    if text.contains("PoisonError") && path != LOCKS {
        found.push("a poisoned lock that is used all the same");
    }
    let spawns = text.contains("thread::Builder::new()")
        || text.contains("thread::spawn(")
        || text.contains("tracker.spawn(");
    if spawns && !SPAWNS.contains(&path) {
        found.push("a thread or task spawned");
    }
    found
}

#[test]
fn modules_import_only_downward() {
    for (path, text) in sources() {
        let up = upward(&path, &text);
        assert!(up.is_empty(), "{path} imports up or sideways: {up:?}");
    }
    assert_eq!(upward("src/ledger/x.rs", "use crate::guard::Guard;"), ["guard"]);
    assert_eq!(upward("src/openai/x.rs", "let x = crate::pricing::bound();"), ["pricing"]);
    assert!(upward("src/guard.rs", "use crate::ledger::Ledger;").is_empty());
}

/// The operations that a file names; its own tests may.
fn operations_named(text: &str) -> Vec<&'static str> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let names = ["CHAT", "COMPLETIONS", "RESPONSES", "COMPACT", "EMBEDDINGS"];
    let lines = || code.lines().filter(|line| line.contains("openai::") || line.contains("operation::"));
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let is_named = |name: &&str| lines().any(|line| line.split(|c| !is_word(c)).any(|word| word == *name));
    names.into_iter().filter(is_named).collect()
}

#[test]
fn operations_are_told_apart_only_where_they_are_described() {
    for (path, text) in sources() {
        if !path.starts_with("src/openai") {
            let named = operations_named(&text);
            assert!(named.is_empty(), "{path} names {named:?}; ask an Operation for what differs");
        }
    }
    assert_eq!(operations_named("use crate::openai::{CHAT, Operation};"), ["CHAT"]);
    assert_eq!(operations_named("    operation == &openai::RESPONSES"), ["RESPONSES"]);
    assert!(operations_named("#[cfg(test)]\nmod tests {\n    use crate::openai::CHAT;").is_empty());
}

#[test]
fn every_module_has_a_row() {
    for path in sources().keys() {
        let module = module(path);
        assert!(row(module).is_some() || ["lib", "main"].contains(&module), "{module} has no row");
    }
}

#[test]
fn files_are_short_and_say_what_they_are() {
    for (path, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{path} has {lines} lines, {LINES_MAX} are allowed");
        let empty = text.trim().is_empty();
        assert!(text.starts_with("//!") && !empty, "{path} does not begin with what it is");
        assert!(!path.ends_with("/mod.rs"), "{path}: name it after its folder");
    }
}

/// What the admin listener has beside its pages and what is documented.
const UNDOCUMENTED: &[&str] = &["/metrics", "/livez", "/readyz", "/openapi.json"];

/// The paths that are routed by hand, and so are in no document.
fn routed_by_hand(text: &str) -> Vec<&str> {
    let after = text.split(".route(").skip(1);
    after.map(|rest| rest.trim_start().trim_start_matches('"').split('"').next().unwrap()).collect()
}

#[test]
fn every_route_of_the_admin_api_is_in_its_document() {
    for (path, text) in sources() {
        if path.starts_with("src/admin") && !path.starts_with("src/admin/dashboard") {
            let stray = routed_by_hand(&text).into_iter().find(|route| !UNDOCUMENTED.contains(route));
            assert_eq!(stray, None, "{path}: name its handler in routes!(..)");
        }
    }
    assert_eq!(routed_by_hand("a.route(\n    \"/x\", get(x))"), ["/x"]);
}

/// The names that types have in the document.
fn schema_names(text: &str) -> Vec<String> {
    let named = |rest: &str| {
        let head = rest.split('{').next().unwrap();
        let given = head.split("schema(as = ").nth(1).and_then(|rest| rest.split([')', ',']).next());
        let own = || head.split("struct ").nth(1).or_else(|| head.split("enum ").nth(1)).unwrap_or(head);
        given.unwrap_or_else(own).split('<').next().unwrap().trim().to_owned()
    };
    let derived = text.match_indices("ToSchema)]\n").map(|(at, word)| named(&text[at + word.len()..]));
    let written = text.match_indices("impl ToSchema for ").map(|(at, word)| named(&text[at + word.len()..]));
    derived.chain(written).collect()
}

#[test]
fn no_two_schemas_of_the_document_have_one_name() {
    let mut seen = BTreeMap::new();
    for (path, text) in sources() {
        for name in schema_names(&text) {
            let other = seen.insert(name.clone(), path.clone());
            assert_eq!(other, None, "{path}: {name} is in the document already; say #[schema(as = …)]");
        }
    }
    assert!(seen.len() > 50, "{seen:?}");
    let text =
        "ToSchema)]\n#[schema(as = A)]\nstruct B {\nimpl ToSchema for C {}\nToSchema)]\npub enum D<T> {";
    assert_eq!(schema_names(text), ["A", "D", "C"]);
}

#[test]
fn names_say_something() {
    let banned = |name: &str| BANNED_NAMES.contains(&name);
    for path in sources().keys() {
        let stem = Path::new(path).file_stem().unwrap().to_str().unwrap();
        assert!(!banned(stem), "{path}");
    }
    assert!(banned("util"));
}

#[test]
fn nothing_is_left_lying_about() {
    for (path, text) in sources() {
        let found = leftovers(&path, &text);
        assert!(found.is_empty(), "{path}: {found:?}");
    }
    assert_eq!(leftovers("src/x.rs", &format!("to{}", "do!()")), ["to"]);
    assert_eq!(leftovers("src/x.rs", &format!("Instant::{}", "now()")), ["a clock read"]);
    assert_eq!(leftovers("src/x.rs", "lock().unwrap_or_else(PoisonError::into_inner)").len(), 1);
    assert!(leftovers(CLOCK, &format!("Instant::{}", "now()")).is_empty());
}

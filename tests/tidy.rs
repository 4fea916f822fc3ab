//! Keeps the house in order: rows, engines, file sizes, names, clocks, leftovers, words, log
//! events, and that the tests which ARCHITECTURE.md names exist.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

#[path = "tidy/log_events.rs"]
mod log_events;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each module's row; a module imports only from rows below its own.
const ROWS: &[(&str, u8)] = &[
    ("domain", 0),
    ("sync", 0),
    ("media", 0),
    ("protocol", 1),
    ("pricing", 1),
    ("ledger", 2),
    ("clock", 3),
    ("store", 3),
    ("keys", 3),
    ("throttle", 3),
    ("metrics", 3),
    ("guard", 4),
    ("rulebook", 5),
    ("directory", 6),
    ("books", 6),
    ("net", 6),
    ("upstream", 6),
    ("startup", 7),
    ("alerts", 8),
    ("fake_openai", 8),
    ("proxy", 8),
    ("admin", 9),
    ("config", 10),
    ("cli", 11),
    ("app", 12),
];
/// Each database's crate, and the folder of the one engine that may name it.
const ENGINES: &[(&str, &str)] =
    &[("rusqlite", "src/store/sqlite"), ("tokio_postgres", "src/store/postgres")];
const LINES_MAX: usize = 400;
const BANNED_NAMES: &[&str] =
    &["manager", "service", "helper", "util", "utils", "common", "misc", "info", "process"];
/// Where time is read, and where threads are made: each has one home.
const CLOCK: &str = "src/clock.rs";
/// Where it is said what a poisoned lock means.
const LOCKS: &str = "src/sync.rs";
const SPAWNS: &[&str] =
    &["src/store/sqlite/journal.rs", "src/app.rs", "src/net/listener.rs", "src/admin.rs", "src/app/demo.rs"];

/// Words and phrases of the project's own, in lower case, for which the field has others: a
/// newcomer can't guess what they mean. They are in no name, comment or message of src, and
/// in no document. A word is added once it occurs nowhere.
const PRIVATE_WORDS: &[&str] = &[
    "anew",
    "as it comes",
    "clerk",
    "everybody",
    "for want of",
    "handover",
    "hears",
    "in vain",
    "leans",
    "lest",
    "lookout",
    "nobody",
    "of late",
    "outlook",
    "prospect",
    "roster",
    "slip",
    "somebody",
    "told",
    "whoever",
    "whomever",
    "writerlog",
];
/// Those that some names in the folder `src/store` still have.
const PRIVATE_WORDS_LEFT_IN_STORE: &[&str] = &["anew", "nobody", "somebody", "told"];
/// Words that the documents don't have either; some are still in src.
const PRIVATE_WORDS_OF_DOCUMENTS: &[&str] = &["desk", "mend"];
/// The documents whose words are checked, beside those in `docs`.
const DOCUMENTS: &[&str] =
    &["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "config/spendguard.toml"];

/// The files below a folder that have one of these endings, by their paths.
fn files(folder: &str, endings: &[&str]) -> BTreeMap<String, String> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    walk(&root.join(folder), &mut found);
    let name = |path: &Path| path.strip_prefix(root).unwrap().display().to_string();
    found.retain(|path| path.extension().is_some_and(|ending| endings.iter().any(|of| ending == *of)));
    found.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

fn sources() -> BTreeMap<String, String> {
    files("src", &["rs"])
}

fn document(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn module(path: &str) -> &str {
    place(path)[0]
}

fn row(module: &str) -> Option<u8> {
    ROWS.iter().find(|(name, _)| *name == module).map(|(_, row)| *row)
}

/// The modules that a file names with `crate::`.
fn imports(text: &str) -> Vec<String> {
    let first = |path: String| Some(path.strip_prefix("crate::")?.split("::").next()?.to_owned());
    paths(text).into_iter().filter_map(first).collect()
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
    assert_eq!(upward("src/protocol/openai/x.rs", "let x = crate::pricing::bound();"), ["pricing"]);
    assert_eq!(upward("src/ledger/x.rs", "use crate::{guard, domain::Money};"), ["guard"]);
    assert!(upward("src/guard.rs", "use crate::ledger::Ledger;").is_empty());
}

/// A module's path, such as `["store", "days"]` of `src/store/days.rs`.
fn place(path: &str) -> Vec<&str> {
    path.trim_start_matches("src/").trim_end_matches(".rs").split('/').collect()
}

/// Code without comments and its own tests.
fn code(text: &str) -> String {
    let before = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    before.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// The paths that a `use` tree or an expression names, groups taken apart.
fn paths(text: &str) -> Vec<String> {
    let starts = ["crate::", "super::", "self::"];
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_:".contains(c);
    let mut found = Vec::new();
    for start in starts {
        for (at, _) in text.match_indices(start) {
            if text[..at].ends_with(is_part) {
                continue;
            }
            let path: String = text[at..].chars().take_while(|c| is_part(*c)).collect();
            match text[at + path.len()..].strip_prefix('{') {
                Some(group) => found.extend(in_group(&path, group)),
                None => found.push(path),
            }
        }
    }
    found
}

/// The paths of a group, up to the brace that closes it.
fn in_group(before: &str, group: &str) -> Vec<String> {
    let (mut depth, mut end) = (1, group.len());
    let mut parts = vec![String::new()];
    for (at, c) in group.char_indices() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if depth == 0 {
            end = at;
            break;
        }
        match c {
            ',' if depth == 1 => parts.push(String::new()),
            c => parts.last_mut().unwrap().push(c),
        }
    }
    assert!(end < group.len(), "a group is closed");
    let part = |part: &String| match part.trim().split_once('{') {
        Some((path, rest)) => in_group(&format!("{before}{path}"), rest),
        None => vec![format!("{before}{}", part.trim())],
    };
    parts.iter().flat_map(part).collect()
}

/// The module that a path leads to from another one, as far as it names modules, or what a
/// module re-exports of those below it.
fn target(from: &[&str], path: &str, known: &Known<'_>) -> Vec<String> {
    let mut place: Vec<String> = from.iter().map(|word| (*word).to_owned()).collect();
    for (at, word) in path.split("::").enumerate() {
        match word {
            "crate" if at == 0 => place.clear(),
            "self" => {}
            "super" => drop(place.pop()),
            word => {
                let below = known.reexported(&place, word).unwrap_or(word).to_owned();
                place.push(below);
                if !known.is_module(&place) {
                    place.pop();
                    break;
                }
            }
        }
    }
    place
}

/// The modules, and the names that each re-exports of modules below it.
struct Known<'a> {
    modules: BTreeSet<Vec<&'a str>>,
    reexported: BTreeMap<(Vec<String>, String), String>,
}

impl<'a> Known<'a> {
    fn of(sources: &'a BTreeMap<String, String>) -> Self {
        let modules: BTreeSet<Vec<&str>> = sources.keys().map(|path| place(path)).collect();
        let mut reexported = BTreeMap::new();
        for (path, text) in sources {
            for line in code(text).split("pub use ").skip(1) {
                let tree = line.split(';').next().unwrap().trim().trim_start_matches("self::");
                let all = match tree.split_once('{') {
                    Some((before, group)) => in_group(before, group),
                    None => vec![tree.to_owned()],
                };
                for one in all {
                    if let (Some((below, _)), Some(name)) = (one.split_once("::"), one.rsplit("::").next()) {
                        let at = place(path).into_iter().map(str::to_owned).collect();
                        reexported.insert((at, name.to_owned()), below.to_owned());
                    }
                }
            }
        }
        Self { modules, reexported }
    }

    fn is_module(&self, place: &[String]) -> bool {
        self.modules.iter().any(|module| module.iter().eq(place.iter()))
    }

    fn reexported(&self, place: &[String], name: &str) -> Option<&str> {
        self.reexported.get(&(place.to_vec(), name.to_owned())).map(String::as_str)
    }
}

/// Who imports whom among the modules of one folder, each with all that is below it. So an
/// inner folder has rows too: a file below a module that imports a sibling of that module is
/// an import by the module, and where there is no cycle, all of them go in one direction.
fn siblings(sources: &BTreeMap<String, String>) -> BTreeMap<String, BTreeSet<(String, String)>> {
    let known = Known::of(sources);
    let mut found: BTreeMap<String, BTreeSet<(String, String)>> = BTreeMap::new();
    for (path, text) in sources {
        let from = place(path);
        if from.contains(&"tests") {
            continue;
        }
        for named in paths(&code(text)) {
            let to = target(&from, &named, &known);
            let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
            if common < from.len() && common < to.len() {
                let edge = (from[common].to_owned(), to[common].clone());
                found.entry(from[..common].join("/")).or_default().insert(edge);
            }
        }
    }
    found
}

/// Some modules that import each other in a cycle, if there are any.
fn cycle(edges: &BTreeSet<(String, String)>) -> Option<Vec<&str>> {
    let mut left: BTreeSet<&str> = edges.iter().map(|(from, _)| from.as_str()).collect();
    loop {
        let imports = |module: &str, left: &BTreeSet<&str>| {
            edges.iter().any(|(from, to)| *from == module && left.contains(to.as_str()))
        };
        let free: Vec<&str> = left.iter().copied().filter(|module| !imports(module, &left)).collect();
        if free.is_empty() {
            return Some(left.into_iter().collect()).filter(|cycle: &Vec<&str>| !cycle.is_empty());
        }
        left.retain(|module| !free.contains(module));
    }
}

#[test]
fn modules_of_a_folder_do_not_import_each_other_in_cycles() {
    for (folder, edges) in siblings(&sources()) {
        assert_eq!(cycle(&edges), None, "in src/{folder}");
    }
    let file = |path: &str, text: &str| (path.to_owned(), text.to_owned());
    let files = [
        file("src/a.rs", "pub mod b; pub mod c; pub use self::b::{B, Other};"),
        file("src/a/b.rs", "use crate::a::{c::d::D, e};"),
        file("src/a/c.rs", "use super::B;"),
    ];
    let edge = |from: &str, to: &str| (from.to_owned(), to.to_owned());
    let edges = siblings(&files.into()).remove("a").unwrap();
    assert_eq!(edges, [edge("b", "c"), edge("c", "b")].into());
    assert_eq!(cycle(&edges), Some(vec!["b", "c"]));
    assert_eq!(cycle(&[edge("a", "b"), edge("b", "c")].into()), None);
    let deep = [
        file("src/a.rs", ""),
        file("src/a/b.rs", ""),
        file("src/a/b/inner.rs", "use super::super::c::C;"),
        file("src/a/c.rs", ""),
        file("src/a/c/inner.rs", "use crate::a::b::inner::B;"),
    ];
    let edges = siblings(&deep.into()).remove("a").unwrap();
    assert_eq!(cycle(&edges), Some(vec!["b", "c"]), "imports of files below count for their folders");
}

/// The databases that a file names outside of the engine of each.
fn strange_engines(path: &str, text: &str) -> Vec<&'static str> {
    let strange = ENGINES.iter().filter(|(name, home)| text.contains(name) && !path.starts_with(home));
    strange.map(|(name, _)| *name).collect()
}

#[test]
fn a_database_is_named_only_by_its_engine() {
    for (path, text) in sources() {
        let found = strange_engines(&path, &text);
        assert!(found.is_empty(), "{path} names {found:?}; ask a port of `store`");
    }
    assert_eq!(strange_engines("src/store/records.rs", "use rusqlite::Connection;"), ["rusqlite"]);
    assert_eq!(strange_engines("src/store/sqlite/codec.rs", "tokio_postgres::Row"), ["tokio_postgres"]);
    assert!(strange_engines("src/store/sqlite.rs", "use rusqlite::Connection;").is_empty());
}

/// The names of the operations, as `src/protocol/openai/operation.rs` re-exports them.
fn operations(sources: &BTreeMap<String, String>) -> BTreeSet<String> {
    let lines = sources["src/protocol/openai/operation.rs"].lines();
    let names = lines.filter_map(|line| line.strip_prefix("pub use self::")?.strip_suffix(';'));
    names.map(|path| path.rsplit("::").next().unwrap().to_owned()).collect()
}

/// The operations that a file names, or their paths; its own tests may.
fn operations_named(text: &str, operations: &BTreeSet<String>) -> Vec<String> {
    let code = code(text);
    let last = |path: String| path.rsplit("::").next().unwrap().to_owned();
    let imported = paths(&code).into_iter().filter(|path| path.contains("openai")).map(last);
    let mut named: Vec<String> = imported.filter(|name| operations.contains(name)).collect();
    let qualified = operations.iter().filter(|name| code.contains(&format!("openai::{name}")));
    named.extend(qualified.cloned());
    let paths = ["chat/completions", "completions", "responses", "responses/compact", "embeddings"];
    named.extend(paths.map(|path| format!("\"/v1/{path}\"")).into_iter().filter(|path| code.contains(path)));
    named.sort();
    named.dedup();
    named
}

#[test]
fn operations_are_distinguished_only_where_they_are_described() {
    let sources = sources();
    let operations = operations(&sources);
    assert!(operations.len() >= 5 && operations.contains("CHAT"), "{operations:?}");
    for (path, text) in &sources {
        // Tests in a file of their own, and the one that plays upstream, may.
        let may = path.starts_with("src/protocol/openai")
            || path.starts_with("src/fake_openai")
            || path.contains("/tests");
        let named = operations_named(text, &operations);
        assert!(may || named.is_empty(), "{path} names {named:?}; ask an Operation for what differs");
    }
    assert_eq!(
        operations_named("use crate::protocol::openai::{\n    CHAT,\n    Operation,\n};", &operations),
        ["CHAT"]
    );
    assert_eq!(operations_named("    operation == &openai::RESPONSES", &operations), ["RESPONSES"]);
    assert_eq!(operations_named("path == \"/v1/responses\"", &operations), ["\"/v1/responses\""]);
    let in_tests = "#[cfg(test)]\nmod tests {\n    use crate::protocol::openai::CHAT;";
    assert!(operations_named(in_tests, &operations).is_empty());
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

/// The words of a text in lower case, with one space around each. A name is taken apart at
/// its underscores.
fn words(text: &str) -> String {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.fold(String::from(" "), |all, word| all + &word.to_lowercase() + " ")
}

fn private_words(text: &str, lists: &[&[&'static str]]) -> Vec<&'static str> {
    let words = words(text);
    let listed = lists.iter().flat_map(|list| list.iter().copied());
    listed.filter(|word| words.contains(&format!(" {word} "))).collect()
}

/// The prose of a document, without what stands between backticks.
fn prose(text: &str) -> String {
    text.split('`').step_by(2).collect()
}

#[test]
fn no_private_word_is_in_the_code_or_in_the_documents() {
    for (path, text) in sources() {
        let mut found = private_words(&text, &[PRIVATE_WORDS]);
        found.retain(|word| !path.starts_with("src/store/") || !PRIVATE_WORDS_LEFT_IN_STORE.contains(word));
        assert!(found.is_empty(), "{path} says {found:?}; use the field's word");
    }
    let named = DOCUMENTS.iter().map(|path| ((*path).to_owned(), document(path)));
    for (path, text) in files("docs", &["md"]).into_iter().chain(named) {
        let found = private_words(&prose(&text), &[PRIVATE_WORDS, PRIVATE_WORDS_OF_DOCUMENTS]);
        assert!(found.is_empty(), "{path} says {found:?}; use the field's word");
    }
    assert_eq!(private_words("/// Tried in\n/// vain by Whoever.", &[PRIVATE_WORDS]), ["in vain", "whoever"]);
    assert_eq!(private_words("fn clerk_of(slipping: u8)", &[PRIVATE_WORDS]), ["clerk"]);
    assert_eq!(prose("a `b` c"), "a  c");
}

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

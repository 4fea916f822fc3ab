//! Keeps the house in order: rows, engines, file sizes, names, clocks, leftovers, words, log
//! events, and that the tests which ARCHITECTURE.md names exist.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

#[path = "tidy/admin_api.rs"]
mod admin_api;
#[path = "tidy/cycles.rs"]
mod cycles;
#[path = "tidy/invariants.rs"]
mod invariants;
#[path = "tidy/log_events.rs"]
mod log_events;
#[path = "tidy/operations.rs"]
mod operations;
#[path = "tidy/words.rs"]
mod words;

use std::collections::BTreeMap;
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
    ("throttle", 3),
    ("clock", 4),
    ("store", 4),
    ("keys", 4),
    ("metrics", 4),
    ("guard", 5),
    ("rulebook", 6),
    ("stops", 7),
    ("directory", 7),
    ("books", 7),
    ("net", 7),
    ("upstream", 7),
    ("startup", 8),
    ("telemetry", 8),
    ("alerts", 9),
    ("fake_openai", 9),
    ("proxy", 9),
    ("jobs", 10),
    ("admin", 10),
    ("config", 11),
    ("cli", 12),
    ("app", 13),
];
/// Each database's crate, and the folder of the one engine that may name it.
const ENGINES: &[(&str, &str)] =
    &[("rusqlite", "src/store/sqlite"), ("tokio_postgres", "src/store/postgres")];
/// The files beside them that may: what statements run on has an arm for each engine.
const CONNECTIONS: [&str; 2] = ["src/store/sql/connection.rs", "src/store/sql/postgres.rs"];
const LINES_MAX: usize = 400;
const BANNED_NAMES: &[&str] =
    &["manager", "service", "helper", "util", "utils", "common", "misc", "info", "process"];
/// Where time is read, and where threads are made: each has one home.
const CLOCK: &str = "src/clock.rs";
/// Where it is said what a poisoned lock means.
const LOCKS: &str = "src/sync.rs";
const SPAWNS: &[&str] = &[
    "src/store/sqlite/journal.rs",
    "src/app.rs",
    "src/net/listener.rs",
    "src/admin.rs",
    "src/app/demo.rs",
    "src/store/postgres/start.rs",
    "src/proxy/background.rs",
    "src/proxy/socket.rs",
    "src/proxy/socket/responses.rs",
];

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

/// The databases that a file names outside of the engine of each.
fn strange_engines(path: &str, text: &str) -> Vec<&'static str> {
    let may_name = |home: &str| CONNECTIONS.contains(&path) || path.starts_with(home);
    let strange = ENGINES.iter().filter(|(name, home)| text.contains(name) && !may_name(home));
    strange.map(|(name, _)| *name).collect()
}

#[test]
fn a_database_is_named_only_by_its_engine() {
    for (path, text) in sources() {
        let found = strange_engines(&path, &text);
        assert!(found.is_empty(), "{path} names {found:?}; ask a port of `store`");
    }
    assert_eq!(strange_engines("src/store/records.rs", "use rusqlite::Connection;"), ["rusqlite"]);
    assert_eq!(strange_engines("src/store/sqlite/commit.rs", "tokio_postgres::Row"), ["tokio_postgres"]);
    assert_eq!(strange_engines("src/store/sql/days.rs", "rusqlite::Row"), ["rusqlite"]);
    assert!(strange_engines(CONNECTIONS[0], "rusqlite::Row").is_empty());
    assert!(strange_engines("src/store/sqlite.rs", "use rusqlite::Connection;").is_empty());
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

//! Every log event has a stable name as its first field, and `docs/operating.md` lists it.

use std::collections::BTreeSet;

use crate::{code, document, sources};

const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];
/// The document with the list, and the heading of the list.
const LIST: &str = "docs/operating.md";
const HEADING: &str = "\n## Log events\n";

/// A call of one of tracing's macros: its level, and the name in its field `event`, which
/// must be the first one.
type Call = (&'static str, Option<String>);

/// The calls of tracing's macros in code, however the macros were imported.
fn calls(code: &str) -> Vec<Call> {
    let mut found = Vec::new();
    for level in LEVELS.into_iter().chain(["event"]) {
        let start = format!("{level}!(");
        for (at, _) in code.match_indices(&start) {
            let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if !code[..at].ends_with(is_part) {
                found.push((level, name(code[at + start.len()..].trim_start())));
            }
        }
    }
    found
}

/// The name of an event, by the arguments of its macro.
fn name(arguments: &str) -> Option<String> {
    let (name, _) = arguments.strip_prefix("event = \"")?.split_once("\",")?;
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    (!name.is_empty() && name.chars().all(is_plain)).then(|| name.to_owned())
}

/// The list of events in a document: level and name of each row whose other cells, the
/// meaning and what to do, are filled in.
fn listed(document: &str) -> BTreeSet<(String, String)> {
    let section = document.split(HEADING).nth(1).unwrap_or_default();
    let rows = section.split("\n## ").next().unwrap_or_default().lines();
    let row = |line: &str| {
        let cells: Vec<&str> = line.strip_prefix("| `")?.strip_suffix(" |")?.split(" | ").collect();
        let [name, level, meaning, remedy] = *cells.as_slice() else { return None };
        let is_filled = !meaning.is_empty() && !remedy.is_empty();
        is_filled.then(|| (level.to_owned(), name.trim_end_matches('`').to_owned()))
    };
    rows.filter_map(row).collect()
}

#[test]
fn every_log_event_has_a_name_and_is_listed() {
    let mut called = BTreeSet::new();
    for (path, text) in sources() {
        // Tests in a file of their own log nothing that operators see.
        if path.contains("/tests") {
            continue;
        }
        for (level, name) in calls(&code(&text)) {
            let name = name.unwrap_or_else(|| panic!("{path}: {level}!(..): begin it with event = \"…\","));
            called.insert((level.to_owned(), name));
        }
    }
    assert!(called.len() > 60, "{called:?}");
    let listed = listed(&document(LIST));
    let unlisted: Vec<_> = called.difference(&listed).collect();
    assert!(unlisted.is_empty(), "{LIST}, \"Log events\", lacks {unlisted:?}");
    let gone: Vec<_> = listed.difference(&called).collect();
    assert!(gone.is_empty(), "{LIST}, \"Log events\", lists what no code logs: {gone:?}");
    let names: BTreeSet<&String> = called.iter().map(|(_, name)| name).collect();
    assert_eq!(names.len(), called.len(), "an event has one level: {called:?}");
}

#[test]
fn log_events_are_found_in_code_and_in_the_list() {
    let named = |level: &'static str, name: &str| (level, Some(name.to_owned()));
    assert_eq!(calls("tracing::warn!(event = \"disk_full\", %error, \"x\")"), [named("warn", "disk_full")]);
    assert_eq!(calls("info!(\n    event = \"begun\",\n    \"x\"\n)"), [named("info", "begun")]);
    for unnamed in ["error!(\"x\")", "error!(%error, event = \"a\", \"x\")", "error!(event = \"A b\", \"x\")"]
    {
        assert_eq!(calls(unnamed), [("error", None)], "{unnamed}");
    }
    assert_eq!(calls("tracing::event!(Level::INFO, \"x\")"), [("event", None)]);
    assert!(calls("compile_error!(\"x\")").is_empty());
    let document = "x\n\n## Log events\n\n| event | level |\n|---|---|\n| `a` | warn | it is | do |\n\
                    | `b` | info |  | do |\n\n## Next\n\n| `c` | warn | it is | do |\n";
    assert_eq!(listed(document), [("warn".to_owned(), "a".to_owned())].into());
}

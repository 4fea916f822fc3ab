//! Operations are distinguished only where they are described.

use std::collections::{BTreeMap, BTreeSet};

use crate::{code, paths, sources};

/// The names of the operations, as `src/protocol/openai/operation.rs` re-exports them.
fn operations(sources: &BTreeMap<String, String>) -> BTreeSet<String> {
    let lines = sources["src/protocol/openai/operation.rs"].lines();
    let names = lines.filter_map(|line| line.strip_prefix("pub use self::")?.strip_suffix(';'));
    // Of several in one line, each.
    let named = names.flat_map(|path| path.rsplit("::").next().unwrap().split(['{', ',', ' ', '}']));
    named.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// The paths of the operations, as they stand in the code.
fn operation_paths(sources: &BTreeMap<String, String>) -> BTreeSet<String> {
    let files = sources.iter().filter(|(path, _)| path.starts_with("src/protocol/openai/operation/"));
    let lines = files.flat_map(|(_, text)| text.lines());
    lines
        .filter_map(|line| line.trim().strip_prefix("path: ")?.strip_suffix(','))
        .map(str::to_owned)
        .collect()
}

/// The operations that a file names, or their paths; its own tests may.
fn operations_named(
    text: &str,
    operations: &BTreeSet<String>,
    operation_paths: &BTreeSet<String>,
) -> Vec<String> {
    let code = code(text);
    let last = |path: String| path.rsplit("::").next().unwrap().to_owned();
    let imported = paths(&code).into_iter().filter(|path| path.contains("openai")).map(last);
    let mut named: Vec<String> = imported.filter(|name| operations.contains(name)).collect();
    let qualified = operations.iter().filter(|name| code.contains(&format!("openai::{name}")));
    named.extend(qualified.cloned());
    named.extend(operation_paths.iter().filter(|path| code.contains(*path)).cloned());
    named.sort();
    named.dedup();
    named
}

#[test]
fn operations_are_distinguished_only_where_they_are_described() {
    let sources = sources();
    let (operations, paths) = (operations(&sources), operation_paths(&sources));
    assert!(operations.len() >= 5 && operations.contains("CHAT"), "{operations:?}");
    assert!(paths.len() == operations.len() && paths.contains("\"/v1/responses/compact\""), "{paths:?}");
    for (path, text) in &sources {
        // Tests in a file of their own, and the one that plays upstream, may.
        let may = path.starts_with("src/protocol/openai")
            || path.starts_with("src/fake_openai")
            || path.contains("/tests");
        let named = operations_named(text, &operations, &paths);
        assert!(may || named.is_empty(), "{path} names {named:?}; ask an Operation for what differs");
    }
    assert_eq!(
        operations_named(
            "use crate::protocol::openai::{\n    CHAT,\n    Operation,\n};",
            &operations,
            &paths
        ),
        ["CHAT"]
    );
    assert_eq!(operations_named("    operation == &openai::RESPONSES", &operations, &paths), ["RESPONSES"]);
    assert_eq!(operations_named("path == \"/v1/responses\"", &operations, &paths), ["\"/v1/responses\""]);
    let in_tests = "#[cfg(test)]\nmod tests {\n    use crate::protocol::openai::CHAT;";
    assert!(operations_named(in_tests, &operations, &paths).is_empty());
}

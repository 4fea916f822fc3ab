//! Fields that add turns: agents beside the one that answers, and compaction.

use serde::Deserialize;

use crate::protocol::openai::json::{Object, Raw};

/// Whether upstream may run agents beside the one that answers: anything but a clear no.
pub(super) fn runs_subagents(multi_agent: Raw<'_>) -> bool {
    let Some(text) = multi_agent.value() else { return false };
    let read = serde_json::from_str::<Object<MultiAgent<'_>>>(text);
    !read.is_ok_and(|Object(agents)| agents.enabled.flag() == Some(false))
}

/// The context from which upstream compacts it; zero where that is not clear, and `None`
/// if it was not asked to.
pub(super) fn compacted_at(context_management: Raw<'_>) -> Option<u64> {
    let text = context_management.value()?;
    let Ok(entries) = serde_json::from_str::<Vec<Object<Entry<'_>>>>(text) else { return Some(0) };
    let threshold = |Object(entry): &Object<Entry<'_>>| {
        let is_known = entry.kind.string().as_deref() == Some("compaction");
        let threshold = entry.compact_threshold.value().filter(|_| is_known);
        threshold.and_then(|text| text.parse().ok()).unwrap_or(0)
    };
    entries.iter().map(threshold).min()
}

/// `multi_agent`.
#[derive(Deserialize, Default)]
#[serde(default)]
struct MultiAgent<'a> {
    #[serde(borrow)]
    enabled: Raw<'a>,
}

/// One entry of `context_management`.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry<'a> {
    #[serde(borrow, rename = "type")]
    kind: Raw<'a>,
    #[serde(borrow)]
    compact_threshold: Raw<'a>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Raw<'_> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn only_a_clear_no_runs_no_subagents() {
        for no in ["null", r#"{"enabled":false}"#, r#"{"max_concurrent_subagents":9,"enabled":false}"#] {
            assert!(!runs_subagents(raw(no)), "{no}");
        }
        for yes in ["true", "{}", "[]", r#"{"enabled":null}"#, r#"{"enabled":false,"enabled":true}"#] {
            assert!(runs_subagents(raw(yes)), "{yes}");
        }
    }

    #[test]
    fn compaction_begins_at_the_lowest_threshold() {
        for (text, at) in [
            ("null", None),
            ("[]", None),
            (r#"[{"type":"compaction","compact_threshold":5000}]"#, Some(5_000)),
            (
                r#"[{"type":"compaction","compact_threshold":9},{"type":"compaction","compact_threshold":7}]"#,
                Some(7),
            ),
            (r#"[{"type":"compaction"}]"#, Some(0)),
            (r#"[{"type":"compaction","compact_threshold":1e3}]"#, Some(0)),
            (r#"[{"type":"pruning","compact_threshold":5000}]"#, Some(0)),
            (r#"{"type":"compaction","compact_threshold":5000}"#, Some(0)),
        ] {
            assert_eq!(compacted_at(raw(text)), at, "{text}");
        }
    }
}

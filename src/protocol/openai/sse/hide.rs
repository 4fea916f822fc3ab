//! Removes from a chat chunk what upstream only sent because the guard asked for usage.
//!
//! With `include_usage` every chunk gains `"usage":null`, and one more chunk
//! comes that holds nothing but the usage. Other servers put the usage into a
//! chunk with choices, or into every chunk.

use std::ops::Range;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde::Deserialize;

use crate::protocol::openai::json::{Object, Raw, is_space, skip_space};

#[derive(Deserialize, Default)]
#[serde(default)]
struct Chunk<'a> {
    #[serde(borrow)]
    choices: Raw<'a>,
    #[serde(borrow)]
    usage: Raw<'a>,
    #[serde(borrow)]
    moderation: Raw<'a>,
    #[serde(borrow)]
    error: Raw<'a>,
}

static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"usage\""));

/// Whether a chunk exists for its usage alone.
pub(super) fn is_usage_only(data: &[u8]) -> bool {
    let Ok(Object(chunk)) = serde_json::from_slice::<Object<Chunk<'_>>>(data) else { return false };
    let has_choices = chunk.choices.value().is_some_and(|list| {
        !list.strip_prefix('[').is_some_and(|inside| inside.trim_start().starts_with(']'))
    });
    let has_more = has_choices || chunk.moderation.value().is_some() || chunk.error.value().is_some();
    chunk.usage.value().is_some() && !has_more
}

/// Whether a chunk was cut off within usage that isn't `null`.
pub(super) fn is_cut_usage(data: &[u8]) -> bool {
    let value = USAGE.find(data).map(|at| skip_space(data, at + USAGE.needle().len()));
    let starts = value.filter(|at| data.get(*at) == Some(&b':')).map(|at| skip_space(data, at + 1));
    starts.is_some_and(|at| data.get(at) == Some(&b'{'))
        && serde_json::from_slice::<Object<Chunk<'_>>>(data).is_err()
}

/// Widens a member's span by the one comma that goes with it.
pub(super) fn with_comma(data: &[u8], member: Range<usize>) -> Range<usize> {
    let before = data[..member.start].iter().rposition(|byte| !is_space(*byte));
    if let Some(comma) = before.filter(|at| data[*at] == b',') {
        return comma..member.end;
    }
    let after = skip_space(data, member.end);
    if data.get(after) == Some(&b',') {
        return member.start..skip_space(data, after + 1);
    }
    member
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_with_choices_or_moderation_is_no_mere_usage() {
        assert!(is_usage_only(br#"{"choices":[ ],"usage":{"prompt_tokens":1}}"#));
        assert!(is_usage_only(br#"{"choices":[],"usage":{},"moderation":null}"#));
        assert!(!is_usage_only(br#"{"choices":[{}],"usage":{}}"#));
        assert!(!is_usage_only(br#"{"choices":[],"usage":null}"#));
        assert!(!is_usage_only(br#"{"choices":[],"usage":{},"moderation":{}}"#));
        assert!(!is_usage_only(br#"{"choices":[],"usage":{},"error":{"message":"m"}}"#));
        assert!(is_usage_only(br#"{"usage":{}}"#) && is_usage_only(br#"{"choices":null,"usage":{}}"#));
    }
}

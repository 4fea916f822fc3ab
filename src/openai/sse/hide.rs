//! Takes out of a chat chunk what upstream only sent because we asked.
//!
//! With `include_usage` every chunk gains `"usage":null`, and one more chunk
//! comes that holds nothing but the usage. Other servers put the usage into a
//! chunk with choices, or into every chunk. Keys can be searched for as bytes:
//! inside a JSON string their quotes would be escaped.

use std::ops::Range;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde::Deserialize;

use crate::openai::json::{Object, Raw, is_space, skip_space, string_end, value_end};

/// What the member `usage` of a chunk says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum UsageMember {
    /// There is none.
    Absent,
    /// It is `null`; the bytes to leave out so that it is gone.
    Null(Range<usize>),
    /// It is something else; the bytes to leave out so that it is gone.
    Given(Range<usize>),
}

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

/// Looks for the top-level member `usage` of a chunk.
pub(super) fn usage_member(data: &[u8]) -> UsageMember {
    let mut from = 0;
    while let Some(found) = data.get(from..).and_then(|rest| USAGE.find(rest)) {
        let key = from + found..from + found + USAGE.needle().len();
        from = key.end;
        let colon = skip_space(data, key.end);
        if data.get(colon) != Some(&b':') {
            continue;
        }
        let value = skip_space(data, colon + 1);
        let end = value_end(data, value);
        if !is_top_level(data, end) {
            continue;
        }
        let gone = with_comma(data, key.start..end);
        let is_null = &data[value..end] == b"null";
        return if is_null { UsageMember::Null(gone) } else { UsageMember::Given(gone) };
    }
    UsageMember::Absent
}

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

/// Whether what follows closes exactly one level: the chunk itself. Usage
/// stands at the end of a chunk, so this looks at a few bytes only.
fn is_top_level(data: &[u8], from: usize) -> bool {
    let (mut opened, mut closed) = (0_usize, 0_usize);
    let mut at = from;
    while let Some(byte) = data.get(at) {
        at += 1;
        match byte {
            b'"' => at = string_end(data, at),
            b'{' | b'[' => opened += 1,
            b'}' | b']' if opened > 0 => opened -= 1,
            b'}' => closed += 1,
            b']' => return false,
            _ => {}
        }
    }
    closed == 1
}

/// Widens a member's span by the one comma that goes with it.
fn with_comma(data: &[u8], member: Range<usize>) -> Range<usize> {
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

    fn without(event: &str) -> String {
        match usage_member(event.as_bytes()) {
            UsageMember::Null(span) | UsageMember::Given(span) => {
                let mut kept = event.to_owned();
                kept.replace_range(span, "");
                kept
            }
            UsageMember::Absent => event.to_owned(),
        }
    }

    #[test]
    fn usage_goes_with_one_comma() {
        for (event, kept) in [
            (r#"{"a":1,"usage":null}"#, r#"{"a":1}"#),
            (r#"{"a":1,"usage":null,"b":"}"}"#, r#"{"a":1,"b":"}"}"#),
            (r#"{"usage":null,"b":[{}]}"#, r#"{"b":[{}]}"#),
            (r#"{"usage":null}"#, "{}"),
            (r#"{"a": 1, "usage": null, "b": 2}"#, r#"{"a": 1, "b": 2}"#),
            (r#"{"usage" : null , "b": 2}"#, r#"{"b": 2}"#),
            (r#"{"usage":{"a":[1,"}"]},"choices":[{}]}"#, r#"{"choices":[{}]}"#),
            (r#"{"choices":[{}],"usage":{"a":1},"b":2}"#, r#"{"choices":[{}],"b":2}"#),
            (r#"{"choices":[{}],"usage":7}"#, r#"{"choices":[{}]}"#),
        ] {
            assert_eq!(without(event), kept);
        }
    }

    #[test]
    fn only_the_chunks_own_usage_goes() {
        for event in [
            r#"{"a":{"usage":null},"b":1}"#,
            r#"{"a":[{"usage":null}]}"#,
            r#"{"a":"usage","b":null}"#,
            r#"{"a":"\"usage\":null"}"#,
            r#"{"usage":nu"#,
        ] {
            assert_eq!(without(event), event);
        }
        assert_eq!(without(r#"{"a":{"usage":null},"usage":null}"#), r#"{"a":{"usage":null}}"#);
    }

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

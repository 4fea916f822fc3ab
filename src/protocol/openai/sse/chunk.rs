//! Finds the members of a chat chunk that matter, in one walk without parsing.
//!
//! The chunks of a stream begin alike, up to their choices. So the walk remembers
//! the last beginning and what it found there, and skips one that is the same.

use std::ops::Range;

use super::hide::with_comma;
use crate::protocol::openai::json::{skip_space, string_end, value_end, value_of};

/// The longest beginning that is remembered, in bytes.
const HEAD_BYTES_MAX: usize = 1_024;

/// The state of the member `usage` of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum UsageMember {
    /// There is none.
    Absent,
    /// It is `null`; the bytes to leave out so that it is gone.
    Null(Range<usize>),
    /// It is something else; the bytes to leave out so that it is gone.
    Given(Range<usize>),
}

/// Where members stand in a chunk. Those that name nothing are left out.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Members {
    /// The value of `id`.
    pub(super) id: Option<usize>,
    /// The value of `model`.
    pub(super) model: Option<usize>,
    /// The value of `service_tier`.
    pub(super) tier: Option<usize>,
    /// The value of `error`.
    pub(super) error: Option<usize>,
    /// Key, value and end of `usage`.
    usage: Option<(usize, usize, usize)>,
}

impl Members {
    fn note(&mut self, data: &[u8], key: Range<usize>, value: Range<usize>) {
        let names_something = !matches!(&data[value.clone()], b"null" | b"\"\"");
        let at = names_something.then_some(value.start);
        match data.get(key.start + 1..key.end.saturating_sub(1)) {
            Some(b"id") => self.id = at,
            Some(b"model") => self.model = at,
            Some(b"service_tier") => self.tier = at,
            Some(b"error") => self.error = at,
            // A value at the very end may be cut off.
            Some(b"usage") if value.end < data.len() => {
                self.usage = Some((key.start, value.start, value.end));
            }
            _ => {}
        }
    }

    /// The state of the member `usage`.
    pub(super) fn usage(&self, data: &[u8]) -> UsageMember {
        let Some((key, value, end)) = self.usage else { return UsageMember::Absent };
        let gone = with_comma(data, key..end);
        if &data[value..end] == b"null" { UsageMember::Null(gone) } else { UsageMember::Given(gone) }
    }
}

/// Walks through the chunks of one stream.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// The last beginning, up to the value of `choices`.
    head: Vec<u8>,
    /// Its members.
    in_head: Members,
}

impl Walk {
    /// The members of a chunk. `read_choices` gets the place of the choices, and
    /// returns where they end.
    pub(super) fn members(&mut self, data: &[u8], read_choices: impl FnOnce(usize) -> usize) -> Members {
        let mut read_choices = Some(read_choices);
        let mut found = Members::default();
        let mut at = skip_space(data, 0) + 1;
        if !self.head.is_empty() && data.starts_with(&self.head) {
            found = self.in_head;
            let end = read_choices.take().map_or(at, |read| read(self.head.len()));
            let Some(next) = after_comma(data, end) else { return found };
            at = next;
        } else if data.get(at - 1) != Some(&b'{') {
            return found;
        }
        loop {
            let key = skip_space(data, at);
            if data.get(key) != Some(&b'"') {
                return found;
            }
            let key_end = string_end(data, key + 1);
            let Some(value) = value_of(data, key_end) else { return found };
            let is_choices = data.get(key + 1..key_end.saturating_sub(1)) == Some(b"choices");
            let end = if let Some(read) = read_choices.take_if(|_| is_choices) {
                self.remember(&data[..value], found);
                read(value)
            } else {
                let end = value_end(data, value);
                found.note(data, key..key_end, value..end);
                end
            };
            let Some(next) = after_comma(data, end) else { return found };
            at = next;
        }
    }

    fn remember(&mut self, head: &[u8], found: Members) {
        self.head.clear();
        if head.len() <= HEAD_BYTES_MAX {
            self.head.extend_from_slice(head);
            self.in_head = found;
        }
    }
}

/// Where the next member starts after a value that ends at `end`.
fn after_comma(data: &[u8], end: usize) -> Option<usize> {
    let comma = skip_space(data, end);
    (data.get(comma) == Some(&b',')).then_some(comma + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(data: &str) -> UsageMember {
        let read = |at| value_end(data.as_bytes(), at);
        Walk::default().members(data.as_bytes(), read).usage(data.as_bytes())
    }

    fn without(data: &str) -> String {
        match usage(data) {
            UsageMember::Null(span) | UsageMember::Given(span) => {
                let mut kept = data.to_owned();
                kept.replace_range(span, "");
                kept
            }
            UsageMember::Absent => data.to_owned(),
        }
    }

    #[test]
    fn usage_goes_with_one_comma() {
        for (chunk, kept) in [
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
            assert_eq!(without(chunk), kept);
        }
    }

    #[test]
    fn only_the_chunks_own_usage_goes() {
        for chunk in [
            r#"{"a":{"usage":null},"b":1}"#,
            r#"{"a":[{"usage":null}]}"#,
            r#"{"a":"usage","b":null}"#,
            r#"{"a":"\"usage\":null"}"#,
            r#"{"choices":[{"usage":null}]}"#,
            r#"{"usage":nu"#,
            r#"[{"usage":null}]"#,
        ] {
            assert_eq!(without(chunk), chunk);
        }
        assert_eq!(without(r#"{"a":{"usage":null},"usage":null}"#), r#"{"a":{"usage":null}}"#);
    }

    #[test]
    fn a_beginning_that_is_the_same_is_the_same() {
        let chunks = [
            r#"{"id":"c","usage":null,"model":"","choices":[1],"service_tier":null}"#,
            r#"{"id":"c","usage":null,"model":"","choices":[2],"service_tier":"flex","error":{}}"#,
            r#"{"id":"c","usage":{},"model":"m","choices":[],"b":1}"#,
            r#"{"id":"c","usage":{},"model":"m","choices":"#,
            r#"{"id":"c","usage":{},"model":"m"}"#,
        ];
        let mut walk = Walk::default();
        for chunk in chunks.iter().cycle().take(20) {
            let data = chunk.as_bytes();
            let shown = |members: Members| (format!("{members:?}"), members.usage(data));
            let warm = shown(walk.members(data, |at| value_end(data, at)));
            assert_eq!(warm, shown(Walk::default().members(data, |at| value_end(data, at))), "{chunk}");
        }
    }

    #[test]
    fn broken_bytes_do_no_harm() {
        for data in
            ["", "{", "{\"", "{\"a", "{\"a\":", "{\"choices\":", "{\"choices\":[", "{,}", "\"choices\":\""]
        {
            usage(data);
        }
    }
}

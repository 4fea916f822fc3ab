//! Events that carry images or sound: megabytes of base64, of which nothing is kept.

use bytes::BytesMut;
use memchr::{memchr, memchr3};

use crate::domain::{Class, Quantities};
use crate::protocol::openai::usage::{Answer, Counted, Outcome, Sides};

/// Bytes of base64 in a row that are kept of an event; a name or an id is shorter.
const RUN_BYTES_MAX: usize = 512;

/// Leaves out the rest of a long run of base64, so that an event takes little memory however
/// large its image is.
#[derive(Debug, Default)]
pub(super) struct Skim {
    /// Bytes of the current run.
    run: usize,
}

impl Skim {
    /// Appends a part of an event. What stays is JSON wherever the whole event is: of a
    /// string only the end is missing.
    pub(super) fn append(&mut self, part: &[u8], kept: &mut BytesMut) {
        let mut rest = part;
        while !rest.is_empty() {
            if self.run < RUN_BYTES_MAX {
                let room = &rest[..rest.len().min(RUN_BYTES_MAX - self.run)];
                let other = room.iter().position(|byte| !is_base64(*byte));
                let end = other.map_or(room.len(), |at| at + 1);
                self.run = if other.is_some() { 0 } else { self.run + end };
                kept.extend_from_slice(&rest[..end]);
                rest = &rest[end..];
            } else {
                let end = end_of_text(rest);
                self.run = if end < rest.len() { 0 } else { self.run };
                rest = &rest[end..];
            }
        }
    }
}

const fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'-' | b'_')
}

/// Where a quote, an escape or a line end stands; else the length.
fn end_of_text(bytes: &[u8]) -> usize {
    let quoted = memchr3(b'"', b'\\', b'\n', bytes).unwrap_or(bytes.len());
    memchr(b'\r', &bytes[..quoted]).unwrap_or(quoted)
}

/// The usage of the parts that are complete.
#[derive(Debug, Default)]
pub(super) struct Completed {
    parts: u64,
    tokens: Quantities,
    sides: Option<Sides>,
}

impl Completed {
    /// Adds the usage of one more part.
    pub(super) fn add(&mut self, counted: Option<Counted>) {
        self.parts += 1;
        let known = counted.map_or_else(Sides::default, |counted| counted.sides);
        if let Some(counted) = counted {
            self.tokens += counted.tokens;
        }
        self.sides = Some(self.sides.map_or(known, |sides| sides.and(known)));
    }

    /// Sets the usage of an answer: all of it once the stream has ended.
    pub(super) fn put_on(&self, answer: &mut Answer) {
        let known = self.sides.filter(|sides| sides.input || sides.output).map(|_| self.tokens);
        let is_whole = answer.outcome == Outcome::Completed && self.sides.is_some_and(Sides::are_known);
        answer.usage = known.filter(|_| is_whole);
        answer.used_so_far = known.filter(|_| !is_whole);
        answer.units = [(Class::Images, self.parts)].into();
    }

    /// Whether any part is complete.
    pub(super) const fn is_any(&self) -> bool {
        self.parts > 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_long_string_is_cut_and_the_rest_stays_json(runs in proptest::collection::vec(0_usize..2_000, 1..5), cut in 1_usize..600) {
            let strings: Vec<String> = runs.iter().map(|length| "A".repeat(*length)).collect();
            let event = serde_json::json!({"b64_json": strings, "usage": {"input_tokens": 3}, "x": "a\"b\\"}).to_string();
            let (mut skim, mut kept) = (Skim::default(), BytesMut::new());
            for part in event.as_bytes().chunks(cut) {
                skim.append(part, &mut kept);
            }
            let read: serde_json::Value = serde_json::from_slice(&kept).unwrap();
            let shortened: Vec<String> = runs.iter().map(|length| "A".repeat((*length).min(RUN_BYTES_MAX))).collect();
            prop_assert_eq!(read, serde_json::json!({"b64_json": shortened, "usage": {"input_tokens": 3}, "x": "a\"b\\"}));
        }
    }
}

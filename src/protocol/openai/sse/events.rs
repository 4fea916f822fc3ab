//! Finds where events end, and takes one event apart.
//!
//! Lines end in LF, CR or CRLF; an empty line ends an event. The search
//! remembers where it stands, so that no byte is looked at twice however the
//! stream is cut into frames.

use std::borrow::Cow;
use std::ops::Range;

use bytes::BytesMut;
use memchr::{memchr, memchr2};

use crate::protocol::openai::json::{member, string_at};

/// The search for ends of events, across frames.
#[derive(Debug)]
pub(super) struct Boundary {
    /// Whether the current line has no byte yet.
    line_empty: bool,
    /// Whether the last byte was a CR, so that an LF belongs to it.
    after_cr: bool,
}

impl Boundary {
    pub(super) const fn new() -> Self {
        Self { line_empty: true, after_cr: false }
    }

    /// Whether an LF would still belong to the line end just seen.
    pub(super) const fn owes_lf(&self) -> bool {
        self.after_cr
    }

    /// The index after the next end of an event; `None` takes all bytes in.
    pub(super) fn next_end(&mut self, bytes: &[u8], from: usize) -> Option<usize> {
        let mut at = from;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if std::mem::take(&mut self.after_cr) && rest[0] == b'\n' {
                at += 1;
                continue;
            }
            let Some(found) = memchr2(b'\n', b'\r', rest) else {
                self.line_empty = false;
                return None;
            };
            let ends_event = self.line_empty && found == 0;
            self.after_cr = rest[found] == b'\r';
            self.line_empty = true;
            at += found + 1;
            if ends_event {
                return Some(at);
            }
        }
        None
    }
}

/// One event, taken apart.
#[derive(Debug, Default)]
pub(super) struct Event<'a> {
    /// The `event` field, if there is one.
    pub(super) name: Option<&'a [u8]>,
    /// The `data` lines, joined by LF.
    pub(super) data: Cow<'a, [u8]>,
    /// Where the first `data` line's value stands in the event.
    first_at: usize,
    /// The further ones: where they stand in the event, and where in `data`.
    more: Vec<(usize, usize)>,
}

impl<'a> Event<'a> {
    /// Takes the bytes of an event apart, its empty line included or not.
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        let mut event = Self::default();
        let mut has_data = false;
        let mut rest = bytes;
        while !rest.is_empty() {
            let end = memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
            let line = &rest[..end];
            let line_end = bytes.len() - rest.len() + end;
            rest = rest.get(end + 1..).unwrap_or_default();
            if let Some(data) = field(line, b"data") {
                let at = line_end - data.len();
                if has_data {
                    let joined = event.data.to_mut();
                    joined.push(b'\n');
                    event.more.push((at, joined.len()));
                    joined.extend_from_slice(data);
                } else {
                    event.data = Cow::Borrowed(data);
                    event.first_at = at;
                    has_data = true;
                }
            } else if let Some(name) = field(line, b"event") {
                event.name = Some(name);
            }
        }
        event
    }

    /// The kind of an event that has one. Clients use the type, or the name if there is no
    /// type; an error's own type may stand in its place.
    pub(super) fn kind(&self) -> &[u8] {
        let data = &*self.data;
        if self.name == Some(b"error") {
            return b"error";
        }
        // OpenAI writes the type first, and the same as the name.
        if let Some(rest) = data.strip_prefix(b"{\"type\":\"") {
            let is_name = |name: &&[u8]| rest.starts_with(name) && rest.get(name.len()) == Some(&b'"');
            let written = || &rest[..memchr(b'"', rest).unwrap_or(rest.len())];
            return self.name.filter(is_name).unwrap_or_else(written);
        }
        let written = member(data, b"type").and_then(|at| string_at(data, at));
        written.or(self.name).unwrap_or_default()
    }

    /// Where a byte of its data stands in the event; `None` if the data has several lines.
    pub(super) fn place(&self, at: usize) -> Option<usize> {
        self.more.is_empty().then_some(self.first_at + at)
    }

    /// Writes the event, which was taken from `bytes`, without a span of its data.
    /// Of lines that the span covers, the beginnings and ends stay.
    pub(super) fn write_without(&self, bytes: &[u8], gone: Range<usize>, out: &mut BytesMut) {
        let first = std::iter::once((self.first_at, 0));
        let ends = self.more.iter().map(|(_, start)| start - 1).chain([self.data.len()]);
        let mut written = 0;
        for ((at, start), end) in first.chain(self.more.iter().copied()).zip(ends) {
            let from = gone.start.clamp(start, end) - start;
            let to = gone.end.clamp(start, end) - start;
            out.extend_from_slice(&bytes[written..at + from]);
            written = at + to;
        }
        out.extend_from_slice(&bytes[written..]);
    }
}

fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let rest = line.strip_prefix(name)?;
    if rest.is_empty() {
        return Some(rest);
    }
    let value = rest.strip_prefix(b":")?;
    Some(value.strip_prefix(b" ").unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ends(frames: &[&[u8]]) -> Vec<usize> {
        let mut boundary = Boundary::new();
        let (mut ends, mut offset) = (Vec::new(), 0);
        for frame in frames {
            let mut at = 0;
            while let Some(end) = boundary.next_end(frame, at) {
                ends.push(offset + end);
                at = end;
            }
            offset += frame.len();
        }
        ends
    }

    #[test]
    fn every_line_end_ends_events() {
        assert_eq!(ends(&[b"a\n\nb\n\n"]), [3, 6]);
        assert_eq!(ends(&[b"a\r\rb\r\r"]), [3, 6]);
        assert_eq!(ends(&[b"a\r\n\r\nb\r\n\r\n"]), [4, 9]);
        assert_eq!(ends(&[b"a\nb\n"]), Vec::<usize>::new());
        assert_eq!(ends(&[b"\n\n"]), [1, 2]);
    }

    #[test]
    fn an_event_is_taken_apart() {
        let event = Event::of(b": hi\r\nevent: x\r\nid: 3\r\ndata: a\r\ndata:b\r\n\r\n");
        assert_eq!(event.name, Some(&b"x"[..]));
        assert_eq!(&*event.data, b"a\nb");
        assert!(Event::of(b": only a comment\n\n").data.is_empty());
        assert_eq!(&*Event::of(b"data: cut").data, b"cut");
    }

    #[test]
    fn a_span_of_the_data_is_left_out_wherever_its_lines_are() {
        let without = |text: &str, gone: Range<usize>| {
            let mut out = BytesMut::new();
            Event::of(text.as_bytes()).write_without(text.as_bytes(), gone, &mut out);
            String::from_utf8(out.to_vec()).unwrap()
        };
        assert_eq!(without("event: x\ndata: abcdef\n\n", 2..4), "event: x\ndata: abef\n\n");
        let lines = "data:ab\r\n: c\r\ndata: cd\r\ndata: ef\r\n\r\n";
        assert_eq!(without(lines, 1..4), "data:a\r\n: c\r\ndata: d\r\ndata: ef\r\n\r\n");
        assert_eq!(without(lines, 0..8), "data:\r\n: c\r\ndata: \r\ndata: \r\n\r\n");
        assert_eq!(without(lines, 3..3), lines);
    }

    proptest! {
        #[test]
        fn chunking_moves_no_end(text in "[a\r\n]{0,40}", cuts in proptest::collection::vec(0_usize..40, 0..6)) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            let mut frames = Vec::new();
            let mut from = 0;
            for cut in cuts {
                frames.push(&bytes[from..cut]);
                from = cut;
            }
            frames.push(&bytes[from..]);
            prop_assert_eq!(ends(&frames), ends(&[bytes]));
        }
    }
}

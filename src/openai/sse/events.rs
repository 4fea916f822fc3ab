//! Finds where events end, and takes one event apart.
//!
//! Lines end in LF, CR or CRLF; an empty line ends an event. The search
//! remembers where it stands, so that no byte is looked at twice however the
//! stream is cut into frames.

use std::borrow::Cow;

use memchr::memchr2;

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
            rest = rest.get(end + 1..).unwrap_or_default();
            if let Some(data) = field(line, b"data") {
                if has_data {
                    let joined = event.data.to_mut();
                    joined.push(b'\n');
                    joined.extend_from_slice(data);
                } else {
                    event.data = Cow::Borrowed(data);
                    has_data = true;
                }
            } else if let Some(name) = field(line, b"event") {
                event.name = Some(name);
            }
        }
        event
    }

    /// Where the data stands in the bytes the event was taken from, if it is
    /// one line of them.
    pub(super) fn data_start(&self, bytes: &[u8]) -> Option<usize> {
        match &self.data {
            Cow::Borrowed(data) => data.as_ptr().addr().checked_sub(bytes.as_ptr().addr()),
            Cow::Owned(_) => None,
        }
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

//! Splits text that passes into its lines, without input or output, as for JSON Lines.
//!
//! A line that lies within one piece of the text is lent from it. One that spans several is
//! gathered in a buffer, up to a bound.

use memchr::memchr_iter;

/// A buffer up to this size is kept for the next line.
const KEPT_BYTES_MAX: usize = 256 << 10;

/// A line, without the `\n` or `\r\n` that ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// The bytes of a line.
    Whole(&'a [u8]),
    /// A line is longer than the bound; its bytes are not kept.
    TooLong,
}

/// A reader of lines, to which a text is fed in pieces.
///
/// ```
/// use spendguard::protocol::lines::{Line, LineReader};
/// let (mut lines, mut reader) = (Vec::new(), LineReader::new(5));
/// let mut on = |line: Line<'_>| match line {
///     Line::Whole(line) => lines.push(String::from_utf8_lossy(line).into_owned()),
///     Line::TooLong => lines.push("?".to_owned()),
/// };
/// for bytes in ["one\ntw", "o\r\n\nthirteen\nla", "st"] {
///     reader.feed(bytes.as_bytes(), &mut on);
/// }
/// reader.finish(&mut on);
/// assert_eq!(lines, ["one", "two", "", "?", "last"]);
/// ```
#[derive(Debug)]
pub struct LineReader {
    line_bytes_max: usize,
    /// The start of a line whose end hasn't come.
    partial: Vec<u8>,
    /// Whether the line whose end hasn't come is known to be too long.
    is_too_long: bool,
}

impl LineReader {
    /// A reader of lines of at most this many bytes, line ends not counted.
    pub const fn new(line_bytes_max: usize) -> Self {
        Self { line_bytes_max, partial: Vec::new(), is_too_long: false }
    }

    /// Takes the next bytes; calls `on` with each line that ends in them.
    ///
    /// It is called once for a line that is too long, as soon as that is known.
    pub fn feed(&mut self, bytes: &[u8], mut on: impl FnMut(Line<'_>)) {
        let mut start = 0;
        for end in memchr_iter(b'\n', bytes) {
            self.end_line(&bytes[start..end], &mut on);
            start = end + 1;
        }
        self.keep(&bytes[start..], &mut on);
    }

    /// Ends the text; calls `on` with a last line that no line end follows.
    pub fn finish(&mut self, mut on: impl FnMut(Line<'_>)) {
        if !self.partial.is_empty() {
            on(self.bounded(&self.partial));
        }
        self.forget();
        self.is_too_long = false;
    }

    /// The memory that a line takes whose end hasn't come.
    pub const fn held_bytes(&self) -> usize {
        self.partial.capacity()
    }

    /// Ends a line with these bytes before its line end.
    fn end_line(&mut self, bytes: &[u8], on: &mut impl FnMut(Line<'_>)) {
        let is_within = self.partial.is_empty();
        if !is_within {
            self.keep(bytes, on);
        }
        if !self.is_too_long {
            let line = if is_within { bytes } else { &self.partial };
            on(self.bounded(line.strip_suffix(b"\r").unwrap_or(line)));
        }
        self.forget();
        self.is_too_long = false;
    }

    /// Keeps bytes of a line whose end hasn't come, unless it is too long.
    fn keep(&mut self, bytes: &[u8], on: &mut impl FnMut(Line<'_>)) {
        if self.is_too_long || bytes.is_empty() {
            return;
        }
        // One byte more than the bound may be the first one of the line end.
        let room = self.line_bytes_max.saturating_add(1) - self.partial.len();
        if bytes.len() <= room {
            self.partial.extend_from_slice(bytes);
        } else {
            self.forget();
            self.is_too_long = true;
            on(Line::TooLong);
        }
    }

    /// Empties the buffer, and gives a large one back.
    fn forget(&mut self) {
        if self.partial.capacity() > KEPT_BYTES_MAX {
            self.partial = Vec::new();
        }
        self.partial.clear();
    }

    /// A line, if it is within the bound.
    fn bounded<'a>(&self, line: &'a [u8]) -> Line<'a> {
        if line.len() <= self.line_bytes_max { Line::Whole(line) } else { Line::TooLong }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The lines of a text that comes in these pieces; `None` is one that is too long.
    fn streamed<'a>(
        pieces: impl IntoIterator<Item = &'a [u8]>,
        line_bytes_max: usize,
    ) -> Vec<Option<Vec<u8>>> {
        let (mut lines, mut reader) = (Vec::new(), LineReader::new(line_bytes_max));
        let mut on = |line: Line<'_>| match line {
            Line::Whole(line) => lines.push(Some(line.to_vec())),
            Line::TooLong => lines.push(None),
        };
        for piece in pieces {
            reader.feed(piece, &mut on);
            assert!(reader.partial.len() <= line_bytes_max + 1);
        }
        reader.finish(&mut on);
        lines
    }

    /// The lines of a text, as they are by definition.
    fn whole(text: &[u8], line_bytes_max: usize) -> Vec<Option<Vec<u8>>> {
        let ended = text.split_inclusive(|byte| *byte == b'\n').map(|line| {
            let line = line.strip_suffix(b"\n").map_or(line, |line| line.strip_suffix(b"\r").unwrap_or(line));
            Some(line.to_vec()).filter(|line| line.len() <= line_bytes_max)
        });
        ended.collect()
    }

    #[test]
    fn a_line_is_as_long_as_its_bytes_before_the_line_end() {
        for (text, expected) in [
            ("", vec![]),
            ("\n", vec![Some("")]),
            ("\r\n\n", vec![Some(""), Some("")]),
            ("abc\r\nabcd\r\nabc\n", vec![Some("abc"), None, Some("abc")]),
            ("ab\r\r\na", vec![Some("ab\r"), Some("a")]),
            ("abc\r", vec![None]),
            ("abcdefgh\nabcdefgh", vec![None, None]),
            ("ab\r", vec![Some("ab\r")]),
        ] {
            let expected: Vec<_> =
                expected.into_iter().map(|line| line.map(|line| line.as_bytes().to_vec())).collect();
            for size in [1, 2, 3, usize::MAX] {
                assert_eq!(
                    streamed(text.as_bytes().chunks(size), 3),
                    expected,
                    "{text:?} in pieces of {size}"
                );
            }
        }
    }

    #[test]
    fn a_line_within_one_piece_is_lent_from_it_and_one_that_is_too_long_is_known_at_once() {
        let (text, mut reader) = (b"one\ntwo\nthree", LineReader::new(5));
        reader.feed(text, |line| {
            let Line::Whole(line) = line else { panic!("{line:?}") };
            assert!(text.as_ptr_range().contains(&line.as_ptr()));
        });
        let mut found = 0;
        for _ in 0..3 {
            reader.feed(b"\r", |line| found += usize::from(line == Line::TooLong));
        }
        assert_eq!((found, reader.partial.len()), (1, 0));
    }

    proptest! {
        #[test]
        fn lines_are_read_alike_however_the_text_is_cut(
            text in "[ab\r\n]{0,60}", sizes in prop::collection::vec(1..9_usize, 1..9), line_bytes_max in 0..7_usize,
        ) {
            let (mut rest, mut pieces) = (text.as_bytes(), Vec::new());
            for size in sizes.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at((*size).min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            prop_assert_eq!(streamed(pieces, line_bytes_max), whole(text.as_bytes(), line_bytes_max));
        }
    }
}

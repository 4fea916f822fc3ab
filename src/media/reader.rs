//! Reads base64 out of a JSON string as it stands in a body, decoding on the fly.
//!
//! A client may spell the same media in many ways: `\/` and `\u002b` for
//! characters that need no escape, line breaks, the base64url alphabet, no
//! padding, a data URL around it. All of them read as the same bytes here.
//! Anything that two decoders could read differently (a character of no
//! alphabet, data after the padding) is an error.

use std::io::{BufRead, Error, ErrorKind, Read, Result, Seek, SeekFrom};

/// The longest head of a data URL, `data:image/png;base64,` in any spelling.
const URL_HEAD_BYTES_MAX: usize = 1_024;
/// Characters that are checked at once when data is skipped; whole groups.
const SKIP_CHARS: usize = 4_096;
/// The value of what is not in an alphabet.
const NONE: u8 = 0xff;
/// What a data URL starts with.
const SCHEME: &[u8] = b"data:";

/// Bytes that are read from the start on, decoded or as they are.
pub(super) trait Source: Clone {
    /// At most how many bytes there are from the start.
    fn bytes_max(&self) -> u64;

    /// Where the next byte is.
    fn position(&self) -> u64;

    /// Reads an exact number of bytes.
    fn array<const N: usize>(&mut self) -> Result<[u8; N]>;

    /// Passes over bytes; stops early at the end.
    fn skip(&mut self, bytes: u64) -> Result<()>;

    /// Reads an integer whose first byte is the lowest.
    fn le_u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// Reads an integer whose first byte is the lowest.
    fn le_u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }
}

/// Bytes as they are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plain<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Plain<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }
}

impl Source for Plain<'_> {
    fn bytes_max(&self) -> u64 {
        to_u64(self.bytes.len())
    }

    fn position(&self) -> u64 {
        to_u64(self.at)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let found = self.bytes[self.at..].first_chunk().copied();
        self.at = (self.at + N).min(self.bytes.len());
        found.ok_or_else(|| ErrorKind::UnexpectedEof.into())
    }

    fn skip(&mut self, bytes: u64) -> Result<()> {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.at = self.at.saturating_add(bytes).min(self.bytes.len());
        Ok(())
    }
}

/// The decoded bytes of a JSON string of base64.
///
/// Holds a place in the string and up to three decoded bytes. Skipping ahead
/// decodes nothing, it only checks the alphabet; going back starts again.
#[derive(Clone, Debug)]
pub(super) struct MediaReader<'a> {
    /// The base64, without quotes and the head of a data URL.
    text: &'a [u8],
    /// Where the next character is.
    at: usize,
    /// Bytes decoded before the pending ones.
    passed: u64,
    pending: [u8; 3],
    pending_from: usize,
    pending_to: usize,
}

impl<'a> MediaReader<'a> {
    /// A reader of a JSON string token, with its quotes.
    ///
    /// `None` if it is no string, or a URL of another kind than base64 data.
    pub(super) fn new(json_string: &'a str) -> Option<Self> {
        let inside = json_string.strip_prefix('"')?.strip_suffix('"')?;
        let text = payload(inside.as_bytes())?;
        Some(Self { text, at: 0, passed: 0, pending: [0; 3], pending_from: 0, pending_to: 0 })
    }

    /// Reads an exact number of bytes.
    pub(super) fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads an integer whose first byte is the highest.
    pub(super) fn be_u16(&mut self) -> Result<u16> {
        self.bytes().map(u16::from_be_bytes)
    }

    /// Reads an integer whose first byte is the highest.
    pub(super) fn be_u32(&mut self) -> Result<u32> {
        self.bytes().map(u32::from_be_bytes)
    }

    /// Reads an integer of three bytes whose first byte is the lowest.
    pub(super) fn le_u24(&mut self) -> Result<u32> {
        self.bytes().map(|[low, middle, high]| u32::from_le_bytes([low, middle, high, 0]))
    }

    /// Decodes the next group of four characters; none pending is the end.
    fn next_group(&mut self) -> Result<()> {
        self.passed += to_u64(self.pending_to);
        (self.pending_from, self.pending_to) = (0, 0);
        if let Some(&[a, b, c, d]) = self.text.get(self.at..self.at + 4) {
            let [a, b, c, d] = [a, b, c, d].map(value);
            if a | b | c | d < 64 {
                self.at += 4;
                self.pending = [a << 2 | b >> 4, b << 4 | c >> 2, c << 6 | d];
                self.pending_to = 3;
                return Ok(());
            }
        }
        let mut group = [0; 4];
        let mut len = 0;
        while len < 4 {
            let Some(sextet) = self.next_sextet()? else {
                break;
            };
            group[len] = sextet;
            len += 1;
        }
        let [a, b, c, d] = group;
        self.pending = [a << 2 | b >> 4, b << 4 | c >> 2, c << 6 | d];
        // Two characters are one byte, three are two; one alone is none.
        self.pending_to = len.saturating_sub(1);
        if len == 1 { Err(doubtful()) } else { Ok(()) }
    }

    /// The value of the next character, past whitespace; `None` at the end.
    fn next_sextet(&mut self) -> Result<Option<u8>> {
        while let Some((character, after)) = next_character(self.text, self.at) {
            match character {
                b' ' | b'\n' | b'\r' | b'\t' => self.at = after,
                b'=' => {
                    self.end_of_padding(after)?;
                    return Ok(None);
                }
                _ => {
                    let value = value(character);
                    if value == NONE {
                        return Err(doubtful());
                    }
                    self.at = after;
                    return Ok(Some(value));
                }
            }
        }
        if self.at < self.text.len() { Err(doubtful()) } else { Ok(None) }
    }

    /// After padding only more of it may follow: decoders disagree about more
    /// data there.
    fn end_of_padding(&mut self, from: usize) -> Result<()> {
        let mut at = from;
        while let Some((character, after)) = next_character(self.text, at) {
            if !matches!(character, b'=' | b' ' | b'\n' | b'\r' | b'\t') {
                return Err(doubtful());
            }
            at = after;
        }
        if at < self.text.len() {
            return Err(doubtful());
        }
        self.at = self.text.len();
        Ok(())
    }
}

impl Source for MediaReader<'_> {
    /// Escapes and whitespace only lower it.
    fn bytes_max(&self) -> u64 {
        to_u64(self.text.len()).div_ceil(4).saturating_mul(3)
    }

    fn position(&self) -> u64 {
        self.passed + to_u64(self.pending_from)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.bytes()
    }

    /// Passes over bytes without decoding them; stops early at the end.
    fn skip(&mut self, bytes: u64) -> Result<()> {
        let held = to_u64(self.pending_to - self.pending_from).min(bytes);
        self.pending_from += usize::try_from(held).unwrap_or(usize::MAX);
        let mut left = bytes - held;
        while left >= 3 {
            let groups = usize::try_from(left / 3).unwrap_or(usize::MAX).min(SKIP_CHARS / 4);
            let block = self.text.get(self.at..self.at + groups * 4);
            if block.is_some_and(is_plain) {
                self.passed += to_u64(self.pending_to) + to_u64(groups * 3);
                (self.pending_from, self.pending_to) = (0, 0);
                self.at += groups * 4;
                left -= to_u64(groups * 3);
                continue;
            }
            // An escape, a line break or the end is near: group by group past it.
            for _ in 0..groups {
                self.next_group()?;
                let decoded = to_u64(self.pending_to);
                if decoded == 0 {
                    return Ok(());
                }
                self.pending_from = self.pending_to;
                left -= decoded;
            }
        }
        if left > 0 {
            self.next_group()?;
            self.pending_from = self.pending_to.min(usize::try_from(left).unwrap_or(usize::MAX));
        }
        Ok(())
    }
}

impl Read for MediaReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            let pending = self.fill_buf()?;
            if pending.is_empty() {
                break;
            }
            let count = pending.len().min(buffer.len() - done);
            buffer[done..done + count].copy_from_slice(&pending[..count]);
            self.consume(count);
            done += count;
        }
        Ok(done)
    }
}

impl BufRead for MediaReader<'_> {
    fn fill_buf(&mut self) -> Result<&[u8]> {
        if self.pending_from == self.pending_to {
            self.next_group()?;
        }
        Ok(&self.pending[self.pending_from..self.pending_to])
    }

    fn consume(&mut self, count: usize) {
        self.pending_from = (self.pending_from + count).min(self.pending_to);
    }
}

impl Seek for MediaReader<'_> {
    /// Goes to a place counted from the start or from here; ahead at most to
    /// the end of the data.
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        let here = self.position();
        let target = match to {
            SeekFrom::Start(target) => Some(target),
            SeekFrom::Current(by) => here.checked_add_signed(by),
            SeekFrom::End(_) => None,
        };
        let target = target.ok_or_else(|| Error::from(ErrorKind::Unsupported))?;
        if target < here {
            (self.at, self.passed, self.pending_from, self.pending_to) = (0, 0, 0, 0);
        }
        self.skip(target - self.position())?;
        Ok(self.position())
    }
}

/// Whether a JSON string token starts as a data URL does, in whatever spelling.
pub fn is_data_url(json_string: &str) -> bool {
    let Some(inside) = json_string.strip_prefix('"') else { return false };
    let start = std::iter::successors(next_character(inside.as_bytes(), 0), |(_, at)| {
        next_character(inside.as_bytes(), *at)
    });
    let start = start.map(|(character, _)| character.to_ascii_lowercase());
    start.take(SCHEME.len()).eq(SCHEME.iter().copied())
}

/// The base64 inside of a string: all of it, or what follows the head of a data
/// URL; `None` for a data URL of another encoding.
fn payload(inside: &[u8]) -> Option<&[u8]> {
    let mut head = Vec::with_capacity(32);
    let mut at = 0;
    while head.len() < URL_HEAD_BYTES_MAX {
        let Some((character, after)) = next_character(inside, at) else {
            break;
        };
        at = after;
        head.push(character.to_ascii_lowercase());
        if !SCHEME.starts_with(&head[..head.len().min(SCHEME.len())]) {
            return Some(inside);
        }
        if character == b',' {
            return head.ends_with(b";base64,").then_some(&inside[at..]);
        }
    }
    if head.len() < SCHEME.len() { Some(inside) } else { None }
}

/// One character of a JSON string and the place after it; `None` at the end,
/// and for characters that are not ASCII.
fn next_character(text: &[u8], at: usize) -> Option<(u8, usize)> {
    let byte = *text.get(at)?;
    if byte != b'\\' {
        return byte.is_ascii().then_some((byte, at + 1));
    }
    let character = match text.get(at + 1)? {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'u' => {
            let digits = std::str::from_utf8(text.get(at + 2..at + 6)?).ok()?;
            let code = u8::from_str_radix(digits.strip_prefix("00")?, 16).ok()?;
            return code.is_ascii().then_some((code, at + 6));
        }
        character @ (b'/' | b'"' | b'\\') => *character,
        _ => return None,
    };
    Some((character, at + 2))
}

/// Whether a block is nothing but characters of the alphabets.
fn is_plain(block: &[u8]) -> bool {
    // Without an early exit the loop is compiled to vector instructions.
    block.iter().fold(true, |plain, byte| {
        plain & (byte.is_ascii_alphanumeric() | matches!(byte, b'+' | b'/' | b'-' | b'_'))
    })
}

/// The value of a character in base64 or base64url.
fn value(character: u8) -> u8 {
    VALUES[usize::from(character)]
}

/// Built at its first use: a `const fn` can't turn a byte into an index.
static VALUES: std::sync::LazyLock<[u8; 256]> = std::sync::LazyLock::new(|| {
    let mut values = [NONE; 256];
    let alphabet = (b'A'..=b'Z').chain(b'a'..=b'z').chain(b'0'..=b'9').chain(*b"+/");
    for (value, character) in (0..).zip(alphabet) {
        values[usize::from(character)] = value;
    }
    values[usize::from(b'-')] = 62;
    values[usize::from(b'_')] = 63;
    values
});

fn doubtful() -> Error {
    Error::new(ErrorKind::InvalidData, "not base64 that all decoders read alike")
}

fn to_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;

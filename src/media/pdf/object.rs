//! PDF objects: numbers, names, strings, arrays, dictionaries, references.
//!
//! One lexer reads the objects of a file and the tokens of a content stream,
//! which share a syntax (ISO 32000-1, 7.2 and 7.3). It never fails: bytes that
//! are no object are skipped or become a keyword.

/// Arrays and dictionaries within each other; deeper ones are cut.
const DEPTH_MAX: usize = 64;

/// An object, as far as its cost depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Object {
    /// A whole number; a fraction is cut.
    Number(i64),
    /// A name without its slash, `#xx` decoded.
    Name(Vec<u8>),
    /// A string: how many bytes it has at the most, and its hexadecimal digits'
    /// bytes if it is written in them.
    Text { bytes: u64, hex: Option<Vec<u8>> },
    /// An array.
    Array(Vec<Object>),
    /// A dictionary; a key may be there twice.
    Dict(Vec<(Vec<u8>, Object)>),
    /// A reference to an object by its number.
    Reference(u32),
    /// `null`, `true`, an operator: any other word.
    Keyword(Vec<u8>),
}

impl Object {
    /// The values of a key; more than one if the key is repeated.
    pub(super) fn values<'a>(&'a self, key: &'a [u8]) -> impl Iterator<Item = &'a Object> {
        let entries = if let Self::Dict(entries) = self { entries.as_slice() } else { &[] };
        entries.iter().filter(move |(name, _)| name == key).map(|(_, value)| value)
    }

    /// Whether it is a dictionary with a key.
    pub(super) fn has(&self, key: &[u8]) -> bool {
        self.values(key).next().is_some()
    }

    /// Whether a key has a name for its value.
    pub(super) fn is_named(&self, key: &[u8], name: &[u8]) -> bool {
        self.values(key).any(|value| matches!(value, Self::Name(known) if known == name))
    }

    /// Calls for itself and every object within.
    pub(super) fn each(&self, visit: &mut impl FnMut(&Object)) {
        visit(self);
        match self {
            Self::Array(items) => items.iter().for_each(|item| item.each(visit)),
            Self::Dict(entries) => entries.iter().for_each(|(_, value)| value.each(visit)),
            Self::Number(_) | Self::Name(_) | Self::Text { .. } | Self::Reference(_) | Self::Keyword(_) => {}
        }
    }
}

/// Reads objects from bytes, one after the other.
#[derive(Clone, Debug)]
pub(super) struct Lexer<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Whether something was cut: a string without its end, objects too deep.
    is_cut: bool,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, is_cut: false }
    }

    /// Where the next byte is.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Whether a string had no end or objects were too deep, so that decoders may
    /// read on otherwise.
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// The next object; `None` at the end.
    pub(super) fn next(&mut self) -> Option<Object> {
        self.object(0)
    }

    fn object(&mut self, depth: usize) -> Option<Object> {
        self.skip_blank();
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(match byte {
            b'/' => Object::Name(self.name()),
            b'(' => self.literal(),
            b'<' if self.bytes.get(self.at) == Some(&b'<') => {
                self.at += 1;
                self.dict(depth)
            }
            b'<' => self.hexadecimal(),
            b'[' => Object::Array(self.items(b"]", depth)),
            b'0'..=b'9' | b'+' | b'-' | b'.' => self.number(),
            b']' | b'{' | b'}' | b')' => Object::Keyword(vec![byte]),
            b'>' => {
                self.at += usize::from(self.bytes.get(self.at) == Some(&b'>'));
                Object::Keyword(b">>".to_vec())
            }
            _ => {
                self.at -= 1;
                Object::Keyword(self.regular().to_vec())
            }
        })
    }

    fn skip_blank(&mut self) {
        while let Some(byte) = self.bytes.get(self.at) {
            if is_blank(*byte) {
                self.at += 1;
            } else if *byte == b'%' {
                let rest = &self.bytes[self.at..];
                self.at += memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
            } else {
                break;
            }
        }
    }

    /// The regular characters that follow.
    fn regular(&mut self) -> &'a [u8] {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|byte| !is_regular(*byte)).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    fn name(&mut self) -> Vec<u8> {
        let raw = self.regular();
        let mut name = Vec::with_capacity(raw.len());
        let mut at = 0;
        while let Some(byte) = raw.get(at) {
            let escaped = raw.get(at + 1..at + 3).filter(|_| *byte == b'#').and_then(|digits| {
                let [high, low] = [digits[0], digits[1]].map(nibble);
                Some(high? << 4 | low?)
            });
            name.push(escaped.unwrap_or(*byte));
            at += if escaped.is_some() { 3 } else { 1 };
        }
        name
    }

    /// A string in parentheses, which may be nested and escaped.
    fn literal(&mut self) -> Object {
        let from = self.at;
        let mut depth = 1_usize;
        while depth > 0 {
            let Some(found) = memchr::memchr3(b'(', b')', b'\\', &self.bytes[self.at..]) else {
                self.at = self.bytes.len();
                self.is_cut = true;
                break;
            };
            self.at += found;
            match self.bytes[self.at] {
                b'(' => depth += 1,
                b')' => depth -= 1,
                _ => self.at += 1,
            }
            self.at = (self.at + 1).min(self.bytes.len());
        }
        Object::Text { bytes: to_u64(self.at - from), hex: None }
    }

    fn hexadecimal(&mut self) -> Object {
        let rest = &self.bytes[self.at..];
        let end = memchr::memchr(b'>', rest);
        self.is_cut |= end.is_none();
        let length = end.unwrap_or(rest.len());
        self.at = (self.at + length + 1).min(self.bytes.len());
        let digits: Vec<u8> = rest[..length].iter().filter_map(|byte| nibble(*byte)).collect();
        let pair = |pair: &[u8]| pair[0] << 4 | pair.get(1).copied().unwrap_or(0);
        let hex: Vec<u8> = digits.chunks(2).map(pair).collect();
        Object::Text { bytes: to_u64(hex.len()), hex: Some(hex) }
    }

    fn items(&mut self, end: &[u8], depth: usize) -> Vec<Object> {
        let mut items = Vec::new();
        if depth >= DEPTH_MAX {
            self.is_cut = true;
            return items;
        }
        while let Some(item) = self.object(depth + 1) {
            let is = |text: &[u8]| matches!(&item, Object::Keyword(word) if word == text);
            if is(end) {
                break;
            }
            // It belongs to the object around it: this one was never closed.
            if let Some(word) = [&b"endobj"[..], b"stream"].into_iter().find(|word| is(word)) {
                self.at -= word.len();
                break;
            }
            if !is(b"R") {
                items.push(item);
                continue;
            }
            let reference = match items.as_slice() {
                [.., Object::Number(number), Object::Number(_)] => u32::try_from(*number).ok(),
                _ => None,
            };
            if let Some(number) = reference {
                items.truncate(items.len() - 2);
                items.push(Object::Reference(number));
            }
        }
        items
    }

    fn dict(&mut self, depth: usize) -> Object {
        let mut entries = Vec::new();
        let mut key = None;
        for item in self.items(b">>", depth) {
            match (key.take(), item) {
                (None, Object::Name(name)) => key = Some(name),
                (Some(name), value) => entries.push((name, value)),
                (None, _) => {}
            }
        }
        Object::Dict(entries)
    }

    fn number(&mut self) -> Object {
        self.at -= 1;
        let word = self.regular();
        let whole = word.split(|byte| *byte == b'.').next().unwrap_or_default();
        let digits = std::str::from_utf8(whole).unwrap_or_default();
        Object::Number(digits.parse().unwrap_or(0))
    }
}

pub(super) fn is_blank(byte: u8) -> bool {
    matches!(byte, 0 | b'\t' | b'\n' | 0x0c | b'\r' | b' ')
}

fn is_regular(byte: u8) -> bool {
    !is_blank(byte) && !b"()<>[]{}/%".contains(&byte)
}

pub(super) fn nibble(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

fn to_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

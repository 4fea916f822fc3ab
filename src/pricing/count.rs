//! Counting tokens exactly, where a bound is too loose.
//!
//! The tokenizer is loaded at its first use; most requests never need it. The text
//! comes from clients, so every count has a limit, and takes time in proportion to
//! that limit and not to the text.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use bpe_openai::Tokenizer;

/// A vocabulary that is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// GPT-4o, 4.1, 4.5, 5, and the o series.
    O200k,
    /// GPT-4, GPT-3.5, and the embeddings.
    Cl100k,
}

/// The longest token of any published vocabulary, in bytes of decoded text
/// (128 spaces, in `o200k_base`).
const TOKEN_BYTES_MAX: usize = 128;
/// A long string is counted in pieces of so many bytes.
const PIECE_BYTES: usize = 64 * 1024;
/// Tokens that a cut between two pieces may hide: the whole text may need more
/// tokens around the cut than its pieces do.
const TOKENS_PER_CUT: u64 = 8;

/// Tokens of a text.
pub fn text(encoding: Encoding, text: &str) -> u64 {
    u64::try_from(tokenizer(encoding).count(text)).unwrap_or(u64::MAX)
}

/// An upper bound of the text tokens of a JSON body; `None` if it is more than
/// `limit`.
///
/// Upstream encodes each text by itself, between special tokens, so the sum
/// over all strings is exact for them; the bytes outside of strings are more
/// than the framing of about four tokens a message. The strings at the spans
/// `media`, in ascending order, are no text.
pub fn body_upper(encoding: Encoding, body: &str, media: &[Range<usize>], limit: u64) -> Option<u64> {
    let tokenizer = tokenizer(encoding);
    let mut tokens = 0_u64;
    for part in parts(body, media) {
        let count = match part {
            Part::Structure(bytes) => bytes,
            Part::String(string) => string_upper(tokenizer, string, limit - tokens)?,
        };
        tokens = tokens.saturating_add(count);
        if tokens > limit {
            return None;
        }
    }
    Some(tokens)
}

/// The parts of a JSON body, without media.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// So many bytes outside of strings, white space aside.
    Structure(u64),
    /// A string as it stands there, quotes included.
    String(&'a str),
}

/// Takes a JSON body apart. `media` are the spans of strings to leave out, in
/// ascending order.
pub fn parts<'a>(body: &'a str, media: &'a [Range<usize>]) -> impl Iterator<Item = Part<'a>> {
    let (mut at, mut skip, mut string_next) = (0_usize, 0_usize, false);
    std::iter::from_fn(move || {
        loop {
            let rest = body.get(at..).filter(|rest| !rest.is_empty())?;
            if !string_next {
                string_next = true;
                let outside = memchr::memchr(b'"', rest.as_bytes()).unwrap_or(rest.len());
                at += outside;
                return Some(Part::Structure(structure(&rest[..outside])));
            }
            string_next = false;
            let (string, _) = string_at(rest);
            let span = at..at + string.len();
            at = span.end;
            while media.get(skip).is_some_and(|media| media.start < span.start) {
                skip += 1;
            }
            if media.get(skip) != Some(&span) {
                return Some(Part::String(string));
            }
        }
    })
}

/// An upper bound of the tokens of a JSON string; `None` if it is more than
/// `limit`.
fn string_upper(tokenizer: &Tokenizer, string: &str, limit: u64) -> Option<u64> {
    let bytes = u64::try_from(string.len()).unwrap_or(u64::MAX);
    if bytes <= 2 {
        return Some(0);
    }
    let plain = Some(string).filter(|string| memchr::memchr(b'\\', string.as_bytes()).is_none());
    let plain = plain.and_then(|string| string.strip_prefix('"')?.strip_suffix('"')).map(Cow::Borrowed);
    let Some(text) = plain.or_else(|| serde_json::from_str(string).ok().map(Cow::Owned)) else {
        // Text that can't be decoded is counted by its bytes.
        return (bytes <= limit).then_some(bytes);
    };
    pieces(tokenizer, &text, limit)
}

/// An upper bound of the tokens of a text; `None` if it is more than `limit`.
pub fn text_within(encoding: Encoding, text: &str, limit: u64) -> Option<u64> {
    pieces(tokenizer(encoding), text, limit)
}

fn pieces(tokenizer: &Tokenizer, text: &str, limit: u64) -> Option<u64> {
    let least = u64::try_from(text.len() / TOKEN_BYTES_MAX).unwrap_or(u64::MAX);
    if least > limit {
        return None;
    }
    let (mut tokens, mut rest) = (0_u64, text);
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.floor_char_boundary(PIECE_BYTES));
        rest = after;
        tokens = tokens.saturating_add(u64::try_from(tokenizer.count(piece)).unwrap_or(u64::MAX));
        if !rest.is_empty() {
            tokens = tokens.saturating_add(TOKENS_PER_CUT);
        }
        if tokens > limit {
            return None;
        }
    }
    Some(tokens)
}

/// Whether an encoding's vocabulary is in memory; the first count loads it, which
/// takes tens of milliseconds.
pub fn is_loaded(encoding: Encoding) -> bool {
    loaded(encoding).load(Ordering::Relaxed)
}

fn loaded(encoding: Encoding) -> &'static AtomicBool {
    static O200K: AtomicBool = AtomicBool::new(false);
    static CL100K: AtomicBool = AtomicBool::new(false);
    match encoding {
        Encoding::O200k => &O200K,
        Encoding::Cl100k => &CL100K,
    }
}

fn tokenizer(encoding: Encoding) -> &'static Tokenizer {
    let tokenizer = match encoding {
        Encoding::O200k => bpe_openai::o200k_base(),
        Encoding::Cl100k => bpe_openai::cl100k_base(),
    };
    loaded(encoding).store(true, Ordering::Relaxed);
    tokenizer
}

fn structure(outside: &str) -> u64 {
    let bytes = outside.bytes().filter(|byte| !byte.is_ascii_whitespace()).count();
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// The JSON string that a text starts with, quotes included, and what follows.
fn string_at(text: &str) -> (&str, &str) {
    let bytes = text.as_bytes();
    let mut at = 1;
    while let Some(found) = memchr::memchr2(b'"', b'\\', bytes.get(at..).unwrap_or_default()) {
        at += found;
        if bytes[at] == b'"' {
            return text.split_at(at + 1);
        }
        at += 2;
    }
    (text, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_string_is_counted_by_itself() {
        let body = r#"{"messages":[{"role":"user","content":"hello world"}]}"#;
        let strings = ["messages", "role", "user", "content", "hello world"];
        let expected: u64 = strings.iter().map(|s| text(Encoding::O200k, s)).sum::<u64>() + 10;
        assert_eq!(body_upper(Encoding::O200k, body, &[], u64::MAX), Some(expected));
        assert_eq!(body_upper(Encoding::O200k, body, &[], expected), Some(expected));
        assert_eq!(body_upper(Encoding::O200k, body, &[], expected - 1), None);
        assert!(expected >= 2 + 4 + 3, "content, framing, priming");
        assert!(expected < u64::try_from(body.len()).unwrap());
    }

    #[test]
    fn escapes_are_counted_as_what_they_stand_for() {
        let count = |body| body_upper(Encoding::O200k, body, &[], u64::MAX).unwrap();
        assert_eq!(count(r#""na\u00efve""#), count("\"naïve\""));
        assert_eq!(count(r#""a\"b""#), text(Encoding::O200k, "a\"b"));
    }

    #[test]
    fn exactly_the_media_is_left_out() {
        let data = "A".repeat(8_000);
        let media = format!("\"data:image/png;base64,{data}\"");
        let body = format!(r#"{{"text":"{data}","url":{media}}}"#);
        let start = body.find(&media).unwrap();
        let span = start..start + media.len();
        let without = body_upper(Encoding::O200k, &body, std::slice::from_ref(&span), u64::MAX).unwrap();
        let text = text(Encoding::O200k, &data);
        assert!((text..text + 20).contains(&without), "{without} for a text of {text}");
        assert!(body_upper(Encoding::O200k, &body, &[], u64::MAX).unwrap() > without + 500);
        let shifted = span.start + 1..span.end;
        assert!(body_upper(Encoding::O200k, &body, &[shifted], u64::MAX).unwrap() > without + 500);
    }

    #[test]
    fn a_long_string_is_counted_in_pieces_up_to_a_limit() {
        // One token at least for every 128 bytes: the text is not even looked at.
        let unread = format!("\"{}\"", "a".repeat(1_000_000));
        assert_eq!(body_upper(Encoding::O200k, &unread, &[], 5_000), None);
        let long = "word ".repeat(50_000);
        let exact = text(Encoding::O200k, &long);
        let counted = body_upper(Encoding::O200k, &format!("\"{long}\""), &[], u64::MAX).unwrap();
        assert!((exact..exact + 50).contains(&counted), "{counted} for {exact}");
    }
}

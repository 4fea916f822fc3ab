//! Counting tokens exactly, where a bound is too loose.
//!
//! The tokenizer is loaded at its first use; most requests never need it.

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

/// Base64 shorter than this is counted as the text it might be.
const MEDIA_BYTES_MIN: usize = 4_096;

const O200K: [&str; 8] = ["gpt-4o", "chatgpt-4o", "gpt-4.1", "gpt-4.5", "gpt-5", "o1", "o3", "o4"];
const CL100K: [&str; 3] = ["gpt-4", "gpt-3.5", "text-embedding-"];

/// The vocabulary of a model; `None` if it is unpublished, as GPT-6's is.
pub fn encoding_of(model: &str) -> Option<Encoding> {
    let base = model.strip_prefix("ft:").unwrap_or(model);
    let among = |families: &[&str]| families.iter().any(|family| base.starts_with(family));
    if among(&O200K) {
        return Some(Encoding::O200k);
    }
    among(&CL100K).then_some(Encoding::Cl100k)
}

/// Tokens of a text.
pub fn text(encoding: Encoding, text: &str) -> u64 {
    u64::try_from(tokenizer(encoding).count(text)).unwrap_or(u64::MAX)
}

/// An upper bound of the text tokens of a JSON body.
///
/// Upstream encodes each text by itself, between special tokens, so the sum
/// over all strings is exact for them; the bytes outside of strings are more
/// than the framing of about four tokens a message. Long base64 is media, not
/// text; it counts nothing as long as no more of it is left out than the
/// `media_bytes` that the body is known to have.
pub fn body_upper(encoding: Encoding, body: &str, media_bytes: u64) -> u64 {
    let tokenizer = tokenizer(encoding);
    let mut skippable = usize::try_from(media_bytes).unwrap_or(usize::MAX);
    let (mut tokens, mut rest) = (0_u64, body);
    while let Some(at) = memchr::memchr(b'"', rest.as_bytes()) {
        tokens = tokens.saturating_add(structure(&rest[..at]));
        let (string, after) = string_at(&rest[at..]);
        rest = after;
        if string.len() >= MEDIA_BYTES_MIN && string.len() <= skippable && is_base64(string) {
            skippable -= string.len();
            continue;
        }
        let decoded = serde_json::from_str::<String>(string);
        // What can't be decoded is counted by its bytes.
        let bytes = || u64::try_from(string.len()).unwrap_or(u64::MAX);
        let count = decoded
            .map_or_else(|_| bytes(), |text| u64::try_from(tokenizer.count(&text)).unwrap_or(u64::MAX));
        tokens = tokens.saturating_add(count);
    }
    tokens.saturating_add(structure(rest))
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

/// Whether a quoted string is base64, or a data URL of it.
fn is_base64(quoted: &str) -> bool {
    let string = quoted.trim_matches('"');
    let payload = match string.split_once(";base64,") {
        Some((kind, payload)) if kind.starts_with("data:") => payload,
        _ => string,
    };
    payload.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=-_".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_string_is_counted_by_itself() {
        let body = r#"{"messages":[{"role":"user","content":"hello world"}]}"#;
        let strings = ["messages", "role", "user", "content", "hello world"];
        let expected: u64 = strings.iter().map(|s| text(Encoding::O200k, s)).sum::<u64>() + 10;
        assert_eq!(body_upper(Encoding::O200k, body, 0), expected);
        assert!(expected >= 2 + 4 + 3, "content, framing, priming");
        assert!(expected < u64::try_from(body.len()).unwrap());
    }

    #[test]
    fn escapes_are_counted_as_what_they_stand_for() {
        let plain = body_upper(Encoding::O200k, "\"naïve\"", 0);
        assert_eq!(body_upper(Encoding::O200k, r#""na\u00efve""#, 0), plain);
        assert_eq!(body_upper(Encoding::O200k, r#""a\"b""#, 0), text(Encoding::O200k, "a\"b"));
    }

    #[test]
    fn media_is_left_out_but_no_more_than_the_body_has() {
        let data = "A".repeat(8_000);
        let body = format!(r#"{{"url":"data:image/png;base64,{data}"}}"#);
        let all = body_upper(Encoding::O200k, &body, 0);
        let without = body_upper(Encoding::O200k, &body, 8_100);
        assert!(without < 20, "{without}");
        assert!(all > without + 500, "{all}");
    }

    #[test]
    fn vocabularies_follow_the_models() {
        for (model, encoding) in [
            ("gpt-4o-mini", Some(Encoding::O200k)),
            ("ft:gpt-4o-mini-2024-07-18:acme::x", Some(Encoding::O200k)),
            ("gpt-4-turbo", Some(Encoding::Cl100k)),
            ("text-embedding-3-small", Some(Encoding::Cl100k)),
            ("gpt-6.1-sol", None),
            ("mystery", None),
        ] {
            assert_eq!(encoding_of(model), encoding, "{model}");
        }
    }
}

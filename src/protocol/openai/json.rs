//! Borrowing pieces of JSON, without building a tree of it.
//!
//! A body may contain 20 MB of pictures in base64: relevant parts are read in
//! place, the rest is skipped. Depth is checked first, on the bytes, so that no
//! later parser can overflow its stack.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use memchr::memchr2;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The deepest nesting that is read, in levels.
pub(super) const DEPTH_MAX: usize = 128;

/// Gives a visitor its default for every scalar: none of them matters here.
macro_rules! scalars_default {
    () => {
        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok(Self::Value::default())
        }
        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok(Self::Value::default())
        }
        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok(Self::Value::default())
        }
        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok(Self::Value::default())
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Self::Value::default())
        }
    };
}
pub(super) use scalars_default;

/// Whether the nesting stays within [`DEPTH_MAX`]. The bytes need not be JSON.
pub(super) fn is_shallow(bytes: &[u8]) -> bool {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'"' => at = string_end(bytes, at),
            b'{' | b'[' => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return false;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    true
}

/// The index after the quote that closes the string whose inside starts at
/// `from`; the end of the bytes if none does.
pub(super) fn string_end(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found;
        if bytes[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    bytes.len()
}

/// The index after the value that starts at `from`; the end of the bytes if it
/// does not end.
pub(super) fn value_end(bytes: &[u8], from: usize) -> usize {
    let mut depth = 0_usize;
    let mut at = from;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at = string_end(bytes, at + 1);
                if depth == 0 {
                    return at;
                }
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth <= 1 => return at + depth,
            b'}' | b']' => depth -= 1,
            b',' if depth == 0 => return at,
            byte if depth == 0 && is_space(*byte) => return at,
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// Where the value of an object's own member starts. Nested members of the same
/// name are passed over, and nothing is parsed.
pub(super) fn member(object: &[u8], name: &[u8]) -> Option<usize> {
    let mut at = skip_space(object, 0);
    if object.get(at) != Some(&b'{') {
        return None;
    }
    loop {
        let quote = skip_space(object, at + 1);
        if object.get(quote) != Some(&b'"') {
            return None;
        }
        let end = string_end(object, quote + 1);
        let value = value_of(object, end)?;
        if object.get(quote + 1..end.saturating_sub(1)) == Some(name) {
            return Some(value);
        }
        at = skip_space(object, value_end(object, value));
        if object.get(at) != Some(&b',') {
            return None;
        }
    }
}

/// Where the value starts of the key that ends at `key_end`.
pub(super) fn value_of(data: &[u8], key_end: usize) -> Option<usize> {
    let colon = skip_space(data, key_end);
    (data.get(colon) == Some(&b':')).then(|| skip_space(data, colon + 1))
}

/// The inside of the string that starts at `from`, its escapes as they stand.
pub(super) fn string_at(data: &[u8], from: usize) -> Option<&[u8]> {
    if data.get(from) != Some(&b'"') {
        return None;
    }
    data.get(from + 1..string_end(data, from + 1).checked_sub(1)?)
}

/// The index of the first byte from `from` on that isn't JSON whitespace.
pub(super) fn skip_space(bytes: &[u8], from: usize) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    from + rest.iter().take_while(|byte| is_space(**byte)).count()
}

/// Whether JSON ignores this byte between its tokens.
pub(super) const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// Where `part` stands in `text`, from which it was borrowed.
pub(super) fn span_of(part: &str, text: &str) -> Option<Range<usize>> {
    let start = part.as_ptr().addr().checked_sub(text.as_ptr().addr())?;
    let span = start..start.checked_add(part.len())?;
    text.get(span.clone()).is_some_and(|there| std::ptr::eq(there, part)).then_some(span)
}

/// A value as it stands in the text; distinguishes `null` from absent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Raw<'a>(Option<&'a RawValue>);

impl<'a> Raw<'a> {
    /// The value's text, unless it is absent or `null`.
    pub(super) fn value(self) -> Option<&'a str> {
        self.text().filter(|text| *text != "null")
    }

    /// The value's text, `null` included.
    pub(super) fn text(self) -> Option<&'a str> {
        self.0.map(RawValue::get)
    }

    /// The string, if the value is one.
    pub(super) fn string(self) -> Option<Cow<'a, str>> {
        let inner = self.value()?.strip_prefix('"')?.strip_suffix('"')?;
        if inner.contains('\\') {
            return self.value().and_then(|text| serde_json::from_str(text).ok()).map(Cow::Owned);
        }
        Some(Cow::Borrowed(inner))
    }

    /// Whether there is a value that is neither `null` nor an empty string.
    pub(super) fn has_content(self) -> bool {
        self.value().is_some_and(|text| text != "\"\"")
    }

    /// The flag, if the value is one.
    pub(super) fn flag(self) -> Option<bool> {
        match self.value()? {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        }
    }

    /// Where the value stands in `text`, from which it was borrowed.
    pub(super) fn span(self, text: &str) -> Option<Range<usize>> {
        span_of(self.text()?, text)
    }

    /// The value as it stands in the text, quotes included, if it is a string.
    pub(super) fn quoted(self) -> Option<&'a str> {
        self.value().filter(|text| text.starts_with('"'))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&'a RawValue>::deserialize(deserializer).map(|raw| Self(Some(raw)))
    }
}

/// Exactly an object: derived structs alone would also take an array.
#[derive(Debug, Default)]
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

/// An object, or the default for anything else.
#[derive(Debug, Default)]
pub(super) struct Loose<T>(pub(super) T);

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for Loose<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LooseVisitor(PhantomData))
    }
}

struct LooseVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de> + Default> Visitor<'de> for LooseVisitor<T> {
    type Value = Loose<T>;

    scalars_default!();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(Loose::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Loose::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Loose)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_outside_strings_only() {
        assert!(is_shallow("[".repeat(DEPTH_MAX).as_bytes()));
        assert!(!is_shallow("[".repeat(DEPTH_MAX + 1).as_bytes()));
        assert!(is_shallow(format!("\"{}\\\"{}\"", "[".repeat(500), "{".repeat(500)).as_bytes()));
        assert!(is_shallow("[]".repeat(500).as_bytes()));
        assert!(is_shallow(b"\"\\"));
    }

    #[test]
    fn a_member_is_found_where_it_is_the_objects_own() {
        let object = br#" { "a" : {"type":"x","b":[{"type":1}]}, "c":"\"type\":", "d":1.5e3 , "e":null,"type" : "y" } "#;
        let at = member(object, b"type").unwrap();
        assert_eq!(string_at(object, at), Some(&b"y"[..]));
        assert_eq!(&object[at..value_end(object, at)], b"\"y\"");
        let inner = member(object, b"a").unwrap();
        assert_eq!(&object[inner..value_end(object, inner)], br#"{"type":"x","b":[{"type":1}]}"#);
        let number = member(object, b"d").unwrap();
        assert_eq!(&object[number..value_end(object, number)], b"1.5e3");
        for other in
            [&b"[]"[..], b"{", b"{}", b"{\"a", b"{\"type\"", b"{\"a\":\"type", b"", b"{\"a\":1 \"type\":2}"]
        {
            assert_eq!(member(other, b"type"), None, "{}", String::from_utf8_lossy(other));
        }
    }

    #[test]
    fn raw_values_know_where_they_stand() {
        let text = r#"[1, "a\u0062", null ]"#;
        let raws: Vec<Raw<'_>> = serde_json::from_str(text).unwrap();
        assert_eq!(raws[1].span(text), Some(4..13));
        assert_eq!(raws[1].string().as_deref(), Some("ab"));
        assert_eq!(raws[1].quoted(), Some(r#""a\u0062""#));
        assert_eq!(raws[2].value(), None);
        assert_eq!(raws[2].text(), Some("null"));
        assert_eq!(raws[0].span("other"), None);
    }

    #[test]
    fn only_an_object_is_an_object() {
        type AnyObject<'a> = Object<std::collections::BTreeMap<String, Raw<'a>>>;
        assert!(serde_json::from_str::<AnyObject<'_>>("{}").is_ok());
        for other in ["[]", "null", "\"{}\"", "5"] {
            assert!(serde_json::from_str::<AnyObject<'_>>(other).is_err(), "{other}");
        }
    }
}

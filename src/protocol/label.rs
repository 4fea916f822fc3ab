//! Texts that clients send for a purpose of their own, as values of tags.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::domain::tag;

/// What stands before the hash of a text that can't be a value as it stands.
const HASHED: &str = "sha256:";
/// The bytes of the hash that are kept.
const HASH_BYTES: usize = 16;

/// The value that a text becomes; `None` of an empty one.
///
/// A text always has the same value, and another text has another one, so that no run is counted as
/// two, nor two as one: what is too long, begins or ends with a space, or has control characters or
/// bytes that are not UTF-8, becomes `sha256:` and 32 hexadecimal digits of its hash.
pub fn value(text: &[u8]) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    let plain = std::str::from_utf8(text).ok().filter(|text| tag::is_value(text));
    Some(plain.map_or_else(|| hashed(text), str::to_owned))
}

fn hashed(text: &[u8]) -> String {
    let digest: [u8; 32] = Sha256::digest(text).into();
    format!("{HASHED}{:x}", Bytes::copy_from_slice(&digest[..HASH_BYTES]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_plain_text_is_its_own_value_and_any_other_has_a_hash() {
        assert_eq!(value(b""), None);
        assert_eq!(value("läuft 7".as_bytes()).as_deref(), Some("läuft 7"));
        // By sha256sum.
        assert_eq!(value(b"a\nb").as_deref(), Some("sha256:7e18f737311b2dc3b2f269dd78396b03"));
        assert_ne!(value(b" a"), value(b"a"));
    }

    proptest! {
        #[test]
        fn any_text_has_one_value_and_two_texts_have_two(one: Vec<u8>, other: Vec<u8>) {
            let (first, second) = (value(&one), value(&other));
            prop_assert_eq!(&first, &value(&one));
            prop_assert_eq!(one == other, first == second);
            prop_assert!(first.is_none_or(|value| tag::is_value(&value)));
        }
    }
}

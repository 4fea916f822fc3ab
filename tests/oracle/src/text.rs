//! How many tokens a text can have, without its vocabulary.

use serde_json::Value;

use crate::world::TextCount;

/// Bounds of the tokens of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Text {
    /// Bytes of UTF-8: the most.
    pub bytes: u64,
    /// Words and groups of three digits: the fewest.
    pub pieces: u64,
}

impl Text {
    /// Bounds of a string.
    pub fn of(text: &str) -> Self {
        Self { bytes: size(text.len()), pieces: pieces(text) }
    }

    /// Bounds of a JSON value written without spaces.
    pub fn of_json(value: &Value) -> Self {
        let mut sum = Self::default();
        match value {
            Value::Null => sum.bytes = 4,
            Value::Bool(_) => sum.bytes = 5,
            Value::Number(number) => sum.bytes = size(number.to_string().len()),
            Value::String(text) => {
                sum = Self::of(text);
                sum.bytes += 2;
            }
            Value::Array(items) => {
                sum.bytes = 1 + size(items.len()).max(1);
                for item in items {
                    sum.add(Self::of_json(item));
                }
            }
            Value::Object(members) => {
                sum.bytes = 1 + size(members.len()).max(1);
                for (key, member) in members {
                    sum.add(Self::of(key));
                    sum.bytes += 3;
                    sum.add(Self::of_json(member));
                }
            }
        }
        sum
    }

    /// Adds another text.
    pub fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.pieces += other.pieces;
    }

    /// Tokens by a count.
    pub fn tokens(self, count: TextCount) -> u64 {
        match count {
            TextCount::Bytes => self.bytes,
            TextCount::Pieces => self.pieces,
        }
    }
}

fn size(length: usize) -> u64 {
    u64::try_from(length).expect("a length")
}

/// Tokens that o200k and cl100k make of a text at the least. Both cut it into words, groups of up to
/// three digits, and the rest, and no token is longer than such a piece. Only ASCII letters and digits
/// are counted; what stands beside an apostrophe or a foreign character may be one piece with it.
fn pieces(text: &str) -> u64 {
    let mut sum = 0;
    // Whether the last character may be one piece with the next, and the digits of the present run.
    let (mut is_open, mut may_join, mut digits) = (false, false, 0_u64);
    for byte in text.bytes() {
        if byte.is_ascii_digit() {
            if digits == 0 {
                may_join = is_open;
            }
            digits += 1;
            is_open = false;
            continue;
        }
        sum += if may_join { digits / 3 } else { digits.div_ceil(3) };
        (digits, may_join) = (0, false);
        sum += u64::from(byte.is_ascii_alphabetic() && !is_open);
        is_open = byte.is_ascii_alphabetic() || byte == b'\'' || !byte.is_ascii();
    }
    sum + if may_join { digits / 3 } else { digits.div_ceil(3) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_groups_of_digits_are_pieces() {
        let pieces = |text: &str| Text::of(text).pieces;
        assert_eq!(pieces("hello hello hello"), 3);
        assert_eq!(pieces("12345"), 2);
        assert_eq!(pieces("a 1 b 22"), 4);
        assert_eq!(pieces("a1b22"), 2, "what joins letters to digits is not counted twice");
        assert_eq!(pieces("it's"), 1);
        assert_eq!(pieces("naïve"), 1);
        assert_eq!(pieces(" \n…"), 0);
        assert_eq!(Text::of_json(&serde_json::json!({"a": [1, "b"], "c": null})).bytes, 22);
    }
}

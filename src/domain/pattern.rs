//! Name patterns: `gpt-5*`, where `*` stands for any run of characters.

use std::fmt;

/// A name, or a pattern with `*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// A pattern from its text; every text is one.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The text it was made of.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a whole name fits, whatever the case of its ASCII letters.
    ///
    /// ```
    /// use spendguard::domain::Pattern;
    /// assert!(Pattern::new("gpt-5*").matches("GPT-5-mini"));
    /// assert!(!Pattern::new("gpt-5").matches("gpt-5-mini"));
    /// ```
    pub fn matches(&self, name: &str) -> bool {
        matches(&self.0, name)
    }
}

/// Whether a whole name fits a pattern's text, whatever the case of its ASCII letters, in
/// time of their lengths' product at most.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let mut name = name.as_bytes();
    let mut parts = pattern.as_bytes().split(|byte| *byte == b'*');
    let Some(first) = parts.next() else { return name.is_empty() };
    let Some(last) = parts.next_back() else { return name.eq_ignore_ascii_case(first) };
    if !name.get(..first.len()).is_some_and(|start| start.eq_ignore_ascii_case(first)) {
        return false;
    }
    name = &name[first.len()..];
    for part in parts.filter(|part| !part.is_empty()) {
        let found = name.windows(part.len()).position(|window| window.eq_ignore_ascii_case(part));
        let Some(at) = found else { return false };
        name = &name[at + part.len()..];
    }
    let rest = name.len().checked_sub(last.len());
    rest.is_some_and(|at| name[at..].eq_ignore_ascii_case(last))
}

/// Whether some name fits both of two patterns, whatever the case of its ASCII letters,
/// in time of their lengths' product.
pub(super) fn overlap(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    // For each place in `other`: whether the rests of both from there on overlap.
    let mut below: Vec<bool> = (0..=other.len()).map(|at| other[at..].iter().all(|b| *b == b'*')).collect();
    for byte in one.iter().rev() {
        let mut row = vec![*byte == b'*' && below[other.len()]; other.len() + 1];
        for (at, other_byte) in other.iter().enumerate().rev() {
            row[at] = match (byte, other_byte) {
                (b'*', _) | (_, b'*') => below[at] || row[at + 1],
                _ => byte.eq_ignore_ascii_case(other_byte) && below[at + 1],
            };
        }
        below = row;
    }
    below[0]
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_run() {
        for (pattern, name, fits) in [
            ("*", "", true),
            ("*", "anything", true),
            ("gpt-5*", "gpt-5", true),
            ("gpt-5*", "gpt-4o", false),
            ("*-mini", "gpt-5-mini", true),
            ("*-mini", "gpt-5-mini-2025", false),
            ("gpt-*-mini", "gpt-5-mini", true),
            ("gpt-*mini", "gpt-mini", true),
            ("a*ab", "ab", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "acb", false),
            ("a**b", "a1b", true),
            ("GPT-*-Mini", "gpt-5-MINI", true),
            ("ä*", "äb", true),
        ] {
            assert_eq!(Pattern::new(pattern).matches(name), fits, "{pattern} on {name}");
        }
    }

    #[test]
    fn two_patterns_overlap_where_a_name_fits_both() {
        for (one, other, both) in [
            ("*", "*", true),
            ("*", "", true),
            ("*", "gpt-5", true),
            ("gpt-5", "gpt-5", true),
            ("GPT-5", "gpt-5", true),
            ("gpt-5", "gpt-5-mini", false),
            ("gpt-5*", "*-mini", true),
            ("gpt-5*", "gpt-4*", false),
            ("*gpt-image*", "gpt-image-1", true),
            ("*gpt-image*", "chatgpt-image-latest", true),
            ("*gpt-image*", "gpt-image-1*", true),
            ("*gpt-image*", "*-1", true),
            ("*gpt-image*", "gpt-4o", false),
            ("*gpt-image*", "gpt-*", true),
            ("a*b", "*c", false),
            ("a*b", "ab", true),
            ("a*", "*b*", true),
            ("", "a", false),
        ] {
            assert_eq!(overlap(one, other), both, "{one} and {other}");
            assert_eq!(overlap(other, one), both, "{other} and {one}");
        }
    }

    #[test]
    fn a_plain_name_overlaps_a_pattern_that_it_fits() {
        for pattern in ["*", "gpt-5*", "*-mini", "gpt-*-mini", "a*ab", "a*b*c", "a**b", ""] {
            for name in ["", "gpt-5", "gpt-5-mini", "ab", "aab", "a-b-b-c", "acb", "a1b"] {
                assert_eq!(overlap(pattern, name), matches(pattern, name), "{pattern} on {name}");
            }
        }
    }
}

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

    /// Whether a whole name fits, in time linear in name times stars.
    ///
    /// ```
    /// use spendguard::domain::Pattern;
    /// assert!(Pattern::new("gpt-5*").matches("gpt-5-mini"));
    /// assert!(!Pattern::new("gpt-5").matches("gpt-5-mini"));
    /// ```
    pub fn matches(&self, name: &str) -> bool {
        let Some((first, rest)) = self.0.split_once('*') else { return *self.0 == *name };
        let Some(mut name) = name.strip_prefix(first) else { return false };
        let Some((middle, last)) = rest.rsplit_once('*') else { return name.ends_with(rest) };
        for part in middle.split('*').filter(|part| !part.is_empty()) {
            let Some(at) = name.find(part) else { return false };
            name = &name[at + part.len()..];
        }
        name.ends_with(last)
    }
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
        ] {
            assert_eq!(Pattern::new(pattern).matches(name), fits, "{pattern} on {name}");
        }
    }
}

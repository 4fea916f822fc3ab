//! Secrets that can't be printed.

use std::fmt;

/// A secret text. It has no `Display`, and `Debug` shows only that it exists.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// Wraps a text that must not be seen.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// The text itself. Its name makes uses easy to find in a review.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The masked form for lists: the first characters of a known prefix and the
    /// last four, `sk-guard-…wxyz`; `…` alone when the secret is too short.
    pub fn redacted(&self) -> String {
        let text: Vec<char> = self.0.chars().collect();
        if text.len() < 12 {
            return "…".to_owned();
        }
        let tail: String = text[text.len() - 4..].iter().collect();
        let prefix = ["sk-guard-", "sk-admin-", "sk-proj-", "sk-"]
            .into_iter()
            .find(|prefix| self.0.starts_with(prefix));
        format!("{}…{tail}", prefix.unwrap_or(""))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(****)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_nothing_but_its_ends() {
        let secret = Secret::new("sk-guard-abcdefghijklmnopqrstuvwxyz");
        assert_eq!(format!("{secret:?}"), "Secret(****)");
        assert_eq!(secret.redacted(), "sk-guard-…wxyz");
        assert_eq!(Secret::new("hunter2").redacted(), "…");
    }
}

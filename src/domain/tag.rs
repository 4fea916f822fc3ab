//! The bounds of tags: names and values that clients put on requests.

/// The longest name and the longest value of a tag, in bytes.
pub const BYTES_MAX: usize = 64;

/// Whether a text is a name that limits and the configuration may use: it stands before `=` in a
/// header, and after `tag:` in a limit.
pub fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=BYTES_MAX).contains(&text.len()) && text.bytes().all(fits)
}

/// Whether a text is a value as it stands, and looks the same wherever it is shown.
pub fn is_value(text: &str) -> bool {
    let is_plain = !text.chars().any(char::is_control) && text.trim() == text;
    (1..=BYTES_MAX).contains(&text.len()) && is_plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_short_and_has_nothing_that_is_not_seen() {
        for good in ["a", "réponse 7", "a=b,c/d", &"x".repeat(64)] {
            assert!(is_value(good), "{good}");
        }
        for bad in ["", " a", "a ", "a\nb", "a\u{7f}", "\u{85}", &"x".repeat(65), &"é".repeat(33)] {
            assert!(!is_value(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_name_is_made_of_few_characters() {
        assert!(is_name("run") && is_name("a.b_C-9") && is_name(&"n".repeat(64)));
        for bad in ["", "a b", "a=b", "a,b", "tag:a", "é", &"n".repeat(65)] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }
}

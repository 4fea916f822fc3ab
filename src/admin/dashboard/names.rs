//! Names that clients may have chosen, on pages.

use maud::{Markup, html};

/// Longer names are cut on pages; they are whole in their titles.
const NAME_CHARS_MAX: usize = 60;
/// The most of a name in a title.
const TITLE_CHARS_MAX: usize = 1_000;

/// A name that a client may have chosen: cut, and kept apart from the words
/// around it whatever its writing direction.
pub(super) fn name(text: &str) -> Markup {
    if !is_long(text) {
        return html! { bdi.name { (text) } };
    }
    html! { bdi.name title=(begin(text, TITLE_CHARS_MAX)) { (cut(text)) } }
}

/// Such a name as plain text, for titles.
pub(super) fn cut(text: &str) -> String {
    if is_long(text) { begin(text, NAME_CHARS_MAX) + "…" } else { text.to_owned() }
}

/// A sentence with such a name in it, cut only where it is very long.
pub(super) fn note(text: &str) -> Markup {
    html! { bdi.name { (begin(text, TITLE_CHARS_MAX)) } }
}

fn is_long(text: &str) -> bool {
    text.chars().nth(NAME_CHARS_MAX).is_some()
}

fn begin(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}

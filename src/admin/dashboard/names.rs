//! Names that strangers may have chosen, on pages.

use maud::{Markup, html};

/// Longer names are cut on pages; they are whole in their titles.
const NAME_CHARS_MAX: usize = 60;
/// Even there, not without end.
const TITLE_CHARS_MAX: usize = 1_000;

/// A name that a stranger may have chosen: cut, and apart from the words
/// around it, whichever way it is written.
pub(super) fn name(text: &str) -> Markup {
    let cut = |most: usize| text.chars().take(most).collect::<String>();
    if text.chars().nth(NAME_CHARS_MAX).is_none() {
        return html! { bdi.name { (text) } };
    }
    html! { bdi.name title=(cut(TITLE_CHARS_MAX)) { (cut(NAME_CHARS_MAX)) "…" } }
}

/// A sentence with such a name in it, cut only where it has no end.
pub(super) fn note(text: &str) -> Markup {
    html! { bdi.name { (text.chars().take(TITLE_CHARS_MAX).collect::<String>()) } }
}

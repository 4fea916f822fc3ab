//! Code and documents use the field's words.

use crate::{document, files, sources};

/// Words and phrases of the project's own, in lower case, for which the field has others: a
/// newcomer can't guess what they mean. They are in no name, comment or message of src, and
/// in no document. A word is added once it occurs nowhere.
const PRIVATE_WORDS: &[&str] = &[
    "anew",
    "as it comes",
    "clerk",
    "everybody",
    "for want of",
    "handover",
    "hears",
    "in vain",
    "leans",
    "lest",
    "lookout",
    "nobody",
    "of late",
    "outlook",
    "prospect",
    "roster",
    "slip",
    "somebody",
    "told",
    "whoever",
    "whomever",
    "writerlog",
];
/// Words that the documents don't have either; some are still in src.
const PRIVATE_WORDS_OF_DOCUMENTS: &[&str] = &["desk", "mend"];
/// The documents whose words are checked, beside those in `docs`.
const DOCUMENTS: &[&str] =
    &["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "config/spendguard.toml"];

/// The words of a text in lower case, with one space around each. A name is taken apart at
/// its underscores.
fn words(text: &str) -> String {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.fold(String::from(" "), |all, word| all + &word.to_lowercase() + " ")
}

fn private_words(text: &str, lists: &[&[&'static str]]) -> Vec<&'static str> {
    let words = words(text);
    let listed = lists.iter().flat_map(|list| list.iter().copied());
    listed.filter(|word| words.contains(&format!(" {word} "))).collect()
}

/// The prose of a document, without what stands between backticks.
fn prose(text: &str) -> String {
    text.split('`').step_by(2).collect()
}

#[test]
fn no_private_word_is_in_the_code_or_in_the_documents() {
    for (path, text) in sources() {
        let found = private_words(&text, &[PRIVATE_WORDS]);
        assert!(found.is_empty(), "{path} says {found:?}; use the field's word");
    }
    let named = DOCUMENTS.iter().map(|path| ((*path).to_owned(), document(path)));
    for (path, text) in files("docs", &["md"]).into_iter().chain(named) {
        let found = private_words(&prose(&text), &[PRIVATE_WORDS, PRIVATE_WORDS_OF_DOCUMENTS]);
        assert!(found.is_empty(), "{path} says {found:?}; use the field's word");
    }
    assert_eq!(private_words("/// Tried in\n/// vain by Whoever.", &[PRIVATE_WORDS]), ["in vain", "whoever"]);
    assert_eq!(private_words("fn clerk_of(slipping: u8)", &[PRIVATE_WORDS]), ["clerk"]);
    assert_eq!(prose("a `b` c"), "a  c");
}

//! The sources of tags.

use std::collections::BTreeMap;

use crate::config::problems::Notes;
use crate::domain::tag;
use crate::proxy::tags::{Source, Sources};

/// The most tags that sources are given for.
const TAGS_MAX: usize = 8;
/// The most sources of one tag.
const SOURCES_MAX: usize = 16;

/// The sources of tags, by the tags' names.
pub(super) fn tags(raw: &BTreeMap<String, Vec<String>>, notes: &mut Notes<'_>) -> Option<Sources> {
    if raw.len() > TAGS_MAX {
        notes.note("tags", format!("give the sources of up to {TAGS_MAX} tags"));
    }
    let parsed = raw.iter().map(|(name, texts)| {
        let sources = sources(name, texts);
        Some((name.clone(), notes.ok(&format!("tags.{name}"), sources)?))
    });
    // Each is read, so that all mistakes are reported.
    parsed.collect::<Vec<_>>().into_iter().collect()
}

fn sources(name: &str, texts: &[String]) -> Result<Vec<Source>, String> {
    if !tag::is_name(name) {
        return Err("the name of a tag has 1 to 64 of a-z, A-Z, 0-9, '.', '_' and '-'".to_owned());
    }
    if texts.is_empty() || texts.len() > SOURCES_MAX {
        return Err(format!("give 1 to {SOURCES_MAX} sources"));
    }
    let source = |text: &String| {
        Source::named(text).ok_or_else(|| format!("{text:?} is no source; use {}", Source::names()))
    };
    texts.iter().map(source).collect()
}

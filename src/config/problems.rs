//! The problems of a configuration: collected key by key, reported all at once.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use http::Uri;

use crate::config::limits::Problem;
use crate::config::raw::SecretSource;
use crate::config::units;
use crate::domain::Secret;

pub(super) const DEFAULT_UPSTREAM_KEY: &str = "OPENAI_API_KEY";
pub(super) const DEFAULT_ADMIN_TOKEN: &str = "SPENDGUARD_ADMIN_TOKEN";

/// The problems of a configuration, one line for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// `file:line: key: what is wrong; what would be right`.
    pub lines: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

/// Records a problem of a key, and continues without its value.
pub(super) struct Notes<'a>(&'a mut Vec<Problem>);

impl<'a> Notes<'a> {
    pub(super) fn new(problems: &'a mut Vec<Problem>) -> Self {
        Self(problems)
    }

    pub(super) fn note(&mut self, key: &str, problem: String) {
        self.0.push((key.to_owned(), problem));
    }

    pub(super) fn ok<T>(&mut self, key: &str, result: Result<T, String>) -> Option<T> {
        result.map_err(|problem| self.note(key, problem)).ok()
    }

    pub(super) fn one_of<T: Copy>(&mut self, key: &str, text: &str, choices: &[(&str, T)]) -> Option<T> {
        let found = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        let names: Vec<_> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
        self.ok(key, found.ok_or_else(|| format!("{text:?} is not known; use {}", names.join(" or "))))
    }

    pub(super) fn duration(&mut self, key: &str, text: &str) -> Option<Duration> {
        self.ok(key, units::duration(text))
    }
}

pub(super) fn base_url(text: &str) -> Result<Uri, String> {
    let wrong = || format!("{text:?} is no base URL; write it as \"https://api.openai.com/v1\"");
    let url: Uri = text.parse().map_err(|_| wrong())?;
    let known =
        matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some() && url.query().is_none();
    if known { Ok(url) } else { Err(wrong()) }
}

/// Reads a secret from its place.
pub(crate) fn secret(source: &SecretSource, environment: &HashMap<String, String>) -> Result<Secret, String> {
    let text = match (&source.env, &source.file) {
        (Some(name), None) => {
            environment.get(name).cloned().ok_or_else(|| format!("the environment has no {name}; set it"))?
        }
        (None, Some(file)) => {
            std::fs::read_to_string(file).map_err(|error| format!("{file} can't be read: {error}"))?
        }
        _ => return Err("give either { env = \"NAME\" } or { file = \"PATH\" }".to_owned()),
    };
    let text = text.trim();
    if text.is_empty() { Err("the secret is empty".to_owned()) } else { Ok(Secret::new(text)) }
}

//! The text of a configuration, and the places in it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::config::limits::Problem;
use crate::config::nearest::nearest;
use crate::config::problems::ConfigError;
use crate::config::raw::Raw;

const PREFIX: &str = "SPENDGUARD_";
const SEPARATOR: &str = "__";
/// Keys with lists of text, which the environment separates with commas.
const LISTS: [&str; 4] =
    ["admin.hosts", "endpoints.allow", "server.cors_origins", "upstream.forward_headers"];

/// A file with its text, to report the place of a mistake.
pub(super) struct Place {
    pub(super) path: Option<PathBuf>,
    pub(super) text: String,
}

impl Place {
    /// A file's text; none without a file.
    pub(super) fn of(path: Option<&Path>) -> Result<Self, ConfigError> {
        let text = path.map_or(Ok(String::new()), std::fs::read_to_string).map_err(|error| {
            let name = path.unwrap_or(Path::new("")).display().to_string();
            ConfigError { lines: vec![format!("{name}: can't be read: {error}")] }
        })?;
        Ok(Self { path: path.map(Path::to_owned), text })
    }

    pub(super) fn read(&self, environment: &HashMap<String, String>) -> Result<Raw, ConfigError> {
        let one = |line: String| ConfigError { lines: vec![line] };
        let document: Result<toml_edit::Document<String>, _> = self.text.parse();
        let document = document.map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(&self.text, span.start));
            one(format!("{}:{line}: {}", self.name(), error.message()))
        })?;
        if let Some(line) = self.path_like(&document) {
            return Err(one(line));
        }
        let path_like =
            environment.keys().filter(|name| name.starts_with(PREFIX) && name.contains(['.', '[']));
        if let Some(name) = path_like.min() {
            return Err(one(format!(
                "{name}: no such key; an element of a list can't be set by the environment"
            )));
        }
        let overrides = environment.iter().filter_map(|(name, value)| {
            let key = name.strip_prefix(PREFIX)?;
            key.contains(SEPARATOR).then(|| (key.to_owned(), value.clone()))
        });
        let mut source = config::Environment::default()
            .separator(SEPARATOR)
            .try_parsing(true)
            .list_separator(",")
            .source(Some(overrides.collect()));
        for key in LISTS {
            source = source.with_list_parse_key(key);
        }
        let merged = config::Config::builder()
            .add_source(config::File::from_str(&self.text, config::FileFormat::Toml))
            .add_source(source)
            .build()
            .map_err(|error| one(format!("{}: {error}", self.name())))?;
        serde_path_to_error::deserialize(merged).map_err(|error| {
            let (mut key, problem) = (error.path().to_string(), error.inner().to_string());
            let problem = problem.split(" for key ").next().unwrap_or_default().to_owned();
            if let Some(unknown) = problem.split('`').nth(1).filter(|_| problem.contains("unknown field")) {
                if !key.ends_with(unknown) {
                    key = if key == "." { unknown.to_owned() } else { format!("{key}.{unknown}") };
                }
                let known: Vec<&str> = problem.split('`').skip(3).step_by(2).collect();
                let hint = nearest(unknown, &known).map(|near| format!("; did you mean {near:?}?"));
                let known = known.join(", ");
                let hint = hint.unwrap_or_else(|| format!("; the keys here are {known}"));
                return one(self.line(&(key, format!("no such key{hint}")), environment));
            }
            if let Some(key) = missing(&problem, &key) {
                return one(self.line(&(key, "missing; give it".to_owned()), environment));
            }
            one(self.line(&(key, problem), environment))
        })
    }

    /// The error of a quoted key such as `"limit[9]"`, which merging would take for
    /// a path, so that it would make nine tables for it.
    fn path_like(&self, document: &toml_edit::Document<String>) -> Option<String> {
        let (name, _) = document.as_table().iter().find(|(name, _)| name.contains(['.', '[']))?;
        let (key, _) = document.as_table().get_key_value(name)?;
        let line = key.span().map_or(1, |span| line_of(&self.text, span.start));
        Some(format!(
            "{}:{line}: {}: no such key; write keys without quotes",
            self.name(),
            name.escape_debug()
        ))
    }

    fn name(&self) -> String {
        self.path.as_ref().map_or_else(|| "configuration".to_owned(), |path| path.display().to_string())
    }

    /// `file:line: key: problem`, or the variable that set the key.
    pub(super) fn line(&self, (key, problem): &Problem, environment: &HashMap<String, String>) -> String {
        let variable = format!("{PREFIX}{}", key.replace('.', SEPARATOR).to_uppercase());
        if environment.contains_key(&variable) {
            return format!("{variable}: {problem}");
        }
        match self.find(key) {
            Some(line) => format!("{}:{line}: {key}: {problem}", self.name()),
            None => format!("{}: {key}: {problem}", self.name()),
        }
    }

    /// The line of a key, or of the closest table around it.
    fn find(&self, key: &str) -> Option<usize> {
        let document: toml_edit::Document<String> = self.text.parse().ok()?;
        let (mut item, mut found) = (document.as_item(), None);
        for part in key.replace('[', ".").replace(']', "").split('.') {
            let next = if let Ok(index) = part.parse::<usize>() {
                item.get(index)
            } else {
                let named = item.as_table_like().and_then(|table| table.get_key_value(part));
                found = named.and_then(|(key, _)| key.span()).map(|span| span.start).or(found);
                named.map(|(_, value)| value)
            };
            let Some(next) = next else { break };
            item = next;
            if let (Ok(_), Some(span)) = (part.parse::<usize>(), item.span()) {
                found = Some(span.start);
            }
        }
        found.map(|offset| line_of(&self.text, offset))
    }
}

/// The key that an error says is missing: it names it with the table before it, without a dot.
fn missing(problem: &str, table: &str) -> Option<String> {
    let named = problem.strip_prefix("missing configuration field ")?.trim_matches('"');
    let key = named.strip_prefix(table).unwrap_or(named).trim_start_matches('.');
    Some(format!("{table}.{key}"))
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

//! Any text as the configuration file: it loads, always to the same settings,
//! or every line of the refusal says where the mistake is.

#![no_main]

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use libfuzzer_sys::fuzz_target;
use spendguard::config::{ConfigError, Settings, load};
use spendguard::rulebook::rule::LimitRule;
use tempfile::TempDir;

/// A first line that starts so is a variable of the environment.
const VARIABLE: &str = "#env ";

/// One input of so many is loaded twice; a load takes its time.
const TWICE_ONE_IN: usize = 4;

thread_local! {
    static FOLDER: RefCell<Option<TempDir>> = const { RefCell::new(None) };
}

/// The file that is rewritten for every input.
fn file() -> PathBuf {
    FOLDER.with_borrow_mut(|folder| {
        let folder = folder.get_or_insert_with(|| tempfile::tempdir().expect("there is room for a file"));
        folder.path().join("x.toml")
    })
}

/// The environment that the first line of a text asks for.
fn environment(text: &str) -> Vec<(String, String)> {
    let first = text.lines().next().and_then(|line| line.strip_prefix(VARIABLE));
    let variable = first.and_then(|line| line.split_once('='));
    variable.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Every line names the file with a line or key, or the variable at fault.
fn says_where(error: &ConfigError, file: &str, environment: &[(String, String)]) {
    assert!(!error.lines.is_empty(), "a refusal says why");
    for line in &error.lines {
        let in_variable = environment
            .iter()
            .any(|(name, _)| line.strip_prefix(&**name).is_some_and(|rest| rest.starts_with(": ")));
        let rest = line.strip_prefix(file).and_then(|rest| rest.strip_prefix(':'));
        let place = rest.and_then(|rest| rest.split(':').next()).map(str::trim);
        assert!(in_variable || place.is_some_and(|place| !place.is_empty()), "no place in {line:?}");
    }
}

/// What is in force can be written down and read again.
fn is_whole(settings: &Settings, file: &Path, environment: &[(String, String)]) {
    let zone = &settings.zone;
    for limit in &settings.limits {
        let again = LimitRule::of(limit).limit(&limit.name, zone).expect("a limit survives its text form");
        assert_eq!(LimitRule::of(&again), LimitRule::of(limit));
        assert_eq!((again.hard, again.thresholds()), (limit.hard, limit.thresholds()));
        assert!(limit.hard.is_none_or(|hard| hard >= 0));
    }
    assert!(settings.server.connections_max > 0 && settings.guard.open_requests_max > 0);
    assert!(settings.pass_through || settings.upstream.api_key.is_some());
    let shown = &settings.text;
    let secrets = settings.upstream.api_key.iter().chain(&settings.admin.token);
    for secret in secrets.filter(|secret| secret.expose().len() >= 16) {
        assert!(!shown.contains(secret.expose()), "a secret is shown");
    }
    // Variables are in it already; what they name as a secret is still needed.
    std::fs::write(file, shown).expect("the file can be written");
    let again =
        load(Some(file), environment.iter().cloned()).unwrap_or_else(|error| panic!("{error}\n{shown}"));
    assert_eq!(&again.text, shown);
}

fuzz_target!(|text: &str| {
    let file = file();
    std::fs::write(&file, text).expect("the file can be written");
    let environment = environment(text);
    let loaded = load(Some(&file), environment.clone());
    let summary = |result: &Result<Settings, ConfigError>| match result {
        Ok(settings) => format!("{settings:?}"),
        Err(error) => error.to_string(),
    };
    if text.len() % TWICE_ONE_IN == 0 {
        let again = load(Some(&file), environment.clone());
        assert_eq!(summary(&loaded), summary(&again), "the same file is the same settings");
    }
    match &loaded {
        Ok(settings) => is_whole(settings, &file, &environment),
        Err(error) => says_where(error, &file.display().to_string(), &environment),
    }
});

//! The configuration in force as TOML that can be loaded again: for `spendguard
//! check`, the Settings page and the admin API.

use std::collections::HashMap;

use serde_json::Value;

use crate::config::problems::{DEFAULT_ADMIN_TOKEN, DEFAULT_UPSTREAM_KEY};
use crate::config::raw::{Raw, SecretSource};
use crate::upstream::HttpProxy;

/// Replaces a part of an address that may be a secret.
const MASK: &str = "***";

/// The JSON Schema of the configuration file.
pub fn schema() -> String {
    serde_json::to_string_pretty(&schemars::schema_for!(Raw)).unwrap_or_default()
}

/// The configuration with every key that is in force, as TOML that loads again.
///
/// Secrets are references to where they are kept, as in the file. In addresses,
/// stars replace parts that may be secret.
pub(super) fn in_force(
    raw: &Raw,
    pass_through: bool,
    proxy: Option<&HttpProxy>,
    region: Option<&str>,
    environment: &HashMap<String, String>,
) -> String {
    let mut raw = raw.clone();
    raw.pricing.region = Some(region.unwrap_or("global").to_owned());
    let unknown = if pass_through { "pass-through" } else { "reject" };
    raw.keys.unknown.get_or_insert_with(|| unknown.to_owned());
    for (secret, variable) in
        [(&mut raw.admin.token, DEFAULT_ADMIN_TOKEN), (&mut raw.upstream.api_key, DEFAULT_UPSTREAM_KEY)]
    {
        if secret.is_none() && environment.get(variable).is_some_and(|text| !text.trim().is_empty()) {
            *secret = Some(SecretSource { env: Some(variable.to_owned()), file: None });
        }
    }
    let zone = raw.time.zone.clone();
    for limit in raw.limit.iter_mut().filter(|limit| limit.zone.is_none()) {
        limit.zone = Some(zone.clone());
    }
    raw.upstream.base_url = without_user(&raw.upstream.base_url);
    // A proxy from the environment is shown like one from the file; its text form hides the user.
    raw.upstream.proxy = proxy.map(ToString::to_string);
    if let Some(email) = &mut raw.alerts.email {
        email.smtp = without_password(&email.smtp);
    }
    raw.alerts.webhook.iter_mut().for_each(|webhook| webhook.url = origin(&webhook.url));
    let text = toml_edit::ser::to_string_pretty(&raw);
    let mut text = text.unwrap_or_else(|error| format!("# it can't be written as TOML: {error}\n"));
    if raw.limit.is_empty() {
        text.push_str("\n# There is no [[limit]]: nothing is refused for its cost.\n");
    }
    let unset = unset(&raw);
    if !unset.is_empty() {
        text.push_str(&format!("\n# Not set:\n{}", unset.concat()));
    }
    text
}

/// The keys of sections that have no value, each as a line of a comment.
fn unset(raw: &Raw) -> Vec<String> {
    let schema = schemars::schema_for!(Raw).to_value();
    let written = serde_json::to_value(raw).unwrap_or_default();
    let sections = schema["properties"].as_object().into_iter().flatten();
    let mut lines = Vec::new();
    for (section, of) in sections {
        let name = of["$ref"].as_str().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
        let keys = schema["$defs"][name]["properties"].as_object().into_iter().flatten();
        let is_unset = |key: &str| written[section][key] == Value::Null;
        lines.extend(keys.filter(|(key, _)| is_unset(key)).map(|(key, _)| format!("# {section}.{key}\n")));
    }
    lines
}

/// An address with stars for a user and a password in it.
fn without_user(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://{MASK}@{}", &rest[at + 1..]),
        None => url.to_owned(),
    }
}

/// A mail server's address with stars for a password in it; its user is shown.
fn without_password(url: &str) -> String {
    let (Some((scheme, rest)), Some((user, host))) = (url.split_once("://"), url.rsplit_once('@')) else {
        return url.to_owned();
    };
    match user.strip_prefix(scheme).and_then(|user| user.strip_prefix("://")?.split_once(':')) {
        Some((user, _)) => format!("{scheme}://{user}:{MASK}@{host}"),
        None => format!("{scheme}://{rest}"),
    }
}

/// A webhook's address with stars for its path and query, by which some receivers know who may write there.
fn origin(url: &str) -> String {
    let url = without_user(url);
    let Some((scheme, rest)) = url.split_once("://") else { return url };
    match rest.find(['/', '?']) {
        Some(at) => format!("{scheme}://{}/{MASK}", &rest[..at]),
        None => url,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_of_an_address_that_may_be_a_secret_is_shown() {
        assert_eq!(without_user("https://u:p@h.example:1/v1"), "https://***@h.example:1/v1");
        assert_eq!(without_user("https://h.example/a@b"), "https://h.example/a@b");
        assert_eq!(without_password("smtp://u:p@h.example:25"), "smtp://u:***@h.example:25");
        assert_eq!(without_password("smtp://u%40a@h.example"), "smtp://u%40a@h.example");
        assert_eq!(origin("https://h.example/hooks/T0/secret?x=1"), "https://h.example/***");
        assert_eq!(origin("http://127.0.0.1:1"), "http://127.0.0.1:1");
    }
}

//! Names of models: with and without a date, and the base of a fine-tune.
//!
//! `gpt-4o` is an alias that OpenAI resolves to one of its snapshots, and
//! `ft:gpt-4o-2024-08-06:acme::id` is a fine-tune of one. A rule names a model by any of
//! these forms, and a request asks for it by another. So a rule that restricts
//! reaches every name that may be the model it names, and a rule that permits
//! allows only names that certainly are.
//!
//! Where only upstream knows which model runs, the name is a pattern, as [`ANY`] is: it
//! stands for each name that fits it.

use std::borrow::Cow;

use crate::domain::pattern::{matches, overlap};

/// The name of a model that only upstream knows.
pub const ANY: &str = "*";
/// The name of an image tool's model that only upstream knows.
pub const ANY_IMAGE: &str = "*gpt-image*";

const TUNED: &str = "ft:";
/// What the name of a fine-tune's checkpoint has between the fine-tune and its step.
const CHECKPOINT: &str = ":ckpt-";

/// Whether a rule that restricts, such as a limit or a deny list, reaches a model.
///
/// It does if the name asked for matches as it is, without its date, or by the
/// base it is a fine-tune of; and if the rule names a snapshot of the alias asked for. Of
/// a name that is a pattern it reaches any name that fits.
///
/// ```
/// use spendguard::domain::model::reaches;
/// assert!(reaches("gpt-4o", "gpt-4o-2024-08-06"));
/// assert!(reaches("gpt-4o", "ft:gpt-4o-2024-08-06:acme::id"));
/// assert!(reaches("gpt-4o-2024-08-06", "gpt-4o"), "the alias may be that snapshot");
/// assert!(!reaches("gpt-4o-2024-08-06", "gpt-4o-2024-11-20"));
/// assert!(!reaches("gpt-4o", "gpt-4o-mini"));
/// ```
pub fn reaches(rule: &str, requested: &str) -> bool {
    let requested = requested.trim();
    if requested.contains('*') {
        return overlap(rule.trim(), requested);
    }
    let alias = without_date(rule.trim());
    let is_alias = |name: &str| alias.is_some_and(|alias| alias.eq_ignore_ascii_case(name));
    let Some(base) = base(requested) else {
        return matches(rule, requested)
            || without_date(requested).is_some_and(|n| matches(rule, n))
            || is_alias(requested);
    };
    let tuned = &requested[..TUNED.len() + base.len()];
    let whole = requested.split_once(CHECKPOINT).map(|(fine_tune, _)| fine_tune);
    let dated = [requested, tuned, base].into_iter().chain(whole);
    let undated = [tuned, base].into_iter().filter_map(without_date);
    dated.chain(undated).any(|name| matches(rule, name)) || is_alias(tuned) || is_alias(base)
}

/// Whether a rule that permits, such as the models of a key, allows a model.
///
/// It does if the name asked for matches as it is or without its date. A fine-tune
/// has to be named as one, since it is dearer than its base: `ft:gpt-4o`, `ft:*`.
///
/// ```
/// use spendguard::domain::model::permits;
/// assert!(permits("gpt-4o", "gpt-4o-2024-08-06"));
/// assert!(permits("ft:gpt-4o", "ft:gpt-4o-2024-08-06:acme::id"));
/// assert!(!permits("gpt-4o-2024-08-06", "gpt-4o"), "the alias may be another snapshot");
/// assert!(!permits("gpt-4o", "ft:gpt-4o-2024-08-06:acme::id"));
/// ```
pub fn permits(rule: &str, requested: &str) -> bool {
    let requested = requested.trim();
    let named = base(requested).map_or(requested, |base| &requested[..TUNED.len() + base.len()]);
    let undated = without_date(named);
    matches(rule, requested) || matches(rule, named) || undated.is_some_and(|name| matches(rule, name))
}

/// The model that a name belongs to, whatever its date, case and tuning: what
/// a meter per model is named after.
///
/// ```
/// use spendguard::domain::model;
/// assert_eq!(model::family("gpt-4o-2024-08-06"), "gpt-4o");
/// assert_eq!(model::family("ft:gpt-4o-2024-08-06:acme::id"), "gpt-4o");
/// assert_eq!(model::family("GPT-4-0613"), "gpt-4");
/// assert_eq!(model::family("gpt-4o-mini"), "gpt-4o-mini");
/// ```
pub fn family(requested: &str) -> Cow<'_, str> {
    let requested = requested.trim();
    let name = base(requested).unwrap_or(requested);
    let name = without_date(name).unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return name.to_ascii_lowercase().into();
    }
    name.into()
}

/// The base of a fine-tune as it is named: `BASE` of `ft:BASE:…`.
fn base(name: &str) -> Option<&str> {
    let is_tuned = name.get(..TUNED.len()).is_some_and(|start| start.eq_ignore_ascii_case(TUNED));
    let base = name.get(TUNED.len()..).filter(|_| is_tuned)?.split(':').next()?;
    (!base.is_empty()).then_some(base)
}

/// A name without the date at its end; `None` if it has none.
fn without_date(name: &str) -> Option<&str> {
    without_day(name).or_else(|| without_month(name)).filter(|name| !name.is_empty())
}

/// A name without `-YYYY-MM-DD` at its end; `None` if it has none.
pub fn without_day(name: &str) -> Option<&str> {
    let at = name.len().checked_sub(11)?;
    let date = name.get(at..)?.as_bytes();
    let fits = |(at, byte): (usize, &u8)| {
        if matches!(at, 0 | 5 | 8) { *byte == b'-' } else { byte.is_ascii_digit() }
    };
    date.iter().enumerate().all(fits).then(|| &name[..at])
}

/// A name without `-MMDD` at its end, as snapshots of 2023 and 2024 are named.
fn without_month(name: &str) -> Option<&str> {
    let (rest, date) = name.rsplit_once('-')?;
    let is_date = date.len() == 4 && date.bytes().all(|byte| byte.is_ascii_digit());
    let number = |at: std::ops::Range<usize>| date[at].parse::<u8>().unwrap_or(0);
    (is_date && (1..=12).contains(&number(0..2)) && (1..=31).contains(&number(2..4))).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_that_restricts_reaches_every_name_that_may_be_its_model() {
        for (rule, requested, is_reached) in [
            ("gpt-4o", "gpt-4o", true),
            ("gpt-4o", "GPT-4O-2024-08-06", true),
            ("GPT-4o", "gpt-4o", true),
            ("gpt-4o", " gpt-4o ", true),
            ("gpt-4", "gpt-4-0613", true),
            ("gpt-4", "gpt-4-32k-0613", false),
            ("gpt-4", "gpt-4-1399", false),
            ("gpt-4o", "gpt-4o-2024-08-06-x", false),
            ("gpt-4o", "gpt-4", false),
            ("*-mini", "gpt-4o-mini-2024-07-18", true),
            ("gpt-5*", "ft:gpt-5-2025-08-07:acme::id", true),
            ("gpt-4o-2024-08-06", "ft:gpt-4o-2024-08-06:acme::id", true),
            ("gpt-4o-2024-08-06", "ft:gpt-4o:acme::id", true),
            ("gpt-4o-2024-08-06", "ft:gpt-4o-2024-11-20:acme::id", false),
            ("ft:gpt-4o", "FT:gpt-4o-2024-08-06:acme::id", true),
            ("ft:gpt-4o-2024-08-06", "ft:gpt-4o:acme::id", true),
            ("ft:gpt-4o:acme::id", "ft:gpt-4o:acme::id:ckpt-step-90", true),
            ("ft:gpt-4o:acme::id", "ft:gpt-4o:acme::other", false),
            ("ft:gpt-4o", "gpt-4o", false),
            ("gpt-4o", "", false),
            ("", "gpt-4o", false),
            ("gpt-4o", ANY, true),
            ("gpt-4o-2024-08-06", ANY, true),
            ("gpt-5*", ANY, true),
            ("gpt-image-1-2025-04-23", ANY_IMAGE, true),
            ("chatgpt-image-latest", ANY_IMAGE, true),
            ("gpt-4o", ANY_IMAGE, false),
        ] {
            assert_eq!(reaches(rule, requested), is_reached, "{rule} and {requested}");
        }
    }

    #[test]
    fn a_rule_that_permits_allows_only_what_is_certainly_its_model() {
        for (rule, requested, is_allowed) in [
            ("gpt-4o", "gpt-4o-2024-08-06", true),
            ("gpt-4o", "Gpt-4o", true),
            ("gpt-4o-2024-08-06", "gpt-4o-2024-08-06", true),
            ("gpt-4o-2024-08-06", "gpt-4o", false),
            ("gpt-4o-2024-08-06", "gpt-4o-2024-11-20", false),
            ("gpt-5*", "ft:gpt-5:acme::id", false),
            ("ft:gpt-4o", "ft:gpt-4o-2024-08-06:acme::id", true),
            ("ft:gpt-4o-2024-08-06", "ft:gpt-4o:acme::id", false),
            ("ft:gpt-4o:acme::id", "ft:gpt-4o:acme::id", true),
            ("ft:gpt-4o:acme::id", "ft:gpt-4o:acme::id-2024-08-06", false),
            ("*", "anything", true),
            ("*", ANY, true),
            ("gpt-*", ANY, false),
            ("gpt-image-1", ANY_IMAGE, false),
        ] {
            assert_eq!(permits(rule, requested), is_allowed, "{rule} and {requested}");
        }
    }

    #[test]
    fn what_is_permitted_is_reached() {
        let names =
            ["gpt-4o", "gpt-4o-2024-08-06", "ft:gpt-4o:a::b", "ft:gpt-4o-2024-08-06:a::b", "gpt-4-0613"];
        for rule in names.into_iter().chain(["gpt-4*", "ft:gpt-4o", "*"]) {
            for requested in names {
                assert!(!permits(rule, requested) || reaches(rule, requested), "{rule} and {requested}");
            }
        }
    }
}

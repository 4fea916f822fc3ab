//! The text form of a limit, as in the API and in the database.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use utoipa::openapi::{ObjectBuilder, RefOr, Schema, schema::SchemaType, schema::Type};
use utoipa::{PartialSchema, ToSchema};

use crate::domain::limit::{Mode, Only, Per, Soft, Source, Unit};
use crate::domain::{Limit, Money, Pattern, Window};

const NAME_CHARS_MAX: usize = 64;
/// The path below that of limits under which some are tried.
const TRY: &str = "try";
const THRESHOLDS_MAX: usize = 100;
/// The most names of one kind in a limit.
const ONLY_MAX: usize = 1_000;

/// The text form of a limit. Amounts are decimal texts, dollars for `usd`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitRule {
    /// `organization`, `project`, `key`, `user`, `model` or `tag:NAME`.
    #[schema(pattern = "^(organization|project|key|user|model|tag:[A-Za-z0-9._-]{1,64})$")]
    #[serde(default = "organization")]
    pub per: String,
    /// The requests that it applies to.
    #[serde(default)]
    pub only: OnlyRule,
    /// `usd`, `tokens`, `input_tokens`, `output_tokens` or `requests`.
    #[schema(pattern = "^(usd|tokens|input_tokens|output_tokens|requests)$")]
    #[serde(default = "usd")]
    pub unit: String,
    /// `minute` to `total`, or `request`.
    #[schema(pattern = "^(request|minute|hour|day|week|month|quarter|year|total)$")]
    pub window: String,
    /// IANA time zone. Default: the guard's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Amounts, or shares of the cap such as `50%`.
    #[schema(value_type = Vec<Amount>, max_items = 100)]
    #[serde(default, deserialize_with = "amounts")]
    pub soft: Vec<String>,
    /// The cap.
    #[schema(value_type = Option<Amount>)]
    #[serde(default, deserialize_with = "cap")]
    pub hard: Option<String>,
    /// `enforce` or `shadow`.
    #[schema(pattern = "^(enforce|shadow)$")]
    #[serde(default = "enforce")]
    pub mode: String,
}

/// The text form of the requests that a limit applies to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OnlyRule {
    /// Project ids or names.
    #[schema(max_items = 1000)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub project: Vec<String>,
    /// Key ids or names.
    #[schema(max_items = 1000)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<String>,
    /// Model patterns.
    #[schema(max_items = 1000)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub model: Vec<String>,
    /// For each tag, the values that match.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tag: BTreeMap<String, Vec<String>>,
}

/// An amount as a decimal text, or as a number, of which every digit counts.
struct Amount(String);

impl ToSchema for Amount {}

impl PartialSchema for Amount {
    fn schema() -> RefOr<Schema> {
        let either = SchemaType::from_iter([Type::String, Type::Number]);
        ObjectBuilder::new().schema_type(either).examples(["24.50"]).into()
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let is_number = raw.get().starts_with(|c: char| c.is_ascii_digit() || c == '-');
        if is_number {
            return Ok(Self(raw.get().to_owned()));
        }
        serde_json::from_str(raw.get()).map(Self).map_err(serde::de::Error::custom)
    }
}

fn amounts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Vec::<Amount>::deserialize(deserializer)?.into_iter().map(|Amount(text)| text).collect())
}

fn cap<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<Amount>::deserialize(deserializer)?.map(|Amount(text)| text))
}

/// Why a text form is not a valid limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct RuleError {
    /// The field at fault.
    pub field: &'static str,
    /// The problem, and the valid values.
    pub problem: String,
}

fn organization() -> String {
    Per::Organization.name().into_owned()
}

fn usd() -> String {
    Unit::Usd.name().to_owned()
}

fn enforce() -> String {
    Mode::Enforce.name().to_owned()
}

fn wrong(field: &'static str, problem: impl Into<String>) -> RuleError {
    RuleError { field, problem: problem.into() }
}

/// Whether a limit or a fuse may have this name.
pub fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=NAME_CHARS_MAX).contains(&name.len()) && name.chars().all(fits)
}

impl LimitRule {
    /// The text form of a limit.
    pub fn of(limit: &Limit) -> Self {
        let soft = |soft: &Soft| match *soft {
            Soft::Amount(amount) => limit.unit.decimal(amount),
            Soft::Percent(percent) => format!("{percent}%"),
        };
        Self {
            per: limit.per.name().into_owned(),
            only: OnlyRule {
                project: limit.only.projects.clone(),
                key: limit.only.keys.clone(),
                model: limit.only.models.iter().map(ToString::to_string).collect(),
                tag: limit.only.tags.clone(),
            },
            unit: limit.unit.name().to_owned(),
            window: limit.window.name().to_owned(),
            zone: Some(limit.zone.to_string()),
            soft: limit.soft.iter().map(soft).collect(),
            hard: limit.hard.map(|hard| limit.unit.decimal(hard)),
            mode: limit.mode.name().to_owned(),
        }
    }

    /// The rule as JSON text, as the database keeps it.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("texts always serialise")
    }

    /// The limit of that text, made through the API.
    pub fn limit(&self, name: &str, default_zone: &str) -> Result<Limit, RuleError> {
        if name == TRY {
            return Err(wrong("name", "`try` is a path of the API; use another name"));
        }
        if !is_name(name) {
            return Err(wrong("name", "use 1 to 64 of a-z, A-Z, 0-9, '.', '_' and '-'"));
        }
        self.bounded()?;
        let per = Per::named(&self.per).ok_or_else(|| wrong("per", format!("use {}", Per::NAMES)))?;
        let unit = Unit::named(&self.unit)
            .ok_or_else(|| wrong("unit", "use usd, tokens, input_tokens, output_tokens or requests"))?;
        let window = Window::named(&self.window).ok_or_else(|| {
            wrong("window", "use request, minute, hour, day, week, month, quarter, year or total")
        })?;
        let mode = Mode::named(&self.mode).ok_or_else(|| wrong("mode", "use enforce or shadow"))?;
        let zone = self.zone.as_deref().unwrap_or(default_zone);
        jiff::tz::TimeZone::get(zone).map_err(|_| wrong("zone", "no such IANA time zone"))?;
        let hard = self.hard.as_deref().map(|text| amount(unit, text, "hard")).transpose()?;
        let soft = self.soft.iter().map(|text| threshold(unit, text, hard)).collect::<Result<Vec<_>, _>>()?;
        if soft.is_empty() && hard.is_none() {
            return Err(wrong("hard", "give a hard cap or a soft threshold"));
        }
        let limit = Limit {
            name: name.into(),
            per,
            only: Only {
                projects: self.only.project.clone(),
                keys: self.only.key.clone(),
                models: self.only.model.iter().map(|text| Pattern::new(text)).collect(),
                tags: self.only.tag.clone(),
            },
            unit,
            window,
            zone: Arc::from(zone),
            soft,
            hard,
            mode,
            source: Source::Api,
        };
        if !limit.soft.is_empty() && (limit.is_rate() || window == Window::Request) {
            return Err(wrong("soft", "a rate and a request cap have no soft thresholds"));
        }
        Ok(limit)
    }

    fn bounded(&self) -> Result<(), RuleError> {
        if self.soft.len() > THRESHOLDS_MAX {
            return Err(wrong("soft", "give up to 100 thresholds"));
        }
        let OnlyRule { project, key, model, tag } = &self.only;
        let mut lists = [project, key, model].into_iter().chain(tag.values());
        if tag.len() > ONLY_MAX || lists.any(|names| names.len() > ONLY_MAX) {
            return Err(wrong("only", "give up to 1000 names of a kind"));
        }
        Ok(())
    }
}

fn amount(unit: Unit, text: &str, field: &'static str) -> Result<i64, RuleError> {
    let parsed = match unit {
        Unit::Usd => {
            text.parse::<Money>().map(Money::nano).map_err(|error| wrong(field, error.to_string()))?
        }
        Unit::Tokens | Unit::InputTokens | Unit::OutputTokens | Unit::Requests => {
            text.parse().map_err(|_| wrong(field, "not a whole number"))?
        }
    };
    if parsed < 0 { Err(wrong(field, "must not be negative")) } else { Ok(parsed) }
}

fn threshold(unit: Unit, text: &str, hard: Option<i64>) -> Result<Soft, RuleError> {
    let Some(share) = text.strip_suffix('%') else { return amount(unit, text, "soft").map(Soft::Amount) };
    if hard.is_none() {
        return Err(wrong("soft", "a share needs a hard cap to be a share of"));
    }
    let percent = share.trim().parse().ok().filter(|percent| (1..=100).contains(percent));
    percent.map(Soft::Percent).ok_or_else(|| wrong("soft", "a share goes from 1% to 100%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_survives_its_text_form() {
        let text = r#"{"per":"key","only":{"model":["gpt-5*"],"tag":{"team":["search"]}},"unit":"usd",
            "window":"month","zone":"Europe/Warsaw","soft":["50%","3.5"],"hard":"24"}"#;
        let rule: LimitRule = serde_json::from_str(text).unwrap();
        let limit = rule.limit("monthly", "UTC").unwrap();
        assert_eq!(limit.thresholds(), [3_500_000_000, 12_000_000_000]);
        assert_eq!(LimitRule::of(&limit).limit("monthly", "UTC").unwrap(), limit);
    }

    #[test]
    fn what_is_no_limit_names_its_field() {
        let good = LimitRule {
            per: "key".into(),
            only: OnlyRule::default(),
            unit: "usd".into(),
            window: "month".into(),
            zone: None,
            soft: Vec::new(),
            hard: Some("1".into()),
            mode: "enforce".into(),
        };
        let field = |rule: LimitRule| rule.limit("x", "UTC").unwrap_err().field;
        assert_eq!(field(LimitRule { per: "galaxy".into(), ..good.clone() }), "per");
        assert_eq!(field(LimitRule { hard: Some("-1".into()), ..good.clone() }), "hard");
        assert_eq!(field(LimitRule { hard: None, ..good.clone() }), "hard");
        assert_eq!(field(LimitRule { soft: vec!["101%".into()], ..good.clone() }), "soft");
        assert_eq!(field(LimitRule { zone: Some("Mars/Base".into()), ..good.clone() }), "zone");
        assert_eq!(good.limit("Not OK", "UTC").unwrap_err().field, "name");
    }
}

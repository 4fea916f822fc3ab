//! The requests of a batch, line by line, and their answers.

use std::borrow::Cow;
use std::collections::BTreeSet;

use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::fake_openai::answers::{self, Api};
use crate::fake_openai::images::{self, Images};
use crate::fake_openai::{Fake, Refusal, Served};

/// The most requests of a batch.
const LINES_MAX: usize = 50_000;
/// The most errors that a batch names.
const ERRORS_MAX: usize = 100;

/// The requests of a batch.
pub(super) struct Lines<'a>(Vec<Line<'a>>);

/// A request of a batch.
#[derive(Deserialize)]
pub(super) struct Line<'a> {
    #[serde(borrow, default)]
    custom_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    url: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    body: Option<&'a RawValue>,
}

impl Line<'_> {
    /// The name that its client has given it.
    pub(super) fn custom_id(&self) -> &str {
        self.custom_id.as_deref().unwrap_or_default()
    }

    fn body(&self) -> &str {
        self.body.map_or("", RawValue::get)
    }

    /// What is wrong with it: a code, a text, and the parameter.
    fn fault(&self, endpoint: Option<&str>) -> Option<(&'static str, String, &'static str)> {
        let missing = [
            ("custom_id", self.custom_id.is_none()),
            ("method", self.method.is_none()),
            ("url", self.url.is_none()),
            ("body", self.body.is_none()),
        ];
        if let Some((name, _)) = missing.into_iter().find(|(_, is_missing)| *is_missing) {
            return Some((
                "missing_required_parameter",
                format!("Missing required parameter: '{name}'."),
                name,
            ));
        }
        if self.method.as_deref() != Some("POST") {
            return Some(("invalid_method", "The method of a request must be 'POST'.".to_owned(), "method"));
        }
        if self.url.as_deref() != endpoint {
            let text = "The URL provided for this request does not match the batch endpoint.";
            return Some(("url_mismatch", text.to_owned(), "url"));
        }
        None
    }
}

impl<'a> Lines<'a> {
    /// Reads the input of a batch for an endpoint; else what is wrong with it.
    pub(super) fn read(input: &'a [u8], endpoint: Option<&str>) -> Result<Self, Vec<Value>> {
        let (mut lines, mut errors, mut ids) = (Vec::new(), Vec::new(), BTreeSet::new());
        let written = input.split(|byte| *byte == b'\n').enumerate();
        for (at, text) in written.filter(|(_, text)| !text.trim_ascii().is_empty()) {
            if lines.len() == LINES_MAX {
                let text = format!("A batch has {LINES_MAX} requests at the most.");
                return Err(vec![error("too_many_tasks", &text, None, None)]);
            }
            let Ok(line) = serde_json::from_slice::<Line<'_>>(text) else {
                let text = "This line is not parseable as valid JSON.";
                errors.push(error("invalid_json_line", text, None, Some(at + 1)));
                continue;
            };
            if let Some((code, text, param)) = line.fault(endpoint) {
                errors.push(error(code, &text, Some(param), Some(at + 1)));
            } else if !ids.insert(line.custom_id().to_owned()) {
                let text = format!("The custom_id '{}' is there twice.", line.custom_id());
                errors.push(error("duplicate_custom_id", &text, Some("custom_id"), Some(at + 1)));
            }
            lines.push(line);
        }
        if lines.is_empty() && errors.is_empty() {
            errors.push(error("empty_file", "The batch has no requests.", None, None));
        }
        errors.truncate(ERRORS_MAX);
        if errors.is_empty() { Ok(Self(lines)) } else { Err(errors) }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// So many from the first one.
    pub(super) fn first(&self, count: usize) -> &[Line<'a>] {
        &self.0[..count]
    }

    /// Those behind the first ones.
    pub(super) fn behind(&self, count: usize) -> &[Line<'a>] {
        &self.0[count..]
    }

    /// The model of the first one, as the answers name it.
    pub(super) fn model(&self, snapshot: Option<&str>) -> Option<String> {
        let body: Value = serde_json::from_str(self.0.first()?.body()).ok()?;
        let date = snapshot.map(|date| format!("-{date}")).unwrap_or_default();
        Some(format!("{}{date}", body["model"].as_str()?))
    }
}

/// An error of the input of a batch.
fn error(code: &str, text: &str, param: Option<&str>, line: Option<usize>) -> Value {
    json!({ "code": code, "message": text, "param": param, "line": line })
}

impl Fake {
    /// Answers a line: status, body, and what it has used, which is counted.
    pub(super) fn answer_line(&self, line: &Line<'_>, headers: &HeaderMap) -> (StatusCode, Value, Served) {
        let url = line.url.as_deref().unwrap_or_default();
        let request: Value = serde_json::from_str(line.body()).unwrap_or_default();
        let made = match (url, Api::at(url)) {
            ("/v1/moderations", _) => Ok((answers::moderation(), Served::default())),
            (url, _) if images::PATHS.contains(&url) => {
                let sent = images::fields(headers, line.body().as_bytes()).map_or(0, |(_, sent)| sent);
                let images = Images { fields: &request, sent, is_edit: url.ends_with("edits"), headers };
                Ok((images.object(), images.served()))
            }
            (_, Some(api)) => self.make(api, headers, &request, line.body().len()).map(|mut made| {
                made.in_background = false;
                (made.object(), made.served(made.completion_tokens))
            }),
            (url, None) => Err(Refusal::missing(format!("The fake has no {url}."))),
        };
        match made {
            Ok((body, served)) => {
                if served.requests > 0 {
                    self.note(request["model"].as_str().unwrap_or_default(), served);
                }
                (StatusCode::OK, body, served)
            }
            Err(refusal) => (refusal.status, refusal.object(), Served::default()),
        }
    }
}

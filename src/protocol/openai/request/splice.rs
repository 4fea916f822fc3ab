//! Sets fields in a body without rewriting the rest of it.
//!
//! Each field that may be set has one place: the span of its value, or the
//! point where it would be inserted, with the text that goes around it.

use std::ops::Range;

use serde::Deserialize;

use super::fields::{Body, Outputs};
use super::{Invalid, flag};
use crate::protocol::openai::json::{Object, Raw, skip_space};

/// What to set in a body; the default sets nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    /// Set `stream_options.include_usage`.
    pub include_usage: bool,
    /// The most output tokens, in the field the client used if it used one.
    pub output_max: Option<u64>,
    /// The most calls of hosted tools.
    pub tool_calls_max: Option<u64>,
}

/// One place in a body: the bytes replaced, and what surrounds the new value.
#[derive(Clone, Debug)]
struct Splice {
    at: Range<usize>,
    before: [&'static str; 3],
    after: &'static str,
}

/// The places of all fields that may be set.
#[derive(Clone, Debug)]
pub(super) struct Splices {
    include_usage: Splice,
    output: Option<Splice>,
    tool_calls: Splice,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct StreamOptions<'a> {
    #[serde(borrow)]
    include_usage: Raw<'a>,
}

/// Whether `stream_options` asks for usage; it must be an object if given.
pub(super) fn usage_asked(options: Raw<'_>) -> Result<bool, Invalid> {
    let Some(text) = options.value() else { return Ok(false) };
    let invalid = || Invalid::field("stream_options", "it must be an object, with each member once");
    let Object(options) = serde_json::from_str::<Object<StreamOptions<'_>>>(text).map_err(|_| invalid())?;
    flag(options.include_usage, "stream_options")
}

impl Splices {
    /// Finds the places in `text`, an object that is not empty.
    pub(super) fn find(text: &str, fields: &Body<'_>, outputs: &Outputs<'_>) -> Self {
        let top = skip_space(text.as_bytes(), 0) + 1;
        Self {
            include_usage: include_usage(text, top, fields.stream_options),
            output: outputs.name.map(|name| Splice::member(text, top, name, outputs.raw)),
            tool_calls: Splice::member(text, top, "max_tool_calls", fields.max_tool_calls),
        }
    }

    /// The body with the edits made, unless they change nothing.
    pub(super) fn rewrite(&self, body: &[u8], edit: &Edit) -> Option<Vec<u8>> {
        let mut edits = Vec::with_capacity(3);
        if edit.include_usage {
            edits.push(self.include_usage.with("true"));
        }
        if let (Some(output), Some(max)) = (&self.output, edit.output_max) {
            edits.push(output.with(&max.to_string()));
        }
        if let Some(max) = edit.tool_calls_max {
            edits.push(self.tool_calls.with(&max.to_string()));
        }
        edits.retain(|(at, new)| body.get(at.clone()) != Some(new.as_bytes()));
        if edits.is_empty() {
            return None;
        }
        edits.sort_by_key(|(at, _)| at.start);
        Some(spliced(body, &edits))
    }
}

impl Splice {
    /// The place of a member of the object whose inside starts at `inside`.
    fn member(text: &str, inside: usize, name: &'static str, raw: Raw<'_>) -> Self {
        raw.span(text).map_or_else(
            || {
                let closes = text.as_bytes().get(skip_space(text.as_bytes(), inside)) == Some(&b'}');
                let after = if closes { "" } else { "," };
                Self { at: inside..inside, before: ["\"", name, "\":"], after }
            },
            |at| Self { at, before: [""; 3], after: "" },
        )
    }

    fn with(&self, value: &str) -> (Range<usize>, String) {
        (self.at.clone(), format!("{}{value}{}", self.before.concat(), self.after))
    }
}

fn include_usage(text: &str, top: usize, options: Raw<'_>) -> Splice {
    let span = options.span(text);
    match (span, options.value()) {
        (Some(span), Some(inner)) => {
            let options = serde_json::from_str::<Object<StreamOptions<'_>>>(inner).unwrap_or_default();
            Splice::member(text, span.start + 1, "include_usage", options.0.include_usage)
        }
        (Some(at), None) => Splice { at, before: ["{\"include_usage\":", "", ""], after: "}" },
        (None, _) => {
            Splice { at: top..top, before: ["\"stream_options\":{\"include_usage\":", "", ""], after: "}," }
        }
    }
}

fn spliced(body: &[u8], edits: &[(Range<usize>, String)]) -> Vec<u8> {
    let added: usize = edits.iter().map(|(_, new)| new.len()).sum();
    let mut out = Vec::with_capacity(body.len() + added);
    let mut from = 0;
    for (at, new) in edits {
        out.extend_from_slice(body.get(from..at.start).unwrap_or_default());
        out.extend_from_slice(new.as_bytes());
        from = at.end;
    }
    out.extend_from_slice(body.get(from..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests;

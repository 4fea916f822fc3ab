//! Answers of image requests: a whole one, or the events of a stream.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::figures::{Counted, Figures};
use super::{Answer, AnswerForm, named, outcome};
use crate::domain::usage::ToolUse;
use crate::domain::{Class, Quantities};
use crate::protocol::openai::json::{Loose, Object, Raw, scalars_default};
use crate::protocol::openai::usage::Outcome;

/// What an answer or an event says of the images that were made.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Body<'a> {
    #[serde(borrow)]
    model: Raw<'a>,
    usage: Loose<Figures>,
    #[serde(borrow)]
    svg_usage: Raw<'a>,
    data: Images,
    #[serde(borrow)]
    error: Raw<'a>,
}

/// The tokens of the model that writes SVG, its reasoning within its output.
#[derive(Deserialize, Default)]
#[serde(default)]
struct SvgModel<'a> {
    #[serde(borrow)]
    model: Raw<'a>,
}

/// Reads a whole answer.
pub(super) fn of_json(text: &str) -> Answer {
    let Ok(Object(body)) = serde_json::from_str::<Object<Body<'_>>>(text) else { return Answer::default() };
    let is_error = outcome::is_error(body.error);
    let Images(made) = body.data;
    let (tools_seen, tool_model) = svg(body.svg_usage);
    let counted = body.usage.0.counted(AnswerForm::Images);
    Answer {
        model: named(body.model),
        outcome: if is_error { Outcome::Failed } else { Outcome::Completed },
        has_begun: made > 0,
        units: [(Class::Images, made)].into(),
        tools_seen,
        tool_model,
        ..of_counted(counted)
    }
}

/// Its usage, if it has both sides.
fn of_counted(counted: Option<Counted>) -> Answer {
    let Some(Counted { tokens, sides, hides_cache_life }) = counted else { return Answer::default() };
    let whole = Some(tokens);
    Answer {
        usage: whole.filter(|_| sides.are_known()),
        used_so_far: whole.filter(|_| !sides.are_known()),
        hides_cache_life,
        ..Answer::default()
    }
}

/// The tokens of writing SVG, and the model that they are of.
fn svg(usage: Raw<'_>) -> (ToolUse, Option<String>) {
    let Some(text) = usage.value() else { return Default::default() };
    let figures = serde_json::from_str::<Loose<Figures>>(text).ok();
    let counted = figures.and_then(|Loose(figures)| figures.counted(AnswerForm::Text));
    let quantities = counted.map_or_else(Quantities::default, |counted| counted.tokens);
    let model = serde_json::from_str::<Loose<SvgModel<'_>>>(text).ok();
    (ToolUse { quantities, containers: 0 }, model.and_then(|Loose(svg)| named(svg.model)))
}

/// How many images a list has; none where it isn't a list.
#[derive(Clone, Copy, Debug, Default)]
struct Images(u64);

impl<'de> Deserialize<'de> for Images {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ImagesVisitor)
    }
}

struct ImagesVisitor;

impl<'de> Visitor<'de> for ImagesVisitor {
    type Value = Images;

    scalars_default!();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of images")
    }

    fn visit_str<E>(self, _: &str) -> Result<Images, E> {
        Ok(Images::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Images, A::Error> {
        let mut images = Images::default();
        while seq.next_element::<IgnoredAny>()?.is_some() {
            images.0 += 1;
        }
        Ok(images)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Images, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Images::default())
    }
}

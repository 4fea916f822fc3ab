//! The fields of the metered bodies, as they stand on the wire.
//!
//! One structure for all endpoints: a field that an endpoint doesn't have is
//! still read, and may then not stand twice either.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::content::Content;
use super::tools::Offer;
use super::{Invalid, count};
use crate::protocol::openai::json::{Loose, Raw};

/// Everything in a body that we interpret.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(in crate::protocol::openai) struct Body<'a> {
    #[serde(borrow)]
    pub(super) model: Raw<'a>,
    #[serde(borrow)]
    pub(super) stream: Raw<'a>,
    #[serde(borrow)]
    pub(super) stream_options: Raw<'a>,
    #[serde(borrow)]
    pub(super) service_tier: Raw<'a>,
    #[serde(borrow)]
    pub(in crate::protocol::openai) max_tokens: Raw<'a>,
    #[serde(borrow)]
    pub(in crate::protocol::openai) max_completion_tokens: Raw<'a>,
    #[serde(borrow)]
    pub(in crate::protocol::openai) max_output_tokens: Raw<'a>,
    #[serde(borrow)]
    pub(super) max_tool_calls: Raw<'a>,
    #[serde(borrow)]
    pub(in crate::protocol::openai) n: Raw<'a>,
    #[serde(borrow)]
    pub(in crate::protocol::openai) best_of: Raw<'a>,
    #[serde(borrow)]
    pub(super) echo: Raw<'a>,
    #[serde(borrow)]
    pub(super) background: Raw<'a>,
    #[serde(borrow)]
    pub(super) store: Raw<'a>,
    #[serde(borrow)]
    pub(super) multi_agent: Raw<'a>,
    #[serde(borrow)]
    pub(super) context_management: Raw<'a>,
    #[serde(borrow)]
    pub(super) previous_response_id: Raw<'a>,
    #[serde(borrow)]
    pub(super) conversation: Raw<'a>,
    #[serde(borrow)]
    pub(in crate::protocol::openai) web_search_options: Raw<'a>,
    #[serde(borrow)]
    pub(super) safety_identifier: Raw<'a>,
    #[serde(borrow)]
    pub(super) user: Raw<'a>,
    #[serde(borrow)]
    pub(super) prompt_cache_key: Raw<'a>,
    #[serde(borrow)]
    pub(super) metadata: Raw<'a>,
    #[serde(borrow)]
    pub(super) prompt_cache_options: Loose<CacheOptions<'a>>,
    #[serde(borrow)]
    pub(super) truncation: Raw<'a>,
    #[serde(borrow)]
    pub(super) reasoning: Loose<Reasoning<'a>>,
    #[serde(borrow)]
    pub(super) image: Raw<'a>,
    pub(super) modalities: Modalities,
    #[serde(borrow)]
    pub(in crate::protocol::openai) prompt: Prompt<'a>,
    pub(super) tools: Offer,
    #[serde(borrow)]
    pub(in crate::protocol::openai) prediction: Raw<'a>,
    #[serde(borrow)]
    pub(in crate::protocol::openai) messages: Content<'a>,
    #[serde(borrow)]
    pub(in crate::protocol::openai) input: Content<'a>,
    #[serde(borrow)]
    pub(in crate::protocol::openai) questions: Content<'a>,
}

/// `prompt_cache_options`.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct CacheOptions<'a> {
    #[serde(borrow)]
    pub(super) ttl: Raw<'a>,
}

/// `reasoning`.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Reasoning<'a> {
    /// Which turns' reasoning is read again.
    #[serde(borrow)]
    pub(super) context: Raw<'a>,
}

/// The field that bounds the output, and what it says.
pub(in crate::protocol::openai) struct Outputs<'a> {
    /// Its name; `None` where an operation has no such field.
    pub(super) name: Option<&'static str>,
    /// Where it stands, if it does.
    pub(super) raw: Raw<'a>,
    /// The bound, the operation's own default included.
    pub(super) bound: Option<u64>,
}

impl<'a> Outputs<'a> {
    /// A field, and what it says.
    pub(in crate::protocol::openai) fn field(name: &'static str, raw: Raw<'a>) -> Result<Self, Invalid> {
        Ok(Self { name: Some(name), raw, bound: count(raw, name)? })
    }

    /// The same with a bound for requests that name none.
    pub(in crate::protocol::openai) fn or(self, default: u64) -> Self {
        Self { bound: self.bound.or(Some(default)), ..self }
    }

    /// A bound that no field says.
    pub(in crate::protocol::openai) fn without_field(bound: Option<u64>) -> Self {
        Self { name: None, raw: Raw::default(), bound }
    }
}

/// Whether `modalities` asks for sound.
#[derive(Default)]
pub(super) struct Modalities {
    pub(super) audio: bool,
}

impl<'de> Deserialize<'de> for Modalities {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ModalitiesVisitor)
    }
}

struct ModalitiesVisitor;

impl<'de> Visitor<'de> for ModalitiesVisitor {
    type Value = Modalities;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of modalities")
    }

    fn visit_unit<E>(self) -> Result<Modalities, E> {
        Ok(Modalities::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Modalities, A::Error> {
        let mut audio = false;
        while let Some(modality) = seq.next_element::<Raw<'de>>()? {
            audio |= modality.string().is_some_and(|name| name != "text");
        }
        Ok(Modalities { audio })
    }
}

/// `prompt`: texts or tokens in completions, a stored prompt in responses.
#[derive(Default)]
pub(in crate::protocol::openai) struct Prompt<'a> {
    /// How many prompts there are.
    pub(in crate::protocol::openai) prompts: u64,
    /// Whether there is anything but `null`.
    pub(super) is_given: bool,
    /// What upstream puts into a stored prompt.
    pub(in crate::protocol::openai) variables: Content<'a>,
}

impl Prompt<'_> {
    /// Whatever isn't a list: it may not be a prompt, but it isn't nothing.
    fn one() -> Self {
        Self { prompts: 1, is_given: true, ..Self::default() }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Prompt<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PromptVisitor)
    }
}

struct PromptVisitor;

impl<'de> Visitor<'de> for PromptVisitor {
    type Value = Prompt<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a prompt")
    }

    fn visit_unit<E>(self) -> Result<Prompt<'de>, E> {
        Ok(Prompt::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Prompt<'de>, E> {
        Ok(Prompt::one())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Prompt<'de>, E> {
        Ok(Prompt::one())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Prompt<'de>, E> {
        Ok(Prompt::one())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Prompt<'de>, E> {
        Ok(Prompt::one())
    }

    fn visit_str<E>(self, _: &str) -> Result<Prompt<'de>, E> {
        Ok(Prompt::one())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Prompt<'de>, A::Error> {
        let (mut texts, mut tokens) = (0_u64, false);
        while let Some(element) = seq.next_element::<Raw<'de>>()? {
            let is_token =
                element.text().is_some_and(|text| text.starts_with(|first: char| first.is_ascii_digit()));
            tokens |= is_token;
            texts += u64::from(!is_token);
        }
        Ok(Prompt { prompts: texts + u64::from(tokens), ..Prompt::one() })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Prompt<'de>, A::Error> {
        let mut prompt = Prompt::one();
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            if name == "variables" {
                prompt.variables.merge(map.next_value::<Loose<Variables<'de>>>()?.0.0);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(prompt)
    }
}

/// The variables of a stored prompt: each is a text or a part, by a name of the client's.
#[derive(Default)]
struct Variables<'a>(Content<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for Variables<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(VariablesVisitor).map(Self)
    }
}

struct VariablesVisitor;

impl<'de> Visitor<'de> for VariablesVisitor {
    type Value = Content<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("variables by their names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Content<'de>, A::Error> {
        let mut sum = Content::default();
        while map.next_key::<IgnoredAny>()?.is_some() {
            sum.merge(map.next_value::<Content<'de>>()?);
        }
        Ok(sum)
    }
}

//! The fields of the metered bodies, as they stand on the wire.
//!
//! One structure for all endpoints: a field that an endpoint doesn't have is
//! still read, and may then not stand twice either.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use super::content::Content;
use super::tools::Offer;
use super::{COMPLETION_TOKENS_DEFAULT, Invalid, count};
use crate::openai::endpoint::Metered;
use crate::openai::json::{Loose, Raw};

/// Everything in a body that we interpret.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Body<'a> {
    #[serde(borrow)]
    pub(super) model: Raw<'a>,
    #[serde(borrow)]
    pub(super) stream: Raw<'a>,
    #[serde(borrow)]
    pub(super) stream_options: Raw<'a>,
    #[serde(borrow)]
    pub(super) service_tier: Raw<'a>,
    #[serde(borrow)]
    pub(super) max_tokens: Raw<'a>,
    #[serde(borrow)]
    pub(super) max_completion_tokens: Raw<'a>,
    #[serde(borrow)]
    pub(super) max_output_tokens: Raw<'a>,
    #[serde(borrow)]
    pub(super) max_tool_calls: Raw<'a>,
    #[serde(borrow)]
    pub(super) n: Raw<'a>,
    #[serde(borrow)]
    pub(super) best_of: Raw<'a>,
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
    pub(super) web_search_options: Raw<'a>,
    #[serde(borrow)]
    pub(super) safety_identifier: Raw<'a>,
    #[serde(borrow)]
    pub(super) user: Raw<'a>,
    #[serde(borrow)]
    pub(super) prompt_cache_options: Loose<CacheOptions<'a>>,
    #[serde(borrow)]
    pub(super) truncation: Raw<'a>,
    #[serde(borrow)]
    pub(super) reasoning: Loose<Reasoning<'a>>,
    #[serde(borrow)]
    pub(super) image: Raw<'a>,
    pub(super) modalities: Modalities,
    pub(super) prompt: Prompt,
    pub(super) tools: Offer,
    #[serde(borrow)]
    pub(super) prediction: Raw<'a>,
    #[serde(borrow)]
    pub(super) messages: Content<'a>,
    #[serde(borrow)]
    pub(super) input: Content<'a>,
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
pub(super) struct Outputs<'a> {
    /// Its name; `None` where an endpoint has no such field.
    pub(super) name: Option<&'static str>,
    /// Where it stands, if it does.
    pub(super) raw: Raw<'a>,
    /// The bound, the endpoint's own default included.
    pub(super) asked: Option<u64>,
}

impl<'a> Body<'a> {
    /// The output bound by the endpoint's rules.
    pub(super) fn outputs(&self, endpoint: Metered) -> Result<Outputs<'a>, Invalid> {
        let newer = ("max_completion_tokens", self.max_completion_tokens);
        let older = ("max_tokens", self.max_tokens);
        let responses = ("max_output_tokens", self.max_output_tokens);
        let (name, raw) = match endpoint {
            // Compaction has no field that bounds its output; what a client writes is not its bound.
            Metered::Compact => return Ok(Outputs { name: None, raw: Raw::default(), asked: None }),
            Metered::Embeddings => return Ok(Outputs { name: None, raw: Raw::default(), asked: Some(0) }),
            Metered::Completions => older,
            Metered::Responses => responses,
            Metered::Chat => {
                if newer.1.value().is_some() && older.1.value().is_some() {
                    let rule = "give either max_tokens or max_completion_tokens, not both";
                    return Err(Invalid::field("max_tokens", rule));
                }
                let chosen = [newer, older].into_iter().find(|(_, raw)| raw.value().is_some());
                let written = [newer, older].into_iter().find(|(_, raw)| raw.text().is_some());
                chosen.or(written).unwrap_or(newer)
            }
        };
        let asked = count(raw, name)?;
        let default = (endpoint == Metered::Completions).then_some(COMPLETION_TOKENS_DEFAULT);
        Ok(Outputs { name: Some(name), raw, asked: asked.or(default) })
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
pub(super) struct Prompt {
    /// How many prompts there are.
    pub(super) prompts: u64,
    /// Whether there is anything but `null`.
    pub(super) is_given: bool,
    /// Whether a variable of a stored prompt has a cache breakpoint of the long life.
    pub(super) cache_12h: bool,
}

impl Prompt {
    /// Whatever isn't a list: it may not be a prompt, but it isn't nothing.
    const ONE: Self = Self { prompts: 1, is_given: true, cache_12h: false };
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PromptVisitor)
    }
}

/// Whether a variable has a cache breakpoint of the long life, or can't be read.
fn has_long_breakpoint(variables: Raw<'_>) -> bool {
    let Some(text) = variables.value() else { return false };
    let read = serde_json::from_str::<BTreeMap<Cow<'_, str>, Content<'_>>>(text);
    read.map_or(true, |parts| parts.into_values().any(|part| part.into_inner().cache_12h))
}

struct PromptVisitor;

impl<'de> Visitor<'de> for PromptVisitor {
    type Value = Prompt;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a prompt")
    }

    fn visit_unit<E>(self) -> Result<Prompt, E> {
        Ok(Prompt::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Prompt, E> {
        Ok(Prompt::ONE)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Prompt, E> {
        Ok(Prompt::ONE)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Prompt, E> {
        Ok(Prompt::ONE)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Prompt, E> {
        Ok(Prompt::ONE)
    }

    fn visit_str<E>(self, _: &str) -> Result<Prompt, E> {
        Ok(Prompt::ONE)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Prompt, A::Error> {
        let (mut texts, mut tokens) = (0_u64, false);
        while let Some(element) = seq.next_element::<Raw<'de>>()? {
            let is_token =
                element.text().is_some_and(|text| text.starts_with(|first: char| first.is_ascii_digit()));
            tokens |= is_token;
            texts += u64::from(!is_token);
        }
        Ok(Prompt { prompts: texts + u64::from(tokens), ..Prompt::ONE })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Prompt, A::Error> {
        let mut cache_12h = false;
        while let Some((key, value)) = map.next_entry::<Cow<'de, str>, Raw<'de>>()? {
            cache_12h |= key == "variables" && has_long_breakpoint(value);
        }
        Ok(Prompt { cache_12h, ..Prompt::ONE })
    }
}

//! The tools a request offers, as far as they cost something of their own.
//!
//! A closed list: a tool of a kind that isn't known here runs at upstream
//! at an unknown price, so the request that offers it is refused.

use std::fmt;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::domain::demand::{ImageTool, ToolDemand, WebSearch};
use crate::domain::tokens::ContainerMemory;
use crate::openai::json::{Object, Raw, scalars_default};

/// The most tools in one list; upstream takes 128.
const TOOLS_MAX: usize = 1024;

/// The most a name from the client takes in a message, in characters.
const NAME_CHARS_MAX: usize = 64;

/// What a list of tools comes to.
#[derive(Debug, Default)]
pub(super) struct Offer {
    /// The tools with a price.
    pub(super) tools: ToolDemand,
    /// Why the list can't be let through.
    pub(super) refused: Option<String>,
}

impl Offer {
    /// Takes up another list of the same request.
    pub(super) fn merge(&mut self, other: Self) {
        let Self { tools, refused } = other;
        self.tools.file_search |= tools.file_search;
        self.tools.loops |= tools.loops;
        self.tools.containers.extend(tools.containers);
        self.search(tools.web_search);
        self.draw(tools.image);
        if self.refused.is_none() {
            self.refused = refused;
        }
    }

    fn search(&mut self, kind: Option<WebSearch>) {
        if kind == Some(WebSearch::Preview) || self.tools.web_search.is_none() {
            self.tools.web_search = kind.or(self.tools.web_search);
        }
    }

    fn draw(&mut self, image: Option<ImageTool>) {
        match (&self.tools.image, image) {
            (Some(_), Some(_)) => self.refuse("Only one image_generation tool can be priced."),
            (None, image) => self.tools.image = image,
            (Some(_), None) => {}
        }
    }

    fn refuse(&mut self, why: &str) {
        self.refused.get_or_insert_with(|| why.to_owned());
    }

    fn add(&mut self, tool: &Tool<'_>) {
        let kind = tool.kind.string().unwrap_or_default();
        match &*kind {
            "function"
            | "custom"
            | "computer"
            | "computer_use"
            | "computer_use_preview"
            | "local_shell"
            | "apply_patch"
            | "namespace" => return,
            "web_search" | "web_search_2025_08_26" => self.search(Some(WebSearch::Current)),
            "web_search_preview" | "web_search_preview_2025_03_11" => self.search(Some(WebSearch::Preview)),
            "file_search" => self.tools.file_search = true,
            "mcp" | "tool_search" => {}
            "code_interpreter" => self.contain(&tool.container),
            "shell" if tool.environment.is_local() => return,
            "shell" => self.contain(&tool.environment),
            "image_generation" => {
                if tool.svg.value().is_some() || tool.output_format.string().as_deref() == Some("svg") {
                    self.refuse("The image_generation tool's svg output has no known price.");
                }
                self.draw(Some(ImageTool { model: tool.model.string().map(String::from) }));
            }
            _ => {
                let name: String = kind.chars().take(NAME_CHARS_MAX).collect();
                self.refuse(&format!("The tool type '{name}' has no known price."));
            }
        }
        self.tools.loops = true;
    }

    fn contain(&mut self, container: &Container) {
        match container.memory {
            Some(memory) => self.tools.containers.push(memory),
            None => self.refuse("The container's memory_limit has no known price."),
        }
    }
}

/// One tool. Of its members only those that bear on the price are read.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Tool<'a> {
    #[serde(borrow, rename = "type")]
    kind: Raw<'a>,
    container: Container,
    environment: Container,
    #[serde(borrow)]
    model: Raw<'a>,
    #[serde(borrow)]
    output_format: Raw<'a>,
    #[serde(borrow)]
    svg: Raw<'a>,
}

/// Where a hosted tool runs; the memory is `None` if it isn't a known size.
struct Container {
    local: bool,
    memory: Option<ContainerMemory>,
}

impl Default for Container {
    fn default() -> Self {
        Self { local: false, memory: Some(ContainerMemory::default()) }
    }
}

impl Container {
    /// A container named by its id: it may have any memory, so the dearest.
    const REFERENCED: Self = Self { local: false, memory: Some(ContainerMemory::G64) };

    fn is_local(&self) -> bool {
        self.local
    }

    fn described(fields: &ContainerFields<'_>) -> Self {
        if fields.container_id.value().is_some() {
            return Self::REFERENCED;
        }
        let memory = match fields.memory_limit.value() {
            None | Some("\"1g\"") => Some(ContainerMemory::G1),
            Some("\"4g\"") => Some(ContainerMemory::G4),
            Some("\"16g\"") => Some(ContainerMemory::G16),
            Some("\"64g\"") => Some(ContainerMemory::G64),
            Some(_) => None,
        };
        Self { local: fields.kind.string().as_deref() == Some("local"), memory }
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ContainerFields<'a> {
    #[serde(borrow, rename = "type")]
    kind: Raw<'a>,
    #[serde(borrow)]
    memory_limit: Raw<'a>,
    #[serde(borrow)]
    container_id: Raw<'a>,
}

impl<'de> Deserialize<'de> for Container {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContainerVisitor)
    }
}

struct ContainerVisitor;

impl<'de> Visitor<'de> for ContainerVisitor {
    type Value = Container;

    scalars_default!();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a container, by id or described")
    }

    fn visit_str<E>(self, _: &str) -> Result<Container, E> {
        Ok(Container::REFERENCED)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Container, A::Error> {
        ContainerFields::deserialize(MapAccessDeserializer::new(map))
            .map(|fields| Container::described(&fields))
    }
}

impl<'de> Deserialize<'de> for Offer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OfferVisitor)
    }
}

struct OfferVisitor;

impl<'de> Visitor<'de> for OfferVisitor {
    type Value = Offer;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of tools")
    }

    fn visit_unit<E>(self) -> Result<Offer, E> {
        Ok(Offer::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Offer, A::Error> {
        let mut offer = Offer::default();
        let mut count = 0_usize;
        while let Some(Object(tool)) = seq.next_element::<Object<Tool<'de>>>()? {
            offer.add(&tool);
            count += 1;
            if count > TOOLS_MAX {
                return Err(A::Error::custom("too many tools"));
            }
        }
        Ok(offer)
    }
}

#[cfg(test)]
mod tests;

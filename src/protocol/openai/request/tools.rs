//! The tools a request offers, as far as they cost something of their own.
//!
//! A closed list: a tool of a kind that isn't known here runs at upstream
//! at an unknown price, so the request that offers it is refused.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};

use super::image_fields::ImageFields;
use super::references::References;
use super::sparse::{Merge, Sparse};
use crate::domain::ObjectKind;
use crate::domain::demand::{ContainerDemand, ImageDemand, ToolDemand, WebSearch};
use crate::domain::usage::ContainerMemory;
use crate::protocol::openai::json::{Loose, Object, Raw};

/// The most tools in one list; upstream takes 128.
const TOOLS_MAX: usize = 1024;

/// The most a name from the client takes in a message, in characters.
const NAME_CHARS_MAX: usize = 64;

/// A list of tools; empty as long as there is none.
pub(super) type Offer = Sparse<Offered>;

/// The content of a list of tools.
#[derive(Debug, Default)]
pub(super) struct Offered {
    /// The tools with a price.
    pub(super) tools: ToolDemand,
    /// Why the list can't be let through.
    pub(super) refused: Option<String>,
    /// Objects that the tools name.
    pub(super) references: References,
}

impl Merge for Offered {
    fn merge(&mut self, other: Self) {
        let Self { tools, refused, references } = other;
        self.references.merge(references);
        self.tools.file_search |= tools.file_search;
        self.tools.loops |= tools.loops;
        self.tools.mcp_servers = self.tools.mcp_servers.saturating_add(tools.mcp_servers);
        self.tools.containers.extend(tools.containers);
        self.search(tools.web_search);
        self.draw(tools.image);
        if self.refused.is_none() {
            self.refused = refused;
        }
    }
}

impl Offered {
    /// Whether any of the tools runs at upstream, or is of a kind that is not known.
    pub(super) fn is_hosted(&self) -> bool {
        self.tools.loops || self.refused.is_some()
    }

    fn search(&mut self, kind: Option<WebSearch>) {
        if kind == Some(WebSearch::Preview) || self.tools.web_search.is_none() {
            self.tools.web_search = kind.or(self.tools.web_search);
        }
    }

    fn draw(&mut self, image: Option<ImageDemand>) {
        match (&self.tools.image, image) {
            (Some(_), Some(_)) => self.refuse("Only one image_generation tool can be priced."),
            (None, image) => self.tools.image = image,
            (Some(_), None) => {}
        }
    }

    fn refuse(&mut self, why: &str) {
        self.refused.get_or_insert_with(|| why.to_owned());
    }

    fn add(&mut self, mut tool: Tool<'_>) {
        // A namespace holds tools of its own.
        self.merge(std::mem::take(&mut tool.tools).into_inner());
        let kind = tool.kind.string().unwrap_or_default();
        self.references.add_list(ObjectKind::VectorStore, tool.vector_store_ids);
        self.references.add(ObjectKind::File, tool.input_image_mask.0.file_id);
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
            "mcp" => self.tools.mcp_servers = self.tools.mcp_servers.saturating_add(1),
            "tool_search" => {}
            "code_interpreter" => self.contain(&tool.container),
            "shell" if tool.environment.is_local() => return,
            "shell" => self.contain(&tool.environment),
            "image_generation" => {
                if tool.svg.value().is_some() || tool.output_format.string().as_deref() == Some("svg") {
                    self.refuse("The image_generation tool's svg output has no known price.");
                }
                self.draw(Some(tool.image()));
            }
            _ => {
                let name: String = kind.chars().take(NAME_CHARS_MAX).collect();
                self.refuse(&format!("The tool type '{name}' has no known price. Remove it from `tools`."));
            }
        }
        self.tools.loops = true;
    }

    fn contain(&mut self, container: &Container<'_>) {
        self.references.add(ObjectKind::Container, container.id);
        self.references.add_list(ObjectKind::File, container.file_ids);
        self.references.add_members(ObjectKind::Skill, container.skills);
        match (container.id.string(), container.memory) {
            (None, _) if container.id.value().is_some() => self.refuse("A container's id must be a string."),
            (Some(id), _) => self.tools.containers.push(ContainerDemand::Existing(id.into_owned())),
            (None, Some(memory)) => self.tools.containers.push(ContainerDemand::Made(memory)),
            (None, None) => self.refuse("The container's memory_limit has no known price."),
        }
    }
}

/// One tool. Of its members only those that bear on the price are read.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Tool<'a> {
    #[serde(borrow, rename = "type")]
    kind: Raw<'a>,
    #[serde(borrow)]
    container: Container<'a>,
    #[serde(borrow)]
    environment: Container<'a>,
    #[serde(borrow)]
    vector_store_ids: Raw<'a>,
    #[serde(borrow)]
    input_image_mask: Loose<Mask<'a>>,
    #[serde(borrow)]
    model: Raw<'a>,
    #[serde(borrow)]
    output_format: Raw<'a>,
    #[serde(borrow)]
    frame_count: Raw<'a>,
    #[serde(borrow)]
    svg: Raw<'a>,
    #[serde(borrow)]
    quality: Raw<'a>,
    #[serde(borrow)]
    size: Raw<'a>,
    #[serde(borrow)]
    partial_images: Raw<'a>,
    tools: Offer,
}

impl Tool<'_> {
    fn image(&self) -> ImageDemand {
        let fields = ImageFields {
            quality: self.quality,
            size: self.size,
            output_format: self.output_format,
            frame_count: self.frame_count,
            partial_images: self.partial_images,
        };
        let model = self.model.string().filter(|model| !model.trim().is_empty()).map(String::from);
        ImageDemand { model, ..fields.demand() }
    }
}

/// The mask of an image to be edited.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Mask<'a> {
    #[serde(borrow)]
    file_id: Raw<'a>,
}

/// Where a hosted tool runs; the memory is `None` if it isn't a known size.
struct Container<'a> {
    local: bool,
    memory: Option<ContainerMemory>,
    id: Raw<'a>,
    file_ids: Raw<'a>,
    skills: Raw<'a>,
}

impl Default for Container<'_> {
    fn default() -> Self {
        let none = Raw::default();
        Self {
            local: false,
            memory: Some(ContainerMemory::default()),
            id: none,
            file_ids: none,
            skills: none,
        }
    }
}

impl<'a> Container<'a> {
    fn referenced(id: Raw<'a>) -> Self {
        Self { id, ..Self::default() }
    }

    fn is_local(&self) -> bool {
        self.local
    }

    fn described(fields: &ContainerFields<'a>) -> Self {
        if fields.container_id.value().is_some() {
            return Self::referenced(fields.container_id);
        }
        let memory = match fields.memory_limit.value() {
            None | Some("\"1g\"") => Some(ContainerMemory::G1),
            Some("\"4g\"") => Some(ContainerMemory::G4),
            Some("\"16g\"") => Some(ContainerMemory::G16),
            Some("\"64g\"") => Some(ContainerMemory::G64),
            Some(_) => None,
        };
        let local = fields.kind.string().as_deref() == Some("local");
        Self { local, memory, id: Raw::default(), file_ids: fields.file_ids, skills: fields.skills }
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
    #[serde(borrow)]
    file_ids: Raw<'a>,
    #[serde(borrow)]
    skills: Raw<'a>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Container<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Raw::deserialize(deserializer)?;
        if raw.string().is_some() {
            return Ok(Self::referenced(raw));
        }
        let Some(text) = raw.value().filter(|text| text.starts_with('{')) else {
            return Ok(Self::default());
        };
        let fields = serde_json::from_str::<ContainerFields<'a>>(text).map_err(D::Error::custom)?;
        Ok(Self::described(&fields))
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
        let mut offer = Offered::default();
        let mut count = 0_usize;
        while let Some(Object(tool)) = seq.next_element::<Object<Tool<'de>>>()? {
            offer.add(tool);
            count += 1;
            if count > TOOLS_MAX {
                return Err(A::Error::custom("too many tools"));
            }
        }
        Ok(Sparse::new(offer))
    }
}

#[cfg(test)]
mod tests;

//! Counts what messages and input items hold besides text.
//!
//! Text costs at most its bytes in the body, so it is skipped. Pictures,
//! sound and files are counted; base64 counts as theirs only where upstream
//! surely reads it so. What is not understood makes the bound larger: an
//! unknown kind of part is opaque, a reference is context we can't see.

use std::fmt;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use super::references::References;
use super::tools::Offer;
use crate::domain::ObjectKind;
use crate::domain::demand::Media;
use crate::openai::json::{Loose, Raw, scalars_default};

/// What a message, an item, a part, or a list of them comes to.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) media: Media,
    /// Whether upstream fills in something that isn't in the body.
    pub(super) server_context: bool,
    /// Tools that items bring along.
    pub(super) offer: Offer,
    /// Objects that parts and items name.
    pub(super) references: References,
}

impl Content {
    fn merge(&mut self, other: Self) {
        let Media { images, images_low, inline_bytes, audio_bytes, opaque } = other.media;
        let media = &mut self.media;
        media.images = media.images.saturating_add(images);
        media.images_low = media.images_low.saturating_add(images_low);
        media.inline_bytes = media.inline_bytes.saturating_add(inline_bytes);
        media.audio_bytes = media.audio_bytes.saturating_add(audio_bytes);
        media.opaque = media.opaque.saturating_add(opaque);
        self.server_context |= other.server_context;
        self.offer.merge(other.offer);
        self.references.merge(other.references);
    }

    fn of(node: Node<'_>) -> Self {
        let mut sum = Self::default();
        sum.add_kind(&node);
        sum.references.add(ObjectKind::File, node.file_id);
        sum.references.add(ObjectKind::File, node.file.0.file_id);
        if node.audio.value().is_some() {
            sum.media.opaque += 1;
        }
        for inner in [node.content, node.output, node.outputs] {
            sum.merge(inner);
        }
        if matches!(node.kind.string().as_deref(), Some("additional_tools" | "tool_search_output")) {
            sum.offer.merge(node.tools);
        }
        sum
    }

    fn add_kind(&mut self, node: &Node<'_>) {
        let Some(kind) = node.kind.value() else { return self.add_untyped(node) };
        match kind.trim_matches('"') {
            "image_url" | "input_image" | "computer_screenshot" | "image" => self.add_image(node),
            "image_generation_call" => {
                self.media.images += 1;
                self.media.inline_bytes += node.result.string_bytes().unwrap_or(0);
            }
            "input_audio" => self.add_audio(node),
            "file" | "input_file" => {
                self.media.opaque += 1;
                let inline = node.file_data.string_bytes().or(node.file.0.file_data.string_bytes());
                self.media.inline_bytes += inline.unwrap_or(0);
            }
            "item_reference" => {
                self.server_context = true;
                self.references.add(ObjectKind::Item, node.id);
            }
            "web_search_call" | "file_search_call" | "code_interpreter_call" => {
                self.server_context = true;
            }
            "reasoning" | "compaction" => {
                if node.encrypted_content.value().is_none() {
                    self.server_context = true;
                    self.references.add(ObjectKind::Item, node.id);
                }
            }
            kind if TEXT_KINDS.contains(&kind) => {}
            _ => self.media.opaque += 1,
        }
    }

    /// A message needs no type, nor does a reference to a stored item.
    fn add_untyped(&mut self, node: &Node<'_>) {
        let media = [node.file_id, node.file_data, node.file.0.file_data, node.input_audio.0.data];
        if node.image_url.is_given() || media.into_iter().any(|raw| raw.value().is_some()) {
            self.media.opaque += 1;
        }
        if node.role.value().is_none() && node.id.value().is_some() {
            self.server_context = true;
            self.references.add(ObjectKind::Item, node.id);
        }
    }

    fn add_image(&mut self, node: &Node<'_>) {
        let (inline, detail) = match &node.image_url {
            Link::Text(inline) => (*inline, node.detail),
            Link::Object(link) => (inline_bytes(link.url), link.detail),
            Link::Absent => (0, node.detail),
        };
        match detail.value() {
            Some("\"low\"") => self.media.images_low += 1,
            Some(_) | None => self.media.images += 1,
        }
        self.media.inline_bytes = self.media.inline_bytes.saturating_add(inline);
    }

    fn add_audio(&mut self, node: &Node<'_>) {
        match node.input_audio.0.data.string_bytes() {
            Some(bytes) => {
                self.media.inline_bytes += bytes;
                self.media.audio_bytes += bytes;
            }
            None => self.media.opaque += 1,
        }
    }
}

/// Items and parts that hold nothing but text of the body.
const TEXT_KINDS: [&str; 28] = [
    "text",
    "input_text",
    "output_text",
    "summary_text",
    "reasoning_text",
    "refusal",
    "logs",
    "message",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
    "computer_call",
    "computer_call_output",
    "local_shell_call",
    "local_shell_call_output",
    "shell_call",
    "shell_call_output",
    "apply_patch_call",
    "apply_patch_call_output",
    "mcp_list_tools",
    "mcp_approval_request",
    "mcp_approval_response",
    "mcp_call",
    "tool_search_call",
    "tool_search_output",
    "additional_tools",
    "compaction_trigger",
];

/// One message, item or part.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Node<'a> {
    #[serde(borrow, rename = "type")]
    kind: Raw<'a>,
    #[serde(borrow)]
    role: Raw<'a>,
    #[serde(borrow)]
    id: Raw<'a>,
    #[serde(borrow)]
    detail: Raw<'a>,
    content: Content,
    output: Content,
    outputs: Content,
    #[serde(borrow)]
    image_url: Link<'a>,
    #[serde(borrow)]
    input_audio: Loose<Audio<'a>>,
    #[serde(borrow)]
    file: Loose<File<'a>>,
    #[serde(borrow)]
    file_id: Raw<'a>,
    #[serde(borrow)]
    file_data: Raw<'a>,
    #[serde(borrow)]
    audio: Raw<'a>,
    #[serde(borrow)]
    result: Raw<'a>,
    #[serde(borrow)]
    encrypted_content: Raw<'a>,
    tools: Offer,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Audio<'a> {
    #[serde(borrow)]
    data: Raw<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct File<'a> {
    #[serde(borrow)]
    file_data: Raw<'a>,
    #[serde(borrow)]
    file_id: Raw<'a>,
}

/// A picture's address: a string in responses, an object in chat.
#[derive(Default)]
enum Link<'a> {
    #[default]
    Absent,
    /// The bytes of base64 it holds, if it is a data URL.
    Text(u64),
    Object(LinkObject<'a>),
}

impl Link<'_> {
    fn is_given(&self) -> bool {
        !matches!(self, Self::Absent)
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct LinkObject<'a> {
    #[serde(borrow)]
    url: Raw<'a>,
    #[serde(borrow)]
    detail: Raw<'a>,
}

const DATA_URL: &str = "data:image/";

fn inline_bytes(url: Raw<'_>) -> u64 {
    let is_data = url.value().is_some_and(|text| text.trim_start_matches('"').starts_with(DATA_URL));
    if is_data { url.string_bytes().unwrap_or(0) } else { 0 }
}

impl<'de: 'a, 'a> Deserialize<'de> for Link<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LinkVisitor)
    }
}

struct LinkVisitor;

impl<'de> Visitor<'de> for LinkVisitor {
    type Value = Link<'de>;

    scalars_default!();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an address")
    }

    fn visit_str<E>(self, text: &str) -> Result<Link<'de>, E> {
        let inline = if text.starts_with(DATA_URL) { text.len() } else { 0 };
        Ok(Link::Text(u64::try_from(inline).unwrap_or(0)))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Link<'de>, A::Error> {
        LinkObject::deserialize(MapAccessDeserializer::new(map)).map(Link::Object)
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    scalars_default!();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("text, or a list of parts")
    }

    fn visit_str<E>(self, _: &str) -> Result<Content, E> {
        Ok(Content::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Content, A::Error> {
        let mut sum = Content::default();
        while let Some(part) = seq.next_element::<Content>()? {
            sum.merge(part);
        }
        Ok(sum)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Content, A::Error> {
        Node::deserialize(MapAccessDeserializer::new(map)).map(Content::of)
    }
}

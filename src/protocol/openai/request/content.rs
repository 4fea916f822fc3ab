//! Finds what messages and input items hold besides text.
//!
//! Text costs at most its bytes in the body, so it is skipped. Images, audio and
//! documents are noted where they stand, by the parser's own slices of the body:
//! only the bytes of a field that upstream surely reads as media are not counted as
//! text. Unknown content makes the bound larger: an unknown kind of part is opaque,
//! a reference is context of unknown size.

use std::fmt;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use super::references::References;
use super::sparse::{Merge, Sparse};
use super::tools::Offer;
use super::{document, long_breakpoint};
use crate::domain::ObjectKind;
use crate::domain::demand::{Detail, DocumentKind};
use crate::media;
use crate::protocol::openai::json::{Loose, Raw, scalars_default};

/// A message, an item, a part, or a list of them; empty as long as it holds nothing
/// but text of the body, which most of them do.
pub(in crate::protocol::openai) type Content<'a> = Sparse<Found<'a>>;

/// The content of a message, an item, a part, or a list of them, other than text.
#[derive(Debug, Default)]
pub(in crate::protocol::openai) struct Found<'a> {
    /// Images: the string that holds an inline one, and the detail.
    pub(super) images: Vec<(Option<&'a str>, Detail)>,
    /// The strings of inline audio, and the format that each is sent as.
    pub(super) audio: Vec<(&'a str, Raw<'a>)>,
    /// The strings of inline files, and what each is sent as.
    pub(super) documents: Vec<(&'a str, DocumentKind)>,
    /// Parts that only upstream can see the size of.
    pub(super) opaque: u64,
    /// Whether upstream fills in something that isn't in the body.
    pub(super) server_context: bool,
    /// Whether a cache breakpoint has the long life.
    pub(super) cache_12h: bool,
    /// Tools that items bring along.
    pub(super) offer: Offer,
    /// Objects that parts and items name.
    pub(super) references: References,
}

impl Merge for Found<'_> {
    fn merge(&mut self, other: Self) {
        self.images.extend(other.images);
        self.audio.extend(other.audio);
        self.documents.extend(other.documents);
        self.opaque = self.opaque.saturating_add(other.opaque);
        self.server_context |= other.server_context;
        self.cache_12h |= other.cache_12h;
        self.offer.merge(other.offer);
        self.references.merge(other.references);
    }
}

impl<'a> Content<'a> {
    fn of(node: Node<'a>) -> Self {
        let mut sum = Self::default();
        sum.add_kind(&node);
        sum.add_reference(ObjectKind::File, node.file_id);
        sum.add_reference(ObjectKind::File, node.file.0.file_id);
        // A container that a call ran in may be the one that the next call runs in.
        sum.add_reference(ObjectKind::Container, node.container_id);
        sum.add_reference(ObjectKind::Container, node.environment.0.container_id);
        if node.audio.value().is_some() {
            sum.add_opaque();
        }
        if long_breakpoint(node.prompt_cache_breakpoint) {
            sum.get().cache_12h = true;
        }
        for inner in [node.content, node.output, node.outputs, node.instructions] {
            sum.merge(inner);
        }
        if matches!(node.kind.string().as_deref(), Some("additional_tools" | "tool_search_output")) {
            sum.get().offer.merge(node.tools);
        }
        sum
    }

    fn add_opaque(&mut self) {
        self.get().opaque += 1;
    }

    fn add_reference(&mut self, kind: ObjectKind, id: Raw<'_>) {
        if id.value().is_some() {
            self.get().references.add(kind, id);
        }
    }

    fn add_kind(&mut self, node: &Node<'a>) {
        let Some(kind) = node.kind.string() else { return self.add_untyped(node) };
        match &*kind {
            "image_url" | "input_image" | "computer_screenshot" | "image" => self.add_image(node),
            "image_generation_call" => {
                self.get().images.push((node.result.quoted(), Detail::Auto));
                if node.result.value().is_none() {
                    // The picture that upstream keeps of that call.
                    self.add_reference(ObjectKind::Item, node.id);
                }
            }
            "input_audio" => self.add_audio(node),
            "file" | "input_file" => self.add_file(node),
            "item_reference" => self.add_reference(ObjectKind::Item, node.id),
            "web_search_call" | "file_search_call" | "code_interpreter_call" => {
                // Without an id there is nothing that upstream could look up.
                if node.id.value().is_some() {
                    self.get().server_context = true;
                }
                let has = |raw: Raw<'_>| raw.value().is_some();
                let is_whole = match &*kind {
                    // Of a call without its container, upstream may know in which it ran.
                    "code_interpreter_call" => has(node.code) && has(node.container_id),
                    _ => has(node.action) || has(node.queries),
                };
                if !is_whole {
                    self.add_reference(ObjectKind::Item, node.id);
                }
            }
            "reasoning" | "compaction" => {
                if !node.encrypted_content.has_content() {
                    self.get().server_context = true;
                    self.add_reference(ObjectKind::Item, node.id);
                }
            }
            kind if TEXT_KINDS.contains(&kind) => {}
            _ => self.add_opaque(),
        }
    }

    /// A message needs no type, nor does a reference to a stored item.
    fn add_untyped(&mut self, node: &Node<'a>) {
        let media = [node.file_id, node.file_data, node.file.0.file_data, node.input_audio.0.data];
        if node.image_url.is_given() || media.into_iter().any(|raw| raw.value().is_some()) {
            self.add_opaque();
        }
        if node.role.value().is_none() {
            self.add_reference(ObjectKind::Item, node.id);
        }
    }

    fn add_image(&mut self, node: &Node<'a>) {
        let (url, detail) = match &node.image_url {
            Link::Text(url) => (url.quoted(), node.detail),
            Link::Object(link) => (link.url.quoted(), link.detail),
            Link::Absent => (None, node.detail),
        };
        let detail = match detail.string().as_deref() {
            Some("low") => Detail::Low,
            Some("high") => Detail::High,
            Some(_) | None => Detail::Auto,
        };
        self.get().images.push((url.filter(|url| media::is_data_url(url)), detail));
        if node.image_url.is_given() && node.file_id.value().is_some() {
            // Of two sources, upstream may read either.
            self.get().images.push((None, detail));
        }
    }

    fn add_audio(&mut self, node: &Node<'a>) {
        match node.input_audio.0.data.quoted() {
            Some(data) => self.get().audio.push((data, node.input_audio.0.format)),
            None => self.add_opaque(),
        }
    }

    fn add_file(&mut self, node: &Node<'a>) {
        let file = &node.file.0;
        let sources = [(node.file_data, node.filename), (file.file_data, file.filename)];
        let mut is_inline = false;
        for (data, filename) in sources {
            let Some(data) = data.quoted() else { continue };
            self.get().documents.push((data, document::kind(data, filename)));
            is_inline = true;
        }
        // Of several sources, upstream may read any.
        let named = [node.file_id, node.file_url, file.file_id, file.file_url];
        if !is_inline || named.into_iter().any(|source| source.value().is_some()) {
            self.add_opaque();
        }
    }
}

/// Items and parts that hold nothing but text of the body.
const TEXT_KINDS: [&str; 32] = [
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
    // Of decisions; JSON is rendered as text.
    "input_json",
    "predicate",
    "choice",
    "score",
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
    #[serde(borrow)]
    content: Content<'a>,
    #[serde(borrow)]
    output: Content<'a>,
    #[serde(borrow)]
    outputs: Content<'a>,
    /// Of a question.
    #[serde(borrow)]
    instructions: Content<'a>,
    #[serde(borrow)]
    image_url: Link<'a>,
    #[serde(borrow)]
    input_audio: Loose<Audio<'a>>,
    #[serde(borrow)]
    file: Loose<Attachment<'a>>,
    #[serde(borrow)]
    file_id: Raw<'a>,
    #[serde(borrow)]
    file_data: Raw<'a>,
    #[serde(borrow)]
    file_url: Raw<'a>,
    #[serde(borrow)]
    filename: Raw<'a>,
    #[serde(borrow)]
    prompt_cache_breakpoint: Raw<'a>,
    #[serde(borrow)]
    audio: Raw<'a>,
    #[serde(borrow)]
    result: Raw<'a>,
    #[serde(borrow)]
    encrypted_content: Raw<'a>,
    #[serde(borrow)]
    action: Raw<'a>,
    #[serde(borrow)]
    queries: Raw<'a>,
    #[serde(borrow)]
    code: Raw<'a>,
    #[serde(borrow)]
    container_id: Raw<'a>,
    #[serde(borrow)]
    environment: Loose<Environment<'a>>,
    tools: Offer,
}

/// Where a call of the shell ran.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Environment<'a> {
    #[serde(borrow)]
    container_id: Raw<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Audio<'a> {
    #[serde(borrow)]
    data: Raw<'a>,
    #[serde(borrow)]
    format: Raw<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Attachment<'a> {
    #[serde(borrow)]
    file_data: Raw<'a>,
    #[serde(borrow)]
    file_id: Raw<'a>,
    #[serde(borrow)]
    file_url: Raw<'a>,
    #[serde(borrow)]
    filename: Raw<'a>,
}

/// An image's address: a string in responses, an object in chat.
#[derive(Default)]
enum Link<'a> {
    #[default]
    Absent,
    Text(Raw<'a>),
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

impl<'de: 'a, 'a> Deserialize<'de> for Link<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Raw::deserialize(deserializer)?;
        Ok(match raw.value() {
            Some(text) if text.starts_with('"') => Self::Text(raw),
            Some(text) if text.starts_with('{') => {
                Self::Object(serde_json::from_str(text).map_err(serde::de::Error::custom)?)
            }
            Some(_) | None => Self::Absent,
        })
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content<'de>;

    scalars_default!();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("text, or a list of parts")
    }

    fn visit_str<E>(self, _: &str) -> Result<Content<'de>, E> {
        Ok(Content::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Content<'de>, A::Error> {
        let mut sum = Content::default();
        while let Some(part) = seq.next_element::<Content<'de>>()? {
            sum.merge(part);
        }
        Ok(sum)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Content<'de>, A::Error> {
        Node::deserialize(MapAccessDeserializer::new(map)).map(Content::of)
    }
}

//! The parts of a prompt: text, pictures, audio, documents, and what upstream adds.

use serde_json::{Map, Value};

use super::{ANSWER_TOKENS, MESSAGE_TOKENS};
use crate::prices::{Model, find};
use crate::text::Text;
use crate::world::{Endpoint, File, Kept, World};
use crate::{base64, image, media};

/// Pixels of a rendered page: A4 at 150 dots per inch.
const PAGE: (u64, u64) = (1_240, 1_754);

pub(super) struct Parts<'a> {
    world: &'a World,
    model: &'static Model,
    pub(super) text: Text,
    pub(super) exact: u64,
    pub(super) pictures: Vec<u64>,
    pub(super) pictures_named: Vec<u64>,
    pub(super) audio: u64,
    pub(super) documents: u64,
    pub(super) kept: u64,
    /// Size, where it is known, and detail of each picture, those of kept context first.
    pub(super) sizes: Vec<(Option<(u64, u64)>, String)>,
    pub(super) prompts: u64,
    /// Whether a cache breakpoint of a part asks for twelve hours.
    pub(super) ttl_12h: bool,
    pub(super) is_possible: bool,
}

impl<'a> Parts<'a> {
    pub(super) fn new(world: &'a World, model: &'static Model) -> Self {
        Self {
            world,
            model,
            text: Text::default(),
            exact: 0,
            pictures: Vec::new(),
            pictures_named: Vec::new(),
            audio: 0,
            documents: 0,
            kept: 0,
            sizes: Vec::new(),
            prompts: 1,
            ttl_12h: false,
            is_possible: true,
        }
    }

    pub(super) fn read(&mut self, endpoint: Endpoint, body: &Value) {
        match endpoint {
            Endpoint::Chat => self.chat(body),
            Endpoint::Completions => {
                self.prompts(&body["prompt"], self.model.input_max.unwrap_or(super::INPUT_MAX));
                self.words(&body["suffix"]);
            }
            Endpoint::Responses | Endpoint::Compact => self.responses(body),
            Endpoint::Embeddings => self.prompts(&body["input"], self.model.input_max.unwrap_or(8_192)),
        }
    }

    pub(super) fn picture(&self, size: (u64, u64), detail: &str) -> u64 {
        image::tokens(self.model, size, detail)
    }

    fn chat(&mut self, body: &Value) {
        self.exact += ANSWER_TOKENS;
        for message in body["messages"].as_array().into_iter().flatten() {
            self.exact += MESSAGE_TOKENS;
            let Some(members) = message.as_object() else { continue };
            for (key, member) in members {
                match (key.as_str(), member) {
                    ("role", _) => {}
                    ("content", _) => self.content(member),
                    ("audio", _) => self.referred(&member["id"]),
                    _ => self.text.add(Text::of_json(member)),
                }
            }
        }
        for schema in ["tools", "functions", "response_format", "tool_choice"] {
            self.schema(&body[schema]);
        }
    }

    fn responses(&mut self, body: &Value) {
        self.exact += ANSWER_TOKENS;
        self.words(&body["instructions"]);
        for schema in ["tools", "tool_choice", "text"] {
            self.schema(&body[schema]);
        }
        match &body["input"] {
            Value::String(text) => {
                self.exact += MESSAGE_TOKENS;
                self.text.add(Text::of(text));
            }
            Value::Array(items) => items.iter().for_each(|item| self.item(item)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {}
        }
        for variable in body["prompt"]["variables"].as_object().into_iter().flat_map(Map::values) {
            self.content(variable);
            if variable.is_object() {
                self.part(variable);
            }
        }
        let context = |id: &str, of: &std::collections::BTreeMap<String, u64>| of.get(id).copied();
        if let Some(id) = body["previous_response_id"].as_str() {
            match self.world.kept.get(id) {
                Some(kept) => self.reread(kept),
                None => self.known(context(id, &self.world.responses)),
            }
        }
        let conversation = body["conversation"].as_str().or_else(|| body["conversation"]["id"].as_str());
        if let Some(id) = conversation {
            self.known(context(id, &self.world.conversations));
        }
    }

    /// A response that was made here. Its own model reads what it read; another one cuts
    /// each picture by its own rule.
    fn reread(&mut self, kept: &Kept) {
        self.kept += kept.tokens;
        self.sizes.extend(kept.pictures.iter().cloned());
        let Some(made_by) = find(&kept.model).filter(|model| model.name != self.model.name) else { return };
        for (size, detail) in &kept.pictures {
            let named_max = self.world.assumed.picture_tokens_max;
            let tokens = |model: &Model| {
                let named = || image::most(model, detail).unwrap_or(u64::MAX).min(named_max);
                size.map_or_else(named, |size| image::tokens(model, size, detail))
            };
            self.kept = self.kept.saturating_add(tokens(self.model).saturating_sub(tokens(made_by)));
        }
    }

    fn item(&mut self, item: &Value) {
        self.exact += MESSAGE_TOKENS;
        match item["type"].as_str() {
            Some("item_reference") => return self.referred(&item["id"]),
            Some("image_generation_call") => return self.pixels(item["result"].as_str(), "auto"),
            _ => {}
        }
        let Some(members) = item.as_object() else { return };
        for (key, member) in members {
            match key.as_str() {
                "type" | "role" | "id" | "status" => {}
                "content" | "output" => {
                    self.content(member);
                    if member.is_object() {
                        self.part(member);
                    }
                }
                _ => self.text.add(Text::of_json(member)),
            }
        }
    }

    /// Content: a text, or parts.
    fn content(&mut self, content: &Value) {
        match content {
            Value::String(text) => self.text.add(Text::of(text)),
            Value::Array(parts) => parts.iter().for_each(|part| self.part(part)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {}
        }
    }

    fn part(&mut self, part: &Value) {
        let detail = |value: &Value| value.as_str().unwrap_or("auto").to_owned();
        self.ttl_12h |= part["prompt_cache_breakpoint"]["ttl"] == "12h";
        match part["type"].as_str() {
            Some("image_url") => {
                let (url, detail) = (&part["image_url"]["url"], detail(&part["image_url"]["detail"]));
                self.named_or_inline(url.as_str(), None, &detail);
            }
            Some("input_image" | "computer_screenshot") => {
                let (url, id) = (part["image_url"].as_str(), part["file_id"].as_str());
                self.named_or_inline(url, id, &detail(&part["detail"]));
            }
            Some("input_audio") => {
                let data = part["input_audio"]["data"].as_str().map(base64::decode);
                let is_mp3 = part["input_audio"]["format"] == "mp3";
                let played_ms = data.and_then(|file| media::sound_ms(&file, is_mp3)).unwrap_or(0);
                self.audio = self.audio.saturating_add(played_ms.div_ceil(100));
            }
            Some("file") => self.file(&part["file"]),
            Some("input_file") => self.file(part),
            _ => self.text.add(Text::of_json(part)),
        }
    }

    fn named_or_inline(&mut self, url: Option<&str>, id: Option<&str>, detail: &str) {
        if let Some(id) = id {
            self.is_possible &= matches!(self.world.files.get(id), Some(File::Picture { .. }));
            self.named(detail);
        } else if url.is_some_and(|url| url.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("data:")))
        {
            let data = url.and_then(|url| url.split_once(',')).map(|(_, data)| data);
            self.pixels(data, detail);
        } else if url.is_some() {
            self.named(detail);
        }
    }

    /// A picture of unknown size: what the model makes of the largest, or what is assumed.
    fn named(&mut self, detail: &str) {
        let most = image::most(self.model, detail).unwrap_or(u64::MAX);
        self.pictures_named.push(most.min(self.world.assumed.picture_tokens_max));
        self.sizes.push((None, detail.to_owned()));
    }

    /// A picture that is in the request; one that can't be read is rejected upstream.
    fn pixels(&mut self, data: Option<&str>, detail: &str) {
        let size = data.and_then(|data| media::pixels(&base64::decode(data)));
        if let Some(size) = size {
            self.pictures.push(self.picture(size, detail));
            self.sizes.push((Some(size), detail.to_owned()));
        }
    }

    fn file(&mut self, file: &Value) {
        if let Some(data) = file["file_data"].as_str() {
            let (kind, data) = data.split_once(";base64,").unwrap_or(("", data));
            let bytes = base64::decode(data);
            let length = u64::try_from(bytes.len()).unwrap_or(0);
            let (pages, shown) = media::pdf(&bytes).unwrap_or((0, length));
            // What is sent as a text may be read as one, whatever its bytes are.
            let name = file["filename"].as_str().unwrap_or_default();
            let is_text = kind.contains("text/") || name.rsplit('.').next() == Some("txt");
            let text = if is_text { length } else { 0 };
            let page = self.picture(PAGE, "high");
            let read = (pages.saturating_mul(page) + shown).max(text);
            self.documents = self.documents.saturating_add(read);
        } else if let Some(id) = file["file_id"].as_str() {
            match self.world.files.get(id) {
                Some(File::Document { tokens }) => self.documents += tokens,
                Some(File::Picture { .. }) | None => self.is_possible = false,
            }
        } else if file["file_url"].is_string() {
            self.documents += self.model.input_max.unwrap_or(super::INPUT_MAX);
        }
    }

    fn referred(&mut self, id: &Value) {
        if let Some(id) = id.as_str() {
            self.known(self.world.items.get(id).copied());
        }
    }

    fn known(&mut self, tokens: Option<u64>) {
        self.is_possible &= tokens.is_some();
        self.kept += tokens.unwrap_or(0);
    }

    fn words(&mut self, text: &Value) {
        match text {
            Value::String(text) => self.text.add(Text::of(text)),
            Value::Array(items) => items.iter().for_each(|item| self.item(item)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {}
        }
    }

    fn schema(&mut self, schema: &Value) {
        if !schema.is_null() {
            self.text.add(Text::of_json(schema));
        }
    }

    /// Prompts of /completions and inputs of /embeddings: texts or token arrays, one or several.
    fn prompts(&mut self, value: &Value, each_max: u64) {
        let cut = |text: Text| Text { bytes: text.bytes.min(each_max), pieces: text.pieces.min(each_max) };
        let length = |items: &[Value]| u64::try_from(items.len()).unwrap_or(u64::MAX);
        match value {
            Value::String(text) => self.text.add(cut(Text::of(text))),
            Value::Array(items) if items.first().is_some_and(Value::is_number) => {
                self.exact += length(items).min(each_max);
            }
            Value::Array(items) => {
                self.prompts = length(items).max(1);
                for item in items {
                    match item {
                        Value::String(text) => self.text.add(cut(Text::of(text))),
                        Value::Array(tokens) => self.exact += length(tokens).min(each_max),
                        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {}
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {}
        }
    }
}

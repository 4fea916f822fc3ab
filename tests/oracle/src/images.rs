//! Image requests, what upstream makes of them, and what OpenAI charges for that.
//!
//! Tokens of an image by quality and size are those of OpenAI's guide on image generation
//! (`gpt-image-1`); a picture that is read at high fidelity is 4,160 to 6,240 tokens in
//! addition to tiles of 129 and a base of 65, six tiles at the most.

use serde_json::{Value, json};

use crate::chance::Chance;
use crate::prices::{Model, Place, Tier, find};

/// Models that make images, and those that write SVG.
const PAINTERS: [&str; 5] =
    ["gpt-image-1.5", "gpt-image-1-mini", "gpt-image-2", "gpt-image-2.5-flare", "gpt-image-2-2026-04-21"];
const AUTHORS: [&str; 3] = ["gpt-6-luna", "gpt-5-mini", "gpt-6.1-sol"];
/// Sizes, and the tokens of an image of low, medium and high quality.
const SIZES: [(&str, [u64; 3]); 3] = [
    ("1024x1024", [272, 1_056, 4_160]),
    ("1024x1536", [408, 1_584, 6_240]),
    ("1536x1024", [400, 1_568, 6_208]),
];
/// Tokens of a preview.
const PREVIEW_TOKENS: u64 = 100;
/// The most tokens of a picture that is read.
const PICTURE_TOKENS_MAX: u64 = 6_240 + 65 + 6 * 129;
const BOUNDARY: &str = "0aFb7";

/// What a request asks for.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names are those of the fields")]
pub struct Drawing {
    pub model: &'static Model,
    pub prompt: String,
    pub n: Option<u64>,
    pub quality: Option<&'static str>,
    pub size: Option<&'static str>,
    pub partial_images: u64,
    pub stream: bool,
    /// Pictures to be edited.
    pub pictures: usize,
    pub has_mask: bool,
    /// The model that writes it as SVG.
    pub svg: Option<&'static Model>,
    /// Whether it is sent as a form.
    pub is_form: bool,
}

/// What upstream used.
#[derive(Clone, Debug)]
pub struct Used {
    /// Tokens of text and of pictures that were read, and of all images that were made: of
    /// each image, since each event of a stream has its own.
    pub images: Vec<[u64; 3]>,
    /// Tokens that the author of an SVG read and wrote, and how much of that was reasoning.
    pub svg: Option<[u64; 3]>,
}

fn model(name: &str) -> &'static Model {
    find(name).expect("a model of the catalogue")
}

impl Drawing {
    /// Draws a request.
    pub fn draw(chance: &mut Chance) -> Self {
        let is_edit = chance.percent(50);
        let svg = chance.percent(15).then(|| model(chance.one(&AUTHORS)));
        let stream = svg.is_none() && chance.percent(30);
        let words = usize::try_from(chance.magnitude(400)).expect("few words");
        Self {
            model: model(chance.one(&PAINTERS)),
            prompt: "a ünïcorn ".repeat(words + 1),
            n: chance.percent(60).then(|| if svg.is_some() { 1 } else { chance.within(1, 10) }),
            quality: chance.percent(80).then(|| chance.one(&["low", "medium", "high", "auto"])),
            size: chance.percent(80).then(|| chance.one(&["1024x1024", "1024x1536", "1536x1024", "auto"])),
            partial_images: if stream { chance.within(0, 3) } else { 0 },
            stream,
            pictures: if is_edit { chance.index(5) + 1 } else { 0 },
            has_mask: is_edit && chance.percent(30),
            svg,
            is_form: is_edit && chance.percent(60),
        }
    }

    /// Where it is sent.
    pub const fn path(&self) -> &'static str {
        if self.pictures > 0 { "/v1/images/edits" } else { "/v1/images/generations" }
    }

    /// Its content type and its body.
    pub fn body(&self) -> (String, Vec<u8>) {
        if !self.is_form {
            return ("application/json".to_owned(), self.json().to_string().into_bytes());
        }
        let mut body = String::new();
        let mut part = |name: &str, more: &str, data: &str| {
            body += &format!(
                "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"{more}\r\n\r\n{data}\r\n"
            );
        };
        let file = "; filename=\"p.png\"\r\nContent-Type: image/png";
        let picture = "\u{1}PNG\r\n".repeat(500);
        let name = if self.pictures == 1 { "image" } else { "image[]" };
        for _ in 0..self.pictures {
            part(name, file, &picture);
        }
        if self.has_mask {
            part("mask", file, &picture);
        }
        for (name, value) in self.json().as_object().into_iter().flatten() {
            match value {
                Value::Array(_) => {}
                Value::Object(members) => members.iter().for_each(|(member, value)| {
                    part(&format!("{name}[{member}]"), "", value.as_str().unwrap_or_default());
                }),
                Value::String(text) => part(name, "", text),
                other => part(name, "", &other.to_string()),
            }
        }
        body += &format!("--{BOUNDARY}--\r\n");
        (format!("multipart/form-data; boundary={BOUNDARY}"), body.into_bytes())
    }

    fn json(&self) -> Value {
        let mut body = json!({ "model": self.model.name, "prompt": self.prompt });
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                body[name] = value;
            }
        };
        set("n", self.n.map(Value::from));
        set("quality", self.quality.map(Value::from));
        set("size", self.size.map(Value::from));
        set("stream", self.stream.then_some(Value::Bool(true)));
        set("partial_images", (self.partial_images > 0).then(|| self.partial_images.into()));
        set("output_format", self.svg.map(|_| "svg".into()));
        set("svg", self.svg.map(|model| json!({ "model": model.name })));
        if !self.is_form && self.pictures > 0 {
            let picture = json!({ "image_url": format!("data:image/png;base64,{}", "iVBO".repeat(700)) });
            set("images", Some(vec![picture.clone(); self.pictures].into()));
            set("mask", self.has_mask.then_some(picture));
        }
        body
    }

    fn count(&self) -> u64 {
        self.n.unwrap_or(1)
    }

    /// The most tokens of one image with its previews.
    fn image_tokens_max(&self) -> u64 {
        let of_quality = |tokens: [u64; 3]| match self.quality {
            Some("low") => tokens[0],
            Some("medium") => tokens[1],
            _ => tokens[2],
        };
        let sizes = SIZES
            .into_iter()
            .filter(|(name, _)| self.size.is_none_or(|size| size == "auto" || size == *name));
        let most = sizes.map(|(_, tokens)| of_quality(tokens)).max().unwrap_or(0);
        most + PREVIEW_TOKENS * self.partial_images
    }

    fn pictures_read(&self) -> u64 {
        u64::try_from(self.pictures).expect("few") + u64::from(self.has_mask)
    }

    /// The most that it can cost, in picodollars: each byte of the prompt a token.
    pub fn maximum_pico(&self, place: Place<'_>) -> u128 {
        let rates = self.model.rates(Tier::Standard, false, place);
        let text = u128::try_from(self.prompt.len()).expect("short");
        let read = u128::from(self.pictures_read() * PICTURE_TOKENS_MAX);
        let made = u128::from(self.image_tokens_max() * self.count());
        let author = self.svg.map_or(0, |model| {
            let rates = model.rates(Tier::Standard, false, place);
            let read = text + u128::from((self.pictures_read() + 1) * 1_000);
            read * rates.input + u128::from(model.output_max.unwrap_or(0)) * rates.output
        });
        text * rates.input + read * rates.image_in + made * rates.image_out.max(rates.output) + author
    }

    /// Draws what upstream uses.
    pub fn used(&self, chance: &mut Chance) -> Used {
        let bytes = u64::try_from(self.prompt.len()).expect("short");
        // Of a stream each event reports its own; together they read the prompt once at the least.
        let events = if self.stream { self.count() } else { 1 };
        let image = |chance: &mut Chance| {
            let made = if self.stream { 1 } else { self.count() };
            let text = chance.within(1, (bytes / events).max(1));
            let read = if self.pictures_read() == 0 {
                0
            } else {
                chance.within(1, self.pictures_read() * PICTURE_TOKENS_MAX / events)
            };
            [text, read, chance.within(1, self.image_tokens_max()) * made]
        };
        let images = (0..events).map(|_| image(chance)).collect();
        let svg = self.svg.map(|model| {
            let written = chance.within(10, model.output_max.unwrap_or(1_000));
            [chance.within(1, bytes), written, chance.within(0, written)]
        });
        Used { images, svg }
    }

    /// What OpenAI charges for it, in picodollars.
    pub fn charge_pico(&self, used: &Used, place: Place<'_>) -> u128 {
        let rates = self.model.rates(Tier::Standard, false, place);
        let images: u128 = used
            .images
            .iter()
            .map(|[text, read, made]| {
                u128::from(*text) * rates.input
                    + u128::from(*read) * rates.image_in
                    + u128::from(*made) * rates.image_out
            })
            .sum();
        let svg = used.svg.zip(self.svg).map_or(0, |([read, written, _], model)| {
            let rates = model.rates(Tier::Standard, false, place);
            u128::from(read) * rates.input + u128::from(written) * rates.output
        });
        images + svg
    }

    /// The answer: its content type, and its bytes.
    pub fn answer(&self, used: &Used, chance: &mut Chance) -> (&'static str, String) {
        let has_details = chance.percent(70);
        let usage = |[text, read, made]: [u64; 3]| {
            let mut usage = json!({
                "total_tokens": text + read + made, "input_tokens": text + read, "output_tokens": made,
                "input_tokens_details": { "text_tokens": text, "image_tokens": read },
            });
            if has_details {
                usage["output_tokens_details"] = json!({ "image_tokens": made, "text_tokens": 0 });
            }
            usage
        };
        let image = "iVBORw0K".repeat(chance.index(2_000));
        if !self.stream {
            let data = vec![json!({ "b64_json": image }); usize::try_from(self.count()).expect("few")];
            let mut answer = json!({ "created": 1, "data": data, "usage": usage(used.images[0]) });
            if let Some(([read, written, reasoned], model)) = used.svg.zip(self.svg) {
                answer["svg_usage"] = json!({
                    "model": model.name, "input_tokens": read, "output_tokens": written,
                    "reasoning_tokens": reasoned, "total_tokens": read + written,
                });
            }
            return ("application/json", answer.to_string());
        }
        let of = if self.pictures > 0 { "image_edit" } else { "image_generation" };
        let mut events = String::new();
        for tokens in &used.images {
            for index in 0..self.partial_images {
                let event = json!({ "type": format!("{of}.partial_image"), "b64_json": image, "partial_image_index": index });
                events += &format!("event: {of}.partial_image\ndata: {event}\n\n");
            }
            let event =
                json!({ "type": format!("{of}.completed"), "b64_json": image, "usage": usage(*tokens) });
            events += &format!("event: {of}.completed\ndata: {event}\n\n");
        }
        ("text/event-stream", events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_charged_as_the_price_list_says() {
        let drawing = Drawing {
            model: model("gpt-image-2"),
            prompt: "a".to_owned(),
            n: Some(2),
            quality: Some("low"),
            size: Some("1024x1024"),
            partial_images: 0,
            stream: false,
            pictures: 0,
            has_mask: false,
            svg: None,
            is_form: false,
        };
        let place = Place { date: "2026-11-28", is_regional: false };
        let used = Used { images: vec![[10, 100, 544]], svg: None };
        // 10 at 5 dollars a million, 100 at 8, 544 at 30.
        assert_eq!(drawing.charge_pico(&used, place), 50_000_000 + 800_000_000 + 16_320_000_000);
        assert_eq!(drawing.maximum_pico(place), 5_000_000 + 544 * 30_000_000);
    }
}

//! The fake's images: one pixel each, with usage by quality.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::{Either, Full};
use serde_json::{Map, Value, json};

use crate::fake_openai::{Answer, Fake, Served, answer, error, identified, number};
use crate::protocol::multipart;

/// A PNG of one pixel, in base64.
const PIXEL: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
/// Tokens of an image that is read, and of a preview.
const IMAGE_INPUT_TOKENS: u64 = 100;
const PARTIAL_TOKENS: u64 = 100;

/// The paths of image requests.
pub(super) const PATHS: [&str; 2] = ["/v1/images/generations", "/v1/images/edits"];

impl Fake {
    /// Makes images.
    pub(super) fn draw(&self, is_edit: bool, headers: &HeaderMap, body: &Bytes) -> Response<Answer> {
        let Some((fields, sent)) = fields(headers, body) else {
            return error(StatusCode::BAD_REQUEST, "We could not read the body of your request.", None);
        };
        let images = Images { fields: &fields, sent, is_edit, headers };
        self.note(fields["model"].as_str().unwrap_or_default(), images.served());
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        if fields["stream"] != true {
            return identified(answer(StatusCode::OK, &images.object()), id);
        }
        let mut response = Response::new(Either::Left(Full::new(Bytes::from(images.events()))));
        let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        identified(response, id)
    }
}

/// The fields of a request, and how many images it sends.
pub(super) fn fields(headers: &HeaderMap, body: &[u8]) -> Option<(Value, u64)> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let Some(boundary) = multipart::boundary(kind) else {
        let fields: Value = serde_json::from_slice(body).ok()?;
        let list = |name: &str| fields[name].as_array().map_or(0, Vec::len);
        let sent = list("images") + list("image") + usize::from(fields["mask"].is_object());
        return Some((fields, u64::try_from(sent).ok()?));
    };
    let (mut fields, mut sent) = (Map::new(), 0);
    for part in multipart::parts(body, boundary.ok()?).ok()? {
        let text = String::from_utf8_lossy(part.data);
        if part.file_name.is_some() {
            sent += 1;
            continue;
        }
        let (name, value) = match part.name {
            "n" | "partial_images" => (part.name, json!(text.parse::<u64>().ok()?)),
            "stream" => (part.name, json!(text == "true")),
            "svg[model]" => ("svg", json!({ "model": text })),
            name => (name, json!(text)),
        };
        fields.insert(name.to_owned(), value);
    }
    Some((Value::Object(fields), sent))
}

/// Images that are being made.
pub(super) struct Images<'a> {
    pub(super) fields: &'a Value,
    pub(super) sent: u64,
    pub(super) is_edit: bool,
    pub(super) headers: &'a HeaderMap,
}

impl Images<'_> {
    fn count(&self) -> u64 {
        self.fields["n"].as_u64().unwrap_or(1)
    }

    /// Tokens of one image with its previews.
    fn output_tokens(&self) -> u64 {
        let quality = match self.fields["quality"].as_str() {
            Some("low") => 272,
            Some("high") => 4_160,
            _ => 1_056,
        };
        quality + PARTIAL_TOKENS * self.previews()
    }

    fn previews(&self) -> u64 {
        self.fields["partial_images"].as_u64().unwrap_or(0)
    }

    /// Usage of so many images, in OpenAI's shape; null if none is to be given.
    fn usage(&self, images: u64) -> Value {
        if self.headers.contains_key("x-fake-no-usage") {
            return Value::Null;
        }
        let text =
            u64::try_from(self.fields["prompt"].as_str().unwrap_or_default().len()).unwrap_or(0).div_ceil(4);
        let (image, output) = (IMAGE_INPUT_TOKENS * self.sent, self.output_tokens() * images);
        json!({
            "input_tokens": text + image,
            "input_tokens_details": { "text_tokens": text, "image_tokens": image },
            "output_tokens": output,
            "output_tokens_details": { "image_tokens": output, "text_tokens": 0 },
            "total_tokens": text + image + output,
        })
    }

    fn base64(&self) -> String {
        let bytes = number(self.headers, "x-fake-image-bytes").and_then(|bytes| usize::try_from(bytes).ok());
        bytes.map_or_else(|| PIXEL.to_owned(), |bytes| "A".repeat(bytes.div_ceil(3) * 4))
    }

    /// The whole answer, not streamed.
    pub(super) fn object(&self) -> Value {
        let images: Vec<Value> = (0..self.count()).map(|_| json!({ "b64_json": self.base64() })).collect();
        let mut answer = json!({
            "created": 1_795_000_000, "background": "opaque", "output_format": "png", "quality": "medium",
            "size": "1024x1024", "data": images, "usage": self.usage(self.count()),
        });
        if let Some(model) = self.fields["svg"]["model"].as_str() {
            answer["svg_usage"] = json!({
                "model": model, "input_tokens": 50, "output_tokens": 700, "reasoning_tokens": 300, "total_tokens": 750,
            });
        }
        answer
    }

    /// The events of a stream: of each image its previews, then itself with its usage.
    pub(super) fn events(&self) -> String {
        let of = if self.is_edit { "image_edit" } else { "image_generation" };
        let event = |kind: &str, mut event: Value| {
            event["type"] = json!(format!("{of}.{kind}"));
            format!("event: {of}.{kind}\ndata: {event}\n\n")
        };
        let mut events = String::new();
        for _ in 0..self.count() {
            for preview in 0..self.previews() {
                let partial = json!({ "b64_json": self.base64(), "partial_image_index": preview });
                events += &event("partial_image", partial);
            }
            let complete = json!({
                "b64_json": self.base64(), "created_at": 1_795_000_000, "size": "1024x1024", "quality": "medium",
                "background": "opaque", "output_format": "png", "usage": self.usage(1),
            });
            events += &event("completed", complete);
        }
        events
    }

    /// What is counted as served.
    pub(super) fn served(&self) -> Served {
        let usage = self.usage(self.count());
        let tokens = |name: &str| usage[name].as_u64().unwrap_or(0);
        Served {
            requests: 1,
            prompt_tokens: tokens("input_tokens"),
            cached_tokens: 0,
            completion_tokens: tokens("output_tokens"),
        }
    }
}

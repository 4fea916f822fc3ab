//! The bodies of image requests, as JSON or as a form.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};

use super::form::{self, Form, FormRules};
use super::image_fields::ImageFields;
use super::object_ids::object_ids;
use super::{Invalid, Request, choices, count, fields, flag, labels, model, name, string, text};
use crate::domain::demand::{Image, ImageDemand, Media};
use crate::domain::{Class, Demand};
use crate::protocol::openai::json::{Loose, Object, Raw};

/// The most images that one request makes, and the most that it takes: 16, a mask and a
/// markup.
const MADE_MAX: u64 = 10;
const TAKEN_MAX: usize = 18;
/// The most previews of an image.
const PREVIEWS_MAX: u64 = 3;

const FORM: FormRules = FormRules {
    numbers: &["n", "partial_images", "frame_count"],
    flags: &["stream"],
    files: &["image", "mask", "markup"],
};

/// Everything in such a body that decides its cost.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Body<'a> {
    #[serde(borrow)]
    model: Raw<'a>,
    #[serde(borrow)]
    stream: Raw<'a>,
    #[serde(borrow)]
    n: Raw<'a>,
    #[serde(borrow)]
    quality: Raw<'a>,
    #[serde(borrow)]
    size: Raw<'a>,
    #[serde(borrow)]
    output_format: Raw<'a>,
    #[serde(borrow)]
    frame_count: Raw<'a>,
    #[serde(borrow)]
    partial_images: Raw<'a>,
    #[serde(borrow)]
    svg: Raw<'a>,
    #[serde(borrow)]
    image: Raw<'a>,
    #[serde(borrow)]
    images: Raw<'a>,
    #[serde(borrow)]
    mask: Raw<'a>,
    #[serde(borrow)]
    markup: Raw<'a>,
    #[serde(borrow)]
    safety_identifier: Raw<'a>,
    #[serde(borrow)]
    user: Raw<'a>,
}

/// `svg`: the model that writes the image as SVG.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Svg<'a> {
    #[serde(borrow)]
    model: Raw<'a>,
}

/// Reads a body in JSON.
pub(in crate::protocol::openai) fn read(body: &[u8]) -> Result<Request, Invalid> {
    let text = text(body)?;
    let mut demand = demand(text, 0)?;
    demand.references = object_ids(body)?;
    Ok(Request::unedited(demand))
}

/// Reads a form.
pub(in crate::protocol::openai) fn read_form(body: &[u8], boundary: &str) -> Result<Request, Invalid> {
    let Form { json, files } = form::read(&FORM, body, boundary)?;
    let mut demand = demand(&json, files.len())?;
    demand.references = object_ids(json.as_bytes())?;
    Ok(Request::unedited(demand))
}

/// The demand of the fields in `text`, with so many images beside it.
fn demand(text: &str, files: usize) -> Result<Demand, Invalid> {
    let body: Body<'_> = fields(text)?;
    let made = choices(body.n, "n", 1)?;
    if made > MADE_MAX {
        return Err(Invalid::field("n", "it must be at most 10"));
    }
    let pictures = [body.image, body.images, body.mask, body.markup];
    let taken = pictures.into_iter().map(count_of).sum::<usize>().saturating_add(files);
    if taken > TAKEN_MAX {
        return Err(Invalid::field("image", "there must be at most 16 images"));
    }
    let inline: usize = pictures.into_iter().filter_map(Raw::value).map(str::len).sum();
    let end_user = name(body.safety_identifier, "safety_identifier")?.filter(|name| !name.is_empty());
    Ok(Demand {
        model: model(body.model, false)?,
        stream: flag(body.stream, "stream")?,
        body_bytes: u64::try_from(text.len().saturating_sub(inline)).unwrap_or(u64::MAX),
        media: Media { images: vec![Image::default(); taken], ..Media::default() },
        choices: made,
        svg_model: svg_model(&body)?,
        drawing: Some(drawing(&body)?),
        units: [(Class::Images, made)].into(),
        end_user: end_user.or(name(body.user, "user")?),
        labels: labels::of_user(body.safety_identifier, body.user),
        ..Demand::default()
    })
}

/// What each image is to be. A value that upstream could read otherwise is refused.
fn drawing(body: &Body<'_>) -> Result<ImageDemand, Invalid> {
    let previews = count(body.partial_images, "partial_images")?;
    if previews.is_some_and(|previews| previews > PREVIEWS_MAX) {
        return Err(Invalid::field("partial_images", "it must be at most 3"));
    }
    count(body.frame_count, "frame_count")?;
    if let Some(size) = string(body.size, "size")?.filter(|size| *size != "auto") {
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !size.split_once('x').is_some_and(|(width, height)| is_number(width) && is_number(height)) {
            return Err(Invalid::field("size", "it must be auto, or a width and a height such as 1536x1024"));
        }
    }
    let format = string(body.output_format, "output_format")?;
    if format.is_some_and(|format| !["png", "jpeg", "webp", "gif", "svg"].contains(&&*format)) {
        return Err(Invalid::field("output_format", "it must be png, jpeg, webp, gif or svg"));
    }
    Ok(body.fields().demand())
}

impl<'a> Body<'a> {
    fn fields(&self) -> ImageFields<'a> {
        ImageFields {
            quality: self.quality,
            size: self.size,
            output_format: self.output_format,
            frame_count: self.frame_count,
            partial_images: self.partial_images,
        }
    }
}

/// How many images a field may hold: one, or those of a list; two for each object that names
/// a URL and a file. A longer list than there may be is not read to its end.
fn count_of(raw: Raw<'_>) -> usize {
    let Some(text) = raw.value() else { return 0 };
    if !text.starts_with('[') {
        return named(raw);
    }
    let read = serde_json::from_str::<Pictures>(text);
    // What can't be read is more than may be.
    read.map_or(TAKEN_MAX + 1, |Pictures(count)| count)
}

/// How many images a value may name.
fn named(raw: Raw<'_>) -> usize {
    let text = raw.value().unwrap_or_default();
    let read = serde_json::from_str::<Loose<Picture<'_>>>(text);
    let is_both =
        |picture: Picture<'_>| picture.image_url.value().is_some() && picture.file_id.value().is_some();
    if read.is_ok_and(|Loose(picture)| is_both(picture)) { 2 } else { 1 }
}

/// An image by its URL or its file.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Picture<'a> {
    #[serde(borrow)]
    image_url: Raw<'a>,
    #[serde(borrow)]
    file_id: Raw<'a>,
}

/// How many images a list names.
struct Pictures(usize);

impl<'de> Deserialize<'de> for Pictures {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(PicturesVisitor)
    }
}

struct PicturesVisitor;

impl<'de> Visitor<'de> for PicturesVisitor {
    type Value = Pictures;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of images")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Pictures, A::Error> {
        let mut count = 0;
        while let Some(raw) = seq.next_element::<Raw<'de>>()? {
            count += named(raw);
            if count > TAKEN_MAX {
                return Err(A::Error::custom("too many images"));
            }
        }
        Ok(Pictures(count))
    }
}

/// The model that writes SVG. Its tokens are billed at its own rates, so it must be known.
fn svg_model(body: &Body<'_>) -> Result<Option<String>, Invalid> {
    let is_svg = body.output_format.string().as_deref() == Some("svg");
    let Some(text) = body.svg.value() else {
        if is_svg {
            let message =
                "The model that writes an SVG decides its price: name it in `svg.model`.".to_owned();
            return Err(Invalid::not_allowed("svg", message));
        }
        return Ok(None);
    };
    let wrong = || Invalid::field("svg", "it must be an object with a model");
    let Object(Svg { model }) = serde_json::from_str::<Object<Svg<'_>>>(text).map_err(|_| wrong())?;
    name(model, "svg")?.filter(|model| !model.trim().is_empty()).map(Some).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::demand::ImageQuality;

    fn made(body: &str) -> Result<Demand, String> {
        read(body.as_bytes()).map(|request| *request.demand).map_err(|invalid| invalid.message)
    }

    #[test]
    fn what_an_image_costs_is_read_from_json() {
        let body = r#"{"model":"gpt-image-2","prompt":"a cat","n":3,"quality":"low","size":"1536x1024","stream":true,
            "partial_images":2,"user":"u","safety_identifier":""}"#;
        let demand = made(body).unwrap();
        let drawing = ImageDemand {
            quality: ImageQuality::Low,
            pixels: Some(1_536 * 1_024),
            partial_images: 2,
            ..ImageDemand::default()
        };
        assert_eq!(demand.drawing, Some(drawing));
        assert_eq!((demand.choices, demand.units[Class::Images], demand.stream), (3, 3, true));
        assert_eq!((demand.end_user.as_deref(), demand.media.images.len()), (Some("u"), 0));
        assert_eq!(demand.body_bytes, 161, "the whole body may be text");
        assert_eq!(made(r#"{"model":"m"}"#).unwrap().drawing.unwrap().quality, ImageQuality::High);
        let max = made(r#"{"model":"m","quality":"max","output_format":"gif"}"#).unwrap().drawing.unwrap();
        assert_eq!((max.quality, max.extra_frames), (ImageQuality::Other, 8));
    }

    #[test]
    fn images_that_are_edited_are_counted_and_are_no_text() {
        let body = format!(
            r#"{{"model":"m","images":[{{"image_url":"data:image/png;base64,{}"}},{{"file_id":"file-1"}}],
                "mask":{{"file_id":"file-2"}}}}"#,
            "A".repeat(10_000)
        );
        let demand = made(&body).unwrap();
        assert_eq!(demand.media.images.len(), 3);
        assert!(demand.body_bytes < 100, "{}", demand.body_bytes);
        let ids: Vec<&str> = demand.references.iter().map(|of| &*of.id).collect();
        assert_eq!(ids, ["file-1", "file-2"]);
        let both = r#"{"model":"m","images":[{"image_url":"https://x/1","file_id":"file-1"}]}"#;
        assert_eq!(made(both).unwrap().media.images.len(), 2);
        let many = format!(r#"{{"model":"m","image":[{}"x"]}}"#, r#""x","#.repeat(TAKEN_MAX));
        assert!(made(&many).unwrap_err().contains("at most 16"));
    }

    #[test]
    fn a_form_asks_for_the_same_as_json() {
        let part = |head: &str, data: &str| {
            format!("--b\r\nContent-Disposition: form-data; {head}\r\n\r\n{data}\r\n")
        };
        let form = [
            part("name=\"model\"", "gpt-image-2"),
            part("name=\"prompt\"", "a cat"),
            part("name=\"n\"", "2"),
            part("name=\"stream\"", "true"),
            part("name=\"image[]\"; filename=\"a.png\"", "PNG"),
            part("name=\"image[]\"; filename=\"b.png\"", "PNG"),
            part("name=\"mask\"; filename=\"m.png\"", "PNG"),
            part("name=\"svg[model]\"", "gpt-6-luna"),
            part("name=\"output_format\"", "svg"),
        ];
        let body = form.concat() + "--b--\r\n";
        let demand = read_form(body.as_bytes(), "b").unwrap().demand;
        assert_eq!((&*demand.model, demand.choices, demand.stream), ("gpt-image-2", 2, true));
        assert_eq!((demand.media.images.len(), demand.svg_model.as_deref()), (3, Some("gpt-6-luna")));
        assert!(read_form(body.replace("true", "yes").as_bytes(), "b").is_err());
        assert!(read_form(body.replace("\r\n2\r\n", "\r\n2.0\r\n").as_bytes(), "b").is_err());
    }

    #[test]
    fn what_can_not_be_priced_is_refused() {
        for (body, says) in [
            (r#"{"prompt":"a"}"#, "model"),
            (r#"{"model":"m","n":0}"#, "minimum"),
            (r#"{"model":"m","n":11}"#, "at most 10"),
            (r#"{"model":"m","n":"2"}"#, "whole number"),
            (r#"{"model":"m","n":1,"n":2}"#, "duplicate"),
            (r#"{"model":"m","output_format":"svg"}"#, "svg.model"),
            (r#"{"model":"m","output_format":"svg","svg":{}}"#, "model"),
            (r#"{"model":"m","svg":[]}"#, "svg"),
            (r#"{"model":"m","output_format":"SVG"}"#, "output_format"),
            (r#"{"model":"m","size":" 3840x2160"}"#, "size"),
            (r#"{"model":"m","partial_images":"3"}"#, "partial_images"),
            (r#"{"model":"m","partial_images":4}"#, "partial_images"),
        ] {
            let message = made(body).unwrap_err();
            assert!(message.contains(says), "{body}: {message}");
        }
    }
}

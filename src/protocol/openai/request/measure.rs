//! Measures inline media from the strings that hold them.
//!
//! Sizes come from the media's own headers. A string is left out of the text
//! exactly where it stands.

use std::ops::Range;

use super::content::Found;
use crate::domain::demand::{Document, DocumentKind, Image, Media};
use crate::media;
use crate::protocol::openai::json::{Raw, span_of};

/// The media of a body.
pub(super) fn media(content: &Found<'_>, text: &str) -> Media {
    let images = content.images.iter().map(|(inline, detail)| {
        let size = inline.and_then(media::image_size).map(|size| (size.width, size.height));
        Image { size, detail: *detail }
    });
    let audio = || content.audio.iter().map(|(data, format)| millis(data, *format));
    let unmeasured = u64::try_from(audio().filter(Option::is_none).count()).unwrap_or(u64::MAX);
    let document =
        |(data, kind): &(&str, DocumentKind)| Some(Document { span: span_of(data, text)?, kind: *kind });
    let documents: Vec<_> = content.documents.iter().filter_map(document).collect();
    let inline = content.images.iter().filter_map(|(inline, _)| *inline);
    let sounds = content.audio.iter().map(|(data, _)| *data);
    let spans = inline.chain(sounds).filter_map(|data| span_of(data, text));
    let mut inline: Vec<Range<usize>> =
        spans.chain(documents.iter().map(|document| document.span.clone())).collect();
    inline.sort_unstable_by_key(|span| span.start);
    Media {
        images: images.collect(),
        audio_ms: audio().flatten().fold(0, u64::saturating_add),
        documents,
        opaque: content.opaque.saturating_add(unmeasured),
        inline,
    }
}

/// How long a sound lasts at the most; `None` if only upstream can tell, as with one that
/// is sent as another format than it has.
fn millis(data: &str, format: Raw<'_>) -> Option<u64> {
    let length = media::audio_length(data)?;
    let is_sent_so = format.value().is_none() || format.string().as_deref() == Some(length.format.name());
    is_sent_so.then_some(length.millis)
}

//! From the strings that hold media to what they may cost.
//!
//! Sizes come from the media's own headers. A string is left out of the text
//! exactly where it stands.

use std::ops::Range;

use super::content::Found;
use crate::domain::demand::{Image, Media};
use crate::media;
use crate::openai::json::span_of;

/// The media of a body.
pub(super) fn media(content: &Found<'_>, text: &str) -> Media {
    let images = content.images.iter().map(|(inline, detail)| {
        let size = inline.and_then(media::image_size).map(|size| (size.width, size.height));
        Image { size, detail: *detail }
    });
    let audio = || content.audio.iter().map(|data| media::audio_length(data).map(|length| length.millis));
    let unmeasured = u64::try_from(audio().filter(Option::is_none).count()).unwrap_or(u64::MAX);
    let documents: Vec<_> = content.documents.iter().filter_map(|data| span_of(data, text)).collect();
    let inline = content.images.iter().filter_map(|(inline, _)| *inline);
    let spans = inline.chain(content.audio.iter().copied()).filter_map(|data| span_of(data, text));
    let mut inline: Vec<Range<usize>> = spans.chain(documents.iter().cloned()).collect();
    inline.sort_unstable_by_key(|span| span.start);
    Media {
        images: images.collect(),
        audio_ms: audio().flatten().fold(0, u64::saturating_add),
        documents,
        opaque: content.opaque.saturating_add(unmeasured),
        inline,
    }
}

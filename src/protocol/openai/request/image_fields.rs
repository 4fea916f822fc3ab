//! The fields that decide what an image costs, of the image tool and of image requests.

use crate::domain::demand::{ImageDemand, ImageQuality};
use crate::protocol::openai::json::Raw;

/// The most frames of a GIF, and those of one that names no number.
const FRAMES_MAX: u64 = 16;
const FRAMES_DEFAULT: u64 = 9;

/// The fields as they stand on the wire.
#[derive(Clone, Copy)]
pub(super) struct ImageFields<'a> {
    pub(super) quality: Raw<'a>,
    pub(super) size: Raw<'a>,
    pub(super) output_format: Raw<'a>,
    pub(super) frame_count: Raw<'a>,
    pub(super) partial_images: Raw<'a>,
}

impl ImageFields<'_> {
    /// What they ask for; a value that is not understood asks for the most.
    pub(super) fn demand(&self) -> ImageDemand {
        let quality = match (self.quality.value(), self.quality.string().as_deref()) {
            (None, _) | (_, Some("high" | "auto")) => ImageQuality::High,
            (_, Some("low")) => ImageQuality::Low,
            (_, Some("medium")) => ImageQuality::Medium,
            _ => ImageQuality::Other,
        };
        ImageDemand {
            model: None,
            quality,
            pixels: self.size.string().as_deref().and_then(pixels),
            partial_images: self.partial_images.value().and_then(|n| n.parse().ok()).unwrap_or(0),
            extra_frames: self.frames().saturating_sub(1),
        }
    }

    /// The frames of each image: those of a GIF as OpenAI has them, the most of what is not
    /// understood.
    fn frames(&self) -> u64 {
        if let Some(frames) = self.frame_count.value() {
            let frames = frames.parse().ok().filter(|frames| (2..=FRAMES_MAX).contains(frames));
            return frames.unwrap_or(FRAMES_MAX);
        }
        match (self.output_format.value(), self.output_format.string().as_deref()) {
            (None, _) | (_, Some("png" | "jpeg" | "webp" | "svg")) => 1,
            (_, Some("gif")) => FRAMES_DEFAULT,
            _ => FRAMES_MAX,
        }
    }
}

/// The pixels of a size such as `1536x1024`; `None` for `auto`.
fn pixels(size: &str) -> Option<u64> {
    let (width, height) = size.split_once('x')?;
    width.parse::<u64>().ok()?.checked_mul(height.parse().ok()?)
}

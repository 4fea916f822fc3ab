//! How many tokens an image costs, made by the image generation tool or by an image request.

use crate::domain::demand::{ImageDemand, ImageQuality};

/// Tokens of an image that the image tool reads: 6,240 at high fidelity in the
/// largest format of `gpt-image-1`, and tiles of less than a thousand.
pub(super) const INPUT_TOKENS: u64 = 7_200;
/// Pictures that the tool reads of a context of which it is not known how many it
/// holds: as many as `POST /images/edits` takes.
pub(super) const UNSEEN_PICTURES: u64 = 16;
/// Tokens of each preview of an image.
const PARTIAL_IMAGE_TOKENS: u64 = 100;
/// Pixels of the largest image that `gpt-image-1` makes, 1536 by 1024.
const LARGEST_PIXELS: u64 = 1_536 * 1_024;
/// Tokens of that image by quality: low, medium, high.
const LARGEST_TOKENS: [u64; 3] = [408, 1_584, 6_240];
/// Tokens of an image at a quality that is not known by name.
const UNKNOWN_QUALITY_TOKENS: u64 = 20_300;

/// The most tokens of one image that the image tool makes, all its frames and previews included.
///
/// A size that is not named is taken for the largest of `gpt-image-1`; a larger
/// one costs as many tokens more as it has pixels more.
pub(crate) fn output_tokens(tool: &ImageDemand) -> u64 {
    let [low, medium, high] = LARGEST_TOKENS;
    let largest = match tool.quality {
        ImageQuality::Low => low,
        ImageQuality::Medium => medium,
        ImageQuality::High => high,
        ImageQuality::Other => UNKNOWN_QUALITY_TOKENS,
    };
    let pixels = tool.pixels.unwrap_or(LARGEST_PIXELS).max(LARGEST_PIXELS);
    let scaled = u128::from(largest).saturating_mul(u128::from(pixels)).div_ceil(u128::from(LARGEST_PIXELS));
    let previews = tool.partial_images.saturating_mul(PARTIAL_IMAGE_TOKENS);
    let frame = u64::try_from(scaled).unwrap_or(u64::MAX).saturating_add(previews);
    frame.saturating_mul(tool.extra_frames.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_costs_by_its_quality_and_its_pixels() {
        let tool =
            |quality, pixels| output_tokens(&ImageDemand { quality, pixels, ..ImageDemand::default() });
        assert_eq!(tool(ImageQuality::High, None), 6_240);
        assert_eq!(tool(ImageQuality::Low, Some(1_024 * 1_024)), 408);
        assert_eq!(tool(ImageQuality::High, Some(3_840 * 2_160)), 32_907);
        assert_eq!(tool(ImageQuality::Other, None), 20_300);
        let previews = ImageDemand { partial_images: 3, ..ImageDemand::default() };
        assert_eq!(output_tokens(&previews), 6_540);
        let moving = ImageDemand { extra_frames: 15, ..ImageDemand::default() };
        assert_eq!(output_tokens(&moving), 16 * 6_240);
        let beyond =
            ImageDemand { pixels: Some(u64::MAX), partial_images: u64::MAX, ..ImageDemand::default() };
        assert_eq!(output_tokens(&beyond), u64::MAX);
    }
}

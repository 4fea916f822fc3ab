//! How many tokens an image costs that a model reads.

use crate::domain::demand::{Detail, Image};
use crate::pricing::sheet::Price;

/// The side of a patch, in pixels.
const PATCH: u64 = 32;
/// The side of a tile, in pixels.
const TILE: u64 = 512;

/// How a model counts the tokens of an image that it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageRule {
    /// Patches of 32 by 32 pixels.
    Patches {
        /// Tokens of a thousand patches.
        tokens_per_thousand: u64,
        /// The most patches of an image at high detail; larger ones are scaled down.
        high_max: Option<u64>,
        /// The same at any other detail.
        auto_max: Option<u64>,
    },
    /// Tiles of 512 by 512 pixels, of an image scaled into 2048 by 2048 with a
    /// short side of 768 at the most.
    Tiles {
        /// Tokens of any image, and all of one at low detail.
        base: u64,
        /// Tokens of each tile.
        tile: u64,
    },
}

impl ImageRule {
    /// The most tokens of an image; `None` if its size is unknown and nothing
    /// bounds it.
    pub(super) fn tokens(&self, image: Image) -> Option<u64> {
        match *self {
            Self::Tiles { base, .. } if image.detail == Detail::Low => Some(base),
            Self::Tiles { base, tile } => Some(base.saturating_add(tiles(image.size).saturating_mul(tile))),
            Self::Patches { tokens_per_thousand, high_max, auto_max } => {
                let most = if image.detail == Detail::High { high_max } else { auto_max };
                let patches = [image.size.map(patches), most].into_iter().flatten().min()?;
                Some(patches.saturating_mul(tokens_per_thousand).div_ceil(1_000))
            }
        }
    }
}

fn patches((width, height): (u32, u32)) -> u64 {
    u64::from(width).div_ceil(PATCH).saturating_mul(u64::from(height).div_ceil(PATCH))
}

/// The tiles of an image after it was scaled down; eight if its size is unknown.
fn tiles(size: Option<(u32, u32)>) -> u64 {
    const LONG_MAX: u64 = 2_048;
    const SHORT_MAX: u64 = 768;
    let Some((width, height)) = size else { return LONG_MAX.div_ceil(TILE) * SHORT_MAX.div_ceil(TILE) };
    let (mut long, mut short) = (u64::from(width.max(height)), u64::from(width.min(height)));
    // Rounded up, so that no rounding of upstream's needs one tile more.
    if long > LONG_MAX {
        (short, long) = ((short * LONG_MAX).div_ceil(long), LONG_MAX);
    }
    if short > SHORT_MAX {
        (long, short) = ((long * SHORT_MAX).div_ceil(short), SHORT_MAX);
    }
    long.div_ceil(TILE).max(1) * short.div_ceil(TILE).max(1)
}

/// The rule of a model.
pub(super) fn rule_of(price: &Price) -> ImageRule {
    let id = &*price.id;
    let base = id.strip_prefix("ft:").unwrap_or(id);
    let patches = |tokens_per_thousand, high_max, auto_max| ImageRule::Patches {
        tokens_per_thousand,
        high_max,
        auto_max,
    };
    let starts = |families: &[&str]| families.iter().any(|family| base.starts_with(family));
    if base.starts_with("gpt-4o-mini") {
        return ImageRule::Tiles { base: 2_833, tile: 5_667 };
    }
    if starts(&["gpt-4.1-nano", "gpt-5-nano"]) {
        return patches(2_460, Some(1_536), Some(1_536));
    }
    if starts(&["gpt-4.1-mini", "o4-mini", "gpt-5-mini"]) {
        return patches(1_620, Some(1_536), Some(1_536));
    }
    if starts(&["gpt-4o", "gpt-4.1", "gpt-4-turbo", "o1", "o3"]) {
        return ImageRule::Tiles { base: 85, tile: 170 };
    }
    patches(2_460, None, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TILED: ImageRule = ImageRule::Tiles { base: 85, tile: 170 };
    const UNBOUNDED: ImageRule =
        ImageRule::Patches { tokens_per_thousand: 1_200, high_max: None, auto_max: None };

    fn auto(size: Option<(u32, u32)>) -> Image {
        Image { size, detail: Detail::Auto }
    }

    #[test]
    fn tiles_are_counted_after_scaling() {
        for (size, tokens) in [
            ((1, 1), 255),
            ((512, 512), 255),
            ((513, 512), 425),
            ((1_024, 1_024), 765),
            ((4_096, 2_048), 1_105),
            ((2_048, 768), 1_445),
            ((100_000, 37_500), 1_445),
            ((u32::MAX, 1), 765),
        ] {
            assert_eq!(TILED.tokens(auto(Some(size))), Some(tokens), "{size:?}");
        }
        assert_eq!(TILED.tokens(auto(None)), Some(1_445), "no image has more");
        assert_eq!(TILED.tokens(Image { size: None, detail: Detail::Low }), Some(85));
    }

    #[test]
    fn patches_are_counted_up_to_the_budget() {
        assert_eq!(UNBOUNDED.tokens(auto(Some((4_032, 3_024)))), Some(14_364), "12 megapixels");
        assert_eq!(UNBOUNDED.tokens(auto(Some((16_000, 16_000)))), Some(300_000));
        assert_eq!(UNBOUNDED.tokens(auto(None)), None, "nothing bounds it");
        let budget =
            ImageRule::Patches { tokens_per_thousand: 1_620, high_max: Some(1_536), auto_max: Some(1_536) };
        assert_eq!(budget.tokens(auto(None)), Some(2_489));
        assert_eq!(budget.tokens(auto(Some((32, 32)))), Some(2));
        assert!(UNBOUNDED.tokens(auto(Some((u32::MAX, u32::MAX)))).is_some_and(|tokens| tokens > 1 << 53));
    }
}
